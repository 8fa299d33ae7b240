"""Timestamps of all frames of a video, from its packets alone: nothing is decoded."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from anomaly.footage.container import Video, open_video


@dataclass(frozen=True, slots=True)
class Timeline:
    """When each frame is shown.

    Attributes:
        ticks: (frames,) int64, ascending, in units of the stream's time base; empty if frames carry no times.
        frames: number of packets with a picture in them.
        duration_s: from the first frame to the end of the last; 0 where frames carry no times.
        exact: whether `ticks` lists every frame that decoding from the start would give, in the same
            order, so that a frame found by seeking can be numbered.
    """

    ticks: NDArray[np.int64]
    frames: int
    duration_s: float
    exact: bool


def timeline(path: Path) -> Timeline:
    """Read a file's packets once and list its frames; remembered for the files used last.

    Raises:
        DamagedFootageError: the file cannot be opened as video.
    """
    state = path.stat()
    return _timeline(path.absolute(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=16)
def _timeline(path: Path, _size: int, _mtime_ns: int) -> Timeline:
    with open_video(path) as video:
        return _read(video)


def _read(video: Video) -> Timeline:
    ticks = array("q")
    frames = 0
    whole = video.timed and video.countable and video.origin_s is not None
    try:
        for packet in video.container.demux(video.stream):
            if not packet.size or packet.is_discard:
                continue
            frames += 1
            whole = whole and packet.pts is not None and not packet.is_corrupt
            if packet.pts is not None:
                ticks.append(packet.pts)
    except (av.error.FFmpegError, ValueError):
        whole = False
    times = np.frombuffer(ticks, dtype=np.int64) if ticks else np.zeros(0, np.int64)
    times = np.sort(times)
    base = video.stream.time_base
    timed = video.timed and base is not None and len(times) > 0
    duration_s = float(times[-1] - times[0]) * float(base or 0) + video.period_s if timed else 0.0
    return Timeline(times, frames, duration_s, whole and frames > 0 and bool(np.all(np.diff(times) > 0)))
