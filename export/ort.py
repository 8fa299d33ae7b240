"""ONNX Runtime: CPU, and NVIDIA GPUs through its CUDA, TensorRT and TensorRT-RTX providers.

TensorRT-RTX is a plugin in a package of its own, which plain onnxruntime 1.24 or later loads; the others are in
onnxruntime-gpu. The providers for GPUs are options that the same graph runs in; they were not run on hardware here.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from export.engine_cache import cache_folder
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
}
_RTX = "tensorrt-rtx"
_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


class OnnxRuntimeGraph:
    """A graph in ONNX Runtime. Its precision is the types inside the file: no provider changes them.

    Args:
        path: the `.onnx` file.
        precision: of the types inside it: "fp32", "fp16" or "int8".
        device: "cpu", "cuda", "tensorrt" or "tensorrt-rtx".
        threads: processor threads; None = one for each core.
    """

    def __init__(self, path: Path, precision: str, device: str = "cpu", threads: int | None = None) -> None:
        if device != _RTX and device not in _PROVIDERS:
            raise DeviceMissingError(
                f"device {device!r} is not one of onnxruntime's; use one of {', '.join([*_PROVIDERS, _RTX])}"
            )
        if device.startswith("tensorrt") and precision == "int8":
            raise UnsupportedError(
                f"device {device!r} takes symmetric scales only, and onnxruntime's int8 has unsigned ones; use device=cuda or "
                "cpu, or export with --runtime tensorrt --precision int8"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        # Threads that spin while they wait take the cores from the decoder and the search.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        given: dict[str, Any] = {}
        if device == _RTX:
            wanted = _add_rtx(options)
        else:
            wanted = _provider(device)
            given["providers"] = [(name, _settings(name, precision)) for name in _PROVIDERS[device]]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, **given)
        except Exception as error:  # its classes share no root of their own
            raise UnsupportedError(
                f"onnxruntime cannot load {path.name}: {reason(error)}; export the model again"
            ) from error
        if self._session.get_providers()[0] != wanted:
            raise DeviceMissingError(f"{wanted} did not start on this machine; use device=cpu")
        self.device = wanted
        self._outputs = [one.name for one in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        """See `Graph.run`."""
        found = self._session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, map(np.asarray, found), strict=True))


def _provider(device: str) -> str:
    """The provider of a device that is built into this onnxruntime.

    Raises:
        DeviceMissingError: it is not.
    """
    wanted = _PROVIDERS[device][0]
    available = onnxruntime.get_available_providers()
    if wanted not in available:
        raise DeviceMissingError(
            f"device {device!r} needs {wanted}, this onnxruntime has {', '.join(available)}; use device=cpu, or "
            "install 'anomaly[edge-gpu]' in an environment of its own, on a machine with such a GPU"
        )
    if device != "cpu" and hasattr(onnxruntime, "preload_dlls"):
        # CUDA and cuDNN out of the packages beside it, where the system has none.
        onnxruntime.preload_dlls()
    return wanted


def _add_rtx(options: onnxruntime.SessionOptions) -> str:
    """Load the plugin for TensorRT-RTX, and have a session use its devices; the provider's name.

    Raises:
        DeviceMissingError: the plugin is not installed, does not load, or sees no GPU.
    """
    if importlib.util.find_spec(_PLUGIN) is None or not hasattr(options, "add_provider_for_devices"):
        raise DeviceMissingError(
            f"device {_RTX!r} needs NVIDIA's plugin and onnxruntime 1.24 or later, not onnxruntime-gpu; "
            f"pip install 'anomaly[{_RTX}]', or use device=cpu"
        )
    try:
        plugin = importlib.import_module(_PLUGIN)
        name = str(plugin.get_ep_name())
        # A library may be registered once in a process.
        if not any(one.ep_name == name for one in onnxruntime.get_ep_devices()):
            onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
        devices = [one for one in onnxruntime.get_ep_devices() if one.ep_name == name]
    except Exception as error:  # its classes share no root of their own
        raise DeviceMissingError(
            f"NVIDIA's plugin for TensorRT-RTX does not load: {reason(error)}; update the GPU's driver, or use device=cpu"
        ) from error
    if not devices:
        raise DeviceMissingError(f"{name} sees no NVIDIA RTX GPU on this machine; use device=cpu")
    options.add_provider_for_devices(devices[:1], {})
    return name


def _settings(provider: str, precision: str) -> dict[str, str]:
    """Options of a provider: nothing is computed in another precision than the graph's."""
    if provider == "CUDAExecutionProvider":
        return {"use_tf32": "0"}
    if provider != "TensorrtExecutionProvider":
        return {}
    folder = str(cache_folder())
    return {
        "trt_fp16_enable": str(int(precision == "fp16")),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }
