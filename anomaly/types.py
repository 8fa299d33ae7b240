"""The values that travel through the program: frames, what is seen in them, and what is decided.

Frozen dataclasses over numpy. Times are seconds unless the name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray: TypeAlias = NDArray[np.floating[Any]]
    ImageArray: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded picture and when it was shown.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        pts_s: the stream's own time, in seconds from the start of the source.
        index: position among all decoded frames of its source, counted from 0 before sampling.
        source: name of the source it came from (`Source.name`).
        camera: the camera it belongs to; files have one camera, called "default".
        received_ns: monotonic clock when the frame arrived; 0 for files.
        utc_s: this machine's clock as a POSIX time when the frame arrived; 0 for files.
    """

    image: ImageArray
    pts_s: float
    index: int
    source: str
    camera: str = "default"
    received_ns: int = 0
    utc_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """A labelled stretch of one video, half-open: start_s <= t < end_s.

    Attributes:
        video: `Source.name` of the video.
        start_s, end_s: seconds of the video's own time.
        label: kind of anomaly, as the labeller wrote it.
        found: how it was found: "independent", "audit", "alarm" or "proposed". Only the
            first two may certify a recall (the detector's own finds would flatter it).
    """

    video: str
    start_s: float
    end_s: float
    label: str
    found: str = "independent"
