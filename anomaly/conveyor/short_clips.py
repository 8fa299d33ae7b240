"""Very many very short clips, for measuring how calibration fares with a thousand videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from anomaly.conveyor.chance import hashed, uniform
from anomaly.conveyor.clips import Clip
from anomaly.conveyor.faults import KINDS, PlannedFault
from anomaly.conveyor.film import (
    GENERATOR,
    already_there,
    begin,
    csv_text,
    finish,
    in_parallel,
    write_clip,
    write_text,
)
from anomaly.conveyor.planning import plan_clip
from anomaly.conveyor.scene import SceneConfig
from anomaly.errors import UsageError

_CRF = 27


def write_short_clips(
    folder: Path,
    count: int,
    seed: int = 0,
    *,
    clip_s: float = 2.4,
    kinds: Sequence[str] = KINDS,
    clean_share: float = 0.0,
    config: SceneConfig | None = None,
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write `clips/clip_0001.mp4` and so on, and `labels.csv` with a moment for each, `video,time_s,label`.

    Args:
        folder: new, empty, or one that this function wrote; the same request finds its clips there.
        count: how many clips.
        seed: of everything.
        clip_s: length of a clip in seconds.
        kinds: which faults, in turn, one to a clip.
        clean_share: share of the clips that hold no fault, 0..1; their rows have no time and the label
            `normal`.
        config: the camera; 160x96 at 10 frames a second by default.
        workers: threads.
        progress: called with the clips done since the last call, `count` in all, none where all is reused.

    Returns:
        The path of `labels.csv`; its videos are relative to `clips/`.

    Raises:
        UsageError: a count below 1, a share outside 0..1, no or an unknown kind, or a folder that holds something else.
    """
    if count < 1:
        raise UsageError(f"{count} short clips cannot be written; give 1 or more")
    if not 0.0 <= clean_share <= 1.0:
        raise UsageError(f"clean_share {clean_share} is out of range; give 0 to 1")
    if not kinds:
        raise UsageError("kinds of faults are empty; give at least one")
    camera = config or SceneConfig(width=160, height=96)
    folder = Path(folder)
    labels = folder / "labels.csv"
    request = {
        "generator": GENERATOR, "footage": "short clips", "seed": seed, "count": count, "clip_s": clip_s,
        "kinds": list(kinds), "clean_share": clean_share, "config": asdict(camera),
    }  # fmt: skip
    if already_there(folder, request):
        return labels
    digits = max(4, len(str(count)))
    names = [f"clip_{i + 1:0{digits}d}.mp4" for i in range(count)]
    files = ["labels.csv", *(f"clips/{name}" for name in names)]
    jobs: list[Callable[[], None]] = []
    rows: list[tuple[str, float | str, str]] = []
    faulty = 0
    for i, name in enumerate(names):
        clip_seed = hashed(seed, 200, i)
        faults: list[PlannedFault] = []
        if uniform(0.0, 1.0, clip_seed, 1) >= clean_share:
            moment = round(clip_s * uniform(0.3, 0.7, clip_seed, 2), 2)
            faults.append(PlannedFault(kinds[faulty % len(kinds)], moment, duration_s=min(1.2, 0.5 * clip_s)))
            rows.append((name, moment, faults[0].kind))
            faulty += 1
        else:
            rows.append((name, "", "normal"))
        clip: Clip = plan_clip(clip_seed, clip_s, faults, config=camera)
        jobs.append(partial(write_clip, clip, folder / "clips" / name, crf=_CRF))
    begin(folder, request, files)
    (folder / "clips").mkdir(exist_ok=True)
    write_text(labels, csv_text("video,time_s,label", rows))
    in_parallel(jobs, workers, progress)
    finish(folder, request, files)
    return labels
