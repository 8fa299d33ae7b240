"""A streaming fit on disk: one safetensors file, replaced whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from memory_bank.coreset import StreamingCoreset
from memory_bank.errors import MemoryBankError


def save_checkpoint(
    path: str | Path, coreset: StreamingCoreset, *, note: Mapping[str, Any] | None = None
) -> None:
    """Write a coreset's state under a temporary name, sync it, and put it in the place of the last one.

    Args:
        path: of the file.
        coreset: stays as it is.
        note: JSON-able; what the caller wants to know when it goes on (`checkpoint_note`), such as how far
            the footage has been read. It is in the same file, so that it never tells of another state.

    Raises:
        MemoryBankError: the disk is full or cannot be written; the last checkpoint is still there.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    arrays, about = coreset.state()
    data = save(arrays, metadata={"coreset": json.dumps(about), "note": json.dumps(dict(note or {}))})
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise MemoryBankError(
            f"cannot write the checkpoint {path} ({len(data)} bytes): {error.strerror or error}; "
            "free some room, the last checkpoint is unharmed"
        ) from error


def load_checkpoint(path: str | Path, *, features: str | None = None) -> StreamingCoreset:
    """Go on from a checkpoint.

    Args:
        path: what `save_checkpoint` wrote.
        features: the caller's present name for what makes the features; another one is refused.

    Raises:
        MemoryBankError: no such file, a damaged one, or one of other features.
    """
    try:
        with safe_open(str(path), "numpy") as file:
            about = json.loads((file.metadata() or {})["coreset"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise _unreadable(path, error) from error
    return StreamingCoreset.from_state(arrays, about, features=features)


def checkpoint_note(path: str | Path) -> dict[str, Any]:
    """What `save_checkpoint` was given as a note; raises MemoryBankError as `load_checkpoint` does."""
    try:
        with safe_open(str(path), "numpy") as file:
            note: dict[str, Any] = json.loads((file.metadata() or {})["note"])
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise _unreadable(path, error) from error
    return note


def _unreadable(path: str | Path, error: Exception) -> MemoryBankError:
    text = " ".join(str(error).split())
    return MemoryBankError(f"cannot read the checkpoint {path} ({text}); delete it to fit anew")
