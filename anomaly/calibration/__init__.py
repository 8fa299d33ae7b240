"""Calibration: events, the threshold, the recall that can be defended, and what it costs."""

from anomaly.calibration.cameras import CameraCalibrations, calibrate_cameras, calibrate_scaled
from anomaly.calibration.certificate import (
    Certificate,
    certify,
    events_needed,
    just_below,
    recall_bound,
    threshold_rank,
)
from anomaly.calibration.events import (
    Event,
    EventOutcome,
    event_outcomes,
    event_scores,
    frame_recall,
    join_events,
)
from anomaly.calibration.false_alarms import FalseAlarms, NormalWindows, false_alarms, normal_windows
from anomaly.calibration.result import Calibration, KindOutcome, OperatingPoint
from anomaly.calibration.scales import ScoreScale, camera_of, fit_scale, fit_scales, scaled_apart
from anomaly.calibration.series import Decided, Series, decide
from anomaly.calibration.studies import Study, split_events, study, threshold_grid
from anomaly.calibration.threshold import calibrate, kind_outcomes

__all__ = [
    "Calibration",
    "CameraCalibrations",
    "Certificate",
    "Decided",
    "Event",
    "EventOutcome",
    "FalseAlarms",
    "KindOutcome",
    "NormalWindows",
    "OperatingPoint",
    "ScoreScale",
    "Series",
    "Study",
    "calibrate",
    "calibrate_cameras",
    "calibrate_scaled",
    "camera_of",
    "certify",
    "decide",
    "event_outcomes",
    "event_scores",
    "events_needed",
    "false_alarms",
    "fit_scale",
    "fit_scales",
    "frame_recall",
    "join_events",
    "just_below",
    "kind_outcomes",
    "normal_windows",
    "recall_bound",
    "scaled_apart",
    "split_events",
    "study",
    "threshold_grid",
    "threshold_rank",
]
