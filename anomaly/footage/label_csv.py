"""A CSV of labels to rows, each checked on its own; nothing here knows the footage.

    video,start_s,end_s,label      intervals, half-open, seconds of the video's own time
    video,time_s,label             moments

Comma-separated, UTF-8 (with or without a byte-order mark), any line ending, columns in any order, blanks
around cells ignored. Three more columns may be there: `found` says how the anomaly was found, `camera` which
camera the video is of, `group` which incident (or part) it shows where several videos or pictures show the same. A row without times, labelled `normal`, `good` or `ok`, says that the whole video is known
to be normal.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from anomaly.errors import LabelsError

NORMAL_LABELS = frozenset({"normal", "good", "ok"})
HOW_FOUND = ("independent", "audit", "alarm", "proposed")
#: Of these, what the detector had a hand in.
DETECTOR_FOUND = ("alarm", "proposed")
_INTERVALS = ("video", "start_s", "end_s", "label")
_MOMENTS = ("video", "time_s", "label")
_OPTIONAL = frozenset({"found", "camera", "group"})


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One line of a label file.

    Attributes:
        line: its number in the file, from 1.
        video: the name as written.
        times: start and end in seconds, the same for a moment; None for a video known to be normal.
        label: kind of anomaly.
        found: how it was found, one of `HOW_FOUND`.
        camera: the camera that the video is of; "" where the row does not say.
        group: the incident that it shows, with others of that name; "" where the row does not say.
    """

    line: int
    video: str
    times: tuple[float, float] | None
    label: str
    found: str
    camera: str
    group: str


def read_label_rows(path: Path) -> tuple[list[LabelRow], bool]:
    """Read a label file.

    Returns:
        Its rows, and whether they are moments.

    Raises:
        LabelsError: unreadable, empty, another header, or a row that makes no sense, with its line number.
    """
    reader = csv.reader(io.StringIO(_text(path), newline=""), skipinitialspace=True, strict=True)
    columns: list[str] = []
    rows: list[LabelRow] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not columns:
                columns = _header(path, cells)
            else:
                rows.append(_row(f"{path} line {reader.line_num}", reader.line_num, columns, cells))
    except csv.Error as error:
        raise LabelsError(
            f"{path} line {reader.line_num}: not CSV ({error}); close the quotes of this line"
        ) from None
    if not columns:
        raise LabelsError(f"{path} is empty; its first line is the header {','.join(_INTERVALS)}")
    return rows, "time_s" in columns


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LabelsError(
            f"{path} cannot be read ({error.strerror}); give a CSV, or a folder with `good/`"
        ) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelsError(
            f"{path} is not UTF-8 text (byte 0x{data[error.start]:02x} at {error.start}); save it as "
            "CSV UTF-8"
        ) from None


def _header(path: Path, cells: list[str]) -> list[str]:
    columns = [cell.lower() for cell in cells]
    wanted = f"write {','.join(_INTERVALS)} or {','.join(_MOMENTS)}, either with `found`, `camera` and `group` if needed"
    if len(columns) == 1 and any(mark in cells[0] for mark in ";\t"):
        mark = "semicolons" if ";" in cells[0] else "tabs"
        raise LabelsError(f"{path} separates its columns by {mark}; save it with commas: {wanted}")
    without = sorted(set(columns) - _OPTIONAL)
    if len(set(columns)) != len(columns) or without not in (sorted(_INTERVALS), sorted(_MOMENTS)):
        raise LabelsError(f"{path} has the header {_shown(','.join(cells))}; {wanted}")
    return columns


def _row(where: str, line: int, columns: list[str], cells: list[str]) -> LabelRow:
    if len(cells) != len(columns):
        raise LabelsError(
            f"{where} has {len(cells)} cells, the header {len(columns)}; write times with a point (1.5) and "
            "names that hold commas in quotes"
        )
    row = dict(zip(columns, cells, strict=True))
    if not row["video"]:
        raise LabelsError(f"{where} names no video; write its path below --videos")
    found = row.get("found", "").lower() or HOW_FOUND[0]
    if found not in HOW_FOUND:
        raise LabelsError(f"{where}: found is {_shown(row['found'])}; write one of {', '.join(HOW_FOUND)}")
    camera, group = row.get("camera", ""), row.get("group", "")
    times = [row[column] for column in ("start_s", "end_s", "time_s") if column in row]
    normal = row["label"].lower() in NORMAL_LABELS
    if not any(times):
        if not normal:
            raise LabelsError(
                f"{where} has no times; give them in seconds, or label it `normal` if all of the video is"
            )
        return LabelRow(line, row["video"], None, row["label"], found, camera, group)
    if normal:
        raise LabelsError(
            f"{where} labels a stretch as {row['label']}; only anomalies get times, leave them empty to mark "
            "the whole video as normal"
        )
    if not row["label"]:
        raise LabelsError(f"{where} has no label; name the kind of anomaly, `anomaly` if it does not matter")
    if "time_s" in row:
        start_s = end_s = _seconds(where, "time_s", row["time_s"])
    else:
        start_s = _seconds(where, "start_s", row["start_s"])
        end_s = _seconds(where, "end_s", row["end_s"])
        if start_s >= end_s:
            raise LabelsError(
                f"{where}: start_s {row['start_s']} is not before end_s {row['end_s']}; an interval is "
                "half-open, give the end that comes after the start"
            )
    return LabelRow(line, row["video"], (start_s, end_s), row["label"], found, camera, group)


def _seconds(where: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise LabelsError(
            f"{where}: {column} is {_shown(text)}; give seconds from the video's start, such as 12.5"
        )
    return value


def _shown(text: str) -> str:
    """A value as a message shows it: quoted, on one line, not too long."""
    return repr(text if len(text) <= 80 else text[:77] + "…")
