"""Labelled footage, scored: what calibrate and evaluate have in common."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.artifact import digest_of
from anomaly.calibration import Event, camera_of, join_events
from anomaly.calibration.certificate import CERTIFYING, CHOSE
from anomaly.calibration.checks import some
from anomaly.commands import console
from anomaly.edge.segment_name import start_of
from anomaly.errors import CalibrationError, FootageError, LabelsError, UsageError
from anomaly.footage.clock import Sampler
from anomaly.footage.damage import refuses
from anomaly.footage.labels import LabeledFootage, load_labels
from anomaly.footage.source import Source, duration_s, under_masks
from anomaly.looks import looks_at, remember
from anomaly.scores import read_series
from anomaly.scoring import Scored, score_sources
from anomaly.thresholds import COARSER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from anomaly.calibration import Series
    from anomaly.config import FootageConfig, LabelsConfig
    from anomaly.looks import Look
    from anomaly.model import Model


#: Frames that are no farther apart than so many times others are not thinned to these: rates are rounded.
_AS_FAR_APART = 1.05


@dataclass(frozen=True)
class ScoredLabels:
    """Labelled footage with its scores.

    Attributes:
        footage: sources and labels.
        events: incidents in the sources that could be scored.
        scored: raw scores of those sources; one that is a copy of another is left out.
        familiar: names of those that the model was fitted on, or that `fit` held out: their normal time is
            no new normal footage.
    """

    footage: LabeledFootage
    events: list[Event]
    scored: list[Scored]
    familiar: frozenset[str]

    @property
    def proving(self) -> frozenset[str]:
        """sha256 of the files with events that certify."""
        clips = {one.source.name: one.digest for one in self.scored}
        return frozenset(clips[event.video] for event in self.events if event.certifies)

    @property
    def seen(self) -> dict[str, str]:
        """sha256 of each file, and identity of its events: whoever sees a result on them has had a look."""
        clips = {one.source.name: one.digest for one in self.scored}
        return seen_in(self.events, clips, clips.keys() - {event.video for event in self.events})


def seen_in(
    events: Sequence[Event], clips: Mapping[str, str], normal: Collection[str] = ()
) -> dict[str, str]:
    """What a look at some events sees, for `anomaly.looks.Look`.

    Args:
        events: labelled.
        clips: sha256 of each file by the name of its source.
        normal: names of those without an event: a budget is spent on them, and whether chance is rare is asked of
            them, so that whoever changes them after a look has tried another setting.
    """
    told: dict[str, list[Any]] = {clips[name]: [] for name in normal}
    for event in events:
        # What a study sets aside to choose with was found as independently as before.
        certifies = event.found in (*CERTIFYING, CHOSE)
        told.setdefault(clips[event.video], []).append(
            {**event.to_json(), "video": "", "found": "" if certifies else event.found}
        )
    return {clip: digest_of(one) for clip, one in told.items()}


def looks_before(model: Model, fps: float | None) -> list[Look]:
    """What was looked at before a certificate of this model is written.

    Its evaluation before it had any threshold is left out: what it is set to now is the first that was compared.
    """
    own = unset(model, fps)
    return [one for one in looks_at(model.folder) if one.setting != own]


def unset(model: Model, fps: float | None) -> str:
    """Identity, among the settings that are looked at, of a model that is not calibrated."""
    return digest_of([model.scoring_digest, fps])


def keep_looks(folder: Path, looks: Sequence[Look]) -> None:
    """Remember what is about to be shown; told, where a model cannot be written."""
    try:
        remember(folder, looks)
    except OSError as error:
        console.warn([f"{folder} cannot be written ({error.strerror}): this look is not counted"])


@contextmanager
def looks_if_refused(folder: Path, looks: Sequence[Look]) -> Iterator[None]:
    """`keep_looks` where it ends in a CalibrationError: why it was refused tells of the scores, too."""
    try:
        yield
    except CalibrationError:
        keep_looks(folder, looks)
        raise


def score_labeled(
    model: Model,
    labels: str,
    videos: str | None,
    footage: FootageConfig,
    settings: LabelsConfig,
    *,
    grids: bool,
) -> ScoredLabels:
    """Read labels, score their footage (from the cache where it is there), and join the events.

    Args:
        model: what scores.
        labels, videos: as on the command line.
        footage, settings: the configuration.
        grids: keep patch distances of sources that have masks.
    """
    if settings.unlisted not in ("ignore", "normal"):
        raise UsageError(f"labels.unlisted={settings.unlisted!r} is not known; choose ignore or normal")
    labeled = load_labels(
        Path(labels),
        Path(videos) if videos else None,
        tolerance_s=settings.tolerance_s,
        unlisted="normal" if settings.unlisted == "normal" else "ignore",
        group=settings.group,
    )
    labeled = replace(labeled, sources=tuple(under_masks(labeled.sources, model.detector.regions.black)))
    console.warn(labeled.notes)
    total = sum(_frames(source, footage.fps) for source in labeled.sources)
    with console.counter("scoring labelled footage", total) as advance:
        scored, problems = score_sources(
            model,
            labeled.sources,
            fps=footage.fps,
            grids=lambda source: grids and _is_measured(labeled, source),
            refuse_damage=refuses(footage.on_error),
            progress=advance,
        )
    console.warn_of_files(problems)
    known = {one.source.name for one in scored}
    if not known:
        raise LabelsError(
            f"not one of the {len(labeled.sources)} labelled sources could be scored; the first: {problems[0]}"
        )
    scored = [replace(one, camera=labeled.cameras.get(one.source.name, "")) for one in scored]
    scored, copies = _without_copies(labeled, scored)
    familiar = _familiar(model, scored)
    normal = sorted(name for name in familiar if not labeled.of(name))
    if normal:
        copies.append(
            f"not new to the model, so no proof of few false alarms, and left out of them: {some(normal)}; "
            "label normal videos that `fit` has not read"
        )
    console.warn(copies)
    kept = {one.source.name for one in scored}
    events = [event for event in join_events(labeled.intervals, settings.gap_s) if event.video in kept]
    joined = _over_joints(events, {one.source.name: one.source.path for one in scored}, settings.gap_s)
    if joined:
        told = sorted({video for pair in joined for video in pair})
        console.warn([f"one incident goes on from one recorded file to the next, counted once: {some(told)}"])
    groups = _with_joints(labeled.groups, joined)
    events = [replace(event, group=groups.get(event.video, "")) for event in events]
    return ScoredLabels(labeled, events, scored, familiar)


def _over_joints(events: Sequence[Event], paths: Mapping[str, Path], gap_s: float) -> list[tuple[str, str]]:
    """Each recorded segment whose event goes on in another, with that one."""
    spans: dict[Path, list[tuple[float, float, str]]] = {}
    for event in events:
        path = paths[event.video]
        start = start_of(path)
        if start is not None:
            camera = path.parent.parent
            spans.setdefault(camera, []).append((start + event.start_s, start + event.end_s, event.video))
    joined = []
    for of_camera in spans.values():
        of_camera.sort()
        for (_, end, video), (start, _, following) in pairwise(of_camera):
            if video != following and start - end <= gap_s:
                joined.append((video, following))
    return joined


def _with_joints(labelled: Mapping[str, str], joined: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The group of each video: as labelled, and one for all that a joint holds together, their groups included."""
    groups = dict(labelled)
    for first, second in joined:
        one, other = (groups.setdefault(video, video) for video in (first, second))
        groups = {video: one if group == other else group for video, group in groups.items()}
    return groups


def apart(
    series: Sequence[Series], events: Sequence[Event], familiar: Collection[str] = ()
) -> tuple[list[Series], list[Series]]:
    """(series with an event, series without): the latter are normal footage that nothing was learned from."""
    with_events = {event.video for event in events}
    return (
        [one for one in series if one.source in with_events],
        [one for one in series if one.source not in with_events and one.source not in familiar],
    )


def held_out(model: Model, fps: float | None, steps: Mapping[str, float]) -> list[Series]:
    """The scores that `fit` held out, of as many frames a second as are looked at now.

    Of more frames smoothing leaves less that alarms by chance: `fit` at ten a second tells too little of two.

    Args:
        model: loaded.
        fps: the most frames a second that are taken.
        steps: seconds between those of the labelled videos, as `steps_of` gives them: files may have fewer.
    """
    return [as_seldom(one, fps, steps) for one in read_series(model.folder, "holdout")]


def as_seldom(normal: Series, fps: float | None, steps: Mapping[str, float]) -> Series:
    """Normal footage, held out or labelled, with as few frames as `held_out` tells of."""
    step_s = max(_step_s(normal.camera, steps), 1 / fps if fps else 0.0)
    if not normal.interval_s or step_s <= _AS_FAR_APART * normal.interval_s:
        return normal
    sampler = Sampler(1 / step_s, float(normal.times[0]))
    taken = np.array([sampler.takes(time_s) for time_s in normal.times.tolist()])
    return replace(normal, times=normal.times[taken], scores=normal.scores[taken])


def _step_s(camera: str, steps: Mapping[str, float]) -> float:
    return steps.get(camera, max(steps.values(), default=0.0))


def seen_seldom(normal: Sequence[Series], steps: Mapping[str, float]) -> list[str]:
    """What to say where normal footage has fewer frames than the labelled: what is brief was mostly passed over in it.

    Args:
        normal: held-out and labelled normal footage.
        steps: as for `held_out`.
    """
    times = {one.source: one.interval_s / (_step_s(one.camera, steps) or math.inf) for one in normal}
    seldom = [name for name, more in times.items() if more > COARSER]
    if not seldom:
        return []
    return [
        f"Normal footage that false alarms are counted on has up to {max(times.values()):.2g} times fewer frames a second than the "
        f"labelled videos ({some(seldom)}): what is brief was mostly passed over there, and false alarms and chance hits may be as many times "
        "those told, above the bound, too. Hold out footage that has as many."
    ]


def steps_of(series: Sequence[Series], events: Sequence[Event], each: bool) -> dict[str, float]:
    """Usual (median) mean time between frames of the videos that certify, in seconds; of all with events where none does.

    The longest would let one clip that was seen seldom speak for all footage seen so.

    Args:
        series, events: labelled.
        each: by camera; else one for all, called as the camera of footage without a folder.
    """
    certifying = [event for event in events if event.certifies] or events
    named = {event.video for event in certifying}
    steps: dict[str, list[float]] = {}
    for one in series:
        if one.source in named and one.interval_s:
            steps.setdefault(one.camera if each else camera_of(""), []).append(one.interval_s)
    return {camera: median_low(some) for camera, some in steps.items()}


def pooled_folders(series: Sequence[Series], events: Sequence[Event], normal: Sequence[Series]) -> list[str]:
    """What to say where footage of several folders counts as one camera's, though they may well be cameras.

    Folders of cameras hold normal footage and anomalies. Those of a set by kinds of anomaly, as MVTec AD's, hold no normal
    footage but in one.

    Args:
        series: that have an event, of a calibration that does not tell cameras apart.
        events: labelled.
        normal: held-out and labelled normal footage.
    """
    with_events = {event.video for event in events}
    anomalous = {one.camera for one in series if one.source in with_events}
    folders = {one.camera for one in normal} - {camera_of("")}
    if len(folders) < 2 or not folders & anomalous:
        return []
    return [
        f"Footage of {len(folders)} folders ({some(sorted(folders))}) was pooled as one camera's. Where each is a camera, name it in the "
        "labels' column `camera` (or set calibration.cameras=folder): each is then judged by itself."
    ]


def of_cameras(holdout: Sequence[Series], cameras: Collection[str]) -> list[Series]:
    """The held-out footage of some cameras; told, where there is other footage, which is not used."""
    others = [one.source for one in holdout if one.camera not in cameras]
    if others:
        console.warn(
            [
                f"held-out footage of none of the cameras ({', '.join(sorted(cameras))}), not used: {some(others)}; "
                "fit on a folder that holds a folder for each camera"
            ]
        )
    return [one for one in holdout if one.camera in cameras]


def _without_copies(labeled: LabeledFootage, scored: Sequence[Scored]) -> tuple[list[Scored], list[str]]:
    """Each file once, and what is to be told of the others: the same bytes under two names are one clip.

    Raises:
        LabelsError: two copies with different labels, or of different cameras.
    """
    first: dict[str, str] = {}
    kept, copies = [], []
    for one in scored:
        name, original = one.source.name, first.setdefault(one.digest, one.source.name)
        if name == original:
            kept.append(one)
            continue
        said, again = (
            [(i.start_s, i.end_s, i.label, i.found) for i in labeled.of(video)] for video in (original, name)
        )
        if said != again:
            raise LabelsError(
                f"{labeled.origin}: {name} is a copy of {original} with other labels; a clip counts once, so give "
                "one of them all its labels and remove the other"
            )
        copies.append(name)
    told = f"copies of other labelled files, left out because a clip counts once: {some(copies)}"
    return kept, [told] if copies else []


def _familiar(model: Model, scored: Sequence[Scored]) -> frozenset[str]:
    told = model.description
    digests = {str(one["sha256"]) for one in told["fitted_on"]} | set(told["fit"].get("holdout_sha256", ()))
    return frozenset(one.source.name for one in scored if one.digest in digests)


def _is_measured(labeled: LabeledFootage, source: Source) -> bool:
    """Whether pixels of a source can be held against masks: it has some, or is a normal picture beside such."""
    return source.name in labeled.masks or (
        bool(labeled.masks) and source.kind == "image" and not labeled.of(source.name)
    )


def _frames(source: Source, fps: float | None) -> float:
    try:
        seconds = duration_s(source)
    except FootageError:
        return 0
    return 1 if seconds is None else max(1.0, seconds * (fps or 25.0))
