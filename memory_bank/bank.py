"""The memory bank: rows of normal patches, where each came from, and what it stood for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from memory_bank.distance import Metric, check_metric, squared_norms, to_metric, working_rows
from memory_bank.errors import MemoryBankError
from memory_bank.index import FlatIndex, Index, build_index
from memory_bank.origins import Origins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memory_bank.distance import Floats


Storage: TypeAlias = Literal["float32", "float16"]
_FIELDS = (
    "rows",
    "origins",
    "metric",
    "sources",
    "cameras",
    "members",
    "place_weight",
    "keys",
    "storage",
)


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    """What each row stood for: one entry for each pair of a row and a source it covered patches of.

    A row has entries of a few sources only: where it stood for more, a random sample (`memory_bank.ledger.ORIGINS`)
    and the latest; patches of the rest are counted together.

    Attributes:
        row: (L,) int32 into the bank's rows, ascending.
        count: (L,) int64, patches of that source that the row covered; 0 where the row itself was
            drawn at random and covered nothing.
        witness: (L,) one of those patches, of the first frames in which that source was covered.
        others: (M,) int64, for each row the patches of sources that it has no entry of.
    """

    row: NDArray[np.int32]
    count: NDArray[np.int64]
    witness: Origins
    others: NDArray[np.int64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "row", np.ascontiguousarray(self.row, np.int32))
        object.__setattr__(self, "count", np.ascontiguousarray(self.count, np.int64))
        object.__setattr__(self, "others", np.ascontiguousarray(self.others, np.int64))
        if not len(self.row) == len(self.count) == len(self.witness):
            raise MemoryBankError(
                f"members need equally long columns, got {len(self.row)}, {len(self.count)} "
                f"and {len(self.witness)}"
            )

    def __len__(self) -> int:
        return len(self.row)

    def widened(self, rows: int) -> Members:
        """The same entries for a bank of `rows` rows, those at its end having covered nothing."""
        missing = np.zeros(rows - len(self.others), np.int64)
        return Members(self.row, self.count, self.witness, np.concatenate([self.others, missing]))

    @staticmethod
    def empty(rows: int) -> Members:
        """Rows that stand for nothing."""
        return Members(
            np.zeros(0, np.int32), np.zeros(0, np.int64), Origins.empty(), np.zeros(rows, np.int64)
        )

    @staticmethod
    def of_rows(origins: Origins) -> Members:
        """Each row standing for itself alone."""
        count = len(origins)
        return Members(
            np.arange(count, dtype=np.int32), np.ones(count, np.int64), origins, np.zeros(count, np.int64)
        )

    def to_tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The columns as named arrays, `prefix` before each name."""
        tensors: dict[str, NDArray[Any]] = {prefix + "row": self.row, prefix + "count": self.count}
        tensors[prefix + "others"] = self.others
        return tensors | self.witness.to_tensors(prefix)

    @staticmethod
    def from_tensors(tensors: Mapping[str, NDArray[Any]], prefix: str) -> Members:
        """Back from `to_tensors`; raises MemoryBankError where a column is missing."""
        missing = [prefix + name for name in ("row", "count", "others") if prefix + name not in tensors]
        if missing:
            raise MemoryBankError(f"bank tensors lack {', '.join(missing)}; fit the bank again")
        witness = Origins.from_tensors(tensors, prefix)
        return Members(
            tensors[prefix + "row"], tensors[prefix + "count"], witness, tensors[prefix + "others"]
        )


class MemoryBank:
    """Rows of normal patches, searched for the nearest normal patch.

    Attributes:
        rows: (M, D) float32, features as they were fitted, without place.
        origins: (M,) where each row came from; `source` and `camera` index the two lists below.
        metric: "euclidean" or "cosine" (1 - cosine similarity).
        sources, cameras: names.
        members: what each row stood for (see `Members`).
        place_weight: distance that one picture height (or width) of displacement counts for; 0: place
            is left out of the metric.
        keys: (M,) float64, the random key of a row that was drawn at random, inf for a row chosen to
            cover. Merging draws by them.
        index: kind of index that searches it (see `use_index`).
        storage: "float32", or "float16" for rows that are exact in half precision and kept so on disk.
        rounding: how far `as_float16` moved a row, and so how far off a (Euclidean) distance may be; 0 where it did not
            make this bank. It is not kept on disk.
    """

    def __init__(
        self,
        rows: Floats,
        origins: Origins,
        metric: str,
        sources: Sequence[str],
        cameras: Sequence[str] = ("default",),
        members: Members | None = None,
        place_weight: float = 0.0,
        keys: NDArray[np.float64] | None = None,
        storage: Storage = "float32",
    ) -> None:
        self.metric: Metric = check_metric(metric)
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if rows.ndim != 2 or not len(rows) or not rows.shape[1]:
            raise MemoryBankError(f"a bank needs rows of shape (M, D) with M and D >= 1, got {rows.shape}")
        if not np.isfinite(rows).all():
            bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise MemoryBankError(f"bank row {bad} holds NaN or infinity; leave that patch out")
        if len(origins) != len(rows):
            raise MemoryBankError(f"a bank of {len(rows)} rows needs as many origins, got {len(origins)}")
        if not place_weight >= 0 or not np.isfinite(place_weight):
            raise MemoryBankError(f"place_weight must be 0 or more, got {place_weight}")
        self.place_weight = float(place_weight)
        self._working = working_rows(rows, self.metric, self.place_weight, origins.y, origins.x)
        self.rows: Floats = rows
        self.origins = origins
        self.sources, self.cameras = tuple(sources), tuple(cameras)
        self.members = Members.of_rows(origins) if members is None else members
        self.keys = np.full(len(rows), np.inf) if keys is None else np.ascontiguousarray(keys, np.float64)
        if self.keys.shape != (len(rows),):
            raise MemoryBankError(f"a bank of {len(rows)} rows needs as many keys, got {self.keys.shape}")
        self.storage: Storage = storage
        self.rounding = 0.0
        self.index = "flat"
        self._index: Index = FlatIndex(self._working)
        for name, column, names in (
            ("source", self.members.witness.source, self.sources),
            ("source", origins.source, self.sources),
            ("camera", origins.camera, self.cameras),
        ):
            if len(column) and not (column.min() >= 0 and column.max() < len(names)):
                raise MemoryBankError(
                    f"origins name {name} number {int(column.max())}, but there are {len(names)} names"
                )
        if len(self.members) and not (self.members.row.min() >= 0 and self.members.row.max() < len(rows)):
            raise MemoryBankError(f"members point outside the bank's {len(rows)} rows")
        if self.members.others.shape != (len(rows),):
            raise MemoryBankError(
                f"a bank of {len(rows)} rows needs as many counts of other patches, got {self.members.others.shape}"
            )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dim(self) -> int:
        """Length D of a patch feature (place not counted)."""
        return int(self.rows.shape[1])

    @property
    def counts(self) -> NDArray[np.int64]:
        """(M,) int64, how many fitted patches each row stood for, itself included."""
        told_apart = np.bincount(self.members.row, weights=self.members.count, minlength=len(self))
        total: NDArray[np.int64] = told_apart.astype(np.int64) + self.members.others
        return total

    def stands_for(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs of a row and a source that it is known to stand for, the source that it came from among them.

        Returns:
            rows and sources, (L,) int64 each, every pair once, ascending by row.
        """
        row = np.concatenate([np.arange(len(self)), self.members.row])
        source = np.concatenate([self.origins.source, self.members.witness.source])
        pairs = np.unique(row * np.int64(len(self.sources)) + source)
        return pairs // len(self.sources), pairs % len(self.sources)

    @property
    def working(self) -> Floats:
        """(M, D or D + 2) float32, the rows in the space that is searched."""
        return self._working

    @cached_property
    def half_norms(self) -> Floats:
        """(M,) float32, half of the squared lengths of `working`, for products that choose among rows; made once for all cameras."""
        return squared_norms(self._working) * np.float32(0.5)

    def queries(self, patches: Floats, y: Floats | None = None, x: Floats | None = None) -> Floats:
        """Patches in the space that is searched; raises MemoryBankError on another D."""
        patches = np.asarray(patches, dtype=np.float32)
        if patches.ndim != 2 or patches.shape[1] != self.dim:
            raise MemoryBankError(
                f"patches of shape {patches.shape} do not fit a bank of {self.dim} dimensions; "
                "use the backbone and projection the bank was fitted with"
            )
        return working_rows(patches, self.metric, self.place_weight, y, x)

    def search(
        self, patches: Floats, k: int = 1, *, y: Floats | None = None, x: Floats | None = None
    ) -> tuple[Floats, NDArray[np.int64]]:
        """The k nearest normal patches of each patch.

        Args:
            patches: (N, D) float32.
            k: how many, 1..M.
            y, x: (N,) float32 in 0..1, needed where the bank counts place.

        Returns:
            distances (N, k) float32, Euclidean or cosine, never squared, ascending; indices (N, k)
            int64 into `rows`. A query that is not finite gets distance inf and index -1.
        """
        if not 1 <= k <= len(self):
            raise MemoryBankError(f"k must be between 1 and the bank's {len(self)} rows, got {k}")
        queries = self.queries(patches, y, x)
        finite = np.isfinite(queries).all(axis=1)
        if not finite.all():
            distances = np.full((len(queries), k), np.inf, np.float32)
            indices = np.full((len(queries), k), -1, np.int64)
            if finite.any():
                distances[finite], indices[finite] = self.search_working(queries[finite], k)
        else:
            distances, indices = self.search_working(queries, k)
        return to_metric(distances, self.metric), indices

    def search_working(self, queries: Floats, k: int = 1) -> tuple[Floats, NDArray[np.int64]]:
        """As `search`, for finite queries of the working space (see `queries`), distances in that space."""
        return self._index.search(queries, k)

    def use_index(self, kind: str, **settings: float) -> MemoryBank:
        """Search by another kind of index from now on (see `memory_bank.index`); returns the bank itself."""
        self._index = build_index(kind, self._working, **settings)
        self.index = kind
        return self

    def as_float16(self) -> MemoryBank:
        """The bank with rows rounded to half precision, which takes half the room on disk.

        A row moves by at most a thousandth of its length; `rounding` of the result tells how far. Raises MemoryBankError where features are too large, or too
        small, for that.
        """
        largest = float(np.abs(self.rows).max())
        if largest > float(np.finfo(np.float16).max):
            raise MemoryBankError(
                f"a feature of {largest:.6g} does not fit in float16; keep the bank in float32"
            )
        rows = self.rows.astype(np.float16).astype(np.float32)
        moved, length = np.linalg.norm(rows - self.rows, axis=1), np.linalg.norm(self.rows, axis=1)
        if (moved > 1e-3 * length).any():
            raise MemoryBankError(
                f"features as small as {float(length[moved > 1e-3 * length].min()):.3g} lose their digits in float16; keep "
                "the bank in float32"
            )
        rounded = self.replace(rows=rows, storage="float16")
        rounded.rounding = max(self.rounding, float(moved.max()))
        return rounded

    def replace(self, **changes: Any) -> MemoryBank:
        """A bank with some of the constructor's arguments changed, searched by the flat index."""
        return MemoryBank(**{name: changes.get(name, getattr(self, name)) for name in _FIELDS})

    def subset(self, kept: NDArray[Any]) -> MemoryBank:
        """The bank with some rows only.

        Args:
            kept: positions of at least one row, ascending, or (M,) bool. What the other rows stood for is left
                out with them; `memory_bank.forget_source` and `merge_banks` hand it on instead.
        """
        kept = np.flatnonzero(kept) if kept.dtype == bool else np.asarray(kept, np.int64)
        number = np.full(len(self), -1, np.int32)
        number[kept] = np.arange(len(kept), dtype=np.int32)
        members = self.members
        left = np.flatnonzero(number[members.row] >= 0)
        return self.replace(
            rows=self.rows[kept],
            origins=self.origins.take(kept),
            members=Members(
                number[members.row[left]],
                members.count[left],
                members.witness.take(left),
                members.others[kept],
            ),
            keys=self.keys[kept],
        )

    def digest(self) -> str:
        """sha256 hex over metric, rows, origins, names and what the rows stood for."""
        sha = hashlib.sha256(f"{self.metric} {self.place_weight!r} {self.rows.shape}".encode())
        sha.update("\0".join([*self.sources, "", *self.cameras]).encode())
        for name, array in sorted(self.to_tensors().items()):
            sha.update(name.encode())
            sha.update(array.tobytes())
        return sha.hexdigest()

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """All arrays of the bank, for safetensors; names, metric, place_weight are the caller's to keep."""
        tensors: dict[str, NDArray[Any]] = {"rows": self.rows.astype(self.storage), "keys": self.keys}
        return tensors | self.origins.to_tensors("origins.") | self.members.to_tensors("members.")

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, NDArray[Any]],
        metric: str,
        sources: Sequence[str],
        cameras: Sequence[str] = ("default",),
        place_weight: float = 0.0,
    ) -> MemoryBank:
        """Back from `to_tensors`; raises MemoryBankError where a tensor is missing or does not fit."""
        if "rows" not in tensors:
            raise MemoryBankError("bank tensors lack rows; fit the bank again")
        members = Members.from_tensors(tensors, "members.")
        origins = Origins.from_tensors(tensors, "origins.")
        rows = tensors["rows"]
        storage: Storage = "float16" if rows.dtype == np.float16 else "float32"
        return cls(
            rows, origins, metric, sources, cameras, members, place_weight, tensors.get("keys"), storage
        )
