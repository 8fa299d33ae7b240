"""How fast `fit` and scoring are, where the time goes, and how much memory `fit` takes.

memory   `fit` in a process of its own on footage once, twice and four times as long: it should stay flat
stages   frames a second of each stage of `fit`
pieces   decode, resize, network, projection, search and decision, timed one by one on the same frames, side
         by side; and all of it as `score` and `run` do it, where decoding runs beside the network
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from report import Figures, machine, measured, options_parser, show, typed, workplace, write_json

LENGTHS = (1, 2, 4)


def footage(work: Path, quick: bool) -> list[Path]:
    """Normal clips, the longest footage's worth; the first part of them is the shorter footage."""
    from anomaly.conveyor import SceneConfig, write_footage

    made = write_footage(
        work / "footage",
        normal_clips=5 * LENGTHS[-1],
        normal_s=5.0 if quick else 24.0,
        labeled_clips=0,
        test_clips=0,
        clean_clips=0,
        config=SceneConfig(128, 80, 5.0) if quick else SceneConfig(),
    )
    return sorted(made.normal.glob("*.mp4"))


def memory(work: Path, clips: list[Path]) -> Figures:
    """Seconds and peak memory of `anomaly fit`; every length leaves its model in `work`."""
    figures: Figures = {}
    for length in LENGTHS:
        used = clips[: 5 * length]
        command = typed("fit", "--normal-videos", *used, "--model", work / f"model{length}", "profile=cpu")
        seconds, processor, peak = measured(command, work)
        figures |= {
            f"fit_{length}x_seconds": seconds,
            f"fit_{length}x_cpu_seconds": processor,
            f"fit_{length}x_peak_mib": peak,
        }
    first, last = figures["fit_1x_peak_mib"], figures[f"fit_{LENGTHS[-1]}x_peak_mib"]
    assert isinstance(first, float)
    assert isinstance(last, float)
    return figures | {"peak_growth": last / first}


def stages(model: Any, clips: list[Path]) -> Figures:
    """Seconds of each stage of the fit that `model` came from, done again in this process."""
    from anomaly.decider import DeciderConfig
    from anomaly.fitting import FitOptions, fit
    from anomaly.footage.source import find_sources
    from anomaly.regions import Regions
    from anomaly.weights import load_weights

    branch = model.detector.branches[0]
    spec = branch.backbone.spec
    weights, _ = load_weights(spec.name)
    spent: dict[str, float] = {}
    frames: dict[str, float] = {}
    last = time.perf_counter()

    def tell(stage: str, done: float, _: float | None) -> None:
        nonlocal last
        now = time.perf_counter()
        spent[stage] = spent.get(stage, 0.0) + now - last
        frames[stage] = done
        last = now

    detector, report = fit(
        find_sources(clips),
        spec,
        weights,
        Regions([], [], None),
        DeciderConfig(),
        FitOptions(),
        progress=tell,
    )
    figures: Figures = {"fit_frames": report.frames, "fit_patches": report.patches}
    figures["fit_frames_per_second"] = report.frames / report.seconds
    figures["same_bank_as_the_command"] = int(detector.branches[0].bank.digest() == branch.bank.digest())
    for stage, seconds in spent.items():
        name = stage.replace(" ", "_").replace("-", "_")
        figures[f"stage_{name}_seconds"] = seconds
        if stage != "reading headers":
            figures[f"stage_{name}_frames_per_second"] = frames[stage] / seconds
    return figures


def pieces(model: Any, clip: Path, count: int, rounds: int) -> Figures:
    """Milliseconds a frame of each piece, the median over rounds in which every piece has its turn."""
    from anomaly.edge.watch import watch
    from anomaly.footage.source import find_sources, read_frames
    from anomaly.resize import resize
    from anomaly.thresholds import load_threshold

    (source,) = find_sources([clip])
    detector = model.detector
    branch = detector.branches[0]
    backbone, bank, decider = branch.backbone, branch.bank, detector.decider
    step = backbone.batch
    threshold = load_threshold(model, fps=None)
    frames = list(islice(read_frames(source), count))
    spent: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = work()
        spent.setdefault(name, []).append(1000 * (time.perf_counter() - begin) / len(frames))
        return result

    def in_batches(work: Callable[[Any], Any], items: Any) -> list[Any]:
        return [work(items[start : start + step]) for start in range(0, len(items), step)]

    def decide(found: list[tuple[Any, Any]]) -> None:
        state, place = decider.start(), 0
        for distances, rows in found:
            shape = -1, backbone.grid[0] * backbone.grid[1]
            scaled = (distances[:, 0] / np.float32(branch.scale)).reshape(shape)
            for one, nearest in zip(scaled, rows[:, 0].reshape(shape), strict=True):
                look = detector.looks_like(branch, one, nearest)
                _, state = decider.step(state, frames[place].pts_s, look.score)
                place += 1

    for _ in range(rounds):
        timed("decode", lambda: list(islice(read_frames(source), count)))
        resized = timed("resize", lambda: [resize(one.image, backbone.input_size) for one in frames])
        features = timed("network", lambda small=resized: in_batches(backbone.features, small))
        patches = timed("project", lambda raw=features: [branch.projection.apply(one) for one in raw])
        found = timed("search", lambda rows=patches: [bank.search(one.reshape(-1, bank.dim)) for one in rows])
        timed("decide", lambda seen=found: decide(seen))
        timed("all", lambda: list(watch(model, islice(read_frames(source), count), threshold)))
    middle = {name: float(np.median(times)) for name, times in spent.items()}
    everything = middle.pop("all")
    total = sum(middle.values())
    figures: Figures = {f"{name}_ms": value for name, value in middle.items()}
    figures |= {f"{name}_share": value / total for name, value in middle.items()}
    height, width = frames[0].image.shape[:2]
    return figures | {
        "pieces_ms": total,
        "decode_to_decision_ms": everything,
        "decode_to_decision_frames_per_second": 1000 / everything,
        "footage": f"{width}x{height}",
        "network_input": "{1}x{0}".format(*backbone.input_size),
        "patches": backbone.grid[0] * backbone.grid[1],
        "bank_rows": len(bank),
    }


def main() -> None:
    options = options_parser(__doc__).parse_args()
    begin = time.perf_counter()
    figures: Figures = {"quick": int(options.quick), **machine()}
    with workplace() as work:
        clips = footage(work, options.quick)
        found = memory(work, clips)
        show("Memory of fit, by length of the footage", found)
        figures |= found
        from anomaly.model import load_model

        model = load_model(work / "model1", device="cpu")
        found = stages(model, clips[:5])
        show("Stages of fit", found)
        figures |= found
        found = pieces(model, clips[0], 24 if options.quick else 80, 3 if options.quick else 9)
        show("From decoding to decision", found)
        figures |= found
    figures["seconds"] = time.perf_counter() - begin
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
