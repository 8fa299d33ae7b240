"""`anomaly score`: a score for every frame, and heatmaps and explanations if asked."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly.artifact import name_file, write_file
from anomaly.calibration import camera_of
from anomaly.commands import console
from anomaly.decider import Decider
from anomaly.edge.sinks import annotate, write_jpeg
from anomaly.edge.watch import watch
from anomaly.errors import FootageError
from anomaly.exemplars import load_exemplars
from anomaly.explanation import Moment, Worst, draw, facts, headline, match
from anomaly.first_start import checked_here
from anomaly.footage.damage import damage_handler, refuses
from anomaly.footage.source import HEATMAPS, find_sources, read_frames, steps_s, under_masks
from anomaly.model import load_model
from anomaly.scoring import score_source
from anomaly.thresholds import load_threshold

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from anomaly.config import FootageConfig, ScoreConfig
    from anomaly.decider import Decision
    from anomaly.edge.watch import Watched
    from anomaly.footage.source import Source
    from anomaly.model import Model
    from anomaly.thresholds import Threshold


_PICTURE = re.compile(r"moment_\d{4,}\.jpg")


def run(config: ScoreConfig) -> None:
    """Score every source into one CSV; one that cannot be read stops nothing."""
    sources = find_sources(config.source)
    model = load_model(
        Path(config.model), device=config.device, offline=config.weights.offline, runtime=config.runtime
    )
    sources = under_masks(sources, model.detector.regions.black)
    console.say(model.headline())
    threshold = load_threshold(model, fps=config.footage.fps)
    with console.counter("first start here: checking the evidence", None) as advance:
        threshold = checked_here(model, threshold, advance)
    threshold = threshold.on({source.kind for source in sources})
    for name, step_s in steps_s(sources, config.footage.fps).items():
        threshold = threshold.sampled(step_s, name)
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if config.heatmaps:
        folder = Path(config.heatmaps)
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()):  # one that holds something else may hold footage
            (folder / HEATMAPS).touch()
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    problems: list[str] = []
    frames = alarms = 0
    read: set[str] = set()
    worst = Worst(config.explain_most) if config.explain else None
    try:
        with (
            partial.open("w", newline="", encoding="utf-8") as file,
            console.counter("scoring frames", None) as advance,
        ):
            table = csv.writer(file)
            table.writerow(("source", "frame", "time_s", "score", "decision_score", "alarm"))
            for source in sources:
                if not config.heatmaps and worst is None:
                    # Without pictures scores are enough, and those that are there already need no network.
                    for number, seconds, score, decision in _decisions(
                        model, source, threshold, config.footage, problems.append, advance
                    ):
                        table.writerow(_row(source.name, number, seconds, score, decision))
                        frames += 1
                        read.add(source.name)
                        alarms += decision.alarm
                    continue
                for watched in watch_source(model, source, threshold, config.footage, problems.append):
                    frame = watched.frame
                    table.writerow(
                        _row(source.name, frame.index, frame.pts_s, watched.look.score, watched.decision)
                    )
                    frames += 1
                    read.add(source.name)
                    alarms += watched.decision.alarm
                    if config.heatmaps:
                        _write_heatmap(Path(config.heatmaps), source, watched, threshold)
                    if worst is not None:
                        _consider(worst, watched, threshold)
                    advance(1)
        if not frames:
            raise FootageError(nothing_read("scored", sources, problems))
        os.replace(partial, out)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        name_file(error, out)
        raise
    console.warn_of_files(problems)
    console.say(
        f"{console.counted(frames, 'frame')} of {read_of(read, sources)} scored into {out}; "
        f"an alarm is on in {alarms} of them."
    )
    if worst is not None:
        assert config.explain is not None
        _write_explanations(Path(config.explain), worst, model, threshold)
    for line in threshold.promises({camera_of(source.name): source.name for source in sources}):
        console.say(line)


def _consider(worst: Worst, watched: Watched, threshold: Threshold) -> None:
    """Alarms are explained; without a threshold, the frames that scored highest."""
    if threshold.value is None:
        worst.add_frame(watched.frame, watched.look)
    for event in watched.ended:
        worst.add(Moment(event.frame, event.look, event.start_s, event.end_s, event.score))


def _write_explanations(folder: Path, worst: Worst, model: Model, threshold: Threshold) -> None:
    """One picture a moment, and `explanations.json`, their index; those of an earlier index go."""
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _pictures_in(folder)
    exemplars = load_exemplars(model.folder)
    index = []
    with console.counter("explaining", None) as advance:
        for number, moment in enumerate(worst.in_order(), 1):
            matches = match(model, exemplars, moment)
            line = headline(matches)
            picture = f"moment_{number:04d}.jpg"
            write_jpeg(folder / picture, draw(moment, matches, exemplars, line, threshold.value))
            index.append(facts(moment, matches, line, picture))
            advance(1)
    text = json.dumps({"model": model.description["name"], "moments": index}, indent=1)
    write_file(folder / "explanations.json", text.encode() + b"\n")
    for picture in earlier - {str(one["picture"]) for one in index}:
        (folder / picture).unlink(missing_ok=True)
    what = "worst moment" if threshold.value is None else "alarm"
    if not index:
        console.say(f"No alarm to explain; {folder} holds an empty index.")
    elif len(index) < worst.alarms:
        console.say(
            f"{len(index)} of {worst.alarms} alarms explained in {folder}, those with the highest scores; "
            "explain_most=… allows more."
        )
    else:
        console.say(f"{console.counted(len(index), what)} explained in {folder}.")


def _pictures_in(folder: Path) -> set[str]:
    """Names of the pictures that an earlier index in this folder lists."""
    try:
        moments = json.loads((folder / "explanations.json").read_text(encoding="utf-8"))["moments"]
        names = {str(one["picture"]) for one in moments}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if _PICTURE.fullmatch(name)}


def nothing_read(done: str, sources: Sequence[Source], problems: Sequence[str]) -> str:
    """What to say where not one frame was `done`: the first problem, after notes of all of them where they are many."""
    if len(problems) > 1:
        console.warn_of_files(problems)
    return f"not one frame of {console.counted(len(sources), 'source')} could be {done}; the first problem: {problems[0]}"


def read_of(read: Collection[str], sources: Sequence[Source]) -> str:
    """Of how many sources frames came: `3 sources`, or `2 of 3 sources` where some could not be read."""
    return (f"{len(read)} of " if len(read) < len(sources) else "") + console.counted(len(sources), "source")


def watch_source(
    model: Model, source: Source, threshold: Threshold, footage: FootageConfig, problem: Callable[[str], None]
) -> Iterator[Watched]:
    """Watch a file to its end; damage is told and what is readable is watched, or refused as configured."""
    refuse = refuses(footage.on_error)
    own = threshold.of(source.name)
    if own.doubt != threshold.doubt:
        problem(own.headline())
    try:
        frames = read_frames(source, fps=footage.fps, on_damage=damage_handler(problem, refuse=refuse))
        yield from watch(model, frames, own, still=source.kind == "image")
    except FootageError as error:
        if refuse:
            raise
        problem(str(error))


def _decisions(
    model: Model,
    source: Source,
    threshold: Threshold,
    footage: FootageConfig,
    problem: Callable[[str], None],
    progress: Callable[[int], None],
) -> Iterator[tuple[int, float, float, Decision]]:
    """(frame, seconds, raw score, decision) of a file, as `watch_source` comes to them, from cached scores where they are there."""
    refuse = refuses(footage.on_error)
    own = threshold.of(source.name)
    if own.doubt != threshold.doubt:
        problem(own.headline())
    try:
        scored = score_source(model, source, fps=footage.fps, refuse_damage=refuse, progress=progress)
    except FootageError as error:
        if refuse:
            raise
        problem(str(error))
        return
    if scored.damage:
        problem(scored.damage)
    decider = Decider(own.decider.for_images() if source.kind == "image" else own.decider, own.value)
    state = decider.start()
    rows = zip(scored.frames.tolist(), scored.times.tolist(), scored.scores.tolist(), strict=True)
    for (number, seconds, score), compared in zip(rows, own.scaled(scored.scores).tolist(), strict=True):
        decision, state = decider.step(state, seconds, compared)
        yield number, seconds, score, decision


def _row(
    source: str, number: int, seconds: float, score: float, decision: Decision
) -> tuple[str, int, str, str, str, int]:
    return (
        source,
        number,
        f"{seconds:.6f}",
        repr(score),
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
