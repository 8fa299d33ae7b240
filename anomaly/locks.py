"""A folder for one process at a time; the lock goes with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anomaly.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def alone_in(folder: Path, busy: str) -> Iterator[None]:
    """While no other process works in this folder; on a disk without locks nothing is kept apart.

    Args:
        folder: is there.
        busy: the error's text where another does.

    Raises:
        UsageError: another process works in it.
        OSError: it cannot be opened.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(busy) from None
        except OSError:
            pass  # a disk without locks
        yield
    finally:
        os.close(handle)
