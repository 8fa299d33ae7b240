"""Finished shards of a fit on disk, so that an interruption costs only the shards that were being worked on.

They lie where `Checkpoint` keeps its file, one file a shard, each bound to what the fit hangs on. The banks
are kept as they are, so that a fit that is gone on with merges the same parts as one that was not stopped.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.artifact import digest_of, write_file
from anomaly.errors import UsageError
from anomaly.fitting.checkpoint import difference, refusal
from anomaly.fitting.filling import Tally
from anomaly.projection import Projection
from memory_bank import MemoryBankError, Part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_PROJECTION = "projection"
#: Where `Checkpoint` keeps a fit that is not cut into shards.
_ONE_STREAM = "coreset.safetensors"


class FinishedShards:
    """Keeps the projection and the finished shards of a fit, and finds them again.

    Args:
        folder: `checkpoint_folder` of the model.
        bound_to: what the fit hangs on, by name; JSON-able.
        note: takes lines that the person should read now.
    """

    def __init__(self, folder: Path, bound_to: Mapping[str, Any], note: Callable[[str], None]) -> None:
        self._folder = folder
        self._bound_to = {name: digest_of(value) for name, value in bound_to.items()}
        self._note = note
        self._failed = False

    def projection(self) -> Projection | None:
        """The projection of an unfinished fit, or None where there is none.

        Raises:
            UsageError: there is one that this fit may not go on with.
        """
        if (self._folder / _ONE_STREAM).is_file():
            raise refusal(self._folder, "it was not cut into shards (fit.shard_s)")
        if not self._path(_PROJECTION).is_file():
            return None
        try:
            arrays, about = self._read(_PROJECTION)
        except UsageError:
            if any(self._folder.glob("shard_*")):
                raise
            return None  # nothing hangs on it yet
        return Projection.from_tensors(arrays, about["explained"])

    def tell(self, count: int) -> None:
        """Say how many shards were there already."""
        if count:
            self._note(f"went on with {count} finished shard{'s' if count > 1 else ''} of an unfinished fit")

    def keep_projection(self, projection: Projection) -> None:
        """Before the first shard."""
        self._write(_PROJECTION, projection.to_tensors(), {"explained": projection.explained})

    def holds(self, number: int) -> bool:
        """Whether a shard was finished before."""
        return self._path(f"shard_{number}").is_file()

    def shard(self, number: int) -> tuple[Part, Tally]:
        """A shard that is held.

        Raises:
            UsageError: it cannot be read, or is of another fit.
        """
        arrays, about = self._read(f"shard_{number}")
        try:
            return Part.from_state(arrays, about["part"]), Tally(**about["tally"])
        except (MemoryBankError, KeyError, TypeError) as error:
            raise refusal(
                self._folder, f"shard {number} cannot be read ({' '.join(str(error).split())})"
            ) from error

    def keep_shard(self, number: int, part: Part, tally: Tally) -> bool:
        """As soon as it is finished; whether it is held now."""
        arrays, about = part.state()
        return self._write(f"shard_{number}", arrays, {"part": about, "tally": tally.to_json()})

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"

    def _read(self, name: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        from safetensors import SafetensorError, safe_open

        path = self._path(name)
        try:
            with safe_open(str(path), "numpy") as file:
                about: dict[str, Any] = json.loads((file.metadata() or {})["about"])
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            why = difference(about["bound_to"], self._bound_to)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise refusal(
                self._folder, f"{path.name} cannot be read ({' '.join(str(error).split())})"
            ) from error
        if why:
            raise refusal(self._folder, why)
        return arrays, about

    def _write(self, name: str, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> bool:
        from safetensors.numpy import save

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            metadata = {"about": json.dumps({**about, "bound_to": self._bound_to})}
            dense = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
            write_file(self._path(name), save(dense, metadata=metadata))
        except OSError as error:
            if not self._failed:
                self._note(
                    f"a finished shard could not be kept ({error.strerror or error}); the fit goes on, and an "
                    "interruption would cost that shard's work"
                )
            self._failed = True
            return False
        return True
