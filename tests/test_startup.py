"""Memory that a frame used serves the next one."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from small_model import ROOT

FRAMES = """
import resource, sys
if sys.argv[1] == "settled":
    from anomaly.startup import settle
    settle()
import numpy as np
def frame():
    maps = [np.ones(2 << 20, np.float32) for _ in range(3)]
frame()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    frame()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", FRAMES, how], env=plain, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc is what is settled")
def test_pages_of_one_frame_serve_the_next():
    assert faults("as it comes") > 1000, "nothing to settle: is the allocator another one?"
    assert faults("settled") < 100
