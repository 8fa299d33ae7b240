"""Thresholds that a budget of false alarms allows, and the footage to spend it on."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from anomaly.calibration.certificate import just_below
from anomaly.calibration.false_alarms import MINIMUM_S
from anomaly.calibration.sweep import Footage, sweep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.calibration.false_alarms import NormalWindows
    from anomaly.calibration.series import Decided, Series

#: Source, and the stretch [start_s, end_s) of it; None = to its end. A series is cut once, so it is a beginning.
Spent: TypeAlias = tuple[str, float, float | None]
#: Thresholds tried: this many of the highest peaks, and as many spread over the rest.
_LEVELS = 500
#: Guards that footage is long of which one is lost to halve it, where there is more to deal.
_WORTH_HALVING = 4


def split_holdout(holdout: Sequence[Series], guard_s: float) -> tuple[list[Series], list[Series]]:
    """Normal footage in two parts of about equal length: one to spend the budget on, one to report on.

    Each camera's by itself, so that no quiet one is reported on in place of a restless one: whole series where there are
    two or more, else the two halves of the one with `guard_s` between
    them. The longest are dealt first, each to the part that is shorter so far; equal ones by name, a four to one part, the other,
    the other and the one: dealt in turn, clips named by day and shift would leave all the nights to one part. What is too short to
    be worth halving is dealt whole, with that of the other cameras.
    """
    of_camera: dict[str, list[Series]] = {}
    for one in holdout:
        of_camera.setdefault(one.camera, []).append(one)
    spend: list[Series] = []
    report: list[Series] = []
    short: list[Series] = []
    for some in of_camera.values():
        if len(some) == 1 and some[0].seconds.sum() < _WORTH_HALVING * guard_s:
            short += some
            continue
        parts = _split(some, guard_s)
        spend += parts[0]
        report += parts[1]
    parts = _split(short, guard_s)
    return spend + parts[0], report + parts[1]


def _split(holdout: Sequence[Series], guard_s: float) -> tuple[list[Series], list[Series]]:
    spend: list[Series] = []
    report: list[Series] = []
    if len(holdout) == 1:
        times = holdout[0].times
        middle = (times[0] + times[-1]) / 2
        first, second = np.searchsorted(times, [middle - guard_s / 2, middle + guard_s / 2]).tolist()
        if first > 0 and second < len(times):
            spend.append(holdout[0].part(slice(0, first)))
            report.append(holdout[0].part(slice(second, None)))
        else:
            report.append(holdout[0])
        return spend, report
    lengths, side = [0.0, 0.0], 1
    for place, one in enumerate(sorted(holdout, key=lambda one: (-one.seconds.sum(), one.source))):
        if lengths[0] != lengths[1]:
            side = int(lengths[1] < lengths[0])
        elif place % 4 == 0 and place:
            side = _coin(one.source)
        (spend, report)[side].append(one)
        lengths[side] += float(one.seconds.sum()) or 1.0
    return spend, report


def _coin(source: str) -> int:
    """0 or 1, as good as by chance but always the same for a source: no other draw gives another threshold."""
    return hashlib.sha256(source.encode(errors="surrogateescape")).digest()[0] & 1


def spent_on(holdout: Sequence[Series], reported: Sequence[Series]) -> tuple[Spent, ...]:
    """The stretches of a hold-out that are not among what is reported on, the guard between included.

    Where footage that was held out and labelled footage share a name and one of them is spent, both count as spent.
    """
    begins = {one.source: float(one.times[0]) for one in reported}
    names = Counter(one.source for one in holdout)
    for name, left in Counter(one.source for one in reported).items():
        if left < names[name]:
            del begins[name]
    spent = []
    for one in holdout:
        start_s, end_s = float(one.times[0]), begins.get(one.source)
        if end_s is None or end_s > start_s:
            spent.append((one.source, start_s, end_s))
    return tuple(spent)


def without(holdout: Sequence[Series], spent: Iterable[Spent]) -> list[Series]:
    """A hold-out without the stretches that a threshold or a setting was chosen on."""
    ends = {source: math.inf if end_s is None else end_s for source, _, end_s in spent}
    left = []
    for one in holdout:
        first = int(np.searchsorted(one.times, ends.get(one.source, -math.inf)))
        if first < len(one.times):
            left.append(one.part(slice(first, None)) if first else one)
    return left


def threshold_for_budget(
    holdout: Sequence[Decided],
    budget_per_hour: float,
    *,
    windows: NormalWindows | None = None,
    max_chance_hit: float = 1.0,
) -> float | None:
    """Lowest threshold from which on upward no more than `budget_per_hour` alarms start on this footage.

    Searched from the top, because the count is not monotone: low enough, all alarms run into one.
    For the same reason the chance-hit rate, which is monotone, must stay within its limit too.
    Thresholds are peaks of the decision score: the 500 highest and 500 spread over the others.

    Returns:
        The threshold, or None where under a minute of footage says too little.
    """
    seconds = sum(float(one.series.seconds.sum()) for one in holdout)
    if seconds < MINIMUM_S:
        return None
    peaks = np.unique(np.concatenate([_peaks(one.decision) for one in holdout]))
    rest = peaks[:-_LEVELS]
    spread = rest[np.unique(np.linspace(0, len(rest) - 1, _LEVELS).astype(int))] if len(rest) else rest
    levels = np.unique([just_below(level) for level in np.append(spread, peaks[-_LEVELS:]).tolist()])
    footage = Footage([one.series for one in holdout])
    config = next((one.config for one in holdout if not one.series.is_picture), holdout[0].config)
    too_many = sweep(footage, config, levels).n_alarms > budget_per_hour * seconds / 3600
    if windows is not None:
        rates = windows.hit_rates(levels)
        too_many |= rates > max_chance_hit
    if not too_many.any():
        return float(levels[0])
    lowest = int(np.flatnonzero(too_many)[-1]) + 1
    return float(levels[lowest]) if lowest < len(levels) else math.nextafter(float(peaks[-1]), math.inf)


def _peaks(decision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Local maxima of a decision score: a threshold between two of them alarms like the upper."""
    padded = np.concatenate([[-np.inf], decision, [-np.inf]])
    peak = (padded[1:-1] >= padded[:-2]) & (padded[1:-1] >= padded[2:]) & np.isfinite(decision)
    return decision[peak] if peak.any() else np.array([0.0])
