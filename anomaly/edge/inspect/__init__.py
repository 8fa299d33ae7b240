"""What a camera or a file delivers, and whether that is good enough to watch.

observe(settings, seconds)   read a source for a while
judge(observed, ...)         findings, each with a value and advice
"""

from anomaly.edge.inspect.judgement import Finding, Inspection, judge
from anomaly.edge.inspect.observation import Observation, observe

__all__ = ["Finding", "Inspection", "Observation", "judge", "observe"]
