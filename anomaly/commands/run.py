"""`anomaly run`: watch footage, write the annotated video, the events and their snapshots."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly.calibration import camera_of
from anomaly.commands import console
from anomaly.commands.score import named_as, nothing_read, read_of, watch_source
from anomaly.edge.address import parse_address
from anomaly.edge.sinks import AnnotatedVideo, EventLog, annotate, write_jpeg
from anomaly.errors import FootageError, ModelError, UsageError
from anomaly.first_start import checked_here
from anomaly.footage.source import find_sources, probe, steps_s, under_masks
from anomaly.model import load_model
from anomaly.thresholds import load_threshold

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomaly.config import RunConfig
    from anomaly.edge.watch import Watched
    from anomaly.footage.source import Source
    from anomaly.model import Model
    from anomaly.thresholds import Threshold


def run(config: RunConfig) -> None:
    """Watch every source; one that cannot be read stops nothing. Cameras are watched until it is stopped."""
    if is_live(config):
        # Unheard, it would end the program. Nothing was read yet that a reload would read anew.
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            from anomaly.commands import live

            live.run(config)
        finally:
            signal.signal(signal.SIGHUP, before)
        return
    if config.model is None or not config.source:
        raise UsageError("run needs --model and --source, or --site; see `python -m anomaly run --help`")
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
    if config.run.require_certificate:
        for own in (threshold.of(source.name) for source in sources):
            if not own.certified:
                raise ModelError(
                    f"{own.headline()}; run.require_certificate=true does not run what is not certified"
                )
    for line in threshold.promises({camera_of(source.name): source.name for source in sources}):
        console.say(line)
    out = Path(config.out)
    problems: list[str] = []
    frames = 0
    read: set[str] = set()
    with EventLog(out, threshold) as log, console.counter("watching", None) as advance:
        if log.earlier:
            console.say(f"The events of the run before are kept in {log.earlier}.")
        for source in sources:
            for _ in _watch(model, source, threshold, config, log, problems):
                frames += 1
                read.add(source.name)
                advance(1)
    if not frames:
        raise FootageError(nothing_read("watched", sources, problems))
    console.warn_of_files(problems)
    console.say(
        f"{console.counted(frames, 'frame')} of {read_of(read, sources)} watched, "
        f"{console.counted(log.count, 'event')}: {out / 'events.jsonl'}"
    )
    if config.run.annotate:
        console.say(f"Look at {out / 'annotated'}.")


def is_live(config: RunConfig) -> bool:
    """Whether there is a camera among the sources, or files are to be played at their own speed."""
    if config.site is not None or config.serve is not None or config.run.live:
        return True
    return any(parse_address(source).kind != "file" for source in config.source)


def _watch(
    model: Model, source: Source, threshold: Threshold, config: RunConfig, log: EventLog, problems: list[str]
) -> Iterator[Watched]:
    annotated = out_path(Path(config.out) / "annotated", source)
    with ExitStack() as stack:
        video: AnnotatedVideo | None = None
        for watched in watch_source(model, source, threshold, config.footage, problems.append):
            if config.run.annotate and source.kind == "video":
                if video is None:
                    annotated.parent.mkdir(parents=True, exist_ok=True)
                    rate = config.footage.fps or probe(source).fps or 25.0
                    video = stack.enter_context(
                        AnnotatedVideo(annotated, threshold.of(source.name), rate, config.run.opacity)
                    )
                video.write(watched)
            elif config.run.annotate:
                annotated.parent.mkdir(parents=True, exist_ok=True)
                write_jpeg(annotated, annotate(watched, threshold.of(source.name), config.run.opacity))
            for event in watched.ended:
                log.write(event)
            yield watched


def out_path(folder: Path, source: Source) -> Path:
    """Where the annotated copy of a source goes: its name, as MP4 or JPEG."""
    return named_as(folder, source.name, ".mp4" if source.kind == "video" else ".jpg")
