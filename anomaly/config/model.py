"""Configurations of the commands that make a model and tell how good it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from anomaly.config.bounds import within
from anomaly.config.groups import (
    BackboneConfig,
    BankConfig,
    DeciderSettings,
    ExemplarsConfig,
    FootageConfig,
    LabelsConfig,
    ProjectionConfig,
    RegionsConfig,
    WeightsConfig,
)


@dataclass
class FitSettings:
    """What `fit` does with the footage."""

    fps: float | None = within(5.0, above=0)  # frames a second that are learned from
    holdout: float = within(0.2, least=0, below=1)  # share of the normal footage kept aside
    learn_holdout: bool = True  # add rows of what was kept aside, once it has been scored
    guard_s: float = within(2.0, least=0)  # seconds left out between learned and held-out blocks of one clip
    except_margin_s: float = within(1.0, least=0)  # seconds left out around labelled intervals (--except)
    drop: list[str] = field(default_factory=list)  # clip@start-end, seconds
    # seconds between checkpoints, from which an interrupted fit goes on
    checkpoint_s: float = within(60.0, above=0)
    fresh: bool = False  # throw away what an unfinished fit of this model left
    compute: str = "local"  # where: local, or ray (extra "cluster"), shard by shard
    # seconds of footage in a shard; null = one stream (ray: 600)
    shard_s: float | None = within(None, above=0)
    review: int = within(24, least=0)  # moments shown in fit_review.html; 0 = no review


@dataclass
class FitConfig:
    """`anomaly fit`."""

    normal_videos: list[str] = MISSING
    model: str = MISSING
    except_labels: str | None = None
    videos: str | None = None
    name: str | None = None
    seed: int = within(0, least=0)
    device: str = "cpu"
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    exemplars: ExemplarsConfig = field(default_factory=ExemplarsConfig)
    footage: FootageConfig = field(default_factory=FootageConfig)
    regions: RegionsConfig = field(default_factory=RegionsConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    fit: FitSettings = field(default_factory=FitSettings)


@dataclass
class CalibrationSettings:
    """What the threshold aims at."""

    target_recall: float = within(0.95, above=0, most=1)
    confidence: float = within(0.95, above=0, below=1)  # no number of events makes certain
    # a budget; it lowers the threshold where the events are too few for the target, and else recall wins
    false_alarms_per_hour: float | None = within(6.0, least=0)
    recall_wins: bool = True
    threshold: float | None = within(None, least=0)  # set by hand; the certificate pays for it and says so
    # auto: each camera by itself where the labels' column `camera` names two or more; folder: always, the first folder
    # of a source's name being its camera where that column does not say; one: all together
    cameras: str = "auto"


@dataclass
class EvidenceConfig:
    """Frames kept in the model folder, on which a certificate can be checked elsewhere."""

    max_mb: float = within(64.0, least=0, most=1e6)  # 0 = keep none
    # allowed difference of a score; 1 = the score of an ordinary normal frame
    tolerance: float = within(0.01, least=0)


@dataclass
class CalibrateConfig:
    """`anomaly calibrate`."""

    model: str = MISSING
    labeled: str | None = None
    videos: str | None = None
    out: str | None = None
    report: str | None = None
    check: bool = False
    # settings compared on these clips besides those that the model knows of: the certificate pays for them too; a
    # sweep adds the jobs that have still to run
    also_tried: int = within(0, least=0)
    device: str = "auto"
    runtime: str = "auto"  # torch, onnxruntime, openvino, tensorrt, or one with its precision: openvino-bf16
    footage: FootageConfig = field(default_factory=FootageConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    decider: DeciderSettings = field(default_factory=DeciderSettings)
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)


@dataclass
class StudySettings:
    """What a study tries, and how it pays for looking."""

    # decider keys to lists of values, such as {smoothing_s: [0, 0.5]}; null = a built-in grid of 60
    grid: Any = None
    thresholds: int = within(100, least=1)  # tried with each setting
    protect: str = "split"  # split: some clips choose, the others certify; correct: all do both, at a price
    share: float = within(0.5, above=0, below=1)  # of the clips that choose
    seed: int = within(0, least=0)  # of the split
    apply: bool = False  # write the best setting and its certificate into the model


@dataclass
class StudyConfig:
    """`anomaly study`."""

    model: str | None = None
    sweep: str | None = None
    labeled: str | None = None
    videos: str | None = None
    out: str | None = None
    also_tried: int = within(0, least=0)  # as for `calibrate`: other studies that are compared with this one
    device: str = "auto"
    footage: FootageConfig = field(default_factory=FootageConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    decider: DeciderSettings = field(default_factory=DeciderSettings)
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    study: StudySettings = field(default_factory=StudySettings)


@dataclass
class EvaluateConfig:
    """`anomaly evaluate`."""

    model: str = MISSING
    labeled: str = MISSING
    videos: str | None = None
    json: str | None = None
    html: str | None = None
    device: str = "auto"
    runtime: str = "auto"  # torch, onnxruntime, openvino, tensorrt, or one with its precision: openvino-bf16
    footage: FootageConfig = field(default_factory=FootageConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
