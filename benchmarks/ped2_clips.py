"""Ped2's clips as patch features, for the benchmarks: EfficientNet-Lite0 at 480 x 720, computed when asked for."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

DATA = Path(os.environ.get("ANOMALY_DATA") or ROOT.parent / "shared" / "data")


def ped2_features(part: str, every: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """For each clip its name, frame times (F,) seconds, and patch features (F, 1350, 152) float16."""
    import torch
    from omegaconf import OmegaConf

    from anomaly.backbone import Backbone, BackboneSpec
    from anomaly.footage.source import find_sources, read_frames
    from anomaly.weights import SOURCES, load_weights

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    file = ROOT / "configs" / "backbone" / "efficientnet_lite0.yaml"
    settings = OmegaConf.to_container(OmegaConf.load(file))
    known = {name: settings[name] for name in BackboneSpec.__dataclass_fields__ if name in settings}
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    known["architecture"] = SOURCES["efficientnet_lite0"].architecture
    backbone = Backbone(BackboneSpec(**known), load_weights("efficientnet_lite0")[0], (480, 720))
    clips = []
    for source in find_sources([DATA / "ped2" / part]):
        frames = [frame for frame in read_frames(source) if frame.index % every == 0]
        features = [backbone.extract([frame.image])[0].astype(np.float16) for frame in frames]
        clips.append(
            (Path(source.name).stem, np.array([frame.pts_s for frame in frames]), np.stack(features))
        )
    return clips


def projection(clips: list, dims: int):
    """A function from backbone features to whitened float32 patches, learned on a sample of the clips."""
    from anomaly.projection import fit_projection

    sample = np.concatenate([f[::5].reshape(-1, f.shape[-1]) for _, _, f in clips]).astype(np.float32)
    chosen = np.random.default_rng(0).choice(len(sample), min(40_000, len(sample)), replace=False)
    fitted = fit_projection(sample[chosen], dims, 0.1)
    return lambda features: fitted.apply(features.astype(np.float32))


def labels_of(name: str, times: np.ndarray) -> np.ndarray:
    """(F,) bool, whether each frame lies in a labelled interval."""
    inside = np.zeros(len(times), bool)
    with (DATA / "ped2" / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            if Path(row["video"]).stem == name:
                inside |= (times >= float(row["start_s"]) - 1e-6) & (times < float(row["end_s"]) - 1e-6)
    return inside
