"""One small interface to every runtime that an exported graph can run in; none of them needs torch.

The precision is pinned for each of them, never left to a runtime's default.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Protocol

from export.errors import DeviceMissingError, RuntimeMissingError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[np.generic]]

#: Precisions that a runtime is exported in, the first being the default.
PRECISIONS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "tensorrt": ("fp16", "bf16", "fp32", "int8", "fp8"),
}
#: Precisions whose scales are learned on pictures, and which are judged by the events that they still catch.
QUANTISED = ("int8", "fp8")
#: File name endings of each runtime's graphs; the first one is opened.
ENDINGS: dict[str, tuple[str, ...]] = {
    "onnxruntime": (".onnx",),
    "openvino": (".xml", ".bin"),
    "tensorrt": (".onnx",),
}
#: The extra that brings each, without torch and beside it.
_INSTALL = {
    "onnxruntime": ("edge", "export"),
    "openvino": ("edge", "export"),
    "tensorrt": ("edge-tensorrt", "tensorrt"),
}


class Graph(Protocol):
    """A graph that is loaded and ready."""

    @property
    def device(self) -> str:
        """What it runs on, in the runtime's words."""
        ...

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        """Outputs by name. Inputs by name, with the shapes and types that the graph was made with."""
        ...


def installed(runtime: str) -> bool:
    """Whether a runtime can be imported; does not import it."""
    return importlib.util.find_spec(runtime) is not None


def check_runtime(runtime: str, precision: str | None = None) -> None:
    """Refuse a runtime that is unknown or not installed, or a precision that it does not have.

    Raises:
        UnsupportedError: unknown.
        RuntimeMissingError: not installed.
    """
    if runtime not in PRECISIONS:
        raise UnsupportedError(f"runtime {runtime!r} is not known; use one of {', '.join(PRECISIONS)}")
    if precision is not None and precision not in PRECISIONS[runtime]:
        raise UnsupportedError(
            f"precision {precision!r} is not one of {runtime}'s; use one of {', '.join(PRECISIONS[runtime])}"
        )
    if not installed(runtime):
        extra = _INSTALL[runtime][installed("torch")]
        raise RuntimeMissingError(f"runtime {runtime} is not installed; pip install 'anomaly[{extra}]'")


def open_graph(
    runtime: str,
    path: Path,
    precision: str,
    *,
    device: str = "auto",
    threads: int | None = None,
    rows: tuple[int, int] | None = None,
) -> Graph:
    """Load a graph.

    Args:
        runtime: "onnxruntime", "openvino" or "tensorrt".
        path: the graph's file; its digest is the caller's to check.
        precision: what the graph is to compute in, one of `PRECISIONS[runtime]`.
        device: "cpu"; for onnxruntime also "cuda", "tensorrt" or "tensorrt-rtx"; for openvino also "gpu", "npu"; for tensorrt
            only "cuda", its first NVIDIA GPU. "auto" = the processor, for tensorrt that GPU.
        threads: processor threads; None = as many as the runtime takes by itself.
        rows: of a graph with the search inside, the least and most rows of the bank; only tensorrt must know.

    Raises:
        RuntimeMissingError, DeviceMissingError, UnsupportedError, EngineError, MemoryShortError: see there.
    """
    check_runtime(runtime, precision)
    place = "cpu" if device == "auto" else device
    if runtime == "onnxruntime":
        from export.ort import OnnxRuntimeGraph

        return OnnxRuntimeGraph(path, precision, place, threads)
    if runtime == "openvino":
        from export.openvino import OpenVinoGraph

        return OpenVinoGraph(path, precision, place, threads)
    if device not in ("auto", "cuda"):
        raise DeviceMissingError(
            f"device {device!r} is not tensorrt's, which runs on the first NVIDIA GPU that it sees; use device=cuda, with "
            "CUDA_VISIBLE_DEVICES for another GPU, or runtime=openvino or onnxruntime for the processor"
        )
    from export.tensorrt import TensorRtGraph

    return TensorRtGraph(path, precision, rows)


def reason(error: BaseException) -> str:
    """What a runtime says went wrong, at most three lines of it, without where in its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [
        line for line in lines if not line.startswith(("Exception from", "Check '", "FrontEnd API failed"))
    ]
    return " ".join((told or lines or [type(error).__name__])[:3])[:300]
