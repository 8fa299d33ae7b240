"""Banks of several cameras, days or machines made one; rows added; sources forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from memory_bank.bank import Members, MemoryBank
from memory_bank.distance import from_metric, nearest, to_metric
from memory_bank.errors import MemoryBankError
from memory_bank.kcenter import kcenter_select
from memory_bank.ledger import fall_together, priorities
from memory_bank.origins import Origins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memory_bank.distance import Floats, Metric


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge cost, in the metric's units.

    Attributes:
        bound: no patch behind any input is further from a row than this: the largest distance of an
            input row to its nearest kept row, plus the largest radius of the inputs.
        largest, mean: measured distance of the inputs' rows to their nearest kept row.
        rows_before, rows: rows of all inputs, and of the result.
    """

    bound: float
    largest: float
    mean: float
    rows_before: int
    rows: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What a bank lost with a source, in the metric's units.

    Attributes:
        rows: rows dropped, which stood for no other source that they told apart.
        uncertain: of these, rows that stood for more sources than they told apart (`Members.others`): another may
            have been among those. What a row came from must not stay, so it goes.
        patches: fitted patches of that source that rows told apart, no longer stood for.
        largest, mean: distance of the dropped rows to the nearest row left; 0 where none was dropped.
        first: the lowest number of a dropped row; as many as there were rows where none was dropped.
    """

    rows: int
    uncertain: int
    patches: int
    largest: float
    mean: float
    first: int


def _joined(banks: Sequence[MemoryBank]) -> MemoryBank:
    """All rows of banks of one kind, in order."""
    if not banks:
        raise MemoryBankError("nothing to merge; give at least one bank")
    first = banks[0]
    for bank in banks[1:]:
        for what, mine, theirs in (
            ("dimensions", first.dim, bank.dim),
            ("metric", first.metric, bank.metric),
            ("place_weight", first.place_weight, bank.place_weight),
        ):
            if mine != theirs:
                raise MemoryBankError(
                    f"banks of {what} {mine} and {theirs} do not merge; fit both with one configuration"
                )
    sources = list(dict.fromkeys(name for bank in banks for name in bank.sources))
    cameras = list(dict.fromkeys(name for bank in banks for name in bank.cameras))
    source_number = {name: number for number, name in enumerate(sources)}
    camera_number = {name: number for number, name in enumerate(cameras)}
    origins, witnesses = [], []
    for bank in banks:
        renumber = (
            np.array([source_number[name] for name in bank.sources]),
            np.array([camera_number[name] for name in bank.cameras]),
        )
        origins.append(bank.origins.relabel(*renumber))
        witnesses.append(bank.members.witness.relabel(*renumber))
    starts = np.cumsum([0, *(len(bank) for bank in banks[:-1])]).astype(np.int32)
    return first.replace(
        rows=np.concatenate([bank.rows for bank in banks]),
        origins=Origins.concat(origins),
        sources=sources,
        cameras=cameras,
        members=Members(
            np.concatenate([bank.members.row + start for bank, start in zip(banks, starts, strict=True)]),
            np.concatenate([bank.members.count for bank in banks]),
            Origins.concat(witnesses),
            np.concatenate([bank.members.others for bank in banks]),
        ),
        keys=np.concatenate([bank.keys for bank in banks]),
        storage="float16" if all(bank.storage == "float16" for bank in banks) else "float32",
    )


def merge_banks(
    banks: Sequence[MemoryBank],
    size: int | None = None,
    *,
    radii: Sequence[float] | None = None,
    random_share: float = 0.0,
    seed: int = 0,
    slack: float = 0.0,
) -> tuple[MemoryBank, Merged]:
    """One bank of several. In another order other rows may be picked, within the same bounds: picking begins at a place.

    The random rows stay a random sample of all that was fitted (those with the smallest keys); the rest
    is chosen by greedy k-center around them. By the triangle inequality the radius is at most the
    selection's plus the largest input's.

    Args:
        banks: of one D, metric and place_weight.
        size: most rows of the result; None keeps all distinct rows.
        radii: for each bank the largest distance of its fitted patches to their nearest row (a
            `Coverage.largest_bound`), in the metric's units; left out, 0, and the bound speaks of rows.
        random_share: of `size`, 0..1; as the banks were fitted with.
        seed, slack: of the selection.

    Raises:
        MemoryBankError: banks that do not fit each other.
    """
    if size is not None and size < 1:
        raise MemoryBankError(f"size of a merged bank must be at least 1, got {size}")
    if not 0 <= random_share <= 1:
        raise MemoryBankError(f"random_share must be between 0 and 1, got {random_share}")
    if radii is not None and len(radii) != len(banks):
        raise MemoryBankError(f"{len(banks)} banks need as many radii, got {len(radii)}")
    union = _joined(banks)
    distinct = np.sort(np.unique(union.working, axis=0, return_index=True)[1])
    kept = distinct
    if size is not None and len(distinct) > size:
        kept, drawn = _choose(union, distinct, size, random_share, seed, slack)
        # A random row that is kept for what it covers is no longer part of the random sample.
        union = union.replace(keys=np.where(np.isin(np.arange(len(union)), drawn), union.keys, np.inf))
    merged, distances = _keep(union, kept)
    largest = float(distances.max())
    inputs = max((from_metric(radius, union.metric) for radius in radii or [0.0]), default=0.0)
    return merged, Merged(
        bound=_metric(largest + inputs, union.metric),
        largest=_metric(largest, union.metric),
        mean=float(to_metric(distances, union.metric).mean()),
        rows_before=len(union),
        rows=len(merged),
    )


def _choose(
    bank: MemoryBank, distinct: NDArray[np.int64], size: int, random_share: float, seed: int, slack: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of the distinct rows stay, ascending, and which of those as random ones."""
    rows, keys = bank.working[distinct], bank.keys[distinct]
    drawn = np.argsort(keys, kind="stable")[: min(round(size * random_share), int(np.isfinite(keys).sum()))]
    distances = nearest(rows, rows[drawn])[0][:, 0] if len(drawn) else None
    picked = drawn[:0]
    if size > len(drawn):
        picked = kcenter_select(rows, size - len(drawn), seed=seed, slack=slack, distances=distances).indices
    return np.sort(distinct[np.concatenate([drawn, picked])]), distinct[drawn]


def _keep(bank: MemoryBank, kept: NDArray[np.int64]) -> tuple[MemoryBank, Floats]:
    """The bank with some rows only, the others' members moved to the nearest; and how far each row moved."""
    distances, index = nearest(bank.working, bank.working[kept])
    members = bank.members
    others = np.zeros(len(kept), np.int64)
    np.add.at(others, index[:, 0], members.others)
    moved = fall_together(
        index[members.row, 0], members.count, members.witness, others, priorities(bank.sources)
    )
    changed = bank.replace(
        rows=bank.rows[kept], origins=bank.origins.take(kept), members=moved, keys=bank.keys[kept]
    )
    return changed, distances[:, 0]


def add_rows(
    bank: MemoryBank, extra: MemoryBank, radius: float = 0.0, size: int | None = None
) -> tuple[MemoryBank, float]:
    """The bank and those rows of another that it does not cover.

    No row goes, so no patch is further from the result than it was from the bank.

    Args:
        bank: stays as it is; its rows keep their numbers in the result.
        extra: normal patches to add, as a bank of their own.
        radius: rows of `extra` within this distance (the metric's units) of a row are only counted.
        size: most rows of the result; those of `extra` that are furthest from all others come first. None = all.

    Returns:
        The grown bank, and how far a row of `extra` is from it at most (the metric's units).

    Raises:
        MemoryBankError: banks that do not fit each other, a negative radius, or a size below the bank's.
    """
    if not radius >= 0:
        raise MemoryBankError(f"radius must be 0 or more, got {radius}")
    if size is not None and size < len(bank):
        raise MemoryBankError(f"a bank of {len(bank)} rows cannot grow to {size}; give as many or more")
    union = _joined([bank, extra])
    distances = nearest(extra.working, bank.working)[0][:, 0]
    picked = np.empty(0, np.int64)
    room = None if size is None else size - len(bank)
    if room != 0:
        picked = kcenter_select(
            extra.working, room, from_metric(radius, bank.metric), distances=distances
        ).indices
    grown, moved = _keep(union, np.concatenate([np.arange(len(bank)), len(bank) + np.sort(picked)]))
    return grown, _metric(float(moved.max()), bank.metric)


def forget_source(bank: MemoryBank, *forgotten: str) -> tuple[MemoryBank, Forgotten]:
    """The bank without one or more sources: a row goes only when no other is left of those that it told apart.

    A row that came from a forgotten source and stays is told by a patch of another source that it stood for, at its own
    place where place counts. Of a row
    that stood for more sources than it told apart, patches that are counted together stay in its count.

    Raises:
        MemoryBankError: no such source, or nothing would be left.
    """
    for source in forgotten:
        if source not in bank.sources:
            raise MemoryBankError(f"the bank holds no source {source!r}; it has {', '.join(bank.sources)}")
    numbers = [bank.sources.index(source) for source in forgotten]
    members = bank.members
    of_forgotten = np.isin(members.witness.source, numbers)
    others = np.flatnonzero(~of_forgotten)
    rows, stood_for = bank.stands_for()
    kept = np.unique(rows[~np.isin(stood_for, numbers)])
    if not len(kept):
        names = ", ".join(map(repr, forgotten[:5])) + (" and others" if len(forgotten) > 5 else "")
        unknown = int((members.others > 0).sum())
        alone = (
            "alone"
            if not unknown
            else f"as far as they tell ({unknown} stood for more sources than they name)"
        )
        raise MemoryBankError(
            f"every row stands for {names} {alone}; fit a new bank of what stays instead of forgetting the rest"
        )
    gone_names = set(forgotten)
    sources = tuple(name for name in bank.sources if name not in gone_names)
    number_of = {name: number for number, name in enumerate(sources)}
    renumber = np.array([number_of.get(name, -1) for name in bank.sources])
    same = np.arange(len(bank.cameras))
    new_row = np.full(len(bank), -1)
    new_row[kept] = np.arange(len(kept))
    own = bank.origins.take(kept)
    gone = np.flatnonzero(np.isin(own.source, numbers))
    # Members stand in the order of rows, and a row whose own source goes stays by an entry of another.
    stand_in = others[np.searchsorted(members.row[others], kept[gone])]
    columns = {name: getattr(own, name).copy() for name in Origins.DTYPES}
    for name, column in columns.items():
        if bank.place_weight and name in ("y", "x"):
            # Part of what is measured, as the features are: a row that moved would stand elsewhere for all the others.
            continue
        column[gone] = getattr(members.witness, name)[stand_in]
    origins = Origins(**columns)
    remaining = bank.replace(
        rows=bank.rows[kept],
        origins=origins.relabel(renumber, same),
        sources=sources,
        members=Members(
            new_row[members.row[others]],
            members.count[others],
            members.witness.take(others).relabel(renumber, same),
            members.others[kept],
        ),
        keys=bank.keys[kept],
    )
    dropped = np.setdiff1d(np.arange(len(bank)), kept)
    lost = np.zeros(1, np.float32)
    if len(dropped):
        lost = to_metric(nearest(bank.working[dropped], remaining.working)[0][:, 0], bank.metric)
    patches = int(members.count[of_forgotten].sum())
    uncertain = int((members.others[dropped] > 0).sum())
    first = int(dropped[0]) if len(dropped) else len(bank)
    return remaining, Forgotten(
        len(dropped), uncertain, patches, float(lost.max()), float(lost.mean()), first
    )


def _metric(distance: float, metric: Metric) -> float:
    return float(to_metric(np.array(distance, np.float32), metric))
