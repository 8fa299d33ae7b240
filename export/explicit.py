"""int8 and fp8 for TensorRT, int8 for OpenVINO: quantise and dequantise nodes that say where, at the inputs of products.

TensorRT takes symmetric scales only, and honours the nodes that it finds (its guide, "Explicit Quantization"). OpenVINO takes
others too, and answered a vision transformer's wrongly. What is between them stays as it is typed: layer norms, softmax,
attention's own products and the projection in half or float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

#: The largest number of each type.
_LARGEST = {"int8": 127.0, "fp8": 448.0}
# Half precision tells scales apart down to here; a channel of zeros has one too.
_LEAST_SCALE = 2.0**-20
# There are no fp8 kernels for grouped convolutions, nor where channels do not fill a block (TensorRT's release notes).
_FP8_CHANNELS = 16
# The first that knows float8, and half-precision scales.
_OPSET = 19


def explicit(model: bytes, pictures: Sequence[NDArray[np.float32]], precision: str) -> bytes:
    """A features graph with products in int8 or fp8.

    Args:
        model: from `export.onnx.features_graph`, in float32 or half precision.
        pictures: each (h, w, 3) float32 in 0..255, of normal footage; 16 or more. Scales are learned from the largest
            values that they give.
        precision: "int8": convolutions and products with weights, weights scaled per channel; or "fp8" (E4M3): those
            for which there are kernels, one scale a tensor.

    Returns:
        The graph with quantise and dequantise nodes (QDQ).
    """
    import onnx

    loaded = onnx.load_from_string(model)
    graph = loaded.graph
    weights = {one.name: one for one in graph.initializer}
    products = [node for node in graph.node if _is_quantised(node, weights, precision)]
    largest = _largest(loaded, {node.input[0] for node in products}, pictures)
    nodes = _Nodes(precision)
    for node in products:
        weight = onnx.numpy_helper.to_array(weights[node.input[1]])
        # Of a convolution output channels come first, of a matrix last.
        axis = 0 if node.op_type == "Conv" else weight.ndim - 1
        node.input[0] = nodes.pair(node.input[0], largest[node.input[0]], weight.dtype)
        others = tuple(index for index in range(weight.ndim) if index != axis)
        of_channels = np.abs(weight.astype(np.float32)).max(others if precision == "int8" else None)
        node.input[1] = nodes.pair(node.input[1], of_channels, weight.dtype, axis)
    _insert(graph, nodes.made)
    graph.initializer.extend(nodes.constants)
    for one in loaded.opset_import:
        if one.domain == "":
            one.version = max(one.version, _OPSET)
    onnx.checker.check_model(loaded)
    found: bytes = loaded.SerializeToString()
    return found


def _is_quantised(node: Any, weights: Any, precision: str) -> bool:
    if node.op_type not in ("Conv", "MatMul") or node.output[0] == "patches" or node.input[1] not in weights:
        return False
    if precision == "int8":
        return True
    shape = weights[node.input[1]].dims
    groups = next((one.i for one in node.attribute if one.name == "group"), 1)
    channels = shape[:2] if node.op_type == "Conv" else shape[-2:]
    return groups == 1 and all(count % _FP8_CHANNELS == 0 for count in channels)


class _Nodes:
    """Quantise and dequantise nodes, one pair for each tensor.

    Attributes:
        made: nodes in pairs, by the tensor that they take.
        constants: their scales and zero points.
    """

    def __init__(self, precision: str) -> None:
        from onnx import TensorProto

        self._largest = _LARGEST[precision]
        self._type = TensorProto.INT8 if precision == "int8" else TensorProto.FLOAT8E4M3FN
        self.made: dict[str, list[Any]] = {}
        self.constants: list[Any] = []

    def pair(self, tensor: str, largest: NDArray[Any], dtype: Any, axis: int | None = None) -> str:
        """The tensor that stands for another from now on, as its values are in the smaller type.

        Args:
            tensor: its name.
            largest: of its absolute values; one number, or one for each place along `axis`.
            dtype: of its values.
            axis: along which scales differ, where they do.
        """
        from onnx import helper, numpy_helper

        result = f"{tensor}_dequantised"
        if tensor in self.made:
            return result
        scale = np.maximum(np.asarray(largest, np.float32) / self._largest, _LEAST_SCALE).astype(dtype)
        zeros = helper.make_tensor(f"{tensor}_zero", self._type, scale.shape, np.zeros(scale.size).tolist())
        self.constants += [numpy_helper.from_array(scale, f"{tensor}_scale"), zeros]
        how: dict[str, Any] = {"axis": axis} if scale.ndim else {}
        steps = [f"{tensor}_scale", f"{tensor}_zero"]
        self.made[tensor] = [
            helper.make_node("QuantizeLinear", [tensor, *steps], [f"{tensor}_quantised"], **how),
            helper.make_node("DequantizeLinear", [f"{tensor}_quantised", *steps], [result], **how),
        ]
        return result


def _insert(graph: Any, made: dict[str, list[Any]]) -> None:
    """Put each pair behind what makes the tensor that it takes; those of inputs and weights first."""
    left, ordered = dict(made), []
    inside = {name for node in graph.node for name in node.output}
    for tensor in [name for name in left if name not in inside]:
        ordered += left.pop(tensor)
    for node in graph.node:
        ordered.append(node)
        for tensor in node.output:
            ordered += left.pop(tensor, [])
    del graph.node[:]
    graph.node.extend(ordered)


def _largest(
    model: Any, tensors: Iterable[str], pictures: Sequence[NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Of each tensor the largest absolute value, over all pictures."""
    import onnx
    import onnxruntime

    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    given = {one.name for one in opened.graph.input}
    names = [name for name in tensors if name not in given]
    opened.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(opened.SerializeToString(), providers=["CPUExecutionProvider"])
    found: dict[str, NDArray[np.float32]] = {}
    for picture in pictures:
        inputs = {session.get_inputs()[0].name: picture[None]}
        values = dict(zip(names, session.run(names, inputs), strict=True)) | inputs
        for name in tensors:
            most = np.abs(values[name]).max().astype(np.float32)
            found[name] = np.maximum(found.get(name, most), most)
    return found
