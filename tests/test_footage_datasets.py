"""Folders that label images by kind, and masks."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import texture, write_clip

from anomaly.errors import LabelsError
from anomaly.footage.labels import load_labels, read_mask
from anomaly.types import Interval


def image(path: Path, value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((8, 12), value, np.uint8))


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """MVTec AD's layout."""
    for name in ("train/good/000.png", "test/good/000.png", "test/good/001.png", "test/bent/000.png",
                 "test/scratch/000.png", "test/scratch/010.png", "test/scratch/2.png"):  # fmt: skip
        image(tmp_path / name)
    mask = np.zeros((8, 12), np.uint8)
    mask[2:4, 3:6] = 255
    for name in ("bent/000_mask.png", "scratch/000.png", "scratch/010_mask.png"):
        (tmp_path / "ground_truth" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "ground_truth" / name), mask)
    return tmp_path


@pytest.mark.parametrize("where", [".", "test"])
def test_folders_by_kind_from_the_root_and_from_test(parts: Path, where: str):
    loaded = load_labels(parts / where)
    assert [source.name for source in loaded.sources] == [
        "good/000.png", "good/001.png", "bent/000.png", "scratch/000.png", "scratch/2.png", "scratch/010.png",
    ]  # fmt: skip
    assert loaded.of("good/000.png") == ()
    assert loaded.of("scratch/2.png") == (Interval("scratch/2.png", 0.0, math.inf, "scratch"),)
    assert sorted(loaded.masks) == ["bent/000.png", "scratch/000.png", "scratch/010.png"]
    assert "1 of 4 anomalous images have no mask" in loaded.notes[0]
    mask = read_mask(loaded.masks["bent/000.png"], 0, (8, 12))
    assert mask.dtype == bool
    assert mask.sum() == 6
    assert read_mask(loaded.masks["bent/000.png"], 5, (16, 24)).sum() == 24


@pytest.mark.parametrize("kind", ["ok", "Normal"])
def test_a_folder_of_normal_pictures_beside_good_is_no_kind(parts: Path, kind: str):
    """No event came of them, but `evaluate` counted them as anomalous pictures that are missed."""
    image(parts / "test" / kind / "0.png")
    loaded = load_labels(parts)
    assert loaded.of(f"{kind}/0.png") == ()
    assert f"{kind}/0.png" in [source.name for source in loaded.sources]


def test_pictures_are_grouped_by_what_their_names_share(parts: Path):
    groups = load_labels(parts, group="scratch/(0)").groups
    assert groups == {"scratch/000.png": "0", "scratch/010.png": "0"}


def test_ground_truth_may_stand_beside_good_and_is_no_kind(parts: Path):
    (parts / "ground_truth").rename(parts / "test" / "ground_truth")
    loaded = load_labels(parts / "test")
    assert {interval.label for interval in loaded.intervals} == {"bent", "scratch"}
    assert len(loaded.masks) == 3


def test_folders_that_are_no_labels_say_what_is_missing(parts: Path):
    with pytest.raises(LabelsError, match="holds no folder `good`"):
        load_labels(parts / "ground_truth")
    with pytest.raises(LabelsError, match="does not go with it"):
        load_labels(parts, parts)
    write_clip(parts / "test" / "bent" / "a.mp4", texture(2))
    with pytest.raises(LabelsError, match=r"a.mp4 is a video"):
        load_labels(parts)
    (parts / "test" / "bent" / "a.mp4").unlink()
    (parts / "test" / "dent").mkdir()
    with pytest.raises(LabelsError, match="dent holds no image"):
        load_labels(parts)


def test_normal_images_alone_are_no_labels(tmp_path: Path):
    image(tmp_path / "good" / "0.png")
    with pytest.raises(LabelsError, match="not one anomaly"):
        load_labels(tmp_path)


def test_a_mask_of_another_shape_is_refused_and_one_of_another_scale_is_not(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "m.png"), np.full((120, 90), 255, np.uint8))
    assert read_mask(tmp_path / "m.png", 0, (40, 30)).all()
    assert read_mask(tmp_path / "m.png", 0, (161, 120)).all()
    for size in ((90, 120), (120, 120), (120, 88)):
        with pytest.raises(LabelsError, match=f"m.png is 90x120 and what it marks is {size[1]}x{size[0]}"):
            read_mask(tmp_path / "m.png", 0, size)


def test_masks_that_do_not_fit_or_hold_objects_are_refused(tmp_path: Path):
    path = tmp_path / "m.npz"
    np.savez(path, mask=np.zeros(3, np.uint8), shape=np.array([1, 5, 7]))
    with pytest.raises(LabelsError, match="does not fit together"):
        read_mask(path, 0, (5, 7))
    np.savez(path, mask=np.zeros(5, np.uint8), shape=np.array([10**10, 10**10, 10**10]))
    with pytest.raises(LabelsError, match="does not fit together"):
        read_mask(path, 0, (5, 7))
    np.savez(path, mask=np.array([{"planted": 1}], dtype=object), shape=np.array([1, 5, 7]))
    with pytest.raises(LabelsError, match="is no mask file"):
        read_mask(path, 0, (5, 7))
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(LabelsError, match="is no mask file"):
        read_mask(path, 0, (5, 7))
    (tmp_path / "m.png").write_bytes(b"nothing")
    with pytest.raises(LabelsError, match="is not a PNG"):
        read_mask(tmp_path / "m.png", 0, (5, 7))
