"""What can go wrong with an exported graph; each message is one line: what, the value, what to do next."""

from __future__ import annotations


class ExportError(Exception):
    """Root of all errors of this package."""


class RuntimeMissingError(ExportError):
    """A runtime, or what it needs, is not installed."""


class DeviceMissingError(ExportError):
    """A device, or the provider for it, is not on this machine."""


class UnsupportedError(ExportError):
    """An operator, a layer or a setting that cannot be exported or run."""


class EngineError(ExportError):
    """A compiled engine that must not be used: of another machine, changed, or open to other users."""


class MemoryShortError(ExportError):
    """Less memory than the work needs."""
