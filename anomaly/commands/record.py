"""`anomaly record`: a camera's own packets (or, under privacy masks, its painted frames), in files that `fit` reads."""

from __future__ import annotations

import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from anomaly.commands import console
from anomaly.edge.address import parse_address
from anomaly.edge.capture import Capture, CaptureSettings
from anomaly.edge.capture.segment import holds
from anomaly.edge.inspect import observe
from anomaly.edge.retention import RetentionSettings, estimate_disk
from anomaly.edge.session import Session, gaps_between
from anomaly.edge.site import polygons
from anomaly.edge.store.deletion import RECORDING
from anomaly.edge.store.opening import DATABASE
from anomaly.errors import AnomalyError, SourceError, UsageError
from anomaly.locks import alone_in

if TYPE_CHECKING:
    from anomaly.config import RecordConfig

_GAPS_SHOWN = 10
_STOP_S = 15.0


def run(config: RecordConfig) -> None:
    """Record until the time is over, the file ends, or Ctrl-C."""
    settings = _settings(config)
    out = Path(config.out)
    whole = out.resolve()
    if whole.name == RECORDING and (whole.parent / DATABASE).exists():
        raise UsageError(
            f"--out {config.out} is the rolling recording of a store, of which `run` deletes what is old; give another folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    _tell_disk(config, settings, out)
    session = Session()
    begin_s = time.time()
    folder = out / settings.camera
    folder.mkdir(exist_ok=True)
    busy = f"{folder} is being recorded to already; name each camera with record.camera=NAME, or give another --out"
    # It would take the file that another recording is writing for one that was left, and the cameras' footage would be mixed.
    with alone_in(folder, busy), _stopping() as stop:
        _record(settings, config.hours * 3600, session, stop)
    _summary(config, session, begin_s, time.time())
    if session.over == "held":
        raise SourceError(session.problem)


def _settings(config: RecordConfig) -> CaptureSettings:
    options = config.record
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", options.camera):
        raise UsageError(
            f"record.camera={options.camera!r} cannot be a folder's name; use letters, digits, _ . and -"
        )
    return CaptureSettings(
        options.camera,
        parse_address(config.source),
        # Decoded only to see that it can be.
        fps=1.0,
        recording=Path(config.out),
        segment_s=options.segment_s,
        open_timeout_s=options.timeout_s,
        read_timeout_s=options.timeout_s,
        black=polygons(options.black, "record.black"),
    )


def _tell_disk(config: RecordConfig, settings: CaptureSettings, out: Path) -> None:
    """Measure the bit rate, say what the recording will take, and refuse what does not fit."""
    seen = observe(settings, config.record.look_s, pictures=False)
    kept = RetentionSettings(keep_hours=config.hours)
    estimate = estimate_disk({settings.camera: seen.bits_per_s}, kept)
    needed = estimate.recording_per_day * config.hours / 24
    free = shutil.disk_usage(out).free
    # Raw pictures are tens of times what is written of them.
    known = holds(seen.codec)
    anew = "" if known and not settings.black else "; it is encoded anew, that may be more or less"
    console.say(
        f"{seen.shown}: {seen.codec}, {seen.width} x {seen.height}, {seen.bits_per_s / 1e6:.2f} Mbit/s; "
        f"{config.hours:g} h take about {_size(needed)}, {config.out} has {_size(free)} free{anew}"
    )
    if known and needed > 0.95 * free and not config.record.force and settings.address.kind != "file":
        raise AnomalyError(
            f"{config.hours:g} h of {seen.shown} take about {_size(needed)} and {config.out} has {_size(free)} free; "
            "free some, lower --hours, or record what fits with record.force=true"
        )


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C and a service manager's stop set, so that the last file is closed."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _record(settings: CaptureSettings, seconds: float, session: Session, stop: threading.Event) -> None:
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console.err,
        disable=not console.err.is_terminal,
    )
    capture = Capture(settings)
    begin = time.monotonic()
    with progress:
        task = progress.add_task("recording", total=seconds)
        capture.start()
        try:
            while not stop.is_set() and session.over is None:
                passed = time.monotonic() - begin
                if passed >= seconds:
                    break
                wait([capture.wait_handle], timeout=0.25)
                capture.newest()
                _take(capture, session)
                progress.update(
                    task,
                    completed=passed,
                    description=f"{_length(passed)}, {len(session.spans)} files, {_size(session.size)}",
                )
        finally:
            capture.stop(_STOP_S)
            _take(capture, session)


def _take(capture: Capture, session: Session) -> None:
    lines = [line for report in capture.reports() if (line := session.take(report)) is not None]
    console.warn([f"{datetime.now(UTC):%H:%M:%S} UTC, {line}" for line in lines])


def _summary(config: RecordConfig, session: Session, begin_s: float, end_s: float) -> None:
    folder = Path(config.out) / config.record.camera
    if not session.spans:
        raise SourceError(f"nothing was recorded in {_length(end_s - begin_s)}; see the notes above")
    console.say(
        f"Recorded {_length(session.seconds)} of {_length(end_s - begin_s)}: {session.frames} pictures, "
        f"{len(session.spans)} files, {_size(session.size)} in {folder}."
    )
    gaps = gaps_between(session.spans, begin_s, end_s)
    missing = sum(end - start for start, end in gaps)
    if gaps:
        console.say(f"Not recorded: {_length(missing)}, the connection was lost {session.lost} times.")
        for start, end in gaps[:_GAPS_SHOWN]:
            console.say(f"  {_clock(start)} to {_clock(end)} UTC, {end - start:.1f} s")
        if len(gaps) > _GAPS_SHOWN:
            console.say(f"  and {len(gaps) - _GAPS_SHOWN} more")
    console.say(f"Next: python -m anomaly fit --normal-videos {folder} --model DIR")


def _clock(utc_s: float) -> str:
    return f"{datetime.fromtimestamp(utc_s, UTC):%H:%M:%S}"


def _length(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d} h" if hours else f"{rest // 60}:{rest % 60:02d} min"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
