"""What a calibration settled, in values and in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from anomaly.calibration.certificate import Certificate, at_least, percent
from anomaly.calibration.events import Count, EventOutcome
from anomaly.calibration.false_alarms import FalseAlarms

if TYPE_CHECKING:
    from anomaly.calibration.budget import Spent
    from anomaly.decider import DeciderConfig


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One end of a conflict: what a threshold gives and what it costs.

    Attributes:
        serves: "recall", "budget", or "hand": somebody's own threshold.
        threshold: enter threshold.
        certificate: what the events prove at it; None where none can be given.
        withheld: why there is no certificate; "" if there is one.
        false_alarms: on the normal footage kept for reporting.
    """

    serves: Literal["recall", "budget", "hand"]
    threshold: float
    certificate: Certificate | None
    withheld: str
    false_alarms: FalseAlarms

    def text(self) -> str:
        """One line: the threshold, what is proven at it, and its price."""
        proven = f"not certified: {self.withheld}"
        if self.certificate is not None:
            proven = f"recall {at_least(self.certificate.recall)} proven;"
        return f"For the {self.serves}: threshold {self.threshold:.6g}, {proven} {self.false_alarms.text()}"


@dataclass(frozen=True, slots=True)
class KindOutcome:
    """How one kind of anomaly fares.

    Attributes:
        label: the kind.
        n_events: its events that are not blind.
        n_caught: those that alarm.
        lowest_score: of its events; -inf where no threshold catches one.
    """

    label: str
    n_events: int
    n_caught: int
    lowest_score: float


@dataclass(frozen=True)
class Calibration:
    """What calibration settled.

    Attributes:
        threshold: enter threshold of the decider.
        certificate: the recall proven at it; None where none can be given.
        withheld: why there is no certificate; "" if there is one.
        false_alarms: on normal footage that played no part in the threshold.
        conflict: both ends, where the recall asked for and the budget exclude each other; else empty.
        events: every labelled event.
        kinds: by label.
        notes: what the user should be told besides.
        config: the decider's settings.
        tolerance_s, count, settings_tried: as given.
        by_hand: whether the threshold was given, not worked out.
        frame_recall: share of the frames inside events that are in alarm; nan where there is none.
        spent: normal footage that the threshold or a setting was chosen on, and that no false alarms may be reported on.
        ordinary: raw score of ordinary footage that events were scored beside (`event_scores`); None = they were scored as their clips are.
    """

    threshold: float
    certificate: Certificate | None
    withheld: str
    false_alarms: FalseAlarms
    conflict: tuple[OperatingPoint, ...]
    events: tuple[EventOutcome, ...]
    kinds: tuple[KindOutcome, ...]
    notes: tuple[str, ...]
    config: DeciderConfig
    tolerance_s: float
    count: Count
    settings_tried: int = 1
    by_hand: bool = False
    frame_recall: float = math.nan
    spent: tuple[Spent, ...] = ()
    ordinary: float | None = None

    def text(self) -> str:
        """All of it in plain words, one thing a line."""
        caught = sum(one.caught for one in self.events)
        seen = sum(one.outcome != "blind" for one in self.events)
        frames = "" if math.isnan(self.frame_recall) else f", {percent(self.frame_recall)} of their frames"
        lines = [f"Threshold {self.threshold:.6g}; it catches {caught} of {seen} labelled events{frames}."]
        lines += (self.certificate.text() if self.certificate else f"No certificate: {self.withheld}").split(
            "\n"
        )
        lines.append(self.false_alarms.text())
        lines += [end.text() for end in self.conflict]
        lines += [
            f"{kind.label}: {kind.n_caught} of {kind.n_events} caught, {_lowest(kind.lowest_score)}"
            for kind in self.kinds
        ]
        return "\n".join([*lines, *self.notes])

    def spending(self, spent: Iterable[Spent]) -> Calibration:
        """The same, with more normal footage on which something was chosen."""
        return replace(self, spent=(*spent, *self.spent))

    def to_json(self) -> dict[str, Any]:
        """Plain values; scores that are not finite become null."""

        def plain(value: Any) -> Any:
            if isinstance(value, float) and not math.isfinite(value):
                return None
            if isinstance(value, Mapping):
                return {key: plain(one) for key, one in value.items()}
            return [plain(one) for one in value] if isinstance(value, list | tuple) else value

        return {key: plain(value) for key, value in asdict(self).items()}


def _lowest(score: float) -> str:
    return f"lowest score {score:.4g}" if math.isfinite(score) else "the hardest by no threshold"
