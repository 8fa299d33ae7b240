"""What the benchmarks share: their options, the command line they measure, tables, one flat JSON, peak memory."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Figure: TypeAlias = float | int | str | None
Figures: TypeAlias = dict[str, Figure]

ROOT = Path(__file__).resolve().parent.parent
#: Real labelled footage, where it is to be had.
DATA = Path(os.environ.get("ANOMALY_DATA") or ROOT.parent / "shared" / "data")
# The checkout goes before this folder, where a benchmark may bear the name of the package it measures.
sys.path.insert(0, str(ROOT))
from anomaly.startup import settle  # noqa: E402

# As `python -m anomaly` does, before anything imports torch.
settle()
out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, highlight=False)

# A child counts as its own what its parent weighed when it was forked; between this process and the one that
# is measured stands a thin one, so that only the measured one is seen.
_THIN = (
    "import json, resource, subprocess, sys\n"
    "done = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)\n"
    "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
    "found = [done.returncode, used.ru_maxrss, used.ru_utime + used.ru_stime]\n"
    "json.dump(found, open(sys.argv[1], 'w'))\n"
    "sys.stderr.buffer.write(done.stderr)\n"
)


def options_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="less footage: under two minutes on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, one flat object")
    return parser


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder for the run, and a score cache of its own: no figure comes from an earlier run."""
    before = os.environ.get("ANOMALY_CACHE")
    with TemporaryDirectory(prefix="anomaly-benchmark-") as name:
        os.environ["ANOMALY_CACHE"] = str(Path(name) / "cache")
        try:
            yield Path(name)
        finally:
            if before is None:
                del os.environ["ANOMALY_CACHE"]
            else:
                os.environ["ANOMALY_CACHE"] = before


def typed(*arguments: object) -> list[str]:
    """A command line of the program, for a process of its own."""
    return [sys.executable, "-m", "anomaly", *map(str, arguments)]


def anomaly(*arguments: object) -> str:
    """Run a command of the program in this process.

    Returns:
        What it wrote to standard output.

    Raises:
        SystemExit: it failed; its own message is on standard error.
    """
    from anomaly.cli import run

    words = [str(argument) for argument in arguments]
    said, before, begin = io.StringIO(), sys.argv, time.perf_counter()
    try:
        with contextlib.redirect_stdout(said):
            status = run(words)
    finally:
        sys.argv = before
    seconds = time.perf_counter() - begin
    err.print(f"$ anomaly {escape(' '.join(words))}  # {seconds:.1f} s", style="dim", soft_wrap=True)
    if status:
        raise SystemExit(f"`anomaly {words[0]}` ended with status {status}; see its message above")
    return said.getvalue()


def measured(command: list[str], work: Path) -> tuple[float, float, float]:
    """Run a process to its end.

    Returns:
        (seconds, seconds of processor time, largest resident memory in MiB).

    Raises:
        SystemExit: it failed.
    """
    note = work / "measured.json"
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-S", "-c", _THIN, str(note), *command],
        check=False,
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    seconds = time.perf_counter() - begin
    status, largest_kib, processor = json.loads(note.read_text(encoding="utf-8"))
    if status:
        raise SystemExit(f"`{' '.join(command[2:5])} …` ended with status {status}: {done.stderr.strip()}")
    return seconds, processor, largest_kib / (1024 * 1024 if sys.platform == "darwin" else 1024)


def child_environment() -> dict[str, str]:
    """The environment of a process that runs the program from this checkout."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def machine() -> Figures:
    """What the times hang on."""
    return {"cpus": os.cpu_count(), "load_at_start": round(os.getloadavg()[0], 2)}


def show(title: str, rows: Mapping[str, object]) -> None:
    """A table of names and values."""
    out.print(f"[bold underline]{escape(title)}[/]", soft_wrap=True)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(escape(name), escape(shown(value)))
    out.print(table)
    out.print()


def shown(value: object) -> str:
    """A value as a table has it."""
    if value is None:
        return "not known"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_json(path: Path | None, figures: Mapping[str, Figure]) -> None:
    """Write the figures where they were asked for; what is not a finite number becomes null."""
    if path is None:
        return
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", encoding="utf-8")
