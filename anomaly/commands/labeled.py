"""Labelled footage, scored: what calibrate and evaluate have in common."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly.artifact import digest_of
from anomaly.calibration import Event, join_events
from anomaly.calibration.certificate import CERTIFYING, CHOSE
from anomaly.calibration.checks import some
from anomaly.commands import console
from anomaly.edge.segment_name import start_of
from anomaly.errors import CalibrationError, FootageError, LabelsError, UsageError
from anomaly.footage.damage import refuses
from anomaly.footage.labels import LabeledFootage, load_labels
from anomaly.footage.source import Source, duration_s, under_masks
from anomaly.looks import looks_at, remember
from anomaly.scoring import Scored, score_sources

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from anomaly.config import FootageConfig, LabelsConfig
    from anomaly.looks import Look
    from anomaly.model import Model


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
