"""Which settings were looked at on which labelled clips: whoever takes the best of several pays for all of them.

A look is one setting whose result on some clips was shown: a calibration, wherever its threshold was written; one
setting of a study; an evaluation. They are kept in the model's `looks.json` and stay with the model when it is fitted
again in its place, so that no order of commands is a way around the price.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anomaly.artifact import LOOKS, read_signed, sign, write_file

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Look:
    """One setting and the clips it was looked at with.

    Attributes:
        setting: identity of all that was set: model, sampling rate, decider, what the threshold aims at.
        clips: sha256 of the labelled files.
    """

    setting: str
    clips: frozenset[str]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"setting": self.setting, "clips": sorted(self.clips)}


def looks_at(folder: Path) -> list[Look]:
    """The looks that a model folder tells of.

    Raises:
        CorruptModelError: what was remembered is damaged, so that nobody knows what a certificate has to pay for.
    """
    path = folder / LOOKS
    if not path.is_file():
        return []
    return [Look(str(one["setting"]), frozenset(one["clips"])) for one in read_signed(path)["looks"]]


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
    """Both, each setting once with all its clips, in order of appearance."""
    clips: dict[str, frozenset[str]] = {}
    for one in [*looks, *new]:
        clips[one.setting] = clips.get(one.setting, frozenset()) | one.clips
    return [Look(setting, seen) for setting, seen in clips.items()]


def settings_tried(looks: Sequence[Look], new: Iterable[str], clips: frozenset[str]) -> int:
    """How many settings were compared on any of some clips, new ones included; 1 or more."""
    return len({*new, *(one.setting for one in looks if one.clips & clips)}) or 1


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other process does the same with this folder; the lock goes with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
