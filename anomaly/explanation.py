"""Why an alarm: the frame with its heatmap, and beside its worst patches the normal patches most like them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from anomaly.exemplars import cut, surroundings
from anomaly.footage.source import IMAGE_SUFFIXES
from anomaly.heatmap import draw_box, laid_over

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from anomaly.detector import Look
    from anomaly.exemplars import Exemplars
    from anomaly.heatmap import Box
    from anomaly.model import Model
    from anomaly.types import Frame, ImageArray

#: Patches shown of one frame, and how many cells apart they must lie.
_SHOWN, _APART = 3, 2
#: Without a threshold, frames of one source nearer than this are one moment.
_MOMENT_S = 2.0
_INK, _FAINT, _PAPER = (30, 30, 30), (110, 110, 110), (250, 250, 248)
_RED, _GREEN = (230, 50, 40), (60, 190, 90)
_MARGIN, _CROP = 16, 144


@dataclass(frozen=True, eq=False)
class Moment:
    """A frame to be explained.

    Attributes:
        frame, look: what was seen.
        start_s, end_s: of the alarm; both the frame's time where there is no threshold.
        score: highest decision score of the alarm; the frame's own score where there is no threshold.
    """

    frame: Frame
    look: Look
    start_s: float
    end_s: float
    score: float


@dataclass(frozen=True, eq=False)
class Match:
    """A patch and the normal patch most like it.

    Attributes:
        y, x: centre of the patch, 0..1.
        distance: between the two; 1 = the score of an ordinary frame.
        row: of the bank.
        source, time_s: where that row came from.
        shown_row: the row whose crop is shown: the same, or the nearest one that has a crop; -1: none has.
        shown_source, shown_time_s, shown_y, shown_x: where that one came from.
    """

    y: float
    x: float
    distance: float
    row: int
    source: str
    time_s: float
    shown_row: int
    shown_source: str
    shown_time_s: float
    shown_y: float
    shown_x: float


class Worst:
    """The highest moments of a stream, a bounded number of them.

    Attributes:
        alarms: moments considered by `add`, kept or not.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._moments: list[Moment] = []
        self.alarms = 0

    def add(self, moment: Moment) -> None:
        """Consider the moment of an alarm."""
        self.alarms += 1
        self._keep(moment)

    def _keep(self, moment: Moment) -> None:
        self._moments.append(moment)
        self._moments.sort(key=lambda one: -one.score)
        del self._moments[self._most :]

    def add_frame(self, frame: Frame, look: Look) -> None:
        """Consider a frame by its own score; of frames close together the highest stays."""
        for index, known in enumerate(self._moments):
            same = known.frame.source == frame.source
            if same and abs(known.frame.pts_s - frame.pts_s) < _MOMENT_S:
                if look.score <= known.score:
                    return
                del self._moments[index]
                break
        if len(self._moments) < self._most or look.score > self._moments[-1].score:
            self._keep(Moment(frame, look, frame.pts_s, frame.pts_s, look.score))

    def in_order(self) -> list[Moment]:
        """By source and time."""
        return sorted(self._moments, key=lambda one: (one.frame.source, one.frame.pts_s))


def match(model: Model, exemplars: Exemplars | None, moment: Moment) -> list[Match]:
    """The worst patches of a moment's worst region, worst first, each with the normal patch most like it."""
    branch = model.detector.branches[0]
    bank, look = branch.bank, moment.look
    places = _worst_places(look, moment.look.box((look.grid[0], look.grid[1])))
    patches = branch.patches([moment.frame.image])[0][places]
    pictured = bank.subset(exemplars.rows) if exemplars is not None else None
    matches = []
    for place, patch in zip(places, patches, strict=True):
        row = int(look.nearest[place])
        shown = row if exemplars is not None and exemplars.crop(row) is not None else -1
        if exemplars is not None and pictured is not None and shown < 0:
            _, found = pictured.search(patch[None], **branch.places(np.array([place])))
            shown = int(exemplars.rows[found[0, 0]])
        origin = bank.origins
        matches.append(
            Match(
                y=(place // look.grid[1] + 0.5) / look.grid[0],
                x=(place % look.grid[1] + 0.5) / look.grid[1],
                distance=float(look.distances[place]),
                row=row,
                source=bank.sources[int(origin.source[row])],
                time_s=float(origin.time_s[row]),
                shown_row=shown,
                shown_source=bank.sources[int(origin.source[shown])] if shown >= 0 else "",
                shown_time_s=float(origin.time_s[shown]) if shown >= 0 else 0.0,
                shown_y=float(origin.y[shown]) if shown >= 0 else 0.0,
                shown_x=float(origin.x[shown]) if shown >= 0 else 0.0,
            )
        )
    return matches


def _worst_places(look: Look, box: Box) -> list[int]:
    """Patches of the worst region by distance, not two of them side by side. `box` counts in patches."""
    inside = np.zeros(look.grid, bool)
    inside[box.y0 : box.y1, box.x0 : box.x1] = True
    shown = np.where(inside.ravel() & look.counts, look.distances, -np.inf)
    chosen: list[int] = []
    for place in np.argsort(-shown, kind="stable").tolist():
        if len(chosen) == _SHOWN or not np.isfinite(shown[place]):
            break
        y, x = divmod(place, look.grid[1])
        apart = [divmod(other, look.grid[1]) for other in chosen]
        if all(max(abs(y - other_y), abs(x - other_x)) >= _APART for other_y, other_x in apart):
            chosen.append(place)
    return chosen


def clock(seconds: float) -> str:
    """MM:SS, with hours where there are any."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def moment_name(source: str, time_s: float) -> str:
    """A source and the time in it; a still picture has no time."""
    still = PurePosixPath(source).suffix.lower() in IMAGE_SUFFIXES
    return source if still else f"{source}, {clock(time_s)}"


def headline(matches: Sequence[Match]) -> str:
    """Which normal moment is most like the worst patch, in words."""
    if not matches:
        return "no patch of this frame counts"
    return f"the most similar normal moment is {moment_name(matches[0].source, matches[0].time_s)}"


def facts(moment: Moment, matches: Sequence[Match], line: str, picture: str) -> dict[str, Any]:
    """One entry of the index."""
    image = moment.frame.image
    box = moment.look.box((image.shape[0], image.shape[1]))
    return {
        "source": moment.frame.source,
        "time_s": round(moment.frame.pts_s, 6),
        "frame": moment.frame.index,
        "start_s": round(moment.start_s, 6),
        "end_s": round(moment.end_s, 6),
        "score": moment.score,
        "box": [box.x0, box.y0, box.x1, box.y1],
        "explanation": line,
        "patches": [
            {
                "y": round(one.y, 4),
                "x": round(one.x, 4),
                "distance": one.distance,
                "nearest_row": one.row,
                "nearest_source": one.source,
                "nearest_time_s": round(one.time_s, 6),
                "picture_of_row": None if one.shown_row < 0 else one.shown_row,
                "picture_of_source": None if one.shown_row < 0 else one.shown_source,
                "picture_of_time_s": None if one.shown_row < 0 else round(one.shown_time_s, 6),
            }
            for one in matches
        ],
        "picture": picture,
    }


def draw(
    moment: Moment, matches: Sequence[Match], exemplars: Exemplars | None, line: str, threshold: float | None
) -> ImageArray:
    """The explanation as one picture, (H, W, 3) uint8 RGB."""
    frame, look = moment.frame, moment.look
    size = frame.image.shape[0], frame.image.shape[1]
    hot = laid_over(frame.image, look.heatmap(size), threshold)
    column = 2 * _CROP + _MARGIN
    cell = _CROP + 40
    height = max(_SHOWN * cell - 20, 360)
    scale = min(height / size[0], 760 / size[1])
    shown = (max(1, round(size[1] * scale)), max(1, round(size[0] * scale)))
    hot = cv2.resize(hot, shown, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC).astype(
        np.uint8
    )
    hot = draw_box(hot, look.box((shown[1], shown[0])), _RED)
    top = 104
    width = max(_MARGIN + shown[0] + 2 * _MARGIN + column + _MARGIN, 760)
    page = np.full((top + max(height, shown[1]) + _MARGIN, width, 3), _PAPER, np.uint8)
    limit = "" if threshold is None else f"   threshold {threshold:.2f}"
    _write(page, moment_name(frame.source, frame.pts_s), (_MARGIN, 32), 0.75, _INK)
    _write(page, f"score {moment.score:.2f}{limit}   (1 = an ordinary frame)", (_MARGIN, 58), 0.5, _FAINT)
    _write(page, line[0].upper() + line[1:], (_MARGIN, 82), 0.5, _INK)
    page[top : top + shown[1], _MARGIN : _MARGIN + shown[0]] = hot
    left = shown[0] + 3 * _MARGIN
    _write(page, "here", (left, top - 8), 0.45, _FAINT)
    _write(page, "nearest normal", (left + _CROP + _MARGIN, top - 8), 0.45, _FAINT)
    for number, one in enumerate(matches):
        y = top + number * cell
        here = cut(frame.image, one.y, one.x, look.grid, _CROP)
        page[y : y + _CROP, left : left + _CROP] = _marked(here, one.y, one.x, look.grid, size, _RED)
        beside = left + _CROP + _MARGIN
        page[y : y + _CROP, beside : beside + _CROP] = _normal(exemplars, one, look.grid)
        text = f"distance {one.distance:.2f} from {moment_name(_short(one.source), one.time_s)}"
        _write(page, text, (left, y + _CROP + 14), 0.38, _INK)
        if one.shown_row not in (-1, one.row):
            text = f"pictured: the nearest kept, {moment_name(_short(one.shown_source), one.shown_time_s)}"
            _write(page, text, (left, y + _CROP + 29), 0.36, _FAINT)
    return page


def _normal(exemplars: Exemplars | None, one: Match, grid: tuple[int, int]) -> ImageArray:
    """The crop of a match's normal patch, outlined, or a grey square that says there is none."""
    crop = exemplars.crop(one.shown_row) if exemplars is not None and one.shown_row >= 0 else None
    if exemplars is None or crop is None:
        empty = np.full((_CROP, _CROP, 3), 228, np.uint8)
        _write(empty, "no picture", (34, _CROP // 2 - 4), 0.45, _FAINT)
        _write(empty, "in this model", (26, _CROP // 2 + 16), 0.45, _FAINT)
        return empty
    larger = cv2.resize(crop, (_CROP, _CROP), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    size = exemplars.sizes[one.shown_source]
    return _marked(larger, one.shown_y, one.shown_x, grid, size, _GREEN)


def _marked(
    crop: ImageArray,
    y: float,
    x: float,
    grid: tuple[int, int],
    size: tuple[int, int],
    colour: tuple[int, int, int],
) -> ImageArray:
    """A crop with the outline of its patch."""
    top, left, side = surroundings(y, x, grid, size)
    scale = crop.shape[0] / side
    centre_y, centre_x = (y * size[0] - top) * scale, (x * size[1] - left) * scale
    half_y, half_x = size[0] / grid[0] / 2 * scale, size[1] / grid[1] / 2 * scale
    marked = crop.copy()
    corners = (
        (round(centre_x - half_x), round(centre_y - half_y)),
        (round(centre_x + half_x), round(centre_y + half_y)),
    )
    cv2.rectangle(marked, *corners, colour, 1, cv2.LINE_AA)
    return marked


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else "..." + name[-(most - 3) :]


def _write(
    page: NDArray[np.uint8], text: str, at: tuple[int, int], scale: float, colour: tuple[int, int, int]
) -> None:
    # OpenCV draws no letters beyond ASCII; the index has the whole name.
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(page, plain, at, cv2.FONT_HERSHEY_DUPLEX, scale, colour, 1, cv2.LINE_AA)
