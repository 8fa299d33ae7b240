"""What a fitted detector says of the normal footage that was held out, the scale that follows, and what is learned then.

Footage that is kept aside to measure on is footage that the detector has not seen. So once it has been scored,
what the bank covers worst of it is added. No row is taken out for it, hence no frame can score higher than it would have
with the bank that was measured: the false alarms told are those of a detector that knew less.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from anomaly.detector import Recent, rescaled
from anomaly.fitting.filling import learner, new_coreset
from anomaly.fitting.scale import scale_of_scores, scores_of_learned
from anomaly.fitting.scored import Scored
from anomaly.footage.batching import batches, read_ahead
from anomaly.footage.clock import Sampler
from memory_bank import EXACT, MemoryBank, StreamingCoreset, add_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anomaly.detector import Branch, Detector
    from anomaly.fitting.filling import Tally
    from anomaly.fitting.options import FitOptions, FitReport
    from anomaly.fitting.reading import Reader
    from anomaly.fitting.scored import ScoredCheckpoint
    from anomaly.splits import Span
    from anomaly.types import Frame

#: Held-out frames on which half of the bank is compared with all of it, and on which every patch is measured.
_COMPARED_FRAMES = 200
#: So many frames are followed before one is searched as if none had gone before.
_FOLLOWED_FRAMES = 100
#: Of the hold-out so many candidates for each row that may join the bank: many lie where it has rows already.
_CANDIDATES = 2


def rows_before_holdout(options: FitOptions, held: Sequence[Span]) -> FitOptions:
    """The options by which the bank is filled before the hold-out is scored: with room for rows of that."""
    if not _learns(options, held):
        return options
    room = min(round(options.bank_size * options.holdout), options.bank_size - 1)
    return replace(options, bank_size=options.bank_size - room)


def _learns(options: FitOptions, held: Sequence[Span]) -> bool:
    return options.learn_holdout and bool(held) and rows_only_lower(options.reweight, options.index)


def rows_only_lower(reweight: int, index: str) -> bool:
    """Whether a row more in the bank can only lower scores, as it does where a distance is to the nearest row.

    A re-weighted score falls where a patch's nearest row has near neighbours: there more rows may raise scores. So
    they may where the search can pass over the nearest row.
    """
    return not reweight and index in EXACT


def measure_holdout(
    detector: Detector,
    bank: MemoryBank,
    held: Sequence[Span],
    learned: Sequence[Span],
    filled: Tally,
    reader: Reader,
    options: FitOptions,
    report: FitReport,
    tell: Callable[[str, float, float | None], None],
    keeper: ScoredCheckpoint | None = None,
) -> Detector:
    """Score the held-out frames, set the scale, so that an ordinary normal frame scores 1, and learn them then.

    Args:
        detector: with the bank filled.
        bank: as it was filled: float32 also where the detector keeps half precision.
        held, learned: spans; where none of the held can be read the scale comes from the learned.
        filled: what the bank was filled with; what is learned here joins it.
        reader: reads them.
        options: of the fit.
        report: what is found goes in.
        tell: progress.
        keeper: keeps what was scored, and finds what was scored before.

    Returns:
        The detector on its scale, with the rows that the hold-out added.
    """
    branch = detector.branches[0]
    aside = _candidates(branch, bank, options) if _learns(options, held) else None
    scored = Scored()
    left = keeper.resume() if keeper else None
    if left:
        scored, aside = left
        reader.damaged.extend(message for message in scored.damaged if message not in reader.damaged)
    counts = detector.regions.patch_mask(*branch.backbone.grid).ravel()
    learn = learner(aside, branch.backbone.grid, counts) if aside else None
    half = with_half_the_bank(branch)
    recent, recent_half, followed = Recent(), Recent(), 0
    total = sum(reader.expected(span, options.score_fps) for span in held)
    apart = max(1, round(total / _COMPARED_FRAMES))
    frames = _sampled(held, reader, options.score_fps, options.fps, scored.span, scored.frame)
    for batch in read_ahead(batches(frames, branch.backbone.batch)):
        patches = branch.patches([frame.image for _, frame, _ in batch])
        looks = detector.compare(branch, patches, recent)
        for position, ((number, frame, chosen), look) in enumerate(zip(batch, looks, strict=True)):
            scored.span, scored.frame = number, frame.index
            if learn and chosen:
                scored.learned.count(number, frame, learn(frame, patches[position]))
            if len(scored.scores) % apart == 0 and look.counts.any():
                scored.means.append(float(look.distances[look.counts].mean()))
            scored.sources.append(frame.source)
            scored.times.append(frame.pts_s)
            scored.scores.append(look.score)
            scored.largest = max(scored.largest, float(look.bounds.max()))
            if half is not None and len(scored.half) < _COMPARED_FRAMES:
                (lesser,) = detector.compare(half, patches[position : position + 1], recent_half)
                scored.half.append(lesser.score)
        tell("scoring the hold-out", len(scored.scores), total)
        followed += len(batch)
        if followed >= _FOLLOWED_FRAMES:
            # Whoever goes on from a checkpoint has no frame before, either: so the same bits come out.
            recent, recent_half, followed = Recent(), Recent(), 0
            scored.damaged = list(reader.damaged)
            if keeper:
                keeper.save_if_due(scored, aside)
    scored.damaged = list(reader.damaged)
    if keeper:
        keeper.save_last(scored, aside)
    if not scored.scores:
        scores, elsewhere = scores_of_learned(detector, learned, reader, options, tell)
        report.scale, measured = scale_of_scores(bank, scores)
        report.scale_measured = measured and elsewhere
        return detector.with_branches([rescaled(branch, report.scale)])
    scale, report.scale_measured = scale_of_scores(bank, scored.scores)
    report.scale, report.holdout_rows = scale, len(bank)
    report.holdout_mean_distance = float(np.mean(scored.means)) / scale if scored.means else math.nan
    report.holdout_largest_distance = scored.largest / scale
    if scored.half:
        full = float(np.mean(scored.scores[: len(scored.half)]))
        report.gain_of_second_half = 1.0 - full / max(float(np.mean(scored.half)), 1e-9)
    raw: dict[str, list[tuple[float, float]]] = {}
    for name, time_s, score in zip(scored.sources, scored.times, scored.scores, strict=True):
        raw.setdefault(name, []).append((time_s, score))
    for name, series in raw.items():
        times, unscaled = np.array(series).T
        report.holdout[name] = times, unscaled / scale
    if aside and scored.learned.frames:
        branch = replace(branch, bank=_grown(bank, aside, options, report))
        report.relearned = scored.learned.frames
        filled.take_in(scored.learned)
    return detector.with_branches([rescaled(branch, scale)])


def _sampled(
    spans: Sequence[Span],
    reader: Reader,
    fps: float | None,
    learned_fps: float | None,
    after_span: int,
    after_frame: int,
) -> Iterator[tuple[int, Frame, bool]]:
    """Frames at one rate after one that is known, each with its span's number and whether it is among those at the rate
    of what is learned.
    """
    for number, span in enumerate(spans):
        if number < after_span:
            continue
        sampler = Sampler(learned_fps, span.start_s)
        for frame in reader.frames(span, fps):
            chosen = sampler.takes(frame.pts_s)
            if number > after_span or frame.index > after_frame:
                yield number, frame, chosen


def _candidates(branch: Branch, bank: MemoryBank, options: FitOptions) -> StreamingCoreset:
    """An empty coreset for what of the hold-out may join the bank."""
    room = max(options.bank_size - len(bank), 1)
    return new_coreset(
        branch.projection, replace(options, bank_size=_CANDIDATES * room, radius=options.part_radius)
    )


def _grown(bank: MemoryBank, aside: StreamingCoreset, options: FitOptions, report: FitReport) -> MemoryBank:
    """The bank with what it covered worst of the hold-out."""
    extra = aside.finish()
    grown, furthest = add_rows(bank, extra, options.part_radius or 0.0, options.bank_size)
    if report.coverage is not None:
        bound = max(report.coverage.largest_bound, furthest + aside.coverage.largest_bound)
        report.coverage = replace(report.coverage, largest_bound=bound)
    return grown.as_float16() if options.half else grown


def with_half_the_bank(branch: Branch) -> Branch | None:
    """The branch with only the rows of every other moment (a minute, or a clip); None for one moment."""
    bank = branch.bank
    moments = bank.origins.source.astype(np.int64) * 100_000 + (bank.origins.time_s // 60.0).astype(np.int64)
    _, number = np.unique(moments, return_inverse=True)
    rows = np.flatnonzero(number % 2 == 0)
    return replace(branch, bank=bank.subset(rows)) if 0 < len(rows) < len(bank) else None
