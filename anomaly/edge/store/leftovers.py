"""Files that no row knows, and databases that were set aside: they too are deleted with an interval.

What they show, and when, is not written down anywhere; their names and times say it roughly. More goes rather than less.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote

from anomaly.edge.segment_name import LONGEST_SEGMENT_S, start_of
from anomaly.edge.store.deletion import RECORDING
from anomaly.edge.store.event import clip_folder, made_utc_s
from anomaly.edge.store.reconcile import ASIDE, ASIDE_TIME, ORPHANS

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

#: An event's id is given to it when it is stored, a moment after its first frame.
_BEFORE_ITS_ID_S = 60.0


def of_interval(
    connection: sqlite3.Connection, folder: Path, camera: str, start_utc_s: float, end_utc_s: float
) -> list[str]:
    """What may show a camera at start <= time < end, or tell of it, as paths relative to the store's folder.

    Pictures whose names say nothing of a camera go for any; clips, of a camera each, go unless they were finished
    before the start (those of misses are made long after what they show), and so do segments that were never finished;
    segments that were, go by their names and times; a database that was set aside goes where that was done after the
    start.

    Args:
        connection: for queries; folders are gone through, which is nothing for a transaction to wait for.
        folder: the store's.
        camera, start_utc_s, end_utc_s: what is deleted.
    """
    found = [
        path
        for kind, of_camera in (("snapshots", ""), ("clips", clip_folder(camera)))
        for path in _unknown(connection, folder, kind, of_camera)
        if _reaches(path, start_utc_s, end_utc_s if kind == "snapshots" else math.inf)
    ]
    for path in (folder / RECORDING).glob("*/*/*.part"):
        of_camera = path.parent.parent.name == camera
        if of_camera and _is_left(path) and _reaches(path, start_utc_s, end_utc_s):
            found.append(path)
    found += _unknown_segments(connection, folder, camera, start_utc_s, end_utc_s)
    found += [path for path in folder.glob(f"*{ASIDE}*") if _set_aside(path) >= start_utc_s]
    return [path.relative_to(folder).as_posix() for path in found]


def cameras(folder: Path) -> set[str]:
    """Names of the cameras that there are folders of, whether a row knows of them or not."""
    clips = [*(folder / "clips").glob("*"), *(folder / ORPHANS / "clips").glob("*")]
    recorded = (folder / RECORDING).glob("*")
    return {unquote(one.name) for one in clips if one.is_dir()} | {
        one.name for one in recorded if one.is_dir()
    }


def _unknown(connection: sqlite3.Connection, folder: Path, kind: str, of_camera: str) -> list[Path]:
    """Files of a kind without a row: those that were moved away, and those that are still to be."""
    moved = [path for path in (folder / ORPHANS / kind / of_camera).rglob("*") if path.is_file()]
    here = [path for path in (folder / kind / of_camera).rglob("*.*") if made_utc_s(_id(path)) is not None]
    # Asked after the files were found: a row is there before the first of its files, which it may name later.
    known = {row[0] for row in connection.execute("SELECT id FROM events UNION SELECT id FROM misses")}
    return moved + [path for path in here if _id(path) not in known]


def _unknown_segments(
    connection: sqlite3.Connection, folder: Path, camera: str, start_utc_s: float, end_utc_s: float
) -> list[Path]:
    """Finished segments without a row (it could not be written, or is about to be) that show a camera then."""
    recording = folder / RECORDING
    paths = [path for path in recording.glob("*/*/*.mp4") if path.parent.parent.name == camera]
    # Asked after the files were found: a row that came since then says more exactly what a file shows.
    known = {row[0] for row in connection.execute("SELECT path FROM segments WHERE camera = ?", (camera,))}
    found = []
    for path in paths:
        began = start_of(path.relative_to(recording))
        if began is None or path.relative_to(recording).as_posix() in known:
            continue
        if began < end_utc_s and _written(path) >= start_utc_s:
            found.append(path)
    return found


def _id(path: Path) -> str:
    return path.name.partition(".")[0]


def _reaches(path: Path, start_utc_s: float, end_utc_s: float) -> bool:
    """Whether a file may show something of an interval: made for an event from before its end, finished after its start."""
    made = made_utc_s(_id(path))
    began = -math.inf if made is None else made - _BEFORE_ITS_ID_S
    return began < end_utc_s and _written(path) >= start_utc_s


def _is_left(part: Path) -> bool:
    """Whether a segment that was begun is nobody's any more: of a camera that is gone, or was long ago."""
    return _written(part) < time.time() - LONGEST_SEGMENT_S


def _written(path: Path) -> float:
    """When a file was last written; before all times where somebody was faster and removed it."""
    try:
        return path.stat().st_mtime
    except OSError:
        return -math.inf


def _set_aside(path: Path) -> float:
    text = path.name.partition(ASIDE)[2]
    for suffix in ("-wal", "-shm"):
        text = text.removesuffix(suffix)
    try:
        return datetime.strptime(text, ASIDE_TIME).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return math.inf
