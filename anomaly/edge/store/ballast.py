"""Room kept for events on a disk that others fill: a file that is given up when a commit finds no room."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NAME = "ballast"
#: Some thousands of events, their log included; on a small disk less, a 16th of it.
BYTES = 16 * 2**20


def load(folder: Path) -> bool:
    """Have the ballast in its place, where the disk has room for it and as much again; True where it is there."""
    path = folder / NAME
    disk = os.statvfs(folder)
    size = min(BYTES, disk.f_blocks * disk.f_frsize // 16)
    with contextlib.suppress(OSError):
        if path.stat().st_size == size:
            return True
    if disk.f_bavail * disk.f_frsize < 2 * size:
        return False
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
    except OSError:
        drop(folder)
        return False
    return True


def drop(folder: Path) -> bool:
    """Give the room free; False where there was none kept."""
    try:
        (folder / NAME).unlink()
    except OSError:
        return False
    return True
