"""Measure the memory bank: selection beside anomalib's, a ten-hour stream, detection, and search.

Parts (`--parts`, all by default):
  selection  kcenter_select and anomalib's KCenterGreedy on the same real patch features, one after the other.
  large      kcenter_select alone on generated features (20 clumps on a plane of lower dimension, and noise).
  stream     a generated stream: slow drift of light, a new regime each hour, noise; memory and time by hour.
  detection  frame AUROC on Ped2's test clips: streamed bank, random rows, greedy k-center of everything.
  search     milliseconds a frame, recall and AUROC: kind of search x rows x dimensions.

Real features come from EfficientNet-Lite0 on Ped2 (`../shared/data` or $ANOMALY_DATA) and are computed in this run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ped2_clips import labels_of, ped2_features, projection

from memory_bank import MemoryBank, Origins, StreamingCoreset, TemporalSearch, kcenter_select, recall

PARTS = ("selection", "large", "stream", "detection", "search")
console = Console()


def exact_radius(rows: np.ndarray, chosen: np.ndarray) -> float:
    """Largest distance of any row to its nearest chosen row, measured apart from the selection."""
    zero = np.zeros(len(chosen))
    bank = MemoryBank(chosen, Origins(zero, zero, zero, zero, zero, zero, zero), "euclidean", ("",))
    return float(bank.search(rows)[0].max())


def selection(quick: bool, clips: list, out: dict) -> None:
    import torch
    from anomalib.models.components.sampling.k_center_greedy import KCenterGreedy

    count, size, runs = (20_000, 1_000, 1) if quick else (100_000, 5_000, 3)
    everything = np.concatenate([features.reshape(-1, features.shape[-1]) for _, _, features in clips])
    chosen = np.random.default_rng(0).choice(len(everything), min(count, len(everything)), replace=False)
    rows = everything[chosen].astype(np.float32)
    ours, theirs, our_radius, their_radius = [], [], [], []
    our_cpu, their_cpu = [], []  # what a busy machine shows more truly
    for run in range(runs):
        start, cpu = time.perf_counter(), time.process_time()
        mine = kcenter_select(rows, size, seed=run)
        ours.append(time.perf_counter() - start)
        our_cpu.append(time.process_time() - cpu)
        our_radius.append(exact_radius(rows, rows[mine.indices]))
        torch.manual_seed(run)
        start, cpu = time.perf_counter(), time.process_time()
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            peer = KCenterGreedy(torch.from_numpy(rows), (size + 0.5) / len(rows)).select_coreset_idxs()
        theirs.append(time.perf_counter() - start)
        their_cpu.append(time.process_time() - cpu)
        their_radius.append(exact_radius(rows, rows[peer]))
    seconds, peer_seconds = statistics.median(ours), statistics.median(theirs)
    cpu_seconds, peer_cpu = statistics.median(our_cpu), statistics.median(their_cpu)
    radius, peer_radius = statistics.median(our_radius), statistics.median(their_radius)
    table = Table(title=f"selection: {len(rows):,} x {rows.shape[1]} -> {size:,}, median of {runs}")
    for column in ("", "seconds", "CPU seconds", "largest distance"):
        table.add_column(column)
    table.add_row("kcenter_select", f"{seconds:.2f}", f"{cpu_seconds:.2f}", f"{radius:.3f}")
    table.add_row("anomalib KCenterGreedy", f"{peer_seconds:.2f}", f"{peer_cpu:.2f}", f"{peer_radius:.3f}")
    table.add_row(
        "ratio",
        f"{peer_seconds / seconds:.1f}",
        f"{peer_cpu / cpu_seconds:.1f}",
        f"{radius / peer_radius:.3f}",
    )
    console.print(table)
    out |= {"selection_seconds": seconds, "selection_peer_seconds": peer_seconds}
    out |= {"selection_cpu_speedup": peer_cpu / cpu_seconds}
    out |= {"selection_speedup": peer_seconds / seconds, "selection_radius_ratio": radius / peer_radius}


def large(quick: bool, out: dict) -> None:
    count, dim, size = (50_000, 384, 2_000) if quick else (1_000_000, 384, 20_000)
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((40, dim), dtype=np.float32)
    rows = np.empty((count, dim), np.float32)
    for first in range(0, count, 50_000):
        block = slice(first, min(first + 50_000, count))
        n = block.stop - first
        clumps = rng.standard_normal((20, 40), dtype=np.float32)[rng.integers(20, size=n)]
        inner = 2 * clumps + rng.standard_normal((n, 40), dtype=np.float32)
        rows[block] = inner @ basis / 6 + 0.3 * rng.standard_normal((n, dim), dtype=np.float32)
    start = time.perf_counter()
    picked = kcenter_select(rows, size, seed=0)
    seconds = time.perf_counter() - start
    console.print(
        f"large: {count:,} x {dim} -> {size:,} in {seconds:.1f} s, largest distance {picked.radius:.3f}"
    )
    out |= {"large_rows": count, "large_size": size, "large_seconds": seconds}


STREAM = """
import json, pathlib, re, sys, time
import numpy as np
from memory_bank import StreamingCoreset
hours, fps, patches, dim, size = float(sys.argv[1]), 10, 400, 100, 10000
rng = np.random.default_rng(0)
coreset = StreamingCoreset(dim=dim, size=size)
y, x = np.divmod(np.arange(patches), 20)
y, x = (y / 20).astype('f'), (x / 20).astype('f')
frames = round(hours * 3600 * fps)
hour = min(3600 * fps, max(frames // 4, 1))
light = rng.standard_normal(dim).astype('f') / 10
things = rng.standard_normal((200, dim)).astype('f')
report, spent = [], 0.0
def peak():  # not getrusage: that counts the parent before exec
    return int(re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]) / 2**20
for frame in range(frames):
    if frame % hour == 0:
        scene = rng.standard_normal((patches, dim)).astype('f')
    drift = 3 * np.sin(2 * np.pi * frame / (10 * hour) * 3)
    rows = scene + drift * light + 0.25 * rng.standard_normal((patches, dim), dtype=np.float32)
    moving = rng.integers(patches, size=20)
    rows[moving] += things[rng.integers(200, size=20)] + rng.standard_normal((20, dim), dtype=np.float32) * 0.5
    start = time.perf_counter()
    coreset.add(rows, f'hour {frame // hour}', frame, frame / fps, y, x, np.arange(patches))
    spent += time.perf_counter() - start
    if (frame + 1) % hour == 0:
        report.append((spent, peak(), coreset.radius))
        spent = 0.0
bank = coreset.finish()
c = coreset.coverage
print(json.dumps({'hours': report, 'rows': len(bank), 'bound': c.largest_bound, 'largest': c.largest, 'mean': c.mean}))
"""


def stream(quick: bool, out: dict) -> None:
    hours = 0.05 if quick else 10.0
    root = Path(__file__).resolve().parent.parent
    environment = os.environ | {"PYTHONPATH": str(root)}
    # A process of its own, so that the peak memory is the stream's.
    command = [sys.executable, "-c", STREAM, str(hours)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    table = Table(
        title=f"stream: {hours} h at 10 frames a second, 400 patches of 100, bank of {report['rows']:,}"
    )
    for column in ("part", "seconds in the bank", "peak memory so far, GiB", "rejected within"):
        table.add_column(column)
    for number, (seconds, memory, radius) in enumerate(report["hours"], 1):
        table.add_row(str(number), f"{seconds:.1f}", f"{memory:.2f}", f"{radius:.2f}")
    console.print(table)
    out |= {"stream_hours": hours, "stream_peak_gib": report["hours"][-1][1]}
    out |= {"stream_peak_growth_gib": report["hours"][-1][1] - report["hours"][0][1]}
    out |= {"stream_first_part_s": report["hours"][0][0], "stream_last_part_s": report["hours"][-1][0]}


def streamed(clips: list, project, size: int, share: float) -> MemoryBank:
    coreset: StreamingCoreset | None = None
    for name, times, features in clips:
        place = np.zeros(features.shape[1], np.float32)
        for frame, time_s in enumerate(times):
            rows = project(features[frame])
            coreset = coreset or StreamingCoreset(dim=rows.shape[1], size=size, random_share=share)
            coreset.add(rows, name, frame, time_s, place, place, np.arange(len(rows)))
    assert coreset is not None
    return coreset.finish()


def auroc_of(bank: MemoryBank, tests: list, project) -> tuple[float, float]:
    """Frame AUROC of the mean of the largest 1 % of distances, and the median milliseconds of a search."""
    from sklearn.metrics import roc_auc_score

    scores, labels, spent = [], [], []
    for name, times, features in tests:
        for frame in features:
            patches = project(frame)
            start = time.perf_counter()
            distances = bank.search(patches)[0][:, 0]
            spent.append(time.perf_counter() - start)
            top = max(1, len(distances) // 100)
            scores.append(np.sort(distances)[-top:].mean())
        labels.append(labels_of(name, times))
    return float(roc_auc_score(np.concatenate(labels), scores)), 1e3 * statistics.median(spent)


def detection(quick: bool, clips: list, tests: list, out: dict) -> None:
    size, pool = (2_000, 40_000) if quick else (15_000, 400_000)
    project = projection(clips, 100)
    table = Table(title=f"detection on Ped2, {size:,} rows of 100 dimensions, {len(tests)} test clips")
    for column in ("bank", "frame AUROC"):
        table.add_column(column)
    for share in (0.0, 0.25, 1.0):
        value = auroc_of(streamed(clips, project, size, share), tests, project)[0]
        table.add_row(f"streamed, random share {share}", f"{value:.4f}")
        out[f"detection_auroc_share_{share:g}"] = value
    everything = np.concatenate([features.reshape(-1, features.shape[-1]) for _, _, features in clips])
    chosen = np.random.default_rng(1).choice(len(everything), min(pool, len(everything)), replace=False)
    rows = project(everything[chosen])
    drawn = rows[: size // 4]
    around = np.concatenate([drawn, rows[kcenter_select(rows, size - len(drawn)).indices]])
    zero = np.zeros(len(around))
    whole = MemoryBank(around, Origins(zero, zero, zero, zero, zero, zero, zero), "euclidean", ("",))
    value = auroc_of(whole, tests, project)[0]
    table.add_row(f"chosen from {len(rows):,} patches at once, random share 0.25", f"{value:.4f}")
    out["detection_auroc_at_once"] = value
    console.print(table)


def search(quick: bool, clips: list, tests: list, out: dict) -> None:
    sizes, dimensions = ((2_000,), (100,)) if quick else ((5_000, 15_000, 20_000), (64, 100))
    kinds: list[tuple[str, dict[str, int]]] = [
        ("flat", {}),
        ("faiss", {}),
        ("ivf", {"probes": 4}),
        ("ivf", {"probes": 8}),
        ("fastscan", {}),
    ]
    table = Table(title="search of one frame (1,350 patches)")
    for column in ("dimensions", "rows", "kind", "ms", "recall", "frame AUROC", "patches searched"):
        table.add_column(column)
    for dims in dimensions:
        project = projection(clips, dims)
        for size in sizes:
            bank = streamed(clips, project, size, 0.25)
            samples = [project(features[i]) for _, _, features in tests for i in range(0, len(features), 20)]
            truth = [bank.use_index("flat").search(patches)[1] for patches in samples]
            for kind, settings in kinds:
                bank.use_index(kind, **settings)
                found = [bank.search(patches)[1] for patches in samples]
                hit = statistics.mean(recall(a, b) for a, b in zip(found, truth, strict=True))
                value, ms = auroc_of(bank, tests, project)
                name = " ".join([kind, *(f"{key}={number}" for key, number in settings.items())])
                table.add_row(str(dims), f"{size:,}", name, f"{ms:.1f}", f"{hit:.4f}", f"{value:.4f}", "all")
                key = f"search_{dims}_{size}_{name.replace(' ', '_').replace('=', '')}"
                out |= {f"{key}_ms": ms, f"{key}_recall": hit, f"{key}_auroc": value}
            bank.use_index("flat")
            spent, searched = [], []
            for _, _, features in tests:
                temporal = TemporalSearch(bank, features.shape[1], features.shape[1] // 100)
                for frame in features:
                    patches = project(frame)
                    start = time.perf_counter()
                    temporal.search(patches)
                    spent.append(time.perf_counter() - start)
                    searched.append(temporal.searched / features.shape[1])
            ms, part = 1e3 * statistics.median(spent), statistics.mean(searched)
            exact = f"{out[f'search_{dims}_{size}_flat_auroc']:.4f}"
            table.add_row(str(dims), f"{size:,}", "temporal + flat", f"{ms:.1f}", "-", exact, f"{part:.1%}")
            out |= {f"search_{dims}_{size}_temporal_ms": ms, f"search_{dims}_{size}_temporal_share": part}
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller sizes, one run: under two minutes")
    parser.add_argument("--json", type=Path, help="write all figures to this file, as one flat object")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    quick, out = arguments.quick, {}
    clips, tests = [], []
    if {"selection", "detection", "search"} & set(arguments.parts):
        start = time.perf_counter()
        clips = ped2_features("train", 100 if quick else 4)
        if {"detection", "search"} & set(arguments.parts):
            tests = ped2_features("test", 30 if quick else 1)
        console.print(f"features of {len(clips) + len(tests)} clips in {time.perf_counter() - start:.0f} s")
    if "selection" in arguments.parts:
        selection(quick, clips, out)
    if "large" in arguments.parts:
        large(quick, out)
    if "stream" in arguments.parts:
        stream(quick, out)
    if "detection" in arguments.parts:
        detection(quick, clips, tests, out)
    if "search" in arguments.parts:
        search(quick, clips, tests, out)
    out["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if arguments.json:
        arguments.json.write_text(json.dumps(out, indent=2) + "\n")


if __name__ == "__main__":
    main()
