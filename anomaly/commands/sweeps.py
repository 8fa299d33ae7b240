"""A sweep (`-m`): which jobs are finished, so that it resumes, and which failed, wherever they ran.

A job may run in another process (`hydra/launcher=joblib`), so what became of it is a file in its folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob

from anomaly.errors import AnomalyError, UsageError

_RECORD = "job.json"
_KEY = "hydra.sweep.dir="


def sweep_folder(overrides: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder of a sweep and the overrides with it: the one given, which resumes it, or a new one."""
    for override in overrides:
        if override.startswith(_KEY):
            return Path(override.removeprefix(_KEY).strip("'\"")), list(overrides)
    folder = Path("multirun") / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    return folder, [*overrides, f"{_KEY}{folder.as_posix()}"]


def is_finished(folder: Path, overrides: Sequence[str]) -> bool:
    """Whether a job of these overrides was finished in this folder before."""
    record = _read(folder)
    return record is not None and record["overrides"] == list(overrides) and record["error"] is None


def record_job(folder: Path, overrides: Sequence[str], error: tuple[str, int] | None) -> None:
    """Write down that a job ended: well, or with (message, exit status)."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"overrides": list(overrides), "error": error}, indent=1) + "\n"
    (folder / _RECORD).write_text(text, encoding="utf-8")


def jobs_of(overrides: Sequence[str]) -> list[frozenset[str]]:
    """The overrides of each job that a command line sweeps over, as Hydra's own sweeper makes them.

    Raises:
        UsageError: a sweep whose values are not on the command line.
    """
    given = []
    for one in OverridesParser.create().parse_overrides(list(overrides)):
        key = one.get_key_element()
        if key.startswith(("hydra.", "hydra/")):
            continue
        if not one.is_sweep_override():
            given.append([f"{key}={one.get_value_element_as_str()}"])
        elif isinstance(one.value(), Glob):
            raise UsageError(f"{one.input_line}: a sweep must know its jobs beforehand; list the values")
        else:
            given.append([f"{key}={value}" for value in one.sweep_string_iterator()])
    return [frozenset(job) for job in product(*given)]


def unfinished(folder: Path, jobs: Sequence[frozenset[str]]) -> int:
    """How many of these jobs have not ended well in a sweep's folder yet."""
    done = {frozenset(overrides) for _, overrides in finished_jobs(folder)}
    return sum(job not in done for job in jobs)


def finished_jobs(folder: Path) -> list[tuple[Path, list[str]]]:
    """Folder and overrides of each finished job, in order."""
    found = []
    for path in sorted(
        folder.glob(f"*/{_RECORD}"), key=lambda path: (len(path.parent.name), path.parent.name)
    ):
        record = _read(path.parent)
        if record and record["error"] is None:
            found.append((path.parent, [str(one) for one in record["overrides"]]))
    return found


def raise_failures(folder: Path) -> None:
    """Raise if jobs failed, each of which was told when it did: UsageError where the first's exit status was 2."""
    records = [_read(path.parent) for path in sorted(folder.glob(f"*/{_RECORD}"))]
    failed = [one["error"] for one in records if one and one["error"] is not None]
    if failed:
        raise (UsageError if failed[0][1] == UsageError.exit_status else AnomalyError)(
            f"{len(failed)} of {len(records)} jobs failed, as told above; the same command with hydra.sweep.dir={folder} "
            "does them again, and not the others"
        )


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"overrides", "error"} <= set(record) else None
