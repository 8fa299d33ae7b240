"""Frozen timm models as one function from frames to patch features, for CNNs and ViTs alike.

A backbone is described by a `BackboneSpec`; `Backbone.extract` takes pictures of any size and
returns one feature vector a patch. Weights come from `anomaly.weights`; there is no path on
which random weights are used.
"""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as functional

from anomaly.errors import UsageError, WeightsError
from anomaly.extractor import BackboneSpec, choose_input_size
from anomaly.resize import resize, resize_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from anomaly.types import ImageArray

__all__ = ["Backbone", "BackboneSpec", "PatchFeatures", "choose_input_size"]


class PatchFeatures(torch.nn.Module):
    """From pictures of the network's input size to one feature vector a patch; what runs, and what is exported.

    Attributes:
        network: timm's network, with `forward_intermediates`.
        mean, std: (3,) float32, for values in 0..255.
        spec: what the network is.
        grid: (gh, gw).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: Any, spec: BackboneSpec, grid: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.grid = grid
        self.register_buffer("mean", torch.tensor(spec.mean) * 255.0)
        self.register_buffer("std", torch.tensor(spec.std) * 255.0)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features (N, gh * gw, D) float32 of pictures (N, h, w, 3) float32 in 0..255."""
        return self.stages(pictures)["features"]

    def stages(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """Everything on the way, by name and in order, so that two runtimes can be compared step by step."""
        # Channels last: next to a product over pixels, OpenVINO takes a channel for a column when it fuses the two.
        # And whole rows of pixels at once: OpenVINO takes as long over three numbers at a time as over a layer.
        width = pictures.shape[2]
        lines = (pictures.flatten(2) - self.mean.repeat(width)) / self.std.repeat(width)
        normalised = lines.reshape(pictures.shape).permute(0, 3, 1, 2)
        outputs = self.network.forward_intermediates(
            normalised,
            indices=list(self.spec.layers),
            norm=False,
            intermediates_only=True,
            output_fmt="NCHW",
        )
        names = [f"layer {index}" for index in self.spec.layers]
        aligned = [self._align(output) for output in outputs]
        features = torch.cat(aligned, dim=1).flatten(2).transpose(1, 2)
        return {
            "normalised picture": normalised,
            **dict(zip(names, outputs, strict=True)),
            "features": features,
        }

    def _align(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Bring one layer's (N, C, h, w) map to the patch grid."""
        side = self.spec.neighbourhood
        if side > 1:
            feature_map = functional.avg_pool2d(feature_map, side, 1, side // 2, count_include_pad=False)
        height, width = feature_map.shape[-2:]
        if (height, width) == self.grid:
            return feature_map
        if height % self.grid[0] == 0 and width % self.grid[1] == 0:
            return functional.avg_pool2d(feature_map, (height // self.grid[0], width // self.grid[1]))
        rows = torch.from_numpy(resize_matrix(height, self.grid[0])).to(feature_map)
        columns = torch.from_numpy(resize_matrix(width, self.grid[1])).to(feature_map)
        # The product over channels last is several times slower than over a copy with its rows in one piece.
        return rows @ feature_map.contiguous() @ columns.T


class Backbone:
    """A frozen network that turns frames into patch features.

    Args:
        spec: what the network is.
        weights: its state dict, already loaded and checked (`anomaly.weights.load_weights`).
        input_size: (h, w) of the network's input, multiples of `spec.stride`.
        device: "cpu" or "cuda".

    Attributes:
        module: the whole of it as a torch module, for `export`.
        widths: channels of each layer, in the order in which features hold them.

    Raises:
        UsageError: an input size that is not a multiple of the stride, a layer the network
            does not have, or weights of another network.
    """

    #: Features come as the network gives them; the branch's projection is applied on the host.
    projected = False

    def __init__(
        self,
        spec: BackboneSpec,
        weights: dict[str, torch.Tensor],
        input_size: tuple[int, int],
        device: str = "cpu",
    ) -> None:
        if any(side % spec.stride or side < spec.stride for side in input_size):
            raise UsageError(
                f"backbone.input_size {list(input_size)} is not a multiple of the stride of {spec.name}; "
                f"use multiples of {spec.stride}"
            )
        if spec.neighbourhood < 1 or spec.neighbourhood % 2 == 0:
            raise UsageError(
                f"backbone.neighbourhood={spec.neighbourhood} has no middle; give an odd number, such as 3"
            )
        self.device = _device(device)
        self.spec = spec
        self.input_size = input_size
        self.grid = (input_size[0] // spec.grid_stride, input_size[1] // spec.grid_stride)
        # On a CPU the maps of one frame still fit its caches; several frames together take longer each.
        self.batch = 1 if self.device.type == "cpu" else 16
        # NHWC memory lets the depthwise convolutions of small CNNs run about twice as fast on a CPU.
        network = _build(spec, weights, input_size).to(self.device, memory_format=torch.channels_last)
        self.module = PatchFeatures(network, spec, self.grid).to(self.device).eval()
        self.widths = self._measured_widths()
        self.dim = sum(self.widths)

    def _measured_widths(self) -> tuple[int, ...]:
        with torch.inference_mode():
            stages = self.module.stages(torch.zeros(1, *self.input_size, 3, device=self.device))
        return tuple(int(stages[f"layer {index}"].shape[1]) for index in self.spec.layers)

    def extract(self, images: Sequence[ImageArray]) -> NDArray[np.float32]:
        """Patch features of some frames.

        Args:
            images: each (H, W, 3) uint8 RGB; sizes may differ from frame to frame.

        Returns:
            (N, gh * gw, D) float32, patches in row-major order of the grid, layers side by side.
        """
        return self.features([resize(image, self.input_size) for image in images])

    def features(self, resized: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Patch features of frames that already have the network's input size.

        Args:
            resized: each (h, w, 3) float32 in 0..255, from `anomaly.resize.resize`.

        Returns:
            (N, gh * gw, D) float32.
        """
        batch = torch.from_numpy(np.stack(resized)).to(self.device)
        with torch.inference_mode():
            flat = self.module(batch)
        result: NDArray[np.float32] = flat.float().contiguous().cpu().numpy()
        return result


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device {name!r} is not known; use cpu or cuda") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} is not there; torch sees no such CUDA GPU, use device=cpu")
    return device


def _build(spec: BackboneSpec, weights: dict[str, torch.Tensor], input_size: tuple[int, int]) -> Any:
    """The network, cut off after the last layer used, with its weights, frozen."""
    import timm

    is_vit = spec.architecture.startswith("vit_")
    options: dict[str, Any] = {"img_size": input_size} if is_vit else {}
    network: Any = timm.create_model(spec.architecture, pretrained=False, num_classes=0, **options)
    if is_vit:
        from timm.models.vision_transformer import checkpoint_filter_fn

        # Position embeddings are interpolated from the size they were learned at.
        weights = checkpoint_filter_fn(weights, network)
    try:
        loaded = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise WeightsError(
            f"weights do not fit {spec.architecture} ({detail}); import the weights of this network"
        ) from error
    if loaded.missing_keys:
        raise WeightsError(
            f"weights do not fit {spec.architecture}: {len(loaded.missing_keys)} tensors are missing, "
            f"the first is {loaded.missing_keys[0]!r}; import the weights of this network"
        )
    try:
        network.prune_intermediate_layers(list(spec.layers), prune_norm=True, prune_head=True)
    except (AssertionError, IndexError) as error:
        raise UsageError(
            f"backbone.layers {list(spec.layers)} are not all in {spec.architecture} ({error}); "
            "name layers that the network has"
        ) from error
    network.eval().requires_grad_(False)
    return _with_folded_norms(network, input_size)


def _with_folded_norms(network: Any, input_size: tuple[int, int]) -> Any:
    """The same network with every batch norm folded into the convolution before it.

    A frozen batch norm is a scale and a shift, which a convolution can carry. Without passes of
    their own over large maps, a small CNN takes about a third of the time on a CPU. Modules are
    paired by the order they were registered in, which need not be the order they run in: the
    folded network is kept only if it computes the same.
    """
    folded = copy.deepcopy(network)
    pairs = 0
    for parent in folded.modules():
        children = list(parent.named_children())
        for (_, convolution), (name, norm) in itertools.pairwise(children):
            if isinstance(convolution, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                _fold(convolution, norm)
                # timm's norms carry the activation that follows them.
                setattr(parent, name, getattr(norm, "act", torch.nn.Identity()))
                pairs += 1
    if not pairs:
        return network
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(1, 3, *input_size, generator=generator)
    with torch.inference_mode():
        wanted, found = (
            one.forward_intermediates(probe, norm=False, intermediates_only=True) for one in (network, folded)
        )
    same = all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(wanted, found, strict=True))
    return folded if same else network


def _fold(convolution: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d) -> None:
    """Put a frozen batch norm's scale and shift into the convolution before it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    bias = torch.zeros_like(norm.running_mean) if convolution.bias is None else convolution.bias
    convolution.weight = torch.nn.Parameter(convolution.weight * scale.view(-1, 1, 1, 1), requires_grad=False)
    convolution.bias = torch.nn.Parameter(norm.bias + (bias - norm.running_mean) * scale, requires_grad=False)
