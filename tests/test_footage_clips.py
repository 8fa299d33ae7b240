from __future__ import annotations

import resource
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from clips import number_of, numbered, texture

from anomaly.errors import FootageError
from anomaly.footage.clips import VideoWriter
from anomaly.footage.source import Source, probe, read_frames


def write(path: Path, images: Iterable[np.ndarray], step_s: float = 0.1, **options) -> None:
    with VideoWriter(path, fps=10, **options) as writer:
        for i, image in enumerate(images):
            writer.write(image, i * step_s)


def read(path: Path) -> list:
    return list(read_frames(Source(path, path.name, "video")))


def test_pictures_come_back_at_their_times(tmp_path: Path):
    times = [0.0, 0.1, 0.2, 0.9, 1.0, 5.0]
    with VideoWriter(tmp_path / "a.mp4", fps=10) as writer:
        for image, time in zip(numbered(6), times, strict=True):
            writer.write(image, time)
    frames = read(tmp_path / "a.mp4")
    assert [number_of(frame.image) for frame in frames] == list(range(6))
    assert [frame.pts_s for frame in frames] == pytest.approx(times, abs=1e-4)
    assert writer.frames == 6
    info = probe(Source(tmp_path / "a.mp4", "a.mp4", "video"))
    assert (info.codec, info.width, info.height) == ("h264", 96, 64)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_odd_sides_are_padded_and_the_writer_says_so(tmp_path: Path):
    image = next(iter(texture(1)))[:95, :127]
    with VideoWriter(tmp_path / "a.mp4", fps=10, crf=0) as writer:
        writer.write(image, 0.0)
    assert writer.padding == (1, 1)
    (frame,) = read(tmp_path / "a.mp4")
    assert frame.image.shape == (96, 128, 3)
    assert np.abs(frame.image[:95, :127].astype(int) - image).mean() < 8


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 50)])
def test_the_smallest_pictures_can_be_written(tmp_path: Path, size: tuple[int, int]):
    with VideoWriter(tmp_path / "a.mp4", fps=10) as writer:
        writer.write(np.full((*size, 3), 120, np.uint8), 0.0)
    (frame,) = read(tmp_path / "a.mp4")
    assert frame.image.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)


def test_times_that_do_not_increase_lose_no_picture(tmp_path: Path):
    with VideoWriter(tmp_path / "a.mp4", fps=10) as writer:
        for image, time in zip(numbered(4), [0.0, 0.1, 0.1, 0.05], strict=True):
            writer.write(image, time)
    assert [number_of(frame.image) for frame in read(tmp_path / "a.mp4")] == [0, 1, 2, 3]


def test_an_exception_leaves_the_old_clip_and_no_temporary(tmp_path: Path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"the clip of yesterday")

    def images() -> Iterator[np.ndarray]:
        yield from texture(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, images())
    assert path.read_bytes() == b"the clip of yesterday"
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_without_a_picture_there_is_no_file(tmp_path: Path):
    with VideoWriter(tmp_path / "a.mp4", fps=10):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_is_one_line_and_leaves_nothing(tmp_path: Path):
    """A limit on the size of files stands in for a full disk: the same failing write, without the disk."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 96, 128, 3), dtype=np.uint8)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
        with pytest.raises(FootageError, match="cannot be written"):
            write(tmp_path / "a.mp4", noise, crf=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shapes", "step_s", "says"),
    [
        ([(64, 64, 3), (64, 66, 3)], 0.1, r"\(64, 66\) after one of \(64, 64\)"),
        ([(64, 64)], 0.1, r"not \(64, 64\) uint8"),
        ([(64, 64, 3)], float("nan"), "nan s"),
    ],
)
def test_what_cannot_be_written_is_one_line(tmp_path: Path, shapes: list, step_s: float, says: str):
    with pytest.raises(FootageError, match=says):
        write(tmp_path / "a.mp4", [np.zeros(shape, np.uint8) for shape in shapes], step_s)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_and_a_rate_that_is_none(tmp_path: Path):
    writer = VideoWriter(tmp_path / "absent" / "a.mp4", fps=10)
    with pytest.raises(FootageError, match="cannot be written"):
        writer.write(np.zeros((4, 4, 3), np.uint8), 0.0)
    with pytest.raises(FootageError, match="0 frames a second"):
        VideoWriter(tmp_path / "a.mp4", fps=0)
