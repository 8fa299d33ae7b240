"""Memory that a whole graph takes for its frames and its search, and whether this machine has it."""

from __future__ import annotations

from pathlib import Path

from export.errors import MemoryShortError

_FLOAT32 = 4
#: The product of patches and rows, and its difference from the norms, are alive at once.
_COPIES = 2
#: Of a frame in bytes, in float32, both once more in another order, and its heatmaps: measured while a graph is written and compared.
_PER_PIXEL = 90


def search_bytes(frames: int, patches: int, rows: int) -> int:
    """Bytes that the search of a whole graph takes at its peak: (frames * patches, rows) float32, twice."""
    return _COPIES * _FLOAT32 * frames * patches * rows


def frame_bytes(height: int, width: int) -> int:
    """Bytes that writing a whole graph for frames of that size, and comparing it, takes beside its search."""
    return _PER_PIXEL * height * width


def available_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def check_room(
    needed: int,
    what: str,
    remedy: str = "give fewer frames at once, use a smaller bank, or search beside the graph",
) -> None:
    """Refuse work that does not fit.

    Args:
        needed: bytes.
        what: needs them, in words.
        remedy: what to do where they are not there.

    Raises:
        MemoryShortError: less is available than `needed`.
    """
    available = available_bytes()
    if available is not None and needed > available:
        raise MemoryShortError(
            f"{what} needs {needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB is free; {remedy}"
        )
