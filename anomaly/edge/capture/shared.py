"""The newest frame, in memory that two processes share.

The writer fills a slot and publishes it by one store of its number, so a writer that is killed at any moment leaves
a whole frame and exact counts. The lock is a record lock of the kernel's, which lets go of what a dead process held.
The memory is anonymous: no name in /dev/shm, no limit of a container on that folder, gone with its processes.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomaly.edge.capture.settings import Counts

if TYPE_CHECKING:
    from anomaly.types import ImageArray

# The head is a frame's number and its slot in one store, so that no death of the writer comes between them.
# One slot is read, one is the newest, one is written.
_SLOTS = 3
_PAGE = 4096
_COUNTER = struct.Struct("=q")
_HEAD, _TAKEN, _HANDED, _READING, _DECODED, _ALIVE, _LAST_PTS = (8 * i for i in range(7))
_META = struct.Struct("=qqqqdd")
_META_AT = 256
_META_STEP = 64


@dataclass(frozen=True, slots=True)
class Captured:
    """A frame as it lies in the memory.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        number: 1 for the first frame captured.
        index: among all decoded frames, from 0.
        received_ns: monotonic clock at which its packet was there.
        pts_s, utc_s: as in `Frame`.
    """

    image: ImageArray
    number: int
    index: int
    received_ns: int
    pts_s: float
    utc_s: float


class NewestFrame:
    """Room for the newest frame and its counters.

    Args:
        max_pixels: the largest frame; memory is used only as frames need it.
        fd: of memory that another process made; None makes it.
    """

    def __init__(self, max_pixels: int, fd: int | None = None) -> None:
        self._slot_bytes = -(-max_pixels * 3 // _PAGE) * _PAGE
        size = _PAGE + _SLOTS * self._slot_bytes
        if fd is None:
            fd = os.memfd_create("newest-frame", os.MFD_CLOEXEC)
            os.ftruncate(fd, size)
            os.pwrite(fd, _COUNTER.pack(-1), _READING)
        self.fd = fd
        self._memory = mmap.mmap(fd, size)
        # A camera that is removed leaves no descriptor behind.
        weakref.finalize(self, os.close, fd)
        self._threads = threading.Lock()

    @property
    def latest(self) -> int:
        """Frames captured so far, which is the number of the newest."""
        return self._get(_HEAD) // _SLOTS

    @property
    def taken(self) -> int:
        """Number of the frame that was taken last."""
        return self._get(_TAKEN)

    @property
    def decoded(self) -> int:
        """Frames decoded so far."""
        return self._get(_DECODED)

    def count_decoded(self) -> int:
        """One more frame was decoded; returns its index, from 0."""
        index = self._get(_DECODED)
        self._set(_DECODED, index + 1)
        return index

    @property
    def alive_ns(self) -> int:
        """Monotonic clock at which the writer was last seen to move."""
        return self._get(_ALIVE)

    @alive_ns.setter
    def alive_ns(self, value: int) -> None:
        self._set(_ALIVE, value)

    @property
    def last_pts_s(self) -> float:
        """Time of the frame captured last, over all of the writer's lives; -1 before the first."""
        return self._get(_LAST_PTS) / 1e6 if self.latest else -1.0

    def publish(self, image: ImageArray, *, index: int, received_ns: int, pts_s: float, utc_s: float) -> bool:
        """Make this the newest frame.

        Returns:
            Whether the one before had been taken, so that the reader must be woken.
        """
        height, width = image.shape[:2]
        with self._lock():
            latest, held = divmod(self._get(_HEAD), _SLOTS)
            slot = next(i for i in range(_SLOTS) if i not in (held, self._get(_READING)))
        _META.pack_into(
            self._memory,
            _META_AT + slot * _META_STEP,
            height,
            width,
            index,
            received_ns,
            pts_s,
            utc_s,
        )
        np.copyto(self._pixels(slot, height, width), image)
        with self._lock():
            self._set(_LAST_PTS, round(pts_s * 1e6))
            self._set(_HEAD, (latest + 1) * _SLOTS + slot)
            return self._get(_TAKEN) == latest

    def take(self) -> Captured | None:
        """A copy of the newest frame if it was not taken yet."""
        with self._threads:
            with self._lock():
                latest, slot = divmod(self._get(_HEAD), _SLOTS)
                if latest == self._get(_TAKEN):
                    return None
                self._set(_READING, slot)
                self._set(_TAKEN, latest)
                self._set(_HANDED, self._get(_HANDED) + 1)
            height, width, index, received_ns, pts_s, utc_s = self._meta(slot)
            image = self._pixels(slot, height, width).copy()
            self._set(_READING, -1)
        return Captured(image, latest, index, received_ns, pts_s, utc_s)

    def counts(self) -> Counts:
        """What became of all frames; exact at the moment of the call."""
        with self._threads, self._lock():
            captured, taken = self.latest, self._get(_TAKEN)
            handed = self._get(_HANDED)
            dropped = captured - handed - (captured != taken)
            return Counts(self._get(_DECODED), captured, handed, dropped)

    def _meta(self, slot: int) -> tuple[int, int, int, int, float, float]:
        return _META.unpack_from(self._memory, _META_AT + slot * _META_STEP)

    def _pixels(self, slot: int, height: int, width: int) -> ImageArray:
        if height * width * 3 > self._slot_bytes:
            raise ValueError(f"a frame of {width} x {height} does not fit")
        start = _PAGE + slot * self._slot_bytes
        flat = np.frombuffer(self._memory, dtype=np.uint8, count=height * width * 3, offset=start)
        return flat.reshape(height, width, 3)

    def _get(self, at: int) -> int:
        value: int = _COUNTER.unpack_from(self._memory, at)[0]
        return value

    def _set(self, at: int, value: int) -> None:
        _COUNTER.pack_into(self._memory, at, value)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        fcntl.lockf(self.fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN)
