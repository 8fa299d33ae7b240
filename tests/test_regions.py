from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomaly.errors import CorruptModelError, UsageError
from anomaly.regions import Regions

LEFT = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
TOP = [[0, 0], [1, 0], [1, 0.5], [0, 0.5]]
TRIANGLE = [[0, 0], [1, 0], [0, 1]]


def test_nothing_given_means_everything_counts():
    regions = Regions()
    assert regions.everything
    assert regions.frame_mask(1, 1).tolist() == [[True]]
    assert regions.frame_mask(3, 5).all()
    assert regions.patch_mask(7, 9).shape == (7, 9)
    assert regions.patch_mask(7, 9).all()


def test_look_and_ignore_cover_what_they_say():
    mask = Regions(look=[LEFT], ignore=[TOP]).frame_mask(4, 6)
    expected = np.zeros((4, 6), bool)
    expected[2:, :3] = True
    np.testing.assert_array_equal(mask, expected)
    # Several polygons add up.
    both = Regions(look=[LEFT, TOP]).frame_mask(100, 100)
    assert both.mean() == pytest.approx(0.75)
    assert Regions(look=[TRIANGLE]).frame_mask(200, 300).mean() == pytest.approx(0.5, abs=0.01)


def test_a_patch_counts_where_at_least_half_of_its_area_does():
    # The border runs through the middle of the second of three columns: exactly half of it counts.
    assert Regions(look=[LEFT]).patch_mask(1, 3).tolist() == [[True, True, False]]
    narrow = [[0, 0], [0.45, 0], [0.45, 1], [0, 1]]
    assert Regions(look=[narrow]).patch_mask(1, 3).tolist() == [[True, False, False]]


def test_patches_do_not_depend_on_the_size_of_the_frame():
    regions = Regions(look=[TRIANGLE])
    np.testing.assert_array_equal(regions.patch_mask(8, 8), np.arange(8)[:, None] + np.arange(8) <= 7)


def test_a_self_crossing_polygon_follows_the_even_odd_rule():
    bow = [[0, 0], [1, 1], [1, 0], [0, 1]]
    mask = Regions(look=[bow]).frame_mask(101, 101)
    assert mask[50, 10]
    assert mask[50, 90]
    assert not mask[10, 50]
    assert not mask[90, 50]


# Both are about how fast examples come, which a busy machine decides.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=8),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_pixels_agree_with_winding_numbers_away_from_the_border(points: list, height: int, width: int):
    try:
        mask = Regions(look=[points]).frame_mask(height, width)
    except UsageError:
        return  # A polygon without area leaves nothing to look at.
    edges = np.array(points) * [width, height]
    for _ in range(10):
        y, x = np.random.default_rng(height * 41 + width).integers([0, 0], [height, width])
        centre = np.array([x + 0.5, y + 0.5])
        ends = np.roll(edges, -1, axis=0)
        along = np.clip(
            ((centre - edges) * (ends - edges)).sum(1) / np.maximum(((ends - edges) ** 2).sum(1), 1e-12), 0, 1
        )
        if np.linalg.norm(edges + along[:, None] * (ends - edges) - centre, axis=1).min() < 0.1:
            continue
        # Winding by angles, an independent way to tell inside from outside; odd turns are inside.
        a, b = edges - centre, ends - centre
        turns = np.arctan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(1)).sum() / (2 * np.pi)
        assert mask[y, x] == (round(turns) % 2 == 1)


def test_a_mask_image_counts_where_it_is_white(tmp_path: Path):
    image = np.zeros((100, 200), np.uint8)
    image[:, 100:] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), image)
    regions = Regions(ignore=[TOP], mask=tmp_path / "mask.png")
    mask = regions.frame_mask(50, 50)
    assert mask[25:, 25:].all()
    assert mask.sum() == 25 * 25
    assert regions.frame_mask(400, 800).mean() == pytest.approx(0.25)
    assert regions.patch_mask(2, 2).tolist() == [[False, False], [False, True]]


def test_a_model_folder_carries_the_mask_without_its_file(tmp_path: Path):
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "mask.png"), (rng.random((37, 53)) > 0.4).astype(np.uint8) * 255)
    regions = Regions(
        look=[TRIANGLE], ignore=[[[0.1, 0.1], [0.2, 0.1], [0.15, 0.2]]], mask=tmp_path / "mask.png"
    )
    text = json.dumps(regions.to_json())
    (tmp_path / "mask.png").unlink()
    again = Regions.from_json(json.loads(text))
    assert again == regions
    assert again.digest() == regions.digest()
    np.testing.assert_array_equal(again.frame_mask(90, 120), regions.frame_mask(90, 120))
    assert Regions.from_json(json.loads(json.dumps(Regions().to_json()))) == Regions()


def test_the_digest_tells_regions_apart(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "mask.png"), np.full((4, 4), 255, np.uint8))
    different = [
        Regions(),
        Regions(look=[LEFT]),
        Regions(ignore=[LEFT]),
        Regions(look=[TOP]),
        Regions(mask=tmp_path / "mask.png"),
    ]
    assert len({regions.digest() for regions in different}) == 5
    assert Regions(look=[LEFT]) == Regions(look=[[(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)]])


def test_masks_are_not_to_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        Regions(look=[LEFT]).frame_mask(4, 4)[0, 0] = False


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"look": [[[0, 0], [1, 1]]]}, "regions.look polygon 1 has 2 points; a polygon needs at least 3"),
        ({"ignore": [LEFT, [[0, 0], [640, 0], [640, 480]]]}, "polygon 2 has a point .640, 0. outside 0..1"),
        ({"look": [[[0, 0], [1, 0], [0, float("nan")]]]}, "outside 0..1"),
        ({"look": [[[0, 0], [1, 0], [0, "1"]]]}, "x and y are numbers"),
        ({"look": [[[0, 0], [1, 0], [0]]]}, "a point is"),
        ({"look": "all"}, "not a list of polygons"),
        ({"look": [[0, 0, 1]]}, "a point 0"),
        ({"ignore": [[[0, 0], [1, 0], [1, 1], [0, 1]]]}, "leave nothing to look at"),
        ({"look": [[[0, 0], [0.5, 0.5], [1, 1]]]}, "leave nothing to look at"),
        ({"mask": Path("absent.png")}, "absent.png cannot be read as an image"),
    ],
)  # fmt: skip
def test_what_is_no_region_is_one_line(options: dict, says: str):
    with pytest.raises(UsageError, match=says) as caught:
        Regions(**options)
    assert "\n" not in str(caught.value)


def test_regions_too_small_for_the_grid_say_so():
    with pytest.raises(UsageError, match="not one patch of the 4 x 4 grid"):
        Regions(look=[[[0.1, 0.1], [0.15, 0.1], [0.15, 0.15]]]).patch_mask(4, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"mask": {"size": [2, 2], "runs": [0, 5]}},
        {"mask": {"size": [2, 2], "runs": [-1, 5]}},
        {"mask": {"size": [10**6, 10**6], "runs": [0, 10**12]}},
        {"mask": {"size": [2], "runs": [0, 4]}},
        {"mask": "mask.png"},
        {"look": [[[0, 0], [9, 9], [1, 0]]]},
        {"look": None},
    ],
)
def test_changed_regions_of_a_model_are_refused(change: dict):
    with pytest.raises(CorruptModelError, match="the model's regions cannot be read"):
        Regions.from_json({**Regions(look=[LEFT]).to_json(), **change})
    with pytest.raises(CorruptModelError):
        Regions.from_json({})
