"""What pages say of one moment or one event: a card with pictures, a span of time, a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomaly.errors import FootageError
from anomaly.footage.source import read_frame_at
from anomaly.heatmap import laid_over
from anomaly.report.page import jpeg, picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomaly.calibration import EventOutcome
    from anomaly.footage.source import Source
    from anomaly.model import Model


def moment_card(
    model: Model, source: Source, time_s: float, threshold: float | None, facts: Sequence[tuple[str, str]]
) -> list[str]:
    """A card with the frame and its heatmap; nothing where the frame cannot be read again."""
    try:
        frame = read_frame_at(source, time_s)
    except FootageError:
        return []
    look = model.detector.look([frame.image])[0]
    hot = laid_over(frame.image, look.heatmap(frame.image.shape[:2]), threshold)
    where = source.name if source.kind == "image" else f"{source.name} at {time_s:.1f} s"
    return [picture([jpeg(frame.image), jpeg(hot)], where, facts)]


def span(outcome: EventOutcome) -> str:
    """When an event was."""
    event = outcome.event
    return f"{event.start_s:.1f}-{event.end_s:.1f} s" if np.isfinite(event.end_s) else "image"


def number(value: float | int | None) -> str:
    """Four digits, or "not known"; "none" of what reaches no threshold."""
    if value == -np.inf:
        return "none"
    if value is None:
        return "not known"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
