"""Learning what is normal: from footage to a detector that knows its bank, but no threshold yet."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from anomaly.backbone import Backbone, BackboneSpec, choose_input_size
from anomaly.detector import Branch, Detector, rescaled
from anomaly.errors import DamagedFootageError, FootageError, NoFootageError, UsageError
from anomaly.footage.batching import batches, read_ahead
from anomaly.footage.source import SourceInfo, probe, read_frame_at, read_frames
from anomaly.projection import Projection, fit_projection
from anomaly.splits import Span, is_excluded, plan_holdout
from memory_bank import MemoryBank, StreamingCoreset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from anomaly.decider import DeciderConfig
    from anomaly.footage.source import Source
    from anomaly.regions import Regions
    from anomaly.types import Frame
    from anomaly.weights import Tensors
    from memory_bank import Coverage

    Excluded = Mapping[str, Sequence[tuple[float, float]]]


#: Held-out frames on which half of the bank is compared with all of it.
_COMPARED_FRAMES = 200


@dataclass(frozen=True)
class FitOptions:
    """Settings of a fit; see `configs/fit.yaml` for what each does."""

    fps: float | None = 5.0
    score_fps: float | None = 10.0
    holdout: float = 0.2
    guard_s: float = 2.0
    dims: int = 100
    shrinkage: float = 0.1
    sample_frames: int = 200
    bank_size: int = 15_000
    radius: float | None = None
    top_share: float = 0.01
    seed: int = 0
    refuse_damage: bool = False

    def __post_init__(self) -> None:
        for key, value in (
            ("bank.size", self.bank_size),
            ("projection.dims", self.dims),
            ("projection.sample_frames", self.sample_frames),
        ):
            if value < 1:
                raise UsageError(f"{key}={value} is too small; give 1 or more")
        if self.radius is not None and not self.radius > 0:
            raise UsageError(f"bank.radius={self.radius} is no distance; give one above 0, or use bank.size")
        if not 0 <= self.shrinkage <= 1:
            raise UsageError(f"projection.shrinkage={self.shrinkage} is outside 0..1; give for instance 0.1")
        if not self.guard_s >= 0:
            raise UsageError(f"fit.guard_s={self.guard_s} is negative; give seconds, 0 or more")


@dataclass
class FitReport:
    """What a fit did, for the person who started it.

    Attributes:
        sources: name, frames learned, seconds and codec of each source used.
        frames, patches: learned from.
        coverage: how far fitted patches are from their nearest row, in distance before scaling.
        scale: distance that a score of 1 stands for.
        holdout: per source: times (n,) and scores (n,) of held-out frames.
        holdout_mean_distance, holdout_largest_distance: of held-out patches to their nearest row,
            divided by the scale.
        gain_of_second_half: by what share the second half of the learned footage lowered the
            hold-out scores; near 0 = more footage would add little.
        damaged: messages about files that could not be read, or not to the end.
        seconds: wall time.
    """

    sources: dict[str, dict[str, float | int | str]] = field(default_factory=dict)
    frames: int = 0
    patches: int = 0
    coverage: Coverage | None = None
    scale: float = 1.0
    holdout: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)
    holdout_mean_distance: float = math.nan
    holdout_largest_distance: float = math.nan
    gain_of_second_half: float = math.nan
    damaged: list[str] = field(default_factory=list)
    seconds: float = 0.0


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
    progress: Callable[[str, float, float | None], None] | None = None,
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
        progress: called with (what is being done, units done so far, units in all or None).

    Returns:
        The detector, and what was done.

    Raises:
        NoFootageError: nothing readable, or nothing left to learn from.
        DamagedFootageError: a damaged file, where damage is to be refused.
    """
    started = time.perf_counter()
    report = FitReport()
    tell = progress or (lambda what, done, total: None)
    excluded = excluded or {}
    usable, infos = _probe(sources, options, report, tell)
    size = input_size or choose_input_size(spec, _typical_size(infos.values()))
    backbone = Backbone(spec, weights, size, device)
    counts = regions.patch_mask(*backbone.grid).ravel()
    durations = {name: info.duration_s for name, info in infos.items()}
    learned, held = plan_holdout(usable, durations, options.holdout, options.guard_s, options.seed)

    sample = _sample_frames(learned, durations, excluded, options, report)
    projection = _learn_projection(backbone, sample, counts, options, tell)
    bank = _fill_bank(backbone, projection, learned, durations, excluded, counts, options, report, tell)
    branch = Branch("appearance", backbone, projection, bank, 1.0, options.top_share)
    detector = Detector([branch], regions, decider)
    detector = _measure_holdout(detector, held, learned, excluded, durations, options, report, tell)
    report.seconds = time.perf_counter() - started
    return detector, report


def _probe(
    sources: Sequence[Source],
    options: FitOptions,
    report: FitReport,
    tell: Callable[[str, float, float | None], None],
) -> tuple[list[Source], dict[str, SourceInfo]]:
    usable: list[Source] = []
    infos: dict[str, SourceInfo] = {}
    for index, source in enumerate(sources):
        tell("reading headers", index, len(sources))
        try:
            infos[source.name] = probe(source)
        except FootageError as error:
            if options.refuse_damage:
                raise
            report.damaged.append(str(error))
            continue
        usable.append(source)
    if not usable:
        first = f" ({report.damaged[0]})" if report.damaged else ""
        raise NoFootageError(
            f"none of {len(sources)} sources can be read{first}; give footage that FFmpeg or OpenCV reads"
        )
    return usable, infos


def _typical_size(infos: Iterable[SourceInfo]) -> tuple[int, int]:
    """Median height and width: one odd picture in a folder does not shape the network's input."""
    sizes = np.array([(info.height, info.width) for info in infos])
    height, width = np.median(sizes, axis=0)
    return round(float(height)), round(float(width))


def span_frames(
    span: Span,
    fps: float | None,
    options: FitOptions,
    report: FitReport,
    excluded: Excluded | None = None,
) -> Iterator[Frame]:
    """Frames of a span, without excluded moments; damage is reported once, or refused."""

    def on_damage(message: str) -> None:
        if options.refuse_damage:
            raise DamagedFootageError(message)
        if message not in report.damaged:
            report.damaged.append(message)

    skip = (excluded or {}).get(span.source.name, ())
    end = None if math.isinf(span.end_s) else span.end_s
    for frame in read_frames(span.source, fps=fps, start_s=span.start_s, end_s=end, on_damage=on_damage):
        if not is_excluded(skip, frame.pts_s):
            yield frame


def _sample_frames(
    spans: Sequence[Span],
    durations: Mapping[str, float | None],
    excluded: Excluded,
    options: FitOptions,
    report: FitReport,
) -> Iterator[Frame]:
    """About `sample_frames` frames, spread evenly over the footage to learn from."""
    lengths = np.array([_length(span, durations) for span in spans])
    total = lengths.sum()
    rng = np.random.default_rng(options.seed)
    for span, length in zip(spans, lengths, strict=True):
        wanted = (
            max(1, round(options.sample_frames * length / total))
            if len(spans) <= options.sample_frames
            else 1
        )
        if len(spans) > options.sample_frames and rng.random() > options.sample_frames / len(spans):
            continue
        if span.source.kind == "image":
            yield from span_frames(span, None, options, report, excluded)
            continue
        wanted = min(wanted, max(1, round(_expected_frames(span, durations, options.fps))))
        # One frame from the middle of each of `wanted` equal parts.
        for part in range(wanted):
            moment = span.start_s + length * (part + 0.5) / wanted
            if is_excluded(excluded.get(span.source.name, ()), moment):
                continue
            try:
                yield read_frame_at(span.source, moment)
            except FootageError:
                continue  # the pass over all frames reports the damage


def _length(span: Span, durations: Mapping[str, float | None]) -> float:
    if math.isfinite(span.end_s):
        return max(span.end_s - span.start_s, 1e-3)
    known = durations.get(span.source.name)
    return max((known or 1.0) - span.start_s, 1e-3)


def _learn_projection(
    backbone: Backbone,
    frames: Iterable[Frame],
    counts: NDArray[np.bool_],
    options: FitOptions,
    tell: Callable[[str, float, float | None], None],
) -> Projection:
    sample = []
    done = 0
    for batch in read_ahead(batches(frames, backbone.batch)):
        features = backbone.extract([frame.image for frame in batch])[:, counts]
        sample.append(features.reshape(-1, features.shape[-1]).astype(np.float16))
        done += len(batch)
        tell("learning the projection", done, options.sample_frames)
    if not sample:
        raise NoFootageError(
            "no frame is left to learn from; the exclusions (--except, fit.drop) cover all of it"
        )
    return fit_projection(np.concatenate(sample).astype(np.float32), options.dims, options.shrinkage)


def _fill_bank(
    backbone: Backbone,
    projection: Projection,
    spans: Sequence[Span],
    durations: Mapping[str, float | None],
    excluded: Excluded,
    counts: NDArray[np.bool_],
    options: FitOptions,
    report: FitReport,
    tell: Callable[[str, float, float | None], None],
) -> MemoryBank:
    coreset = StreamingCoreset(
        size=None if options.radius else options.bank_size,
        radius=options.radius,
        dim=projection.dim,
        metric="euclidean",
        seed=options.seed,
    )
    gh, gw = backbone.grid
    patch = np.flatnonzero(counts).astype(np.int32)
    y = ((patch // gw + 0.5) / gh).astype(np.float32)
    x = ((patch % gw + 0.5) / gw).astype(np.float32)
    total = sum(_expected_frames(span, durations, options.fps) for span in spans)
    all_frames = (
        frame for span in spans for frame in span_frames(span, options.fps, options, report, excluded)
    )
    for batch in read_ahead(batches(all_frames, backbone.batch)):
        features = projection.apply(backbone.extract([frame.image for frame in batch]))[:, counts]
        for frame, rows in zip(batch, features, strict=True):
            coreset.add(
                rows, source=frame.source, frame=frame.index, time_s=frame.pts_s, y=y, x=x, patch=patch,
                camera=frame.camera,
            )  # fmt: skip
            learned = report.sources.setdefault(frame.source, {"frames": 0, "last_s": 0.0})
            learned["frames"] = int(learned["frames"]) + 1
            learned["last_s"] = frame.pts_s
        report.frames += len(batch)
        report.patches += len(batch) * len(patch)
        tell("filling the bank", report.frames, total)
    if not report.frames:
        raise NoFootageError(
            "no frame is left to learn from; the exclusions (--except, fit.drop) cover all of it"
        )
    bank = coreset.finish()
    report.coverage = coreset.coverage
    return bank


def _expected_frames(span: Span, durations: Mapping[str, float | None], fps: float | None) -> float:
    return 1 if span.source.kind == "image" else max(1.0, _length(span, durations) * (fps or 25.0))


def _measure_holdout(
    detector: Detector,
    held: Sequence[Span],
    learned: Sequence[Span],
    excluded: Excluded,
    durations: Mapping[str, float | None],
    options: FitOptions,
    report: FitReport,
    tell: Callable[[str, float, float | None], None],
) -> Detector:
    """Score the held-out frames and set the scale, so that an ordinary normal frame scores 1."""
    branch = detector.branches[0]
    half = _with_half_the_bank(branch)
    raw: dict[str, list[tuple[float, float]]] = {}
    full_scores: list[float] = []
    half_scores: list[float] = []
    means: list[float] = []
    largest = 0.0
    # Without anything held out the scale comes from what was learned: better than none, and said.
    spans, fps = (held, options.score_fps) if held else (learned[:20], options.fps)
    total = sum(_expected_frames(span, durations, fps) for span in spans)
    frames = (frame for span in spans for frame in span_frames(span, fps, options, report, excluded))
    done = 0
    for batch in read_ahead(batches(frames, branch.backbone.batch)):
        patches = branch.patches([frame.image for frame in batch])
        looks = detector.compare(branch, patches)
        for position, (frame, look) in enumerate(zip(batch, looks, strict=True)):
            raw.setdefault(frame.source, []).append((frame.pts_s, look.score))
            full_scores.append(look.score)
            means.append(float(look.distances[look.counts].mean()))
            largest = max(largest, float(look.distances[look.counts].max()))
            if half is not None and len(half_scores) < _COMPARED_FRAMES:
                half_scores.append(detector.compare(half, patches[position : position + 1])[0].score)
        done += len(batch)
        tell("scoring the hold-out" if held else "scoring", done, total)
    if not full_scores:
        return detector
    scale = max(float(np.median(full_scores)), 1e-6)
    report.scale = scale
    report.holdout_mean_distance = float(np.mean(means)) / scale
    report.holdout_largest_distance = largest / scale
    if half_scores:
        full = float(np.mean(full_scores[: len(half_scores)]))
        report.gain_of_second_half = 1.0 - full / max(float(np.mean(half_scores)), 1e-9)
    if held:
        for name, series in raw.items():
            times, scores = np.array(series).T
            report.holdout[name] = times, scores / scale
    return Detector([rescaled(branch, scale)], detector.regions, detector.decider.config)


def _with_half_the_bank(branch: Branch) -> Branch | None:
    """The branch with only the rows of every other moment (a minute, or a clip); None for one moment."""
    bank = branch.bank
    moments = bank.origins.source.astype(np.int64) * 100_000 + (bank.origins.time_s // 60.0).astype(np.int64)
    _, number = np.unique(moments, return_inverse=True)
    rows = np.flatnonzero(number % 2 == 0)
    if not 0 < len(rows) < len(bank):
        return None
    part = MemoryBank(bank.rows[rows], bank.origins.take(rows), bank.metric, bank.sources, bank.cameras)
    return replace(branch, bank=part)
