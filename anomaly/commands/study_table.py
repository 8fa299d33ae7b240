"""What studies have in common: from the study to rows, files, and what the person sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly.artifact import write_file
from anomaly.calibration import study, threshold_grid
from anomaly.calibration.certificate import at_least, percent, recall_bound
from anomaly.calibration.false_alarms import figure, poisson_bounds
from anomaly.commands import console
from anomaly.commands.calibrate import count_of
from anomaly.report.study import StudyRow, as_csv, as_json, study_page, study_png

if TYPE_CHECKING:
    from anomaly.calibration import Event, Series, Study
    from anomaly.config import StudyConfig
    from anomaly.decider import DeciderConfig

_SHOWN_ROWS = 12
#: Where cameras are studied together.
ONE_CAMERAS_HOUR = "False alarms an hour are those in an hour of one camera, on average over the cameras."


def table_of(
    config: StudyConfig,
    labeled: Sequence[Series],
    events: Sequence[Event],
    holdout: Sequence[Series],
    settings: Sequence[DeciderConfig],
    looked_at: int = 1,
) -> Study:
    """The study; with bands for `looked_at` such studies together."""
    confidence = config.calibration.confidence
    # Of the clips that choose: those that certify take no part in it, by no threshold either.
    choosing = {event.video for event in events}
    scores = [*holdout, *(one for one in labeled if one.source in choosing)]
    with console.counter("trying settings", len(settings)) as advance:
        return study(
            labeled,
            events,
            holdout,
            settings,
            threshold_grid(scores, config.study.thresholds),
            count=count_of(config.labels),
            tolerance_s=config.labels.slack_s,
            confidence=1 - (1 - confidence) / looked_at,
            progress=advance,
        )


def row_of(table: Study, index: int, name: str, target: float) -> StudyRow:
    """One setting of a study, at the highest threshold that reaches the target."""
    reaches = (table.recall[index] >= target).nonzero()[0]
    at = int(reaches[-1]) if len(reaches) else 0
    rate = 1 / table.hours if table.hours else None
    price = table.n_alarms[index] * rate if rate else 100 * table.alarm_time_share[index]
    return StudyRow(
        name=name,
        threshold=float(table.thresholds[at]) if len(reaches) else None,
        event_recall=float(table.recall[index, at]),
        recall_low=float(table.recall_low[index, at]),
        false_alarms_per_hour=float(table.n_alarms[index, at] * rate) if rate else None,
        per_hour_high=float(table.alarms_high[index, at] * rate) if rate else None,
        alarm_time_share=float(table.alarm_time_share[index, at]),
        n_events=table.n_events,
        hours=table.hours,
        confidence=table.confidence,
        curve=(
            tuple(price.tolist()),
            tuple(table.recall[index].tolist()),
            tuple(table.recall_low[index].tolist()),
        ),
    )


def for_all(row: StudyRow, n_rows: int) -> StudyRow:
    """A row of a study of one setting, with bands that hold for `n_rows` such studies together."""
    price, recall, _ = row.curve
    n, tried = row.n_events, n_rows * min(row.n_events, len(price))
    bounds = [recall_bound(n, missed, row.confidence, tried) for missed in range(n + 1)]
    high = row.per_hour_high
    if row.false_alarms_per_hour is not None:
        n_alarms = round(row.false_alarms_per_hour * row.hours)
        error = (1 - row.confidence) / (n_rows * len(price))
        high = poisson_bounds(n_alarms, row.hours, 1 - error)[1]
    low = [bounds[round((1 - share) * n)] for share in recall]
    return replace(
        row,
        recall_low=bounds[round((1 - row.event_recall) * n)],
        per_hour_high=high,
        curve=(price, recall, tuple(low)),
    )


def name_of(setting: DeciderConfig, settings: Sequence[DeciderConfig]) -> str:
    """What tells a setting from the others."""
    values = asdict(setting)
    varied = [key for key in values if len({asdict(one)[key] for one in settings}) > 1]
    return " ".join(f"{key}={values[key]:g}" for key in varied or values)


def told_of(
    table: Study, settings: Sequence[DeciderConfig], best: DeciderConfig, target: float
) -> tuple[str, str]:
    """What was studied, and which setting came out best; of one there is no best."""
    footage = f"{60 * table.hours:.1f} min of normal footage" if table.hours else "normal pictures"
    studied = (
        f"{console.counted(len(settings), 'decider setting')} at {console.counted(len(table.thresholds), 'threshold')}, on "
        f"{console.counted(table.n_events, f'labelled {table.unit}')} and {footage}."
    )
    name = name_of(best, settings)
    if len(settings) == 1:
        return studied, f"The setting: {name}."
    return studied, f"Fewest false alarms at a recall of {percent(target)}: {name}."


def write_study(
    folder: Path,
    title: str,
    lines: Sequence[str],
    rows: Sequence[StudyRow],
    target: float,
    confidence: float,
) -> None:
    """Write table and plot into a folder, and say what they hold; `confidence`: of each bound, over all rows together."""
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "study.csv", as_csv(rows).encode())
    write_file(folder / "study.json", as_json(rows).encode())
    write_file(folder / "study.png", study_png(rows, target))
    write_file(folder / "study.html", study_page(title, lines, rows, target).encode())
    for line in lines:
        console.say(line)
    for row in rows[:_SHOWN_ROWS]:
        rate = row.false_alarms_per_hour
        price = f"{row.alarm_time_share:.1%} in alarm" if rate is None else f"{rate:.3g} false alarms an hour"
        if row.per_hour_high is not None:
            price += f" (at most {figure(row.per_hour_high, math.ceil)})"
        told = "none catches so many" if row.threshold is None else f"{row.threshold:.4g}"
        recall = f"recall {row.event_recall:.3f} (at least {at_least(row.recall_low)})"
        console.say(f"  {row.name}: threshold {told}, {recall}, {price}")
    console.say(f"  In brackets the bounds, each {percent(confidence)} sure for all of these together.")
    if len(rows) > _SHOWN_ROWS:
        console.say(f"  and {len(rows) - _SHOWN_ROWS} more, in the table")
    console.say(f"Look at {folder / 'study.html'} (also study.png, study.csv).")
