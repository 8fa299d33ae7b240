"""Where compiled engines lie: the running user's own cache, never a model folder.

An engine is native code for one GPU, driver and library version. It is built where it runs, kept in a folder that
no other user may write to (mode 0700), and used only if every fact that it was built under is the same today and
its bytes are the ones that were written. Anything else is built anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from export.errors import EngineError


@dataclass(frozen=True)
class EngineFacts:
    """All that an engine hangs on.

    Attributes:
        gpu: name of the GPU, with its compute capability: "NVIDIA L4, 8.9".
        driver: version of its driver.
        libraries: version of TensorRT.
        precision: "fp32", "fp16" or "bf16".
        graph: sha256 of the ONNX file.
        batch: largest number of frames together.
    """

    gpu: str
    driver: str
    libraries: str
    precision: str
    graph: str
    batch: int

    @property
    def key(self) -> str:
        """Name of the engine in the cache: a digest of all facts."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def cache_folder() -> Path:
    """The user's folder of engines, made with mode 0700: below $XDG_CACHE_HOME, or ~/.cache.

    Raises:
        EngineError: it belongs to another user, or others may write to it.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anomaly" / "engines"
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    about = root.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise EngineError(
            f"engine cache {str(root)!r} is open to other users (mode {stat.S_IMODE(about.st_mode):o}, "
            f"owner {about.st_uid}); an engine is native code: remove the folder, it is made anew"
        )
    return root


def write_engine(facts: EngineFacts, plan: bytes) -> Path:
    """Keep an engine, readable to this user alone; the note beside it is written last."""
    path = cache_folder() / f"{facts.key}.plan"
    _write(path, plan)
    note = {**asdict(facts), "sha256": hashlib.sha256(plan).hexdigest()}
    _write(path.with_suffix(".json"), json.dumps(note, indent=1).encode())
    return path


def read_engine(facts: EngineFacts) -> bytes | None:
    """The engine built under these very facts, or None: there is none, or it must be built anew."""
    path = cache_folder() / f"{facts.key}.plan"
    try:
        note = json.loads(path.with_suffix(".json").read_bytes())
        plan = path.read_bytes()
    except (OSError, ValueError):
        return None
    # The key could only collide on purpose; the note and the bytes are compared all the same.
    if note != {**asdict(facts), "sha256": hashlib.sha256(plan).hexdigest()}:
        return None
    return plan


def read_timings(facts: EngineFacts) -> bytes:
    """What earlier builds on this GPU, driver and version measured, so that a rebuild is quick; b"" at first."""
    path = _timings(facts)
    return path.read_bytes() if path.is_file() else b""


def write_timings(facts: EngineFacts, timings: bytes) -> None:
    """Keep a timing cache for the next build."""
    _write(_timings(facts), timings)


def _timings(facts: EngineFacts) -> Path:
    machine = hashlib.sha256(f"{facts.gpu}|{facts.driver}|{facts.libraries}".encode()).hexdigest()
    return cache_folder() / f"{machine}.timings"


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
