"""Read a source for some seconds, and keep of each packet and each picture only what can be judged."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from numpy.typing import NDArray

from anomaly.edge.capture.opening import Lost, Refused, opened, why
from anomaly.edge.capture.timing import RATE, StreamTime
from anomaly.edge.inspect.picture import PictureSeries, PictureStatistics
from anomaly.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from av.packet import Packet
    from av.video.frame import VideoFrame

    from anomaly.edge.capture import CaptureSettings
    from anomaly.edge.capture.opening import Opened

Times = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Observation:
    """What was seen of a source.

    Attributes:
        shown: its address, without secrets.
        live: a camera; times of arrival mean something.
        codec, profile, width, height: as the stream says; profile None where it says none.
        declared_rate: frames a second that the stream claims; None where it claims none.
        reorder: pictures that the decoder holds back (B-frames); 0 for none.
        timed: whether the stream carries timestamps of its own.
        pts_s: (n,) when each packet's picture is shown, seconds, in the order of arrival.
        arrival_s: (n,) when it came, seconds of the monotonic clock.
        keyframe: (n,) whether it stands alone.
        sizes: (n,) bytes.
        pictures: statistics of the decoded pictures, in the order shown.
    """

    shown: str
    live: bool
    codec: str
    profile: str | None
    width: int
    height: int
    declared_rate: float | None
    reorder: int
    timed: bool
    pts_s: Times
    arrival_s: Times
    keyframe: NDArray[np.bool_]
    sizes: NDArray[np.int64]
    pictures: PictureStatistics

    @property
    def seconds(self) -> float:
        """Length of what was seen, in the stream's time."""
        return float(self.pts_s.max() - self.pts_s.min()) if len(self.pts_s) else 0.0

    @property
    def bits_per_s(self) -> float:
        """Of the pictures, without sound; 0 where too little was seen."""
        return 8.0 * float(self.sizes[:-1].sum()) / self.seconds if self.seconds > 0 else 0.0


def observe(
    settings: CaptureSettings,
    seconds: float,
    *,
    pictures: bool = True,
    tell: Callable[[float], object] = lambda done: None,
) -> Observation:
    """Read a source for some seconds: of a file's own time, of the clock for a camera.

    Args:
        settings: what is opened, within which limits.
        seconds: for how long.
        pictures: decode and measure pictures too; without, only packets are counted.
        tell: called with the seconds done.

    Raises:
        SourceError: it cannot be opened, is refused, or gives no pictures.
    """
    try:
        with opened(settings) as source:
            return _read(settings, source, seconds, pictures, tell)
    except Refused as refused:
        raise SourceError(
            f"{settings.address.shown} refused the user or password (status {refused.status}); "
            "set them right in the variable or file that the address names"
        ) from None
    except Lost as lost:
        advice = "" if settings.address.kind == "file" else "; check address, power and network"
        raise SourceError(f"{settings.address.shown} cannot be read: {lost}{advice}") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise SourceError(
            f"{settings.address.shown} broke off: {why(error, settings)}; try again, then check the network"
        ) from None


def _read(
    settings: CaptureSettings,
    source: Opened,
    seconds: float,
    pictures: bool,
    tell: Callable[[float], object],
) -> Observation:
    live = settings.address.kind != "file"
    base = source.stream.time_base or Fraction(1, RATE)
    times = StreamTime(base, source.period, -1, from_zero=settings.address.kind == "rtsp")
    begin = time.monotonic()
    shown, arrived, keyframes, sizes = [], [], [], []
    series = PictureSeries()
    reorder = 0
    for packet in source.container.demux(source.stream):
        if packet.size:
            now = time.monotonic() - begin
            pts, dts = (packet.pts, packet.dts) if source.timed else (None, None)
            if not source.timed and live:
                pts = round(now / base)
            placed = times.place(dts, pts, round(now * RATE) if live else 0)
            shown.append(placed.pts / RATE)
            arrived.append(now)
            keyframes.append(packet.is_keyframe)
            sizes.append(packet.size)
            # The pictures keep the time that the packets were given.
            packet.pts, packet.time_base = placed.pts, Fraction(1, RATE)
            packet.dts = placed.dts
        if pictures:
            for frame in _decoded(packet):
                if frame.pts is not None:
                    series.add(frame.pts / RATE, frame.to_ndarray(format="gray").astype(np.uint8, copy=False))
        if shown:
            done = arrived[-1] if live else max(shown) - min(shown)
            tell(done)
            if done >= seconds:
                break
    context = source.stream.codec_context
    reorder = max(int(context.has_b_frames), int(_reordered(shown)))
    if not shown or (pictures and series.count == 0):
        raise Lost("no picture could be decoded")
    rate = source.stream.average_rate or source.stream.guessed_rate
    return Observation(
        settings.address.shown,
        live,
        str(context.name),
        str(context.profile) if context.profile else None,
        context.width,
        context.height,
        float(rate) if rate else None,
        reorder,
        source.timed,
        np.array(shown),
        np.array(arrived),
        np.array(keyframes),
        np.array(sizes, dtype=np.int64),
        series.statistics(),
    )


def _decoded(packet: Packet[Any]) -> list[VideoFrame]:
    try:
        return list(packet.decode())
    except (av.error.FFmpegError, ValueError):
        return []


def _reordered(pts_s: list[float]) -> bool:
    """Whether a packet came after one that is shown later."""
    return any(later < earlier for earlier, later in pairwise(pts_s))
