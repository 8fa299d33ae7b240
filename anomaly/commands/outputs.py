"""What a command is to write is looked at before it reads any footage, not after an hour of work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anomaly.verbs import Flag


def check_outputs(flags: Sequence[Flag], values: Mapping[str, Any]) -> None:
    """Whether all that flags name can be written: files where no folder is, in folders that may be written.

    Args:
        flags: of the command; those that write nothing are passed over.
        values: what was given, by the flags' names; None = nothing.

    Raises:
        UsageError: one cannot be written; it is named, with its value.
    """
    for flag in flags:
        if flag.writes and values[flag.name] is not None:
            check_output(flag.name, Path(values[flag.name]), folder=flag.metavar == "DIR")


def page_beside(model: str, what: str, given: str | None) -> Path:
    """Where a page on a model is written: as given, else beside the model's folder, by its name."""
    folder = Path(os.path.abspath(model)) if Path(model).name in ("", "..") else Path(model)
    return Path(given) if given else folder.parent / f"{folder.name}_{what}.html"


def check_output(option: str, path: Path, *, folder: bool, renamed: bool = False) -> None:
    """Whether a file or a folder can be written.

    Args:
        option: how it was given.
        path: what was given.
        folder: it is a folder.
        renamed: the folder is written beside its place, and renamed.

    Raises:
        UsageError: it cannot.
    """
    given = f"{option} {str(path)!r}"
    if folder and path.exists() and not path.is_dir():
        raise UsageError(f"{given} is a file; give a folder")
    if not folder and path.is_dir():
        raise UsageError(f"{given} is a folder; give the name of a file")
    # What is not there yet is made, in the first folder above that is.
    room = path if folder and not renamed else path.parent
    while not room.exists() and room != room.parent:
        room = room.parent
    if not room.is_dir():
        raise UsageError(f"{given} cannot be written: {str(room)!r} is a file; give another place")
    if not os.access(room, os.W_OK | os.X_OK):
        raise UsageError(
            f"{given} cannot be written: the folder {str(room)!r} is write-protected for this user; make it writable, "
            "or give another place"
        )
