"""What turns frames into patch features: its description, and the interface that torch and exported graphs share.

Nothing here imports torch: at the edge a graph takes the network's place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from anomaly.types import ImageArray


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone is, apart from its weights.

    Attributes:
        name: our name, as in `configs/backbone/NAME.yaml`.
        architecture: timm's name of the network.
        layers: which intermediate outputs are used (timm's `forward_intermediates` indices).
        stride: input height and width must be multiples of this (pixels).
        grid_stride: pixels of the network's input a patch covers along each axis.
        neighbourhood: side of the square of map cells that each feature is averaged over (odd; 1 = none),
            as in PatchCore (Roth et al. 2022): a patch is described together with what is around it.
        mean, std: per channel, for pictures scaled to 0..1.
        input_pixels: the area that an input size chosen automatically aims at.
    """

    name: str
    architecture: str
    layers: tuple[int, ...]
    stride: int
    grid_stride: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_pixels: int
    neighbourhood: int = 1


def choose_input_size(
    spec: BackboneSpec, footage: tuple[int, int], max_upscale: float = 2.0
) -> tuple[int, int]:
    """The network's input size for footage of one size.

    Keeps the footage's shape as nearly as multiples of the stride allow, aims at
    `spec.input_pixels`, and enlarges no side more than `max_upscale` times: beyond that the
    network only sees more blur.

    Args:
        spec: the backbone.
        footage: (H, W) of the footage, in pixels.
        max_upscale: the largest enlargement along a side.

    Returns:
        (h, w), multiples of `spec.stride`, at least one stride each.
    """
    height, width = footage
    scale = min(math.sqrt(spec.input_pixels / (height * width)), max_upscale)

    def side(pixels: int) -> int:
        return max(spec.stride, round(pixels * scale / spec.stride) * spec.stride)

    return side(height), side(width)


@lru_cache(maxsize=32)
def patch_places(grid: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where the patches of a grid (gh, gw) lie: the y and the x of their middles, each (gh * gw,) float32 in 0..1."""
    gh, gw = grid
    patch = np.arange(gh * gw, dtype=np.int32)
    return ((patch // gw + 0.5) / gh).astype(np.float32), ((patch % gw + 0.5) / gw).astype(np.float32)


class Extractor(Protocol):
    """Frames to patch features. Implemented by `anomaly.backbone.Backbone` (torch) and `anomaly.exported.GraphBackbone`."""

    @property
    def spec(self) -> BackboneSpec:
        """What the network is."""
        ...

    @property
    def input_size(self) -> tuple[int, int]:
        """(h, w) of the network's input, pixels."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """(gh, gw) patches."""
        ...

    @property
    def device(self) -> object:
        """What it runs on; `str` of it names it."""
        ...

    @property
    def batch(self) -> int:
        """How many frames are best given together."""
        ...

    @property
    def projected(self) -> bool:
        """Whether `extract` gives features that the projection was applied to already."""
        ...

    def extract(self, images: Sequence[ImageArray]) -> NDArray[np.float32]:
        """Features (N, gh * gw, D) float32 of frames (H, W, 3) uint8 RGB of any size."""
        ...
