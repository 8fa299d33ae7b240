"""Opening a source, and nothing that the source itself names.

Each kind has its own protocols and its own demuxers: a page or a playlist in place of a camera opens no file and no
third machine. Pictures only: sound is not even asked for where the protocol allows that.
"""

from __future__ import annotations

import errno
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from anomaly.edge.address import Address, redact
from anomaly.edge.capture.settings import CaptureSettings
from anomaly.edge.capture.timing import RATE
from anomaly.errors import AnomalyError, SourceError
from anomaly.footage.container import RAW_STREAMS, open_video

# Demuxers that hold pictures themselves; none that lists other addresses (hls, dash, concat, sdp).
_HTTP_FORMATS = "mpjpeg,mjpeg,mpegts,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,flv,avi,h264,hevc"
_OPTIONS: dict[str, dict[str, str]] = {
    "rtsp": {
        "rtsp_transport": "tcp",
        "allowed_media_types": "video",
        "protocol_whitelist": "rtsp,rtsps,tcp,tls",
        "format_whitelist": "rtsp",
    },
    "http": {
        "protocol_whitelist": "http,https,tcp,tls",
        "format_whitelist": _HTTP_FORMATS,
        # Else it may send us, with the password, to another machine or out of TLS.
        "max_redirects": "0",
    },
    "v4l2": {"format_whitelist": "video4linux2,v4l2"},
}
_FORMAT = {"rtsp": "rtsp", "v4l2": "v4l2"}
# Streams whose timestamps libav makes up from a supposed rate, or takes from a clock of its own.
_UNTIMED = frozenset({"mpjpeg", "video4linux2,v4l2", *RAW_STREAMS})
# Debian's list of authorities, where the interpreter was built to look elsewhere.
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
# libav looks at a live stream for so long before the first frame (microseconds, bytes).
_LOOK = {"analyzeduration": "500000", "probesize": "2000000", "fpsprobesize": "0"}


class Refused(Exception):
    """The camera wants another user or password.

    Attributes:
        status: 401 or 403.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"refused with status {status}")
        self.status = status


class Lost(Exception):
    """No connection, or none any more; says why in a line that may be shown."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A source that is open.

    Attributes:
        container, stream: libav's.
        timed: whether the stream's timestamps are used; else frames are shown when they arrive.
        period: ticks from frame to frame, on average.
        audio: whether it has sound; None where it was not asked.
    """

    container: InputContainer
    stream: VideoStream
    timed: bool
    period: int
    audio: bool | None


@contextmanager
def opened(settings: CaptureSettings) -> Iterator[Opened]:
    """Open a source for reading.

    Raises:
        Lost: it cannot be opened, or holds no picture that may be decoded.
        Refused: 401 or 403.
    """
    if settings.address.kind == "file":
        with _opened_file(settings) as source:
            yield source
        return
    began_s = time.monotonic()
    try:
        container = _connect(settings)
    except av.error.HTTPUnauthorizedError:
        raise Refused(401) from None
    except av.error.HTTPForbiddenError:
        raise Refused(403) from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise Lost(_why_not_opened(error, settings, time.monotonic() - began_s)) from None
    with container:
        stream = next(iter(container.streams.video), None)
        if stream is None or stream.codec_context is None:
            raise Lost(f"{settings.address.shown} sends no pictures")
        _prepare(stream, settings)
        timed = container.format.name not in _UNTIMED
        audio = None if settings.address.kind == "rtsp" else bool(container.streams.audio)
        rate = stream.average_rate or stream.guessed_rate
        yield Opened(container, stream, timed, round(RATE / rate) if rate else RATE // 10, audio)


def why(error: Exception, settings: CaptureSettings) -> str:
    """One line for a failure of libav's, without secrets."""
    if isinstance(error, av.error.ExitError):
        return f"nothing came for {max(settings.open_timeout_s, settings.read_timeout_s):g} s"
    text = redact(str(getattr(error, "strerror", None) or str(error)), settings.address)
    if settings.address.verified and isinstance(error, OSError) and error.errno == errno.EIO:
        text += (
            "; its certificate may not be trusted: add #ca=/path/of/certificates.pem to the address, "
            "or #unverified"
        )
    return text


def _why_not_opened(error: Exception, settings: CaptureSettings, after_s: float) -> str:
    # Of silence libav's RTSP says that the data are invalid.
    if after_s >= settings.open_timeout_s:
        return f"it gave no answer of use for {settings.open_timeout_s:g} s"
    text = why(error, settings)
    unfit = isinstance(error, av.error.InvalidDataError | av.error.ArgumentError)
    unfit = unfit or (not settings.address.verified and getattr(error, "errno", None) == errno.EIO)
    if settings.address.kind == "http" and unfit:
        text += (
            "; where video is wanted it may send a web page or a single picture, or point to another address, which is "
            "not followed: open it in a browser, and give the address of the camera's stream"
        )
    return text


def _connect(settings: CaptureSettings) -> InputContainer:
    address: Address = settings.address
    limit = {"max_pixels": str(settings.max_pixels)}
    try:
        whole = address.resolve()
    except SourceError as error:
        raise Lost(str(error)) from None
    return av.open(
        whole,
        format=_FORMAT.get(address.kind),
        options={**_OPTIONS[address.kind], **_tls(address), **_LOOK, **limit},
        timeout=(settings.open_timeout_s, settings.read_timeout_s),
        metadata_errors="replace",
    )


def _tls(address: Address) -> dict[str, str]:
    """Libav verifies nothing unless it is told to, and knows no authority of its own."""
    if not address.verified:
        return {"tls_verify": "0"} if address.tls else {}
    trusted = Path(address.authority or ssl.get_default_verify_paths().cafile or _AUTHORITIES)
    if not trusted.is_file():
        raise Lost(
            f"{address.shown}: the certificates in {trusted} cannot be read; add "
            "#ca=/path/of/certificates.pem to the address, or #unverified"
        )
    return {"tls_verify": "1", "ca_file": str(trusted)}


@contextmanager
def _opened_file(settings: CaptureSettings) -> Iterator[Opened]:
    path = Path(settings.address.path).expanduser()
    if not path.is_file():
        raise Lost(f"{settings.address.shown} is no file that can be read; give the path of a video")
    try:
        video_file = open_video(path)
        with video_file as video:
            _prepare(video.stream, settings)
            period = Fraction(video.period_s).limit_denominator(100_000)
            audio = bool(video.container.streams.audio)
            yield Opened(video.container, video.stream, video.timed, round(period * RATE), audio)
    except AnomalyError as error:
        raise Lost(str(error)) from None


def _prepare(stream: VideoStream, settings: CaptureSettings) -> None:
    context = stream.codec_context
    if context.width * context.height > settings.max_pixels:
        raise Lost(
            f"{settings.address.shown} claims {context.width} x {context.height} pixels, more than the "
            f"{settings.max_pixels} that a frame may have; set a smaller size in the camera"
        )
    # Frames may grow later in the stream; the decoder refuses those itself.
    context.options = {"max_pixels": str(settings.max_pixels)}
    # Threads over frames would hold back one frame each; those over slices hold back none.
    context.thread_type = "SLICE"
