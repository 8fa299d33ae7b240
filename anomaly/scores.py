"""`scores.npz` of a model folder: raw scores over time, so that thresholds are studied without the model.

holdout/sources       names of the normal sources that `fit` held out
holdout/<i>/times     (n,) float64 seconds
holdout/<i>/scores    (n,) float64 raw scores
labeled/...           the same for the footage of the last calibration, and
labeled/cameras       the camera of each source, as the labels or its folder tell
"""

from __future__ import annotations

import hashlib
import zipfile
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from anomaly.artifact import archive_bytes, write_file
from anomaly.calibration import Series, camera_of
from anomaly.errors import CorruptModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FILE = "scores.npz"
_Part: TypeAlias = Literal["holdout", "labeled"]


def packed(part: _Part, series: Iterable[Series]) -> dict[str, NDArray[Any]]:
    """Series as the arrays of one part of the file."""
    series = list(series)
    arrays: dict[str, NDArray[Any]] = {f"{part}/sources": np.array([one.source for one in series], np.str_)}
    if part == "labeled":
        arrays[f"{part}/cameras"] = np.array([one.camera for one in series], np.str_)
    for index, one in enumerate(series):
        arrays[f"{part}/{index}/times"] = one.times
        arrays[f"{part}/{index}/scores"] = one.scores
    return arrays


def read_series(folder: Path, part: _Part) -> list[Series]:
    """Series of one part of a model's scores; none where it holds none.

    Raises:
        CorruptModelError: the file cannot be read.
    """
    arrays = _read(folder / FILE)
    names = [str(name) for name in arrays.get(f"{part}/sources", ())]
    cameras = [str(camera) for camera in arrays.get(f"{part}/cameras", [camera_of(name) for name in names])]
    return [
        Series(name, arrays[f"{part}/{index}/times"], arrays[f"{part}/{index}/scores"], camera)
        for index, (name, camera) in enumerate(zip(names, cameras, strict=True))
    ]


def replace_labeled(folder: Path, series: Sequence[Series]) -> str:
    """Put the scores of a calibration in place of those of the one before; returns the file's sha256."""
    arrays = {name: value for name, value in _read(folder / FILE).items() if not name.startswith("labeled/")}
    data = archive_bytes({**arrays, **packed("labeled", series)})
    write_file(folder / FILE, data)
    return hashlib.sha256(data).hexdigest()


def scores_without(folder: Path, sources: Sequence[str], *, holdout: bool = True) -> bytes:
    """The file without what sources scored, held out or labelled; with `holdout` False without all that was held out."""
    arrays: dict[str, NDArray[Any]] = {}
    parts: tuple[_Part, ...] = ("holdout", "labeled")
    for part in parts:
        series = read_series(folder, part) if holdout or part != "holdout" else []
        if series or part == "holdout":
            arrays |= packed(part, [one for one in series if one.source not in sources])
    return archive_bytes(arrays)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptModelError(
            f"{str(path)!r} cannot be read ({error}); restore it from a copy or fit again"
        ) from error
