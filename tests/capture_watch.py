"""Watching a capture in tests: all its frames and reports, until something is so or the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.connection import wait

from anomaly.edge.capture import Capture, Report
from anomaly.types import Frame


class Watch:
    """Takes all that a capture gives.

    Attributes:
        frames, reports: everything so far.
    """

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.frames: list[Frame] = []
        self.reports: list[Report] = []

    def until(self, so: Callable[[], object], timeout_s: float = 15.0) -> None:
        """Take frames and reports until `so()`; fails when the time is over."""
        deadline = time.monotonic() + timeout_s
        while not so():
            assert time.monotonic() < deadline, f"not within {timeout_s} s; reports: {self.reports}"
            wait([self.capture.wait_handle], timeout=0.05)
            self.take()

    def take(self) -> None:
        """Take what is there."""
        self.reports += self.capture.reports()
        frame = self.capture.newest()
        if frame is not None:
            self.frames.append(frame)

    def more_frames(self, count: int, timeout_s: float = 15.0) -> list[Frame]:
        """The next `count` frames."""
        have = len(self.frames)
        self.until(lambda: len(self.frames) >= have + count, timeout_s)
        return self.frames[have:]

    def told(self, kind: str) -> list[Report]:
        """Reports of a kind so far."""
        return [report for report in self.reports if report.kind == kind]

    def until_told(self, kind: str, count: int = 1, timeout_s: float = 15.0) -> Report:
        """The `count`-th report of a kind."""
        self.until(lambda: len(self.told(kind)) >= count, timeout_s)
        return self.told(kind)[count - 1]
