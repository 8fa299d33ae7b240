"""From clips to files: H.264 video, label CSVs, packed masks, and the note that says what a folder holds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from anomaly.conveyor.clips import Clip
from anomaly.conveyor.render import render_clip
from anomaly.errors import UsageError
from anomaly.footage.clips import VideoWriter

GENERATOR = 2  # raise it when the same seed would give other files, so that old footage is made anew
NOTE = "footage.json"


def write_clip(clip: Clip, video: Path, *, crf: int, masks: Path | None = None) -> None:
    """Render a clip into an MP4 (H.264, yuv420p) and its masks into an .npz, each renamed when it is whole.

    The .npz holds `mask` (packed bits, uint8) and `shape` (frames, H, W):
    `np.unpackbits(z["mask"])[:np.prod(z["shape"])].reshape(z["shape"])`.
    """
    config = clip.config
    shown = np.zeros((clip.frame_count if masks else 0, config.height, config.width), dtype=bool)
    # One thread, so that the bytes do not hang on the machine's processors; clips are written beside each other.
    with VideoWriter(video, fps=config.fps, crf=crf, threads=1) as writer:
        for index, (image, time_s, mask) in enumerate(render_clip(clip)):
            writer.write(image, time_s)
            if masks and mask is not None:
                shown[index] = mask
    if masks:
        unfinished = masks.with_name(f".{masks.name}.part")
        with unfinished.open("wb") as file:
            np.savez_compressed(file, mask=np.packbits(shown), shape=np.array(shown.shape))
        os.replace(unfinished, masks)


def label_rows(clip: Clip, video: str) -> list[tuple[str, float | str, float | str, str]]:
    """The rows of `video,start_s,end_s,label` for a clip; one without times where nothing is wrong in it."""
    return [(video, label.start_s, label.end_s, label.kind) for label in clip.labels] or [
        (video, "", "", "normal")
    ]


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def csv_text(header: str, rows: Iterable[Sequence[str | float]]) -> str:
    """A CSV; numbers are seconds, to a tenth of a millisecond."""
    lines = [
        ",".join(f"{round(cell, 4)}" if isinstance(cell, float) else str(cell) for cell in row)
        for row in rows
    ]
    return "\n".join([header, *lines]) + "\n"


def already_there(folder: Path, request: Mapping[str, Any]) -> bool:
    """Whether the folder holds the whole of what is asked for."""
    note = _note(folder)
    return (
        note is not None
        and note.get("complete") is True
        and note.get("request") == request
        and all((folder / name).is_file() for name in note["files"])
    )


def begin(folder: Path, request: Mapping[str, Any], files: Sequence[str]) -> None:
    """Make the folder ready for these files, noting them first, so that a broken run leaves nothing unknown.

    Raises:
        UsageError: a folder that holds files and no note of this generator.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = _note(folder)
    if note is None and any(folder.iterdir()):
        raise UsageError(
            f"{folder} holds files that are not generated footage; give an empty or a new folder"
        )
    _write_note(folder, request, {*files, *(note["files"] if note else [])}, complete=False)


def finish(folder: Path, request: Mapping[str, Any], files: Sequence[str]) -> None:
    """Remove what belonged to an earlier request only, and note, last, that the footage is complete."""
    note = _note(folder)
    for name in set(note["files"] if note else []) - set(files):
        (folder / name).unlink(missing_ok=True)
    _write_note(folder, request, files, complete=True)


def _write_note(folder: Path, request: Mapping[str, Any], files: Iterable[str], *, complete: bool) -> None:
    note = {"complete": complete, "request": request, "files": sorted(files)}
    write_text(folder / NOTE, json.dumps(note, indent=1) + "\n")


def _note(folder: Path) -> dict[str, Any] | None:
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(note, dict) and isinstance(note.get("files"), list) and "request" in note
    inside = known and all(isinstance(name, str) and _is_inside(name) for name in note["files"])
    return note if inside else None


def _is_inside(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def in_parallel(
    jobs: Sequence[Callable[[], None]], workers: int, progress: Callable[[int], None] | None
) -> None:
    """Run the jobs; drawing and encoding spend most of their time outside Python's lock, so threads serve."""
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            for future in futures:
                future.result()
                if progress:
                    progress(1)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
