"""Typed configurations, one root a command. Hydra checks names and types against these classes.

Together with `cli.py` and `commands/` this is the only code that knows Hydra: everything below
takes plain values.
"""

from __future__ import annotations

import re

from anomaly.config.groups import (
    BackboneConfig,
    BankConfig,
    DamageConfig,
    DeciderSettings,
    ExemplarsConfig,
    FootageConfig,
    LabelsConfig,
    ProjectionConfig,
    RegionsConfig,
    WeightsConfig,
)
from anomaly.config.model import (
    CalibrateConfig,
    CalibrationSettings,
    EvaluateConfig,
    EvidenceConfig,
    FitConfig,
    FitSettings,
    StudyConfig,
    StudySettings,
)
from anomaly.config.tools import (
    BankCommandConfig,
    BenchConfig,
    DemoConfig,
    ExportConfig,
    UsersConfig,
    WeightsCommandConfig,
)
from anomaly.config.watch import (
    CheckConfig,
    CheckSettings,
    DoorSettings,
    KeepSettings,
    RecordConfig,
    RecordSettings,
    RunConfig,
    RunSettings,
    ScoreConfig,
)

__all__ = [
    "SCHEMAS",
    "BackboneConfig",
    "BankCommandConfig",
    "BankConfig",
    "BenchConfig",
    "CalibrateConfig",
    "CalibrationSettings",
    "CheckConfig",
    "CheckSettings",
    "DamageConfig",
    "DeciderSettings",
    "DemoConfig",
    "DoorSettings",
    "EvaluateConfig",
    "EvidenceConfig",
    "ExemplarsConfig",
    "ExportConfig",
    "FitConfig",
    "FitSettings",
    "FootageConfig",
    "KeepSettings",
    "LabelsConfig",
    "ProjectionConfig",
    "RecordConfig",
    "RecordSettings",
    "RegionsConfig",
    "RunConfig",
    "RunSettings",
    "ScoreConfig",
    "StudyConfig",
    "StudySettings",
    "UsersConfig",
    "WeightsCommandConfig",
    "WeightsConfig",
    "quoted",
    "register",
]

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
