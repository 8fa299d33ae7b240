"""A fit on disk while it runs, so that a power cut or Ctrl-C costs a minute and not the night.

A hidden folder beside the model holds the frozen projection, and the coreset together with how far the
footage has been read, in one file that is replaced whole. It is bound to the footage, the backbone, the
settings and the software: a fit that differs in any of them is refused, so that a slip does not cost the night.
"""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly.artifact import digest_of, write_file
from anomaly.errors import UsageError
from anomaly.fitting.filling import Tally
from anomaly.locks import alone_in
from anomaly.projection import Projection
from memory_bank import MemoryBankError, checkpoint_note, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from memory_bank import StreamingCoreset

_PROJECTION, _CORESET = "projection.safetensors", "coreset.safetensors"
#: A checkpoint is put off until this many times its own writing time has gone by.
_PATIENCE = 20


def checkpoint_folder(model: Path) -> Path:
    """Where the unfinished fit of a model lies: hidden, beside the model folder."""
    return model.parent / f".{model.name}.fit"


def discard_checkpoint(model: Path) -> None:
    """Remove what an unfinished fit of the model left."""
    shutil.rmtree(checkpoint_folder(model), ignore_errors=True)


@contextmanager
def only_fit(model: Path, *, fresh: bool = False) -> Iterator[None]:
    """While no other process fits this model: two would share a checkpoint, and the last one's model would stay.

    Args:
        model: the model folder.
        fresh: throw away what an unfinished fit left.

    Raises:
        UsageError: another process fits it.
    """
    folder = checkpoint_folder(model)
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(
        folder,
        f"{str(model)!r} is being fitted by another process; wait until it has ended, or fit another model",
    ):
        if fresh:
            for left in folder.iterdir():
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        try:
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()  # unless there is something to go on with


def difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """In what an unfinished fit differs from this one, by the digests of what both hang on; "" = nothing."""
    others = [name for name, digest in ours.items() if theirs.get(name) != digest]
    return f"it is of other {', '.join(others)}" if others else ""


def refusal(folder: Path, why: str) -> UsageError:
    """The error for an unfinished fit that is there and cannot be gone on with."""
    return UsageError(
        f"the unfinished fit in {folder} cannot be gone on with: {why}; start it as it was started, fit another model, "
        "or throw it away with fit.fresh=true"
    )


class Pace:
    """How often a fit that runs is saved, and that it is told, once, where it cannot be.

    Args:
        every_s: seconds between checkpoints.
        note: takes lines that the person should read now.

    Attributes:
        saved: whether a checkpoint was ever written, or found.
    """

    def __init__(self, every_s: float, note: Callable[[str], None]) -> None:
        self.saved = False
        self._every_s = every_s
        self._note = note
        self._next = time.monotonic() + every_s
        self._failed = False

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is old enough for another."""
        return time.monotonic() >= self._next

    @contextmanager
    def saving(self, failed: Callable[[Exception], str]) -> Iterator[None]:
        """While a checkpoint is written. One that cannot be stops nothing: `failed` says what to tell."""
        began = time.monotonic()
        try:
            yield
            self.saved = True
        except (OSError, MemoryBankError) as error:
            if not self._failed:
                self._note(failed(error))
            self._failed = True
        ended = time.monotonic()
        self._next = ended + max(self._every_s, _PATIENCE * (ended - began))


class Checkpoint:
    """Saves a fit from time to time, and finds it again.

    Args:
        folder: `checkpoint_folder` of the model.
        bound_to: what the fit hangs on, by name ("footage", "backbone", ...); JSON-able.
        every_s: seconds between checkpoints.
        note: takes lines that the person should read now.
    """

    def __init__(
        self, folder: Path, bound_to: Mapping[str, Any], every_s: float, note: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._bound_to = {name: digest_of(value) for name, value in bound_to.items()}
        self._pace = Pace(every_s, note)

    def resume(self) -> tuple[Projection, StreamingCoreset, Tally] | None:
        """What an unfinished fit left, or None where there is nothing.

        Raises:
            UsageError: there is one that this fit may not go on with.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if not (self._folder / _CORESET).is_file():
            if any(self._folder.glob("shard_*")):
                raise refusal(self._folder, "it was cut into shards (fit.shard_s)")
            return None
        try:
            stored = checkpoint_note(self._folder / _CORESET)
            bound_to = stored["bound_to"]
            why = difference(bound_to, self._bound_to)
            if not why:
                coreset = load_checkpoint(self._folder / _CORESET)
                arrays = load_file(self._folder / _PROJECTION)
                projection = Projection.from_tensors(arrays, stored["explained"])
                self._pace.saved = True
                return projection, coreset, Tally(**stored["tally"])
        except (MemoryBankError, SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            why = f"it cannot be read ({' '.join(str(error).split())})"
        raise refusal(self._folder, why)

    def save_if_due(self, projection: Projection, coreset: StreamingCoreset, tally: Tally) -> None:
        """Save where the last checkpoint is old enough."""
        if self._pace.due:
            self._save(projection, coreset, tally)

    def save_last(self, projection: Projection, coreset: StreamingCoreset, tally: Tally) -> None:
        """Save the whole pass, where it took long enough to have been saved before."""
        if self._pace.saved:
            self._save(projection, coreset, tally)

    def _save(self, projection: Projection, coreset: StreamingCoreset, tally: Tally) -> None:
        from safetensors.numpy import save

        stored = {"bound_to": self._bound_to, "explained": projection.explained, "tally": tally.to_json()}
        with self._pace.saving(
            lambda error: (
                f"no checkpoint could be written ({' '.join(str(error).split())}); the fit goes on, and an "
                "interruption would cost what it has done since the last one"
            )
        ):
            self._folder.mkdir(parents=True, exist_ok=True)
            if not self._pace.saved:
                write_file(self._folder / _PROJECTION, save(projection.to_tensors()))
            save_checkpoint(self._folder / _CORESET, coreset, note=stored)
