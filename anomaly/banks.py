"""Memory banks of whole model folders: merged, or with a clip forgotten. No network is loaded for it.

A bank that changes is another bank: what was calibrated with the old one still alarms and is UNCERTIFIED, because
the bank's digest is among those that a certificate hangs on.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.artifact import (
    ADDED_KEYS,
    LOOKS,
    added_files,
    archive_bytes,
    check_place,
    read_description,
    save_folder,
)
from anomaly.errors import ModelError, UsageError
from anomaly.evidence import FOLDER as EVIDENCE
from anomaly.evidence import has_evidence, load_evidence
from anomaly.exemplars import carry_over, load_exemplars
from anomaly.looks import Look, joined, looks_at, looks_bytes
from anomaly.model import bank_entry, bank_file, load_bank, software
from anomaly.scores import packed, scores_without
from memory_bank import Forgotten, MemoryBank, forget_source, merge_banks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memory_bank import Merged

#: Of a model's files, those that stay with a changed bank: a threshold to alarm by, evidence to check it on, and
#: what was tried on labelled clips.
_KEPT = ("thresholds", EVIDENCE, LOOKS)
#: The name of a recorded piece, painted or not; its camera is there where footage of several was given together.
_RECORDED = re.compile(
    r"(?:(?P<camera>[^/]+)/)?(?P<day>\d{8})/(?P<time>\d{6}\.\d{3})(?:\.m[0-9a-f]{16})?\.mp4$"
)
#: A piece lasts ten seconds, to the next keyframe; with a keyframe every ten, twice that. Generously:
_LONGEST_PIECE_S = 60.0
#: Exemplars of a merged model may take as much as those of its inputs together, and no more than this.
_MOST_EXEMPLAR_BYTES = 32_000_000


def clips_between(
    folder: Path, camera: str | None, start_utc_s: float, end_utc_s: float
) -> tuple[list[str], list[str]]:
    """Which clips of a model, bank and evidence, were recorded at start <= time < end, by their names.

    `record` writes `<camera>/<YYYYmmdd>/<HHMMSS.mmm>.mp4`, UTC, with a mark before `.mp4` where masks were painted. A clip lasts to the next of its day and folder, and
    `_LONGEST_PIECE_S` at most: more is forgotten rather than less.

    Args:
        folder: the model.
        camera: only clips whose name holds this folder; None = all. A name that begins with the day holds no camera
            and counts as that camera's.

    Returns:
        (the clips, those whose names do not tell when they were recorded).
    """
    description = read_description(folder)
    names = set(load_bank(folder, only_branch(description)).sources)
    names |= {one["source"] for one in description["fitted_on"]}
    if has_evidence(folder):
        names |= {stretch.source for stretch in load_evidence(folder).stretches}
    found, undated = [], []
    starts: dict[str, list[tuple[float, str]]] = {}
    for name in sorted(names):
        told = _RECORDED.search(name)
        if told is None:
            undated.append(name)
            continue
        of = told["camera"]
        if camera is None or of is None or of == camera:
            when = datetime.strptime(told["day"] + told["time"], "%Y%m%d%H%M%S.%f").replace(tzinfo=UTC)
            starts.setdefault(name[: told.start("day")], []).append((when.timestamp(), name))
    for pieces in starts.values():
        pieces.sort()
        ends = [*(start for start, _ in pieces[1:]), math.inf]
        for (start, name), following in zip(pieces, ends, strict=True):
            end = min(following, start + _LONGEST_PIECE_S)
            if start < end_utc_s and end > start_utc_s:
                found.append(name)
    return found, undated


def forget_clips(folder: Path, clips: Sequence[str]) -> tuple[MemoryBank, Forgotten, float]:
    """Take clips out of a model, in place: rows, crops, scores, and the evidence where it shows one of them.

    Held-out footage that was scored with rows that go would score higher now, so its scores go, too. Those of rows that
    came after it was scored (its own, and what was added) leave them an upper end of what normal footage scores.

    Evidence goes as a whole: what is left of it would check a bank that is no more; `calibrate` writes it anew.

    Args:
        folder: the model.
        clips: names of sources, as in the bank; those of the evidence may be no part of it.

    Returns:
        The bank that is left, what it lost, and the distance that a score of 1 stands for.

    Raises:
        ModelError: no model.
        MemoryBankError: a clip is neither in the bank nor in the evidence, or nothing would be left.
    """
    description = read_description(folder)
    branch = only_branch(description)
    before = load_bank(folder, branch)
    shown = {one.source for one in load_evidence(folder).stretches} if has_evidence(folder) else set()
    told = {one["source"] for one in description["fitted_on"]}
    # Held-out footage may be in no row; its frames may be evidence, and are told as what was fitted on.
    learned = [clip for clip in dict.fromkeys(clips) if clip in before.sources or clip not in shown | told]
    bank, forgotten = before, Forgotten(0, 0, 0, 0.0, 0.0, len(before))
    if learned:
        bank, forgotten = forget_source(before, *learned)
    stale = forgotten.first < description["fit"].get("holdout_rows", len(before))
    held = description["fit"]["holdout_sources"]
    kept = [name for name in _KEPT if name != EVIDENCE or not shown & set(clips)]
    exemplars = load_exemplars(folder)
    taken = sum(path.stat().st_size for path in (folder / "exemplars").glob("*"))
    files = {
        "projection.safetensors": (folder / "projection.safetensors").read_bytes(),
        "scores.npz": scores_without(folder, clips, holdout=not stale),
        **bank_file(branch["name"], bank),
        **carry_over(bank, [(before, exemplars)], taken),
    }
    left = [one for one in description["fitted_on"] if one["source"] not in clips]
    changed = {
        **without_files(description),
        "branches": [{**branch, "bank": bank_entry(bank)}],
        "fitted_on": left,
        "fit": {
            **_without_held_out(description["fit"], held if stale else clips),
            "frames": sum(one["frames"] for one in left),
            "patches": description["fit"]["patches"] - int(before.counts.sum()) + int(bank.counts.sum()),
            "coverage": _coverage_without(description["fit"]["coverage"], forgotten),
        },
        "forgotten": [*description.get("forgotten", []), *clips],
    }
    save_folder(folder, files, changed, added_files(folder, kept))
    return bank, forgotten, float(branch["scale"])


def _coverage_without(coverage: Mapping[str, Any] | None, forgotten: Forgotten) -> dict[str, Any] | None:
    """What is still true of the coverage: a row of unknown clips that goes may have been all that covered a patch."""
    if coverage is None or not forgotten.uncertain:
        return None if coverage is None else dict(coverage)
    return {key: value for key, value in coverage.items() if key != "largest_bound"} or None


def _without_held_out(fit: Mapping[str, Any], clips: Sequence[str]) -> dict[str, Any]:
    digests = fit.get("holdout_sha256", [])
    left = [number for number, name in enumerate(fit["holdout_sources"]) if name not in clips]
    # How many frames of each held-out clip were learned is not kept.
    learned = fit.get("holdout_frames_learned") if len(left) == len(fit["holdout_sources"]) else None
    return {
        **fit,
        "holdout_frames_learned": learned if left else 0,
        "holdout_sources": [fit["holdout_sources"][number] for number in left],
        "holdout_sha256": [digests[number] for number in left if number < len(digests)],
    }


def merge_models(
    folders: Sequence[Path], to: Path, size: int, *, overwrite: bool = False
) -> tuple[MemoryBank, Merged, float]:
    """Merge the memories of several models into a new one.

    The models must have the backbone, the projection and the regions in common (`fit projection.of=MODEL`). Where
    different clips have one name, each is named after its model too. What was tried with any of them on labelled
    clips was tried with the merged one. The result is not calibrated, and without
    hold-out scores: those were measured with other banks.

    Args:
        folders: two or more models.
        to: where the merged model is written.
        size: rows at most.
        overwrite: replace a model that is there.

    Returns:
        The bank, what merging cost, and the distance that a score of 1 stands for.

    Raises:
        UsageError: `to` is one of the models, or holds another that is not to be replaced.
        ModelError: fewer than two models, two that do not fit each other, or one twice.
    """
    if len(folders) < 2:
        raise ModelError(f"{len(folders)} models are nothing to merge; give two or more with --models")
    if to.resolve() in [folder.resolve() for folder in folders]:
        raise UsageError(
            f"--model {str(to)!r} is one of the models to merge; give another folder to write to"
        )
    check_place(to)
    if (to / "model.json").is_file() and not overwrite:
        raise UsageError(
            f"--model {str(to)!r} holds a model already; give another folder, or overwrite=true to replace it"
        )
    descriptions = [read_description(folder) for folder in folders]
    branches = [only_branch(description) for description in descriptions]
    first = descriptions[0]
    for folder, description in zip(folders[1:], descriptions[1:], strict=True):
        what = difference(first, description)
        if what:
            raise ModelError(
                f"{str(folder)!r} has {what} other than {str(folders[0])!r}, so their banks cannot be compared; fit "
                f"it again with projection.of={folders[0]}"
            )
    _check_distinct(folders, descriptions)
    banks = [load_bank(folder, branch) for folder, branch in zip(folders, branches, strict=True)]
    names = _new_names(folders, descriptions)
    banks = [
        bank.replace(sources=[new[name] for name in bank.sources])
        for bank, new in zip(banks, names, strict=True)
    ]
    bounds = [coverage_bound(description) for description in descriptions]
    known = [bound for bound in bounds if bound is not None]
    merged, cost = merge_banks(banks, size, radii=known if len(known) == len(bounds) else None)
    pictures = []
    for folder, bank, new in zip(folders, banks, names, strict=True):
        exemplars = load_exemplars(folder)
        if exemplars is not None:
            sizes = {new[name]: value for name, value in exemplars.sizes.items() if name in new}
            exemplars = replace(exemplars, sizes=sizes)
        pictures.append((bank, exemplars))
    taken = sum(path.stat().st_size for folder in folders for path in (folder / "exemplars").glob("*"))
    scale = float(np.mean([branch["scale"] for branch in branches]))
    files = {
        "projection.safetensors": (folders[0] / "projection.safetensors").read_bytes(),
        "scores.npz": archive_bytes(packed("holdout", [])),
        **bank_file(branches[0]["name"], merged),
        **carry_over(merged, pictures, min(taken, _MOST_EXEMPLAR_BYTES)),
    }
    fitted = [
        {**one, "source": new[one["source"]]}
        for description, new in zip(descriptions, names, strict=True)
        for one in description["fitted_on"]
        if one["source"] in new
    ]
    description = {
        **without_files(first),
        "name": to.name,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": software(),
        "branches": [{**branches[0], "bank": bank_entry(merged), "scale": scale}],
        "fitted_on": fitted,
        "fit": {
            "frames": sum(one["fit"]["frames"] for one in descriptions),
            "patches": sum(one["fit"]["patches"] for one in descriptions),
            "scale": scale,
            "coverage": {"largest_bound": cost.bound} if len(known) == len(bounds) else None,
            "gain_of_second_half": None,
            "holdout_sources": [],
            "seconds": sum(one["fit"]["seconds"] for one in descriptions),
            "size": size,
            "merged_from": [one["name"] for one in descriptions],
            "merge": asdict(cost),
        },
    }
    looks: list[Look] = []
    for folder in (to, *folders):
        looks = joined(looks, looks_at(folder))
    save_folder(to, files, description, {LOOKS: looks_bytes(looks)} if looks else None)
    return merged, cost, scale


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What keeps the banks of two models (their `model.json`) from being compared; "" = nothing."""
    mine, theirs = only_branch(one), only_branch(other)
    for what, same in (
        ("a backbone", mine["backbone"] == theirs["backbone"]),
        ("weights", mine["weights"]["digest"] == theirs["weights"]["digest"]),
        ("an input size", mine["input_size"] == theirs["input_size"]),
        (
            "a projection",
            one["files"]["projection.safetensors"] == other["files"]["projection.safetensors"],
        ),
        ("regions", one["regions"] == other["regions"]),
        ("a bank.reweight", mine.get("reweight", 0) == theirs.get("reweight", 0)),
        ("a bank.index", mine.get("index", "flat") == theirs.get("index", "flat")),
        ("a bank.place_weight", mine["bank"]["place_weight"] == theirs["bank"]["place_weight"]),
    ):
        if not same:
            return what
    return ""


def _check_distinct(folders: Sequence[Path], descriptions: Sequence[Mapping[str, Any]]) -> None:
    """Refuse one bank of the same clips twice: each of its patches would count double."""
    known: dict[tuple[str, frozenset[str]], Path] = {}
    for folder, description in zip(folders, descriptions, strict=True):
        clips = frozenset(str(one["sha256"]) for one in description["fitted_on"])
        first = known.setdefault((str(only_branch(description)["bank"]["digest"]), clips), folder)
        if first is not folder:
            raise ModelError(f"{str(folder)!r} holds the same bank as {str(first)!r}; give it once")


def only_branch(description: Mapping[str, Any]) -> Mapping[str, Any]:
    """The branch of a model's `model.json`; raises ModelError where it has several."""
    branches: list[Mapping[str, Any]] = description["branches"]
    if len(branches) != 1:
        raise ModelError(f"the model has {len(branches)} branches; banks are changed in models of one branch")
    return branches[0]


def without_files(description: Mapping[str, Any]) -> dict[str, Any]:
    """What a `model.json` says, but for what `save_folder` adds."""
    return {key: value for key, value in description.items() if key not in ADDED_KEYS}


def coverage_bound(description: Mapping[str, Any]) -> float | None:
    """How far a fitted patch is from a row of the bank at most, in its distances; None = not known."""
    coverage = description["fit"]["coverage"]
    bound = None if coverage is None else coverage.get("largest_bound")
    return None if bound is None else float(bound)


def _new_names(folders: Sequence[Path], descriptions: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each model the names of its sources in the merged one: as they are, but for names of different clips."""
    contents: dict[str, set[str]] = {}
    for description in descriptions:
        for one in description["fitted_on"]:
            contents.setdefault(one["source"], set()).add(one["sha256"])
    return [
        {
            name: f"{own}/{name}" if len(contents.get(name, ())) > 1 else name
            for name in only_branch(description)["bank"]["sources"]
        }
        for own, description in zip(_told_apart(folders), descriptions, strict=True)
    ]


def _told_apart(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: its own, and of those above it as many as it takes, such as `day1/model`."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names
