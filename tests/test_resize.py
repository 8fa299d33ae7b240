"""One resize everywhere: two matrices, equal to torch's antialiased bilinear."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from anomaly.resize import resize, resize_matrix

SIZES = [
    ((480, 640), (224, 224)), ((96, 160), (96, 160)), ((240, 360), (480, 720)), ((1080, 1920), (320, 560)),
    ((7, 5), (16, 48)), ((1, 1), (16, 16)), ((333, 91), (14, 196)), ((64, 64), (1, 1)),
]  # fmt: skip


def picture(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_it_equals_the_dense_matrices(source, target):
    image = picture(source)
    rows, columns = resize_matrix(source[0], target[0]), resize_matrix(source[1], target[1])
    dense = np.einsum(
        "ay,yxc,bx->abc", rows.astype(float), image.astype(float), columns.astype(float), optimize=True
    )
    resized = resize(image, target)
    assert resized.shape == (*target, 3)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, dense, atol=2e-4)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_it_equals_torchs_antialiased_interpolation(source, target):
    image = picture(source)
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = functional.interpolate(batch, target, mode="bilinear", align_corners=False, antialias=True)
    np.testing.assert_allclose(resize(image, target), expected[0].permute(1, 2, 0).numpy(), atol=0.02)


def test_rows_are_averages_and_no_pixel_is_skipped():
    for size_in, size_out in ((480, 224), (5, 64), (1000, 3), (1, 7)):
        matrix = resize_matrix(size_in, size_out)
        assert matrix.shape == (size_out, size_in)
        assert (matrix >= 0).all()
        np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-6)
        assert (matrix.sum(axis=0) > 0).all()


def test_the_same_size_changes_nothing():
    image = picture((20, 30))
    np.testing.assert_array_equal(resize(image, (20, 30)), image.astype(np.float32))


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        resize_matrix(0, 4)
