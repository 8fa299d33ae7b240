"""`anomaly weights`: list, pull, import and verify backbone weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from anomaly.commands import console
from anomaly.commands.fit import check_license
from anomaly.errors import UsageError, WeightsError
from anomaly.weights import (
    SOURCES,
    fits_network,
    keep,
    load_weights,
    store_folder,
    stored,
)

if TYPE_CHECKING:
    from anomaly.config import WeightsCommandConfig


def run(config: WeightsCommandConfig) -> None:
    """Do what ACTION says."""
    actions = {"list": _list, "pull": _pull, "import": _import, "verify": _verify}
    if config.action not in actions:
        raise UsageError(f"weights {config.action!r} is not an action; choose list, pull, import or verify")
    actions[config.action](config)


def _list(config: WeightsCommandConfig) -> None:
    table = Table(title=f"Backbones; weights are kept in {store_folder()}", title_justify="left", box=None)
    for column in ("backbone", "licence", "free for every use", "kept here", "comes from"):
        table.add_column(column, overflow="fold")
    for source in SOURCES.values():
        here = stored(source.name)
        origin = f"package {source.package}" if source.package else f"hub {source.hub}"
        kept = f"yes, {here.digest[:12]}" if here else "no"
        table.add_row(source.name, source.license, "yes" if source.free else "no", kept, origin)
    console.show(table)


def _pull(config: WeightsCommandConfig) -> None:
    name = _named(config)
    check_license(name, config.weights.accept_license)
    _, known = load_weights(name, offline=config.weights.offline)
    console.say(
        f"{name}: {known.digest[:12]} from {known.origin} ({known.license}), kept in {store_folder()}"
    )


def _import(config: WeightsCommandConfig) -> None:
    name = _named(config)
    check_license(name, config.weights.accept_license)
    if config.file is None:
        raise UsageError("weights import needs a file; `python -m anomaly weights import NAME FILE`")
    path = Path(config.file)
    tensors, read = load_weights(name, file=path)
    fits_network(name, tensors)
    known = replace(read, origin=f"file {path.name}")
    if keep(tensors, known) is None:
        raise WeightsError(
            f"the store {str(store_folder())!r} cannot be written, or its disk is full; free some space, or set "
            "ANOMALY_WEIGHTS to a folder that can"
        )
    console.say(f"{name}: {known.digest[:12]} imported into {store_folder()}")


def _verify(config: WeightsCommandConfig) -> None:
    names = [_named(config)] if config.network else [name for name in SOURCES if stored(name)]
    if not names:
        console.say(f"nothing is kept in {store_folder()}; `python -m anomaly weights pull NAME` keeps some")
    for name in names:
        if stored(name) is None:
            raise WeightsError(
                f"no weights of {name!r} are kept in {str(store_folder())!r}; pull or import them first"
            )
        tensors, known = load_weights(name, offline=True)
        fits_network(name, tensors)
        console.say(
            f"{name}: {known.digest[:12]} is whole and fits {SOURCES[name].architecture} ({known.origin})"
        )


def _named(config: WeightsCommandConfig) -> str:
    if config.network is None:
        raise UsageError(f"weights {config.action} needs a backbone; choose one of {', '.join(SOURCES)}")
    if config.network not in SOURCES:
        raise WeightsError(f"backbone {config.network!r} is not known; choose one of {', '.join(SOURCES)}")
    return config.network
