"""Clips out: pictures with their times to an H.264 file that every player opens."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from anomaly.errors import FootageError

if TYPE_CHECKING:
    from anomaly.types import ImageArray

_TIME_BASE = Fraction(1, 90_000)
# x264's AVX-512 code for macroblock trees (mbtree_propagate_list, core 165) works eight blocks at a time and reads
# past the end of a row whose blocks are no multiple of eight: what lay there in memory moved the quality of
# blocks, and one clip's bytes differed from run to run. With this, its plain C code is taken on every processor.
_X264_PARAMS = "cpu-independent=1"


class VideoWriter:
    """Writes an MP4 (H.264, yuv420p) frame by frame, each at its own time.

    Written under a temporary name beside the target, synced and renamed on a clean exit; on an exception,
    or where no frame was written, nothing is left behind and an older file stays as it was. H.264 in yuv420p
    has even sides: an odd picture is padded by repeating its last row or column (`padding`). The same pictures,
    times and number of threads give the same bytes.

        with VideoWriter(path, fps=10) as writer:
            writer.write(image, pts_s)

    Args:
        path: the target, any extension; its folder must exist.
        fps: nominal rate, written as the stream's average; the times given to `write` decide.
        crf: constant rate factor of x264, 0 (lossless) to 51.
        threads: of the encoder; the bytes hang on it. 0 leaves it to x264, by size and processors.

    Attributes:
        path: the target.
        frames: number of frames written.
        padding: (rows, columns) added to make the sides even; (0, 0) before the first frame.
    """

    def __init__(self, path: str | Path, *, fps: float, crf: int = 23, threads: int = 0) -> None:
        if not (fps > 0 and math.isfinite(fps)):
            raise FootageError(f"a clip cannot be written at {fps} frames a second; give a rate above 0")
        self.path = Path(path)
        self.frames = 0
        self.padding = (0, 0)
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._rate = Fraction(fps).limit_denominator(1001)
        self._crf = crf
        self._threads = threads
        self._size: tuple[int, int] | None = None
        self._last_tick = -1
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(self, image: ImageArray, pts_s: float) -> None:
        """Append a picture.

        Args:
            image: (H, W, 3) uint8 RGB, of the first picture's size.
            pts_s: seconds, increasing; a time that does not increase is set just after the last.

        Raises:
            FootageError: another size, a time that is none, or a disk that is full.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise FootageError(
                f"{self.path} takes pictures (H, W, 3) uint8, not {image.shape} {image.dtype}; convert "
                "them first"
            )
        if not (math.isfinite(pts_s) and pts_s >= 0):
            raise FootageError(f"{self.path} got a picture at {pts_s} s; give seconds from 0 on")
        height, width = image.shape[:2]
        try:
            if self._size is None:
                self._open(height, width)
            if (height, width) != self._size:
                raise FootageError(
                    f"{self.path} got a picture of {(height, width)} after one of {self._size} "
                    "(height, width); write one size to a clip"
                )
            if any(self.padding):
                image = np.pad(image, ((0, self.padding[0]), (0, self.padding[1]), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            self._last_tick = max(round(pts_s / _TIME_BASE), self._last_tick + 1)
            frame.pts, frame.time_base = self._last_tick, _TIME_BASE
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (av.error.FFmpegError, OSError) as error:
            self.discard()
            raise self._cannot(error) from None
        self.frames += 1

    def close(self) -> None:
        """Finish the file and move it to its place. Without a frame there is no file."""
        if self._container is None:
            return
        try:
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._container.close()
            self._container = None
            with open(self._temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(self._temporary, self.path)
        except (av.error.FFmpegError, OSError) as error:
            self.discard()
            raise self._cannot(error) from None

    def discard(self) -> None:
        """Drop what was written; the target is not touched."""
        container, self._container = self._container, None
        try:
            if container is not None:
                container.close()
        except (av.error.FFmpegError, OSError):
            pass  # The file is thrown away; that its end cannot be written no longer matters.
        finally:
            self._temporary.unlink(missing_ok=True)

    def _open(self, height: int, width: int) -> None:
        # libav opens the file with its first packet, many frames later; a wrong folder is to be told now.
        self._temporary.touch()
        self._container = av.open(str(self._temporary), "w", format="mp4", options={"movflags": "faststart"})
        self._size = (height, width)
        self.padding = (height % 2, width % 2)
        stream = self._container.add_stream("libx264", rate=self._rate)
        stream.height, stream.width = height + self.padding[0], width + self.padding[1]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(self._crf), "preset": "veryfast", "x264-params": _X264_PARAMS}
        stream.codec_context.time_base = _TIME_BASE
        stream.codec_context.thread_count = self._threads
        self._stream = stream

    def _cannot(self, error: Exception) -> FootageError:
        why = getattr(error, "strerror", None) or str(error)
        return FootageError(
            f"{self.path} cannot be written ({why}); check the folder, the rights and the free space"
        )
