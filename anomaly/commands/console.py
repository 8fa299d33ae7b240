"""What the person at the terminal sees: progress on standard error, results on standard output."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from anomaly.startup import terminate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

#: Results. Wide enough that a path is not broken where the output is no terminal, unless $COLUMNS says how wide.
out = Console(
    soft_wrap=True,
    highlight=False,
    width=None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit() else 160,
)
#: Progress and warnings: a pipe that takes the results does not get them.
err = Console(stderr=True, soft_wrap=True, highlight=False)


@contextmanager
def stages() -> Iterator[Callable[[str, float, float | None], None]]:
    """A bar for each stage of a long work; call it with (stage, done, total or None)."""
    with _interruptible() as check, _progress() as progress:
        tasks: dict[str, int] = {}

        def tell(stage: str, done: float, total: float | None) -> None:
            check()
            if stage not in tasks:
                for earlier in tasks.values():
                    known = progress.tasks[earlier]
                    progress.update(known.id, total=known.completed or 1, completed=known.completed or 1)
                tasks[stage] = progress.add_task(stage, total=total)
            # An estimate that turned out too low grows, so that the bar never claims to be done early.
            progress.update(
                progress.tasks[tasks[stage]].id, completed=done, total=max(total, done) if total else None
            )

        yield tell


@contextmanager
def counter(what: str, total: float | None) -> Iterator[Callable[[int], None]]:
    """One bar; call it with the units done since the last call."""
    with _interruptible() as check, _progress() as progress:
        task = progress.add_task(what, total=total)

        def advance(done: int) -> None:
            check()
            progress.advance(task, done)

        yield advance


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Makes Ctrl-C and SIGTERM end long work for certain; call what it yields at every step.

    Python drops an exception that is raised while a generator or an object of a C library is being taken
    down. An interrupt that falls into such a moment is remembered and raised at the next step.
    """
    raising = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: terminate}
    asked: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        raising[signal.Signals(number)](number, frame)

    def check() -> None:
        if asked:
            raising[signal.Signals(asked[0])](asked[0], None)

    # Where someone else handles a signal, or this is no main thread, it is not ours to take.
    in_main_thread = threading.current_thread() is threading.main_thread()
    taken = [one for one, usual in raising.items() if in_main_thread and signal.getsignal(one) is usual]
    for one in taken:
        signal.signal(one, remember)
    try:
        yield check
    finally:
        for one in taken:
            signal.signal(one, raising[one])


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        # A file or a pipe gets no bars, and not the empty line that ends them either.
        disable=not err.is_terminal,
    )


def warn(lines: Sequence[str], *, most: int = 10) -> None:
    """Things the person should know, a line each; after `most` of them only how many more."""
    for line in lines[:most]:
        err.print(f"[yellow]note[/]: {_plain(line)}")
    if len(lines) > most:
        err.print(f"[yellow]note[/]: and {len(lines) - most} more like these")


def warn_of_files(lines: Sequence[str]) -> None:
    """What was wrong with files, a line each, however many: nothing else tells which of them were not read."""
    warn(lines, most=len(lines))


def counted(number: int, what: str) -> str:
    """A number of things: `1 source`, `2 sources`."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def say(text: str) -> None:
    """Plain text to standard output; brackets in names are not markup."""
    out.print(_plain(text))


def table(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """A two-column table of facts."""
    shown = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    shown.add_column(style="bold")
    shown.add_column(overflow="fold")
    for name, value in rows:
        shown.add_row(_plain(name), _plain(value))
    show(shown)


def show(shown: Table) -> None:
    """A table to standard output; in a file or a pipe without the blanks that fill its lines."""
    if out.is_terminal:
        out.print(shown)
        return
    with out.capture() as captured:
        out.print(shown)
    for line in captured.get().splitlines():
        out.print(line.rstrip(), markup=False)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
