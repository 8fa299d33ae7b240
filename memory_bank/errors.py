"""The root of the errors this package raises. Every message is one line."""

from __future__ import annotations


class MemoryBankError(ValueError):
    """Input or state that a memory bank cannot use: what was wrong, the value, what to do next."""
