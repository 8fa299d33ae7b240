"""Groups of settings that several commands share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from anomaly.config.bounds import within


@dataclass
class BackboneConfig:
    """The frozen network. `backbone=NAME` chooses a file of `configs/backbone/`."""

    name: str = MISSING
    layers: list[int] = within(MISSING, least=0, fewest=1)
    stride: int = within(MISSING, least=1)
    grid_stride: int = within(MISSING, least=1)
    mean: list[float] = within(MISSING, entries=3)
    std: list[float] = within(MISSING, above=0, entries=3)
    input_pixels: int = within(MISSING, least=1)
    # each patch feature is averaged over so many cells of its map, each way
    neighbourhood: int = within(1, least=1)
    # [height, width]; null = from the footage's shape and input_pixels
    input_size: list[int] | None = within(None, least=1)
    file: str | None = None  # take the weights from this file


@dataclass
class ProjectionConfig:
    """Principal directions of the patch features, learned on a first sample."""

    dims: int = within(100, least=1)
    # how far the backbone's layers are brought to one variance: 0 = not at all, 1 = to the same
    level: float = within(0.5, least=0, most=1)
    # of the variances towards their mean before whitening: 1 = no whitening
    shrinkage: float = within(1.0, least=0, most=1)
    sample_frames: int = within(200, least=1)
    of: str | None = None  # take the projection of this model folder, so that the two banks can merge


@dataclass
class BankConfig:
    """The memory bank."""

    size: int = within(20_000, least=1)  # rows at most
    # cover every patch to within this distance, if that takes no more than bank.size rows; `fit` prints what a bank covers
    # in this unit
    radius: float | None = within(None, above=0)
    # the first patches are held, up to so many MiB, and chosen from all at once; 0 = choose from the start
    gather_mib: float = within(128.0, least=0)
    half: bool = False  # keep rows in half precision: half the room, distances within 0.1 % of an ordinary frame's score
    # distance that the height (or width) of the picture counts for, in units of the bank's distances; 0 = a patch
    # may look like a normal one from anywhere in the picture
    place_weight: float = within(0.0, least=0)
    # search for the nearest row: flat (exact), faiss (exact; on the GPU where FAISS has one), ivf or fastscan (a little
    # less exact, for banks of very many rows); the model keeps it
    index: str = "flat"
    # PatchCore's re-weighting of the score: rows around the nearest one, such as 9; 0 = none
    reweight: int = within(0, least=0)


@dataclass
class ExemplarsConfig:
    """Small pictures of what the bank's rows were cut from, kept in the model folder for explanations."""

    max_mb: float = within(8.0, least=0, most=1e6)  # 0 = keep none


@dataclass
class DamageConfig:
    """What is done about footage that cannot be read as a whole."""

    on_error: str = "skip"  # a damaged file: skip (named; what is readable is used) or refuse


@dataclass
class FootageConfig(DamageConfig):
    """How footage is read."""

    fps: float | None = within(10.0, above=0)  # frames a second that are scored; null = every frame


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

    # moments (video,time_s,label) are widened by this on either side
    tolerance_s: float = within(1.0, above=0)
    slack_s: float = within(0.5, least=0)  # an event may be noticed this much before or after its label
    gap_s: float = within(1.0, least=0)  # intervals of a video closer than this are one event
    unlisted: str = "ignore"  # videos that the labels do not name: ignore, or normal
    count: str = "clip"  # what is independent: clip (its events count once) or event
    group: str = (
        ""  # regular expression: names with the same first group, such as '(part[0-9]+)_', show one incident
    )


@dataclass
class DeciderSettings:
    """How scores become events."""

    smoothing_s: float = within(0.5, least=0)
    min_duration_s: float = within(0.0, least=0)
    max_duration_s: float = within(60.0, above=0)
    leave_ratio: float = within(0.9, above=0, most=1)
    join_gap_s: float = within(1.0, least=0)


@dataclass
class WeightsConfig:
    """Licences of weights that are not free for every use must be accepted by the backbone's name."""

    accept_license: str = ""
    offline: bool = False
