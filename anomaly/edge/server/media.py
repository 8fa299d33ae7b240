"""Files of the store, sent to browsers: only those that a row names, and only from inside the store's folder."""

from __future__ import annotations

import stat
from pathlib import Path

from fastapi import HTTPException
from starlette.responses import FileResponse

_TYPES = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".mp4": "video/mp4",
    ".mkv": "video/x-matroska",
}


def send(folder: Path, name: str | Path | None, what: str, *, download: str | None = None) -> FileResponse:
    """Answer with a file; ranges of bytes are honoured, so that a player can seek.

    Args:
        folder: of the store.
        name: path relative to it (or inside it), from a row; None = the row has none.
        what: in words, for the error.
        download: name under which to save it; None = to be shown.

    Raises:
        HTTPException: 404 where there is no such file, or it lies elsewhere.
    """
    path = None if name is None else inside(folder, name)
    media_type = None if path is None else _TYPES.get(path.suffix.lower())
    if path is None or media_type is None:
        raise HTTPException(404, f"there is no {what}")
    try:
        found = path.stat()
    except OSError:
        raise HTTPException(404, f"the {what} is gone; retention or someone has deleted it") from None
    if not stat.S_ISREG(found.st_mode):
        raise HTTPException(404, f"there is no {what}")
    return FileResponse(
        path,
        media_type=media_type,
        stat_result=found,
        filename=None if download is None else download + path.suffix.lower(),
        # Footage stays in no browser's cache: it is to be gone when it is deleted, and after the log-out.
        headers={"cache-control": "no-store"},
    )


def inside(folder: Path, name: str | Path) -> Path | None:
    """The real path of a file below a folder, links resolved; None where the name leads out of it."""
    root = folder.resolve()
    try:
        path = (root / name).resolve()
    except (OSError, ValueError):
        return None
    return path if path != root and path.is_relative_to(root) else None
