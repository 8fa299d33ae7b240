"""`anomaly bench`: latency, throughput and memory of a model in every runtime it can run in here."""

from __future__ import annotations

import importlib
import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly.artifact import read_description, write_file
from anomaly.benching import BATCHES, STAGES, matmul_rate, measure_apart
from anomaly.commands import console
from anomaly.errors import AnomalyError, ModelError
from anomaly.exported import TORCH, exports
from export import ExportError

if TYPE_CHECKING:
    from anomaly.benching import Cost
    from anomaly.config import BenchConfig


def run(config: BenchConfig) -> None:
    """Measure, and tell as a table, JSON and a plot; one that cannot be measured stops none of the others."""
    folder = Path(config.model)
    read_description(folder)
    names = [config.runtime]
    if config.runtime == "auto":
        torch = [TORCH] if importlib.util.find_spec("torch") is not None else []
        # Where there is none, "auto" tells what to do.
        names = [*torch, *exports(folder)] or names
    if config.plot:
        importlib.import_module("matplotlib")  # missing, it would be told after minutes of measuring
    costs: list[Cost] = []
    problems = []
    with console.stages() as tell:
        for done, name in enumerate(names):
            tell("measuring runtimes", done, len(names))
            try:
                costs.append(measure_apart(folder, name, config.device, config.source, config.frames))
            except (AnomalyError, ExportError) as error:
                if len(names) == 1:
                    raise
                problems.append(f"{name}: {error}")
    console.warn(problems)
    if not costs:
        raise ModelError(f"none of {', '.join(names)} could be measured; the first: {problems[0]}")
    rate = matmul_rate()
    for cost in costs:
        console.table(f"{cost.runtime} on {cost.device}", _rows(cost, rate))
    console.say(
        f"The floor is a frame's additions and multiplications over the measured {rate / 1e9:.0f} Gflop/s of this "
        "machine's processor in a float32 matrix product, exact search included; elsewhere than there none is told."
    )
    if config.json:
        figures = {"matmul_gflops": rate / 1e9, "runtimes": [_figures(cost, rate) for cost in costs]}
        _write(Path(config.json), json.dumps(figures, indent=1).encode() + b"\n")
    if config.plot:
        _write(Path(config.plot), _plot(costs))
        console.say(f"Look at {config.plot}.")


def _rows(cost: Cost, rate: float) -> list[tuple[str, str]]:
    floor = cost.floor_ms(rate)
    stages = [f"{stage} {cost.stages_ms[stage]:.2f}" for stage in STAGES if stage in cost.stages_ms]
    return [
        (
            "to the score",
            f"{cost.score_p50_ms:.1f} ms (median), {cost.score_p99_ms:.1f} ms (99 of 100), of {cost.frames} frames",
        ),
        (
            "and its heatmap",
            f"{cost.p50_ms:.1f} ms (median), {cost.p99_ms:.1f} ms (99 of 100)",
        ),
        ("of which, ms", ", ".join(stages)),
        ("exact search, ms", f"{cost.exact_search_ms:.2f}, every patch against every row"),
        (
            "frames a second",
            ", ".join(f"{cost.throughput[batch]:.1f} by {batch}" for batch in BATCHES),
        ),
        ("memory", f"{cost.memory_mb:.0f} MB at most, ready after {cost.load_s:.1f} s"),
        (
            "floor",
            "not known of this device"
            if floor is None
            else f"{floor:.2f} ms ({cost.operations / 1e9:.2f} Gflop); score and heatmap take {cost.p50_ms / floor:.1f} times that",
        ),
    ]


def _figures(cost: Cost, rate: float) -> dict[str, object]:
    floor = cost.floor_ms(rate)
    return {**asdict(cost), "floor_ms": floor, "times_floor": None if floor is None else cost.p50_ms / floor}


def _plot(costs: list[Cost]) -> bytes:
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.5 * len(costs)), layout="constrained")
    axes = figure.subplots()
    names = [cost.runtime for cost in costs]
    left = [0.0] * len(costs)
    for stage in STAGES:
        widths = [cost.stages_ms.get(stage, 0.0) for cost in costs]
        axes.barh(names, widths, left=left, label=stage)
        left = [before + width for before, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a frame, median of each stage")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(STAGES), frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data)
