"""A fitted model in memory, and its way into a model folder and back."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.artifact import read_description, save_folder, scoring_digest
from anomaly.backbone import Backbone, BackboneSpec
from anomaly.decider import DeciderConfig
from anomaly.detector import Branch, Detector
from anomaly.projection import Projection
from anomaly.regions import Regions
from anomaly.weights import StoredWeights, load_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_PACKAGES = ("anomaly", "torch", "timm", "faiss-gpu", "faiss-cpu", "numpy", "opencv-python-headless", "av")


@dataclass(frozen=True, eq=False)
class Model:
    """A model folder that was verified and loaded.

    Attributes:
        folder: where it lies.
        description: `model.json`.
        detector: its branches; not calibrated until a threshold is given (`Detector.with_decider`).
        scoring_digest: identity of all that raw scores hang on.
    """

    folder: Path
    description: Mapping[str, Any]
    detector: Detector
    scoring_digest: str


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
) -> None:
    """Write a fitted detector as a model folder.

    Args:
        folder: where.
        detector: with one branch that has a backbone.
        weights: what is known of the backbone's weights.
        holdout: arrays for `scores.npz`.
        facts: what else `model.json` should say (JSON-able): name, footage, seed, fit figures.
    """
    import io

    from safetensors.numpy import save

    files: dict[str, bytes] = {}
    branches = []
    for branch in detector.branches:
        bank = branch.bank
        files[f"banks/{branch.name}.safetensors"] = save(bank.to_tensors())
        branches.append(
            {
                "name": branch.name,
                "backbone": asdict(branch.backbone.spec),
                "weights": asdict(weights),
                "input_size": list(branch.backbone.input_size),
                "grid": list(branch.backbone.grid),
                "projection": {"dims": branch.projection.dim, "explained": branch.projection.explained},
                "bank": {
                    "rows": len(bank),
                    "metric": bank.metric,
                    "place_weight": bank.place_weight,
                    "sources": list(bank.sources),
                    "cameras": list(bank.cameras),
                    "digest": bank.digest(),
                },
                "scale": branch.scale,
                "top_share": branch.top_share,
            }
        )
        projection = {"mean": branch.projection.mean, "components": branch.projection.components}
        files["projection.safetensors"] = save(
            {name: np.ascontiguousarray(value) for name, value in projection.items()}
        )
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(holdout))  # type: ignore[arg-type]
    files["scores.npz"] = buffer.getvalue()
    description = {
        **facts,
        "software": software(),
        "branches": branches,
        "regions": detector.regions.to_json(),
        "decider": asdict(detector.decider.config),
    }
    save_folder(folder, files, description)


def load_model(folder: Path, *, device: str = "auto", offline: bool = False) -> Model:
    """Verify a model folder and load it for scoring.

    Args:
        folder: the model folder.
        device: "cpu", "cuda", or "auto": the GPU where there is one.
        offline: do not ask the model hub for missing weights.

    Raises:
        ModelError: no model, a damaged one, or one of another schema.
        WeightsError: the weights it was fitted with are not to be had here.
    """
    from safetensors.numpy import load_file

    from memory_bank import MemoryBank

    description = read_description(folder)
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    branches = []
    tensors = load_file(folder / "projection.safetensors")
    for entry in description["branches"]:
        spec = BackboneSpec(**{key: _frozen(value) for key, value in entry["backbone"].items()})
        weights, _ = load_weights(spec.name, digest=entry["weights"]["digest"], offline=offline)
        bank = MemoryBank.from_tensors(
            load_file(folder / "banks" / f"{entry['name']}.safetensors"),
            entry["bank"]["metric"],
            entry["bank"]["sources"],
            entry["bank"]["cameras"],
            entry["bank"]["place_weight"],
        )
        branches.append(
            Branch(
                name=entry["name"],
                backbone=Backbone(spec, weights, (entry["input_size"][0], entry["input_size"][1]), device),
                projection=Projection(
                    tensors["mean"], tensors["components"], entry["projection"]["explained"]
                ),
                bank=bank,
                scale=entry["scale"],
                top_share=entry["top_share"],
            )
        )
    detector = Detector(
        branches, Regions.from_json(description["regions"]), DeciderConfig(**description["decider"])
    )
    return Model(folder, description, detector, scoring_digest(description))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
