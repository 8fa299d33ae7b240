"""From patch distances to a score, a heatmap and a box."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly.heatmap import (
    Box,
    anomaly_box,
    anomaly_map,
    draw_box,
    frame_score,
    heat_range,
    outline,
    overlay,
)


def test_the_score_is_the_mean_of_the_largest_share():
    distances = np.random.default_rng(0).permutation(np.arange(200, dtype=np.float32))
    assert frame_score(distances, 0.01) == pytest.approx((199 + 198) / 2)
    assert frame_score(distances, 0.001) == 199.0
    assert frame_score(distances, 1.0) == pytest.approx(99.5)


def test_only_patches_that_count_enter_the_score():
    distances = np.arange(100, dtype=np.float32)
    counts = distances < 50
    assert frame_score(distances, 0.02, counts) == 49.0
    assert frame_score(distances, 0.02, np.zeros(100, bool)) == 0.0


def test_the_order_of_patches_does_not_change_the_score():
    rng = np.random.default_rng(1)
    distances = rng.gamma(2.0, size=5000).astype(np.float32)
    scores = {frame_score(rng.permutation(distances)) for _ in range(5)}
    assert len(scores) == 1


def test_the_map_has_the_frames_size_and_its_peak_where_the_patch_is():
    distances = np.ones(6 * 10, np.float32)
    distances[2 * 10 + 7] = 4.0
    heatmap = anomaly_map(distances, (6, 10), (120, 200))
    assert heatmap.shape == (120, 200)
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    assert 40 <= y < 60
    assert 140 <= x < 160
    assert heatmap.max() <= 4.0
    assert heatmap.min() == pytest.approx(1.0)


def test_patches_that_do_not_count_are_dark():
    counts = np.ones(60, bool)
    counts[:30] = False
    heatmap = anomaly_map(np.full(60, 2.0, np.float32), (6, 10), (60, 100), counts)
    assert heatmap[:25].max() == 0.0
    assert heatmap[35:].min() == pytest.approx(2.0)


def test_the_box_holds_the_worst_region_only():
    grid = np.ones((8, 12), np.float32)
    grid[1:3, 2:5] = 5.0
    grid[6, 10] = 4.9
    box = anomaly_box(grid.ravel(), (8, 12), (80, 240))
    assert box == Box(x0=40, y0=10, x1=100, y1=30)
    counts = np.ones((8, 12), bool)
    counts[:4] = False
    assert anomaly_box(grid.ravel(), (8, 12), (80, 240), counts.ravel()) == Box(200, 60, 220, 70)


def test_where_nothing_counts_the_box_is_the_frame():
    assert anomaly_box(np.ones(4, np.float32), (2, 2), (10, 20), np.zeros(4, bool)) == Box(0, 0, 20, 10)


def test_cold_regions_stay_as_they_are_and_hot_ones_are_covered():
    image = np.full((20, 40, 3), 90, np.uint8)
    heatmap = np.ones((20, 40), np.float32)
    heatmap[:, 20:] = 9.0
    before = image.copy()
    shown = overlay(image, heatmap, 1.0, 3.0)
    np.testing.assert_array_equal(shown[:, :20], image[:, :20])
    assert np.abs(shown[:, 20:].astype(int) - 90).max() > 60
    np.testing.assert_array_equal(image, before)


def test_the_hotter_the_lighter_and_the_hottest_is_seen_on_white_and_on_black():
    def luminance(shown: np.ndarray) -> np.ndarray:
        """As WCAG has it: what is left without colour vision."""
        part = shown[0] / 255.0
        linear = np.where(part <= 0.03928, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
        return np.asarray(linear @ np.array([0.2126, 0.7152, 0.0722]))

    heatmap = np.linspace(1.0, 3.0, 12, dtype=np.float32)[None]
    white, black = np.full((1, 12, 3), 255, np.uint8), np.zeros((1, 12, 3), np.uint8)
    assert (np.diff(luminance(overlay(black, heatmap, 1.0, 3.0, 1.0))) > 0).all()
    on_white, on_black = (luminance(overlay(ground, heatmap, 1.0, 3.0)) for ground in (white, black))
    assert (np.diff(on_white) < 0).all()
    assert 1.05 / (on_white[-1] + 0.05) > 1.8
    assert (on_black[-1] + 0.05) / 0.05 > 1.8


def test_full_colour_lies_above_the_threshold():
    for threshold in (None, 0.5, 1.0, 1.4, 8.0):
        low, high = heat_range(threshold)
        assert high > low == 1.0
        assert threshold is None or threshold <= 1.0 or high > threshold


def test_a_box_is_drawn_on_a_copy():
    image = np.zeros((40, 40, 3), np.uint8)
    drawn = draw_box(image, Box(10, 10, 30, 30))
    assert not image.any()
    assert drawn[10, 20].any()
    assert not drawn[20, 20].any()


@pytest.mark.parametrize("under", [0, 128, 255])
def test_what_reaches_the_level_has_a_line_dark_and_light_around_it(under: int):
    image = np.full((360, 640, 3), under, np.uint8)
    ys, xs = np.mgrid[:360, :640]
    heatmap = (3.0 - np.hypot(ys - 180, xs - 320) / 50).astype(np.float32)
    drawn = outline(image, heatmap, 1.5)
    # Across the line, which lies 75 pixels from the middle.
    across = drawn[180, 385:406].max(axis=1)
    assert across.max() > 200
    assert across.min() < 60
    assert (drawn[180, 320] == under).all()
    assert (drawn[180, 450] == under).all()
    for none in (None, 0.0, 9.0):
        np.testing.assert_array_equal(outline(image, heatmap, none), image)
