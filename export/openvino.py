"""OpenVINO: conversion of a graph to its own format (IR), and running it.

`INFERENCE_PRECISION_HINT` is always given: left alone, a processor with AVX-512 or AMX would silently compute
in bfloat16.
"""

from __future__ import annotations

import errno
import os
import shutil
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from export.errors import DeviceMissingError, UnsupportedError
from export.runtime import reason

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from export.runtime import Arrays

# An int8 graph names its own int8 operations; what lies between them runs in float32.
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_TYPES = {"f32": openvino.Type.f32, "bf16": openvino.Type.bf16}


@cache
def _core() -> openvino.Core:
    """One for the process, never let go.

    Its CPU plugin gives the thread that loads it a stack for signal handlers, and takes that memory away where it is let go,
    in whichever thread: the next signal then ends the process.
    """
    return openvino.Core()


def convert(model: bytes, folder: Path, name: str) -> list[Path]:
    """Write an ONNX model as OpenVINO IR.

    Args:
        model: the ONNX model.
        folder: where `<name>.xml` and `<name>.bin` go.
        name: of the graph.

    Returns:
        The two files. Weights are kept in float32: precision is chosen when the graph is loaded.

    Raises:
        UnsupportedError: OpenVINO does not know an operator.
    """
    source = folder / f".{name}.onnx.partial"
    try:
        source.write_bytes(model)
        # Not `convert_model`: it reports its use over the network.
        converted = _core().read_model(source)
        openvino.save_model(converted, folder / f"{name}.xml", compress_to_fp16=False)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    except Exception as error:
        # It tells of a full disk as of an "iostream error"; the weights come to about as many bytes again.
        if shutil.disk_usage(folder).free < len(model):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise UnsupportedError(
            f"openvino cannot convert {name}: {reason(error)}; use runtime onnxruntime"
        ) from error
    finally:
        source.unlink(missing_ok=True)
    return [folder / f"{name}.xml", folder / f"{name}.bin"]


class OpenVinoGraph:
    """A graph in OpenVINO.

    Args:
        path: the `.xml` file, its `.bin` beside it.
        precision: "fp32", "bf16" or "int8".
        device: "cpu", "gpu" or "npu".
        threads: processor threads; None = one for each core.
    """

    def __init__(self, path: Path, precision: str, device: str = "cpu", threads: int | None = None) -> None:
        core = _core()
        name = device.upper()
        present = core.available_devices
        if name not in {one.split(".")[0] for one in present}:
            raise DeviceMissingError(
                f"device {device!r} is not there; openvino sees {', '.join(present)}, use device=cpu"
            )
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads and name == "CPU":
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            self._compiled = core.compile_model(core.read_model(path), name, settings)
        except Exception as error:
            raise UnsupportedError(
                f"openvino cannot load {path.name}: {reason(error)}; export the model again"
            ) from error
        pinned = self._compiled.get_property("INFERENCE_PRECISION_HINT")
        if pinned != _TYPES[_HINTS[precision]]:
            raise UnsupportedError(
                f"{name} computes in {pinned.get_type_name()}, not {_HINTS[precision]}; choose another precision"
            )
        self.device = str(core.get_property(name, "FULL_DEVICE_NAME"))
        # Answers of a GPU or NPU hang on its driver; the processor has none.
        told = f"{name}_DRIVER_VERSION"
        if told in core.get_property(name, "SUPPORTED_PROPERTIES"):
            self.device += f", driver {core.get_property(name, told)}"
        self._request = self._compiled.create_infer_request()
        self._outputs = [one.get_any_name() for one in self._compiled.outputs]

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        """See `Graph.run`."""
        self._request.infer(dict(inputs), share_inputs=True)
        # Copied: the request writes into the same memory the next time.
        return {
            name: np.array(self._request.get_output_tensor(index).data)
            for index, name in enumerate(self._outputs)
        }
