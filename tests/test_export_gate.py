"""The gate in front of an export: a graph that answers otherwise does not pass, in whichever of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_export_graph import GRID, SIZE, SOURCE, bank, frames, matrices, parts, patches_of

from anomaly.decider import DeciderConfig
from anomaly.detector import Branch, Detector
from anomaly.errors import ModelError
from anomaly.gate import gate_whole
from anomaly.regions import Regions
from export import Graph, open_graph
from export.onnx import BranchParts, whole_graph


@dataclass
class Network:
    """The small branch's network where a backbone stands."""

    parts: BranchParts
    projected = True
    batch = 1
    grid = GRID
    input_size = SIZE
    device = "cpu"
    spec = None

    def extract(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return patches_of(self.parts, np.stack(images)).astype(np.float32)


@dataclass
class Altered:
    """A graph, one of whose outputs comes out otherwise."""

    graph: Graph
    name: str
    change: Callable[[np.ndarray], np.ndarray]
    device = "cpu"

    def run(self, inputs: Any) -> dict[str, Any]:
        found = self.graph.run(inputs)
        return {**found, self.name: self.change(found[self.name])}


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_every_output_of_a_whole_graph_is_looked_at(metric: str, tmp_path: Path):
    one = replace(parts(metric), counts=np.ones(GRID[0] * GRID[1], bool))
    images = list(frames(3))
    memory = bank(metric, 60, patches_of(one, np.stack(images)))
    branch = Branch("appearance", Network(one), None, memory, one.scale, one.top_share)  # type: ignore[arg-type]
    detector = Detector([branch], Regions(), DeciderConfig())
    model: Any = SimpleNamespace(detector=detector, folder=tmp_path)
    path = tmp_path / "whole.onnx"
    path.write_bytes(whole_graph(one, matrices()))
    graph = open_graph("onnxruntime", path, "fp32", threads=1)
    assert gate_whole(model, branch, graph, images, None, SOURCE, 1e-3).heatmap < 1e-3
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "heatmap": lambda found: found[:, ::-1],
        "nearest": lambda found: (found + 1) % 60,
        "distances": lambda found: found * 1.1,
        "score": lambda found: found * 1.01,
    }
    for name, change in changes.items():
        with pytest.raises(ModelError, match=f"off are {name} by"):
            gate_whole(model, branch, Altered(graph, name, change), images, None, SOURCE, 1e-3)
    with pytest.raises(ModelError, match="off are nearest by inf"):
        gate_whole(
            model, branch, Altered(graph, "nearest", lambda found: found + 60), images, None, SOURCE, 1e-3
        )
