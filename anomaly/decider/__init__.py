"""From scores to alarms: `Decider` frame by frame, the other functions over whole series."""

from anomaly.decider.machine import Alarm, Decider, DeciderConfig, DeciderState, Decision
from anomaly.decider.series import alarms, decision_scores, in_alarm, smooth

__all__ = [
    "Alarm",
    "Decider",
    "DeciderConfig",
    "DeciderState",
    "Decision",
    "alarms",
    "decision_scores",
    "in_alarm",
    "smooth",
]
