"""A branch of a detector as ONNX graphs, made with `torch.onnx.export` (the exporter on `torch.export`).

Two graphs, both with a dynamic batch N:

    whole       frames (N, H, W, 3) uint8, and what `export.bank_inputs` makes of a bank: center (d,) float32, bank
                (M, d) float32, half_norms (M,) float32
                -> score (N,), distances (N, gh * gw), nearest (N, gh * gw), heatmap (N, H, W)
    features    pictures (N, h, w, 3) float32 in 0..255, of the network's input size
                -> patches (N, gh * gw, d) float32, for a search of the bank beside the graph

The bank is an input: it is kept once, may change between two runs, and nothing is built anew. Every resize,
of pictures, maps and distances, is a product with two constant matrices: the runtimes' own Resize operators do
not agree. In half precision the network and the choice of the row run in half; normalisation, layer norms,
softmax, projection and the distance that is given out stay in float32.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch

from export.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Precision: TypeAlias = Literal["fp32", "fp16", "bf16"]
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_OPSET = 18


@dataclass(frozen=True, eq=False)
class BranchParts:
    """All that a branch computes with.

    Attributes:
        features: module from pictures (N, h, w, 3) float32 in 0..255 to (N, gh * gw, D) float32, whose
            `network` attribute is the part that may run in half precision and has `forward_intermediates`,
            and whose `stages` gives the steps in between by name.
        mean: (D,) float32, subtracted from features.
        components: (D, d) float32, multiplied with them then.
        metric: "euclidean" or "cosine".
        scale: distances are divided by it.
        top_share: share of the counting patches whose mean is the score.
        counts: (gh * gw,) bool, patches that count.
        grid: (gh, gw).
        input_size: (h, w).
        places: (gh * gw, 2) float32, place as the bank's last two dimensions count it; None = it does not.
        neighbours: rows around the nearest one by which the distances of the score are re-weighted (PatchCore's
            equation 7); a bank has so many at least. Fewer than 2 = they are not.
    """

    features: Any
    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    metric: str
    scale: float
    top_share: float
    counts: NDArray[np.bool_]
    grid: tuple[int, int]
    input_size: tuple[int, int]
    places: NDArray[np.float32] | None = None
    neighbours: int = 0

    @property
    def width(self) -> int:
        """Dimensions of a row of the bank, place included."""
        place = 0 if self.places is None else self.places.shape[1]
        return int(self.components.shape[1]) + place


@dataclass(frozen=True, eq=False)
class ResizeMatrices:
    """The constant matrices of one source size.

    Attributes:
        rows, columns: (h, H) and (w, W) float32, from the source's size to the network's.
        up_rows, up_columns: (H, gh) and (W, gw) float32, from the patch grid to the source's size.
    """

    rows: NDArray[np.float32]
    columns: NDArray[np.float32]
    up_rows: NDArray[np.float32]
    up_columns: NDArray[np.float32]

    @property
    def source_size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.rows.shape[1], self.columns.shape[1]


def features_graph(parts: BranchParts, precision: Precision = "fp32", *, stages: bool = False) -> bytes:
    """The graph without the search.

    Args:
        parts: the branch.
        precision: of the network.
        stages: also give out every step on the way, so that two runtimes can be compared step by step.

    Returns:
        The ONNX model, all weights inside.

    Raises:
        UnsupportedError: the network has an operator that ONNX does not.
    """
    module = _Patches(parts, precision, stages)
    pictures = torch.zeros(2, *parts.input_size, 3)
    with torch.no_grad():
        found = module(pictures)
    names = list(module.names) if stages else ["patches"]
    # Extra outputs that are the same tensor as another would be lost on the way.
    assert len(found if isinstance(found, tuple) else (found,)) == len(names)
    return _exported(module, {"pictures": (pictures, {0: "n"})}, names)


def whole_graph(parts: BranchParts, matrices: ResizeMatrices, precision: Precision = "fp32") -> bytes:
    """The graph from the camera's bytes to score and heatmap, for one source size; raises as `features_graph`."""
    frames = torch.zeros(2, *matrices.source_size, 3, dtype=torch.uint8)
    rows = parts.neighbours + 7
    inputs = {
        "frames": (frames, {0: "n"}),
        "center": (torch.zeros(parts.width), {}),
        "bank": (torch.zeros(rows, parts.width), {0: "m"}),
        "half_norms": (torch.zeros(rows), {0: "m"}),
    }
    outputs = ["score", "distances", "nearest", "heatmap"]
    return _exported(_Whole(parts, matrices, precision), inputs, outputs, max(2, parts.neighbours))


def stage_names(parts: BranchParts) -> list[str]:
    """Outputs of `features_graph(stages=True)`, in order."""
    return list(_Patches(parts, "fp32", True).names)


class _Patches(torch.nn.Module):
    """Pictures of the network's input size to projected patch features."""

    mean: torch.Tensor
    components: torch.Tensor

    def __init__(self, parts: BranchParts, precision: Precision, stages: bool) -> None:
        super().__init__()
        self.features = copy.deepcopy(parts.features).cpu()
        if precision != "fp32":
            self.features.network = _InHalf(self.features.network, _DTYPES[precision])
        self.register_buffer("mean", torch.from_numpy(parts.mean.copy()))
        self.register_buffer("components", torch.from_numpy(np.ascontiguousarray(parts.components)))
        self._stages = stages
        with torch.no_grad():
            found = self.features.stages(torch.zeros(1, *parts.input_size, 3)) if stages else {}
        self.names = (*found, "patches")

    def forward(self, pictures: torch.Tensor) -> Any:
        if self._stages:
            found = self.features.stages(pictures)
            return (*found.values(), (found["features"] - self.mean) @ self.components)
        return (self.features(pictures) - self.mean) @ self.components


class _Whole(torch.nn.Module):
    """Frames to score, distances, nearest rows and heatmap."""

    rows: torch.Tensor
    columns: torch.Tensor
    up_rows: torch.Tensor
    up_columns: torch.Tensor
    mask: torch.Tensor
    places: torch.Tensor

    def __init__(self, parts: BranchParts, matrices: ResizeMatrices, precision: Precision) -> None:
        super().__init__()
        self.patches = _Patches(parts, precision, False)
        for name in ("rows", "columns", "up_rows", "up_columns"):
            self.register_buffer(name, torch.from_numpy(getattr(matrices, name)))
        self.register_buffer("mask", torch.from_numpy(parts.counts.astype(bool)))
        if parts.places is not None:
            self.register_buffer("places", torch.from_numpy(parts.places.astype(np.float32)))
        self._top = max(1, round(parts.top_share * int(parts.counts.sum())))
        self._parts = parts
        self._choose_in = _DTYPES[precision]

    def forward(
        self, frames: torch.Tensor, center: torch.Tensor, bank: torch.Tensor, half_norms: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        # Converted first: TensorRT takes an input of bytes only where it leads straight into a Cast.
        pixels = frames.float().permute(0, 3, 1, 2)
        resized = self.rows @ pixels @ self.columns.T
        queries = self.patches(resized.permute(0, 2, 3, 1))
        if self._parts.metric == "cosine":
            # All-zero features stay zero.
            length = torch.linalg.vector_norm(queries, dim=-1, keepdim=True)
            queries = queries / torch.where(length > 0, length, torch.ones_like(length))
        if self._parts.places is not None:
            # Added, not expanded: the batch stays dynamic in every runtime.
            queries = torch.cat([queries, self.places + torch.zeros_like(queries[..., :2])], -1)
        queries = queries - center  # as the bank is; distances stay what they are
        product = queries.to(self._choose_in) @ bank.to(self._choose_in).T
        nearest = (half_norms.to(self._choose_in) - product).argmin(-1)
        chosen = bank.index_select(0, nearest.flatten()).view(queries.shape)
        difference = queries - chosen
        distances = self._in_metric(torch.linalg.vector_norm(difference, dim=-1))
        # Chosen, not multiplied: OpenVINO fuses a product with the norm before it and takes one factor for all.
        distances = torch.where(self.mask, distances / self._parts.scale, 0.0)
        # Patches that do not count are 0, and no more are taken than count.
        largest, worst = distances.topk(self._top, dim=-1)
        if self._parts.neighbours > 1:
            own = queries.gather(1, worst.unsqueeze(-1) + torch.zeros_like(queries[:, : self._top]).long())
            largest = largest * self._weights(own, nearest.gather(1, worst), bank, half_norms)
        score = largest.mean(-1)
        grid = distances.view(-1, *self._parts.grid)
        return score, distances, nearest, self.up_rows @ grid @ self.up_columns.T

    def _in_metric(self, distances: torch.Tensor) -> torch.Tensor:
        return distances * distances * 0.5 if self._parts.metric == "cosine" else distances

    def _weights(
        self, queries: torch.Tensor, rows: torch.Tensor, bank: torch.Tensor, half_norms: torch.Tensor
    ) -> torch.Tensor:
        """(N, t): by how much rows (N, t) that are not rare lessen the distances of queries (N, t, d)."""
        near = bank.index_select(0, rows.flatten())
        away = half_norms - near @ bank.T
        around = (-away).topk(self._parts.neighbours, dim=-1).indices
        shape = (*rows.shape, self._parts.neighbours, self._parts.width)
        others = bank.index_select(0, around.flatten()).view(shape)
        apart = self._in_metric(torch.linalg.vector_norm(queries.unsqueeze(2) - others, dim=-1))
        own = self._in_metric(torch.linalg.vector_norm(queries - near.view(queries.shape), dim=-1))
        return (1.0 - 1.0 / torch.exp(apart - own.unsqueeze(-1)).sum(-1)).clamp(min=0.0)


class _InHalf(torch.nn.Module):
    """A timm network whose products run in half precision; layer norms stay in float32, maps come out in it."""

    def __init__(self, network: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self._dtype = dtype
        for parent in list(self.network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, torch.nn.LayerNorm):
                    setattr(parent, name, _NormInFloat32(child, dtype))
        for module in self.network.modules():
            if getattr(module, "fused_attn", False):
                module.fused_attn = False  # written out, so that its softmax can be kept in float32

    def forward_intermediates(self, pictures: torch.Tensor, **options: Any) -> list[torch.Tensor]:
        maps = self.network.forward_intermediates(pictures.to(self._dtype), **options)
        return [one.float() for one in maps]


class _NormInFloat32(torch.nn.Module):
    def __init__(self, norm: torch.nn.LayerNorm, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = norm.float()
        self._dtype = dtype

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(values.float())
        return normed.to(self._dtype)


def _exported(
    module: torch.nn.Module,
    inputs: dict[str, tuple[torch.Tensor, dict[int, str]]],
    outputs: list[str],
    least_rows: int = 2,
) -> bytes:
    import onnx

    module.eval().requires_grad_(False)
    dims = {"n": torch.export.Dim("n"), "m": torch.export.Dim("m", min=least_rows)}
    shapes = tuple({axis: dims[name] for axis, name in dynamic.items()} for _, dynamic in inputs.values())
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                module,
                tuple(example for example, _ in inputs.values()),
                input_names=list(inputs),
                output_names=outputs,
                opset_version=_OPSET,
                dynamo=True,
                external_data=False,
                dynamic_shapes=shapes,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise UnsupportedError(
            f"{type(module).__name__.strip('_').lower()} graph: {_operator(error)}; use a backbone of other operators"
        ) from error
    finally:
        quiet.setLevel(level)
    model = program.model_proto
    _softmax_in_float32(model)
    onnx.checker.check_model(model)
    found: bytes = model.SerializeToString()
    return found


def _operator(error: BaseException) -> str:
    """The sentence that names what the exporter could not translate."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    named = [
        line for line in lines if "aten." in line or "No ONNX function" in line or "not supported" in line
    ]
    return (named or lines or [type(cause).__name__])[0][:240]


def _softmax_in_float32(model: Any) -> None:
    """Put every softmax of half numbers between two casts: its sum of exponentials loses too much in half."""
    from onnx import TensorProto, helper

    half = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    types = {one.name: one.type.tensor_type.elem_type for one in model.graph.value_info}
    for index, node in reversed(list(enumerate(model.graph.node))):
        if node.op_type != "Softmax" or types.get(node.input[0]) not in half:
            continue
        kind = types[node.input[0]]
        source, result = node.input[0], node.output[0]
        wide, summed = f"{result}_wide", f"{result}_summed"
        node.input[0], node.output[0] = wide, summed
        model.graph.node.insert(index + 1, helper.make_node("Cast", [summed], [result], to=kind))
        model.graph.node.insert(index, helper.make_node("Cast", [source], [wide], to=TensorProto.FLOAT))
