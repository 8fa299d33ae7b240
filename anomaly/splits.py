"""Which stretches of the normal footage are learned from, and which are kept aside.

Neighbouring frames are nearly the same picture, so frames must never be split at random: whole
clips are held out, or, where there are few clips, blocks of time with a guard between. Each camera's footage
is split by itself: a camera without a hold-out of its own could not be put on a scale of its own.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomaly.calibration import camera_of
from anomaly.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anomaly.footage.source import Source

#: With at least this many clips whole clips are held out.
CLIPS_FOR_WHOLE_HOLDOUT = 5
#: A clip that is held out in blocks gives one block for each such stretch of it.
BLOCK_PERIOD_S = 120.0


@dataclass(frozen=True)
class Span:
    """A stretch of a source, half-open, in seconds; `end_s` may be infinite."""

    source: Source
    start_s: float
    end_s: float


def plan_holdout(
    sources: Sequence[Source],
    durations: Mapping[str, float | None],
    share: float,
    guard_s: float,
    seed: int,
    excluded: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> tuple[list[Span], list[Span]]:
    """Split normal footage, that of each camera (`anomaly.calibration.camera_of`) by itself.

    Args:
        sources: videos and images, in the order in which they are learned.
        durations: seconds of each video by source name; None = not known.
        share: share to hold out, 0 <= share < 1.
        guard_s: seconds left out on either side of a held-out block.
        seed: of the choice.
        excluded: stretches by source name that are not read. They count as no footage: the share is of what is
            left, and spans may reach over them.

    Returns:
        (spans to learn from, spans held out), camera by camera. Without anything to spare (one image), or with
        share 0, nothing is held out.

    Raises:
        UsageError: a share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise UsageError(
            f"fit.holdout={share} is outside [0, 1); give the share of the footage to keep aside, such as 0.2"
        )
    cameras: dict[str, list[Source]] = {}
    for source in sources:
        cameras.setdefault(camera_of(source.name), []).append(source)
    learned: list[Span] = []
    held: list[Span] = []
    for own in cameras.values():
        _split_camera(own, durations, share, guard_s, seed, excluded or {}, learned, held)
    return learned, held


def _split_camera(
    sources: Sequence[Source],
    durations: Mapping[str, float | None],
    share: float,
    guard_s: float,
    seed: int,
    excluded: Mapping[str, Sequence[tuple[float, float]]],
    learned: list[Span],
    held: list[Span],
) -> None:
    """Hold out whole clips of one camera, or blocks of each where they are few. The other cameras change nothing."""
    left = {
        source.name: _left(source, durations.get(source.name), excluded.get(source.name, ()))
        for source in sources
    }
    durations = {
        name: sum(end - start for start, end in stretches) if durations.get(name) is not None else None
        for name, stretches in left.items()
    }
    # Of what is excluded whole nothing will be read: it must not stand for the footage that is held out.
    nothing = [source for source in sources if not left[source.name]]
    learned.extend(Span(source, 0.0, math.inf) for source in nothing)
    images = [source for source in sources if source.kind == "image" and source not in nothing]
    videos = [source for source in sources if source.kind == "video" and source not in nothing]
    rng = np.random.default_rng(seed)
    if images:
        count = min(max(1, round(share * len(images))), len(images) - 1) if share else 0
        chosen = set(rng.permutation(len(images))[:count].tolist())
        for index, source in enumerate(images):
            (held if index in chosen else learned).append(Span(source, 0.0, math.inf))
    if len(videos) >= CLIPS_FOR_WHOLE_HOLDOUT:
        known = [seconds for source in videos if (seconds := durations.get(source.name)) is not None]
        typical = float(np.mean(known)) if known else 1.0
        lengths = [durations.get(source.name) or typical for source in videos]
        wanted, taken = share * sum(lengths), 0.0
        chosen = set()
        for index in rng.permutation(len(videos)).tolist():
            # Stop at the number of clips that comes nearest to the share.
            if taken + lengths[index] / 2 > wanted:
                break
            chosen.add(index)
            taken += lengths[index]
        if share and not chosen:
            chosen.add(int(np.argmin(lengths)))
        for index, source in enumerate(videos):
            (held if index in chosen else learned).append(Span(source, 0.0, math.inf))
    else:
        for source in videos:
            _split_clip(source, left[source.name], durations[source.name], share, guard_s, learned, held)


def _left(
    source: Source, duration: float | None, excluded: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """The stretches of a source that are read, in order; of one whose end is not known the last has none."""
    stretches = [(0.0, math.inf if duration is None else duration)]
    if source.kind == "image":
        return [] if is_excluded(excluded, 0.0) else stretches
    for start, end in excluded:
        cut = [piece for a, b in stretches for piece in ((a, min(b, start)), (max(a, end), b))]
        stretches = [(a, b) for a, b in cut if a < b]
    return stretches


def _moment(left: Sequence[tuple[float, float]], seconds: float) -> float:
    """The time in the source after so many seconds of what is read of it."""
    for start, end in left[:-1]:
        if seconds < end - start:
            return start + seconds
        seconds -= end - start
    return left[-1][0] + seconds


def _split_clip(
    source: Source,
    left: Sequence[tuple[float, float]],
    duration: float | None,
    share: float,
    guard_s: float,
    learned: list[Span],
    held: list[Span],
) -> None:
    """Hold out the last part of every period of one clip, with guards around it."""
    if not share or duration is None or duration <= 0:
        learned.append(Span(source, 0.0, math.inf))
        return
    periods = max(1, math.floor(duration / BLOCK_PERIOD_S))
    period = duration / periods
    block = share * period
    guard = min(guard_s, block / 4)
    start = 0.0
    for index in range(periods):
        end = (index + 1) * period
        learned.append(Span(source, _moment(left, start), _moment(left, end - block - guard)))
        last = index == periods - 1
        held.append(Span(source, _moment(left, end - block), math.inf if last else _moment(left, end)))
        start = end + guard


_DROP = re.compile(r"^(?P<clip>.+)@(?P<start>[0-9]+(?:[.][0-9]*)?)-(?P<end>[0-9]+(?:[.][0-9]*)?|end)$")


def parse_drops(drops: Sequence[str], names: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Read `fit.drop` entries, `clip@start-end` in seconds (`end` may be the word "end").

    Args:
        drops: the entries.
        names: names of the sources; an entry must name one of them, or the end of exactly one.

    Returns:
        Excluded stretches by source name.

    Raises:
        UsageError: an entry that cannot be read or names no source.
    """
    excluded: dict[str, list[tuple[float, float]]] = {}
    for drop in drops:
        match = _DROP.match(drop)
        if match is None:
            raise UsageError(
                f"fit.drop entry {drop!r} cannot be read; write clip@start-end in seconds, such as day1.mp4@61-75"
            )
        clip = match["clip"]
        found = [name for name in names if name == clip] or [
            name for name in names if name.endswith("/" + clip)
        ]
        if len(found) != 1:
            raise UsageError(
                f"fit.drop names {clip!r}, which is {'no source' if not found else 'several sources'}; "
                f"use a name as fit_review.html shows it, such as {names[0]!r}"
            )
        start = float(match["start"])
        end = math.inf if match["end"] == "end" else float(match["end"])
        if start >= end:
            raise UsageError(
                f"fit.drop entry {drop!r} ends before it starts; write clip@start-end in seconds"
            )
        excluded.setdefault(found[0], []).append((start, end))
    return excluded


def is_excluded(excluded: Sequence[tuple[float, float]], time_s: float) -> bool:
    """Whether a moment lies in one of the half-open stretches."""
    return any(start <= time_s < end for start, end in excluded)
