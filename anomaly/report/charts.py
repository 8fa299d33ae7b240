"""Charts as inline SVG: no script, no network, and they follow the page's light or dark colours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from anomaly.calibration import Decided


def score_over_time(decided: Decided, truth: NDArray[np.bool_], threshold: float | None) -> str:
    """Score over time as an inline SVG."""
    width, height, left, bottom = 900.0, 150.0, 44.0, 22.0
    times, scores = decided.series.times, decided.decision
    finite = scores[np.isfinite(scores)]
    # From the lowest that is drawn: from 0 on, an event that stands a tenth above ordinary frames was a flat line.
    drawn: list[float] = [*([] if threshold is None else [threshold]), *finite.tolist()] or [0.0, 1.0]
    margin = max(0.08 * (max(drawn) - min(drawn)), 0.01)
    low, top = min(drawn) - margin, max(drawn) + margin
    begin, end = float(times[0]), max(float(times[-1]), float(times[0]) + 1e-6)

    def x(time_s: float) -> float:
        return left + (time_s - begin) / (end - begin) * (width - left - 6)

    def y(score: float) -> float:
        return (height - bottom) - (score - low) / max(top - low, 1e-9) * (height - bottom - 6)

    bands = []
    edges = np.flatnonzero(np.diff(np.r_[False, truth, False].astype(np.int8)))
    for first, stop in edges.reshape(-1, 2):
        x0, x1 = x(float(times[first])), x(float(times[min(stop, len(times) - 1)]))
        bands.append(
            f'<rect x="{x0:.1f}" y="0" width="{max(x1 - x0, 1.5):.1f}" height="{height - bottom}" fill="#e69f00" opacity=".3"/>'
        )
    # More points than pixels say nothing more: keep the highest of each pixel.
    step = max(1, len(times) // 1800)
    points = []
    for start in range(0, len(times), step):
        part = scores[start : start + step]
        at = start + int(part.argmax())
        if np.isfinite(scores[at]):
            points.append(f"{x(float(times[at])):.1f},{y(float(scores[at])):.1f}")
    line = "" if threshold is None else (
        f'<line x1="{left}" x2="{width - 6}" y1="{y(threshold):.1f}" y2="{y(threshold):.1f}" '
        'stroke="currentColor" stroke-dasharray="5 4" opacity=".7"/>'
    )  # fmt: skip
    ticks = "".join(
        f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end" font-size="11" fill="currentColor">{value:.3g}</text>'
        for value in (low, (low + top) / 2, top)
    )
    ends = (
        f'<text x="{left}" y="{height - 6}" font-size="11" fill="currentColor">{begin:.0f} s</text>'
        f'<text x="{width - 6}" y="{height - 6}" font-size="11" text-anchor="end" fill="currentColor">{end:.0f} s</text>'
    )
    return (
        f"<h3>{escape(decided.series.source)}</h3>"
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="score over time">{"".join(bands)}'
        f'<polyline points="{" ".join(points)}" fill="none" stroke="#0072b2" stroke-width="1.6"/>{line}{ticks}{ends}</svg>'
    )


@dataclass(frozen=True, eq=False)
class Curve:
    """Recall against its price, along the thresholds.

    Attributes:
        name: for the legend.
        price: (t,) false alarms an hour, or the share of normal pictures in alarm.
        recall: (t,) share of events caught.
        low: (t,) simultaneous lower band of the recall.
    """

    name: str
    price: NDArray[np.float64]
    recall: NDArray[np.float64]
    low: NDArray[np.float64]


COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")


def recall_curves(
    curves: Sequence[Curve],
    price: str,
    *,
    target: float | None = None,
    mark: tuple[float, float] | None = None,
) -> str:
    """Event recall against false alarms; the first curve with the band below it.

    Args:
        curves: one for each setting.
        price: title of the horizontal axis; its scale is logarithmic from 1 on.
        target: recall asked for, a dashed line.
        mark: (price, recall) of the threshold in use, a ring.
    """
    width, height, left, bottom = 900.0, 330.0, 52.0, 42.0
    most = max(1.0, *(float(curve.price.max()) for curve in curves), mark[0] if mark else 0.0)

    def x(value: float) -> float:
        return left + math.log1p(value) / math.log1p(most) * (width - left - 10)

    def y(value: float) -> float:
        return (height - bottom) - value * (height - bottom - 10)

    parts = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(
            f'<line x1="{left}" x2="{width - 10}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="currentColor" opacity=".15"/>'
            f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end" font-size="12" fill="currentColor">{value:g}</text>'
        )
    steps = [0.0, *(m * 10.0**e for e in range(-2, 6) for m in (1, 3) if 0.3 <= m * 10.0**e <= most)]
    for value in steps:
        parts.append(
            f'<text x="{x(value):.1f}" y="{height - bottom + 16}" text-anchor="middle" font-size="12" fill="currentColor">{value:g}</text>'
        )
    parts.append(
        f'<text x="{(left + width) / 2}" y="{height - 6}" text-anchor="middle" font-size="12" fill="currentColor">{escape(price)}</text>'
    )
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        order = np.lexsort((curve.recall, curve.price))
        top = np.maximum.accumulate(curve.recall[order])
        low = np.maximum.accumulate(curve.low[order])
        xs = [x(value) for value in curve.price[order].tolist()]
        upper = " ".join(f"{a:.1f},{y(b):.1f}" for a, b in zip(xs, top.tolist(), strict=True))
        lower = " ".join(f"{a:.1f},{y(b):.1f}" for a, b in zip(xs[::-1], low[::-1].tolist(), strict=True))
        if number == 0:  # the bands of several curves would lie over one another
            parts.append(f'<polygon points="{upper} {lower}" fill="{colour}" opacity=".14"/>')
        parts.append(f'<polyline points="{upper}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(curves) > 1:
            parts.append(
                f'<text x="{width - 16}" y="{height - bottom - 12 - 16 * (len(curves) - 1 - number)}" text-anchor="end" '
                f'font-size="12" fill="{colour}">{escape(curve.name)}</text>'
            )
    if target is not None:
        parts.append(
            f'<line x1="{left}" x2="{width - 10}" y1="{y(target):.1f}" y2="{y(target):.1f}" stroke="currentColor" stroke-dasharray="5 4" opacity=".7"/>'
        )
    if mark is not None:
        parts.append(
            f'<circle cx="{x(mark[0]):.1f}" cy="{y(mark[1]):.1f}" r="7" fill="none" stroke="#d55e00" stroke-width="3"/>'
        )
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="event recall against {escape(price)}">'
        f"{''.join(parts)}</svg>"
    )


def score_strip(rows: Sequence[tuple[str, NDArray[np.float64]]], threshold: float) -> str:
    """Where scores lie, a row of dots for each kind, and the threshold."""
    width, left, row = 900.0, 190.0, 30.0
    height = row * len(rows) + 34
    values = np.concatenate([scores for _, scores in rows])
    low, high = min(float(values.min()), threshold), max(float(values.max()), threshold)
    margin = max(high - low, 1e-9) * 0.04

    def x(value: float) -> float:
        return left + (value - low + margin) / (high - low + 2 * margin) * (width - left - 10)

    parts = []
    for number, (name, scores) in enumerate(rows):
        at = row * number + row / 2
        shown = name if len(name) <= 26 else name[:25] + "…"
        parts.append(
            f'<text x="{left - 12}" y="{at + 4:.1f}" text-anchor="end" font-size="13" fill="currentColor">{escape(shown)}</text>'
        )
        colour = COLOURS[2] if number == 0 else COLOURS[0]
        parts += [
            f'<circle cx="{x(score):.1f}" cy="{at:.1f}" r="5" fill="{colour if score >= threshold or number == 0 else COLOURS[4]}" opacity=".6"/>'
            for score in scores.tolist()
        ]
    line = x(threshold)
    parts.append(
        f'<line x1="{line:.1f}" x2="{line:.1f}" y1="0" y2="{height - 28}" stroke="currentColor" stroke-dasharray="5 4"/>'
        f'<text x="{line:.1f}" y="{height - 12}" text-anchor="middle" font-size="12" fill="currentColor">threshold {threshold:.3g}</text>'
    )
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="scores by kind">{"".join(parts)}</svg>'
