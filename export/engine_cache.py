"""Where compiled engines lie: the running user's own cache, never a model folder.

An engine is native code for one GPU, driver and library version. It is built where it runs, kept in a folder that
no other user may write to (mode 0700), and used only if every fact that it was built under is the same today and
its bytes are the ones that were written. Anything else is built anew.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import logging
import os
import pwd
import shutil
import stat
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from export.errors import EngineError

_LOG = logging.getLogger(__name__)
_DAY_S = 86_400.0
#: Engines are kept for so long after their last use. A site may change over between dozens of recipes: no count bounds them.
_KEPT_S = 365 * _DAY_S
#: Bytes that all engines may take; never more than half of what they and the disk's free room come to.
_KEPT_BYTES = 16 * 2**30
#: One that was used so lately will be missed.
_MISSED_S = 30 * _DAY_S
#: Bytes of a sha256, which stand before the timings.
_DIGEST = 32


@dataclass(frozen=True)
class EngineFacts:
    """All that an engine hangs on.

    Attributes:
        gpu: name of the GPU, with its compute capability: "NVIDIA L4, 8.9".
        driver: version of its driver.
        libraries: version of TensorRT.
        precision: "fp32", "fp16", "bf16", "int8" or "fp8".
        graph: sha256 of the ONNX file.
        batch: largest number of frames together.
        least_rows, most_rows: of the bank, where the graph searches one.
    """

    gpu: str
    driver: str
    libraries: str
    precision: str
    graph: str
    batch: int
    least_rows: int = 0
    most_rows: int = 0

    @property
    def key(self) -> str:
        """Name of the engine in the cache: a digest of all facts."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def cache_folder() -> Path:
    """The user's folder of engines, made with mode 0700: in $ANOMALY_CACHE, else below $XDG_CACHE_HOME or ~/.cache.

    Raises:
        EngineError: it belongs to another user, or others may write to it, or put another in its place.
    """
    chosen = os.environ.get("ANOMALY_CACHE")
    above = (
        Path(chosen)
        if chosen
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anomaly"
    )
    root = above.absolute() / "engines"
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in {*root.parents, *root.resolve().parents}:
        _check_parent(folder)
    about = root.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise EngineError(
            f"engine cache {str(root)!r} is open to other users (mode {stat.S_IMODE(about.st_mode):o}, "
            f"owner {about.st_uid}); an engine is native code: remove the folder, it is made anew"
        )
    return root


def _check_parent(folder: Path) -> None:
    """Refuse a folder in which another user may rename what lies in it."""
    about = folder.stat()
    others = about.st_mode & stat.S_IWOTH or (about.st_mode & stat.S_IWGRP and not _own_group(about.st_gid))
    if about.st_uid not in (0, os.getuid()) or (others and not about.st_mode & stat.S_ISVTX):
        raise EngineError(
            f"folder {str(folder)!r} above the engine cache is open to other users (mode "
            f"{stat.S_IMODE(about.st_mode):o}, owner {about.st_uid}); an engine is native code: run "
            f"`chmod go-w {folder}`, or set ANOMALY_CACHE to a folder of your own"
        )


def _own_group(group: int) -> bool:
    """Whether a group is the one that many systems give each user, with nobody else in it."""
    try:
        user, found = pwd.getpwuid(os.getuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and user.pw_name == found.gr_name and set(found.gr_mem) <= {user.pw_name}


def write_engine(facts: EngineFacts, plan: bytes) -> Path:
    """Keep an engine, readable to this user alone; the note beside it is written last.

    Engines that were not used for a year, and of too many for the disk those that were not used for longest, make room.
    """
    path = cache_folder() / f"{facts.key}.plan"
    _write(path, plan)
    note = {**asdict(facts), "sha256": hashlib.sha256(plan).hexdigest()}
    _write(path.with_suffix(".json"), json.dumps(note, indent=1).encode())
    _make_room(path)
    return path


def _make_room(new: Path) -> None:
    """Remove engines that are old or too many, and what writes that were killed left."""
    now, found = time.time(), []
    for left in new.parent.glob(".*.partial"):
        with contextlib.suppress(FileNotFoundError):  # by another process that has just finished
            if left.stat().st_mtime < now - _DAY_S:
                left.unlink()
    for path in new.parent.glob("*.plan"):
        with contextlib.suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    taken = sum(size for _, size, _ in found)
    room = min(_KEPT_BYTES, (taken + shutil.disk_usage(new.parent).free) // 2)
    for used, size, path in sorted(found):
        if path == new or (taken <= room and used >= now - _KEPT_S):
            continue
        if used >= now - _MISSED_S:
            _LOG.warning(
                "the engine cache %s has room for %.1f GiB: an engine that was last used %.0f days ago was removed, and is built "
                "anew, in minutes, when it is next needed; free some of the disk, or let ANOMALY_CACHE name a larger one",
                new.parent,
                room / 2**30,
                (now - used) / _DAY_S,
            )
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        taken -= size


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
    # It is as good where the disk is read-only; and another process may just have removed it.
    with contextlib.suppress(OSError):
        os.utime(path)
    return plan


def read_timings(facts: EngineFacts) -> bytes:
    """What earlier builds on this GPU, driver and version measured, so that a rebuild is quick; b"" at first."""
    try:
        stored = _timings(facts).read_bytes()
    except FileNotFoundError:
        return b""
    digest, timings = stored[:_DIGEST], stored[_DIGEST:]
    return timings if hashlib.sha256(timings).digest() == digest else b""


def write_timings(facts: EngineFacts, timings: bytes) -> None:
    """Keep a timing cache for the next build."""
    _write(_timings(facts), hashlib.sha256(timings).digest() + timings)


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
