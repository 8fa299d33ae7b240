"""Learning what is normal: from footage to a detector that knows its bank, but no threshold yet."""

from __future__ import annotations

from anomaly.fitting.checkpoint import checkpoint_folder, discard_checkpoint
from anomaly.fitting.options import FitOptions, FitReport
from anomaly.fitting.process import fit

__all__ = ["FitOptions", "FitReport", "checkpoint_folder", "discard_checkpoint", "fit"]
