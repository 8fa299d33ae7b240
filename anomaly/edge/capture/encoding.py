"""Frames to packets, where those of the camera are not recorded.

Privacy masks are painted before anything reaches the disk; and raw pictures, as of a USB camera, fit no segment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
from av.codec.context import CodecContext
from av.video.frame import PictureType, VideoFrame

from anomaly.edge.capture.segment import Template
from anomaly.edge.capture.timing import RATE, TIME_BASE

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext

    from anomaly.types import ImageArray

# No picture waits for a later one, so a packet belongs to the frame that was just given.
_OPTIONS = {"preset": "ultrafast", "tune": "zerolatency", "crf": "23", "forced-idr": "1"}
# A clip starts at a keyframe.
_KEYFRAME_TICKS = RATE
_NO_OTHER_KEYFRAME = 1_000_000


class FrameEncoder:
    """Frames of one connection to H.264 packets, with a keyframe a second.

    Args:
        period: ticks from frame to frame, on average.
    """

    def __init__(self, period: int) -> None:
        self._period = period
        self._size: tuple[int, int] | None = None
        self._codec: VideoCodecContext | None = None
        self._last = -1
        self._keyframe_at = 0
        self.template: Template | None = None

    def encode(self, image: ImageArray, pts: int) -> Iterator[Packet[Any]]:
        """Packets of the next frame; none where its time does not grow.

        Args:
            image: (H, W, 3) uint8 RGB; where there are masks, painted.
            pts: ticks of the capture.
        """
        if pts <= self._last:
            return
        self._last = pts
        # 4:2:0 halves both sides: an odd last row or column is left out.
        height, width = image.shape[0] & ~1, image.shape[1] & ~1
        if self._size != (height, width):
            self._open(height, width)
        assert self._codec is not None
        frame = VideoFrame.from_ndarray(image[:height, :width].copy(), format="rgb24")
        frame.pts, frame.time_base = pts, TIME_BASE
        if pts >= self._keyframe_at:
            frame.pict_type = PictureType.I
            self._keyframe_at = pts + _KEYFRAME_TICKS - self._period // 2
        yield from self._codec.encode(frame)

    def _open(self, height: int, width: int) -> None:
        self._size, self._keyframe_at = (height, width), 0
        rate = Fraction(RATE, self._period).limit_denominator(1000)
        # Not the stream's own: that one, tens of megabytes and a thread a core, lives with its container until Python's collector
        # comes by, which may be a hundred connections later.
        codec = CodecContext.create("libx264", "w")
        codec.options = dict(_OPTIONS)
        codec.framerate, codec.gop_size = rate, _NO_OTHER_KEYFRAME
        # Nothing is written there, nor encoded: segments are made like it.
        stream = av.open(os.devnull, "w", format="null").add_stream("libx264", rate=rate)
        for one in (codec, stream):
            one.width, one.height, one.pix_fmt, one.time_base = width, height, "yuv420p", TIME_BASE
        stream.codec_context.time_base = TIME_BASE
        self._codec, self.template = codec, Template(stream, self._period)
