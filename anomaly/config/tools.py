"""Configurations of the commands around a model: other runtimes, cost, its memory, weights, accounts, the demo."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from anomaly.config.bounds import within
from anomaly.config.groups import DamageConfig, ExemplarsConfig, WeightsConfig


@dataclass
class ExportConfig:
    """`anomaly export`."""

    model: str = MISSING
    runtime: str = MISSING
    precision: str | None = None  # null = the runtime's first: fp32, for tensorrt fp16
    # allowed relative difference to torch; null = 1e-3, in half precision 1e-2
    tolerance: float | None = within(None, above=0)
    # [height, width] of the frames that the whole graph takes
    source_size: list[int] | None = within(None, least=1, entries=2)
    weights: WeightsConfig = field(default_factory=WeightsConfig)


@dataclass
class BenchConfig:
    """`anomaly bench`."""

    model: str = MISSING
    source: str | None = None  # footage to decode; null = the pictures of the model's evidence
    json: str | None = None
    plot: str | None = None
    runtime: str = "auto"  # auto = torch and every export that is there; or one of them
    device: str = "auto"  # as score and run take it
    frames: int = within(100, least=1)


@dataclass
class DemoConfig:
    """`anomaly demo`."""

    out: str = "demo"
    seed: int = within(0, least=0)


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
    # rows of the bank at most; null = merge: 20,000, add: as the model was fitted
    size: int | None = within(None, least=1)
    overwrite: bool = False  # merge: replace the model that is there
    # The rest is for add.
    anew: bool = (
        False  # without room for what is strange: choose all rows anew, and lose the hold-out's scores
    )
    normal_videos: list[str] = field(default_factory=list)
    device: str = "auto"
    footage: DamageConfig = field(default_factory=DamageConfig)
    exemplars: ExemplarsConfig = field(default_factory=ExemplarsConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)


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
    days: float | None = within(None, above=0)  # token: until it expires; null = never
