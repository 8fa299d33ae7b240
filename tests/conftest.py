"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# As `python -m anomaly` sets it, before anything imports torch: threads that wait do not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from small_model import footage, scores_cached_elsewhere, small_model  # noqa: F401  (fixtures)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real labelled footage; skips where it is absent."""
    folder = Path(os.environ.get("ANOMALY_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "ped2").is_dir():
        pytest.skip(
            f"no real footage at {folder}; set ANOMALY_DATA to the folder that holds ped2/, bottles/ and magnetic_tile/"
        )
    return folder
