"""int8 for ONNX Runtime by its own static quantiser: it computes in int8 only what is quantised on both sides of a product.

Convolutions and products with weights are quantised, scales learned on given pictures (weights per channel).
Attention's own products, normalisation and the projection stay in float32.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from export.explicit import explicit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


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
    return quantised(model, pictures) if runtime == "onnxruntime" else explicit(model, pictures, precision)


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
