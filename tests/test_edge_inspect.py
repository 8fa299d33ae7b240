"""What `check` measures of pictures and streams, on made ones whose truth is known."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from clips import texture

from anomaly.edge.inspect.picture import BANDS, PictureSeries, find_flicker, longest_still_s, sharpness
from anomaly.edge.inspect.stream import arrival_jitter, measure_keyframes, measure_pace, needed_sampling


def grey_texture() -> np.ndarray:
    return cv2.cvtColor(next(iter(texture(1, (360, 640)))), cv2.COLOR_RGB2GRAY)


def noisy(picture: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, picture.shape)
    return np.clip(picture + noise, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("contrast", [1.0, 0.6])
@pytest.mark.parametrize("noise", [0.0, 2.0, 5.0])
def test_sharpness_falls_with_blur_whatever_the_contrast_and_the_noise(contrast: float, noise: float):
    picture = (grey_texture() * contrast).astype(np.uint8)
    values = [
        sharpness(noisy(cv2.GaussianBlur(picture, (0, 0), blur) if blur else picture, noise), noise)
        for blur in (0, 1.0, 1.5)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] > 10
    assert 2.3 < values[1] < 3.5
    assert values[2] < 2.5


def test_a_plain_wall_has_no_sharpness_and_a_lens_far_out_of_focus_has_the_least():
    assert math.isnan(sharpness(np.full((120, 160), 90, np.uint8)))
    assert sharpness(cv2.GaussianBlur(cv2.resize(grey_texture()[:90, :160], (640, 360)), (0, 0), 12)) == 1.0


def pulsing(light_hz: float, rate: float, depth: float, *, rolling: bool, n: int = 240) -> np.ndarray:
    """Bands of a camera under such a lamp; a rolling shutter sees each band a little later."""
    time_s = np.arange(n)[:, None] / rate + (np.arange(BANDS) / BANDS / rate * 0.9 if rolling else 0.0)
    level = np.linspace(60, 160, BANDS)
    noise = np.random.default_rng(1).normal(0, 0.1, (n, BANDS))
    return level * (1 + depth / 2 * np.sin(2 * np.pi * light_hz * time_s)) + noise


@pytest.mark.parametrize("rolling", [False, True])
@pytest.mark.parametrize(("light_hz", "rate", "seen_hz"), [(100, 30, 10), (120, 25, 5), (100, 29.97, 10.09)])
def test_flicker_is_found_at_the_alias_of_the_mains(
    light_hz: float, rate: float, seen_hz: float, rolling: bool
):
    found = find_flicker(pulsing(light_hz, rate, 0.06, rolling=rolling), rate)
    assert found is not None
    assert found.light_hz == light_hz
    assert found.seen_hz == pytest.approx(seen_hz, abs=0.15)
    assert found.depth == pytest.approx(0.06, rel=0.2)


def test_no_flicker_where_the_rate_divides_the_lamps():
    assert find_flicker(pulsing(100, 25, 0.06, rolling=True), 25) is None
    assert find_flicker(pulsing(120, 30, 0.06, rolling=True), 30) is None


def test_a_machine_that_moves_at_that_rate_is_no_flicker():
    bands = pulsing(100, 30, 0.0, rolling=False)
    bands[:, 8:14] *= 1 + 0.2 * np.sin(2 * np.pi * 10 * np.arange(len(bands)) / 30)[:, None]
    assert find_flicker(bands, 30) is None
    # Daylight that drifts, and a lamp switched on.
    drift = pulsing(100, 30, 0.0, rolling=False) * np.linspace(0.7, 1.3, 240)[:, None]
    assert find_flicker(drift, 30) is None
    step = pulsing(100, 30, 0.0, rolling=False)
    step[120:] *= 1.4
    assert find_flicker(step, 30) is None


def test_the_pace_of_a_stream_tells_holes_from_jitter():
    even = np.arange(100) / 10
    pace = measure_pace(even)
    assert pace is not None
    assert (pace.rate, pace.holes) == (pytest.approx(10), 0)
    assert pace.jitter_s == pytest.approx(0, abs=1e-9)
    uneven = even + np.random.default_rng(0).uniform(-0.02, 0.02, 100)
    assert 0.01 < measure_pace(uneven).jitter_s < 0.04
    assert measure_pace(np.delete(even, [40, 41, 42])).holes == 1
    assert measure_pace(np.delete(even, [40, 41, 42])).longest_s == pytest.approx(0.4)
    assert measure_pace(even[:2]) is None
    # B-frames: the order of arrival does not matter.
    assert measure_pace(even[np.random.default_rng(0).permutation(100)]).rate == pytest.approx(10)


def test_arrival_jitter_is_what_the_network_adds():
    shown = np.arange(200) / 10
    late = np.where(np.arange(200) % 20 == 19, 0.3, 0.0)
    assert arrival_jitter(shown, shown + 5) == pytest.approx(0, abs=1e-9)
    assert arrival_jitter(shown, shown + 5 + late) == pytest.approx(0.3)
    assert arrival_jitter(shown[:3], shown[:3]) is None


def test_keyframes_that_are_far_apart_are_told_even_where_only_one_was_seen():
    shown = np.arange(100) / 10
    assert measure_keyframes(shown, np.arange(100) % 10 == 0).spacing_s == pytest.approx(1.0)
    one = measure_keyframes(shown, np.arange(100) == 0)
    assert (one.spacing_s, one.count) == (None, 1)
    assert one.at_least_s == pytest.approx(9.9)
    # Two near each other, then none for seconds.
    assert measure_keyframes(shown, np.isin(np.arange(100), [0, 5])).spacing_s == pytest.approx(9.4)


@pytest.mark.parametrize("start", np.linspace(0, 0.999, 13))
def test_the_rate_told_puts_that_many_frames_into_the_shortest_anomaly(start: float):
    need = needed_sampling(0.8, smoothing_s=0.5, min_duration_s=0.2, samples=3)
    times = np.arange(40) / need.rate
    inside = (times >= start) & (times < start + need.room_s)
    assert inside.sum() >= 3
    assert need.reached == pytest.approx(1 - math.exp(-0.6 / 0.5))


def test_no_rate_catches_what_is_shorter_than_the_score_must_hold():
    assert needed_sampling(0.5, 0.5, 0.5).rate == math.inf


def test_a_frozen_picture_is_the_same_to_the_last_bit():
    series = PictureSeries()
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (48, 64), dtype=np.uint8)
    for i in range(20):
        if i < 5 or i > 15:
            # A still scene: only the noise moves.
            picture = noisy(np.full((48, 64), 90, np.uint8), 1 + i / 100)
            picture[0, 0] = i
        series.add(i / 10, picture)
    found = series.statistics()
    assert longest_still_s(found.pts_s, found.change) == pytest.approx(1.1)
