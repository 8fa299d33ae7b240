"""What the projection is learned from, before any patch reaches the bank."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anomaly.fitting.filling import learn_projection
from anomaly.fitting.options import FitOptions
from anomaly.types import Frame
from memory_bank import MemoryBankError

FRAMES = [
    Frame(np.zeros((4, 4, 3), np.uint8), 0.1 * number, number, "clip_3.mp4") for number in range(40, 44)
]


def learned(value: float) -> Any:
    """From features of which one of frame 42 has this value."""

    def extract(images: list[np.ndarray]) -> np.ndarray:
        features = np.random.default_rng(0).standard_normal((len(images), 16, 8)).astype(np.float32)
        features[2, 3, 2] = value
        return features

    backbone: Any = SimpleNamespace(batch=4, widths=(8,), extract=extract)
    return learn_projection(backbone, FRAMES, np.ones(16, bool), FitOptions(dims=4), lambda *_: None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_no_number_is_named_by_source_and_frame(value: float):
    with pytest.raises(MemoryBankError, match=r"clip_3\.mp4 frame 42: 1 patch features are NaN or infinite"):
        learned(value)


def test_a_feature_beyond_half_precision_is_learned_from():
    projection = learned(7e4)
    assert np.isfinite(projection.apply(np.ones((1, 8), np.float32))).all()
