"""TensorRT 10 and 11: a strongly typed engine, built on the machine that runs it and kept in the user's cache.

Precision is the types inside the graph (`export.onnx` writes layer norms and softmax in float32, `export.explicit` says
what is in int8 or fp8), so the builder is not free to choose. Written against NVIDIA's documented API. It was NOT run on hardware: no NVIDIA GPU was at hand.
"""

from __future__ import annotations

import hashlib
import logging
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from export.engine_cache import EngineFacts, read_engine, read_timings, write_engine, write_timings
from export.errors import DeviceMissingError, EngineError, MemoryShortError, UnsupportedError
from export.nvidia import driver_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from export.runtime import Arrays

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
#: Largest number of frames together, for which memory is set aside; with the search inside, each frame takes
#: patches * rows numbers of it.
_BATCH = 16
_BATCH_SEARCHED = 4
#: The first compute capability that multiplies in fp8.
_FP8_FROM = (8, 9)


class TensorRtGraph:
    """A graph as a TensorRT engine on the first GPU.

    Args:
        path: the `.onnx` file, typed for `precision`.
        precision: "fp16", "bf16" or "fp32"; "int8" or "fp8" of a graph by `export.explicit`.
        rows: of a whole graph, the least and the most rows of the bank that it will be run with; the engine is built
            for the most. None = a graph without a bank.

    Raises:
        DeviceMissingError: no NVIDIA GPU.
        UnsupportedError: no engine can be built of the graph, or not for this GPU.
        MemoryShortError: the GPU has not the memory to run it.
        EngineError: the engine does not load, or its cache is open to other users.
    """

    def __init__(self, path: Path, precision: str, rows: tuple[int, int] | None = None) -> None:
        import tensorrt
        from cuda.bindings import runtime as cuda

        self._cuda = cuda
        self._trt = tensorrt
        model = path.read_bytes()
        facts = _facts(cuda, tensorrt.__version__, precision, hashlib.sha256(model).hexdigest(), rows)
        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        plan = _kept(lambda: read_engine(facts))
        engine = None
        if plan is not None:
            engine = tensorrt.Runtime(logger).deserialize_cuda_engine(plan)
        if engine is None:  # none yet, or this version cannot read it
            plan = built = _build(tensorrt, logger, model, path.name, facts)
            _kept(lambda: write_engine(facts, built))
            engine = tensorrt.Runtime(logger).deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"tensorrt cannot load the engine it built of {path.name}; update the driver")
        self._engine = engine
        self._facts = facts
        self._context = engine.create_execution_context()
        if self._context is None:
            needed = getattr(engine, "device_memory_size_v2", 0)
            raise MemoryShortError(
                f"{path.name} needs {needed / 2**20:.0f} MiB of GPU memory to run, which is not free; stop what else "
                "runs on the GPU, or use a smaller bank"
            )
        self._stream = _checked(cuda, cuda.cudaStreamCreate(), "make a stream")
        self._names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._buffers: dict[str, tuple[int, int]] = {}
        # CUDA frees nothing by itself, and a model may be loaded anew for months.
        weakref.finalize(self, _release, cuda, self._stream, self._buffers)
        self.device = facts.gpu

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        """See `Graph.run`."""
        cuda, trt = self._cuda, self._trt
        copy = cuda.cudaMemcpyKind
        alive = []
        for name, value in inputs.items():
            array = np.ascontiguousarray(value)
            alive.append(array)  # until the stream is done with it
            if not self._context.set_input_shape(name, array.shape):
                facts = self._facts
                bank = f" and {facts.least_rows} to {facts.most_rows} rows" if facts.most_rows else ""
                raise EngineError(
                    f"input {name!r} of shape {array.shape} does not fit the engine, which takes 1 to {facts.batch} "
                    f"frames{bank}; give fewer frames at once, or export again"
                )
            place = self._buffer(name, array.nbytes)
            sent = cuda.cudaMemcpyAsync(
                place, array.ctypes.data, array.nbytes, copy.cudaMemcpyHostToDevice, self._stream
            )
            _checked(cuda, sent, "copy to the GPU")
        found: dict[str, NDArray[np.generic]] = {}
        for name in self._names:
            if self._engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                shape = tuple(self._context.get_tensor_shape(name))
                found[name] = np.empty(shape, trt.nptype(self._engine.get_tensor_dtype(name)))
                self._buffer(name, found[name].nbytes)
            if not self._context.set_tensor_address(name, self._buffers[name][0]):
                raise EngineError(f"tensorrt does not take the memory of {name!r}; export the model again")
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError("tensorrt could not run the engine; remove the engine cache and start again")
        for name, result in found.items():
            got = cuda.cudaMemcpyAsync(
                result.ctypes.data,
                self._buffers[name][0],
                result.nbytes,
                copy.cudaMemcpyDeviceToHost,
                self._stream,
            )
            _checked(cuda, got, "copy from the GPU")
        _checked(cuda, cuda.cudaStreamSynchronize(self._stream), "wait for the GPU")
        return found

    def _buffer(self, name: str, size: int) -> int:
        """GPU memory of at least that size, kept between runs."""
        place, room = self._buffers.get(name, (0, 0))
        if room < size:
            if room:
                _checked(self._cuda, self._cuda.cudaFree(place), "free memory")
            status, place = self._cuda.cudaMalloc(size)
            if int(status) != 0:
                raise MemoryShortError(
                    f"{name} needs {size / 2**20:.0f} MiB of GPU memory, which is not free; give fewer frames at once"
                )
            self._buffers[name] = (int(place), size)
        return self._buffers[name][0]


def _facts(cuda: Any, version: str, precision: str, graph: str, rows: tuple[int, int] | None) -> EngineFacts:
    status, count = cuda.cudaGetDeviceCount()
    if int(status) != 0 or count < 1:
        raise DeviceMissingError(
            "tensorrt needs an NVIDIA GPU and its driver, and sees none here; use runtime=openvino or onnxruntime"
        )
    about = _checked(cuda, cuda.cudaGetDeviceProperties(0), "ask for the GPU's name")
    gpu = f"{about.name.decode().rstrip(chr(0))}, {about.major}.{about.minor}"
    if precision == "fp8" and (about.major, about.minor) < _FP8_FROM:
        raise UnsupportedError(
            f"fp8 needs a GPU of compute capability {_FP8_FROM[0]}.{_FP8_FROM[1]} or more, Ada or Hopper, and this one is "
            f"{gpu}; use precision int8 or fp16"
        )
    # The same library may run under two drivers; the CUDA version that the driver brings is told everywhere.
    version_of_cuda = _checked(cuda, cuda.cudaDriverGetVersion(), "ask for the version")
    driver = f"CUDA {version_of_cuda} {driver_version()}".strip()
    least, most = rows or (0, 0)
    batch = _BATCH if rows is None else _BATCH_SEARCHED
    return EngineFacts(gpu, driver, version, precision, graph, batch, least, most)


def _build(tensorrt: Any, logger: Any, model: bytes, name: str, facts: EngineFacts) -> bytes:
    builder = tensorrt.Builder(logger)
    # From TensorRT 11 on networks are always strongly typed, and the flag may be gone.
    typed = getattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(model):
        problem = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise UnsupportedError(f"tensorrt cannot read {name}: {problem}; use runtime onnxruntime")
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    timings = config.create_timing_cache(_kept(lambda: read_timings(facts)) or b"")
    if timings is None or not config.set_timing_cache(timings, ignore_mismatch=False):
        # Of another version or device after all: only the time of measuring again is lost.
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        first, *rest = tuple(tensor.shape)
        if first != -1:
            continue
        least, usual, most = (facts.least_rows, facts.most_rows, facts.most_rows)
        if tensor.name in ("frames", "pictures"):
            least, usual, most = (1, 1, facts.batch)
        profile.set_shape(tensor.name, (least, *rest), (usual, *rest), (most, *rest))
    if config.add_optimization_profile(profile) < 0:
        raise UnsupportedError(
            f"tensorrt does not take {name} with 1 to {facts.batch} frames and {facts.least_rows} to "
            f"{facts.most_rows} rows; use runtime onnxruntime"
        )
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UnsupportedError(
            f"tensorrt could not build an engine of {name}, it says above why; use another precision, a smaller bank, "
            "or runtime onnxruntime"
        )
    measured = config.get_timing_cache()
    if measured is not None:
        _kept(lambda: write_timings(facts, bytes(measured.serialize())))
    return bytes(plan)


def _kept(act: Callable[[], T]) -> T | None:
    """What the cache of engines answers; None where its disk is full or may not be written: that costs the next start its time."""
    try:
        return act()
    except OSError as error:
        _LOG.warning(
            "the engine cache cannot be used (%s): the next start builds the engine again; free some room, or let "
            "ANOMALY_CACHE name a folder that can be written",
            error,
        )
        return None


def _release(cuda: Any, stream: Any, buffers: dict[str, tuple[int, int]]) -> None:
    for place, _ in buffers.values():
        cuda.cudaFree(place)
    cuda.cudaStreamDestroy(stream)


def _checked(cuda: Any, answer: Any, what: str) -> Any:
    """The value of a CUDA call, or an EngineError."""
    status, *values = answer
    if int(status) != 0:
        raise EngineError(f"CUDA could not {what}: {cuda.cudaGetErrorName(status)[1].decode()}; restart it")
    return values[0] if values else None
