"""Learning what is normal: from footage to a detector that knows its bank, but no threshold yet."""

from __future__ import annotations

from anomaly.fitting.adding import Added, add_footage, rows_at_most, unknown_sources
from anomaly.fitting.checkpoint import checkpoint_folder, discard_checkpoint, only_fit
from anomaly.fitting.holdout import rows_only_lower
from anomaly.fitting.options import FitOptions, FitReport
from anomaly.fitting.process import fit

__all__ = [
    "Added",
    "FitOptions",
    "FitReport",
    "add_footage",
    "checkpoint_folder",
    "discard_checkpoint",
    "fit",
    "only_fit",
    "rows_at_most",
    "rows_only_lower",
    "unknown_sources",
]
