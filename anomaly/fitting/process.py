"""A fit from start to end."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from anomaly.backbone import Backbone, BackboneSpec, choose_input_size
from anomaly.detector import Branch, Detector
from anomaly.errors import UsageError
from anomaly.fitting.checkpoint import Checkpoint
from anomaly.fitting.filling import Tally, fill, learn_projection, new_coreset, nothing_left
from anomaly.fitting.finished import FinishedShards
from anomaly.fitting.holdout import measure_holdout, rows_before_holdout
from anomaly.fitting.options import FitOptions, FitReport
from anomaly.fitting.reading import Reader, probe_all, typical_size
from anomaly.fitting.scored import ScoredCheckpoint
from anomaly.fitting.shards import fill_in_shards
from anomaly.model import software
from anomaly.resize import same_shape
from anomaly.splits import plan_holdout
from anomaly.weights import tensor_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from anomaly.decider import DeciderConfig
    from anomaly.footage.source import Source
    from anomaly.projection import Projection
    from anomaly.regions import Regions
    from anomaly.splits import Span
    from anomaly.weights import Tensors
    from memory_bank import MemoryBank

    Excluded = Mapping[str, Sequence[tuple[float, float]]]
    Tell = Callable[[str, float, float | None], None]


#: Options that a bank, while it is being filled, does not hang on.
_NOT_OF_THE_BANK = {
    "checkpoint_s", "learn_holdout", "score_fps", "refuse_damage", "reweight", "half", "top_share",
    "index", "compute", "shard_s",
}  # fmt: skip
#: Options that what the hold-out scores hangs on, besides the bank.
_OF_SCORING = ("score_fps", "learn_holdout", "reweight", "half", "top_share", "index")
#: Distances that half precision may move by, in scores (1 = an ordinary frame).
_MOST_MOVED = 1e-3


def fit(
    sources: Sequence[Source],
    spec: BackboneSpec,
    weights: Tensors,
    regions: Regions,
    decider: DeciderConfig,
    options: FitOptions,
    *,
    input_size: tuple[int, int] | None = None,
    excluded: Excluded | None = None,
    device: str = "cpu",
    projection: Projection | None = None,
    checkpoint: Path | None = None,
    progress: Tell | None = None,
    note: Callable[[str], None] | None = None,
) -> tuple[Detector, FitReport]:
    """Learn a detector from normal footage.

    Args:
        sources: the footage.
        spec, weights: the backbone.
        regions: what of the picture counts; patches outside never enter the bank.
        decider: settings kept with the model until a calibration chooses.
        options: see `FitOptions`.
        input_size: (h, w) of the network's input; None = from the footage's shape.
        excluded: stretches by source name that are not learned from.
        device: "cpu" or "cuda".
        projection: of another model with the same backbone, so that the banks can merge; None = learned.
        checkpoint: folder for checkpoints, from which a later call goes on; None = none are written.
        progress: called with (what is being done, units done so far, units in all or None).
        note: called with lines that the person should read now; they are among the report's notes, too.

    Returns:
        The detector, and what was done.

    Raises:
        NoFootageError: nothing readable, or nothing left to learn from.
        DamagedFootageError: a damaged file, where damage is to be refused.
        UsageError: the checkpoint is of a fit that this one may not go on with, or the mask image of `regions` has
            another shape than the footage.
    """
    started = time.perf_counter()
    report = FitReport()
    tell: Tell = progress or (lambda what, done, total: None)

    def notice(line: str) -> None:
        report.notes.append(line)
        if note is not None:
            note(line)

    excluded = excluded or {}
    usable, infos = probe_all(sources, report.damaged, tell, refuse_damage=options.refuse_damage)
    seen = typical_size(infos.values())
    _check_mask(regions, seen)
    size = input_size or choose_input_size(spec, seen)
    backbone = Backbone(spec, weights, size, device)
    counts = regions.patch_mask(*backbone.grid).ravel()
    durations = {name: info.duration_s for name, info in infos.items()}
    reader = Reader(durations, excluded, options.refuse_damage, report.damaged)
    learned, held = plan_holdout(usable, durations, options.holdout, options.guard_s, options.seed, excluded)
    first = rows_before_holdout(options, held)
    bound_to = (
        _bound_to(usable, excluded, spec, weights, size, device, regions, first, projection)
        if checkpoint is not None
        else {}
    )
    if options.shard_length_s is not None:
        finished = FinishedShards(checkpoint, bound_to, notice) if checkpoint else None
        known = finished.projection() if finished else None
        projection = known or projection
        if projection is None:
            frames = reader.sample(learned, options.sample_frames, options.fps, options.seed)
            projection = learn_projection(backbone, frames, counts, options, tell)
        if finished and known is None:
            finished.keep_projection(projection)
        bank, coverage, tally = fill_in_shards(
            backbone, weights, projection, counts, learned, reader, first, finished, tell
        )
        report.coverage = coverage
    else:
        keeper = None
        if checkpoint is not None:
            keeper = Checkpoint(checkpoint, bound_to, options.checkpoint_s, notice)
        projection, bank, tally = _fill(
            backbone, projection, counts, learned, reader, first, report, keeper, tell, notice
        )
    report.damaged += [message for message in tally.damaged if message not in report.damaged]
    stored = bank.as_float16() if options.half else bank
    branch = Branch(
        "appearance", backbone, projection, stored, 1.0, options.top_share, options.reweight, options.index
    )
    scorer = None
    if checkpoint is not None and held:
        hangs_on = {
            **bound_to, "bank": bank.digest(), "scoring": {name: getattr(options, name) for name in _OF_SCORING},
        }  # fmt: skip
        scorer = ScoredCheckpoint(checkpoint, hangs_on, options.checkpoint_s, notice)
    detector = measure_holdout(
        Detector([branch], regions, decider),
        bank,
        held,
        learned,
        tally,
        reader,
        options,
        report,
        tell,
        scorer,
    )
    if options.half:
        _allow_for_half(detector.branches[0].bank, report)
    report.sources, report.frames, report.patches = tally.sources, tally.frames, tally.patches
    report.seconds = time.perf_counter() - started
    return detector, report


def _check_mask(regions: Regions, seen: tuple[int, int]) -> None:
    """Refuse a mask that would be stretched over the footage: turned or cropped, it tells of other places."""
    if regions.mask_pixels is None:
        return
    (height, width), (rows, columns) = seen, regions.mask_pixels.shape
    if not same_shape(seen, regions.mask_pixels.shape):
        raise UsageError(
            f"regions.mask {regions.mask} is {columns}x{rows} and the footage {width}x{height}, of another shape: turned or cropped, "
            "it would look at other places; make the mask from a picture of this footage"
        )


def _allow_for_half(bank: MemoryBank, report: FitReport) -> None:
    """Widen what is proven by what half precision moves a row.

    Raises:
        UsageError: it moves one by more than a thousandth of an ordinary frame's score.
    """
    moved = bank.rounding
    if moved > _MOST_MOVED * report.scale:
        raise UsageError(
            f"bank.half=true would change distances by up to {moved / report.scale:.2%} of an ordinary frame's score, as this "
            f"footage's patches are that alike; {_MOST_MOVED:.1%} is allowed: fit with bank.half=false"
        )
    if report.coverage is not None:
        report.coverage = replace(report.coverage, largest_bound=report.coverage.largest_bound + moved)


def _fill(
    backbone: Backbone,
    given: Projection | None,
    counts: NDArray[np.bool_],
    spans: Sequence[Span],
    reader: Reader,
    options: FitOptions,
    report: FitReport,
    keeper: Checkpoint | None,
    tell: Tell,
    notice: Callable[[str], None],
) -> tuple[Projection, MemoryBank, Tally]:
    """Projection and bank in one pass, from the last checkpoint where there is one."""
    total = sum(reader.expected(span, options.fps) for span in spans)
    left = keeper.resume() if keeper else None
    if left:
        projection, coreset, tally = left
        reader.damaged.extend(message for message in tally.damaged if message not in reader.damaged)
        notice(f"went on with an unfinished fit of {tally.frames} frames")
    else:
        frames = reader.sample(spans, options.sample_frames, options.fps, options.seed)
        projection = given or learn_projection(backbone, frames, counts, options, tell)
        coreset, tally = new_coreset(projection, options), Tally()

    def after_batch() -> None:
        tell("filling the bank", tally.frames, total)
        if keeper:
            keeper.save_if_due(projection, coreset, tally)

    fill(coreset, tally, backbone, projection, counts, spans, reader, options.fps, after_batch)
    if not tally.frames:
        raise nothing_left()
    if keeper:
        keeper.save_last(projection, coreset, tally)
    bank = coreset.finish()
    report.coverage = coreset.coverage
    return projection, bank, tally


def _bound_to(
    sources: Sequence[Source],
    excluded: Excluded,
    spec: BackboneSpec,
    weights: Tensors,
    size: tuple[int, int],
    device: str,
    regions: Regions,
    options: FitOptions,
    projection: Projection | None,
) -> dict[str, Any]:
    """All that a half-filled bank hangs on. Footage is told by name, length and time of change: hours of it
    would take minutes to hash.
    """
    settings = {
        f"settings ({name})": value for name, value in asdict(options).items() if name not in _NOT_OF_THE_BANK
    }
    stats = [(source.name, source.path.stat()) for source in sources]
    return {
        "footage": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
        "excluded moments": {
            name: [[start, str(end)] for start, end in spans] for name, spans in excluded.items()
        },
        "backbone": [asdict(spec), tensor_digest(weights), list(size), device],
        "regions": regions.to_json(),
        **settings,
        # One machine goes on with what a cluster began, and the other way round: the bank is the same.
        "settings (shards of so many seconds)": options.shard_length_s,
        "projection": projection and sha256(projection.components.tobytes()).hexdigest(),
        "software": software(),
    }
