from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly.errors import DamagedFootageError
from anomaly.footage.orientation import set_upright
from anomaly.footage.source import Source, probe, read_frame_at, read_frames

PIL_Image = pytest.importorskip("PIL.Image", reason="writes pictures with EXIF for these tests")


def read(path: Path) -> np.ndarray:
    (frame,) = read_frames(Source(path, path.name, "image"))
    assert frame.image.dtype == np.uint8
    assert frame.image.flags.c_contiguous
    assert (frame.pts_s, frame.index, frame.source) == (0.0, 0, path.name)
    return frame.image


@pytest.fixture
def picture() -> np.ndarray:
    """(32, 48, 3) RGB blocks, different at every corner."""
    blocks = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((8, 8, 1), np.uint8))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp"])
def test_colour_survives_every_lossless_format(tmp_path: Path, picture: np.ndarray, suffix: str):
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    PIL_Image.fromarray(picture).save(path, **options)
    np.testing.assert_array_equal(read(path), picture)
    info = probe(Source(path, path.name, "image"))
    assert (info.width, info.height, info.frames, info.fps, info.duration_s) == (48, 32, 1, None, None)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(tmp_path: Path, picture: np.ndarray, suffix: str, orientation: int):
    path = tmp_path / f"a.{suffix}"
    exif = PIL_Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    PIL_Image.fromarray(picture).save(path, exif=exif, **options)
    expected = set_upright(picture, orientation)
    got = read(path)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= 3
    info = probe(Source(path, path.name, "image"))
    assert (info.height, info.width) == expected.shape[:2]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_is_scaled_by_a_fixed_rule_not_by_its_own_range(tmp_path: Path, suffix: str):
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), np.array([[0, 257, 1000, 1001, 32768, 65535]], np.uint16))
    assert read(path)[0, :, 0].tolist() == [0, 1, 4, 4, 128, 255]


def test_16_bit_colour_keeps_its_channels(tmp_path: Path, picture: np.ndarray):
    cv2.imwrite(str(tmp_path / "a.png"), picture[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), picture)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_transparency_is_laid_over_black(tmp_path: Path, picture: np.ndarray, suffix: str, alpha: int):
    path = tmp_path / f"a.{suffix}"
    rgba = np.dstack([picture, np.full(picture.shape[:2], alpha, np.uint8)])
    PIL_Image.fromarray(rgba).save(path, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    assert np.abs(read(path) - picture * (alpha / 255)).max() <= 1


def test_grey_palette_and_one_bit_pictures_become_rgb(tmp_path: Path, picture: np.ndarray):
    colour = PIL_Image.fromarray(picture)
    colour.convert("L").save(tmp_path / "grey.png")
    grey = read(tmp_path / "grey.png")
    assert (grey[..., 0] == grey[..., 1]).all()
    np.testing.assert_array_equal(grey[..., 2], np.asarray(colour.convert("L")))
    palette = colour.convert("P", palette=PIL_Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))
    colour.convert("1").save(tmp_path / "bits.tif")
    assert set(np.unique(read(tmp_path / "bits.tif"))) == {0, 255}


def test_one_pixel_is_a_picture(tmp_path: Path):
    path = tmp_path / "dot.png"
    cv2.imwrite(str(path), np.full((1, 1), 200, np.uint8))
    assert read(path).tolist() == [[[200, 200, 200]]]
    assert read_frame_at(Source(path, "dot.png", "image"), 3.0).image.shape == (1, 1, 3)


def test_an_image_is_shown_at_zero_only(tmp_path: Path):
    path = tmp_path / "dot.png"
    cv2.imwrite(str(path), np.zeros((2, 2), np.uint8))
    source = Source(path, "dot.png", "image")
    assert list(read_frames(source, start_s=0.5)) == []
    assert len(list(read_frames(source, fps=1, end_s=0.5))) == 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
def test_a_picture_cut_short_is_refused_by_name(tmp_path: Path, picture: np.ndarray, suffix: str):
    path = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    PIL_Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    damage: list[str] = []
    assert list(read_frames(Source(path, path.name, "image"), on_damage=damage.append)) == []
    assert len(damage) == 1
    assert str(path) in damage[0]
    with pytest.raises(DamagedFootageError):
        read(path)


def test_a_claim_of_gigapixels_is_refused_before_memory_is_taken(tmp_path: Path):
    path = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 64)
        + b"IDAT"
        + b"\0" * 64
    )
    with pytest.raises(DamagedFootageError, match="60000 x 60000 pixels"):
        probe(Source(path, path.name, "image"))
    with pytest.raises(DamagedFootageError, match="scale it down"):
        read(path)


def test_float_pictures_have_no_fixed_range_and_are_refused(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "f.tif"), np.zeros((4, 4), np.float32))
    with pytest.raises(DamagedFootageError, match="float32"):
        read(tmp_path / "f.tif")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"II*\0\xff\xff\xff\x7f", b"P5 x"]
)
def test_what_is_no_picture_is_one_line(tmp_path: Path, content: bytes):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DamagedFootageError, match="is not a PNG, JPEG") as caught:
        read(path)
    assert "\n" not in str(caught.value)
