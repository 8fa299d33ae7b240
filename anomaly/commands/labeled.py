"""Labelled footage, scored: what calibrate and evaluate have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly.calibration import Event, join_events
from anomaly.commands import console
from anomaly.errors import FootageError, LabelsError, UsageError
from anomaly.footage.damage import refuses
from anomaly.footage.labels import LabeledFootage, load_labels
from anomaly.footage.source import Source, duration_s
from anomaly.scoring import Scored, score_sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomaly.calibration import Series
    from anomaly.config import FootageConfig, LabelsConfig
    from anomaly.model import Model


@dataclass(frozen=True)
class ScoredLabels:
    """Labelled footage with its scores.

    Attributes:
        footage: sources and labels.
        events: incidents in the sources that could be scored.
        scored: raw scores of those sources.
    """

    footage: LabeledFootage
    events: list[Event]
    scored: list[Scored]


def score_labeled(
    model: Model,
    labels: str,
    videos: str | None,
    footage: FootageConfig,
    settings: LabelsConfig,
    *,
    grids: bool,
) -> ScoredLabels:
    """Read labels, score their footage (from the cache where it is there), and join the events.

    Args:
        model: what scores.
        labels, videos: as on the command line.
        footage, settings: the configuration.
        grids: keep patch distances of sources that have masks.
    """
    if settings.unlisted not in ("ignore", "normal"):
        raise UsageError(f"labels.unlisted={settings.unlisted!r} is not known; choose ignore or normal")
    labeled = load_labels(
        Path(labels),
        Path(videos) if videos else None,
        tolerance_s=settings.tolerance_s,
        unlisted="normal" if settings.unlisted == "normal" else "ignore",
    )
    console.warn(labeled.notes)
    total = sum(_frames(source, footage.fps) for source in labeled.sources)
    with console.counter("scoring labelled footage", total) as advance:
        scored, problems = score_sources(
            model,
            labeled.sources,
            fps=footage.fps,
            grids=lambda source: grids and _is_measured(labeled, source),
            refuse_damage=refuses(footage.on_error),
            progress=advance,
        )
    console.warn(problems)
    known = {one.source.name for one in scored}
    if not known:
        raise LabelsError(
            f"not one of the {len(labeled.sources)} labelled sources could be scored; the first: {problems[0]}"
        )
    events = [event for event in join_events(labeled.intervals, settings.gap_s) if event.video in known]
    return ScoredLabels(labeled, events, scored)


def apart(series: Sequence[Series], events: Sequence[Event]) -> tuple[list[Series], list[Series]]:
    """(series with an event, series without): the latter are normal footage that nothing was learned from."""
    with_events = {event.video for event in events}
    return (
        [one for one in series if one.source in with_events],
        [one for one in series if one.source not in with_events],
    )


def _is_measured(labeled: LabeledFootage, source: Source) -> bool:
    """Whether pixels of a source can be held against masks: it has some, or is a normal picture beside such."""
    return source.name in labeled.masks or (
        bool(labeled.masks) and source.kind == "image" and not labeled.of(source.name)
    )


def _frames(source: Source, fps: float | None) -> float:
    try:
        seconds = duration_s(source)
    except FootageError:
        return 0
    return 1 if seconds is None else max(1.0, seconds * (fps or 25.0))
