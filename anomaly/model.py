"""A fitted model in memory, and its way into a model folder and back."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from anomaly.artifact import (
    LOOKS,
    added_files,
    archive_bytes,
    read_description,
    save_folder,
    scoring_digest,
)
from anomaly.decider import DeciderConfig
from anomaly.detector import Branch, Detector
from anomaly.exported import choose, graph_backbone
from anomaly.extractor import BackboneSpec
from anomaly.projection import Projection
from anomaly.regions import Regions
from anomaly.weights import StoredWeights, load_weights
from memory_bank import MemoryBank

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from anomaly.exported import Choice
    from anomaly.extractor import Extractor

_PACKAGES = ("anomaly", "torch", "timm", "faiss-gpu", "faiss-cpu", "numpy", "opencv-python-headless", "av")


@dataclass(frozen=True, eq=False)
class Model:
    """A model folder that was verified and loaded.

    Attributes:
        folder: where it lies.
        description: `model.json`.
        detector: its branches; not calibrated until a threshold is given (`Detector.with_decider`).
        scoring_digest: identity of all that raw scores hang on.
        choice: what computes the patch features, and why.
    """

    folder: Path
    description: Mapping[str, Any]
    detector: Detector
    scoring_digest: str
    choice: Choice

    @property
    def runtime(self) -> str:
        """As "<runtime>-<precision>", as in `thresholds/`."""
        return self.choice.name

    @property
    def device(self) -> str:
        """What it runs on, in the runtime's words."""
        return str(self.detector.branches[0].backbone.device)

    def headline(self) -> str:
        """One line: what runs, on what, and why."""
        return f"Runtime {self.runtime} on {self.device} ({self.choice.reason})."


def software() -> dict[str, str]:
    """Versions of what features and banks depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def save_model(
    folder: Path,
    detector: Detector,
    weights: StoredWeights,
    holdout: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    exemplars: Mapping[str, bytes] | None = None,
) -> None:
    """Write a fitted detector as a model folder.

    Of a model that it replaces only the looks are kept: the labelled clips are the same ones.

    Args:
        folder: where.
        detector: with one branch that has a backbone.
        weights: what is known of the backbone's weights.
        holdout: arrays for `scores.npz`.
        facts: what else `model.json` should say (JSON-able): name, footage, seed, fit figures.
        exemplars: files from `make_exemplars`.
    """
    from safetensors.numpy import save

    files: dict[str, bytes] = dict(exemplars or {})
    branches = []
    for branch in detector.branches:
        bank = branch.bank
        files.update(bank_file(branch.name, bank))
        branches.append(
            {
                "name": branch.name,
                "backbone": asdict(branch.backbone.spec),
                "weights": asdict(weights),
                "input_size": list(branch.backbone.input_size),
                "grid": list(branch.backbone.grid),
                "projection": {"dims": branch.projection.dim, "explained": branch.projection.explained},
                "bank": bank_entry(bank),
                "scale": branch.scale,
                "top_share": branch.top_share,
                "reweight": branch.reweight,
                "index": branch.index,
            }
        )
        files["projection.safetensors"] = save(branch.projection.to_tensors())
    files["scores.npz"] = archive_bytes(holdout)
    description = {
        **facts,
        "software": software(),
        "branches": branches,
        "regions": detector.regions.to_json(),
        "decider": asdict(detector.decider.config),
    }
    save_folder(folder, files, description, added_files(folder, (LOOKS,)))


def load_model(folder: Path, *, device: str = "auto", offline: bool = False, runtime: str = "auto") -> Model:
    """Verify a model folder and load it for scoring.

    Args:
        folder: the model folder.
        device: "cpu", "cuda", or "auto": torch takes the GPU where there is one, an export the processor, but
            TensorRT its GPU (see `export.open_graph` for the devices that it knows).
        offline: do not ask the model hub for missing weights.
        runtime: "auto", "torch", or an exported graph (see `anomaly.exported.choose`).

    Raises:
        ModelError: no model, a damaged one, or one of another schema.
        WeightsError: the weights it was fitted with are not to be had here.
        ExportError: the runtime or the device is not there, or cannot run the graph.
    """
    description = read_description(folder)
    digest = scoring_digest(description)
    choice = choose(folder, digest, runtime)
    branches = []
    for entry in description["branches"]:
        spec = spec_of(entry)
        size, grid = (entry["input_size"][0], entry["input_size"][1]), (entry["grid"][0], entry["grid"][1])
        backbone: Extractor
        if choice.export is None:
            backbone = _torch_backbone(spec, entry["weights"]["digest"], size, device, offline)
        else:
            backbone = graph_backbone(choice.export, entry["name"], spec, size, grid, device)
        bank = load_bank(folder, entry)
        branches.append(
            Branch(
                name=entry["name"],
                backbone=backbone,
                projection=load_projection(folder, entry),
                bank=bank,
                scale=entry["scale"],
                top_share=entry["top_share"],
                # Models of before there was a choice.
                reweight=entry.get("reweight", 0),
                index=entry.get("index", "flat"),
            )
        )
    detector = Detector(
        branches, Regions.from_json(description["regions"]), DeciderConfig(**description["decider"])
    )
    return Model(folder, description, detector, digest, choice)


def spec_of(branch: Mapping[str, Any]) -> BackboneSpec:
    """The backbone of a branch's entry in `model.json`."""
    return BackboneSpec(**{key: _frozen(value) for key, value in branch["backbone"].items()})


def load_projection(folder: Path, branch: Mapping[str, Any]) -> Projection:
    """The projection of a verified model folder; `branch` is its entry in `model.json`."""
    from safetensors.numpy import load_file

    return Projection.from_tensors(
        load_file(folder / "projection.safetensors"), branch["projection"]["explained"]
    )


def bank_entry(bank: MemoryBank) -> dict[str, Any]:
    """What `model.json` says of a bank besides its file."""
    return {
        "rows": len(bank),
        "metric": bank.metric,
        "place_weight": bank.place_weight,
        "sources": list(bank.sources),
        "cameras": list(bank.cameras),
        "digest": bank.digest(),
    }


def bank_file(branch: str, bank: MemoryBank) -> dict[str, bytes]:
    """The file of a branch's bank in a model folder: relative path to contents."""
    from safetensors.numpy import save

    return {f"banks/{branch}.safetensors": save(bank.to_tensors())}


def load_bank(folder: Path, branch: Mapping[str, Any]) -> MemoryBank:
    """The bank of a verified model folder; `branch` is its entry in `model.json`."""
    from safetensors.numpy import load_file

    entry = branch["bank"]
    return MemoryBank.from_tensors(
        load_file(folder / "banks" / f"{branch['name']}.safetensors"),
        entry["metric"],
        entry["sources"],
        entry["cameras"],
        entry["place_weight"],
    )


def _torch_backbone(
    spec: BackboneSpec, digest: str, size: tuple[int, int], device: str, offline: bool
) -> Extractor:
    import torch

    from anomaly.backbone import Backbone

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    weights, _ = load_weights(spec.name, digest=digest, offline=offline)
    return Backbone(spec, weights, size, device)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
