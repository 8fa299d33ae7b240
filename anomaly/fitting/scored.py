"""How far scoring the held-out footage has come, on disk, so that an interruption costs a minute of that, too.

It lies in the folder where `Checkpoint` keeps the bank, and hangs on the filled bank besides. One that does
not belong to this fit is no loss: the footage is scored again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.artifact import digest_of, write_file
from anomaly.fitting.checkpoint import Pace
from anomaly.fitting.filling import Tally
from memory_bank import MemoryBankError, StreamingCoreset

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_FILE = "holdout.safetensors"


@dataclass
class Scored:
    """What held-out frames scored, before scaling, in the order in which they were read.

    Attributes:
        span, frame: the span being read and its last frame that was scored, by its index.
        sources, times, scores: of each frame.
        half: scores of the first frames by half of the bank.
        means: mean patch distance of some frames.
        largest: distance of any patch.
        learned: of the frames that may join the bank.
        damaged: what was wrong with the footage.
    """

    span: int = 0
    frame: int = -1
    sources: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    half: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    largest: float = 0.0
    learned: Tally = field(default_factory=Tally)
    damaged: list[str] = field(default_factory=list)


class ScoredCheckpoint:
    """Saves scores of the hold-out, and what may join the bank of it, from time to time; finds them again.

    Args:
        folder: `checkpoint_folder` of the model.
        bound_to: what they hang on; JSON-able.
        every_s: seconds between checkpoints.
        note: takes lines that the person should read now.
    """

    def __init__(
        self, folder: Path, bound_to: Mapping[str, Any], every_s: float, note: Callable[[str], None]
    ) -> None:
        self._path = folder / _FILE
        self._bound_to = digest_of(bound_to)
        self._note = note
        self._pace = Pace(every_s, note)

    def resume(self) -> tuple[Scored, StreamingCoreset | None] | None:
        """What an interrupted fit left of this, or None."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self._path), "numpy") as file:
                about = json.loads((file.metadata() or {})["about"])
                if about["bound_to"] != self._bound_to:
                    return None
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            columns = {
                name: arrays[f"scored.{name}"].tolist() for name in ("times", "scores", "half", "means")
            }
            names = about["names"]
            scored = Scored(
                about["span"], about["frame"], [names[number] for number in arrays["scored.source"]], **columns,
                largest=float(arrays["scored.largest"][0]), learned=Tally(**about["learned"]), damaged=about["damaged"],
            )  # fmt: skip
            aside = StreamingCoreset.from_state(arrays, about["coreset"]) if about["coreset"] else None
        except (OSError, SafetensorError, MemoryBankError, KeyError, TypeError, ValueError, IndexError):
            return None  # there is none, or it cannot be read: scoring starts anew
        self._pace.saved = True
        self._note(f"went on with {len(scored.scores)} held-out frames that were scored before")
        return scored, aside

    def save_if_due(self, scored: Scored, aside: StreamingCoreset | None) -> None:
        """Save where the last checkpoint is old enough."""
        if self._pace.due:
            self._save(scored, aside)

    def save_last(self, scored: Scored, aside: StreamingCoreset | None) -> None:
        """Save all, where it took long enough to have been saved before."""
        if self._pace.saved:
            self._save(scored, aside)

    def _save(self, scored: Scored, aside: StreamingCoreset | None) -> None:
        from safetensors.numpy import save

        with self._pace.saving(
            lambda error: (
                f"the hold-out's scores could not be kept ({getattr(error, 'strerror', None) or error}); the fit goes on, and an "
                "interruption would cost them"
            )
        ):
            arrays, coreset = aside.state() if aside else ({}, None)
            names = list(dict.fromkeys(scored.sources))
            number = {name: position for position, name in enumerate(names)}
            arrays["scored.source"] = np.array([number[name] for name in scored.sources], np.int64)
            for name in ("times", "scores", "half", "means"):
                arrays[f"scored.{name}"] = np.array(getattr(scored, name), np.float64)
            arrays["scored.largest"] = np.array([scored.largest])
            about = {
                "bound_to": self._bound_to, "span": scored.span, "frame": scored.frame, "names": names,
                "learned": scored.learned.to_json(), "damaged": scored.damaged, "coreset": coreset,
            }  # fmt: skip
            self._path.parent.mkdir(parents=True, exist_ok=True)
            dense = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            write_file(self._path, save(dense, metadata={"about": json.dumps(about)}))
