"""The page that `evaluate` writes: figures, worst misses, worst false alarms, and every score over time."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from anomaly.report.cards import moment_card, number, span
from anomaly.report.charts import score_over_time
from anomaly.report.page import facts_list, page, section, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    parts = [facts_list([(key, number(value)) for key, value in evaluation.figures.items()])]
    parts.append(section("What the threshold promises"))
    parts += [f"<p>{escape(line)}</p>" for line in _promise(threshold, evaluation)]
    if evaluation.alarms is not None:
        parts.append(f"<p>{escape(evaluation.alarms.text())}</p>")
    parts += [f"<p class=soft>{escape(note)}</p>" for note in evaluation.notes]
    if evaluation.outcomes:
        parts += _event_parts(model, evaluation, by_name, threshold)
        parts += _false_alarm_parts(model, evaluation, by_name, threshold)
    parts.append(section("Score over time", "Bands are labels; the dashed line is the threshold."))
    shown = [decided for decided in evaluation.decided.values() if not decided.series.is_picture]
    parts += [
        score_over_time(one, evaluation.truth[one.series.source], threshold.value)
        for one in shown[:_MOST_CHARTS]
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
    introduction = f"How the model does on labelled footage: {len(evaluation.decided)} sources."
    return page(f"Evaluation of {name}", introduction, parts)


def _promise(threshold: Threshold, evaluation: Evaluation) -> list[str]:
    if threshold.certified and threshold.certificate and not threshold.document.get("cameras"):
        return threshold.certificate.text().splitlines()
    return threshold.promises({one.series.camera: name for name, one in evaluation.decided.items()})


def _heat_threshold(threshold: Threshold, one: Decided) -> float | None:
    """The raw score at which a source alarms, which its heatmap is coloured by; `threshold.value` may be in units of each camera's."""
    own = threshold.of(one.series.source, one.series.camera)
    return own.value if own.value is None or own.scale is None else own.scale.raw(own.value)


def _event_parts(
    model: Model, evaluation: Evaluation, by_name: Mapping[str, Source], threshold: Threshold
) -> list[str]:
    def order(outcome: EventOutcome) -> float:
        return outcome.score if np.isfinite(outcome.score) else -1.0

    ranked = sorted(evaluation.outcomes, key=order)
    missed = [outcome for outcome in ranked if outcome.outcome == "missed"]
    rows = [
        (one.event.video, span(one), ", ".join(one.event.labels), number(one.score), one.outcome)
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
            ("score", number(outcome.score)),
            ("outcome", outcome.outcome),
        ]
        parts += moment_card(
            model, by_name[outcome.event.video], moment, _heat_threshold(threshold, decided), facts
        )
    parts.append(section("Every event"))
    parts.append(table(("source", "time", "kind", "score", "outcome"), rows))
    return parts


def _false_alarm_parts(
    model: Model, evaluation: Evaluation, by_name: Mapping[str, Source], threshold: Threshold
) -> list[str]:
    found: list[tuple[float, str, float]] = []
    slack_s = evaluation.slack_s
    for name, decided in evaluation.decided.items():
        assert threshold.value is not None
        events = [one.event for one in evaluation.outcomes if one.event.video == name]
        for frames, _ in decided.alarm_frames(threshold.value):
            times = decided.series.times[frames]
            # What catches an event is no false alarm of it.
            if not any(
                times[-1] >= one.start_s - slack_s and times[0] < one.end_s + slack_s for one in events
            ):
                peak = int(frames[decided.smoothed[frames].argmax()])
                found.append((float(decided.smoothed[peak]), name, float(decided.series.times[peak])))
    found.sort(reverse=True)
    if not found:
        return [section("Worst false alarms", "None outside the labels.")]
    parts = [section("Worst false alarms", f"{len(found)} alarms touch no label; the highest come first.")]
    for score, name, moment in found[:_MOST_PICTURES]:
        heat = _heat_threshold(threshold, evaluation.decided[name])
        parts += moment_card(model, by_name[name], moment, heat, [("score", f"{score:.3f}")])
    return parts
