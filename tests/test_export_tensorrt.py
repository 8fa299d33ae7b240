"""What is asked of TensorRT and CUDA, held against a stand-in: neither runs without an NVIDIA GPU, and none is at hand.

The stand-in has the documented names and answers of both interfaces, and computes nothing; that engines build, load
and answer as they should only a GPU can tell.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from export import open_graph
from export.errors import DeviceMissingError, EngineError, MemoryShortError, UnsupportedError
from export.tensorrt import TensorRtGraph

INPUTS = {"frames": (-1, 8, 10, 3), "bank": (-1, 4), "half_norms": (-1,)}


class Machine:
    """What the stand-in was asked, and what it answers.

    Attributes:
        profile: (least, usual, most) shape by input.
        refuse: names of what fails.
        builds: how many engines were built.
        gpu: what CUDA says of it.
        freed: addresses given back, and streams.
    """

    def __init__(self) -> None:
        self.profile: dict[str, tuple[Any, ...]] = {}
        self.refuse: set[str] = set()
        self.builds = 0
        self.gpu = SimpleNamespace(name=b"NVIDIA L4\0", major=8, minor=9)
        self.freed: list[Any] = []
        self._memory: list[Any] = []

    def does(self, what: str) -> bool:
        return what not in self.refuse

    def tensorrt(self) -> ModuleType:
        made: Any = ModuleType("tensorrt")
        made.__version__ = "11.4.0"
        made.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
        made.NetworkDefinitionCreationFlag = SimpleNamespace()
        made.BuilderFlag = SimpleNamespace(TF32=7)
        made.TensorIOMode = SimpleNamespace(INPUT=0, OUTPUT=1)
        made.nptype = lambda kind: kind
        tensors = [SimpleNamespace(name=name, shape=shape) for name, shape in INPUTS.items()]
        network = SimpleNamespace(num_inputs=len(tensors), get_input=lambda index: tensors[index])
        timings = SimpleNamespace(serialize=lambda: b"timings")

        def build(_network: Any, _config: Any) -> bytes | None:
            self.builds += 1
            return b"plan" if self.does("build") else None

        config = SimpleNamespace(
            clear_flag=lambda flag: None,
            create_timing_cache=lambda data: timings,
            set_timing_cache=lambda cache, ignore_mismatch: True,
            get_timing_cache=lambda: timings if self.does("timings") else None,
            add_optimization_profile=lambda profile: 0 if self.does("profile") else -1,
        )
        profile = SimpleNamespace(set_shape=lambda name, *shapes: self.profile.update({name: shapes}))
        made.Builder = lambda logger: SimpleNamespace(
            create_network=lambda flags: network,
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: profile,
            build_serialized_network=build,
        )
        made.OnnxParser = lambda network, logger: SimpleNamespace(parse=lambda model: True, num_errors=0)
        names = [*INPUTS, "score"]
        context = SimpleNamespace(
            set_input_shape=lambda name, shape: self.does("shape"),
            set_tensor_address=lambda name, place: self.does("address"),
            get_tensor_shape=lambda name: (1,),
            execute_async_v3=lambda stream: True,
        )
        engine = SimpleNamespace(
            device_memory_size_v2=3 * 2**20,
            num_io_tensors=len(names),
            get_tensor_name=lambda index: names[index],
            get_tensor_mode=lambda name: int(name == "score"),
            get_tensor_dtype=lambda name: np.float32,
            create_execution_context=lambda: context if self.does("context") else None,
        )
        made.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
        return made  # type: ignore[no-any-return]

    def cuda(self) -> ModuleType:
        made: Any = ModuleType("cuda.bindings.runtime")

        def malloc(size: int) -> tuple[int, int]:
            self._memory.append(ctypes.create_string_buffer(size))
            return 0, ctypes.addressof(self._memory[-1])

        def move(to: int, what: int, size: int, kind: int, stream: int) -> tuple[int]:
            ctypes.memmove(to, what, size)
            return (0,)

        made.cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
        made.cudaGetDeviceCount = lambda: (0, 1)
        made.cudaGetDeviceProperties = lambda index: (0, self.gpu)
        made.cudaDriverGetVersion = lambda: (0, 13000)
        made.cudaStreamCreate = lambda: (0, 0)
        made.cudaStreamSynchronize = lambda stream: (0,)
        made.cudaMalloc, made.cudaMemcpyAsync = malloc, move
        made.cudaFree = lambda place: (self.freed.append(place) or 0,)
        made.cudaStreamDestroy = lambda stream: (self.freed.append("stream") or 0,)
        return made  # type: ignore[no-any-return]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setenv("ANOMALY_CACHE", str(tmp_path / "cache"))
    bindings: Any = ModuleType("cuda.bindings")
    bindings.runtime = made.cuda()
    for name, module in (
        ("tensorrt", made.tensorrt()), ("cuda", ModuleType("cuda")), ("cuda.bindings", bindings),
        ("cuda.bindings.runtime", bindings.runtime),
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "whole.onnx").write_bytes(b"graph")
    return tmp_path / "whole.onnx"


def inputs() -> dict[str, Any]:
    return {name: np.zeros([2 if one < 0 else one for one in shape]) for name, shape in INPUTS.items()}


def test_an_engine_is_built_for_the_models_own_bank_and_kept(machine: Machine, path: Path):
    graph = TensorRtGraph(path, "fp16", (5, 20_000))
    assert machine.profile == {
        "frames": ((1, 8, 10, 3), (1, 8, 10, 3), (4, 8, 10, 3)),
        "bank": ((5, 4), (20_000, 4), (20_000, 4)),
        "half_norms": ((5,), (20_000,), (20_000,)),
    }
    assert graph.device == "NVIDIA L4, 8.9"
    assert graph.run(inputs())["score"].shape == (1,)
    TensorRtGraph(path, "fp16", (5, 20_000))
    assert machine.builds == 1
    TensorRtGraph(path, "fp16", (5, 30_000))
    assert machine.builds == 2, "an engine has memory for as many rows as it was built for"


def test_a_device_that_is_not_tensorrts_is_refused(
    machine: Machine, path: Path, monkeypatch: pytest.MonkeyPatch
):
    """device=cpu ran on the GPU, and cuda:1 on the first one."""
    monkeypatch.setattr("export.runtime.installed", lambda _: True)
    for device in ("cpu", "cuda:1", "gpu"):
        with pytest.raises(
            DeviceMissingError, match=f"device '{device}' is not tensorrt's, which runs on the first"
        ):
            open_graph("tensorrt", path, "fp16", device=device, rows=(2, 2))
    for device in ("auto", "cuda"):
        assert open_graph("tensorrt", path, "fp16", device=device, rows=(2, 2)).device == "NVIDIA L4, 8.9"


def test_without_timings_an_engine_is_built_all_the_same(machine: Machine, path: Path):
    machine.refuse = {"timings"}
    TensorRtGraph(path, "fp16", (5, 20_000))


def test_a_cache_that_cannot_be_written_keeps_no_camera_unwatched(
    machine: Machine, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        assert TensorRtGraph(path, "fp16", (5, 20_000)).run(inputs())["score"].shape == (1,)
    assert "the engine cache cannot be used" in caplog.text
    assert not list((tmp_path / "cache" / "engines").iterdir()), "nothing half written"
    TensorRtGraph(path, "fp16", (5, 20_000))
    assert machine.builds == 2
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ANOMALY_CACHE", str(tmp_path / "file" / "cache"))
    TensorRtGraph(path, "fp16", (5, 20_000))
    assert machine.builds == 3


def test_memory_of_the_gpu_is_given_back_with_the_graph(machine: Machine, path: Path):
    """As at each reload of a model."""
    graph = TensorRtGraph(path, "fp16", (5, 20_000))
    graph.run(inputs())
    del graph
    gc.collect()
    assert len(machine.freed) == len(INPUTS) + 2, "each input, the output, and the stream"


@pytest.mark.parametrize(
    ("refused", "error", "message"),
    [
        ("build", UnsupportedError, r"could not build an engine of whole\.onnx"),
        ("profile", UnsupportedError, "with 1 to 4 frames and 5 to 20000 rows"),
        ("context", MemoryShortError, r"needs 3 MiB of GPU memory"),
        ("shape", EngineError, "takes 1 to 4 frames and 5 to 20000 rows"),
        ("address", EngineError, "does not take the memory of"),
    ],
)
def test_what_tensorrt_refuses_is_told(
    machine: Machine, path: Path, refused: str, error: type[Exception], message: str
):
    machine.refuse = {refused}
    with pytest.raises(error, match=message):
        TensorRtGraph(path, "fp16", (5, 20_000)).run(inputs())


def test_fp8_is_refused_by_name_where_the_gpu_does_not_multiply_in_it(machine: Machine, path: Path):
    assert TensorRtGraph(path, "fp8").device == "NVIDIA L4, 8.9"
    machine.gpu = SimpleNamespace(name=b"NVIDIA A2\0", major=8, minor=6)
    with pytest.raises(
        UnsupportedError, match=r"capability 8\.9 or more.*NVIDIA A2, 8\.6; use precision int8"
    ):
        TensorRtGraph(path, "fp8")
    assert TensorRtGraph(path, "int8").device == "NVIDIA A2, 8.6"
