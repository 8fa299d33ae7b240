"""`anomaly score`: a score for every frame, and heatmaps if asked."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly.commands import console
from anomaly.commands.fit import refuses
from anomaly.edge.sinks import annotate, write_jpeg
from anomaly.edge.watch import watch
from anomaly.errors import DamagedFootageError, FootageError
from anomaly.footage.source import find_sources, read_frames
from anomaly.model import load_model
from anomaly.thresholds import load_threshold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anomaly.config import FootageConfig, ScoreConfig
    from anomaly.edge.watch import Watched
    from anomaly.footage.source import Source
    from anomaly.model import Model
    from anomaly.thresholds import Threshold


def run(config: ScoreConfig) -> None:
    """Score every source into one CSV; one that cannot be read stops nothing."""
    sources = find_sources(config.source)
    model = load_model(Path(config.model), device=config.device, offline=config.weights.offline)
    threshold = load_threshold(model, fps=config.footage.fps)
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    problems: list[str] = []
    frames = alarms = 0
    try:
        with (
            partial.open("w", newline="", encoding="utf-8") as file,
            console.counter("scoring frames", None) as advance,
        ):
            table = csv.writer(file)
            table.writerow(("source", "frame", "time_s", "score", "decision_score", "alarm"))
            for source in sources:
                for watched in watch_source(model, source, threshold, config.footage, problems.append):
                    table.writerow(_row(watched))
                    frames += 1
                    alarms += watched.decision.alarm
                    if config.heatmaps:
                        _write_heatmap(Path(config.heatmaps), source, watched, threshold)
                    advance(1)
        if not frames:
            raise FootageError(
                f"not one frame of {len(sources)} sources could be scored; the first problem: {problems[0]}"
            )
        os.replace(partial, out)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    console.warn(problems)
    console.say(
        f"{frames} frames of {len(sources)} sources scored into {out}; an alarm is on in {alarms} of them."
    )
    console.say(threshold.headline())


def watch_source(
    model: Model, source: Source, threshold: Threshold, footage: FootageConfig, problem: Callable[[str], None]
) -> Iterator[Watched]:
    """Watch a file to its end; damage is told and what is readable is watched, or refused as configured."""
    refuse = refuses(footage.on_error)

    def on_damage(message: str) -> None:
        if refuse:
            raise DamagedFootageError(message)
        problem(message)

    try:
        frames = read_frames(source, fps=footage.fps, on_damage=on_damage)
        yield from watch(model, frames, threshold, still=source.kind == "image")
    except FootageError as error:
        if refuse:
            raise
        problem(str(error))


def _row(watched: Watched) -> tuple[str, int, str, str, str, int]:
    frame, decision = watched.frame, watched.decision
    return (
        frame.source,
        frame.index,
        f"{frame.pts_s:.6f}",
        repr(watched.look.score),
        repr(decision.decision_score),
        int(decision.alarm),
    )


def _write_heatmap(folder: Path, source: Source, watched: Watched, threshold: Threshold) -> None:
    if source.kind == "video":
        path = folder / source.name / f"{watched.frame.index:06d}.jpg"
    else:
        path = named_as(folder, source.name, ".jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jpeg(path, annotate(watched, threshold, 0.55))


def named_as(folder: Path, name: str, suffix: str) -> Path:
    """A file named after a source, with a suffix; `a.png` and `a.bmp` get two files, not one."""
    return folder / (name if name.endswith(suffix) else name + suffix)
