"""Gathering evidence at calibration: which frames a certificate can be checked on, within the bytes allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from anomaly.calibration import Decided, Event, decide
from anomaly.calibration.windows import EventWindow, as_after_ordinary, event_windows
from anomaly.decider.machine import TIME_RESOLUTION_S
from anomaly.errors import FootageError
from anomaly.evidence import FOLDER, SETTLED, Evidence, Stretch, png
from anomaly.footage.source import read_frames
from anomaly.model import software

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.calibration import Calibration
    from anomaly.model import Model
    from anomaly.scoring import Scored
    from anomaly.thresholds import Threshold
    from anomaly.types import ImageArray

#: Normal frames kept: so many spread over the footage, and as many of the highest scores.
_SPREAD, _HIGHEST = 32, 16
#: Share of the allowed bytes that normal frames, and that patch features, may take.
_NORMAL_SHARE, _FEATURES_SHARE = 0.25, 0.125
_MOST_FEATURES = 16
#: Seconds around a label that are not taken for normal: traces outlast labels.
_GUARD_S = 2.0
#: What an ordinary frame scores, about.
_ORDINARY = 1.0


def collect_evidence(
    model: Model,
    calibration: Calibration,
    threshold: Threshold,
    scored: Sequence[Scored],
    *,
    fps: float | None,
    runtime: str,
    max_mb: float,
    progress: Callable[[int], None] | None = None,
) -> tuple[Evidence, dict[str, bytes]]:
    """Choose, decode and look at the frames that the certificate can be checked on.

    The events that score lowest come first: they carry the certificate. Those for which the allowed bytes
    do not suffice are counted and left out.

    Args:
        model: what was calibrated.
        calibration: its result; of cameras with thresholds of their own, events as these were set by.
        threshold: that it sets (`threshold_of`).
        scored: the labelled footage with its scores.
        fps: the sampling rate.
        runtime: what the scores were made with.
        max_mb: bytes of pictures and arrays in all, in millions.
        progress: called with the number of frames done since the last call.

    Returns:
        The evidence, for `save_evidence`, and its pictures (PNG) by name.
    """
    branch, limit = model.detector.branches[0], max_mb * 1e6
    n_patches = branch.backbone.grid[0] * branch.backbone.grid[1]
    by_name = {one.source.name: one for one in scored}
    decided = {
        name: decide(
            replace(one.series, scores=threshold.of(name, one.series.camera).scaled(one.series.scores)),
            calibration.config,
        )
        for name, one in by_name.items()
    }
    numbers = {name: number for number, name in enumerate(by_name)}
    album = _Album(numbers, model, threshold, progress or (lambda _: None))
    normal: list[Stretch] = []
    samples: list[NDArray[np.float16]] = []
    most_features = min(
        _MOST_FEATURES, int(_FEATURES_SHARE * limit / (2 * n_patches * branch.projection.dim))
    )
    for name, frame in _normal_frames(scored, calibration):
        stretch = album.take(by_name[name], slice(frame, frame + 1), _NORMAL_SHARE * limit)
        if stretch is None:
            continue
        if len(normal) < most_features:
            samples.append(branch.patches(album.last)[0].astype(np.float16))
            album.taken += samples[-1].nbytes
        normal.append(stretch)
    outcomes = sorted(
        (one for one in calibration.events if np.isfinite(one.score)), key=lambda one: one.score
    )
    labelled = [one.event for one in calibration.events]
    series_of = {name: one.series for name, one in decided.items()}
    windows = dict(zip(labelled, event_windows(labelled, series_of, calibration.tolerance_s), strict=True))
    events = []
    for outcome in outcomes:
        name, window = outcome.event.video, windows[outcome.event]
        frames = event_needs(window, decided[name])
        stretch = album.take(by_name[name], frames, limit)
        if stretch is None:
            continue
        first, series = frames.start, decided[name].series
        before = (float(series.times[first - 1]), float(decided[name].smoothed[first - 1])) if first else None
        stretch = replace(stretch, event=outcome.event, before=before)
        if window.fresh:
            excess = stretch.decision_score(calibration.config) - outcome.score
            stretch = replace(stretch, excess=excess)
        events.append(stretch)
    evidence = Evidence(
        folder=model.folder / FOLDER,
        runtime=runtime,
        scoring_digest=model.scoring_digest,
        decider=calibration.config,
        threshold=float(threshold.document["threshold"]),
        fps=fps,
        grid=branch.backbone.grid,
        counts=model.detector.regions.patch_mask(*branch.backbone.grid).ravel(),
        top_share=branch.top_share,
        stretches=(*events, *normal),
        features=np.stack(samples)
        if samples
        else np.empty((0, n_patches, branch.projection.dim), np.float16),
        left_out=len(outcomes) - len(events),
        digests={},
        software=software(),
        calibration=threshold.document["calibration"],
    )
    return evidence, album.images


def event_needs(window: EventWindow, decided: Decided) -> slice:
    """The frames that an event's score needs: up to its highest decision score, from where that has settled.

    One that is scored as if ordinary footage had gone before has that where it would be then.
    """
    frames, config, times = window.frames, decided.config, decided.series.times
    decision = decided.decision[frames]
    if window.fresh:
        decision = as_after_ordinary(decided.series, decided.smoothed, frames, config, _ORDINARY)
    peak = frames.start + int(decision.argmax())
    lead_s = config.min_duration_s + SETTLED * config.smoothing_s
    first = int(np.searchsorted(times, times[peak] - lead_s + TIME_RESOLUTION_S, side="right")) - 1
    return slice(max(first, 0), peak + 1)


@dataclass
class _Album:
    """The pictures gathered so far.

    Attributes:
        numbers: of each source, for the names of its pictures.
        model: what looks at them.
        threshold: for that of each source's camera.
        progress: told the frames done.
        images: PNG by name.
        taken: bytes so far.
        last: the pictures of the stretch taken last.
    """

    numbers: Mapping[str, int]
    model: Model
    threshold: Threshold
    progress: Callable[[int], None]
    images: dict[str, bytes] = field(default_factory=dict)
    taken: int = 0
    last: list[ImageArray] = field(default_factory=list)

    def take(self, one: Scored, frames: slice, allowed: float) -> Stretch | None:
        """A stretch, its pictures added; None where it cannot be read again, or more than `allowed` bytes."""
        expected = (frames.stop - frames.start) * self.taken / max(len(self.images), 1)
        if self.taken + 0.8 * expected > allowed:
            return None  # not worth decoding
        try:
            pictures = _decoded(one, frames)
        except FootageError:
            return None
        number = self.numbers[one.source.name]
        files = [f"frames/{number:05d}_{index:07d}.png" for index in one.frames[frames].tolist()]
        new = {
            file: png(image) for file, image in zip(files, pictures, strict=True) if file not in self.images
        }
        detector = self.model.detector
        gh, gw = detector.branches[0].backbone.grid
        weight = sum(map(len, new.values())) + 4 * gh * gw * len(files)
        if self.taken + weight > allowed:
            return None
        self.taken += weight
        self.images.update(new)
        self.last = pictures
        own = self.threshold.of(one.source.name, one.series.camera)
        looks, batch = [], detector.branches[0].backbone.batch
        for start in range(0, len(pictures), batch):
            looks += detector.look(pictures[start : start + batch])
            self.progress(min(batch, len(pictures) - start))
        return Stretch(
            source=one.source.name,
            camera=one.series.camera,
            still=one.source.kind == "image",
            event=None,
            files=tuple(files),
            times=one.times[frames],
            scores=one.scores[frames],
            distances=np.stack([look.distances for look in looks]),
            threshold=float(own.value or 0.0),
            scale=own.scale,
        )


def _decoded(one: Scored, frames: slice) -> list[ImageArray]:
    """The pictures of some consecutive sampled frames.

    Raises:
        FootageError: they are not to be had, or not the same any more.
    """
    wanted = one.frames[frames].tolist()
    indices = set(wanted)
    if one.source.kind == "image":
        return [frame.image for frame in read_frames(one.source)]
    times = one.times[frames]
    found = {
        frame.index: frame.image
        for frame in read_frames(
            one.source,
            start_s=float(times[0]),
            end_s=float(times[-1]) + TIME_RESOLUTION_S,
            on_damage=lambda _: None,
        )
        if frame.index in indices
    }
    if len(found) != len(wanted):
        raise FootageError(f"{one.source.name!r} changed while it was read; calibrate again")
    return [found[index] for index in wanted]


def _normal_frames(scored: Sequence[Scored], calibration: Calibration) -> list[tuple[str, int]]:
    """(source, frame) of normal frames: some spread over all labelled footage outside events, and the highest."""
    events: dict[str, list[Event]] = {}
    for outcome in calibration.events:
        events.setdefault(outcome.event.video, []).append(outcome.event)
    found: list[tuple[str, int, float]] = []
    for one in scored:
        outside = np.ones(len(one.times), bool)
        for event in events.get(one.source.name, ()):
            outside &= (one.times < event.start_s - _GUARD_S) | (one.times >= event.end_s + _GUARD_S)
        found += [(one.source.name, i, float(one.scores[i])) for i in np.flatnonzero(outside).tolist()]
    spread = np.unique(np.linspace(0, len(found) - 1, min(_SPREAD, len(found))).round().astype(int)).tolist()
    highest = sorted(range(len(found)), key=lambda i: -found[i][2])[:_HIGHEST]
    return [found[i][:2] for i in dict.fromkeys([*spread, *highest])]
