"""Which settings were looked at on which labelled clips: whoever takes the best of several pays for all of them.

A look is one setting whose result on some clips was shown: a calibration, or one setting of a study. They are
kept in `thresholds/*.json` and go with the model, so that calibrating once more with what a study found best, or
studying until it comes out well, is no way around the price.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anomaly.artifact import read_signed
from anomaly.errors import ModelError

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


def looks_in(document: Mapping[str, Any]) -> list[Look]:
    """The looks that a threshold's document tells of."""
    return [Look(str(one["setting"]), frozenset(one["clips"])) for one in document.get("looks", ())]


def looks_at(folder: Path) -> list[Look]:
    """The looks that a model folder tells of; a threshold that cannot be read tells of none."""
    found: list[Look] = []
    for path in sorted((folder / "thresholds").glob("*.json")):
        try:
            found = joined(found, looks_in(read_signed(path)))
        except ModelError:
            continue
    return found


def joined(looks: Iterable[Look], new: Iterable[Look]) -> list[Look]:
    """Both, each setting once with all its clips, in order of appearance."""
    clips: dict[str, frozenset[str]] = {}
    for one in [*looks, *new]:
        clips[one.setting] = clips.get(one.setting, frozenset()) | one.clips
    return [Look(setting, seen) for setting, seen in clips.items()]


def settings_tried(looks: Sequence[Look], new: Iterable[str], clips: frozenset[str]) -> int:
    """How many settings were compared on any of some clips, new ones included; 1 or more."""
    return len({*new, *(one.setting for one in looks if one.clips & clips)}) or 1
