"""ONNX Runtime: CPU, and NVIDIA GPUs through its CUDA, TensorRT and TensorRT-RTX providers.

The providers for GPUs are options that the same graph runs in; they were not run on hardware here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from export.errors import DeviceMissingError, UnsupportedError
from export.runtime import reason

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from export.runtime import Arrays

#: Providers of each device, in the order in which they take nodes.
_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt-rtx": ("NvTensorRTRTXExecutionProvider", "CPUExecutionProvider"),
}


class OnnxRuntimeGraph:
    """A graph in ONNX Runtime. Its precision is the types inside the file: no provider changes them.

    Args:
        path: the `.onnx` file.
        device: "cpu", "cuda", "tensorrt" or "tensorrt-rtx".
        threads: processor threads; None = one for each core.
    """

    def __init__(self, path: Path, device: str = "cpu", threads: int | None = None) -> None:
        if device not in _PROVIDERS:
            raise DeviceMissingError(
                f"device {device!r} is not one of onnxruntime's; use one of {', '.join(_PROVIDERS)}"
            )
        wanted = _PROVIDERS[device]
        available = onnxruntime.get_available_providers()
        if wanted[0] not in available:
            raise DeviceMissingError(
                f"device {device!r} needs {wanted[0]}, this onnxruntime has {', '.join(available)}; "
                "use device=cpu, or install 'anomaly[edge-gpu]' on a machine with such a GPU"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        # Threads that spin while they wait take the cores from the decoder and the search.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings: list[dict[str, str]] = [
            {"use_tf32": "0"} if name == "CUDAExecutionProvider" else {} for name in wanted
        ]
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=list(wanted), provider_options=settings
            )
        except Exception as error:  # its classes share no root of their own
            raise UnsupportedError(
                f"onnxruntime cannot load {path.name}: {reason(error)}; export the model again"
            ) from error
        if self._session.get_providers()[0] != wanted[0]:
            raise DeviceMissingError(f"{wanted[0]} did not start on this machine; use device=cpu")
        self.device = wanted[0]
        self._outputs = [one.name for one in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        """See `Graph.run`."""
        found = self._session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, map(np.asarray, found), strict=True))
