"""The page that `calibrate` writes, for the person who answers for the line: to read, to print and to sign."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.artifact import file_digest
from anomaly.calibration import Series, decide, study, threshold_grid
from anomaly.calibration.cameras import SMALLEST
from anomaly.calibration.certificate import at_least, percent
from anomaly.calibration.events import frame_recall
from anomaly.errors import CalibrationError
from anomaly.report.cards import moment_card, number, span
from anomaly.report.charts import Curve, recall_curves, score_over_time, score_strip
from anomaly.report.page import facts_list, page, section, table
from anomaly.thresholds import camera_scales

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anomaly.calibration import Calibration, Decided, EventOutcome
    from anomaly.footage.source import Source
    from anomaly.model import Model

_MOST_PICTURES = 8
_MOST_CHARTS = 24
_MOST_SOURCES = 200
#: Normal frames shown as dots.
_MOST_DOTS = 400


def calibration_page(
    model: Model,
    calibration: Calibration,
    document: Mapping[str, Any],
    sources: Sequence[Source],
    labeled: Sequence[Series],
    holdout: Sequence[Series],
    labels: str,
) -> str:
    """The whole page as HTML.

    Args:
        model: what was calibrated.
        calibration: its result.
        document: the threshold's file, as saved.
        sources: the labelled footage, for the pictures.
        labeled: scores of all of it.
        holdout: scores of the normal footage; those without an event among `labeled` may be in it too.
        labels: where the labels came from.
    """
    by_name = {source.name: source for source in sources}
    decided = {one.source: decide(one, calibration.config) for one in labeled}
    heat = _HeatThreshold(calibration, document)
    name = str(model.description["name"])
    own_thresholds = any(own["by_itself"] for own in document.get("cameras", {}).values())
    if own_thresholds:
        # As each camera's own threshold has them, like the events that are told as caught.
        in_alarm = frame_recall([one.event for one in calibration.events], decided, calibration.threshold)
        calibration = replace(calibration, frame_recall=in_alarm)
    parts = [_verdict(calibration, document), *_cameras(document)]
    parts += _in_short(calibration, own_thresholds)
    parts += _learned(model)
    parts += _curves(calibration, document, labeled, holdout)
    parts += _events(model, calibration, by_name, decided, heat)
    parts += _false_alarms(model, calibration, by_name, decided, holdout, heat)
    parts += _every_event(calibration, decided)
    parts += _stands_on(model, document, labels)
    parts.append(section("Read and accepted"))
    parts.append(
        '<div class="sign"><div>Name</div><div>Function</div><div>Date</div><div>Signature</div></div>'
    )
    introduction = (
        "What this detector has learned, how many of the anomalies to come it will catch, how sure that is, and what "
        "it costs in false alarms."
    )
    return page(f"Calibration of {name}", introduction, parts)


def _verdict(calibration: Calibration, document: Mapping[str, Any]) -> str:
    certificate = calibration.certificate
    cameras = document.get("cameras", {})
    if certificate is None and any(own["certificate"] or own["by_itself"] for own in cameras.values()):
        lines = [
            f"{camera}: {at_least(own['certificate']['recall'])} ({percent(own['certificate']['confidence'])} sure)."
            if own["certificate"]
            else f"{camera}: not certified, {own['withheld']}"
            for camera, own in cameras.items()
        ]
        if not any(own["certificate"] for own in cameras.values()):
            return _box("no", "No recall is certified.", lines)
        if len(cameras) > 1:
            lines.append(
                "Each is judged by itself: of several such promises one is wrong more often than a single one is."
            )
        whole = all(
            own["certificate"] and own["certificate"]["recall"] >= own["certificate"]["target_recall"]
            for own in cameras.values()
        )
        return _box("yes" if whole else "no", "Recall is certified camera by camera.", lines)
    if certificate is None:
        lines = [calibration.withheld[0].upper() + calibration.withheld[1:]]
        return _box("no", "No recall is certified.", lines)
    first, *rest = certificate.text().splitlines()
    headline = f"{first.removesuffix('.')} ({percent(certificate.confidence)} sure)."
    if cameras:
        rest = [f"Of {', '.join(sorted(cameras))} together, in the mix of the labelled ones: {headline}", document["assumption"], *rest]  # fmt: skip
        return _box("no", "No single camera is certified.", rest)
    return _box("yes" if certificate.reaches_target else "no", headline, rest)


def _cameras(document: Mapping[str, Any]) -> list[str]:
    """Each camera's threshold and certificate, where each has its own."""
    if not document.get("cameras"):
        return []
    rows = []
    for camera, own in document["cameras"].items():
        certificate = own["certificate"]
        proven = f"none: {own['withheld']}" if certificate is None else at_least(certificate["recall"])
        events = "" if certificate is None else str(certificate["n_events"])
        rows.append(
            (
                camera,
                number(own["threshold"]),
                proven,
                events,
                "its own" if own["by_itself"] else "shared",
            )
        )
    return [
        section("Cameras", document["assumption"]),
        *(
            f"<p>{escape(camera)}: {escape(own['false_alarms'])}</p>"
            for camera, own in document["cameras"].items()
            if own["false_alarms"]
        ),
        table(("camera", "threshold", "recall certified", "from events", "threshold is"), rows),
        "<p class=soft>Scores and thresholds are on a scale that the cameras share: 1 is a camera's ordinary "
        "normal frame, 2 its 1-in-100 normal frame. Below, the scores of a camera with a threshold of its own are in proportion "
        "to it, so that one line stands for all thresholds.</p>",
    ]


def _box(kind: str, sentence: str, lines: Sequence[str]) -> str:
    told = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f'<div class="verdict {kind}"><strong>{escape(sentence)}</strong>{told}</div>'


def _in_short(calibration: Calibration, own_thresholds: bool) -> list[str]:
    seen = [one for one in calibration.events if one.outcome != "blind"]
    price = calibration.false_alarms
    threshold = f"{calibration.threshold:.4g}" + (" (set by hand)" if calibration.by_hand else "")
    alarms = price.text()
    if own_thresholds:
        threshold = f"each camera's in the table above; of all cameras together {threshold}, to which scores below are in proportion"
        alarms = f"By the threshold of all cameras together (those of cameras with their own are told above): {alarms}"
    tried = "1: this one" if calibration.settings_tried == 1 else str(calibration.settings_tried)
    if calibration.by_hand:
        tried = "a threshold set by hand counts as every one that it could have been"
    facts = [
        ("threshold", threshold),
        ("labelled events caught", f"{sum(one.caught for one in seen)} of {len(seen)}"),
        ("frames of theirs in alarm", "not known" if np.isnan(calibration.frame_recall) else percent(calibration.frame_recall)),
        ("false alarms", alarms),
        ("hit by chance", "not known" if price.chance_hit_rate is None else f"{percent(price.chance_hit_rate)} of normal stretches as long as the events"),
        ("settings compared on these events", tried),
    ]  # fmt: skip
    parts = [section("In short"), facts_list(facts)]
    parts += [f"<p>{escape(note)}</p>" for note in calibration.notes]
    parts += [f"<p>{escape(end.text())}</p>" for end in calibration.conflict]
    parts.append(
        "<p class=soft>Not covered: kinds of anomaly that were not labelled; another camera, view, light or product; "
        "time in which nothing could be seen (camera down, lens covered).</p>"
    )
    return parts


def _learned(model: Model) -> list[str]:
    told = model.description
    fitted = told["fitted_on"]
    branch = told["branches"][0]
    held_out = ", ".join(told["fit"]["holdout_sources"][:12]) or "nothing"
    if told["fit"].get("holdout_frames_learned"):
        held_out += " (learned too, after the scores were taken that false alarms are counted on)"
    facts = [
        ("learned on", f"{told['created_utc']}, from {told['fit']['frames']} frames of {len(fitted)} sources"),
        ("held out", held_out),
        ("backbone", f"{branch['backbone']['name']} at {branch['input_size'][0]} x {branch['input_size'][1]} pixels"),
        ("memory bank", f"{branch['bank']['rows']} normal patches"),
    ]  # fmt: skip
    rows = [
        (str(one["source"]), str(one["frames"]), str(one["sha256"])[:16]) for one in fitted[:_MOST_SOURCES]
    ]
    more = f"and {len(fitted) - _MOST_SOURCES} more" if len(fitted) > _MOST_SOURCES else ""
    return [
        section("What was learned as normal", more),
        facts_list(facts),
        "<details open><summary>Every source, with the start of its sha256</summary>"
        + table(("source", "frames", "sha256"), rows)
        + "</details>",
    ]


def _curves(
    calibration: Calibration,
    document: Mapping[str, Any],
    labeled: Sequence[Series],
    holdout: Sequence[Series],
) -> list[str]:
    finite = [one for one in calibration.events if np.isfinite(one.score)]
    parts = [
        section("Scores of normal footage and of the labelled events", "Each dot is a frame, or an event.")
    ]
    if holdout and finite:
        normal = np.concatenate([decide(one, calibration.config).decision for one in holdout])
        normal = np.sort(normal[np.isfinite(normal)])
        dots = normal[np.unique(np.linspace(0, len(normal) - 1, _MOST_DOTS).astype(int))]
        kinds: dict[str, list[float]] = {}
        for one in finite:
            kinds.setdefault(" + ".join(one.event.labels), []).append(one.score)
        rows = [("normal frames", dots), *((kind, np.array(scores)) for kind, scores in kinds.items())]
        parts.append(score_strip(rows[:25], calibration.threshold))
    try:
        events = [one.event for one in calibration.events]
        # With the threshold in use among them, so that the ring lies on the curve.
        grid = np.append(threshold_grid([*holdout, *labeled], 100), calibration.threshold)
        confidence = calibration.false_alarms.confidence
        # One of all that was compared on these events: the shade holds for all of them together.
        each = 1 - (1 - confidence) / calibration.settings_tried
        found = study(
            labeled, events, holdout, [calibration.config], grid,
            count=calibration.count, tolerance_s=calibration.tolerance_s, confidence=each,
            ordinary=_ordinary(calibration, document),
        )  # fmt: skip
    except CalibrationError:
        return parts
    price, title = found.n_alarms[0] / max(found.hours, 1e-9), "false alarms an hour"
    if calibration.false_alarms.n_cameras > 1:
        title += " of one camera"
    if not found.hours:
        price, title = 100 * found.alarm_time_share[0], "normal pictures in alarm, in 100"
    at = int(np.searchsorted(found.thresholds, calibration.threshold))
    certificate = calibration.certificate
    parts.append(
        section(
            "Recall against false alarms",
            f"Every threshold on the {found.n_events} labelled {found.unit}s that count; the shade reaches down to what is certain at "
            f"{percent(confidence)} for all thresholds together. The ring is the threshold in use.",
        )
    )
    parts.append(
        recall_curves(
            [Curve("", price, found.recall[0], found.recall_low[0])],
            title,
            target=certificate.target_recall if certificate else None,
            mark=(float(price[at]), float(found.recall[0, at])),
        )
    )
    return parts


def _ordinary(calibration: Calibration, document: Mapping[str, Any]) -> dict[str, float]:
    """What an ordinary frame of each camera scores, in proportion to its threshold as all scores of the page are; about 1 on its scale."""
    return {
        camera: own.get("ordinary_scaled", 1.0)
        * max(calibration.threshold, SMALLEST)
        / max(own["threshold"], SMALLEST)
        for camera, own in document.get("cameras", {}).items()
    }


class _HeatThreshold:
    """The raw score at which a source alarms, which its heatmap is coloured by."""

    def __init__(self, calibration: Calibration, document: Mapping[str, Any]) -> None:
        self._one = calibration.threshold
        self._cameras = {
            camera: scale.raw(document["cameras"][camera]["threshold"])
            for camera, scale in camera_scales(document).items()
        }

    def of(self, one: Decided) -> float:
        return self._cameras.get(one.series.camera, self._one)


def _events(
    model: Model,
    calibration: Calibration,
    by_name: Mapping[str, Source],
    decided: Mapping[str, Decided],
    heat: _HeatThreshold,
) -> list[str]:
    ranked = sorted((one for one in calibration.events if one.score == one.score), key=lambda one: one.score)
    missed = [one for one in ranked if not one.caught]
    near = [one for one in ranked if one.caught][: _MOST_PICTURES - min(len(missed), _MOST_PICTURES // 2)]
    parts = []
    if missed:
        parts.append(
            section("Missed", f"{len(missed)} of {len(ranked)} labelled events stay below the threshold.")
        )
        for one in missed[:_MOST_PICTURES]:
            parts += _event_card(model, calibration, one, by_name, decided, heat)
        others = [str(one.event) for one in missed[_MOST_PICTURES:]]
        if others:
            parts.append(f"<p>Missed as well: {escape(', '.join(others))}.</p>")
    parts.append(section("Nearest to being missed", "The labelled events that are caught by the least."))
    for one in near:
        parts += _event_card(model, calibration, one, by_name, decided, heat)
    return parts


def _event_card(
    model: Model,
    calibration: Calibration,
    outcome: EventOutcome,
    by_name: Mapping[str, Source],
    decided: Mapping[str, Decided],
    heat: _HeatThreshold,
) -> list[str]:
    one = decided[outcome.event.video]
    times = one.series.times
    inside = np.flatnonzero((times >= outcome.event.start_s) & (times < outcome.event.end_s))
    if not len(inside):
        return []
    moment = float(times[inside[one.decision[inside].argmax()]])
    facts = [
        ("kind", ", ".join(outcome.event.labels)),
        ("score", f"{number(outcome.score)}, threshold {calibration.threshold:.4g}"),
        ("outcome", outcome.outcome),
    ]
    if outcome.normal_share is not None:
        facts.append(("looks normal", f"{percent(outcome.normal_share)} of normal stretches score as high"))
    return moment_card(model, by_name[outcome.event.video], moment, heat.of(one), facts)


def _false_alarms(
    model: Model,
    calibration: Calibration,
    by_name: Mapping[str, Source],
    decided: Mapping[str, Decided],
    holdout: Sequence[Series],
    heat: _HeatThreshold,
) -> list[str]:
    """Alarms that touch no label: those of the labelled footage with pictures, those of the hold-out listed."""
    found: list[tuple[float, str, float, bool]] = []
    # Footage that was held out may have the name of labelled footage and be another.
    elsewhere = [
        decide(one, calibration.config)
        for one in holdout
        if not (one.source in decided and np.array_equal(one.times, decided[one.source].series.times))
    ]
    for one, here in [*((one, True) for one in decided.values()), *((one, False) for one in elsewhere)]:
        source = one.series.source
        events = [event.event for event in calibration.events if here and event.event.video == source]
        for frames, _ in one.alarm_frames(calibration.threshold):
            times = one.series.times[frames]
            slack_s = calibration.tolerance_s
            if any(times[-1] >= e.start_s - slack_s and times[0] < e.end_s + slack_s for e in events):
                continue
            peak = int(frames[one.smoothed[frames].argmax()])
            found.append((float(one.smoothed[peak]), source, float(one.series.times[peak]), here))
    found.sort(reverse=True)
    if not found:
        return [section("Worst false alarms", "No alarm outside the labels, in all the footage looked at.")]
    parts = [
        section(
            "Worst false alarms",
            f"{len(found)} alarms touch no label; the highest come first. Pictures are shown where the footage is at hand.",
        )
    ]
    for score, source, time_s, here in [one for one in found if one[3]][:_MOST_PICTURES]:
        assert here
        parts += moment_card(
            model, by_name[source], time_s, heat.of(decided[source]), [("score", f"{score:.4g}")]
        )
    rows = [(source, f"{time_s:.1f} s", f"{score:.4g}") for score, source, time_s, _ in found[:40]]
    parts.append(table(("source", "time", "score"), rows))
    return parts


def _every_event(calibration: Calibration, decided: Mapping[str, Decided]) -> list[str]:
    rows = [
        (one.event.video, span(one), ", ".join(one.event.labels), one.event.found, number(one.score), one.outcome)
        for one in calibration.events
    ]  # fmt: skip
    kinds = [
        (kind.label, f"{kind.n_caught} of {kind.n_events}", number(kind.lowest_score))
        for kind in calibration.kinds
    ]
    parts = [
        section("By kind", "The worst first."), table(("kind", "caught", "lowest score"), kinds),
        section("Every labelled event"), table(("source", "time", "kind", "found", "score", "outcome"), rows),
    ]  # fmt: skip
    with_events = list(dict.fromkeys(one.event.video for one in calibration.events))
    charts = []
    for name in with_events[:_MOST_CHARTS]:
        one = decided[name]
        if len(one.series.times) < 2:
            continue
        truth = np.zeros(len(one.series.times), bool)
        for outcome in calibration.events:
            if outcome.event.video == name:
                times = one.series.times
                truth |= (times >= outcome.event.start_s) & (times < outcome.event.end_s)
        charts.append(score_over_time(one, truth, calibration.threshold))
    if charts:
        parts.append(section("Score over time", "Bands are labels; the dashed line is the threshold."))
        parts += charts
    return parts


def _stands_on(model: Model, document: Mapping[str, Any], labels: str) -> list[str]:
    facts = [
        ("written", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("labels", labels),
        ("model", str(model.folder)),
        ("model.json", file_digest(model.folder / "model.json")),
        ("runtime", str(document["runtime"])),
        ("settings chosen", str(document["chosen"])),
        *((f"decider.{key}", str(value)) for key, value in document["decider"].items()),
        *((f"calibration.{key}", str(value)) for key, value in document["settings"].items()),
        ("footage.fps", str(document["fps"])),
        ("sha256 of labels", str(document["hangs_on"]["labels"])),
        *((key, str(value)) for key, value in model.description["software"].items()),
    ]
    watched = [
        (f"sha256 of {key}", str(value)) for key, value in document["hangs_on"].items() if key != "labels"
    ]
    return [
        section("What this hangs on", "Where one of these changes, the program says UNCERTIFIED until it is calibrated again."),
        facts_list(watched),
        section("How it was made"),
        facts_list(facts),
    ]  # fmt: skip
