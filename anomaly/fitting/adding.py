"""Footage of normal work added to a model that is there, by rows that its bank lacks.

The new footage is seen as the model sees: its own network, projection, regions and rate. What its bank covers already
is counted; the rest becomes rows. No row goes, so no frame scores higher than before, and the held-out scores in the
model, measured with a bank that knew less, stay an upper end of what normal footage scores (decision 18). A bank
that has no room for what is strange stays as it is, unless all rows are to be chosen anew. Then, or where more rows may
raise scores (`rows_only_lower`), the held-out scores are no such end and are removed. So are the scores of labelled footage in any case: an anomaly that resembles
what was added scores lower now, and a recall told by them would be too high.

The scale stays: 1 remains the score of an ordinary frame of the first footage, so that scores from before and after
can be compared; a new ordinary frame may score a little less.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.artifact import LOOKS, added_files, archive_bytes, file_digest, read_description, save_folder
from anomaly.banks import coverage_bound, only_branch, without_files
from anomaly.errors import ModelError, NoFootageError, UsageError
from anomaly.exemplars import carry_over, exemplars_of, load_exemplars, make_exemplars
from anomaly.fitting.filling import Tally, fill, new_coreset
from anomaly.fitting.holdout import rows_only_lower
from anomaly.fitting.options import FitOptions
from anomaly.fitting.reading import Reader, probe_all
from anomaly.model import bank_entry, bank_file
from anomaly.scores import packed, read_series
from anomaly.splits import Span
from memory_bank import Additions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anomaly.footage.source import Source
    from anomaly.model import Model
    from memory_bank import Grown, MemoryBank

    Tell = Callable[[str, float, float | None], None]


@dataclass
class Added:
    """What was added to a model; distances divided by its scale are scores.

    Attributes:
        bank: that the model has now.
        grown: what it came to. Where no row is new and none went, the model was not written.
        size: most rows of the bank.
        within: a patch this near to a row counted as covered (the bank's distances).
        scale: the distance that a score of 1 stands for.
        tally: frames and sources that were read.
        damaged: what was wrong with the footage.
        holdout_kept: whether the scores of held-out footage still hold.
    """

    bank: MemoryBank
    grown: Grown
    size: int
    within: float
    scale: float
    tally: Tally
    damaged: list[str] = field(default_factory=list)
    holdout_kept: bool = True

    @property
    def changed(self) -> bool:
        """Whether the model's bank is another than before."""
        return bool(self.grown.added) or self.grown.merged is not None


def unknown_sources(
    description: Mapping[str, Any], sources: Sequence[Source]
) -> tuple[dict[str, Source], list[str]]:
    """Which files a model has not learned from yet, by their contents; under names that no other clip has in it.

    Args:
        description: the model's `model.json`.
        sources: what was found.

    Returns:
        (new ones by sha256, names of the others).

    Raises:
        UsageError: none is new.
    """
    taken = _contents(description)
    learned = {str(one["sha256"]) for one in description["fitted_on"]}
    fresh: dict[str, Source] = {}
    known = []
    for source in sources:
        digest = file_digest(source.path)
        if digest in learned or digest in fresh:
            known.append(source.name)
            continue
        name = _free_name(source, digest, taken)
        taken.setdefault(name, set()).add(digest)
        fresh[digest] = replace(source, name=name)
    if not fresh:
        more = f" (and from the rest of the {len(known)} given)" if len(known) > 1 else ""
        raise UsageError(
            f"the model has learned from {known[0]!r} already{more}; give footage that is new to it"
        )
    return fresh, known


def _contents(description: Mapping[str, Any]) -> dict[str, set[str]]:
    """sha256 of the clips that have a name in the model; of none that is only in its bank it is known."""
    taken: dict[str, set[str]] = {name: set() for name in only_branch(description)["bank"]["sources"]}
    told, fit = description["fitted_on"], description["fit"]
    for name, digest in (
        *((one["source"], one["sha256"]) for one in told),
        *zip(fit["holdout_sources"], fit.get("holdout_sha256", ()), strict=False),
    ):
        taken.setdefault(name, set()).add(digest)
    return taken


def _free_name(source: Source, digest: str, taken: Mapping[str, set[str]]) -> str:
    """The source's name, with as many of the folders above it as tell it from other clips."""
    parts, own = os.path.abspath(source.path).split(os.sep)[1:], source.name.count("/") + 1
    names = [source.name, *("/".join(parts[-count:]) for count in range(own + 1, len(parts) + 1))]
    # Where a file took the place of one that was learned, no folder tells them apart.
    return next(
        (name for name in names if taken.get(name, {digest}) == {digest}), f"{digest[:8]}/{source.name}"
    )


def add_footage(
    model: Model,
    fresh: Mapping[str, Source],
    *,
    size: int | None = None,
    anew: bool = False,
    refuse_damage: bool = False,
    exemplar_bytes: int = 0,
    progress: Tell | None = None,
) -> Added:
    """Add footage to a model, in place; where its bank covers all of it, the model is left as it is.

    Covered is what lies as near to a row as the bank's own footage does, and no further than an ordinary frame scores.
    Rows are added, those that are strangest first, until all is covered or the bank is full. Then
    what scores as an ordinary frame may stay out, and nothing else.

    Args:
        model: loaded with torch; of one branch.
        fresh: the footage, by sha256 (`unknown_sources`).
        size: most rows; None = `rows_at_most`.
        anew: where more would stay out, choose all rows anew, at the cost of the held-out scores.
        refuse_damage: raise on a damaged file instead of learning what can be read.
        exemplar_bytes: where the model keeps crops, they may take so many bytes, or as many as they do.
        progress: called with (what is being done, units done so far, units in all or None).

    Raises:
        NoFootageError: no frame could be read.
        DamagedFootageError: a damaged file, where damage is to be refused.
        UsageError: `size` is below what the bank holds, or below what this footage needs.
        ModelError: several branches, or another command changed the model meanwhile.
        OSError: the disk is full, or may not be written; the model is as it was.
    """
    tell: Tell = progress or (lambda what, done, total: None)
    description, (branch, *_) = model.description, model.detector.branches
    only_branch(description)
    options = _options(description, branch.bank, size, refuse_damage)
    within = options.radius or min(_covering(description), branch.scale)
    damaged: list[str] = []
    usable, infos = probe_all(list(fresh.values()), damaged, tell, refuse_damage=refuse_damage)
    reader = Reader(
        {name: info.duration_s for name, info in infos.items()}, {}, options.refuse_damage, damaged
    )
    spans = [Span(source, 0.0, float("inf")) for source in usable]
    expected = sum(reader.expected(span, options.fps) for span in spans)
    counts = model.detector.regions.patch_mask(*branch.backbone.grid).ravel()
    # No smaller where less is asked for: the size that is told to be enough must be enough when it is given.
    apart = max(rows_at_most(description, branch.bank), options.bank_size - len(branch.bank))
    gathered = Additions(
        branch.bank,
        within,
        new_coreset(branch.projection, replace(options, bank_size=apart, radius=options.part_radius)),
    )
    tally = Tally()

    def after_batch() -> None:
        tell("looking for what is new", tally.frames, expected)

    fill(gathered, tally, branch.backbone, branch.projection, counts, spans, reader, options.fps, after_batch)
    if not tally.frames:
        raise NoFootageError(
            f"no frame could be read of {len(fresh)} sources ({damaged[0] if damaged else 'they are empty'}); give "
            "footage that FFmpeg or OpenCV reads"
        )
    tell("choosing rows", 0, None)
    enough = options.radius or branch.scale
    bank, grown = gathered.finish(options.bank_size, options.part_radius or within, enough, anew=anew)
    if grown.merged is None and grown.needed > options.bank_size and grown.largest > enough:
        raise _no_room(len(branch.bank), options.bank_size, grown, branch.scale, anew)
    added = Added(bank, grown, options.bank_size, within, branch.scale, tally, damaged=damaged)
    added.holdout_kept = grown.merged is None and rows_only_lower(branch.reweight, branch.index)
    if added.changed:
        added.bank = bank.as_float16() if branch.bank.storage == "float16" else bank
        _write(model, fresh, added, exemplar_bytes, tell)
    return added


def rows_at_most(description: Mapping[str, Any], bank: MemoryBank) -> int:
    """How many rows a model's bank may have: as it was fitted, or the default of `fit` where it does not tell."""
    return max(description["fit"].get("size") or FitOptions.bank_size, len(bank))


def _no_room(rows: int, size: int, grown: Grown, scale: float, anew: bool) -> UsageError:
    why = (
        "and rows chosen anew would hold none of it"
        if anew
        else "or anew=true to choose all rows anew, which drops some and with them the hold-out's scores"
    )
    return UsageError(
        f"the bank holds {rows:,} of {size:,} rows, and this footage lies up to {grown.largest_before / scale:.2f} from the "
        f"nearest (1 = the score of an ordinary frame); nothing was added: give size={grown.needed}, with which no row is "
        f"dropped, {why}"
    )


def _options(
    description: Mapping[str, Any], bank: MemoryBank, size: int | None, refuse_damage: bool
) -> FitOptions:
    """As the model was fitted, as far as it tells."""
    fit = description["fit"]
    if size is not None and size < len(bank):
        raise UsageError(
            f"size={size} is below the {len(bank)} rows that the bank holds; give as many or more, since adding drops none"
        )
    return FitOptions(
        fps=description["sampling"]["fit_fps"],
        bank_size=size or rows_at_most(description, bank),
        radius=fit.get("radius"),
        place_weight=bank.place_weight,
        seed=description["seed"],
        refuse_damage=refuse_damage,
    )


def _covering(description: Mapping[str, Any]) -> float:
    """How far the footage that was fitted is from the bank: measured, or proven; inf where neither is known any more."""
    coverage = description["fit"]["coverage"] or {}
    return float(coverage.get("largest", coverage.get("largest_bound", math.inf)))


def _write(model: Model, fresh: Mapping[str, Source], added: Added, exemplar_bytes: int, tell: Tell) -> None:
    """Put the model with its new bank in place of the old one."""
    _refuse_changed(model)
    folder, description, bank, grown = model.folder, model.description, added.bank, added.grown
    branch = only_branch(description)
    sources = {source.name: digest for digest, source in fresh.items()}
    files = {
        "projection.safetensors": (folder / "projection.safetensors").read_bytes(),
        "scores.npz": archive_bytes(
            packed("holdout", read_series(folder, "holdout") if added.holdout_kept else [])
        ),
        **bank_file(branch["name"], bank),
        **_exemplars(model, list(fresh.values()), bank, exemplar_bytes, tell),
    }
    fitted = [
        *description["fitted_on"],
        *(
            {"source": name, "sha256": sources[name], "frames": facts["frames"], "last_s": facts["last_s"]}
            for name, facts in added.tally.sources.items()
        ),
    ]
    fit = description["fit"]
    nothing_held: dict[str, Any] = {
        "holdout_sources": [], "holdout_sha256": [], "holdout_frames_learned": 0, "gain_of_second_half": None,
    }  # fmt: skip
    changed = {
        **without_files(description),
        "branches": [{**branch, "bank": bank_entry(bank)}],
        "fitted_on": fitted,
        "fit": {
            **fit,
            **({} if added.holdout_kept else nothing_held),
            **({"merge": asdict(grown.merged)} if grown.merged else {}),
            "frames": fit["frames"] + added.tally.frames,
            "patches": fit["patches"] + added.tally.patches,
            "size": added.size,
            "coverage": _coverage(description, grown, bank.rounding),
        },
    }
    _refuse_changed(model)  # the crops took a while
    save_folder(folder, files, changed, added_files(folder, ("thresholds", LOOKS)))


def _refuse_changed(model: Model) -> None:
    """Nothing comes back that was forgotten in the meantime."""
    if read_description(model.folder)["digest"] != model.description["digest"]:
        raise ModelError(
            f"{str(model.folder)!r} was changed by another command while the footage was read; run this one again"
        )


def _coverage(description: Mapping[str, Any], grown: Grown, rounding: float) -> dict[str, Any] | None:
    """What is true of the footage before and of the new one; what was measured when it was fitted is an upper end."""
    coverage, bound = description["fit"]["coverage"], coverage_bound(description)
    if bound is None:
        return None if grown.merged is not None else coverage
    if grown.merged is not None:
        return {"largest_bound": max(bound + grown.merged.largest, grown.largest) + rounding}
    return {**coverage, "largest_bound": max(bound, grown.largest + rounding)}


def _exemplars(
    model: Model, sources: Sequence[Source], bank: MemoryBank, most_bytes: int, tell: Tell
) -> dict[str, bytes]:
    """The crops that the model has, and such of the new rows by their share of the bank; none where it keeps none."""
    earlier = load_exemplars(model.folder)
    if earlier is None:
        return {}
    (branch,) = model.detector.branches
    most_bytes = max(most_bytes, sum(path.stat().st_size for path in (model.folder / "exemplars").glob("*")))
    names = [number for number, name in enumerate(bank.sources) if name not in branch.bank.sources]
    new = bank.subset(np.isin(bank.origins.source, names))
    room = round(most_bytes * len(new) / len(bank))
    made = make_exemplars(new, sources, model.detector.regions, branch.backbone.grid, room, tell)
    return carry_over(bank, [(new, exemplars_of(made)), (branch.bank, earlier)], most_bytes)
