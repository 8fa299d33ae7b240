"""Finished shards of a fit on disk, so that an interruption costs only the shards that were being worked on.

They lie where `Checkpoint` keeps its file, one file a shard, each bound to what the fit hangs on. The banks
are kept as they are, so that a fit that is gone on with merges the same parts as one that was not stopped.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.artifact import digest_of, write_file
from anomaly.fitting.filling import Tally
from anomaly.projection import Projection
from memory_bank import MemoryBankError, Part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_PROJECTION = "projection"


class FinishedShards:
    """Keeps the projection and the finished shards of a fit, and finds them again.

    Args:
        folder: `checkpoint_folder` of the model.
        bound_to: what the fit hangs on, by name; JSON-able.
        note: takes lines that the person should read.
    """

    def __init__(self, folder: Path, bound_to: Mapping[str, Any], note: Callable[[str], None]) -> None:
        self._folder = folder
        self._bound_to = {name: digest_of(value) for name, value in bound_to.items()}
        self._note = note
        self._failed = False

    def projection(self) -> Projection | None:
        """The projection of an unfinished fit that this one may go on with; what is of another fit is removed."""
        found = self._read(_PROJECTION)
        if found is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            return None
        arrays, about = found
        return Projection.from_tensors(arrays, about["explained"])

    def tell(self, count: int) -> None:
        """Say how many shards were there already."""
        if count:
            self._note(f"went on with {count} finished shard{'s' if count > 1 else ''} of an unfinished fit")

    def keep_projection(self, projection: Projection) -> None:
        """Before the first shard."""
        self._write(_PROJECTION, projection.to_tensors(), {"explained": projection.explained})

    def shard(self, number: int) -> tuple[Part, Tally] | None:
        """A shard that was finished before, or None."""
        found = self._read(f"shard_{number}")
        if found is None:
            return None
        arrays, about = found
        try:
            return Part.from_state(arrays, about["part"]), Tally(**about["tally"])
        except (MemoryBankError, KeyError, TypeError):
            return None

    def keep_shard(self, number: int, part: Part, tally: Tally) -> None:
        """As soon as it is finished."""
        arrays, about = part.state()
        self._write(f"shard_{number}", arrays, {"part": about, "tally": tally.to_json()})

    def _read(self, name: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
        from safetensors import SafetensorError, safe_open

        path = self._folder / f"{name}.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(str(path), "numpy") as file:
                about: dict[str, Any] = json.loads((file.metadata() or {})["about"])
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            bound_to = about["bound_to"]
            others = [key for key, digest in self._bound_to.items() if bound_to.get(key) != digest]
            why = f"it is of other {' and '.join(others)}" if others else ""
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            why = f"{path.name} cannot be read ({' '.join(str(error).split())})"
        if why:
            self._note(f"part of the unfinished fit in {self._folder} is not gone on with: {why}")
            return None
        return arrays, about

    def _write(self, name: str, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> None:
        from safetensors.numpy import save

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            metadata = {"about": json.dumps({**about, "bound_to": self._bound_to})}
            dense = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
            write_file(self._folder / f"{name}.safetensors", save(dense, metadata=metadata))
        except OSError as error:
            if not self._failed:
                self._note(
                    f"a finished shard could not be kept ({error.strerror or error}); the fit goes on, and an "
                    "interruption would cost that shard's work"
                )
            self._failed = True
