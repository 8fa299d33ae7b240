"""`anomaly calibrate`: set the threshold from labelled anomalies, and say what it is worth."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly.artifact import digest_of, finite, read_signed, write_file, write_json
from anomaly.calibration import calibrate, calibrate_cameras, fit_scales
from anomaly.commands import console
from anomaly.commands.labeled import keep_looks, looks_before, looks_if_refused, score_labeled
from anomaly.commands.normal import apart, normal_footage, pooled_folders, seen_seldom, steps_of
from anomaly.commands.outputs import check_output, page_beside
from anomaly.decider import DeciderConfig
from anomaly.errors import CalibrationError, ModelError, UsageError
from anomaly.evidence import load_evidence, save_evidence
from anomaly.evidence_collection import collect_evidence
from anomaly.first_start import allowed_here, calibrated_here, rescored_here
from anomaly.looks import Look, labelled_otherwise, settings_tried, tried_elsewhere
from anomaly.model import load_model
from anomaly.report.calibration import calibration_page
from anomaly.thresholds import (
    COARSER,
    calibration_document,
    load_threshold,
    save_calibration,
    threshold_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anomaly.calibration import Calibration, CameraCalibrations, Series
    from anomaly.calibration.events import Count
    from anomaly.commands.labeled import ScoredLabels
    from anomaly.config import (
        CalibrateConfig,
        CalibrationSettings,
        DeciderSettings,
        LabelsConfig,
        StudyConfig,
    )
    from anomaly.footage.source import Source
    from anomaly.model import Model


#: Of a threshold that is written somewhere else.
_APART = (
    "as configured, apart from the model, which counts it among the settings that were tried; what was tried later is "
    "not paid for here"
)


def run(config: CalibrateConfig) -> None:
    """Calibrate and save; or check the calibration that is there."""
    if config.check:
        check(config)
        return
    if config.labeled is None:
        raise UsageError(
            "calibrate needs --labeled; see `python -m anomaly calibrate --help` (or --check, which needs none)"
        )
    decider, count = decider_of(config.decider), count_of(config.labels)
    if config.out is None:
        check_output("--model", Path(config.model), folder=True)
        check_output("--report", page_beside(config.model, "calibration", config.report), folder=False)
    model = load_model(
        Path(config.model), device=config.device, offline=config.weights.offline, runtime=config.runtime
    )
    console.say(model.headline())
    # With the grids of masked clips, so that `evaluate` on the same footage finds them in the cache.
    labeled = score_labeled(model, config.labeled, config.videos, config.footage, config.labels, grids=True)
    series = [one.series for one in labeled.scored]
    clips = {one.source.name: one.digest for one in labeled.scored}
    setting = setting_of(config, model, config.footage.fps, decider)
    options = {**options_of(config.calibration), "count": count, "tolerance_s": config.labels.slack_s}
    before = looks_before(model, config.footage.fps)
    options["settings_tried"] = config.also_tried + settings_tried(
        before, [Look(setting, labeled.seen)], labeled.proving
    )
    cameras: CameraCalibrations | None = None
    each = by_camera(config.calibration, labeled.footage.cameras)
    anomalous, normal = apart(series, labeled.events, labeled.familiar)
    steps = steps_of(anomalous, labeled.events, each)
    named = {one.camera for one in series} if each and labeled.footage.cameras else None
    holdout = normal_footage(model, normal, config.footage.fps, steps, named)
    if each:
        # Of normal footage alone: what is refused here shows nothing of the anomalies.
        fit_scales(anomalous, holdout)
    looks = [Look(setting, labeled.seen)] if labeled.events else []
    with looks_if_refused(model.folder, looks):
        if each:
            cameras = calibrate_cameras(anomalous, labeled.events, holdout, decider, **options)
            result = cameras.pooled
        else:
            options["threshold"] = config.calibration.threshold
            result = calibrate(anomalous, labeled.events, holdout, decider, **options)
    notes = []
    otherwise = labelled_otherwise(before, labeled.seen, labeled.proving)
    if otherwise:
        notes.append(
            f"{console.counted(otherwise, 'clip')} that results were seen of before {'is' if otherwise == 1 else 'are'} left out now, or "
            "labelled otherwise. If that was for what was seen, what is certified here does not hold: nothing pays for "
            "choosing the anomalies."
        )
    elsewhere = tried_elsewhere(before, setting, labeled.proving)
    if elsewhere:
        notes.append(
            f"{console.counted(elsewhere, 'other setting')} {'was' if elsewhere == 1 else 'were'} looked at before with other labelled clips, and "
            "with normal footage that may be the same. If this one was taken for its few false alarms, their bound does not pay for that."
        )
    if not each and config.calibration.cameras == "auto" and not labeled.footage.cameras:
        notes += pooled_folders(anomalous, labeled.events, holdout)
    notes += seen_seldom(holdout, steps)
    asked_s = 1 / config.footage.fps if config.footage.fps else 0.0
    if asked_s and max(steps.values(), default=0.0) > COARSER * asked_s:
        notes.append(
            f"Labelled videos usually have a frame every {max(steps.values()):.3g} s only, where footage.fps={config.footage.fps:g} asks "
            f"for one every {asked_s:.3g} s: what is certified here is so for footage seen as seldom."
        )
    if notes:
        result = replace(result, notes=(*notes, *result.notes))
        if cameras is not None:
            cameras = replace(cameras.noting(notes), pooled=result)
    intervals = [
        {**asdict(interval), "end_s": finite(interval.end_s)} for interval in labeled.footage.intervals
    ]
    # Before anybody sees what came out.
    keep_looks(model.folder, looks)
    document = calibration_document(
        model,
        result,
        fps=config.footage.fps,
        settings=asdict(config.calibration),
        labels_digest=digest_of(intervals),
        cameras=cameras,
        setting=setting,
        clips=clips,
        familiar=labeled.familiar,
        stills=any(one.is_picture for one in anomalous),
        videos=any(not one.is_picture for one in anomalous),
        steps_s=steps,
        chosen="as configured" if config.out is None else _APART,
    )
    console.say(cameras.text() if cameras else result.text())
    if config.out is None:
        scored = cameras.as_scored({one.source: one.camera for one in series}) if cameras else result
        path = _save(config, model, document, scored, labeled)
    else:
        path = Path(config.out)
        write_json(path, document)
        console.say(f"Written to {path}.")
    if config.out is None or config.report:
        counted = {one.source: one for one in normal}
        series = [counted.get(one.source, one) for one in series]
        if cameras is not None:
            result = cameras.as_decided({one.source: one.camera for one in series})
            series, holdout = [cameras.apply(one) for one in series], cameras.apply_normal(holdout)
        _report(config, model, result, read_signed(path), labeled.footage.sources, series, holdout)
    if config.out is None:
        console.say(
            f"Next: python -m anomaly evaluate --model {config.model} --labeled OTHER_LABELS, or run --source VIDEO"
        )
    else:
        console.say(
            f"{config.model} is left as it is, but counts this among the settings that were tried: what is tried later "
            "is paid for by what is calibrated then, not here. To take these settings, calibrate with them into the "
            "model: without -m and --out."
        )


def check(config: CalibrateConfig) -> None:
    """Score the evidence again, and say whether the certificate holds here.

    Raises:
        CalibrationError: it does not, or there is none.
    """
    model = load_model(
        Path(config.model), device=config.device, offline=config.weights.offline, runtime=config.runtime
    )
    console.say(model.headline())
    evidence = load_evidence(model.folder)
    threshold = load_threshold(model, fps=evidence.fps)
    if not threshold.doubt and evidence.scoring_digest != model.scoring_digest:
        raise ModelError(
            f"{str(evidence.folder)!r} is of another model than {str(model.folder)!r}; restore it from a copy, or calibrate again"
        )
    with console.counter(
        "scoring the evidence", sum(len(one.files) for one in evidence.stretches)
    ) as advance:
        tolerance = allowed_here(model, config.evidence.tolerance)
        here = rescored_here(model, threshold, evidence, tolerance, advance)
    found = here.recheck
    if threshold.doubt:
        console.say(threshold.headline())
    console.say(found.text(threshold.issued, threshold.doubt))
    if here.factor < 1:
        console.say(
            f"For that the threshold is lowered here by {1 - here.factor:.2g} of itself, at the first start, too."
        )
    if not found.holds and not found.incomplete:
        console.say(f"UNCERTIFIED here: {found.why_not}.")
        raise CalibrationError(
            f"the certificate does not hold with {found.runtime} here: {found.why_not}; calibrate again on this machine with "
            f"`python -m anomaly calibrate --model {model.folder} --labeled LABELS runtime={found.runtime}`"
        )
    if not threshold.doubt:
        for line in threshold.promises({one: one for one in threshold.document.get("cameras", {})}):
            console.say(line)
    if found.incomplete:
        raise CalibrationError(f"the certificate could be checked in part only: {found.why_not}")
    if not threshold.certifies:
        raise CalibrationError(f"there is no certificate to hold: {threshold.headline()}")


def decider_of(settings: DeciderSettings) -> DeciderConfig:
    """The configured decider; raises UsageError on a value out of range."""
    return DeciderConfig(
        smoothing_s=settings.smoothing_s,
        min_duration_s=settings.min_duration_s,
        max_duration_s=settings.max_duration_s,
        leave_ratio=settings.leave_ratio,
        join_gap_s=settings.join_gap_s,
    )


def count_of(settings: LabelsConfig) -> Count:
    """What counts as independent, as configured."""
    if settings.count == "clip":
        return "clip"
    if settings.count == "event":
        return "event"
    raise UsageError(f"labels.count={settings.count!r} is not known; choose clip or event")


def by_camera(settings: CalibrationSettings, named: Mapping[str, str]) -> bool:
    """Whether each camera's scores are put on a scale of its own.

    Args:
        settings: as configured.
        named: the cameras that the labels' column `camera` names, by source.
    """
    if settings.cameras not in ("auto", "one", "folder"):
        raise UsageError(f"calibration.cameras={settings.cameras!r} is not known; choose auto, one or folder")
    each = settings.cameras == "folder" or (settings.cameras == "auto" and len(set(named.values())) > 1)
    if each and settings.threshold is not None:
        raise UsageError(
            f"calibration.threshold={settings.threshold:g} is one for all scores, but each camera gets its own; drop "
            "it, or set calibration.cameras=one"
        )
    return each


def setting_of(
    config: CalibrateConfig | StudyConfig, model: Model, fps: float | None, decider: DeciderConfig, *more: Any
) -> str:
    """Identity of all that a calibration is set to, for `anomaly.looks`.

    A threshold set by hand is left out: it pays for every one that it could have been. So are labels that a look keeps
    of each clip (`seen_in`): which are normal, and which show one incident.
    """
    aims = {key: value for key, value in asdict(config.calibration).items() if key != "threshold"}
    events = {key: value for key, value in asdict(config.labels).items() if key not in ("unlisted", "group")}
    return digest_of([model.scoring_digest, model.runtime, fps, asdict(decider), aims, events, *more])


def options_of(settings: CalibrationSettings) -> dict[str, Any]:
    """What the threshold aims at, as `calibrate` takes it."""
    return {
        "target_recall": settings.target_recall,
        "confidence": settings.confidence,
        "budget_per_hour": settings.false_alarms_per_hour,
        "prefer": "recall" if settings.recall_wins else "budget",
    }


def _save(
    config: CalibrateConfig,
    model: Model,
    document: Mapping[str, Any],
    result: Calibration,
    labeled: ScoredLabels,
) -> Path:
    """Put the calibration into the model, with its evidence, and tell; where the threshold is."""
    series = [one.series for one in labeled.scored]
    keep: Callable[[], None] | None = None
    told = ""
    if config.evidence.max_mb > 0:
        with console.counter("keeping the evidence", None) as advance:
            evidence, images = collect_evidence(
                model,
                result,
                threshold_of(model, document, config.footage.fps),
                labeled.scored,
                fps=config.footage.fps,
                runtime=model.runtime,
                max_mb=config.evidence.max_mb,
                progress=advance,
            )
        keep = partial(save_evidence, evidence, images)
        left = f"; {evidence.left_out} events did not fit into evidence.max_mb={config.evidence.max_mb:g}"
        told = (
            f"Evidence of {len(evidence.events)} events and {len(evidence.normal)} normal frames kept in "
            f"{evidence.folder}{left if evidence.left_out else ''}; `calibrate --check` scores it again."
        )
    path = save_calibration(model, document, series, keep)
    console.say(f"Written to {path}.")
    calibrated_here(model)
    if told:
        console.say(told)
    return path


def _report(
    config: CalibrateConfig,
    model: Model,
    result: Calibration,
    document: Mapping[str, Any],
    sources: Sequence[Source],
    labeled: Sequence[Series],
    holdout: Sequence[Series],
) -> None:
    page = page_beside(config.model, "calibration", config.report)
    page.parent.mkdir(parents=True, exist_ok=True)
    text = calibration_page(
        model,
        result,
        document,
        sources,
        labeled,
        holdout,
        str(config.labeled),
    )
    write_file(page, text.encode())
    console.say(f"To read and sign: {page}.")
