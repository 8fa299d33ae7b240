"""What a deletion does not reach: models keep crops and evidence of what they were fitted and calibrated on."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from anomaly.banks import clips_between
from anomaly.edge.server.schemas import ModelRemains
from anomaly.errors import AnomalyError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def remains(folders: Sequence[Path], camera: str, start_utc_s: float, end_utc_s: float) -> list[ModelRemains]:
    """Models that still hold something recorded at start <= time < end, or may, with the command that is next.

    Clips are known by the names that `record` gives them. Where none carries the camera's name it may have been
    recorded under another: all of that time count then.

    Args:
        folders: of the models.
        camera, start_utc_s, end_utc_s: what was deleted.
    """
    span = (start_utc_s, end_utc_s)
    found = []
    for folder in folders:
        bank = f"--model {shlex.quote(str(folder.resolve()))}"
        info = f"python -m anomaly bank info {bank}"
        try:
            clips, undated = clips_between(folder, camera, *span)
            forget = f"python -m anomaly bank forget {bank} --camera {shlex.quote(camera)}"
            if not clips:
                clips, undated = clips_between(folder, None, *span)
                forget = f"python -m anomaly bank forget {bank}"
        except (AnomalyError, OSError) as error:
            found.append(ModelRemains(model=folder.name, problem=str(error), command=info))
            continue
        if clips or undated:
            since, until = (datetime.fromtimestamp(one, UTC).isoformat() for one in span)
            command = f"{forget} --since {since} --until {until}" if clips else info
            found.append(
                ModelRemains(model=folder.name, clips=len(clips), undated=len(undated), command=command)
            )
    return found
