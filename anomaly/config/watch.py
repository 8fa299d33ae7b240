"""Configurations of the commands that look at footage and cameras."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from anomaly.config.bounds import within
from anomaly.config.groups import DeciderSettings, FootageConfig, WeightsConfig


@dataclass
class ScoreConfig:
    """`anomaly score`."""

    model: str = MISSING
    source: list[str] = MISSING
    out: str = MISSING
    heatmaps: str | None = None
    explain: str | None = None
    explain_most: int = within(20, least=1)  # pictures at most; where there are more alarms, of the highest
    device: str = "auto"
    runtime: str = "auto"  # torch, onnxruntime, openvino, tensorrt, or one with its precision: openvino-bf16
    footage: FootageConfig = field(default_factory=FootageConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)


@dataclass
class RunSettings:
    """What `run` writes and insists on."""

    opacity: float = within(0.55, least=0, most=1)  # of the heatmap in the annotated video
    annotate: bool = True  # write the annotated video
    require_certificate: bool = False  # refuse to run what is not certified
    live: bool = False  # watch files at their own speed, as if they were cameras
    metrics: str | None = (
        "127.0.0.1:9188"  # HOST:PORT on loopback of /healthz, /readyz, /metrics; null = none
    )
    scrape_token: str | None = None  # ${env:NAME} or ${file:/path}: who sends it may read /metrics
    log: str = "auto"  # text, json, or auto: text on a terminal


@dataclass
class KeepSettings:
    """What is recorded of cameras, and how long it is kept."""

    record: bool = True  # the rolling recording, from which clips are cut
    hours: float = within(24.0, above=0)  # of recording
    segment_s: float = within(10.0, above=0)  # length of a recorded file
    # most that the recording takes; null = what the disk has
    recording_gb: float | None = within(None, above=0)
    # most that clips and pictures take; null = what the disk has
    clip_gb: float | None = within(None, above=0)
    clip_days: float = within(30.0, above=0)  # clips and pictures of events and misses
    event_days: float = within(365.0, above=0)  # events with their verdicts, health and gaps
    before_s: float = within(5.0, least=0)  # seconds that a clip shows before its event
    after_s: float = within(5.0, least=0)


@dataclass
class DoorSettings:
    """How the page is served (--serve)."""

    allowed_hosts: list[str] = field(default_factory=list)  # further names under which it may be asked for
    tls_cert: str | None = None
    tls_key: str | None = None
    insecure: bool = False  # off loopback without TLS: passwords and pictures cross the network in the clear
    trusted_proxy: str | None = None  # address of a reverse proxy that speaks TLS
    outer_proxies: list[str] = field(default_factory=list)  # of those in front of that one
    # without key, pointer or touch, then one has to sign in again; an open page is no use
    idle_minutes: float = within(60.0, above=0)
    session_hours: float = within(12.0, above=0)  # after the log-in, then in any case
    streams: int = within(64, least=1)  # live pictures at once; half of them for one account


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
class CheckSettings:
    """How a source is looked at."""

    seconds: float = within(10.0, above=0)
    timeout_s: float = within(5.0, above=0)  # a camera that says nothing for so long is taken for lost


@dataclass
class CheckConfig:
    """`anomaly check`."""

    source: str = MISSING
    json: str | None = None
    # seconds of the shortest anomaly; null = the sampling rate is not judged
    shortest: float | None = within(None, above=0)
    check: CheckSettings = field(default_factory=CheckSettings)
    footage: FootageConfig = field(default_factory=FootageConfig)
    decider: DeciderSettings = field(default_factory=DeciderSettings)


@dataclass
class RecordSettings:
    """How a camera is recorded."""

    camera: str = "camera"  # its name, and its folder's below `out`
    segment_s: float = within(10.0, above=0)  # length of a file, to the next keyframe
    look_s: float = within(5.0, above=0)  # for so long the bit rate is measured before it starts
    timeout_s: float = within(5.0, above=0)  # a camera that says nothing for so long is taken for lost
    force: bool = False  # record although the disk has no room for all of it
    # Privacy masks, polygons of [x, y] in 0..1: painted, and the recording encoded anew, before it is written.
    black: list[Any] = field(default_factory=list)


@dataclass
class RecordConfig:
    """`anomaly record`."""

    source: str = MISSING
    out: str = MISSING
    hours: float = within(8.0, above=0)
    record: RecordSettings = field(default_factory=RecordSettings)
