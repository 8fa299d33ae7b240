"""Sharpness, exposure, flicker and stillness of pictures: plain functions over grey arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from anomaly.types import ImageArray

#: Horizontal bands of which the brightness is followed: a rolling shutter shows flicker as stripes.
BANDS = 24
#: Twice the frequency of the mains.
LIGHTS_HZ = (100.0, 120.0)
_BLUR_SIGMA = 1.0
_WHITE, _BLACK = 250, 5
# Picture noise passes the Laplacian 20-fold in variance; what is left below this is no structure.
_LAPLACIAN_GAIN = 20.0
_LEAST_STRUCTURE = 4.0
_CONTRAST = 12.0
# Slower than this, flicker cannot be told from drifting daylight in a look of seconds.
_SLOWEST_HZ = 0.4
_LEAST_FLICKER = 0.004
_OVER_NOISE = 6.0
# Real rates and mains are off by some parts in a thousand; at 120 Hz that is this much.
_SEARCH_HZ = 0.35


@dataclass(frozen=True, eq=False)
class PictureStatistics:
    """A row for each picture.

    Attributes:
        pts_s: (n,) seconds of the stream.
        bands: (n, BANDS) mean grey level of horizontal bands, 0..255.
        sharpness: (n,) see `sharpness`; nan where not measured or too plain.
        white, black: (n,) share of pixels at the ends of the range.
        brightest: (n,) grey level that 1 % of the pixels exceed.
        change: (n - 1,) mean absolute difference to the picture before, in grey levels; 0 = identical.
    """

    pts_s: NDArray[np.float64]
    bands: NDArray[np.float64]
    sharpness: NDArray[np.float64]
    white: NDArray[np.float64]
    black: NDArray[np.float64]
    brightest: NDArray[np.float64]
    change: NDArray[np.float64]


class PictureSeries:
    """Gathers the statistics of pictures as they come; keeps one picture."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, ...]] = []
        self._bands: list[NDArray[np.float64]] = []
        self._change: list[float] = []
        self._before: ImageArray | None = None

    @property
    def count(self) -> int:
        """Pictures so far."""
        return len(self._rows)

    def add(self, pts_s: float, grey: ImageArray) -> None:
        """Take in the next picture, (H, W) uint8."""
        noise = 0.0
        if self._before is not None and self._before.shape == grey.shape:
            difference: ImageArray = cv2.absdiff(grey, self._before).astype(np.uint8)
            self._change.append(float(difference.mean()))
            noise = noise_level(difference)
        elif self._before is not None:
            self._change.append(float("inf"))
        sample = grey[::2, ::2]
        self._rows.append(
            (
                pts_s,
                sharpness(grey, noise),
                float((sample >= _WHITE).mean()),
                float((sample <= _BLACK).mean()),
                float(np.percentile(sample, 99)),
            )
        )
        self._bands.append(band_means(grey))
        self._before = grey

    def statistics(self) -> PictureStatistics:
        """All rows so far."""
        rows = np.array(self._rows, dtype=np.float64).reshape(-1, 5)
        bands = np.array(self._bands, dtype=np.float64).reshape(-1, BANDS)
        change = np.array(self._change, dtype=np.float64)
        return PictureStatistics(rows[:, 0], bands, rows[:, 1], rows[:, 2], rows[:, 3], rows[:, 4], change)


def band_means(grey: ImageArray) -> NDArray[np.float64]:
    """Mean grey level of `BANDS` horizontal bands of an (H, W) picture, from the top down."""
    rows = grey.mean(axis=1, dtype=np.float64)
    return np.array([part.mean() if len(part) else 0.0 for part in np.array_split(rows, BANDS)])


def noise_level(difference: ImageArray) -> float:
    """Standard deviation of the picture's noise, from the absolute difference of two pictures in a row.

    The median ignores what moves, as long as that is less than half of the picture.
    """
    return float(np.median(difference[::2, ::2])) / (0.6745 * 2**0.5)


def sharpness(grey: ImageArray, noise: float = 0.0) -> float:
    """How much fine structure a picture has that a slight blur (sigma 1 pixel) would take away.

    Variance of the Laplacian over that of a blurred copy, both without what noise adds. The scene's own
    contrast cancels out: about 1 to 2 is a picture out of focus, over 4 a sharp one; nan for one without structure.

    Args:
        grey: (H, W) uint8.
        noise: standard deviation of its noise, in grey levels.
    """
    own = _laplacian_variance(grey.astype(np.float32)) - _LAPLACIAN_GAIN * noise**2
    blurred = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), _BLUR_SIGMA).astype(np.float32)
    # Noise that went through the blur and the Laplacian: the gain of both kernels together.
    rest = _laplacian_variance(blurred) - _BLURRED_GAIN * noise**2
    if own < _LEAST_STRUCTURE:
        # Light and dark without a single edge: what a lens far out of focus gives.
        return 1.0 if float(grey.std()) > _CONTRAST else float("nan")
    return float(own / max(rest, 1e-3 * own))


def _laplacian_variance(image: NDArray[np.float32]) -> float:
    return float(cv2.Laplacian(image, cv2.CV_32F).var())


def _gain_after_blur() -> float:
    impulse = np.zeros((33, 33), np.float32)
    impulse[16, 16] = 1.0
    response = cv2.Laplacian(cv2.GaussianBlur(impulse, (0, 0), _BLUR_SIGMA), cv2.CV_32F)
    return float((response**2).sum())


_BLURRED_GAIN = _gain_after_blur()


@dataclass(frozen=True)
class Flicker:
    """Light that beats against the camera.

    Attributes:
        light_hz: 100 or 120: which mains.
        seen_hz: how fast the picture pulses.
        depth: from darkest to brightest, as a share of the brightness.
    """

    light_hz: float
    seen_hz: float
    depth: float


def find_flicker(bands: NDArray[np.float64], rate: float) -> Flicker | None:
    """Look for lamps on the mains in the brightness of bands.

    A lamp pulses at 100 or 120 Hz and is seen at the alias that the frame rate makes of it, in every band alike;
    a machine that moves with such a period does so in some bands only. A rate that divides the lamp's sees none.

    Args:
        bands: (n, bands) grey levels of pictures at even distance.
        rate: pictures a second.
    """
    n = len(bands)
    if n < 16 or rate <= 0:
        return None
    level = bands.mean(axis=0)
    lit = level > 8.0
    if lit.sum() < BANDS // 3:
        return None
    relative = bands[:, lit] / level[lit] - 1.0
    window = np.hanning(n)[:, None]
    amplitude = 2.0 * np.abs(np.fft.rfft(relative * window, axis=0)) / window.sum()
    # The median over bands: in most of them, not in the one where a machine moves.
    spectrum = np.median(amplitude, axis=1)
    frequency = np.fft.rfftfreq(n, 1.0 / rate)
    noise = float(np.median(spectrum[frequency > _SLOWEST_HZ])) if (frequency > _SLOWEST_HZ).any() else 0.0
    best: Flicker | None = None
    for light in LIGHTS_HZ:
        alias = abs(light - rate * round(light / rate))
        reach = max(_SEARCH_HZ, 1.5 * rate / n)
        near = (np.abs(frequency - alias) <= reach) & (frequency >= _SLOWEST_HZ)
        if not near.any():
            continue
        at = int(np.flatnonzero(near)[np.argmax(spectrum[near])])
        height = float(spectrum[at])
        # A peak: what lies beside the search is lower. A slope of slow changes is none.
        beside = (np.abs(frequency - alias) > reach + 2 * rate / n) & (
            np.abs(frequency - alias) <= 3 * reach + 4 * rate / n
        )
        if height < _LEAST_FLICKER or height < _OVER_NOISE * noise:
            continue
        if beside.any() and height < 2.0 * float(spectrum[beside].max()):
            continue
        if best is None or 2 * height > best.depth:
            best = Flicker(light, float(frequency[at]), 2 * height)
    return best


def longest_still_s(pts_s: NDArray[np.float64], change: NDArray[np.float64]) -> float:
    """Longest stretch, in seconds, in which every picture is the one before, to the last bit."""
    longest, since = 0.0, 0
    for i, moved in enumerate(change > 0):
        if moved:
            since = i + 1
        longest = max(longest, float(pts_s[i + 1] - pts_s[since]))
    return longest
