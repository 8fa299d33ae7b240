"""Memory that a search in the graph takes, and whether this machine has it."""

from __future__ import annotations

from pathlib import Path

from export.errors import MemoryShortError

_FLOAT32 = 4
#: The product of patches and rows, and its difference from the norms, are alive at once.
_COPIES = 2


def search_bytes(frames: int, patches: int, rows: int) -> int:
    """Bytes that the search of a whole graph takes at its peak: (frames * patches, rows) float32, twice."""
    return _COPIES * _FLOAT32 * frames * patches * rows


def available_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def check_room(needed: int, what: str) -> None:
    """Refuse work that does not fit.

    Raises:
        MemoryShortError: less is available than `needed`.
    """
    available = available_bytes()
    if available is not None and needed > available:
        raise MemoryShortError(
            f"{what} needs {needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB is free; "
            "give fewer frames at once, use a smaller bank, or search beside the graph"
        )
