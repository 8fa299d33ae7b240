"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anomaly.startup import settle

# Two workers run side by side: with more threads than cores between them the suite takes nearly twice as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As `python -m anomaly` does, before anything imports torch.
settle()

from small_model import footage, scores_cached_elsewhere, small_model  # noqa: E402, F401  (fixtures)

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """With ANOMALY_DEBIAN_PACKAGES=required a test that skips for want of a Debian package fails instead."""
    report = yield
    required = os.environ.get("ANOMALY_DEBIAN_PACKAGES") == "required"
    if required and report.skipped and "apt-get install" in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"skipped although Debian's packages are required here: {report.longrepr[-1]}"
    return report
