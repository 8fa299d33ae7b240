"""`anomaly study`: compare decider settings, or the models of a sweep, on scores that are there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly.calibration import calibrate, calibrate_scaled, camera_of, fit_scales, scaled_apart
from anomaly.calibration.budget import spent_on, without
from anomaly.calibration.certificate import CERTIFYING, CHOSE
from anomaly.commands import console
from anomaly.commands.calibrate import by_camera, count_of, decider_of, options_of, setting_of
from anomaly.commands.labeled import keep_looks, looks_if_refused, score_labeled
from anomaly.commands.normal import apart, normal_footage, pooled_folders, seen_seldom, steps_of
from anomaly.commands.study_cost import count_looks, protected
from anomaly.commands.study_table import (
    ONE_CAMERAS_HOUR,
    for_all,
    name_of,
    row_of,
    table_of,
    told_of,
    write_study,
)
from anomaly.commands.sweeps import finished_jobs
from anomaly.decider import DeciderConfig
from anomaly.errors import ModelError, UsageError
from anomaly.first_start import decided_anew
from anomaly.looks import Look
from anomaly.model import load_model
from anomaly.report.study import from_json, ranked
from anomaly.scores import read_series
from anomaly.thresholds import (
    calibrated_events,
    calibration_document,
    camera_scales,
    load_threshold,
    of_this_version,
    save_calibration,
)

if TYPE_CHECKING:
    from anomaly.calibration import Calibration, CameraCalibrations, ScoreScale, Series, Study
    from anomaly.config import StudyConfig
    from anomaly.model import Model

#: What is tried where nothing is said.
_GRID: Mapping[str, Sequence[float]] = {
    "smoothing_s": (0.0, 0.25, 0.5, 1.0, 2.0),
    "min_duration_s": (0.0, 0.25, 0.5, 1.0),
    "leave_ratio": (0.8, 0.9, 1.0),
}


def run(config: StudyConfig) -> None:
    """One study; in a sweep (`-m`) of one setting, unless a grid is given."""
    if config.study.protect not in ("split", "correct"):
        raise UsageError(f"study.protect={config.study.protect!r} is not known; choose split or correct")
    if config.sweep is not None:
        _study_sweep(config)
    elif config.model is None:
        raise UsageError("study needs --model or --sweep; see `python -m anomaly study --help`")
    else:
        _study_model(config, Path(config.model))


def collect_jobs(folder: Path) -> None:
    """One table and one plot of all jobs of a `study -m`."""
    rows, target = [], 0.0
    jobs = finished_jobs(folder)
    for (place, overrides), label in zip(jobs, _labels(jobs), strict=True):
        path = place / "study.json"
        if path.is_file():
            found = from_json(path.read_text(encoding="utf-8"))
            rows += [replace(row, name=label if len(found) == 1 else f"{label} {row.name}") for row in found]
            target = max([target, *_targets(overrides)])
    if rows:
        line = (
            f"{console.counted(len(rows), 'setting')} of a sweep. The certificate of each job pays for all jobs: whoever takes the best "
            "after a look here has compared them all."
        )
        rows = [for_all(row, len(rows)) for row in rows]
        write_study(folder, "Study over a sweep", [line], ranked(rows), target or 0.95, rows[0].confidence)


def _study_model(config: StudyConfig, folder: Path) -> None:
    model = load_model(folder, device=config.device, offline=config.weights.offline)
    threshold = load_threshold(model, fps=config.footage.fps)
    if not threshold.document:
        raise ModelError(f"{str(folder)!r} has no scores to study; {threshold.doubt}")
    if not of_this_version(threshold.document):
        raise ModelError(
            f"{str(folder)!r} was calibrated by another version of this program; calibrate again, then study"
        )
    if threshold.document["hangs_on"]["scoring"] != model.scoring_digest:
        # What was scored then is no longer what the model would score.
        raise ModelError(f"{str(folder)!r} has another bank than was calibrated; calibrate again, then study")
    scales = camera_scales(threshold.document)
    labeled = read_series(folder, "labeled")
    events = [
        replace(event, found=CERTIFYING[0]) if event.found == CHOSE else event
        for event in calibrated_events(threshold.document)
    ]
    labeled, normal = apart(labeled, events, threshold.document["familiar"])
    steps = threshold.document["steps_s"]
    raw = holdout = normal_footage(model, normal, threshold.document["fps"], steps, scales or None)
    if scales:
        labeled, holdout = _on_shared_scale(labeled, holdout, scales)
    settings = _settings(config)
    choose, prove, spend, report, how = protected(config, events, holdout, len(settings))
    table = table_of(config, labeled, choose, spend, settings)
    target = config.calibration.target_recall
    rows = ranked(
        [row_of(table, index, name_of(one, settings), target) for index, one in enumerate(settings)]
    )

    def cost(best: DeciderConfig) -> tuple[list[Look], int, int, str]:
        return count_looks(config, model, threshold.document, settings, best, choose, prove)

    with looks_if_refused(folder, cost(settings[0])[0]):
        best = settings[table.best(target)] if len(settings) > 1 else settings[0]
    looks, tried, tried_next, setting = cost(best)
    options = {
        **options_of(config.calibration),
        "count": count_of(config.labels),
        "tolerance_s": config.labels.slack_s,
        "settings_tried": tried,
        "next_tried": tried_next,
    }
    spent = spent_on(holdout, report)
    cameras: CameraCalibrations | None = None
    # A column that names a camera for all is no reason to ask for one.
    unnamed = all(one.camera == camera_of(one.source) for one in labeled)
    pooled = not scales and unnamed and threshold.document["settings"]["cameras"] == "auto"
    notes = pooled_folders(labeled, events, holdout) if pooled else []
    notes += seen_seldom(raw, steps)
    with looks_if_refused(folder, looks):
        if scales:
            whole = [scales[one.camera].apply(one) for one in without(raw, spent)]
            cameras = calibrate_scaled(labeled, prove, report, best, scales, whole=whole, **options)
            cameras = cameras.spending(spent).noting(notes)
            result = cameras.pooled
        else:
            result = calibrate(labeled, prove, report, best, **options).spending(spent)
            result = replace(result, notes=(*notes, *result.notes))
    lines = [
        *told_of(table, settings, best, target),
        how,
        *(cameras or result).text().splitlines(),
    ]
    if len(scales) > 1:
        lines.insert(1, ONE_CAMERAS_HOUR)
    keep_looks(folder, looks)
    place, sure = _place(config, folder), config.calibration.confidence
    write_study(place, f"Threshold study of {folder.name}", lines, rows, target, sure)
    if config.study.apply:
        steps = steps_of(labeled, prove, bool(scales))
        document = {**threshold.document, "setting": setting, "steps_s": steps}
        _apply(model, result, cameras, config, document, len(settings), how)


def _apply(
    model: Model,
    result: Calibration,
    cameras: CameraCalibrations | None,
    config: StudyConfig,
    document: Mapping[str, Any],
    tried: int,
    how: str,
) -> None:
    # Evidence that is there was kept for the frames that the other setting needs: it goes.
    document = calibration_document(
        model,
        result,
        fps=document["fps"],
        settings=asdict(config.calibration),
        labels_digest=document["hangs_on"]["labels"],
        setting=document["setting"],
        clips=document["clips"],
        familiar=document["familiar"],
        stills=document["stills"],
        videos=document["videos"],
        steps_s=document["steps_s"],
        chosen=f"{'one setting' if tried == 1 else f'the best of {tried} settings'} in a study; {how}",
        cameras=cameras,
    )
    # Its scores stay those that were calibrated on.
    with decided_anew(model):
        path = save_calibration(model, document)
    console.say(
        f"Written to {path}. Evidence kept for the threshold before it was removed: `calibrate --check` has none."
    )


def _on_shared_scale(
    labeled: list[Series], holdout: list[Series], scales: Mapping[str, ScoreScale]
) -> tuple[list[Series], list[Series]]:
    """Series of a model that was calibrated by camera, each on its camera's scale.

    Raises:
        ModelError: scores of a camera that was not calibrated.
    """
    unknown = {one.camera for one in [*labeled, *holdout]} - scales.keys()
    if unknown:
        raise ModelError(
            f"there are scores of {', '.join(sorted(unknown))}, but only {', '.join(sorted(scales))} were calibrated; "
            "calibrate again with footage of all of them"
        )
    return [scales[one.camera].apply(one) for one in labeled], scaled_apart(holdout)


def _study_sweep(config: StudyConfig) -> None:
    """The models that the jobs of a `fit -m` left, on the same labels."""
    if config.labeled is None:
        raise UsageError("study --sweep needs --labeled, the labels to compare the models on")
    folder = Path(str(config.sweep))
    jobs = finished_jobs(folder)
    models = [
        (path.parent, label)
        for (place, _), label in zip(jobs, _labels(jobs), strict=True)
        for path in sorted(place.rglob("model.json"))
    ]
    if not models:
        raise ModelError(f"{str(folder)!r} holds no finished job with a model; sweep with `fit -m` first")
    decider, target = decider_of(config.decider), config.calibration.target_recall
    tables: list[tuple[str, Study]] = []
    looks, several = [], False
    for place, name in models:
        model = load_model(place, device=config.device, offline=config.weights.offline)
        found = score_labeled(
            model, config.labeled, config.videos, config.footage, config.labels, grids=False
        )
        looks.append(Look(setting_of(config, model, config.footage.fps, decider), found.seen))
        labeled, normal = apart([one.series for one in found.scored], found.events, found.familiar)
        each = by_camera(config.calibration, found.footage.cameras)
        steps = steps_of(labeled, found.events, each)
        named = {one.camera for one in [*labeled, *normal]} if each and found.footage.cameras else None
        holdout = normal_footage(model, normal, config.footage.fps, steps, named)
        if each:
            scales = fit_scales(labeled, holdout)
            several |= len(scales) > 1
            labeled, holdout = _on_shared_scale(labeled, holdout, scales)
        tables.append(
            (
                name,
                table_of(config, labeled, found.events, holdout, [decider], len(models)),
            )
        )
    for place, _ in models:
        keep_looks(place, looks)
    rows = ranked([row_of(table, 0, name, target) for name, table in tables])
    lines = [
        f"{console.counted(len(rows), 'model')} of a sweep, on {console.counted(tables[0][1].n_events, f'labelled {tables[0][1].unit}')}.",
        f"Whoever takes the best of them and calibrates it on these same labels has compared {console.counted(len(rows), 'setting')}, and "
        "its certificate pays for them all; calibrated on other labels it pays for none.",
        *([ONE_CAMERAS_HOUR] if several else []),
    ]  # fmt: skip
    write_study(
        Path(config.out) if config.out else folder,
        f"Study of the models in {folder.name}",
        lines,
        rows,
        target,
        config.calibration.confidence,
    )


def _settings(config: StudyConfig) -> list[DeciderConfig]:
    base = decider_of(config.decider)
    known = [one.name for one in fields(DeciderConfig)]
    grid: Mapping[str, Sequence[float]] = _GRID
    if config.study.grid is None and _in_a_sweep():
        return [base]
    if config.study.grid is not None:
        grid = config.study.grid
    if not isinstance(grid, Mapping):
        raise UsageError(
            f"study.grid={grid!r} is no grid; give lists of numbers for some of {', '.join(known)}"
        )
    for key, values in grid.items():
        numbers = isinstance(values, list | tuple) and all(isinstance(one, int | float) for one in values)
        if key not in known or not numbers or not values:
            raise UsageError(
                f"study.grid has {key}: {values}; give lists of numbers for some of {', '.join(known)}"
            )
    tried = [
        replace(base, **dict(zip(grid, map(float, values), strict=True)))
        for values in product(*grid.values())
    ]
    return list(dict.fromkeys(tried))


def _place(config: StudyConfig, folder: Path) -> Path:
    if config.out is not None:
        return Path(config.out)
    if _in_a_sweep():
        from hydra.core.hydra_config import HydraConfig

        return Path(HydraConfig.get().runtime.output_dir)
    return folder.parent / f"{folder.name}_study"


def _in_a_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _labels(jobs: Sequence[tuple[Path, list[str]]]) -> list[str]:
    """What tells each job from the others: the overrides that not all of them share."""
    shared = set.intersection(*(set(overrides) for _, overrides in jobs)) if len(jobs) > 1 else set()
    return [
        " ".join(one for one in overrides if one not in shared) or place.name for place, overrides in jobs
    ]


def _targets(overrides: Sequence[str]) -> list[float]:
    key = "calibration.target_recall="
    return [float(one.removeprefix(key)) for one in overrides if one.startswith(key)]
