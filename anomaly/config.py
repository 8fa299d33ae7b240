"""Typed configurations, one root a command. Hydra checks names and types against these classes.

Together with `cli.py` and `commands/` this is the only code that knows Hydra: everything below
takes plain values.
"""

from __future__ import annotations

import re
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
    """PCA whitening, learned on a first sample."""

    dims: int = 100
    shrinkage: float = 0.8
    sample_frames: int = 200
    of: str | None = None  # take the projection of this model folder, so that the two banks can merge


@dataclass
class BankConfig:
    """The memory bank."""

    size: int = 15_000  # rows at most
    radius: float | None = None  # instead of a size: cover every patch to within this distance
    half: bool = False  # keep rows in half precision: half the room, distances within 0.1 %
    # distance that the height (or width) of the picture counts for, in units of the bank's distances; 0 = a patch
    # may look like a normal one from anywhere in the picture
    place_weight: float = 0.0
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
    """What of the picture counts: polygons of [x, y] in 0..1, or a mask image (white counts)."""

    # Lists of lists would refuse the 0 and 1 of a corner as no floats; Regions checks polygons better.
    look: list[Any] = field(default_factory=list)
    ignore: list[Any] = field(default_factory=list)
    mask: str | None = None


@dataclass
class LabelsConfig:
    """How labels are read."""

    tolerance_s: float = 1.0  # moments (video,time_s,label) are widened by this on either side
    slack_s: float = 0.5  # an event may be noticed this much before or after its label
    gap_s: float = 1.0  # intervals of a video closer than this are one event
    unlisted: str = "ignore"  # videos that the labels do not name: ignore, or normal
    count: str = "clip"  # what is independent: clip (its events count once) or event


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


@dataclass
class FitSettings:
    """What `fit` does with the footage."""

    fps: float | None = 5.0  # frames a second that are learned from
    holdout: float = 0.2  # share of the normal footage kept aside
    guard_s: float = 2.0  # seconds left out between learned and held-out blocks of one clip
    except_margin_s: float = 1.0  # seconds left out around labelled intervals (--except)
    drop: list[str] = field(default_factory=list)  # clip@start-end, seconds
    checkpoint_s: float = 60.0  # seconds between checkpoints, from which an interrupted fit goes on
    compute: str = "local"  # where: local, or ray (extra "cluster"), shard by shard
    shard_s: float | None = None  # seconds of footage in a shard; null = one stream (ray: 600)
    review: int = 24  # moments shown in fit_review.html; 0 = no review


@dataclass
class FitConfig:
    """`anomaly fit`."""

    normal_videos: list[str] = MISSING
    model: str = MISSING
    except_labels: str | None = None
    videos: str | None = None
    name: str | None = None
    seed: int = 0
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

    target_recall: float = 0.95
    confidence: float = 0.95
    # a budget; it lowers the threshold where the events are too few for the target, and else recall wins
    false_alarms_per_hour: float | None = 6.0
    recall_wins: bool = True
    threshold: float | None = None  # set by hand; the certificate pays for it and says so
    # auto: each camera by itself where the labels' column `camera` names two or more; folder: always, the first folder
    # of a source's name being its camera where that column does not say; one: all together
    cameras: str = "auto"


@dataclass
class EvidenceConfig:
    """Frames kept in the model folder, on which a certificate can be checked elsewhere."""

    max_mb: float = 64.0  # 0 = keep none
    tolerance: float = 0.01  # allowed difference of a score; 1 = the score of an ordinary normal frame


@dataclass
class CalibrateConfig:
    """`anomaly calibrate`."""

    model: str = MISSING
    labeled: str | None = None
    videos: str | None = None
    out: str | None = None
    report: str | None = None
    check: bool = False
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
    thresholds: int = 100  # tried with each setting
    protect: str = "split"  # split: some clips choose, the others certify; correct: all do both, at a price
    share: float = 0.5  # of the clips that choose
    seed: int = 0  # of the split
    apply: bool = False  # write the best setting and its certificate into the model


@dataclass
class StudyConfig:
    """`anomaly study`."""

    model: str | None = None
    sweep: str | None = None
    labeled: str | None = None
    videos: str | None = None
    out: str | None = None
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


@dataclass
class ScoreConfig:
    """`anomaly score`."""

    model: str = MISSING
    source: list[str] = MISSING
    out: str = MISSING
    heatmaps: str | None = None
    explain: str | None = None
    explain_most: int = 20  # pictures at most; where there are more alarms, of the highest
    device: str = "auto"
    runtime: str = "auto"  # torch, onnxruntime, openvino, tensorrt, or one with its precision: openvino-bf16
    footage: FootageConfig = field(default_factory=FootageConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)


@dataclass
class RunSettings:
    """What `run` writes and insists on."""

    opacity: float = 0.55  # of the heatmap in the annotated video
    annotate: bool = True  # write the annotated video
    require_certificate: bool = False  # refuse to run what is not certified
    live: bool = False  # watch files at their own speed, as if they were cameras
    metrics: str | None = (
        "127.0.0.1:9188"  # HOST:PORT on loopback of /healthz, /readyz, /metrics; null = none
    )
    log: str = "auto"  # text, json, or auto: text on a terminal


@dataclass
class KeepSettings:
    """What is recorded of cameras, and how long it is kept."""

    record: bool = True  # the rolling recording, from which clips are cut
    hours: float = 24.0  # of recording
    segment_s: float = 10.0  # length of a recorded file
    recording_gb: float | None = None  # most that the recording takes; null = what the disk has
    clip_gb: float | None = None  # most that clips and pictures take; null = what the disk has
    clip_days: float = 30.0  # clips and pictures are kept; the event's row a year
    before_s: float = 5.0  # seconds that a clip shows before its event
    after_s: float = 5.0


@dataclass
class DoorSettings:
    """How the page is served (--serve)."""

    allowed_hosts: list[str] = field(default_factory=list)  # further names under which it may be asked for
    tls_cert: str | None = None
    tls_key: str | None = None
    insecure: bool = False  # off loopback without TLS: passwords and pictures cross the network in the clear
    trusted_proxy: str | None = None  # address of a reverse proxy that speaks TLS


@dataclass
class RunConfig:
    """`anomaly run`."""

    model: str | None = None
    source: list[str] = field(default_factory=list)
    site: str | None = None
    serve: str | None = None
    out: str = "outputs/run"
    device: str = "auto"
    runtime: str = "auto"  # torch, onnxruntime, openvino, tensorrt, or one with its precision: openvino-bf16
    footage: FootageConfig = field(default_factory=FootageConfig)
    run: RunSettings = field(default_factory=RunSettings)
    keep: KeepSettings = field(default_factory=KeepSettings)
    door: DoorSettings = field(default_factory=DoorSettings)
    weights: WeightsConfig = field(default_factory=WeightsConfig)


@dataclass
class ExportConfig:
    """`anomaly export`."""

    model: str = MISSING
    runtime: str = MISSING
    precision: str | None = None  # null = the runtime's first: fp32, for tensorrt fp16
    tolerance: float | None = (
        None  # allowed relative difference to torch; null = 1e-3, in half precision 1e-2
    )
    source_size: list[int] | None = None  # [height, width] of the frames that the whole graph takes
    weights: WeightsConfig = field(default_factory=WeightsConfig)


@dataclass
class BenchConfig:
    """`anomaly bench`."""

    model: str = MISSING
    source: str | None = None  # footage to decode; null = the pictures of the model's evidence
    json: str | None = None
    plot: str | None = None
    runtime: str = "auto"  # auto = torch and every export that runs here; or one of them
    frames: int = 100


@dataclass
class CheckSettings:
    """How a source is looked at."""

    seconds: float = 10.0
    timeout_s: float = 5.0  # a camera that says nothing for so long is taken for lost


@dataclass
class CheckConfig:
    """`anomaly check`."""

    source: str = MISSING
    json: str | None = None
    shortest: float | None = None  # seconds of the shortest anomaly; null = the sampling rate is not judged
    check: CheckSettings = field(default_factory=CheckSettings)
    footage: FootageConfig = field(default_factory=FootageConfig)
    decider: DeciderSettings = field(default_factory=DeciderSettings)


@dataclass
class RecordSettings:
    """How a camera is recorded."""

    camera: str = "camera"  # its name, and its folder's below `out`
    segment_s: float = 10.0  # length of a file, to the next keyframe
    look_s: float = 5.0  # for so long the bit rate is measured before it starts
    timeout_s: float = 5.0  # a camera that says nothing for so long is taken for lost
    force: bool = False  # record although the disk has no room for all of it


@dataclass
class RecordConfig:
    """`anomaly record`."""

    source: str = MISSING
    out: str = MISSING
    hours: float = 8.0
    record: RecordSettings = field(default_factory=RecordSettings)


@dataclass
class DemoConfig:
    """`anomaly demo`."""

    out: str = "demo"
    seed: int = 0


@dataclass
class WeightsCommandConfig:
    """`anomaly weights`."""

    action: str = MISSING
    network: str | None = None
    file: str | None = None
    weights: WeightsConfig = field(default_factory=WeightsConfig)


@dataclass
class BankCommandConfig:
    """`anomaly bank`."""

    action: str = MISSING
    model: str = MISSING
    models: list[str] = field(default_factory=list)
    clip: str | None = None
    camera: str | None = None
    since: str | None = None  # ISO 8601, UTC where it names no zone
    until: str | None = None
    size: int = 15_000  # rows of a merged bank at most


@dataclass
class UsersConfig:
    """`anomaly users`."""

    action: str = MISSING
    name: str | None = None  # of the account; of revoke, the token's id
    store: str = "outputs/run"  # the folder that `run` writes to
    role: str | None = None
    password_file: str | None = None  # null = ask at the terminal
    label: str | None = None  # token: what it is for
    scopes: list[str] = field(default_factory=list)  # token: where it may be used
    days: float | None = None  # token: until it expires; null = never


SCHEMAS: dict[str, type] = {
    "fit": FitConfig,
    "calibrate": CalibrateConfig,
    "study": StudyConfig,
    "evaluate": EvaluateConfig,
    "score": ScoreConfig,
    "run": RunConfig,
    "export": ExportConfig,
    "bench": BenchConfig,
    "demo": DemoConfig,
    "weights": WeightsCommandConfig,
    "bank": BankCommandConfig,
    "users": UsersConfig,
    "check": CheckConfig,
    "record": RecordConfig,
}


def quoted(value: str) -> str:
    """A text as Hydra's grammar takes it literally, whatever it holds."""
    # OmegaConf reads ${ as a reference, and a run of backslashes before it as escapes.
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    # Hydra reads a run of backslashes as escapes only before a quote.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", literal)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return "'" + escaped + "\\" * trailing + "'"


def register() -> None:
    """Tell Hydra the schemas of all roots (`fit_schema`, …), so that it checks every override."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for command, schema in SCHEMAS.items():
        store.store(name=f"{command}_schema", node=schema)
