"""The page that `evaluate` writes: figures, worst misses, worst false alarms, and every score over time."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from anomaly.errors import FootageError
from anomaly.footage.source import read_frame_at
from anomaly.heatmap import heat_range, overlay
from anomaly.report.page import facts_list, jpeg, page, picture, section, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from anomaly.calibration import Decided, EventOutcome
    from anomaly.evaluation import Evaluation
    from anomaly.footage.source import Source
    from anomaly.model import Model
    from anomaly.thresholds import Threshold

_MOST_PICTURES = 12
_MOST_CHARTS = 60


def evaluation_page(
    model: Model, evaluation: Evaluation, sources: Sequence[Source], threshold: Threshold, labels: str
) -> str:
    """The whole page as HTML.

    Args:
        model: what was evaluated.
        evaluation: what was found.
        sources: the footage, for the pictures.
        threshold: as evaluated.
        labels: where the labels came from.
    """
    by_name = {source.name: source for source in sources}
    name = str(model.description["name"])
    parts = [facts_list([(key, _number(value)) for key, value in evaluation.figures.items()])]
    parts.append(section("What the threshold promises"))
    parts += [f"<p>{escape(line)}</p>" for line in _promise(threshold)]
    if evaluation.alarms is not None:
        parts.append(f"<p>{escape(evaluation.alarms.text())}</p>")
    parts += [f"<p class=soft>{escape(note)}</p>" for note in evaluation.notes]
    if evaluation.outcomes:
        parts += _event_parts(model, evaluation, by_name, threshold)
        parts += _false_alarm_parts(model, evaluation, by_name, threshold)
    parts.append(section("Score over time", "Bands are labels; the dashed line is the threshold."))
    shown = [decided for decided in evaluation.decided.values() if len(decided.series.times) > 1]
    parts += [
        _chart(one, evaluation.truth[one.series.source], threshold.value) for one in shown[:_MOST_CHARTS]
    ]
    if len(shown) > _MOST_CHARTS:
        parts.append(f"<p class=soft>{len(shown) - _MOST_CHARTS} more sources are not drawn.</p>")
    parts.append(section("What this stands on"))
    parts.append(
        facts_list(
            [
                ("labels", labels),
                ("model", str(model.folder)),
                ("scoring digest", model.scoring_digest),
                *((name, str(version)) for name, version in model.description["software"].items()),
            ]
        )
    )
    introduction = f"How the model does on labelled footage that it was not calibrated on: {len(evaluation.decided)} sources."
    return page(f"Evaluation of {name}", introduction, parts)


def _promise(threshold: Threshold) -> list[str]:
    return (
        threshold.certificate.text().splitlines()
        if threshold.certified and threshold.certificate
        else [threshold.headline()]
    )


def _event_parts(
    model: Model, evaluation: Evaluation, by_name: Mapping[str, Source], threshold: Threshold
) -> list[str]:
    def order(outcome: EventOutcome) -> float:
        return outcome.score if np.isfinite(outcome.score) else -1.0

    ranked = sorted(evaluation.outcomes, key=order)
    missed = [outcome for outcome in ranked if outcome.outcome == "missed"]
    rows = [
        (one.event.video, _span(one), ", ".join(one.event.labels), f"{one.score:.3f}", one.outcome)
        for one in ranked
    ]
    title = "Worst misses" if missed else "Nearest to being missed"
    parts = [section(title, "" if missed else "No labelled event was missed; these came nearest.")]
    for outcome in (missed or ranked)[:_MOST_PICTURES]:
        decided = evaluation.decided[outcome.event.video]
        times = decided.series.times
        frames = (times >= outcome.event.start_s) & (times < outcome.event.end_s)
        if not frames.any():
            continue
        moment = float(times[frames][decided.decision[frames].argmax()])
        facts = [
            ("kind", ", ".join(outcome.event.labels)),
            ("score", f"{outcome.score:.3f}"),
            ("outcome", outcome.outcome),
        ]
        parts += _moment(model, by_name[outcome.event.video], moment, threshold.value, facts)
    parts.append(section("Every event"))
    parts.append(table(("source", "time", "kind", "score", "outcome"), rows))
    return parts


def _false_alarm_parts(
    model: Model, evaluation: Evaluation, by_name: Mapping[str, Source], threshold: Threshold
) -> list[str]:
    found: list[tuple[float, str, float]] = []
    for name, decided in evaluation.decided.items():
        assert threshold.value is not None
        for frames, _ in decided.alarm_frames(threshold.value):
            if not evaluation.truth[name][frames].any():
                peak = int(frames[decided.smoothed[frames].argmax()])
                found.append((float(decided.smoothed[peak]), name, float(decided.series.times[peak])))
    found.sort(reverse=True)
    if not found:
        return [section("Worst false alarms", "None outside the labels.")]
    parts = [section("Worst false alarms", f"{len(found)} alarms touch no label; the highest come first.")]
    for score, name, moment in found[:_MOST_PICTURES]:
        parts += _moment(model, by_name[name], moment, threshold.value, [("score", f"{score:.3f}")])
    return parts


def _moment(
    model: Model, source: Source, time_s: float, threshold: float | None, facts: Sequence[tuple[str, str]]
) -> list[str]:
    """A card with the frame and its heatmap; nothing where the frame cannot be read again."""
    try:
        frame = read_frame_at(source, time_s)
    except FootageError:
        return []
    look = model.detector.look([frame.image])[0]
    laid_over = overlay(frame.image, look.heatmap(frame.image.shape[:2]), *heat_range(threshold))
    where = source.name if source.kind == "image" else f"{source.name} at {time_s:.1f} s"
    return [picture([jpeg(frame.image), jpeg(laid_over)], where, facts)]


def _span(outcome: EventOutcome) -> str:
    event = outcome.event
    return f"{event.start_s:.1f}-{event.end_s:.1f} s" if np.isfinite(event.end_s) else "image"


def _number(value: float | int | None) -> str:
    if value is None:
        return "not known"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _chart(decided: Decided, truth: NDArray[np.bool_], threshold: float | None) -> str:
    """Score over time as an inline SVG."""
    width, height, left, bottom = 900.0, 150.0, 44.0, 22.0
    times, scores = decided.series.times, decided.decision
    finite = scores[np.isfinite(scores)]
    top = max(float(finite.max(initial=1.0)), threshold or 0.0) * 1.08
    low = min(float(finite.min(initial=0.0)), threshold or 0.0) * 0.92
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
        f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end" font-size="11" fill="currentColor">{value:.2g}</text>'
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
