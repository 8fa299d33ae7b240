"""How far this machine's clock is known to be off, as the kernel has it from whoever keeps the time."""

from __future__ import annotations

import ctypes
import sys

_UNSYNCHRONISED = 0x0040
_NANOSECONDS = 0x2000
_NOT_KEPT = 5


class _Timex(ctypes.Structure):
    """`struct timex` of adjtimex(2) up to what is read here; the rest is room for the kernel."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    ]


def clock_offset_s() -> float | None:
    """Seconds that the kernel still has to correct; None where nothing keeps the clock (no NTP, or not Linux)."""
    if sys.platform != "linux":
        return None
    asked = _Timex()
    try:
        kept = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(asked))
    except AttributeError:
        return None
    if kept in (-1, _NOT_KEPT) or asked.status & _UNSYNCHRONISED:
        return None
    return float(asked.offset) * (1e-9 if asked.status & _NANOSECONDS else 1e-6)
