"""The process that makes clips: jobs come on standard input, answers go to standard output, one JSON a line.

It ends when its standard input does, hence with the runner, and steps back for it (`nice`).
"""

from __future__ import annotations

import errno
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anomaly.edge.cutting import cut, preview
from anomaly.edge.store.timeline import Segment
from anomaly.errors import AnomalyError

_NICE = 10


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Make one clip.

    Args:
        job: "segments" (fields of `Segment`), "start_utc_s", "end_utc_s", "out", "preview" (paths) and
            "black" (polygons; where there are any, `out` itself is encoded anew with them painted).

    Returns:
        Fields of `Cut`, "preview" (a path or None); or "error", and "full" where the disk was full.
    """
    out, beside = Path(job["out"]), Path(job["preview"])
    segments = [Segment(**{**one, "path": Path(one["path"])}) for one in job["segments"]]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if job["black"]:
            # Its name is that of a leftover, so that a kill leaves nothing that shows what is to be hidden.
            raw = out.with_name(f".{out.stem}.{os.getpid()}.raw.part")
            try:
                done = asdict(cut(segments, job["start_utc_s"], job["end_utc_s"], raw))
                preview(raw, out, job["black"])
            finally:
                raw.unlink(missing_ok=True)
            return {**done, "path": str(out), "codec": "h264", "playable": True, "preview": None}
        done = asdict(cut(segments, job["start_utc_s"], job["end_utc_s"], out))
        if not done["playable"]:
            preview(out, beside)
        return {**done, "path": str(out), "preview": None if done["playable"] else str(beside)}
    except (AnomalyError, OSError) as error:
        return {"error": str(error), "full": _disk_full(error)}


def _disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        error = error.__cause__ or error.__context__
    return False


def main() -> None:
    """Answer jobs until there are no more."""
    os.nice(_NICE)
    for line in sys.stdin:
        print(json.dumps(work(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
