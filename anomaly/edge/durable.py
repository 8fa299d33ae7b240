"""Files that are on the disk, whole, once their name is there."""

from __future__ import annotations

import os
from pathlib import Path


def publish(part: Path, path: Path) -> None:
    """Give a finished file its name: synced, renamed over whatever stood there, the folder synced.

    Raises:
        OSError: the disk is full, or a name cannot be written.
    """
    sync(part)
    os.replace(part, path)
    sync(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file (a snapshot, a heatmap) so that it is there whole or not at all.

    Raises:
        OSError: it could not be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    try:
        part.write_bytes(data)
        publish(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def part_of(path: Path) -> Path:
    """Name under which a file is written before it is finished; leftovers are removed at the next start."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
