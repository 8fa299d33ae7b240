"""What a process settles before anything large is imported."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

# mallopt's numbers for M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, from glibc's malloc.h, with the values given here.
_KEPT = {-3: 1 << 30, -1: (1 << 31) - 1}


class Terminated(KeyboardInterrupt):
    """SIGTERM: a command ends by it as by Ctrl-C, so that nothing half-written stays."""


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """The handler of SIGTERM that raises `Terminated`, and hands it down to the processes that work for this one."""
    processes = sys.modules.get("multiprocessing")
    for child in processes.active_children() if processes else ():
        child.terminate()
    raise Terminated


@contextmanager
def terminated_in_order() -> Iterator[None]:
    """While SIGTERM raises `Terminated`, unless somebody else handles it, or this is no main thread."""
    ours = (
        signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        and threading.current_thread() is threading.main_thread()
    )
    if ours:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def settle() -> None:
    """Let threads that wait sleep, and keep freed memory for the next frame; for this process and those it starts.

    torch and FAISS each bring threads that spin while they wait. Where the processor is shared, one library then starves
    the other: ten times slower, measured on two busy cores. Sleeping threads cost nothing there.

    glibc gives large blocks back to the system as soon as they are freed. A network's maps are such blocks: every frame
    had up to 50 MB of pages mapped and zeroed anew, which took as long as the network itself (decision 12). Kept, the
    pages of one frame serve the next; the process stays as large as its largest frame.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.platform.startswith("linux"):
        return
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(_KEPT[-3]))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(_KEPT[-1]))
    # The variables are read when a process starts: they come too late for this one. Not every C library has mallopt.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _KEPT.items():
            mallopt(option, value)
