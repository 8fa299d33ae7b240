"""What a study found: one table, and one plot of event recall against false alarms, as PNG and as a page."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from anomaly.calibration.certificate import at_least
from anomaly.calibration.false_alarms import figure
from anomaly.report.charts import COLOURS, Curve, recall_curves
from anomaly.report.page import page, section, table

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Curves that one plot can hold and still be read.
MOST_CURVES = 6
_MOST_ROWS = 200


@dataclass(frozen=True)
class StudyRow:
    """One setting (or job of a sweep) at the highest threshold that catches the share asked for.

    Attributes:
        name: its settings, such as "smoothing_s=0.5 min_duration_s=0".
        threshold: that threshold; None where no threshold catches so many.
        event_recall: share of the events caught at it.
        recall_low: what is certain of that, for everything in the table together.
        false_alarms_per_hour, per_hour_high: and the same for their rate; None without normal video.
        alarm_time_share: share of the normal time in alarm.
        n_events: events (or clips) that counted.
        hours: of normal footage; 0 where it holds only single pictures.
        confidence: of the bands.
        curve: price, recall, and the recall's band along the thresholds, for the plot.
    """

    name: str
    threshold: float | None
    event_recall: float
    recall_low: float
    false_alarms_per_hour: float | None
    per_hour_high: float | None
    alarm_time_share: float
    n_events: int
    hours: float
    confidence: float
    curve: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]

    def cells(self) -> tuple[str, ...]:
        """The row as a table shows it."""

        def told(value: float | None, digits: str = ".3g") -> str:
            return "not known" if value is None else format(value, digits)

        return (
            self.name,
            told(self.threshold, ".4g") if self.threshold is not None else "none catches so many",
            f"{self.event_recall:.3f}",
            at_least(self.recall_low),
            told(self.false_alarms_per_hour),
            "not known" if self.per_hour_high is None else figure(self.per_hour_high, math.ceil),
            f"{self.alarm_time_share:.2%}",
        )


HEADER = ("setting", "threshold", "event recall", "at least", "false alarms/h", "at most", "time in alarm")


def ranked(rows: Sequence[StudyRow]) -> list[StudyRow]:
    """The cheapest first: fewest false alarms, then least time in alarm, then most caught; those that miss the target last."""
    return sorted(
        rows,
        key=lambda row: (
            row.threshold is None,
            row.false_alarms_per_hour or 0.0,
            row.alarm_time_share,
            -row.event_recall,
        ),
    )


def as_csv(rows: Sequence[StudyRow]) -> str:
    """The table for a spreadsheet."""
    text = io.StringIO()
    names = [name for name in asdict(rows[0]) if name != "curve"]
    out = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    out.writeheader()
    out.writerows(asdict(row) for row in rows)
    return text.getvalue()


def as_json(rows: Sequence[StudyRow]) -> str:
    """The rows with their curves, as `from_json` reads them."""
    return json.dumps([asdict(row) for row in rows]) + "\n"


def from_json(text: str) -> list[StudyRow]:
    """The rows that `as_json` wrote."""
    return [
        StudyRow(**{**row, "curve": tuple(tuple(part) for part in row["curve"])}) for row in json.loads(text)
    ]


def _curves(rows: Sequence[StudyRow]) -> list[Curve]:
    return [Curve(row.name, *(np.array(part) for part in row.curve)) for row in rows[:MOST_CURVES]]


def _price(rows: Sequence[StudyRow]) -> str:
    known = any(row.false_alarms_per_hour is not None for row in rows)
    return "false alarms an hour" if known else "normal pictures in alarm, in 100"


def study_page(title: str, lines: Sequence[str], rows: Sequence[StudyRow], target: float) -> str:
    """The page: what was decided, the plot, the table."""
    first, *rest = lines
    parts = [f"<p>{escape(line)}</p>" for line in rest]
    shown = (
        f"the {MOST_CURVES} cheapest of {len(rows)} settings" if len(rows) > MOST_CURVES else "each setting"
    )
    parts.append(
        section(
            "Event recall against false alarms",
            f"The curve of {shown}; the shade of the first reaches down to what is certain of its recall, for all settings and "
            "thresholds of the study together. The dashed line is the recall asked for.",
        )
    )
    parts.append(recall_curves(_curves(rows), _price(rows), target=target))
    cut = f" The first {_MOST_ROWS} of {len(rows)}; study.csv has all." if len(rows) > _MOST_ROWS else ""
    parts.append(
        section(
            "Settings",
            f"Each at the highest threshold that catches the share asked for; the cheapest first.{cut} What is certain of "
            'false alarms, for all of the study together, is the column "at most"; the plot shows what was counted.',
        )
    )
    parts.append(table(HEADER, [row.cells() for row in rows[:_MOST_ROWS]]))
    return page(title, first, parts)


def study_png(rows: Sequence[StudyRow], target: float) -> bytes:
    """The plot as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.add_subplot()
    for number, curve in enumerate(_curves(rows)):
        order = np.lexsort((curve.recall, curve.price))
        recall, low = (np.maximum.accumulate(part[order]) for part in (curve.recall, curve.low))
        colour = COLOURS[number % len(COLOURS)]
        axes.step(curve.price[order], recall, where="post", color=colour, label=curve.name)
        if number == 0:
            axes.fill_between(curve.price[order], low, recall, step="post", color=colour, alpha=0.12)
    axes.axhline(target, linestyle="--", color="0.4")
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(_price(rows))
    axes.set_ylabel("event recall; shade: simultaneous band of the first")
    axes.legend(loc="lower right", fontsize=8)
    out = io.BytesIO()
    drawn.savefig(out, format="png", dpi=110)
    return out.getvalue()
