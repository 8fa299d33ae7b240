"""What the command line says of an error: one line, and the exit status."""

from __future__ import annotations

import difflib
import errno
import re
from itertools import takewhile
from typing import TYPE_CHECKING

from anomaly.errors import AnomalyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def describe(error: BaseException, command: str = "") -> tuple[str, int]:
    """One line for an error of a command, and the exit status."""
    if isinstance(error, AnomalyError):
        return _one_line(str(error)), error.exit_status
    module = type(error).__module__.split(".")[0]
    if module in {"hydra", "omegaconf", "antlr4"}:
        return _one_line(_configuration_message(error, command)), UsageError.exit_status
    if module in {"memory_bank", "export"}:
        return _one_line(str(error)), 1
    if isinstance(error, ModuleNotFoundError):
        from importlib.util import find_spec

        extra = _EXTRAS.get((error.name or "").split(".")[0])
        if extra:
            told = f"{error.name} is not installed; pip install 'anomaly[{extra}]'"
            if extra == "train" and find_spec("torch") is None and find_spec("faiss") is not None:
                # As beside the extra `edge`: two packages of FAISS overwrite each other.
                told += " in an environment of its own, not in this one, which is for running without torch"
            return told, 1
    if isinstance(error, OSError) and error.strerror:
        where = f" {error.filename!r}" if error.filename else ""
        remedy = _REMEDIES.get(error.errno or 0, "see to it, then run the command again")
        return f"{error.strerror.lower()}{where}; {remedy}", 1
    return _one_line(
        f"unexpected {type(error).__name__}: {error}; run with --debug to see where, and report it"
    ), 1


_EXTRAS = {
    "torch": "train",
    "timm": "train",
    "torchvision": "train",
    "sklearn": "train",
    "matplotlib": "train",
    "faiss": "train",
    "onnxruntime": "edge",
    "openvino": "edge",
    "onnx": "export",
    "onnxscript": "export",
    "fastapi": "live",
    "uvicorn": "live",
    "argon2": "live",
    "ray": "cluster",
    "tensorrt": "tensorrt",
    "cuda": "tensorrt",
}


_REMEDIES = {
    errno.ENOSPC: "free the space it needs, then run the command again",
    errno.EDQUOT: "free some space of your quota, then run the command again",
    errno.EACCES: "make it readable and writable for this user, or give another path",
    errno.EPERM: "make it readable and writable for this user, or give another path",
    errno.EROFS: "give a path on a disk that may be written",
    errno.ENOENT: "check the path",
    errno.EISDIR: "give the name of a file, not of a folder",
    errno.ENOTDIR: "give a path that leads through folders only",
    errno.EEXIST: "move it away, or give another path",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`), then run the command again",
    errno.ECONNREFUSED: "check the address, and that something listens there",
    errno.EADDRINUSE: "choose another port, or end what listens there",
}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _configuration_message(error: BaseException, command: str) -> str:
    """Hydra's message without its chain of causes, with what to do next."""
    cause: BaseException = error
    while cause.__cause__ is not None and type(cause.__cause__).__module__.split(".")[0] in {
        "hydra",
        "omegaconf",
    }:
        cause = cause.__cause__
    told = _in_our_words(f"{error}\n{cause}", getattr(error, "override", None), command)
    if told is None:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        detail = [line.strip() for line in str(cause).splitlines() if line.strip()]
        kept = [
            line
            for line in dict.fromkeys(lines[:2] + detail[:1])
            if not line.startswith(("full_key", "object_type"))
        ]
        if any(line.startswith("Available options") for line in kept):
            options = takewhile(lambda line: not line.startswith("Config search path"), lines[2:])
            kept = [kept[0], f"choose one of {', '.join(options)}"]
        full_key = getattr(cause, "full_key", None)
        where = f" (key {full_key})" if full_key and not any(str(full_key) in line for line in kept) else ""
        told = "; ".join(kept) + where
    return f"configuration: {told}; `--cfg job` prints the keys and their values"


def _in_our_words(text: str, unread: str | None, command: str) -> str | None:
    """What Hydra says of the commonest slips, with a remedy that works here; None = something else.

    Args:
        text: the error's and its cause's.
        unread: the override that is no override, where that is what is wrong.
        command: whose keys they are.
    """
    if found := re.match(r"Ambiguous value for argument '(([^=]+)=(.*))'$", text, re.MULTILINE):
        given, key, value = found.groups()
        return f"{given} gives several values; add -m to run once with each, or write '{key}=[{value}]' for a list"
    if unread is not None:
        return f"{unread} cannot be read; close all [ {{ and quotes, and put a text with other signs than letters into quotes"
    if found := re.match(r"Could not override '([^']+)'", text):
        return no_key(found[1], command)
    if found := re.match(r"Error merging override (\S+)", text):
        key, _, value = found[1].partition("=")
        if "is not a ListConfig" in text:
            return f"{found[1]}: {key} is a list; write '{key}=[{value}]'"
        if "is not a subclass of" in text:
            return (
                f"{found[1]}: {key} is a group; set one of its keys, {', '.join(_keys(command, key + '.'))}"
            )
    return None


def no_key(key: str, command: str) -> str:
    """That a command has no such key, and which may have been meant."""
    near = _near(key, command)
    return f"{command} has no key {key!r}" + (f"; did you mean {' or '.join(near)}?" if near else "")


def as_keys(flags: Sequence[str], command: str) -> list[str]:
    """How a setting that was given as a flag it has not is written, as "runtime=openvino"; none where no key has its name.

    Args:
        flags: what no flag of the command stands for, in order.
        command: its name.
    """
    for place, flag in enumerate(flags):
        name = flag.partition("=")[0].removeprefix("--").replace("-", "_")
        keys = [one for one in _keys(command) if name in (one, one.rpartition(".")[2])]
        if flag.startswith("--") and keys:
            after = flags[place + 1 : place + 2]
            value = flag.partition("=")[2] or (
                after[0] if after and not after[0].startswith("-") else "VALUE"
            )
            return [f"{key}={value}" for key in keys]
    return []


def _near(key: str, command: str) -> list[str]:
    """Keys of a command that may have been meant: spelled alike, or of that name in a group."""
    keys = _keys(command)
    same = [one for one in keys if one.rpartition(".")[2] == key.rpartition(".")[2]]
    return same or difflib.get_close_matches(key, keys, n=1, cutoff=0.7)


def _keys(command: str, prefix: str = "") -> list[str]:
    """All keys of a command that begin with `prefix`."""
    from anomaly.config import SCHEMAS
    from anomaly.config.bounds import key_names

    return (
        [one for one in key_names(SCHEMAS[command]) if one.startswith(prefix)] if command in SCHEMAS else []
    )
