"""A sweep (`-m`): which jobs are finished, so that it resumes, and which failed, wherever they ran.

A job may run in another process (`hydra/launcher=joblib`), so what became of it is a file in its folder.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, QuotedString
from omegaconf import OmegaConf

import configs
from anomaly.artifact import digest_of, file_digest
from anomaly.commands import console
from anomaly.config import SCHEMAS
from anomaly.errors import AnomalyError, FootageError, UsageError
from anomaly.footage.labels import load_labels
from anomaly.footage.source import find_sources

if TYPE_CHECKING:
    from anomaly.verbs import Command

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


def basis_of(command: Command, overrides: Sequence[str]) -> str:
    """Identity of what the jobs of a sweep hang on besides their overrides: the program's own settings, and the input files.

    Args:
        command: that is swept.
        overrides: of the command line; values of keys that name something written are passed over.
    """
    settings = [OmegaConf.to_yaml(OmegaConf.structured(SCHEMAS[command.name]))]
    for path in sorted(Path(configs.__file__).parent.rglob("*.yaml")):
        if path.parent.name != "configs" or path.stem in (command.name, "quiet"):
            settings.append(path.read_text(encoding="utf-8"))
    written = {flag.key for flag in command.flags if flag.writes}
    inputs: dict[str, list[str]] = {}
    for one in OverridesParser.create().parse_overrides(list(overrides)):
        key = one.get_key_element().lstrip("+")
        if key not in written and not key.startswith(("hydra.", "hydra/")):
            inputs.setdefault(key, []).extend(_texts(one.value()))
    videos = inputs.get("videos", [None])[-1]
    labels = [text for key in ("labeled", "except_labels") for text in inputs.get(key, ())]
    named = {path for texts in inputs.values() for text in texts for path in _files(text)}
    named |= {path for text in labels for path in _labelled(text, videos)}
    with console.counter("comparing the input files", len(named)) as advance:
        found = []
        for path in sorted(named, key=str):
            found.append((str(path), _identity(path)))
            advance(1)
    return digest_of([settings, found])


def _identity(path: Path) -> str:
    """Of a file's contents, or of why they cannot be read, which the jobs tell and go on."""
    try:
        return file_digest(path)
    except OSError as error:
        return str(error.strerror)


def discard_others(folder: Path, basis: str) -> int:
    """Forget the jobs in a sweep's folder that hung on something else, so that they are done again; how many ended well."""
    count = 0
    for path in folder.glob(f"*/{_RECORD}"):
        record = _read(path.parent)
        if record is not None and record.get("basis") != basis:
            path.unlink()
            count += record["error"] is None
    return count


def _texts(value: Any) -> Iterator[str]:
    """All texts in an override's value, those of a sweep included."""
    if isinstance(value, ChoiceSweep):
        value = value.list
    if isinstance(value, QuotedString):
        value = value.text
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, str) and value:
        yield value


def _files(text: str) -> list[Path]:
    """The files that a text of the command line names as an input; none where it names none."""
    path = Path(text)
    if (path / "model.json").is_file():
        # Looks are added with every job; what else a model holds its description tells.
        return [path / "model.json", *sorted((path / "thresholds").glob("*.json"))]
    if path.is_file():
        return [path]
    if not (path.is_dir() or glob.has_magic(text)):
        return []
    try:
        return [source.path for source in find_sources([text])]
    except FootageError:
        return []  # told by the jobs


def _labelled(labels: str, videos: str | None) -> list[Path]:
    """The footage that labels name."""
    try:
        found = load_labels(labels, videos, need_anomaly=False)
    except (AnomalyError, OSError):
        return []  # told by the jobs
    return [source.path for source in found.sources]


def record_job(folder: Path, overrides: Sequence[str], error: tuple[str, int] | None, basis: str) -> None:
    """Write down that a job of this basis (`basis_of`) ended: well, or with (message, exit status)."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"overrides": list(overrides), "basis": basis, "error": error}, indent=1) + "\n"
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
