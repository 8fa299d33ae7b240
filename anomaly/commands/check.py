"""`anomaly check`: what a camera or a file delivers, and what to set right before it is watched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from anomaly.artifact import write_file
from anomaly.commands import console
from anomaly.edge.address import parse_address
from anomaly.edge.capture import CaptureSettings
from anomaly.edge.inspect import judge, observe

if TYPE_CHECKING:
    from anomaly.config import CheckConfig

_COLOURS = {"good": "green", "note": "yellow", "bad": "red"}


def run(config: CheckConfig) -> None:
    """Look, and tell as a table, a verdict and JSON."""
    settings = CaptureSettings(
        "check",
        parse_address(config.source),
        open_timeout_s=config.check.timeout_s,
        read_timeout_s=config.check.timeout_s,
    )
    with console.stages() as tell:
        seen = observe(
            settings,
            config.check.seconds,
            tell=lambda done: tell("looking", round(done, 1), config.check.seconds),
        )
    found = judge(
        seen,
        smoothing_s=config.decider.smoothing_s,
        min_duration_s=config.decider.min_duration_s,
        shortest_s=config.shortest,
        scored_rate=config.footage.fps,
    )
    table = Table(title=f"{escape(seen.shown)}, {seen.seconds:.1f} s", title_justify="left", box=None)
    for title in ("", "found", "what to do"):
        table.add_column(title, overflow="fold")
    for one in found.findings:
        name = f"[{_COLOURS[one.level]}]{escape(one.name)}[/]"
        table.add_row(name, escape(one.value), escape(one.advice))
    console.show(table)
    console.say(f"Verdict: {found.verdict}.")
    if config.json:
        path = Path(config.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(found.as_json(), indent=1, allow_nan=False).encode() + b"\n")
