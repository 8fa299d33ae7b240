"""What a fitted detector says of the normal footage that was held out, and the scale that follows from it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from anomaly.detector import Recent, rescaled
from anomaly.footage.batching import batches, read_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anomaly.detector import Branch, Detector
    from anomaly.fitting.options import FitOptions, FitReport
    from anomaly.fitting.reading import Reader
    from anomaly.splits import Span

#: Held-out frames on which half of the bank is compared with all of it, and on which every patch is measured.
_COMPARED_FRAMES = 200
#: Without a hold-out, so many spans of what was learned give the scale.
_SPANS_WITHOUT_HOLDOUT = 20


def measure_holdout(
    detector: Detector,
    held: Sequence[Span],
    learned: Sequence[Span],
    reader: Reader,
    options: FitOptions,
    report: FitReport,
    tell: Callable[[str, float, float | None], None],
) -> Detector:
    """Score the held-out frames and set the scale, so that an ordinary normal frame scores 1."""
    branch = detector.branches[0]
    half = with_half_the_bank(branch)
    recent, recent_half = Recent(), Recent()
    raw: dict[str, list[tuple[float, float]]] = {}
    full_scores: list[float] = []
    half_scores: list[float] = []
    means: list[float] = []
    largest = 0.0
    # Without anything held out the scale comes from what was learned: better than none, and said.
    spans, fps = (held, options.score_fps) if held else (learned[:_SPANS_WITHOUT_HOLDOUT], options.fps)
    total = sum(reader.expected(span, fps) for span in spans)
    apart = max(1, round(total / _COMPARED_FRAMES))
    frames = (frame for span in spans for frame in reader.frames(span, fps))
    for batch in read_ahead(batches(frames, branch.backbone.batch)):
        patches = branch.patches([frame.image for frame in batch])
        looks = detector.compare(branch, patches, recent)
        for position, (frame, look) in enumerate(zip(batch, looks, strict=True)):
            raw.setdefault(frame.source, []).append((frame.pts_s, look.score))
            if len(full_scores) % apart == 0 and look.counts.any():
                means.append(float(look.distances[look.counts].mean()))
            full_scores.append(look.score)
            largest = max(largest, float(look.bounds.max()))
            if half is not None and len(half_scores) < _COMPARED_FRAMES:
                (lesser,) = detector.compare(half, patches[position : position + 1], recent_half)
                half_scores.append(lesser.score)
        tell("scoring the hold-out" if held else "scoring", len(full_scores), total)
    if not full_scores:
        return detector
    scale = max(float(np.median(full_scores)), 1e-6)
    report.scale = scale
    report.holdout_mean_distance = float(np.mean(means)) / scale if means else math.nan
    report.holdout_largest_distance = largest / scale
    if half_scores:
        full = float(np.mean(full_scores[: len(half_scores)]))
        report.gain_of_second_half = 1.0 - full / max(float(np.mean(half_scores)), 1e-9)
    if held:
        for name, series in raw.items():
            times, scores = np.array(series).T
            report.holdout[name] = times, scores / scale
    return detector.with_branches([rescaled(branch, scale)])


def with_half_the_bank(branch: Branch) -> Branch | None:
    """The branch with only the rows of every other moment (a minute, or a clip); None for one moment."""
    bank = branch.bank
    moments = bank.origins.source.astype(np.int64) * 100_000 + (bank.origins.time_s // 60.0).astype(np.int64)
    _, number = np.unique(moments, return_inverse=True)
    rows = np.flatnonzero(number % 2 == 0)
    return replace(branch, bank=bank.subset(rows)) if 0 < len(rows) < len(bank) else None
