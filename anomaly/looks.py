"""Which settings were looked at on which labelled clips: whoever takes the best of several pays for all of them.

A look is one setting whose result on some clips was shown: a calibration, wherever its threshold was written; one
setting of a study; an evaluation. They are kept in the model's `looks.json` and stay with the model when it is fitted
again in its place, so that no order of commands is a way around the price.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anomaly.artifact import LOOKS, read_signed, sign, write_file

if TYPE_CHECKING:
    from pathlib import Path


#: A fit in the same place would keep what nobody can read.
_ANEW = "fit into another folder"


@dataclass(frozen=True, slots=True)
class Look:
    """One setting and the clips it was looked at with.

    Attributes:
        setting: identity of all that was set: model, sampling rate, decider, what the threshold aims at.
        clips: sha256 of each labelled file, and identity of its labels: who leaves a clip out, adds one or labels
            one otherwise after a look has tried another setting.
    """

    setting: str
    clips: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"setting": self.setting, "clips": dict(sorted(self.clips.items()))}

    def within(self, other: Look) -> bool:
        """Whether the other saw all that this one did."""
        return self.setting == other.setting and self.clips.items() <= other.clips.items()


def looks_at(folder: Path) -> list[Look]:
    """The looks that a model folder tells of.

    Raises:
        CorruptModelError: what was remembered is damaged, so that nobody knows what a certificate has to pay for.
    """
    path = folder / LOOKS
    if not path.is_file():
        return []
    return [Look(str(one["setting"]), dict(one["clips"])) for one in read_signed(path, _ANEW)["looks"]]


def remember(folder: Path, new: Iterable[Look]) -> None:
    """Keep looks with a model, besides those that are there; jobs of a sweep may do so at the same time.

    Raises:
        OSError: the folder cannot be written.
        CorruptModelError: as `looks_at`.
    """
    with _alone(folder):
        before = looks_at(folder)
        after = joined(before, (one for one in new if one.clips))
        if after != before:
            write_file(folder / LOOKS, looks_bytes(after))


def looks_bytes(looks: Sequence[Look]) -> bytes:
    """Looks as `looks.json` holds them."""
    return json.dumps(sign({"looks": [one.to_json() for one in looks]}), indent=1).encode() + b"\n"


def joined(looks: Iterable[Look], new: Iterable[Look]) -> list[Look]:
    """Both, each once. With clips added it is another look: who adds until he likes what he sees chose when to stop."""
    kept: list[Look] = []
    for one in [*looks, *new]:
        if one not in kept:
            kept.append(one)
    return kept


def settings_tried(looks: Iterable[Look], new: Iterable[Look], proving: Collection[str]) -> int:
    """How many settings were compared on any of the clips that are to prove something, new ones included; 1 or more.

    A look at one setting with other clips counts as another setting.

    Args:
        looks: what was looked at before.
        new: what is about to be.
        proving: sha256 of the clips.
    """
    return len(joined(_met(looks, proving), new)) or 1


def labelled_otherwise(looks: Iterable[Look], seen: Mapping[str, str], proving: Collection[str]) -> int:
    """How many clips were looked at together with some that are to prove something, and are left out or labelled otherwise now.

    No price for a setting pays for that: whoever leaves out what was missed is asked about other anomalies.

    Args:
        looks: what was looked at before.
        seen: what is about to be, as `Look.clips`.
        proving: sha256 of the clips that are to prove something.
    """
    met = _met(looks, proving)
    return len({clip for one in met for clip, labels in one.clips.items() if seen.get(clip) != labels})


def tried_elsewhere(looks: Iterable[Look], setting: str, proving: Collection[str]) -> int:
    """How many other settings were looked at with none of the clips that are to prove something.

    For recall they cost nothing. The normal footage that a model holds out is the same for all: whoever took the one with
    the fewest false alarms chose on it.

    Args:
        looks: what was looked at before.
        setting: the one that is about to be.
        proving: sha256 of the clips.
    """
    looks = list(looks)
    met = {one.setting for one in _met(looks, proving)}
    return len({one.setting for one in looks} - met - {setting})


def _met(looks: Iterable[Look], proving: Collection[str]) -> list[Look]:
    """The looks that saw any of the clips that are to prove something."""
    return [one for one in looks if not one.clips.keys().isdisjoint(proving)]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other process does the same with this folder; the lock goes with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
