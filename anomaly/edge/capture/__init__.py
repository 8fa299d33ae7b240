"""Cameras in: one process each, of which only the newest frame is seen.

Capture(settings)      start, newest, reports, counts, stop
CaptureSettings        which camera, how fast, recorded where
Report, Counts         what happened, and what became of the frames
"""

from anomaly.edge.capture.capture import Capture
from anomaly.edge.capture.settings import CaptureSettings, Counts, Report

__all__ = ["Capture", "CaptureSettings", "Counts", "Report"]
