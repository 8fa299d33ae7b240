"""Graphs of a small branch give the answers that plain numpy gives, in every runtime that is installed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from small_model import environment

from anomaly.exported import runtime_version
from anomaly.extractor import patch_places
from anomaly.heatmap import anomaly_map, frame_score, top_count
from anomaly.resize import resize, resize_matrix
from export import (
    DeviceMissingError,
    MemoryShortError,
    RuntimeMissingError,
    UnsupportedError,
    bank_inputs,
    check_room,
    compare,
    open_graph,
    parting,
    search_bytes,
)
from export.onnx import BranchParts, ResizeMatrices, features_graph, stage_names, whole_graph
from export.openvino import convert
from memory_bank import MemoryBank, Origins, largest_reweighted

GRID, SIZE, SOURCE = (4, 6), (32, 48), (40, 50)
CHANNELS, DIMS = 10, 7


class Network(torch.nn.Module):
    """Two convolutions in the place of a backbone, with timm's way of asking for maps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.one = torch.nn.Conv2d(3, 6, 8, 8)
        self.two = torch.nn.Conv2d(6, CHANNELS, 3, 1, 1)

    def forward_intermediates(self, pictures: torch.Tensor, **options: Any) -> list[torch.Tensor]:
        return [self.two(torch.relu(self.one(pictures)))]


class Features(torch.nn.Module):
    """Shaped as `export.onnx.BranchParts` wants its features."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.stages(pictures)["features"]

    def stages(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        (found,) = self.network.forward_intermediates((pictures.permute(0, 3, 1, 2) - 128.0) / 64.0)
        return {"layer 1": found, "features": found.flatten(2).transpose(1, 2)}


def parts(metric: str = "euclidean", network: torch.nn.Module | None = None) -> BranchParts:
    generator = np.random.default_rng(1)
    counts = np.ones(GRID[0] * GRID[1], bool)
    counts[:3] = counts[11] = False
    return BranchParts(
        Features(network or Network()).eval(),
        generator.standard_normal(CHANNELS).astype(np.float32),
        generator.standard_normal((CHANNELS, DIMS)).astype(np.float32),
        metric,
        2.5,
        0.1,
        counts,
        GRID,
        SIZE,
    )


def matrices() -> ResizeMatrices:
    return ResizeMatrices(
        resize_matrix(SOURCE[0], SIZE[0]),
        resize_matrix(SOURCE[1], SIZE[1]),
        resize_matrix(GRID[0], SOURCE[0]),
        resize_matrix(GRID[1], SOURCE[1]),
    )


def frames(count: int) -> np.ndarray:
    coarse = np.random.default_rng(5).integers(0, 256, (count, 8, 10, 3))
    return np.kron(coarse, np.ones((1, 5, 5, 1))).astype(np.uint8)


def patches_of(one: BranchParts, images: np.ndarray) -> np.ndarray:
    pictures = np.stack([resize(image, SIZE) for image in images])
    with torch.no_grad():
        features = one.features(torch.from_numpy(pictures)).numpy()
    return np.asarray((features - one.mean) @ one.components)


def bank(metric: str, rows: int, near: np.ndarray) -> MemoryBank:
    generator = np.random.default_rng(rows)
    kept = near.reshape(-1, DIMS)[:rows] + 0.2 * generator.standard_normal((rows, DIMS))
    origins = Origins(**{name: np.zeros(rows, dtype) for name, dtype in Origins.DTYPES.items()})
    return MemoryBank(kept.astype(np.float32), origins, metric, ["normal.mp4"])


def written(data: bytes, folder: Path, runtime: str, name: str) -> Path:
    if runtime == "openvino":
        return convert(data, folder, name)[0]
    path = folder / f"{name}.onnx"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_whole_graph_answers_as_the_host_does(metric: str, tmp_path: Path):
    one = parts(metric)
    data = whole_graph(one, matrices())
    for runtime in ("onnxruntime", "openvino"):
        graph = open_graph(runtime, written(data, tmp_path, runtime, "whole"), "fp32", threads=1)
        # Batches and banks of other sizes through the same graph: nothing is built anew.
        for count, rows in ((1, 60), (3, 17)):
            images = frames(count)
            patches = patches_of(one, images)
            memory = bank(metric, rows, patches_of(one, frames(3)))
            distances, nearest = memory.search(patches.reshape(-1, DIMS))
            wanted = (distances[:, 0] / 2.5).reshape(count, -1) * one.counts
            found = graph.run({"frames": images, **bank_inputs(memory.working)})
            np.testing.assert_allclose(found["distances"], wanted, rtol=1e-4, atol=1e-5)
            assert (found["nearest"] == nearest.reshape(count, -1)).mean() > 0.99
            scores = [frame_score(row, one.top_share, one.counts) for row in wanted]
            np.testing.assert_allclose(found["score"], scores, rtol=1e-4)
            heatmaps = [anomaly_map(row, GRID, SOURCE, one.counts) for row in wanted]
            np.testing.assert_allclose(found["heatmap"], heatmaps, rtol=1e-3, atol=1e-4)


def test_half_precision_finds_the_rows_of_a_bank_far_from_zero(tmp_path: Path):
    # Rows longer than 362: half of their squared length is more than half precision can hold.
    one = parts()
    one = replace(one, mean=one.mean - 400.0)
    images = frames(3)
    patches = patches_of(one, images)
    memory = bank("euclidean", 60, patches)
    assert np.linalg.norm(memory.working, axis=1).min() > 362
    wanted = memory.search(patches.reshape(-1, DIMS))[0][:, 0].reshape(3, -1) / 2.5 * one.counts
    data = whole_graph(one, matrices(), "fp16")
    graph = open_graph("onnxruntime", written(data, tmp_path, "onnxruntime", "whole"), "fp16", threads=1)
    found = graph.run({"frames": images, **bank_inputs(memory.working)})
    assert np.abs(found["distances"] - wanted).max() < 0.05 * wanted.max()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_bytes_lead_straight_into_a_cast_as_tensorrt_wants_them(precision: Any):
    from onnx import TensorProto, load_from_string

    graph = load_from_string(whole_graph(parts(), matrices(), precision)).graph
    of_bytes = [one.name for one in graph.input if one.type.tensor_type.elem_type == TensorProto.UINT8]
    assert of_bytes == ["frames"]
    assert {node.op_type for node in graph.node if of_bytes[0] in node.input} == {"Cast"}


def test_the_features_graph_answers_as_torch_and_names_its_steps(tmp_path: Path):
    one = parts()
    images = frames(2)
    pictures = np.stack([resize(image, SIZE) for image in images])
    wanted = patches_of(one, images)
    data = features_graph(one, stages=True)
    assert stage_names(one) == ["layer 1", "features", "patches"]
    for runtime in ("onnxruntime", "openvino"):
        graph = open_graph(runtime, written(data, tmp_path, runtime, "stages"), "fp32", threads=1)
        outputs = list(graph.run({"pictures": pictures}).values())
        np.testing.assert_allclose(outputs[-1], wanted, rtol=1e-4, atol=1e-4)
    half = open_graph(
        "onnxruntime", written(features_graph(one, "fp16"), tmp_path, "onnxruntime", "half"), "fp16"
    )
    found = half.run({"pictures": pictures})["patches"]
    assert found.dtype == np.float32
    off = np.abs(found - wanted).max()
    assert 0 < off < 0.02 * np.abs(wanted).max()


def test_the_step_where_two_runs_part_is_named():
    reference = {"a": np.ones(4), "b": np.ones(4), "c": np.ones(4)}
    assert parting(reference, reference, 1e-6) is None
    name, off = parting(reference, {**reference, "b": np.ones(4) * 1.1, "c": np.zeros(4)}, 1e-3) or ("", 0.0)
    assert name == "b"
    assert off == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("found", "holds"), [([1.0, 2.0], True), ([1.0, 2.1], False), ([1.0, float("nan")], False)]
)
def test_a_score_beyond_the_tolerance_does_not_pass(found: list[float], holds: bool):
    maps = np.ones((2, 3))
    assert compare([1.0, 2.0], found, maps, maps, tolerance=1e-2).holds == holds


def test_only_labels_clear_of_the_threshold_can_flip():
    maps = np.ones((2, 3))
    parity = compare([1.0, 2.0], [1.004, 1.996], maps, maps, tolerance=1e-2, threshold=1.002)
    assert parity.flipped == 0
    assert compare([1.0, 2.0], [1.6, 2.0], maps, maps, tolerance=1e-2, threshold=1.5).flipped == 1


class Eigen(Network):
    """A network with an operator that ONNX does not have."""

    def forward_intermediates(self, pictures: torch.Tensor, **options: Any) -> list[torch.Tensor]:
        (found,) = super().forward_intermediates(pictures)
        return [found + torch.linalg.eigvals(found[:, :, :, :4]).real.sum()]


def test_an_operator_that_cannot_be_exported_is_named():
    with pytest.raises(UnsupportedError, match="eig"):
        features_graph(parts(network=Eigen()))


def test_a_graph_with_an_unknown_operator_is_refused_in_one_line(tmp_path: Path):
    from onnx import TensorProto, helper, save

    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("Imaginary", ["x"], ["y"], domain="nowhere")
    model = helper.make_model(
        helper.make_graph([node], "g", [shape], [result]),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("nowhere", 1)],
    )
    save(model, tmp_path / "odd.onnx")
    for runtime in ("onnxruntime", "openvino"):
        with pytest.raises(UnsupportedError, match="Imaginary"):
            open_graph(runtime, tmp_path / "odd.onnx", "fp32")


def test_weights_outside_the_folder_are_never_read(tmp_path: Path):
    from onnx import TensorProto, helper, save

    (tmp_path / "secret").write_bytes(np.ones(4, np.float32).tobytes())
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [shape], [result], [weight])
    inside = tmp_path / "graph"
    inside.mkdir()
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), inside / "g.onnx"
    )
    for runtime in ("onnxruntime", "openvino"):
        with pytest.raises(UnsupportedError):
            open_graph(runtime, inside / "g.onnx", "fp32")


def test_what_is_not_there_is_said_in_one_line(tmp_path: Path):
    path = tmp_path / "any.onnx"
    with pytest.raises(RuntimeMissingError, match=r"tensorrt is not installed; pip install"):
        open_graph("tensorrt", path, "fp16")
    with pytest.raises(DeviceMissingError, match="CUDAExecutionProvider"):
        open_graph("onnxruntime", path, "fp32", device="cuda")
    with pytest.raises(DeviceMissingError, match=r"onnxruntime-gpu; pip install 'anomaly\[tensorrt-rtx\]'"):
        open_graph("onnxruntime", path, "fp32", device="tensorrt-rtx")
    for device in ("tensorrt", "tensorrt-rtx"):
        with pytest.raises(
            UnsupportedError, match=f"{device}' takes symmetric .* --runtime tensorrt --precision int8"
        ):
            open_graph("onnxruntime", path, "int8", device=device)
    with pytest.raises(DeviceMissingError, match="npu"):
        open_graph("openvino", path, "fp32", device="npu")
    with pytest.raises(UnsupportedError, match="bf16"):
        open_graph("onnxruntime", path, "bf16")
    with pytest.raises(UnsupportedError, match="quantum"):
        open_graph("quantum", path, "fp32")


def test_openvinos_device_is_told_with_its_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What was found on a GPU or NPU holds for the driver that it had, and none is at hand: a stand-in tells it."""
    known = {"FULL_DEVICE_NAME": "Intel Arc", "SUPPORTED_PROPERTIES": {"GPU_DRIVER_VERSION": "RO"}}

    def core(driver: str) -> Any:
        answers = {**known, "GPU_DRIVER_VERSION": driver}
        compiled = SimpleNamespace(
            get_property=lambda _: openvino.Type.f32, create_infer_request=lambda: None, outputs=[]
        )
        return SimpleNamespace(
            available_devices=["CPU", "GPU.0", "GPU.1"], read_model=lambda _: None,
            compile_model=lambda *_: compiled, get_property=lambda _, name: answers[name],
        )  # fmt: skip

    for driver in ("25.18.33578", "25.40.35563"):
        monkeypatch.setattr("export.openvino._core", lambda driver=driver: core(driver))
        assert (
            open_graph("openvino", tmp_path / "g.xml", "fp32", device="gpu").device
            == f"Intel Arc, driver {driver}"
        )


_LET_GO_ELSEWHERE = """
import os, signal, sys, threading
from pathlib import Path
from export import open_graph
heard = []
signal.signal(signal.SIGHUP, lambda *_: heard.append("a signal"))
held = [open_graph("openvino", Path(sys.argv[1]), "fp32")]
for _ in range(2):
    fresh = threading.Thread(target=lambda: held.append(open_graph("openvino", Path(sys.argv[1]), "fp32")))
    fresh.start()
    fresh.join()
    gone = threading.Thread(target=lambda: held.pop(0))
    gone.start()
    gone.join()
    os.kill(os.getpid(), signal.SIGHUP)
print(len(heard))
"""


def test_a_signal_ends_no_process_whose_graph_was_replaced(tmp_path: Path):
    """OpenVINO takes back the stack that it gave signal handlers, with whichever thread lets its graph go."""
    xml = convert(features_graph(parts()), tmp_path, "features")[0]
    done = subprocess.run(
        [sys.executable, "-c", _LET_GO_ELSEWHERE, str(xml)], capture_output=True, text=True, check=False,
        env=environment(), timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr


def test_too_little_memory_is_told_with_how_much():
    needed = search_bytes(frames=64, patches=5400, rows=50_000_000)
    with pytest.raises(
        MemoryShortError, match=r"search of 64 frames needs \d+\.\d GiB of memory, .* GiB is free"
    ):
        check_room(needed, "the search of 64 frames")
    check_room(1, "nothing")


@pytest.mark.parametrize("package", ["onnxruntime", "onnxruntime-gpu"])
def test_a_runtimes_version_is_that_of_whichever_package_brought_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import onnxruntime

    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert runtime_version("onnxruntime") == onnxruntime.__version__, "as on a Jetson: no package at all"
    about = tmp_path / f"{package.replace('-', '_')}-9.8.7.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 9.8.7\n")
    assert runtime_version("onnxruntime") == "9.8.7"


def test_a_full_disk_is_told_and_no_graph_blamed_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = features_graph(parts())

    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")  # what OpenVINO tells of it

    monkeypatch.setattr("openvino.save_model", full)
    with pytest.raises(UnsupportedError, match="iostream error"):
        convert(data, tmp_path, "features")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(OSError, match="No space left") as caught:
        convert(data, tmp_path, "features")
    assert caught.value.filename == str(tmp_path)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("place_weight", "neighbours"), [(1.5, 0), (0.0, 5), (1.5, 5)])
def test_place_and_reweighting_are_in_the_graph(
    metric: str, place_weight: float, neighbours: int, tmp_path: Path
):
    y, x = patch_places(GRID)
    places = np.stack([y, x], 1) * np.float32(place_weight) if place_weight else None
    one = replace(parts(metric), places=places, neighbours=neighbours, top_share=0.2)
    data = whole_graph(one, matrices())
    for runtime in ("onnxruntime", "openvino"):
        graph = open_graph(runtime, written(data, tmp_path, runtime, "whole"), "fp32", threads=1)
        for count, rows in ((1, 60), (3, 17)):
            images = frames(count)
            plain = bank(metric, rows, patches_of(one, frames(3)))
            spread = replace(plain.origins, y=np.resize(y, rows), x=np.resize(x, rows))
            memory = plain.replace(origins=spread, place_weight=place_weight)
            found = graph.run({"frames": images, **bank_inputs(memory.working)})
            for patches, score, distances in zip(
                patches_of(one, images), found["score"], found["distances"], strict=True
            ):
                own = {"y": y[one.counts], "x": x[one.counts]}
                wanted, nearest = memory.search(patches[one.counts], **own)
                np.testing.assert_allclose(distances[one.counts], wanted[:, 0] / 2.5, rtol=1e-4, atol=1e-5)
                top = top_count(int(one.counts.sum()), one.top_share)
                largest = np.sort(wanted[:, 0])[-top:]
                if neighbours:
                    largest = largest_reweighted(
                        memory, patches[one.counts], wanted[:, 0], nearest[:, 0], top, neighbours, **own
                    )
                    assert largest.mean() < 0.99 * np.sort(wanted[:, 0])[-top:].mean()
                np.testing.assert_allclose(score, largest.mean() / 2.5, rtol=1e-4)
