"""What the camera does to a scene: it shakes, the light on it drifts and flickers, the sensor adds noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly.conveyor.chance import hashed, normal, wander

if TYPE_CHECKING:
    from anomaly.conveyor.clips import Clip
    from anomaly.conveyor.scene import Matrix
    from anomaly.conveyor.solids import Map
    from anomaly.conveyor.stage import Stage
    from anomaly.types import ImageArray


def shaken(clip: Clip, stage: Stage, time_s: float, index: int) -> Matrix:
    """The homography from canvas pixels to this frame: the view's, moved by drift, hum and jitter."""
    seed, scale = clip.seed, stage.scale
    hum = 0.10 * math.sin(2.0 * math.pi * 7.31 * time_s)
    x = (0.8 * wander(time_s, 30.0, 900.0, seed, 10) + hum + 0.10 * normal(seed, 11, index)) * scale
    y = (0.6 * wander(time_s, 30.0, 900.0, seed, 12) + 0.8 * hum + 0.10 * normal(seed, 13, index)) * scale
    angle = math.radians(0.10 * wander(time_s, 40.0, 900.0, seed, 14) + 0.012 * normal(seed, 15, index))
    cos, sin = math.cos(angle), math.sin(angle)
    middle_x, middle_y = clip.config.width / 2, clip.config.height / 2
    shake = np.array(
        [
            [cos, -sin, middle_x - cos * middle_x + sin * middle_y + x],
            [sin, cos, middle_y - sin * middle_x - cos * middle_y + y],
            [0.0, 0.0, 1.0],
        ]
    )
    return np.asarray(shake @ stage.to_picture)


def exposed(clip: Clip, stage: Stage, picture: Map, time_s: float, index: int) -> ImageArray:
    """Light the picture (it drifts over minutes and flickers a little) and let the sensor add its noise."""
    seed = clip.seed
    drift = stage.look.drift * clip.light_drift
    daylight = 1.0 + 1.5 * drift * wander(time_s, 25.0, 1500.0, seed, 20)
    flicker = 0.006 * math.sin(2.0 * math.pi * 2.17 * time_s) + 0.004 * normal(seed, 21, index)
    lamp = 1.0 + 0.5 * drift * wander(time_s, 60.0, 3000.0, seed, 22) + flicker
    light = cv2.addWeighted(stage.ambient, daylight, stage.lamp, lamp, 0.0)
    cv2.multiply(picture, light, dst=picture)
    chance = hashed(seed, 23, index)
    tall, wide = picture.shape[:2]
    spare_y, spare_x = stage.noise.shape[0] - tall, stage.noise.shape[1] - wide
    row, column = chance % (spare_y + 1), (chance >> 16) % (spare_x + 1)
    noise = stage.noise[row : row + tall, column : column + wide]
    if chance >> 40 & 1:
        noise = noise[::-1]
    if chance >> 41 & 1:
        noise = noise[:, ::-1]
    # Photons: bright places are noisier, in grey levels, than dark ones.
    picture += noise * (np.float32(0.55) + picture * np.float32(0.0035))
    return np.asarray(cv2.convertScaleAbs(np.maximum(picture, 0.0, out=picture)), dtype=np.uint8)
