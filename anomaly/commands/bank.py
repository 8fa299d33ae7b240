"""`anomaly bank`: look into a model's memory, add footage to it, merge models, forget a clip."""

from __future__ import annotations

from datetime import UTC, datetime
from glob import escape as glob_escape
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anomaly.artifact import read_description
from anomaly.banks import clips_between, forget_clips, merge_models
from anomaly.commands import console
from anomaly.commands.outputs import check_output
from anomaly.config import BankConfig
from anomaly.errors import UsageError
from anomaly.evidence import has_evidence
from anomaly.exported import exports
from anomaly.footage.damage import refuses
from anomaly.footage.source import find_sources
from anomaly.model import load_bank, load_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomaly.config import BankCommandConfig
    from anomaly.fitting import Added
    from memory_bank import MemoryBank


_NO_HOLDOUT = (
    "Until `fit` learns from all footage anew, false alarms are measured on the normal clips among --labeled alone, and "
    "without such no certificate is given."
)


def run(config: BankCommandConfig) -> None:
    """Do what ACTION says."""
    actions = {"info": _info, "add": _add, "merge": _merge, "forget": _forget}
    if config.action not in actions:
        raise UsageError(f"bank {config.action!r} is not an action; choose info, add, merge or forget")
    actions[config.action](config)


def _info(config: BankCommandConfig) -> None:
    folder = Path(config.model)
    description = read_description(folder)
    for branch in description["branches"]:
        bank = load_bank(folder, branch)
        size = (folder / "banks" / f"{branch['name']}.safetensors").stat().st_size
        table = [
            ("rows", f"{len(bank):,} of {bank.dim} dimensions, {bank.storage}, {size / 1e6:.1f} MB"),
            ("stand for", f"{int(bank.counts.sum()):,} patches"),
        ]
        if branch.get("index", "flat") != "flat":
            table.append(("search", f"by index {branch['index']}"))
        coverage = description["fit"]["coverage"]
        if coverage and "mean" in coverage:
            mean, largest = coverage["mean"] / branch["scale"], coverage["largest"] / branch["scale"]
            table.append(("coverage", f"{mean:.2f} on average, {largest:.2f} at most, when it was fitted"))
        own = np.bincount(bank.origins.source, minlength=len(bank.sources))
        alone = _rows_for_one_source(bank)
        for number, name in enumerate(bank.sources):
            said = f"{own[number]:,} rows are of it; forgetting it drops {alone[number]:,} rows"
            table.append((name, said))
        console.table(f"Bank {branch['name']} of {description['name']}", table)


def _rows_for_one_source(bank: MemoryBank) -> np.ndarray:
    """(sources,) rows that stand for that source and no other."""
    row, source = bank.stands_for()
    _, first, count = np.unique(row, return_index=True, return_counts=True)
    return np.bincount(source[first[count == 1]], minlength=len(bank.sources))


def _add(config: BankCommandConfig) -> None:
    # The other actions work where torch is not installed.
    from anomaly.fitting import add_footage, rows_at_most, rows_only_lower, unknown_sources

    folder = Path(config.model)
    if not config.normal_videos:
        raise UsageError("bank add needs --normal-videos PATH: footage of normal work")
    check_output("--model", folder, folder=True, renamed=True)
    refuse_damage = refuses(config.footage.on_error)
    model = load_model(folder, device=config.device, offline=config.weights.offline, runtime="torch")
    found = find_sources(config.normal_videos, model.detector.regions.black)
    fresh, known = unknown_sources(model.description, found)
    console.warn([f"{name} is left out: the model has learned from it already" for name in known])
    own = {source.path: source.name for source in found}
    console.warn(
        [
            f"{own[source.path]} is called {source.name} in the model, which has another clip of that name"
            for source in fresh.values()
            if source.name != own[source.path]
        ]
    )
    (branch, *_) = model.detector.branches
    rows = len(branch.bank)
    if not rows_only_lower(branch.reweight, branch.index) and model.description["fit"]["holdout_sources"]:
        console.warn(
            [
                "more rows may raise a score of this model, so the hold-out's scores go with the first row added"
            ]
        )
    if (config.size or rows_at_most(model.description, branch.bank)) <= rows and not config.anew:
        console.warn(
            [
                f"the bank is full ({rows:,} rows): what is strange in this footage finds no room, and nothing will be added "
                "if there is any; give size=N, such as "
                f"size={round(1.5 * rows)}, for room, or anew=true to choose all rows anew, which costs the hold-out's scores"
            ]
        )
    had_evidence, graphs = has_evidence(folder), exports(folder)
    with console.stages() as tell:
        added = add_footage(
            model,
            fresh,
            size=config.size,
            anew=config.anew,
            refuse_damage=refuse_damage,
            exemplar_bytes=round(config.exemplars.max_mb * 1e6),
            progress=tell,
        )
    console.warn(added.damaged)
    _tell_added(config, added, rows)
    if added.changed:
        if had_evidence:
            console.say("The evidence was of the bank before and is gone; `calibrate` keeps it anew.")
        _tell_exports(graphs)
        _say_uncertified(config.model)


def _tell_added(config: BankCommandConfig, added: Added, before: int) -> None:
    grown, unit = added.grown, added.scale
    dropped = before + grown.added - len(added.bank)
    table = [
        ("looked at", f"{added.tally.frames:,} frames of {console.counted(len(added.tally.sources), 'source')}, {grown.patches:,} patches"),
        ("covered already", f"{grown.covered:,} patches: within {added.within / unit:.2f} of a row (1 = the score of an ordinary frame)"),
        ("rows", f"{grown.added:,} added, {dropped:,} dropped; {len(added.bank):,} now, {added.size:,} at most"),
        (
            "coverage",
            f"a patch of this footage was {grown.mean_before / unit:.2f} from its nearest row on average, "
            f"{grown.largest_before / unit:.2f} at most; now none is further than {grown.largest / unit:.2f}",
        ),
    ]  # fmt: skip
    if grown.merged is not None:
        table.append(
            (
                "coverage lost",
                f"all rows were chosen anew: a row of before, or a new one, is "
                f"{grown.merged.mean / unit:.2f} from its nearest kept row on average, {grown.merged.largest / unit:.2f} at most",
            )
        )
    console.table(f"Added to {config.model}" if added.changed else "Nothing to add", table)
    if grown.needed > len(added.bank):
        console.say(
            f"With size={grown.needed} no row would have been dropped."
            if grown.merged
            else f"The bank is full. All that is new takes size={grown.needed}."
        )
    if not added.changed:
        console.say(f"{config.model} is left as it is, and with it what it is calibrated for.")
    elif not added.holdout_kept:
        why = "rows it was measured with are gone" if grown.merged else "more rows may raise a score here"
        console.say(f"The hold-out's scores hold no longer ({why}) and are removed. {_NO_HOLDOUT}")


def _tell_exports(graphs: Sequence[str]) -> None:
    if graphs:
        console.say(
            f"Exported graphs were of the bank before and are gone ({', '.join(graphs)}): calibrate, then export again."
        )


def _say_uncertified(model: str) -> None:
    console.say(
        "A threshold that was set before still alarms, UNCERTIFIED: the bank is another. Next: "
        f"python -m anomaly calibrate --model {model} --labeled LABELS"
    )


def _merge(config: BankCommandConfig) -> None:
    check_output("--model", Path(config.model), folder=True, renamed=True)
    bank, cost, scale = merge_models(
        [Path(one) for one in config.models],
        Path(config.model),
        config.size or BankConfig.size,
        overwrite=config.overwrite,
    )
    bounded = read_description(Path(config.model))["fit"]["coverage"] is not None
    console.table(
        "Merged",
        [
            ("model", config.model),
            (
                "rows",
                f"{len(bank):,} of {cost.rows_before:,}, from {console.counted(len(bank.sources), 'source')}",
            ),
            (
                "coverage lost",
                f"an input row is {cost.mean / scale:.2f} from its nearest kept row on average, "
                f"{cost.largest / scale:.2f} at most (1 = the score of an ordinary frame)",
            ),
            (
                "bound",
                f"no fitted patch is further than {cost.bound / scale:.2f} from a row"
                if bounded
                else "none: a clip was forgotten in a model, with rows that covered others too",
            ),
        ],
    )
    console.say(f"NOT CALIBRATED. Next: python -m anomaly calibrate --model {config.model} --labeled LABELS")


def _forget(config: BankCommandConfig) -> None:
    folder = Path(config.model)
    others = {"--camera": config.camera, "--since": config.since, "--until": config.until}
    given = [flag for flag, value in others.items() if value is not None]
    if config.clip is not None and given:
        raise UsageError(
            f"--clip {config.clip} and {' '.join(given)} do not go together: --clip forgets the whole clip, --since and "
            "--until all that was recorded between; give one of the two"
        )
    had_evidence, graphs = has_evidence(folder), exports(folder)
    held = read_description(folder)["fit"]["holdout_sources"]
    clips = [config.clip] if config.clip is not None else _clips_between(config)
    bank, forgotten, scale = forget_clips(folder, clips)
    console.table(
        f"Forgot {clips[0]}" + (f" and {len(clips) - 1} more" if len(clips) > 1 else ""),
        [
            ("rows", f"{forgotten.rows:,} dropped, {len(bank):,} left"),
            ("patches", f"{forgotten.patches:,} no longer stood for"),
            (
                "coverage lost",
                f"a dropped row is {forgotten.mean / scale:.2f} from the nearest left on average, "
                f"{forgotten.largest / scale:.2f} at most (1 = the score of an ordinary frame)",
            ),
        ],
    )
    if forgotten.uncertain:
        console.say(
            f"{forgotten.uncertain:,} of the dropped rows covered more clips than a row tells apart; they may have stood "
            "for clips that stay, too, and went because they came from what is forgotten."
        )
    if set(held) - set(clips) and not read_description(folder)["fit"]["holdout_sources"]:
        console.say(
            f"The hold-out was scored with rows that are gone and would score higher now: its scores are removed. {_NO_HOLDOUT}"
        )
    if had_evidence and not has_evidence(folder):
        console.say("The evidence showed it too and is gone as a whole.")
    for page in _pages_that_name(folder, clips):
        if _is_review(page, folder):
            page.unlink()
            console.say(f"{page} showed it and is removed.")
        else:
            console.say(f"{page} still shows or names it: delete it, or have it written anew.")
    _tell_exports(graphs)
    _say_uncertified(config.model)


def _pages_that_name(folder: Path, clips: Sequence[str]) -> list[Path]:
    """Pages beside a model (`<model>_fit_review.html`, …) that show or name a clip."""
    names = [escape(clip) for clip in clips]
    return [
        page
        for page in sorted(folder.parent.glob(f"{glob_escape(folder.name)}_*.html"))
        if page.is_file()
        and any(name in page.read_text(encoding="utf-8", errors="replace") for name in names)
    ]


def _is_review(page: Path, folder: Path) -> bool:
    """Whether a page is the review that `fit` wrote of this model."""
    title = f"<title>Fit review of {escape(folder.name)}</title>"
    return (
        page.name == f"{folder.name}_fit_review.html"
        and not page.is_symlink()
        and title in page.read_text(encoding="utf-8", errors="replace")
    )


def _clips_between(config: BankCommandConfig) -> list[str]:
    if config.since is None or config.until is None:
        raise UsageError(
            f"bank forget needs --clip NAME (`bank info --model {config.model}` shows the names), or --since and "
            "--until with the times of recorded footage"
        )
    since, until = _utc_s("since", config.since), _utc_s("until", config.until)
    if since >= until:
        raise UsageError(f"--since {config.since} is not before --until {config.until}")
    clips, undated = clips_between(Path(config.model), config.camera, since, until)
    if undated:
        console.say(
            f"{len(undated)} clips have no time in their names and were not looked at, the first is {undated[0]}; "
            "forget those with --clip"
        )
    if not clips:
        raise UsageError(
            f"{config.model} holds nothing recorded from {config.since} to {config.until}"
            f"{f' by {config.camera}' if config.camera else ''}; `bank info` shows what it holds"
        )
    return clips


def _utc_s(flag: str, text: str) -> float:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--{flag} {text!r} is no time; write it such as 2026-11-23T06:15:00, UTC") from None
    return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()
