"""Where patches came from: one row of columns a patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from memory_bank.errors import MemoryBankError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Origins:
    """Columns over M patches; each is a (M,) array.

    Attributes:
        source: int32, index into a list of source names that the bank keeps.
        frame: int64, position of the frame in its source, counted from 0.
        time_s: float64, the source's own time in seconds.
        patch: int32, position of the patch in its frame's grid (row-major).
        y, x: float32, centre of the patch, 0..1 of the picture's height and width.
        camera: int32, index into a list of camera names that the bank keeps.
    """

    source: NDArray[np.int32]
    frame: NDArray[np.int64]
    time_s: NDArray[np.float64]
    patch: NDArray[np.int32]
    y: NDArray[np.float32]
    x: NDArray[np.float32]
    camera: NDArray[np.int32]

    DTYPES: ClassVar[dict[str, type[np.generic]]] = {
        "source": np.int32,
        "frame": np.int64,
        "time_s": np.float64,
        "patch": np.int32,
        "y": np.float32,
        "x": np.float32,
        "camera": np.int32,
    }

    def __post_init__(self) -> None:
        shapes = {}
        for name, dtype in self.DTYPES.items():
            column = np.ascontiguousarray(getattr(self, name), dtype=dtype)
            object.__setattr__(self, name, column)
            shapes[name] = column.shape
        if len(set(shapes.values())) != 1 or len(shapes["source"]) != 1:
            raise MemoryBankError(f"origin columns must all have one shape (M,), got {shapes}")

    def __len__(self) -> int:
        return len(self.source)

    def take(self, index: NDArray[Any]) -> Origins:
        """The rows that `index` (integers or a bool mask) picks, in its order."""
        return Origins(**{name: getattr(self, name)[index] for name in self.DTYPES})

    @staticmethod
    def concat(parts: Sequence[Origins]) -> Origins:
        """All rows of `parts`, one part after another; without parts, no rows."""
        if not parts:
            return Origins.empty()
        return Origins(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in Origins.DTYPES}
        )

    @staticmethod
    def empty() -> Origins:
        """No rows."""
        return Origins(**{name: np.zeros(0, dtype) for name, dtype in Origins.DTYPES.items()})

    def relabel(self, sources: NDArray[np.integer[Any]], cameras: NDArray[np.integer[Any]]) -> Origins:
        """The same rows under other name lists: `sources[i]` is the new number of old i."""
        columns = {name: getattr(self, name) for name in self.DTYPES}
        columns["source"] = np.asarray(sources)[self.source] if len(self) else self.source
        columns["camera"] = np.asarray(cameras)[self.camera] if len(self) else self.camera
        return Origins(**columns)

    def to_tensors(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """The columns as named arrays, `prefix` before each name."""
        return {prefix + field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def from_tensors(tensors: Mapping[str, NDArray[Any]], prefix: str = "") -> Origins:
        """Back from `to_tensors`; raises MemoryBankError where a column is missing."""
        missing = [name for name in Origins.DTYPES if prefix + name not in tensors]
        if missing:
            raise MemoryBankError(
                f"bank tensors lack {', '.join(prefix + name for name in missing)}; "
                "the bank was not written by this program, fit it again"
            )
        return Origins(**{name: tensors[prefix + name] for name in Origins.DTYPES})
