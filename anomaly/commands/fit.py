"""`anomaly fit`: learn what is normal, and write the model folder."""

from __future__ import annotations

import math
import os
import re
import shlex
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.artifact import check_place, file_digest, finite, read_description
from anomaly.calibration import Series
from anomaly.calibration.checks import some
from anomaly.commands import console
from anomaly.commands.outputs import check_output, page_beside
from anomaly.config import quoted
from anomaly.decider import DeciderConfig
from anomaly.errors import FootageError, LabelsError, ModelError, UsageError, WeightsError
from anomaly.exemplars import make_exemplars
from anomaly.extractor import BackboneSpec
from anomaly.fitting import FitOptions, FitReport, checkpoint_folder, discard_checkpoint, fit, only_fit
from anomaly.footage.copies import without_copies
from anomaly.footage.damage import refuses
from anomaly.footage.labels import load_labels
from anomaly.footage.source import duration_s, find_sources
from anomaly.model import load_projection, save_model, spec_of
from anomaly.regions import Regions
from anomaly.review import NOTHING_TO_COMPARE, rank_moments, write_review
from anomaly.scores import packed
from anomaly.splits import parse_drops
from anomaly.weights import SOURCES, StoredWeights, load_weights

if TYPE_CHECKING:
    from anomaly.config import BackboneConfig, FitConfig, RegionsConfig
    from anomaly.detector import Detector
    from anomaly.footage.source import Source
    from anomaly.projection import Projection
    from anomaly.review import Moment


def run(config: FitConfig) -> None:
    """Fit and save."""
    folder = Path(config.model)
    if folder.name in ("", ".."):
        folder = Path(os.path.abspath(folder))  # the folder that one is in has a name elsewhere only
    check_place(folder)
    check_output("--model", folder, folder=True, renamed=True)
    regions = regions_of(config.regions)
    sources = find_sources(config.normal_videos, regions.black)
    excluded = parse_drops(config.fit.drop, [source.name for source in sources])
    _check_drops(sources, excluded)
    if config.except_labels:
        _exclude_labeled(config, sources, excluded)
    sources = _each_once(sources, excluded)
    spec = backbone_spec(config.backbone)
    check_license(config.backbone.name, config.weights.accept_license)
    weights, known = load_weights(
        config.backbone.name,
        file=Path(config.backbone.file) if config.backbone.file else None,
        offline=config.weights.offline,
    )
    options = FitOptions(
        fps=config.fit.fps,
        score_fps=config.footage.fps,
        holdout=config.fit.holdout,
        learn_holdout=config.fit.learn_holdout,
        guard_s=config.fit.guard_s,
        dims=config.projection.dims,
        level=config.projection.level,
        shrinkage=config.projection.shrinkage,
        sample_frames=config.projection.sample_frames,
        bank_size=config.bank.size,
        radius=config.bank.radius,
        gather_mib=config.bank.gather_mib,
        half=config.bank.half,
        place_weight=config.bank.place_weight,
        index=config.bank.index,
        reweight=config.bank.reweight,
        seed=config.seed,
        refuse_damage=refuses(config.footage.on_error),
        checkpoint_s=config.fit.checkpoint_s,
        compute=config.fit.compute,
        shard_s=config.fit.shard_s,
    )
    size = config.backbone.input_size
    if size is not None and len(size) != 2:
        raise UsageError(f"backbone.input_size={size} is not [height, width]; give two numbers")
    projection = None
    if config.projection.of is not None:
        projection, size = _projection_of(Path(config.projection.of), spec, known, size)
    with only_fit(folder, fresh=config.fit.fresh):
        with console.stages() as tell:
            detector, report = fit(
                sources,
                spec,
                weights,
                regions,
                DeciderConfig(),
                options,
                input_size=(size[0], size[1]) if size else None,
                excluded=excluded,
                device=config.device,
                projection=projection,
                checkpoint=checkpoint_folder(folder),
                progress=tell,
                note=lambda line: console.warn([line]),
            )
            branch = detector.branches[0]
            exemplars = make_exemplars(
                branch.bank,
                sources,
                detector.regions,
                branch.backbone.grid,
                round(config.exemplars.max_mb * 1e6),
                tell,
            )
        console.warn_of_files(report.damaged)
        holdout = packed("holdout", (Series(name, *report.holdout[name]) for name in sorted(report.holdout)))
        save_model(folder, detector, known, holdout, _facts(config, folder, sources, report), exemplars)
        discard_checkpoint(folder)
    _tell(config, folder, detector, report, known)
    if config.fit.review:
        moments = rank_moments(detector, sources, config.fit.review)
        page = page_beside(str(folder), "fit_review", None)
        write_review(page, detector, moments, sources, folder.name, drop_override)
        if moments:
            console.say(
                f"Look at {page}: the moments that the rest of the footage explains worst, worst first."
            )
        else:
            console.warn([NOTHING_TO_COMPARE])
    console.say(f"Next: python -m anomaly calibrate --model {folder} --labeled LABELS")


def _projection_of(
    folder: Path, spec: BackboneSpec, weights: StoredWeights, size: list[int] | None
) -> tuple[Projection, list[int]]:
    """The projection of another model, and the input size that goes with it."""
    description = read_description(folder)
    (branch,) = description["branches"]
    theirs = spec_of(branch)
    if theirs != spec or branch["weights"]["digest"] != weights.digest:
        raise ModelError(
            f"projection.of={folder} was fitted with another backbone ({theirs.name}) than this fit uses "
            f"({spec.name}); use the same backbone and settings of it"
        )
    if size is not None and list(size) != branch["input_size"]:
        raise UsageError(
            f"backbone.input_size={list(size)} is not that of projection.of={folder}, {branch['input_size']}; "
            "leave it out"
        )
    return load_projection(folder, branch), branch["input_size"]


def drop_override(moment: Moment) -> str:
    """What leaves a moment out, quoted for the shell and, where its name needs it, for Hydra."""
    entry = f"{moment.source}@{moment.start_s:g}-{moment.end_s:g}"
    plain = re.fullmatch(r"[\w./@-]+", entry) is not None
    return shlex.quote(f"fit.drop=[{entry if plain else quoted(entry)}]")


def backbone_spec(config: BackboneConfig) -> BackboneSpec:
    """The configured backbone, without its weights."""
    if config.name not in SOURCES:
        raise WeightsError(f"backbone {config.name!r} is not known; choose one of {', '.join(SOURCES)}")
    return BackboneSpec(
        name=config.name,
        architecture=SOURCES[config.name].architecture,
        layers=tuple(config.layers),
        stride=config.stride,
        grid_stride=config.grid_stride,
        mean=(config.mean[0], config.mean[1], config.mean[2]),
        std=(config.std[0], config.std[1], config.std[2]),
        input_pixels=config.input_pixels,
        neighbourhood=config.neighbourhood,
    )


def check_license(name: str, accepted: str) -> None:
    """Refuse weights whose licence does not allow every use, until it is accepted by name."""
    source = SOURCES.get(name)
    if source is not None and not source.free and accepted != name:
        raise WeightsError(
            f"the weights of {name} are under {source.license}, which does not allow every use; "
            f"if yours is allowed, add weights.accept_license={name}"
        )


def regions_of(config: RegionsConfig) -> Regions:
    """The configured regions."""
    # Regions itself says what is wrong with a polygon, so it gets them as they were written.
    look: Any = config.look
    ignore: Any = config.ignore
    black: Any = config.black
    return Regions(look, ignore, Path(config.mask) if config.mask else None, black=black)


def _exclude_labeled(
    config: FitConfig, sources: list[Source], excluded: dict[str, list[tuple[float, float]]]
) -> None:
    """Add the labelled intervals, with a margin, to what is not learned from."""
    assert config.except_labels is not None
    labeled = load_labels(
        Path(config.except_labels),
        Path(config.videos) if config.videos else None,
        tolerance_s=config.labels.tolerance_s,
        unlisted=None,  # those among --normal-videos are learned from as a whole
        need_anomaly=False,
    )
    if not labeled.intervals:
        raise LabelsError(
            f"--except {config.except_labels} labels not one anomaly, so there is nothing to leave out; label what is not "
            "to be learned, or give no --except"
        )
    by_path = {source.path.resolve(): source.name for source in sources}
    path_of = {source.name: source.path.resolve() for source in labeled.sources}
    margin = config.fit.except_margin_s
    elsewhere: set[str] = set()
    left_out = False
    for interval in labeled.intervals:
        name = by_path.get(path_of[interval.video])
        if name is None:
            elsewhere.add(interval.video)
            continue
        left_out = True
        excluded.setdefault(name, []).append((interval.start_s - margin, interval.end_s + margin))
    if not left_out:
        # To go on would learn the very anomalies that were meant to stay out.
        raise LabelsError(
            f"--except {config.except_labels} labels nothing in the normal footage, its first video is "
            f"{labeled.intervals[0].video}; give labels of --normal-videos, or --videos with the folder they lie in"
        )
    notes = [f"--except labels {name}, which is not among --normal-videos" for name in sorted(elsewhere)]
    console.warn([*labeled.notes, *notes])


def _check_drops(sources: list[Source], excluded: dict[str, list[tuple[float, float]]]) -> None:
    """Refuse to leave out what is not there: what was meant would be learned."""
    for source in sources:
        for start, end in excluded.get(source.name, ()):
            try:
                length = duration_s(source) or 0.0
            except FootageError:
                continue  # told where the footage is read
            if start > 0 and start >= length:
                there = f"is {length:.2f} s long" if source.kind == "video" else "is a picture, shown at 0 s"
                raise UsageError(
                    f"fit.drop leaves out {source.name} from {start:g} to {end:g} s, but it {there}; correct the times"
                )


def _each_once(sources: list[Source], excluded: dict[str, list[tuple[float, float]]]) -> list[Source]:
    """The sources without copies of others; what is left out of a copy is left out of what stays."""
    kept, copies = without_copies(sources)
    for copy, original in copies.items():
        if copy in excluded:
            excluded.setdefault(original, []).extend(excluded.pop(copy))
    if copies:
        console.warn(
            [
                "copies of other files, read once, or the hold-out would be measured on what was learned: "
                f"{some(list(copies))}"
            ]
        )
    return kept


def _facts(config: FitConfig, folder: Path, sources: list[Source], report: FitReport) -> dict[str, Any]:
    by_name = {source.name: source for source in sources}
    fitted = [
        {
            "source": name,
            "sha256": file_digest(by_name[name].path),
            "frames": facts["frames"],
            "last_s": facts["last_s"],
        }
        for name, facts in report.sources.items()
    ]
    return {
        "name": config.name or folder.name,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": config.seed,
        "sampling": {"fps": config.footage.fps, "fit_fps": config.fit.fps},
        "fitted_on": fitted,
        "fit": {
            "frames": report.frames,
            "patches": report.patches,
            "scale": report.scale,
            "scale_measured": report.scale_measured,
            "coverage": asdict(report.coverage) if report.coverage else None,
            "gain_of_second_half": finite(report.gain_of_second_half),
            "holdout_sources": sorted(report.holdout),
            "holdout_rows": report.holdout_rows,
            "holdout_frames_learned": report.relearned,
            "holdout_sha256": [file_digest(by_name[name].path) for name in sorted(report.holdout)],
            "seconds": report.seconds,
            "size": config.bank.size,
            "radius": config.bank.radius,
        },
    }


def _radius_text(config: FitConfig, n_rows: int, bound: float) -> str:
    """Whether the radius that was asked for is kept by so many rows."""
    asked = f"bank.radius={config.bank.radius:g}"
    if bound <= (config.bank.radius or 0.0) * (1 + 1e-3):
        return f"{asked} is kept by {n_rows:,} rows"
    return (
        f"{asked} is not kept by bank.size={config.bank.size:,} rows, these cover to within {bound:.4g}; give more rows or a "
        "larger radius"
    )


def _tell(
    config: FitConfig, folder: Path, detector: Detector, report: FitReport, known: StoredWeights
) -> None:
    branch = detector.branches[0]
    rows = [
        ("model", str(folder)),
        ("backbone", f"{branch.backbone.spec.name} at {branch.backbone.input_size[0]}x{branch.backbone.input_size[1]}, weights from {known.origin} ({known.license})"),
        ("learned from", f"{report.frames} frames of {console.counted(len(report.sources), 'source')}, {report.patches:,} patches"),
        ("bank", f"{len(branch.bank):,} rows of {branch.bank.dim} dimensions ({branch.projection.explained:.0%} of the variance kept)"),
    ]  # fmt: skip
    if detector.regions.black:
        masks = len(detector.regions.black)
        rows.append(
            ("privacy masks", f"{masks}, black in every frame, here and wherever this model is used on files")
        )
    if branch.bank.place_weight:
        rows.append(
            (
                "place",
                f"place counts: the height of the picture is a distance of {branch.bank.place_weight:g}",
            )
        )
    if branch.index != "flat":
        rows.append(("search", f"by index {branch.index}, wherever the model is used"))
    if branch.reweight:
        rows.append(
            ("score", f"re-weighted by the {branch.reweight} rows around the nearest one, as PatchCore does")
        )
    if report.coverage is not None:
        unit = report.scale
        rows.append(
            (
                "coverage",
                f"a learned patch is {report.coverage.mean / unit:.2f} from its nearest row on average, "
                f"{report.coverage.largest / unit:.2f} at most of {report.coverage.sampled:,} sampled; proven of all: none further than "
                f"{report.coverage.largest_bound / unit:.2f} (1 = the score of an ordinary frame, {unit:.4g} in the unit of bank.radius)",
            )
        )
        if config.bank.radius is not None:
            rows.append(("radius", _radius_text(config, len(branch.bank), report.coverage.largest_bound)))
    if report.holdout:
        scores = np.concatenate([series[1] for series in report.holdout.values()])
        rows.append(
            (
                "hold-out",
                f"{len(scores)} frames of {console.counted(len(report.holdout), 'source')}: score median {np.median(scores):.2f}, "
                f"99 % below {np.quantile(scores, 0.99):.2f}, largest {scores.max():.2f}; "
                f"patches {report.holdout_mean_distance:.2f} on average, {report.holdout_largest_distance:.2f} at most",
            )
        )
        if report.relearned:
            rows.append(
                (
                    "then learned",
                    f"{report.relearned} frames of the hold-out, after their scores were taken: rows were only added, so "
                    "normal footage scores as it says there or lower (fit.learn_holdout=false leaves them out)",
                )
            )
    else:
        why = (
            "fit.holdout=0"
            if config.fit.holdout == 0
            else "there is too little footage, or it could not be read"
        )
        rows.append(("hold-out", f"nothing was held out ({why}): false alarms cannot be measured"))
    if not report.scale_measured:
        rows.append(
            (
                "scale",
                "what was given does not vary (one picture, a frozen stream): a score of 1 is not that of an ordinary "
                "frame; give footage of normal work",
            )
        )
    if math.isfinite(report.gain_of_second_half):
        gain = report.gain_of_second_half
        more = (
            "more footage would still widen the coverage"
            if gain > 0.05
            else "more footage of the same kind would add little"
        )
        rows.append(
            ("more footage?", f"half of it lowered the hold-out scores by {max(gain, 0):.0%}: {more}")
        )
    rows.append(
        ("time", f"{report.seconds:.0f} s, {report.frames / max(report.seconds, 1e-9):.1f} frames a second")
    )
    console.table("Learned what is normal", rows)
