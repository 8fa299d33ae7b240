"""Frames of the footage that a fit reads: which, from where, and what was wrong with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomaly.errors import FootageError, NoFootageError
from anomaly.footage.damage import damage_handler
from anomaly.footage.source import SourceInfo, probe, read_frame_at, read_frames
from anomaly.splits import Span, is_excluded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from anomaly.footage.source import Source
    from anomaly.types import Frame

#: Frames a second assumed of footage that does not say.
_USUAL_FPS = 25.0


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads spans of footage, without excluded moments.

    Attributes:
        durations: seconds of each source by name; None = not known.
        excluded: stretches by source name that are never read.
        refuse_damage: raise on a damaged file instead of reading what can be read.
        damaged: what was wrong, each message once.
    """

    durations: Mapping[str, float | None]
    excluded: Mapping[str, Sequence[tuple[float, float]]]
    refuse_damage: bool
    damaged: list[str]

    def frames(self, span: Span, fps: float | None) -> Iterator[Frame]:
        """Frames of a span, in order; damage is noted, or raised as DamagedFootageError."""
        skip = self.excluded.get(span.source.name, ())
        end = None if math.isinf(span.end_s) else span.end_s
        on_damage = damage_handler(self._note, refuse=self.refuse_damage)
        for frame in read_frames(span.source, fps=fps, start_s=span.start_s, end_s=end, on_damage=on_damage):
            if not is_excluded(skip, frame.pts_s):
                yield frame

    def _note(self, message: str) -> None:
        if message not in self.damaged:
            self.damaged.append(message)

    def sample(self, spans: Sequence[Span], count: int, fps: float | None, seed: int) -> Iterator[Frame]:
        """About `count` frames, spread evenly over spans; of more spans than that, one of each of `count`."""
        lengths = np.array([self.length(span) for span in spans])
        total = lengths.sum()
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(spans), count, replace=False) if len(spans) > count else np.arange(len(spans))
        for number in np.sort(chosen):
            span, length = spans[number], lengths[number]
            if span.source.kind == "image":
                yield from self.frames(span, None)
                continue
            wanted = max(1, round(count * length / total)) if len(spans) <= count else 1
            wanted = min(wanted, max(1, round(self.expected(span, fps))))
            # One frame from the middle of each of `wanted` equal parts.
            for part in range(wanted):
                moment = span.start_s + length * (part + 0.5) / wanted
                if is_excluded(self.excluded.get(span.source.name, ()), moment):
                    continue
                try:
                    yield read_frame_at(span.source, moment)
                except FootageError:
                    continue  # the pass over all frames reports the damage

    def length(self, span: Span) -> float:
        """Seconds of a span, as far as they are known."""
        if math.isfinite(span.end_s):
            return max(span.end_s - span.start_s, 1e-3)
        known = self.durations.get(span.source.name)
        return max((known or 1.0) - span.start_s, 1e-3)

    def expected(self, span: Span, fps: float | None) -> float:
        """How many frames a span will give, for progress."""
        if span.source.kind == "image":
            return 1
        return max(1.0, self.length(span) * (fps or _USUAL_FPS))


def probe_all(
    sources: Sequence[Source],
    damaged: list[str],
    tell: Callable[[str, float, float | None], None],
    *,
    refuse_damage: bool,
) -> tuple[list[Source], dict[str, SourceInfo]]:
    """The sources that can be read, and what they say about themselves.

    Raises:
        NoFootageError: none can be read.
    """
    usable: list[Source] = []
    infos: dict[str, SourceInfo] = {}
    for index, source in enumerate(sources):
        tell("reading headers", index, len(sources))
        try:
            infos[source.name] = probe(source)
        except FootageError as error:
            if refuse_damage:
                raise
            damaged.append(str(error))
            continue
        usable.append(source)
    if not usable:
        first = f" ({damaged[0]})" if damaged else ""
        raise NoFootageError(
            f"none of {len(sources)} sources can be read{first}; give footage that FFmpeg or OpenCV reads"
        )
    return usable, infos


def typical_size(infos: Iterable[SourceInfo]) -> tuple[int, int]:
    """Median height and width: one odd picture in a folder does not shape the network's input."""
    height, width = np.median(np.array([(info.height, info.width) for info in infos]), axis=0)
    return round(float(height)), round(float(width))
