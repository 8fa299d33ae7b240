"""A coreset kept while frames arrive, in memory that does not grow with the footage.

The first patches are gathered as they are; when they fill the room set aside for them, greedy k-center picks the
rows from all of them at once. Footage that fits is therefore selected from as a whole. From then on
rows cover what has been seen: a patch within `radius` of a row is rejected, one further away becomes a row.
When the rows outgrow their capacity, greedy k-center keeps the best of them and the radius becomes the
largest distance at which one was dropped (merge-and-reduce with the doubling idea of Charikar et al. 1997).
A patch is rejected in two steps: first against the one row that covered the same place last time, which
costs one distance and settles a still scene; then, in blocks, against all rows with one matrix product.
Part of the bank is a uniform random sample: it keeps the places dense where normal patches are dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from memory_bank.bank import Members, MemoryBank
from memory_bank.cover import Cover
from memory_bank.coverage import MEASURED, Coverage, measure_coverage
from memory_bank.distance import (
    check_metric,
    from_metric,
    nearest,
    to_metric,
    working_rows,
)
from memory_bank.errors import MemoryBankError
from memory_bank.features import refuse_unusable
from memory_bank.kcenter import kcenter_select
from memory_bank.ledger import fall_together, priorities
from memory_bank.origins import Origins
from memory_bank.sample import Sample, patch_keys
from memory_bank.settings import GATHER_MIB, CoresetConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memory_bank.distance import Floats, Metric

_BLOCK = 4096  # patches searched against all rows at once


class StreamingCoreset:
    """Rows kept while frames arrive; `CoresetConfig` describes the settings, all given by name.

    The result depends on the sequence of frames and not on how many frames come in one call, as
    long as no call cuts a frame in two. It is the same, byte for byte, for the same settings, threads and
    kind of machine, also across `state` and `from_state` at any point.
    """

    def __init__(
        self,
        *,
        dim: int,
        size: int | None = None,
        radius: float | None = None,
        metric: str = "euclidean",
        seed: int = 0,
        random_share: float = 0.0,
        place_weight: float = 0.0,
        slack: float = 0.0,
        headroom: float = 2.0,
        gather_mib: float = GATHER_MIB,
        features: str = "",
    ) -> None:
        self.config = CoresetConfig(
            dim, size, radius, metric, seed, random_share, place_weight, slack, headroom, gather_mib, features
        )
        self._metric = check_metric(metric)
        width = dim + (2 if place_weight > 0 else 0)
        drawn = 0 if size is None else round(size * random_share)
        kept = None if size is None else max(size - drawn, 1)
        capacity = None if kept is None else int(np.ceil(headroom * kept))
        start = 0.0 if radius is None else from_metric(radius, self._metric)
        self._cover = Cover(width, start, kept, capacity, int(gather_mib * 2**20) // (4 * width), seed, slack)
        self._random, self._aside = Sample(drawn, width), Sample(MEASURED, width)
        self._waiting: list[tuple[Floats, Origins]] = []
        self._sources: dict[str, int] = {}
        self._cameras: dict[str, int] = {}
        self._patches = 0
        self._coverage: Coverage | None = None

    @property
    def patches(self) -> int:
        """Patches added so far."""
        return self._patches

    @property
    def radius(self) -> float:
        """Distance within which a patch is now rejected as covered, in the metric's units."""
        return _in_metric(self._cover.radius, self._metric)

    @property
    def sampled(self) -> tuple[NDArray[np.float64], Floats]:
        """The patches that coverage is measured on: their keys (n,), by which samples merge, and rows (n, W)."""
        keys, rows, _ = self._aside.drawn()
        return keys, rows

    @property
    def coverage(self) -> Coverage:
        """How well the fitted patches are covered; known after `finish`."""
        if self._coverage is None:
            raise MemoryBankError("coverage is measured by finish(); call it first")
        return self._coverage

    def add(
        self,
        rows: Floats,
        source: str,
        frame: int | NDArray[np.integer[Any]],
        time_s: float | NDArray[np.floating[Any]],
        y: Floats,
        x: Floats,
        patch: NDArray[np.integer[Any]],
        camera: str = "default",
    ) -> None:
        """Take in the patches of one or more whole frames of one source.

        Args:
            rows: (N, D) float32 patch features.
            source: name of the source.
            frame: its frame number, or (N,) one a patch, where patches of a frame stand together.
            time_s: seconds in the source, or (N,).
            y, x: (N,) float32 patch centres, 0..1.
            patch: (N,) position of each patch in its frame's grid.
            camera: name of the camera.

        Raises:
            MemoryBankError: another D, or a feature that is NaN or infinite (or, under "cosine", all zero).
        """
        rows = np.asarray(rows, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.config.dim:
            raise MemoryBankError(
                f"{source}: patches of shape {rows.shape} do not fit a coreset of "
                f"{self.config.dim} dimensions; use one backbone and projection throughout"
            )
        count = len(rows)
        frames = np.broadcast_to(np.asarray(frame, np.int64), (count,))
        refuse_unusable(rows, self._metric, source, frames)
        self._meet(source)
        origins = Origins(
            source=np.full(count, self._sources[source], np.int32),
            frame=frames,
            time_s=np.broadcast_to(np.asarray(time_s, np.float64), (count,)),
            patch=np.asarray(patch, np.int32),
            y=np.asarray(y, np.float32),
            x=np.asarray(x, np.float32),
            camera=np.full(count, self._cameras.setdefault(camera, len(self._cameras)), np.int32),
        )
        working = working_rows(rows, self._metric, self.config.place_weight, origins.y, origins.x)
        cuts = np.flatnonzero(np.diff(frames)) + 1
        for start, stop in zip([0, *cuts.tolist()], [*cuts.tolist(), count], strict=True):
            if stop > start:
                self._add_frame(working[start:stop], origins.take(np.arange(start, stop)), source, camera)

    def _meet(self, source: str) -> None:
        if source not in self._sources:
            self._sources[source] = len(self._sources)
            self._cover.ledger.know(source)

    def _add_frame(self, rows: Floats, origins: Origins, source: str, camera: str) -> None:
        self._coverage = None
        self._patches += len(rows)
        keys = patch_keys(
            self.config.seed, camera, source, int(origins.frame[0]), int(origins.patch[0]), len(rows)
        )
        self._random.offer(keys, rows, origins)
        self._aside.offer(1.0 - keys, rows, origins)  # the other end: no patch is in both
        left = self._cover.reject_unchanged(rows, origins)
        if len(left):
            self._waiting.append((rows[left], origins.take(left)))
            if sum(len(waiting) for waiting, _ in self._waiting) >= _BLOCK:
                self._settle()

    def _settle(self) -> None:
        if self._waiting:
            self._cover.take_in(self._waiting)
            self._waiting = []

    def finish(self) -> MemoryBank:
        """The bank of all that was added, and `coverage` with it. More may be added afterwards.

        Raises:
            MemoryBankError: nothing was added.
        """
        if not self._patches:
            raise MemoryBankError("no patches to make a memory bank of; give footage with at least one frame")
        self._settle()
        rows, origins = self._cover.rows, self._cover.origins
        keys, drawn, drawn_origins = self._random.drawn()
        _, unique = np.unique(drawn, axis=0, return_index=True)
        unique = np.sort(unique)
        keys, drawn, drawn_origins = keys[unique], drawn[unique], drawn_origins.take(unique)
        kept = self._fill(rows, drawn)
        chosen = np.concatenate([drawn, rows[kept]])
        chosen_origins = Origins.concat([drawn_origins, origins.take(kept)])
        found, index = nearest(rows, chosen)
        bound = float((self._cover.reach + found[:, 0]).max())
        members = self._cover.members()
        own = Members.of_rows(chosen_origins)
        others = np.zeros(len(own), np.int64)
        np.add.at(others, index[:, 0], members.others)
        members = fall_together(
            np.concatenate([own.row, index[members.row, 0]]),
            np.concatenate([np.zeros(len(own), np.int64), members.count]),
            Origins.concat([own.witness, members.witness]),
            others,
            priorities(list(self._sources)),
        )
        bank = MemoryBank(
            chosen[:, : self.config.dim],
            chosen_origins,
            self._metric,
            list(self._sources),
            list(self._cameras),
            members,
            self.config.place_weight,
            np.concatenate([keys, np.full(len(kept), np.inf)]),
        )
        self._coverage = measure_coverage(
            bank, self.sampled[1], _in_metric(bound, self._metric), self._patches
        )
        return bank

    def _fill(self, rows: Floats, drawn: Floats) -> NDArray[np.int64]:
        """Which covering rows join the drawn ones: those that cover best what the drawn ones leave."""
        distances = nearest(rows, drawn)[0][:, 0] if len(drawn) else None
        size = self.config.size
        room = len(rows) if size is None else size - len(drawn)
        new = np.arange(len(rows)) if distances is None else np.flatnonzero(distances > 0)
        if len(new) <= room:
            if self._cover.gathering:  # then patches may be equal to each other
                new = new[np.sort(np.unique(rows[new], axis=0, return_index=True)[1])]
            return new
        if room < 1:
            return new[:0]
        picked = kcenter_select(
            rows, room, seed=self.config.seed, slack=self.config.slack, distances=distances
        )
        return np.sort(picked.indices)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """All that `from_state` needs to go on: named arrays, and a JSON-able dict."""
        waiting = [origins for _, origins in self._waiting]
        width = self._cover.rows.shape[1]
        arrays: dict[str, NDArray[Any]] = {
            "waiting.rows": np.concatenate(
                [np.empty((0, width), np.float32), *(r for r, _ in self._waiting)]
            ),
            "waiting.lengths": np.array([len(rows) for rows, _ in self._waiting], np.int64),
        }
        arrays |= self._cover.to_tensors() | Origins.concat(waiting).to_tensors("waiting.")
        arrays |= self._random.to_tensors("random.") | self._aside.to_tensors("aside.")
        about = {
            "config": asdict(self.config),
            "radius": self._cover.radius,
            "patches": self._patches,
            "reductions": self._cover.reductions,
            "sources": list(self._sources),
            "cameras": list(self._cameras),
        }
        return arrays, about

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any], *, features: str | None = None
    ) -> StreamingCoreset:
        """Go on from `state`.

        Args:
            arrays, about: what `state` gave.
            features: the caller's present name for what makes the features.

        Raises:
            MemoryBankError: the state is of other features, or incomplete.
        """
        try:
            coreset = cls(**about["config"])
            if features is not None and features != coreset.config.features:
                raise MemoryBankError(
                    f"the checkpoint is of features {coreset.config.features!r}, this fit makes "
                    f"{features!r}; use the same backbone and projection, or delete the checkpoint"
                )
            coreset._restore(arrays, about)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise MemoryBankError(f"the checkpoint is incomplete ({error}); delete it, fit anew") from error
        return coreset

    def _restore(self, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> None:
        self._cover.restore(arrays, float(about["radius"]), int(about["reductions"]))
        for source in about["sources"]:
            self._meet(source)
        edges = np.cumsum([0, *arrays["waiting.lengths"]]).tolist()  # no patch may be waiting
        waiting = Origins.from_tensors(arrays, "waiting.")
        for start, stop in pairwise(edges):
            part = np.arange(start, stop)
            self._waiting.append((arrays["waiting.rows"][part], waiting.take(part)))
        self._random.restore(arrays, "random.")
        self._aside.restore(arrays, "aside.")
        self._patches = int(about["patches"])
        self._cameras = {name: number for number, name in enumerate(about["cameras"])}


def _in_metric(distance: float, metric: Metric) -> float:
    return float(to_metric(np.array(distance, np.float32), metric))
