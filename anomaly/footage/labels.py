"""Labels in: a CSV of intervals or moments, or folders of images by kind, matched with the footage they name.

Overlapping intervals of one video are one incident and are joined (`join_overlapping`); the same row twice
is an error. An interval that ends up to a second after its video is clipped, one that ends later is an error.
Videos that the CSV does not name are left out, or count as normal if `unlisted="normal"`. All that was
changed or left out is told in `notes`.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

from anomaly.errors import FootageError, LabelsError, NoFootageError
from anomaly.footage.datasets import MASKS_FOLDER, read_image_folders
from anomaly.footage.intervals import join_overlapping
from anomaly.footage.label_csv import LabelRow, read_label_rows
from anomaly.footage.masks import read_mask
from anomaly.footage.source import Source, duration_s, find_sources
from anomaly.types import Interval

__all__ = ["LabeledFootage", "load_labels", "read_mask"]

# Players and labellers round; a file's stated length is rounded too.
_PAST_THE_END_S = 1.0
# Beside a CSV: one `.npz` of masks for each video (see `anomaly.footage.masks`).
_VIDEO_MASKS_FOLDER = "masks"


@dataclass(frozen=True)
class LabeledFootage:
    """Footage with labels.

    Attributes:
        sources: the labelled videos or images; one without intervals is known to be normal.
        intervals: anomalies, by source then start, disjoint within a video (but those that the detector found may
            overlap those that it did not). An anomalous image has one of 0 to infinity.
        masks: `Source.name` to a file for `read_mask`, for those that have one.
        origin: the CSV or folder they came from.
        cameras: `Source.name` to the camera that its rows name, for those that name one.
        groups: `Source.name` to the incident that it shows, for those that share it with others.
        notes: one line each, what the user should be told.
    """

    sources: tuple[Source, ...]
    intervals: tuple[Interval, ...]
    masks: Mapping[str, Path]
    origin: Path
    notes: tuple[str, ...] = ()
    cameras: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    _by_video: dict[str, tuple[Interval, ...]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        for interval in self.intervals:
            self._by_video[interval.video] = (*self._by_video.get(interval.video, ()), interval)

    def of(self, name: str) -> tuple[Interval, ...]:
        """Intervals of one source, by start; none for a normal one."""
        return self._by_video.get(name, ())


def load_labels(
    labels: str | Path,
    videos: str | Path | None = None,
    *,
    tolerance_s: float = 1.0,
    unlisted: Literal["ignore", "normal"] | None = "ignore",
    need_anomaly: bool = True,
    group: str = "",
    progress: Callable[[int], None] | None = None,
) -> LabeledFootage:
    """Read labels and find the footage they name.

    Args:
        labels: a CSV (`anomaly.footage.label_csv`) or a folder in MVTec AD's layout (`.datasets`).
        videos: folder below which the CSV's names are looked up; the CSV's own folder if None.
            A name is a relative path, or a file name that occurs once below it.
        tolerance_s: seconds by which a moment is widened to both sides.
        unlisted: what becomes of videos that the CSV does not name; None = left out and not told, where others decide
            what becomes of them.
        need_anomaly: refuse labels without one anomaly.
        group: regular expression, searched in the names of sources that no row names a group of: its first group
            names the incident (or part) that a source shows.
        progress: called with 1 for each video checked.

    Raises:
        LabelsError: see the module; one line with the file, the line and the remedy.
    """
    path = Path(labels).expanduser()
    if path.is_dir():
        if videos is not None:
            raise LabelsError(
                f"{path} is a folder of labelled images, --videos {videos} does not go with it; drop one"
            )
        loaded = _from_folders(path)
    else:
        loaded = _from_csv(
            path, Path(videos).expanduser() if videos else path.parent, tolerance_s, unlisted, progress
        )
    if need_anomaly and not loaded.intervals:
        raise LabelsError(
            f"{path} labels not one anomaly; label at least one, or there is nothing to measure recall on"
        )
    return replace(loaded, groups={**_named_alike(loaded, group), **loaded.groups}) if group else loaded


def _named_alike(loaded: LabeledFootage, group: str) -> dict[str, str]:
    """The group of each source whose name tells one."""
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise LabelsError(f"labels.group={group!r} is no regular expression ({error}); correct it") from None
    if not pattern.groups:
        raise LabelsError(
            f"labels.group={group!r} has no brackets; put some around what the names of one part share, such as "
            "'(part[0-9]+)_'"
        )
    found = {source.name: pattern.search(source.name) for source in loaded.sources}
    groups = {name: match[1] for name, match in found.items() if match and match[1]}
    anomalous = [interval.video for interval in loaded.intervals]
    if anomalous and not any(name in groups for name in anomalous):
        raise LabelsError(
            f"labels.group={group!r} is found in no name of a labelled anomaly, such as {anomalous[0]}; correct it"
        )
    return groups


def _from_folders(folder: Path) -> LabeledFootage:
    found = read_image_folders(folder)
    intervals = tuple(
        Interval(source.name, 0.0, math.inf, found.kinds[source.name])
        for source in found.sources
        if source.name in found.kinds
    )
    return LabeledFootage(found.sources, intervals, found.masks, folder, found.notes)


def _from_csv(
    path: Path,
    root: Path,
    tolerance_s: float,
    unlisted: Literal["ignore", "normal"] | None,
    progress: Callable[[int], None] | None,
) -> LabeledFootage:
    if not (tolerance_s > 0 and math.isfinite(tolerance_s)):
        raise LabelsError(
            f"labels.tolerance_s is {tolerance_s}; give seconds above 0, a moment alone has no length"
        )
    rows, moments = read_label_rows(path)
    if not root.is_dir():
        raise LabelsError(
            f"--videos {root} is no folder; give the folder that the names in {path} start from"
        )
    footage = _Footage(root)
    named = _rows_by_video(path, rows, footage)
    notes: list[str] = []
    intervals: list[Interval] = []
    for name, of_video in named.items():
        widen_s = tolerance_s if moments else 0.0
        intervals += _intervals(path, footage.by_name[name], of_video, widen_s, notes)
        if progress is not None:
            progress(1)
    joined, overlaps = join_overlapping(intervals)
    if overlaps:
        notes.append(f"{_count(overlaps, 'label')} overlapped an earlier one and joined it: one incident")
    sources = [footage.by_name[name] for name in named]
    kinds = {source.kind for source in sources}
    left = [source for source in footage.all if source.name not in named and source.kind in kinds]
    if left and unlisted is not None:
        what = "video" if kinds == {"video"} else "file"
        fate = "taken as normal" if unlisted == "normal" else "left out"
        notes.append(f"not named in {path.name} and {fate}: {_count(len(left), what)}")
    if unlisted == "normal":
        sources += left
    masks = _video_masks(path.parent, sources)
    return LabeledFootage(
        tuple(sources), joined, masks, path, tuple(notes), _cameras(path, named), _groups(path, named)
    )


def _rows_by_video(path: Path, rows: Sequence[LabelRow], footage: _Footage) -> dict[str, list[LabelRow]]:
    """Rows by the name of the source they mean; refused where they say a thing twice, or its opposite."""
    named: dict[str, list[LabelRow]] = {}
    for row in rows:
        source = footage.find(row.video, f"{path} line {row.line}")
        earlier = named.setdefault(source.name, [])
        for other in earlier:
            if (other.times, other.label) == (row.times, row.label):
                raise LabelsError(f"{path} line {row.line} says the same as line {other.line}; remove one")
            if (other.times is None) != (row.times is None):
                raise LabelsError(
                    f"{path} line {row.line} and line {other.line} call {row.video} normal and label an "
                    "anomaly in it; remove one"
                )
        earlier.append(row)
    return named


def _cameras(path: Path, named: Mapping[str, Sequence[LabelRow]]) -> dict[str, str]:
    """The camera of each source whose rows name one; all that do must name the same."""
    cameras: dict[str, str] = {}
    for name, rows in named.items():
        for row in rows:
            if row.camera and cameras.setdefault(name, row.camera) != row.camera:
                raise LabelsError(
                    f"{path} line {row.line} says that {row.video} is of camera {row.camera}, an earlier line of "
                    f"{cameras[name]}; a video is of one camera"
                )
    return cameras


def _groups(path: Path, named: Mapping[str, Sequence[LabelRow]]) -> dict[str, str]:
    """The incident of each source whose rows name one; all that do must name the same."""
    groups: dict[str, str] = {}
    for name, rows in named.items():
        for row in rows:
            if row.group and groups.setdefault(name, row.group) != row.group:
                raise LabelsError(
                    f"{path} line {row.line} puts {row.video} into group {row.group}, an earlier line into "
                    f"{groups[name]}; a video counts once, so give both the same group"
                )
    return groups


def _intervals(
    path: Path, source: Source, rows: Sequence[LabelRow], widen_s: float, notes: list[str]
) -> list[Interval]:
    """Intervals of one source, checked against its length; what had to be changed goes to `notes`."""
    if all(row.times is None for row in rows):
        return []
    try:
        limit_s = duration_s(source) or math.inf
    except FootageError as error:
        notes.append(f"labels not checked against the length of their video: {error}")
        limit_s = math.inf
    intervals = []
    for row in rows:
        if row.times is None:
            continue
        start_s, end_s = row.times
        if source.kind == "image" and start_s > 0:
            raise LabelsError(
                f"{path} line {row.line}: {start_s:g} s is not in {row.video}, a picture, which is shown at 0 s; write "
                f"{'0 for its time' if widen_s else '0 and 1 for its start and end'}"
            )
        starts_after = start_s >= limit_s and not widen_s
        if starts_after or end_s > limit_s + _PAST_THE_END_S:
            raise LabelsError(
                f"{path} line {row.line}: {start_s if starts_after else end_s:g} s is past the end of "
                f"{row.video}, which is {limit_s:.2f} s long; correct the time, or give the full video"
            )
        if end_s > limit_s:
            notes.append(
                f"{path.name} line {row.line}: {end_s:g} s clipped to the end of {row.video}, {limit_s:.2f} s"
            )
        from_s = max(min(start_s, limit_s) - widen_s, 0.0)
        to_s = min(end_s + widen_s, limit_s)
        intervals.append(Interval(source.name, from_s, to_s, row.label, row.found))
    return intervals


class _Footage:
    """The sources below a folder, looked up by the names that a CSV uses."""

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            found = find_sources([root])
        except NoFootageError as error:
            raise LabelsError(f"no footage to label: {error}") from None
        apart = (_VIDEO_MASKS_FOLDER, MASKS_FOLDER)
        self.all = [source for source in found if source.name.split("/", 1)[0] not in apart]
        self.by_name = {source.name: source for source in self.all}
        self._by_file: dict[str, list[Source]] = {}
        for source in self.all:
            self._by_file.setdefault(source.path.name, []).append(source)

    def find(self, written: str, where: str) -> Source:
        name = PurePosixPath(written.replace("\\", "/"))
        if name.is_absolute() or PureWindowsPath(written).drive or ".." in name.parts:
            raise LabelsError(
                f"{where}: {written} leads out of {self._root}; write names relative to it, or give "
                "another --videos"
            )
        source = self.by_name.get(str(name))
        if source is None and (self._root / name).is_file():
            # Named outright: a hidden file, or one of another extension.
            (alone,) = find_sources([self._root / name])
            source = self.by_name[str(name)] = replace(alone, name=str(name))
        if source is not None:
            return source
        # macOS takes accents apart, and a CSV from elsewhere has them in one: to the eye one name.
        spelt = [s for s in self.all if _composed(s.name) == _composed(str(name))]
        if len(spelt) == 1:
            return spelt[0]
        below = [s for s in self._by_file.get(name.name, ()) if s.name.endswith(f"/{name}")]
        if len(below) == 1:
            return below[0]
        if below:
            raise LabelsError(
                f"{where}: {written} could be {below[0].name} or {below[1].name} in {self._root}; write "
                "the folder too"
            )
        other_case = [s.name for s in self.all if s.name.casefold() == str(name).casefold()]
        near = (
            other_case
            or difflib.get_close_matches(str(name), self.by_name, n=1, cutoff=0.6)
            or [
                self._by_file[file][0].name
                for file in difflib.get_close_matches(name.name, self._by_file, n=1, cutoff=0.6)
            ]
        )
        hint = (
            f"the nearest name there is {near[0]}" if near else f"it holds {_count(len(self.all), 'other')}"
        )
        raise LabelsError(
            f"{where}: there is no {written} in {self._root}; {hint}; correct the name or --videos"
        )


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _video_masks(folder: Path, sources: Sequence[Source]) -> dict[str, Path]:
    """`masks/<name without extension>.npz`, with the folders of the name or without."""
    masks = {}
    for source in sources:
        name = Path(source.name).with_suffix(".npz")
        for candidate in (folder / _VIDEO_MASKS_FOLDER / name, folder / _VIDEO_MASKS_FOLDER / name.name):
            if candidate.is_file():
                masks[source.name] = candidate
                break
    return masks


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
