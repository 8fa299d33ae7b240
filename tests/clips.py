"""Clips for tests, written with PyAV: any codec, container, timing and rotation, and ways to damage them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
#: The same pictures, the same bytes: see `anomaly.footage.clips`.
X264 = {"crf": "16", "x264-params": "cpu-independent=1"}


def write_clip(
    path: str | Path,
    frames: Iterable[Image],
    fps: float = 10,
    codec: str = "libx264",
    *,
    pix_fmt: str | None = None,
    times: Sequence[float] | None = None,
    rotation: int | None = None,
    mirrored: bool = False,
    metadata: dict[str, str] | None = None,
    container: str | None = None,
    muxer: dict[str, str] | None = None,
    encoder: dict[str, str] | None = None,
    color_range: int | None = None,
) -> Path:
    """Encode (H, W, 3) or (H, W) uint8 frames.

    Args:
        path: output; its extension chooses the container unless `container` names a muxer.
        frames: RGB or grey; sizes must be even for 4:2:0 codecs.
        fps: frames a second, also the stream's nominal rate where `times` are given.
        codec: an encoder of libav ("libx264", "mjpeg", "mpeg2video", "libvpx-vp9", ...).
        pix_fmt: pixel format; a fitting one by default.
        times: seconds at which each frame is shown (variable frame rate).
        rotation, mirrored: counter-clockwise degrees, and left for right, written as a display matrix.
        metadata: tags of the stream.
        container, muxer, encoder: muxer name, muxer options, encoder options.
        color_range: 1 limited, 2 full.
    """
    path = Path(path)
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", format=container, options=muxer or {}) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.pix_fmt = pix_fmt or {"mjpeg": "yuvj420p", "gif": "rgb8", "png": "rgb24"}.get(codec, "yuv420p")
        stream.options = {**(X264 if codec == "libx264" else {}), **(encoder or {})}
        if color_range is not None:
            stream.codec_context.color_range = color_range
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None or mirrored:
            stream.set_display_rotation(rotation or 0, hflip=mirrored)
        stream.metadata.update(metadata or {})
        for i, image in enumerate(frames):
            if i == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(image), format="gray" if image.ndim == 2 else "rgb24"
            )
            # Here, as the encoder does not know which range is asked for.
            frame = frame.reformat(format=stream.pix_fmt, dst_color_range=color_range)
            if times is not None:
                frame.pts, frame.time_base = round(times[i] * 1000), Fraction(1, 1000)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


def texture(n: int, size: tuple[int, int] = (96, 128), seed: int = 0) -> Iterable[Image]:
    """`n` frames (H, W, 3) of a coloured texture that drifts, so that no two frames are alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    base = np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))
    for i in range(n):
        yield np.roll(base, 3 * i, axis=1)


def numbered(n: int, size: tuple[int, int] = (64, 96)) -> Iterable[Image]:
    """`n` frames that carry their number: eight bars, black for 0 and white for 1, lowest bit first."""
    for i in range(n):
        bits = [255 * (i >> bit & 1) for bit in range(8)]
        row = np.repeat(np.array(bits, dtype=np.uint8), size[1] // 8)
        yield np.broadcast_to(row[None, :, None], (*size, 3)).copy()


def number_of(image: Image) -> int:
    """The number that a frame of `numbered` carries."""
    width = image.shape[1] // 8
    return sum(1 << bit for bit in range(8) if image[:, bit * width + 2 : (bit + 1) * width - 2].mean() > 127)


def cut_file(path: Path, share: float, to: Path) -> Path:
    """Copy the first `share` of a file's bytes."""
    data = path.read_bytes()
    to.write_bytes(data[: int(len(data) * share)])
    return to


def scramble_file(path: Path, start: float, share: float, to: Path) -> Path:
    """Copy a file with `share` of its bytes, from `start` of its length on, replaced by noise."""
    data = bytearray(path.read_bytes())
    begin, count = int(len(data) * start), int(len(data) * share)
    data[begin : begin + count] = np.random.default_rng(1).integers(0, 256, count, dtype=np.uint8).tobytes()
    to.write_bytes(data)
    return to
