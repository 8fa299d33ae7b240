"""int8 and fp8 graphs, and what brings their patch features back to where the bank's rows lie.

For ONNX Runtime by its own static quantiser: it computes in int8 only what is quantised on both sides of a product.
Convolutions and products with weights are quantised, scales learned on given pictures (weights per channel).
Attention's own products, normalisation and the projection stay in float32. For the others see `export.explicit`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from export.explicit import explicit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Pull of the map behind the patches towards one that changes nothing, as a share of a direction's mean variance.
_PULL = 1e-3


def quantised_for(
    runtime: str, model: bytes, pictures: Sequence[NDArray[np.float32]], precision: str
) -> bytes:
    """A features graph in int8 or fp8, as a runtime computes it best.

    Args:
        runtime: "onnxruntime", "openvino" or "tensorrt".
        model: from `export.onnx.features_graph`, in the precision that the runtime is exported in first.
        pictures: see `quantised`.
        precision: "int8", or for tensorrt "fp8".
    """
    graph = quantised(model, pictures) if runtime == "onnxruntime" else explicit(model, pictures, precision)
    return returned(graph, model, pictures)


def returned(graph: bytes, model: bytes, pictures: Sequence[NDArray[np.float32]]) -> bytes:
    """A smaller graph with an affine map behind its patches, which brings them as near as can be to those of the graph it was made from.

    What rounding does to weights and activations is in good part the same in every picture: features are moved and mixed, away
    from the bank's rows, which were not rounded. The moving is bias correction (Nagel et al. 2019, "Data-Free Quantization
    Through Weight Equalization and Bias Correction"), here by least squares over whole patches, pulled towards no change. Least
    squares make every direction a little narrower, and distances with it: each gets its spread back, for what shrinks is missed.

    Args:
        graph: int8 or fp8, computed here by ONNX Runtime as it is written.
        model: what it was made from.
        pictures: as for `quantised`.

    Returns:
        The graph with one more product of (d, d), in float32, before its output.
    """
    import onnx

    gram: Any = 0.0
    across: Any = 0.0
    squares: Any = 0.0
    for found, wanted in zip(_patches(graph, pictures), _patches(model, pictures), strict=True):
        ones = np.concatenate([found, np.ones((len(found), 1))], axis=1)
        gram, across, squares = (
            gram + ones.T @ ones,
            across + ones.T @ wanted,
            squares + (wanted**2).sum(axis=0),
        )
    count, mean, wanted_mean = gram[-1, -1], gram[-1, :-1] / gram[-1, -1], across[-1] / gram[-1, -1]
    variation = gram[:-1, :-1] - count * np.outer(mean, mean)
    together = across[:-1] - count * np.outer(mean, wanted_mean)
    pull = _PULL * max(float(np.trace(variation)) / len(variation), 1e-12) * np.eye(len(variation))
    mixed = np.linalg.solve(variation + pull, together + pull)
    spread = np.maximum(squares - count * wanted_mean**2, 0.0)
    left = np.einsum("ij,ij->j", mixed, variation @ mixed)
    mixed = mixed * np.sqrt(np.divide(spread, left, out=np.ones_like(left), where=left > 0.0))
    moved = wanted_mean - mean @ mixed
    loaded = onnx.load_from_string(graph)
    (last,) = (node for node in loaded.graph.node if "patches" in node.output)
    last.output[:] = ["patches_as_rounded"]
    for name, value in (("return_mixed", mixed), ("return_moved", moved)):
        loaded.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    loaded.graph.node.extend(
        [
            onnx.helper.make_node("MatMul", ["patches_as_rounded", "return_mixed"], ["patches_mixed"]),
            onnx.helper.make_node("Add", ["patches_mixed", "return_moved"], ["patches"]),
        ]
    )
    onnx.checker.check_model(loaded)
    result: bytes = loaded.SerializeToString()
    return result


def _patches(graph: bytes, pictures: Sequence[NDArray[np.float32]]) -> Iterator[NDArray[np.float64]]:
    """Patches (gh * gw, d) of each picture, computed by ONNX Runtime on a CPU as the graph is written."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Its own changes know no fp8.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    for picture in pictures:
        yield session.run(["patches"], {"pictures": picture[None]})[0][0].astype(np.float64)


def quantised(model: bytes, pictures: Sequence[NDArray[np.float32]]) -> bytes:
    """A features graph in int8.

    Args:
        model: from `export.onnx.features_graph`, in float32.
        pictures: each (h, w, 3) float32 in 0..255, of normal footage; 16 or more.

    Returns:
        The graph with quantise and dequantise nodes (QDQ).
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Any] = iter(pictures)

        def get_next(self) -> dict[str, Any] | None:
            picture = next(self._left, None)
            return None if picture is None else {"pictures": picture[None]}

    graph = onnx.load_from_string(model)
    weights = {one.name for one in graph.graph.initializer}
    products = [node for node in graph.graph.node if node.op_type == "MatMul"]
    kept = [node.name for node in products if node.input[1] not in weights or node.output[0] == "patches"]
    with TemporaryDirectory(prefix="anomaly-int8-") as folder, _without_advice():
        result = f"{folder}/int8.onnx"
        quantize_static(
            graph,
            result,
            Reader(),
            quant_format=QuantFormat.QDQ,
            # With the limit behind a convolution, whose scale is then that of what is left by it: else the scale covers what
            # is cut off next, and the limit itself is computed in float32.
            op_types_to_quantize=["Conv", "MatMul", "Clip", "Relu"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
        )
        found: bytes = onnx.load(result).SerializeToString()
        return found


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Keep its advice to prepare the graph off the terminal: shapes are known and constants folded already."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
