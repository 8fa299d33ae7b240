"""`anomaly calibrate`: set the threshold from labelled anomalies, and say what it is worth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly.artifact import digest_of
from anomaly.calibration import calibrate
from anomaly.commands import console
from anomaly.commands.fit import finite
from anomaly.commands.labeled import score_labeled
from anomaly.decider import DeciderConfig
from anomaly.errors import UsageError
from anomaly.model import load_model
from anomaly.thresholds import holdout_series, save_calibration

if TYPE_CHECKING:
    from anomaly.calibration.events import Count
    from anomaly.config import CalibrateConfig, DeciderSettings


def run(config: CalibrateConfig) -> None:
    """Calibrate and save."""
    decider = decider_of(config.decider)
    count: Count
    if config.labels.count == "clip":
        count = "clip"
    elif config.labels.count == "event":
        count = "event"
    else:
        raise UsageError(f"labels.count={config.labels.count!r} is not known; choose clip or event")
    model = load_model(Path(config.model), device=config.device, offline=config.weights.offline)
    labeled = score_labeled(model, config.labeled, config.videos, config.footage, config.labels, grids=False)
    series = [one.series for one in labeled.scored]
    with_events = {event.video for event in labeled.events}
    # Labelled clips without an event are normal footage that nothing was learned from, too.
    holdout = holdout_series(model) + [one for one in series if one.source not in with_events]
    settings = config.calibration
    result = calibrate(
        [one for one in series if one.source in with_events],
        labeled.events,
        holdout,
        decider,
        target_recall=settings.target_recall,
        confidence=settings.confidence,
        budget_per_hour=settings.false_alarms_per_hour,
        prefer="recall" if settings.recall_wins else "budget",
        count=count,
        tolerance_s=config.labels.slack_s,
    )
    intervals = [
        {**asdict(interval), "end_s": finite(interval.end_s)} for interval in labeled.footage.intervals
    ]
    path = save_calibration(
        model,
        result,
        series,
        fps=config.footage.fps,
        settings=asdict(settings),
        labels_digest=digest_of(intervals),
        target=Path(config.out) if config.out else None,
    )
    console.say(result.text())
    console.say(f"Written to {path}.")
    console.say(
        f"Next: python -m anomaly evaluate --model {config.model} --labeled OTHER_LABELS, or run --source VIDEO"
    )


def decider_of(settings: DeciderSettings) -> DeciderConfig:
    """The configured decider; raises UsageError on a value out of range."""
    return DeciderConfig(
        smoothing_s=settings.smoothing_s,
        min_duration_s=settings.min_duration_s,
        max_duration_s=settings.max_duration_s,
        leave_ratio=settings.leave_ratio,
        join_gap_s=settings.join_gap_s,
    )
