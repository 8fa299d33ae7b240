"""Exported graphs in a model folder: which there are, which one runs, and one in the network's place.

    graph/<runtime>-<precision>/export.json          signed: what it was made from, and every file's sha256
    graph/<runtime>-<precision>/<branch>.features.*  pictures to patch features; the bank is searched beside it
    graph/<runtime>-<precision>/<branch>.whole.*     camera bytes to score and heatmap, for one source size

A graph is read only after its sha256 was compared, and only if it was made from this very model. torch is not
needed for any of this.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.artifact import file_digest, read_signed
from anomaly.errors import CorruptModelError, ModelError, UsageError
from anomaly.resize import resize
from export import ENDINGS, PRECISIONS, check_runtime, installed, open_graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly.extractor import BackboneSpec
    from anomaly.types import ImageArray
    from export import Graph

FOLDER = "graph"
INDEX = "export.json"
TORCH = "torch-fp32"
#: Packages that bring a runtime.
_PACKAGES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
}
#: In the order in which `runtime=auto` looks, where torch is not installed.
_ORDER = ("openvino", "onnxruntime", "tensorrt")


@dataclass(frozen=True, eq=False)
class Export:
    """One export in a model folder, verified.

    Attributes:
        name: "<runtime>-<precision>", as in `thresholds/`.
        runtime, precision: as `export.open_graph` takes them.
        folder: `<model>/graph/<name>`.
        document: `export.json`.
    """

    name: str
    runtime: str
    precision: str
    folder: Path
    document: Mapping[str, Any]

    def file(self, branch: str, kind: str) -> Path | None:
        """The graph of a branch ("features" or "whole"), or None where it was not exported."""
        name = f"{branch}.{kind}{ENDINGS[self.runtime][0]}"
        return self.folder / name if name in self.document["files"] else None

    def installed_version(self) -> str:
        """Version of the runtime that is installed here."""
        return runtime_version(self.runtime)


@dataclass(frozen=True)
class Choice:
    """What runs a model: an export, or torch where `export` is None, and why."""

    export: Export | None
    reason: str

    @property
    def name(self) -> str:
        """As "<runtime>-<precision>"."""
        return TORCH if self.export is None else self.export.name


def runtime_version(runtime: str) -> str:
    """Version of a runtime that is installed here, by whichever package brought it."""
    for package in _PACKAGES[runtime]:
        with contextlib.suppress(PackageNotFoundError):
            return version(package)
    # A Jetson has its TensorRT from the system's packages, and builds of one's own bring no metadata either.
    return str(getattr(importlib.import_module(runtime), "__version__", "unknown"))


def exports(folder: Path) -> list[str]:
    """Names of the exports in a model folder, not yet verified."""
    place = folder / FOLDER
    found = [path.parent.name for path in place.glob(f"*/{INDEX}") if not path.parent.name.startswith(".")]
    return sorted(found, key=lambda name: (_rank(name), name))


def read_export(folder: Path, name: str, scoring_digest: str) -> Export:
    """Verify one export.

    Args:
        folder: the model folder.
        name: "<runtime>-<precision>".
        scoring_digest: of the model (`anomaly.artifact.scoring_digest`).

    Raises:
        ModelError: not there, or made from another model.
        CorruptModelError: a file missing or changed.
    """
    place = folder / FOLDER / name
    runtime, _, precision = name.partition("-")
    command = f"`python -m anomaly export --model {folder} --runtime {runtime} --precision {precision}`"
    if not (place / INDEX).is_file():
        there = ", ".join(exports(folder)) or "none"
        raise ModelError(f"{str(folder)!r} holds no export {name!r} (there: {there}); make it with {command}")
    again = f"export again with {command}"
    document = read_signed(place / INDEX, again)
    for file, digest in document["files"].items():
        path = place / file
        # A name in a signed list cannot lead out of the folder either.
        if path.parent != place or not path.is_file() or file_digest(path) != digest:
            raise CorruptModelError(f"{str(path)!r} is missing or was changed after it was exported; {again}")
    if document["scoring"] != scoring_digest:
        raise ModelError(f"{str(place)!r} was exported from another fit of this model; {again}")
    return Export(name, document["runtime"], document["precision"], place, document)


def choose(folder: Path, scoring_digest: str, runtime: str = "auto") -> Choice:
    """What runs a model.

    Args:
        folder: the model folder.
        scoring_digest: of the model.
        runtime: "auto", "torch", a runtime, or "<runtime>-<precision>". "auto" takes torch where it is installed,
            else an export: one with a threshold of its own before others, then OpenVINO before ONNX Runtime.
            A runtime's name takes its exports in the same order.

    Raises:
        UsageError: an unknown name.
        ModelError: no such export, or nothing at all that runs here.
        RuntimeMissingError: the runtime asked for is not installed.
    """
    torch_here = importlib.util.find_spec("torch") is not None
    if runtime in ("torch", TORCH) or (runtime == "auto" and torch_here):
        if not torch_here:
            raise ModelError(
                "runtime=torch: torch is not installed; use an exported graph, or an environment of its own with 'anomaly[train]'"
            )
        return Choice(None, "as asked for" if runtime != "auto" else "torch is installed")
    wanted, _, precision = runtime.partition("-")
    if runtime != "auto":
        if wanted not in PRECISIONS:
            raise UsageError(
                f"runtime={runtime!r} is not known; use auto, torch, {', '.join(PRECISIONS)}, or one with its "
                "precision, such as openvino-bf16"
            )
        check_runtime(wanted, precision or None)
    there = exports(folder)
    if precision:
        return Choice(read_export(folder, runtime, scoring_digest), "as asked for")
    usable = [
        name
        for name in there
        if (name.split("-")[0] == wanted if runtime != "auto" else installed(name.split("-")[0]))
    ]
    if not usable:
        what = "torch is not installed, and " if runtime == "auto" else ""
        raise ModelError(
            f"{what}{str(folder)!r} holds no export that runs here (there: {', '.join(there) or 'none'}); run "
            f"`python -m anomaly export --model {folder} --runtime {wanted if runtime != 'auto' else 'openvino'}` "
            "where torch is installed"
        )
    calibrated = [name for name in usable if (folder / "thresholds" / f"{name}.json").is_file()]
    name = (calibrated or usable)[0]
    why = "torch is not installed" if runtime == "auto" else "as asked for"
    return Choice(
        read_export(folder, name, scoring_digest),
        f"{why}; of {len(usable)} exports the first that {'is calibrated' if calibrated else 'runs here'}",
    )


class GraphBackbone:
    """An exported features graph in the place of a torch backbone: same interface, same patch features.

    Args:
        graph: the graph, loaded.
        spec: what the network in it is.
        input_size: (h, w) of its input.
        grid: (gh, gw).
    """

    #: The projection is inside the graph.
    projected = True
    #: Several frames together only fill the caches of a processor.
    batch = 1

    def __init__(
        self, graph: Graph, spec: BackboneSpec, input_size: tuple[int, int], grid: tuple[int, int]
    ) -> None:
        self.graph = graph
        self.spec = spec
        self.input_size = input_size
        self.grid = grid
        self.device = graph.device

    def extract(self, images: Sequence[ImageArray]) -> NDArray[np.float32]:
        """Projected patch features (N, gh * gw, d) float32 of frames (H, W, 3) uint8 RGB of any size."""
        resized = [resize(image, self.input_size) for image in images]
        pictures = np.stack(resized) if len(resized) > 1 else resized[0][None]
        patches = self.graph.run({"pictures": pictures})["patches"]
        return np.asarray(patches, np.float32)


def graph_backbone(
    export: Export,
    branch: str,
    spec: BackboneSpec,
    input_size: tuple[int, int],
    grid: tuple[int, int],
    device: str,
) -> GraphBackbone:
    """Open the features graph of a branch; raises what `export.open_graph` raises."""
    path = export.file(branch, "features")
    if path is None:
        raise CorruptModelError(f"{str(export.folder)!r} holds no graph of branch {branch!r}; export again")
    return GraphBackbone(
        open_graph(export.runtime, path, export.precision, device=device), spec, input_size, grid
    )


def _rank(name: str) -> tuple[int, int]:
    runtime, _, precision = name.partition("-")
    precisions = PRECISIONS.get(runtime, ())
    return (
        _ORDER.index(runtime) if runtime in _ORDER else len(_ORDER),
        precisions.index(precision) if precision in precisions else len(precisions),
    )
