"""Groups of settings that several commands share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class BackboneConfig:
    """The frozen network. `backbone=NAME` chooses a file of `configs/backbone/`."""

    name: str = MISSING
    layers: list[int] = MISSING
    stride: int = MISSING
    grid_stride: int = MISSING
    mean: list[float] = MISSING
    std: list[float] = MISSING
    input_pixels: int = MISSING
    neighbourhood: int = 1  # each patch feature is averaged over so many cells of its map, each way
    input_size: list[int] | None = None  # [height, width]; null = from the footage's shape and input_pixels
    file: str | None = None  # take the weights from this file


@dataclass
class ProjectionConfig:
    """Principal directions of the patch features, learned on a first sample."""

    dims: int = 100
    level: float = (
        0.5  # how far the backbone's layers are brought to one variance: 0 = not at all, 1 = to the same
    )
    shrinkage: float = 1.0  # of the variances towards their mean before whitening: 1 = no whitening
    sample_frames: int = 200
    of: str | None = None  # take the projection of this model folder, so that the two banks can merge


@dataclass
class BankConfig:
    """The memory bank."""

    size: int = 20_000  # rows at most
    radius: float | None = None  # instead of a size: cover every patch to within this distance
    # the first patches are held, up to so many MiB, and chosen from all at once; 0 = choose from the start
    gather_mib: float = 128.0
    half: bool = False  # keep rows in half precision: half the room, distances within 0.1 %
    # distance that the height (or width) of the picture counts for, in units of the bank's distances; 0 = a patch
    # may look like a normal one from anywhere in the picture
    place_weight: float = 0.0
    # search for the nearest row: flat (exact), faiss (exact; on the GPU where FAISS has one), ivf or fastscan (a little
    # less exact, for banks of very many rows); the model keeps it
    index: str = "flat"
    # PatchCore's re-weighting of the score: rows around the nearest one, such as 9; 0 = none
    reweight: int = 0


@dataclass
class ExemplarsConfig:
    """Small pictures of what the bank's rows were cut from, kept in the model folder for explanations."""

    max_mb: float = 8.0  # 0 = keep none


@dataclass
class FootageConfig:
    """How footage is read."""

    fps: float | None = 10.0  # frames a second that are scored; null = every frame
    on_error: str = "skip"  # a damaged file: skip (named; what is readable is used) or refuse


@dataclass
class RegionsConfig:
    """What of the picture counts: polygons of [x, y] in 0..1, or a mask image (white counts); and privacy masks."""

    # Lists of lists would refuse the 0 and 1 of a corner as no floats; Regions checks polygons better.
    look: list[Any] = field(default_factory=list)
    ignore: list[Any] = field(default_factory=list)
    mask: str | None = None
    # Painted black in every frame before anything looks at it, here and wherever the model is used on files.
    black: list[Any] = field(default_factory=list)


@dataclass
class LabelsConfig:
    """How labels are read."""

    tolerance_s: float = 1.0  # moments (video,time_s,label) are widened by this on either side
    slack_s: float = 0.5  # an event may be noticed this much before or after its label
    gap_s: float = 1.0  # intervals of a video closer than this are one event
    unlisted: str = "ignore"  # videos that the labels do not name: ignore, or normal
    count: str = "clip"  # what is independent: clip (its events count once) or event
    group: str = (
        ""  # regular expression: names with the same first group, such as '(part[0-9]+)_', show one incident
    )


@dataclass
class DeciderSettings:
    """How scores become events."""

    smoothing_s: float = 0.5
    min_duration_s: float = 0.0
    max_duration_s: float = 60.0
    leave_ratio: float = 0.9
    join_gap_s: float = 1.0


@dataclass
class WeightsConfig:
    """Licences of weights that are not free for every use must be accepted by the backbone's name."""

    accept_license: str = ""
    offline: bool = False
