"""The tree of errors. Each is one line: what was wrong, the value, what to do next.

    AnomalyError            exit status 1
    ├── UsageError          exit status 2: a flag, an override, a configuration value
    │   ├── AddressTakenError   an address to listen on that another program has, or this machine has not (yet)
    │   └── CertificateError    a TLS certificate or key that cannot be used (yet)
    ├── FootageError        video or image input
    │   ├── NoFootageError      a path that holds nothing readable
    │   ├── DamagedFootageError a file that cannot be decoded (to the end)
    │   └── SourceError         a camera's address that cannot be used
    ├── LabelsError         a label file, or labels that do not fit the footage
    ├── WeightsError        no weights to be had, or not the ones expected
    ├── ModelError          a model folder
    │   ├── CorruptModelError   a file missing, a byte changed, something planted
    │   └── SchemaError         written by another version
    ├── CalibrationError    a threshold that cannot be set from what was given
    └── StoreError          the store of events cannot be opened, read or written
        ├── StoreFullError      there is no room left on its disk
        ├── StoreReplacedError  its file is another one than was opened
        └── EventGoneError      an event that was deleted

`memory_bank` never imports this package; its own root is `memory_bank.MemoryBankError`, which the
command line treats alike.
"""

from __future__ import annotations


class AnomalyError(Exception):
    """Root of all errors this program raises on purpose."""

    exit_status = 1


class UsageError(AnomalyError):
    """A flag, an override or a configuration value that cannot be used."""

    exit_status = 2


class AddressTakenError(UsageError):
    """An address to listen on that another program has, or that this machine does not have (yet)."""


class CertificateError(UsageError):
    """A TLS certificate, or its key, that cannot be read or used (yet)."""


class FootageError(AnomalyError):
    """Video or image input that cannot be used."""


class NoFootageError(FootageError):
    """A path that holds no readable footage."""


class DamagedFootageError(FootageError):
    """A file that cannot be decoded, or not to its end."""


class SourceError(FootageError):
    """A camera's address, or what lies behind it, that cannot be used."""


class LabelsError(AnomalyError):
    """A label file that cannot be read, or labels that do not fit the footage."""


class WeightsError(AnomalyError):
    """Backbone weights that are not to be had, or not the ones expected."""


class ModelError(AnomalyError):
    """A model folder that cannot be used."""


class CorruptModelError(ModelError):
    """A model folder with a file missing, a byte changed, or something planted."""


class SchemaError(ModelError):
    """A model folder written by another version of this program."""


class CalibrationError(AnomalyError):
    """A threshold that cannot be set from what was given."""


class StoreError(AnomalyError):
    """The store of events cannot be opened, read or written."""


class StoreFullError(StoreError):
    """The store's disk has no room left; what was to be written is not in it."""


class StoreReplacedError(StoreError):
    """The store's file was removed or replaced while it was open: what would be written is nowhere to be found."""


class EventGoneError(StoreError):
    """An event that is not in the store (any more): it was deleted."""
