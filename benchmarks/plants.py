"""What is planted in normal footage, so that defaults are chosen on anomalies that no other benchmark reports on.

Two kinds, because each has its own bias: drawn by hand (`stranger`, `damage`), and made of real pictures, as
self-supervised methods make them: people cut out and turned, scaled or put on something (`Passers`), patches
moved (CutPaste, Li et al. 2021), other textures let in (DRAEM, Zavrtanik et al. 2021), patches of other
pictures without a seam (NSA, Schlueter et al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import cv2
import numpy as np

ImageArray: TypeAlias = np.ndarray
#: Grey (h, w) uint8 and its (h, w) opacity in 0..1.
Cutout: TypeAlias = tuple[ImageArray, np.ndarray]


def stranger(rng: np.random.Generator, kind: int) -> tuple[ImageArray, np.ndarray]:
    """Something that walks nowhere: (h, w) uint8 grey and its (h, w) opacity in 0..1."""
    height, width = int(rng.integers(18, 34)), int(rng.integers(12, 34))
    y, x = np.mgrid[0:height, 0:width]
    shade = rng.uniform(40, 200)
    if kind == 0:  # two wheels and a bar
        opacity = np.zeros((height, width), np.float32)
        radius = max(3, width // 4)
        for centre in (radius, width - radius - 1):
            cv2.circle(opacity, (centre, height - radius - 1), radius, 1.0, 1)
        cv2.line(opacity, (radius, height - radius - 1), (width - radius, height - 2 * radius), 1.0, 1)
        grey = np.full((height, width), shade)
    elif kind == 1:  # a box with a window
        opacity = np.ones((height, width), np.float32)
        grey = np.full((height, width), shade)
        grey[height // 5 : height // 2, width // 6 : -max(width // 6, 1)] += rng.choice([-50, 50])
    elif kind == 2:  # a leaning oval
        opacity = (
            ((y / height - 0.5) ** 2 * 4 + (x / width - 0.5 + 0.3 * (y / height - 0.5)) ** 2 * 6) < 1
        ).astype(np.float32)
        grey = shade + 40 * np.sin(y / 2.5)
    else:  # texture of something else
        opacity = np.ones((height, width), np.float32)
        noise = rng.normal(0, 1, (height, width)).astype(np.float32)
        grey = shade + 60 * cv2.GaussianBlur(noise, (0, 0), 1.5)
    soft = cv2.GaussianBlur(cv2.copyMakeBorder(opacity, 4, 4, 4, 4, cv2.BORDER_CONSTANT), (0, 0), 0.8)
    grey = cv2.copyMakeBorder(np.clip(grey, 0, 255).astype(np.uint8), 4, 4, 4, 4, cv2.BORDER_REPLICATE)
    return grey, soft * rng.uniform(0.5, 0.9)


def planted(image: ImageArray, grey: ImageArray, opacity: np.ndarray, top: int, left: int) -> ImageArray:
    """The picture with the stranger blended in at that place, as far as it lies inside."""
    result = image.astype(np.float32)
    height, width = grey.shape
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + height, image.shape[0]), min(left + width, image.shape[1])
    if y0 < y1 and x0 < x1:
        cut = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        share = opacity[cut][..., None]
        result[y0:y1, x0:x1] = result[y0:y1, x0:x1] * (1 - share) + grey[cut][..., None] * share
    return np.clip(result, 0, 255).astype(np.uint8)


def damaged(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """A picture with a crack, a hole, a frayed spot or an uneven stretch drawn in, in proportion to its size."""
    height, width = image.shape[:2]
    unit = np.sqrt(height * width) / 20
    opacity = np.zeros((height, width), np.float32)
    kind = int(rng.integers(4))
    y, x = rng.uniform(0.2, 0.8, 2) * (height, width)
    if kind == 0:
        points = [(x, y)]
        heading = rng.uniform(0, 2 * np.pi)
        for _ in range(int(rng.integers(6, 14))):
            heading += rng.normal(0, 0.5)
            x, y = x + 0.7 * unit * np.cos(heading), y + 0.7 * unit * np.sin(heading)
            points.append((x, y))
        cv2.polylines(opacity, [np.array(points, np.int32)], False, 1.0, max(1, round(unit / 6)))
    else:
        size = rng.uniform(0.4, 1.5, 2) if kind == 1 else rng.uniform(1.5, 5, 2)
        cv2.ellipse(opacity, ((x, y), tuple(size * unit), rng.uniform(0, 180)), 1.0, -1)
        if kind == 2:
            opacity *= (rng.random((height, width)) < 0.5).astype(np.float32)
    soft = cv2.GaussianBlur(opacity, (0, 0), unit / (2 if kind == 3 else 10))[..., None]
    change = (-1 if kind < 2 else rng.choice([-1, 1])) * rng.uniform(40, 90)
    return np.clip(image + soft * change, 0, 255).astype(np.uint8)


def blob(height: int, width: int, rng: np.random.Generator, share: float) -> np.ndarray:
    """(h, w) opacity of an uneven spot that covers a share of its box."""
    noise = rng.normal(0, 1, (height, width)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), max(2.0, min(height, width) / 8))
    y, x = np.mgrid[0:height, 0:width]
    hill = noise / noise.std() + 1.5 * (0.55 - 2 * np.hypot(y / height - 0.5, x / width - 0.5))
    return cv2.GaussianBlur((hill > np.quantile(hill, 1 - share)).astype(np.float32), (0, 0), 1.0)


def people(frames: Sequence[ImageArray]) -> list[Cutout]:
    """Whoever walks before a still background, cut out of (H, W) grey frames."""
    grey = np.stack(frames)
    background = np.median(grey[::5], axis=0)
    found: list[Cutout] = []
    for frame in grey[::7]:
        moving = (np.abs(frame - background) > 22).astype(np.uint8)
        moving = cv2.morphologyEx(moving, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
        count, marks, boxes, _ = cv2.connectedComponentsWithStats(moving)
        for mark in range(1, count):
            x, y, width, height, area = boxes[mark]
            inside = x > 2 and y > 2 and x + width < frame.shape[1] - 2 and y + height < frame.shape[0] - 2
            if inside and 200 < area < 1500 and height > width:
                cut = np.s_[y : y + height, x : x + width]
                found.append((frame[cut], (marks[cut] == mark).astype(np.float32)))
    return found


def passer(
    rng: np.random.Generator, kind: int, cutouts: Sequence[Cutout], textures: Sequence[ImageArray]
) -> Cutout:
    """Someone as nobody walks there (upside down, lying, a giant, riding on something), or a foreign thing."""
    grey, opacity = cutouts[rng.integers(len(cutouts))]
    texture = textures[rng.integers(len(textures))]
    if kind == 0:
        grey, opacity = grey[::-1], opacity[::-1]
    elif kind == 1:
        grey, opacity = np.rot90(grey), np.rot90(opacity)
    elif kind == 2:
        size = rng.uniform(1.5, 2.0)
        grey, opacity = (
            cv2.resize(np.ascontiguousarray(one), None, fx=size, fy=size) for one in (grey, opacity)
        )
    elif kind == 3:
        height, width = grey.shape
        y, x = rng.integers(texture.shape[0] - 12), rng.integers(texture.shape[1] - width - 16)
        both, shown = (
            np.zeros((height + 6, width + 12), np.uint8),
            np.zeros((height + 6, width + 12), np.float32),
        )
        both[:height, 6 : 6 + width], shown[:height, 6 : 6 + width] = grey, opacity
        board = np.zeros((10, width + 12), np.float32)
        cv2.ellipse(board, ((width + 12) // 2, 5), ((width + 10) // 2, 4), 0, 0, 360, 1.0, -1)
        both[-10:] = np.where(board > 0, texture[y : y + 10, x : x + width + 12], both[-10:])
        shown[-10:] = np.maximum(shown[-10:], board)
        grey, opacity = both, shown
    else:
        height, width = int(rng.integers(16, 40)), int(rng.integers(14, 44))
        y, x = rng.integers(texture.shape[0] - 2 * height), rng.integers(texture.shape[1] - 2 * width)
        part = texture[y : y + 2 * height, x : x + 2 * width]
        grey = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        opacity = blob(height, width, rng, 0.5)
    grey = cv2.copyMakeBorder(np.ascontiguousarray(grey), 4, 4, 4, 4, cv2.BORDER_REPLICATE)
    shown = cv2.copyMakeBorder(np.ascontiguousarray(opacity), 4, 4, 4, 4, cv2.BORDER_CONSTANT)
    return grey, cv2.GaussianBlur(shown, (0, 0), 0.6) * rng.uniform(0.75, 1.0)


def altered(
    image: ImageArray,
    kind: int,
    others: Sequence[ImageArray],
    textures: Sequence[ImageArray],
    rng: np.random.Generator,
) -> ImageArray:
    """A picture (H, W, 3) with a patch moved, a scar, another texture, a piece of another picture, or uneven light."""
    height, width = image.shape[:2]
    unit = np.sqrt(height * width)
    tall, wide = (int(np.clip(unit * rng.uniform(0.06, 0.25), 6, side // 2)) for side in (height, width))
    if kind == 1:
        tall, wide = int(min(unit * rng.uniform(0.15, 0.4), height * 0.6)), max(3, int(unit * 0.015))
    y, x = rng.integers(height - tall), rng.integers(width - wide)
    result = image.astype(np.float32)
    if kind in (0, 1):
        from_y, from_x = rng.integers(height - tall), rng.integers(width - wide)
        patch = result[from_y : from_y + tall, from_x : from_x + wide][::-1]
        patch = np.clip(patch * rng.uniform(0.75, 1.25) + rng.uniform(-15, 15), 0, 255)
        box = cv2.boxPoints(((x + wide / 2, y + tall / 2), (wide, tall), rng.uniform(-45, 45)))
        opacity = np.zeros((height, width), np.float32)
        cv2.fillPoly(opacity, [box.astype(np.int32)], 1.0)
        opacity = cv2.GaussianBlur(opacity, (0, 0), 0.7)
        rows = np.clip(np.arange(height) - y, 0, tall - 1)
        columns = np.clip(np.arange(width) - x, 0, wide - 1)
        result += opacity[..., None] * (patch[rows[:, None], columns[None]] - result)
    elif kind == 2:
        texture = textures[rng.integers(len(textures))]
        from_y, from_x = (
            rng.integers(max(1, side - cut)) for side, cut in zip(texture.shape, (tall, wide), strict=True)
        )
        patch = cv2.resize(texture[from_y : from_y + tall, from_x : from_x + wide], (wide, tall))[..., None]
        opacity = blob(tall, wide, rng, 0.35)[..., None] * rng.uniform(0.3, 0.9)
        part = result[y : y + tall, x : x + wide]
        part += opacity * (patch - part)
    elif kind == 3:
        other = others[rng.integers(len(others))]
        from_y, from_x = (
            rng.integers(max(1, side - cut)) for side, cut in zip(other.shape, (tall, wide), strict=False)
        )
        patch = cv2.resize(other[from_y : from_y + tall, from_x : from_x + wide], (wide, tall))
        patch = np.ascontiguousarray(np.rot90(patch, int(rng.integers(4))))
        high, broad = patch.shape[:2]
        spot = (blob(high, broad, rng, 0.6) > 0.5).astype(np.uint8) * 255
        centre = (
            int(np.clip(x + wide / 2, broad // 2 + 1, width - broad // 2 - 2)),
            int(np.clip(y + tall / 2, high // 2 + 1, height - high // 2 - 2)),
        )
        return np.asarray(cv2.seamlessClone(patch, image, spot, centre, cv2.NORMAL_CLONE), np.uint8)
    else:
        light = cv2.GaussianBlur(
            blob(min(height, 3 * tall), min(width, 3 * wide), rng, 0.5), (0, 0), unit / 40
        )
        y, x = rng.integers(height - light.shape[0] + 1), rng.integers(width - light.shape[1] + 1)
        change = rng.uniform(25, 60) * rng.choice([-1, 1])
        result[y : y + light.shape[0], x : x + light.shape[1]] += light[..., None] * change
    return np.clip(result, 0, 255).astype(np.uint8)
