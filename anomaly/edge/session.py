"""A recording of some hours: what was kept of it, and what was not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomaly.edge.capture import Report

#: Shorter pauses between two segments are the distance of two pictures, or a clock that was slewed.
LEAST_GAP_S = 1.0


def gaps_between(
    spans: Sequence[tuple[float, float]], begin_s: float, end_s: float, least_s: float = LEAST_GAP_S
) -> list[tuple[float, float]]:
    """Stretches from `begin_s` to `end_s` that no span (start, end) covers and that last over `least_s`."""
    found = []
    reached = begin_s
    for start, end in sorted(spans):
        if start - reached > least_s:
            found.append((reached, start))
        reached = max(reached, end)
    if end_s - reached > least_s:
        found.append((reached, end_s))
    return found


@dataclass
class Session:
    """Keeps count of what a capture reports while it records.

    Attributes:
        spans: (start, end) of each finished segment, POSIX seconds of this machine.
        size: bytes of them.
        frames: pictures in them.
        lost: times that the connection was lost.
        over: why nothing more will come: "ended" (a file) or "held" (refused too often); else None.
        problem: of a held camera, the reason.
    """

    spans: list[tuple[float, float]] = field(default_factory=list)
    size: int = 0
    frames: int = 0
    lost: int = 0
    over: str | None = None
    problem: str = ""

    def take(self, report: Report) -> str | None:
        """Count one report; a line for the person, where there is something to say."""
        detail = report.detail
        if report.kind == "segment":
            self.spans.append((float(detail["start_utc_s"]), float(detail["end_utc_s"])))
            self.size += int(detail["bytes"])
            self.frames += int(detail["frames"])
            return None
        if report.kind == "disconnected":
            self.lost += 1
            return f"connection lost: {detail['reason']}; trying again"
        if report.kind == "crashed":
            self.lost += 1
            why = detail.get("reason") or f"the decoder died (status {detail['exit']})"
            return f"{why}; it is started again"
        if report.kind == "recording_stopped":
            return f"recording stopped: {detail['reason']}; it goes on when that is set right"
        if report.kind in ("ended", "held"):
            self.over = report.kind
            self.problem = str(detail.get("reason", ""))
            return None
        if report.kind == "refused":
            return f"refused with status {detail['status']}"
        if report.kind == "changed":
            return f"the stream changed from {_view(detail['before'])} to {_view(detail['after'])}"
        return None

    @property
    def seconds(self) -> float:
        """Time recorded."""
        return sum(end - start for start, end in self.spans)


def _view(view: dict[str, object]) -> str:
    return f"{view['codec']} {view['width']} x {view['height']}"
