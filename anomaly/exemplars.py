"""Exemplars: small pictures of what the bank's rows were cut from, kept in the model folder.

    exemplars/index.json     which row is shown where
    exemplars/0000.jpg ...   contact sheets of square crops, 8 by 8

With them an alarm can be explained away from the footage: this is what the patch looks like, and that is the
normal patch most like it. Rows far outnumber what a few megabytes show; for a row without a crop the nearest row
with one stands in, and says so. Sheets, because a person can look at them, and some thousand files are no folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly.errors import CorruptModelError, FootageError
from anomaly.footage.source import read_frame_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly.footage.source import Source
    from anomaly.regions import Regions
    from anomaly.types import ImageArray
    from memory_bank import MemoryBank

_INDEX = "exemplars/index.json"
#: Side of a crop in pixels; whole JPEG blocks of subsampled colour, so that neighbours do not bleed.
CELL = 112
_PER_SIDE = 8
_PER_SHEET = _PER_SIDE * _PER_SIDE
_QUALITY = 85
#: What the index takes for a row, or for a source besides its name, at most.
_INDEX_BYTES = 24
#: Frames read again for their crops, and crops taken of one frame: what a fit pays for them.
_MOST_FRAMES, _MOST_OF_A_FRAME = 320, 48
#: A crop shows so many patches each way, or so much of the picture's shorter side, whichever is more.
_PATCHES_AROUND, _SHARE_AROUND = 5.0, 0.22


@dataclass(frozen=True, eq=False)
class Exemplars:
    """Crops by row of the bank.

    Attributes:
        rows: (n,) int64, ascending, rows that have a crop.
        places: (n,) int64, position of each row's crop over all sheets.
        sheets: the JPEG files' bytes.
        sizes: (H, W) of each source's pictures.
    """

    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    sheets: tuple[bytes, ...]
    sizes: Mapping[str, tuple[int, int]]

    @cached_property
    def _decoded(self) -> dict[int, ImageArray]:
        return {}

    def crop(self, row: int) -> ImageArray | None:
        """(CELL, CELL, 3) uint8 RGB, or None where the row has none."""
        at = int(np.searchsorted(self.rows, row))
        if at == len(self.rows) or self.rows[at] != row:
            return None
        sheet, cell = divmod(int(self.places[at]), _PER_SHEET)
        if sheet not in self._decoded:
            image = cv2.imdecode(np.frombuffer(self.sheets[sheet], np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                raise CorruptModelError(f"exemplars/{sheet:04d}.jpg is no picture; fit the model again")
            self._decoded[sheet] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8)
        y, x = (CELL * part for part in divmod(cell, _PER_SIDE))
        return self._decoded[sheet][y : y + CELL, x : x + CELL]


def surroundings(y: float, x: float, grid: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int]:
    """The square around a patch that a crop shows, inside the picture: (top, left, side) in pixels.

    Args:
        y, x: centre of the patch, 0..1.
        grid: (gh, gw).
        size: (H, W) of the picture.
    """
    height, width = size
    patch = max(height / grid[0], width / grid[1])
    side = round(min(max(_PATCHES_AROUND * patch, _SHARE_AROUND * min(size)), height, width))
    side = max(side, 1)
    top = min(max(round(y * height - side / 2), 0), height - side)
    left = min(max(round(x * width - side / 2), 0), width - side)
    return top, left, side


def cut(image: ImageArray, y: float, x: float, grid: tuple[int, int], side: int = CELL) -> ImageArray:
    """The surroundings of a patch, (side, side, 3) uint8 RGB."""
    top, left, length = surroundings(y, x, grid, (image.shape[0], image.shape[1]))
    kind = cv2.INTER_AREA if length > side else cv2.INTER_CUBIC
    return cv2.resize(
        image[top : top + length, left : left + length], (side, side), interpolation=kind
    ).astype(np.uint8)


def make_exemplars(
    bank: MemoryBank,
    sources: Sequence[Source],
    regions: Regions,
    grid: tuple[int, int],
    max_bytes: int,
    progress: Callable[[str, float, float | None], None],
) -> dict[str, bytes]:
    """Crops behind a bank's rows, as files of a model folder.

    Of every source the frames that gave most rows come first, the sources taking turns. What regions leave out is
    black. Footage that can no longer be read leaves its rows without a crop.

    Args:
        bank: as fitted.
        sources: what it was fitted on.
        regions, grid: of the model.
        max_bytes: of all files together; 0 makes none.
        progress: called with (what is being done, frames done, frames in all).
    """
    frames = _frames_of(bank)[:_MOST_FRAMES] if max_bytes > 0 else []
    by_name = {source.name: source for source in sources}
    counted = regions.patch_mask(*grid)
    sizes: dict[str, list[int]] = {}
    sheets = _Sheets(bank, max_bytes)
    for done, rows in enumerate(frames):
        progress("keeping exemplars", done, len(frames))
        name = bank.sources[int(bank.origins.source[rows[0]])]
        if name not in by_name:
            continue
        image = _seen(by_name[name], float(bank.origins.time_s[rows[0]]), counted)
        if image is None:
            continue
        sizes.setdefault(name, [image.shape[0], image.shape[1]])
        step = max(1, -(-len(rows) // _MOST_OF_A_FRAME))
        for row in rows[::step].tolist():
            sheets.add(row, cut(image, float(bank.origins.y[row]), float(bank.origins.x[row]), grid))
        if sheets.full:
            break
    return sheets.files(sizes)


def carry_over(
    bank: MemoryBank, earlier: Sequence[tuple[MemoryBank, Exemplars | None]], max_bytes: int
) -> dict[str, bytes]:
    """Exemplars of a bank that was made of others: the crops of those rows that came along, as files.

    Args:
        bank: merged, or with a source forgotten.
        earlier: what it was made of, with the names that sources have in `bank`.
        max_bytes: of all files together.
    """
    sheets = _Sheets(bank, max_bytes)
    sizes: dict[str, list[int]] = {}
    number = {patch: row for row, patch in enumerate(_patches(bank))}
    for other, exemplars in earlier:
        patches = _patches(other)
        for row in exemplars.rows.tolist() if exemplars is not None else []:
            crop = exemplars.crop(row) if exemplars is not None else None
            new = number.pop(patches[row], None)
            if exemplars is not None and crop is not None and new is not None:
                sheets.add(new, crop)
                name = patches[row][0]
                sizes[name] = list(exemplars.sizes[name])
    return sheets.files(sizes)


def _patches(bank: MemoryBank) -> list[tuple[str, int, int]]:
    """For each row the patch that it is: source, frame and place."""
    origins = bank.origins
    return [
        (bank.sources[source], frame, patch)
        for source, frame, patch in zip(
            origins.source.tolist(), origins.frame.tolist(), origins.patch.tolist(), strict=True
        )
    ]


def load_exemplars(folder: Path) -> Exemplars | None:
    """The exemplars of a model folder that was verified; None where it has none, and then nothing is read.

    Raises:
        CorruptModelError: a sheet is missing, or the index is not what was written.
    """
    if not (folder / _INDEX).is_file():
        return None
    place = folder / "exemplars"
    return exemplars_of({f"exemplars/{path.name}": path.read_bytes() for path in sorted(place.glob("*"))})


def exemplars_of(files: Mapping[str, bytes]) -> Exemplars | None:
    """Back from the files that `make_exemplars` gave; None where it gave none.

    Raises:
        CorruptModelError: a sheet is missing, or the index is not what was written.
    """
    if _INDEX not in files:
        return None
    try:
        index = json.loads(files[_INDEX].decode())
        rows = np.array(index["rows"], np.int64)
        order = np.argsort(rows, kind="stable")
        count = -(-len(rows) // _PER_SHEET)
        sheets = tuple(files[f"exemplars/{number:04d}.jpg"] for number in range(count))
        sizes = {name: (int(size[0]), int(size[1])) for name, size in index["sizes"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptModelError(f"{_INDEX} cannot be read ({error}); fit the model again") from error
    return Exemplars(rows[order], order, sheets, sizes)


def _frames_of(bank: MemoryBank) -> list[NDArray[np.int64]]:
    """The bank's rows by frame; those with most rows first, the sources taking turns."""
    origins = bank.origins
    order = np.lexsort((np.arange(len(bank)), origins.frame, origins.source))
    source, frame = origins.source[order], origins.frame[order]
    cuts = np.flatnonzero((np.diff(source) != 0) | (np.diff(frame) != 0)) + 1
    frames = sorted(np.split(order, cuts), key=len, reverse=True)
    turn: dict[int, int] = {}
    ranked = []
    for number, rows in enumerate(frames):
        of = int(origins.source[rows[0]])
        turn[of] = turn.get(of, 0) + 1
        ranked.append((turn[of], number))
    return [frames[number] for _, number in sorted(ranked)]


def _seen(source: Source, time_s: float, counted: NDArray[np.bool_]) -> ImageArray | None:
    """A frame, black where regions do not look; None where it can no longer be read."""
    try:
        image = read_frame_at(source, 0.0 if source.kind == "image" else time_s).image
    except FootageError:
        return None
    if counted.all():
        return image
    height, width = image.shape[:2]
    mask = cv2.resize(counted.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return (image * mask[..., None]).astype(np.uint8)


class _Sheets:
    """Contact sheets that fill up, until there is no room for more."""

    def __init__(self, bank: MemoryBank, max_bytes: int) -> None:
        index = sum(len(name.encode()) + _INDEX_BYTES for name in bank.sources) + 100
        self._room = max(max_bytes - index, 0)
        self._sheets: list[bytes] = []
        self._kept: list[int] = []
        self._waiting: list[tuple[int, ImageArray]] = []

    @property
    def full(self) -> bool:
        return not self._room

    def add(self, row: int, crop: ImageArray) -> None:
        if not self.full:
            self._waiting.append((row, crop))
            if len(self._waiting) == _PER_SHEET:
                self._close()

    def _close(self) -> None:
        """Encode what waits, of it only as much as there is room for.

        A sheet that is not full must be the last, so that a crop's place follows from its number.
        """
        crops, self._waiting = self._waiting, []
        while crops and self._room:
            sheet = np.zeros((CELL * -(-len(crops) // _PER_SIDE), CELL * _PER_SIDE, 3), np.uint8)
            for (_, crop), (y, x) in zip(crops, _cells(), strict=False):
                sheet[y : y + CELL, x : x + CELL] = crop
            _, data = cv2.imencode(
                ".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
            )
            size = len(data) + _INDEX_BYTES * len(crops)
            if size <= self._room:
                self._kept += [row for row, _ in crops]
                self._sheets.append(data.tobytes())
                self._room = self._room - size if len(crops) == _PER_SHEET else 0
                return
            crops = crops[: len(crops) // 2]
        self._room = 0

    def files(self, sizes: Mapping[str, Sequence[int]]) -> dict[str, bytes]:
        self._close()
        if not self._kept:
            return {}
        index = {"cell": CELL, "per_side": _PER_SIDE, "rows": self._kept, "sizes": dict(sizes)}
        files = {f"exemplars/{number:04d}.jpg": sheet for number, sheet in enumerate(self._sheets)}
        return {**files, _INDEX: json.dumps(index, ensure_ascii=False).encode()}


def _cells() -> Iterator[tuple[int, int]]:
    for cell in range(_PER_SHEET):
        y, x = divmod(cell, _PER_SIDE)
        yield CELL * y, CELL * x
