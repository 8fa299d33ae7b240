"""A folder of built-in footage: clips to learn from, to calibrate on and to test on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
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
    label_rows,
    write_clip,
    write_text,
)
from anomaly.conveyor.planning import plan_clip
from anomaly.conveyor.scene import SceneConfig
from anomaly.errors import UsageError

_CRF = 25  # what a network camera of this size delivers


@dataclass(frozen=True)
class ConveyorFootage:
    """Where everything is.

    Attributes:
        folder: of it all.
        normal: folder of the normal clips, `normal_01.mp4` and so on.
        labeled, labeled_csv: folder of the labelled clips and their labels, `video,start_s,end_s,label`.
        test, test_csv: the same for clips that calibration has not seen.
        masks: folder of `<clip's name without .mp4>.npz`, one for each labelled and test clip.
        seed, config: what was asked for.
        reused: True where the folder held it all already.
    """

    folder: Path
    normal: Path
    labeled: Path
    labeled_csv: Path
    test: Path
    test_csv: Path
    masks: Path
    seed: int
    config: SceneConfig
    reused: bool = False


def write_footage(
    folder: Path,
    *,
    seed: int = 0,
    normal_clips: int = 6,
    normal_s: float = 20.0,
    labeled_clips: int = 16,
    test_clips: int = 16,
    clean_clips: int = 2,
    clip_s: float = 12.0,
    kinds: Sequence[str] = KINDS,
    config: SceneConfig | None = None,
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> ConveyorFootage:
    """Render footage into a folder, or find that it is there already.

    Args:
        folder: new, empty, or one that this function wrote; what an earlier call left there is replaced.
        seed: of everything; no two clips of a seed are alike, and test clips share nothing with labelled
            ones.
        normal_clips, normal_s: how many clips without a fault, and how long.
        labeled_clips, test_clips: how many clips with one fault each, of the kinds in turn.
        clean_clips: how many further clips without any fault in each of `labeled` and `test`; their rows have
            no times and the label `normal`.
        clip_s: length of the labelled and test clips; a fault is in the picture for about 5 s.
        kinds: which faults.
        config: the camera.
        workers: threads.
        progress: called with the clips done since the last call; there are
            normal_clips + labeled_clips + test_clips + 2 * clean_clips in all, none where all is reused.

    Raises:
        UsageError: a number of clips below 0, no or an unknown kind, or a folder that holds something else.
    """
    camera = config or SceneConfig()
    counts = {"normal": normal_clips, "labeled": labeled_clips, "test": test_clips, "clean": clean_clips}
    for name, count in counts.items():
        if count < 0:
            raise UsageError(f"{name}_clips {count} is below 0; give the number of clips to generate")
    if not kinds:
        raise UsageError("kinds of faults are empty; give at least one")
    folder = Path(folder)
    request = {
        "generator": GENERATOR, "footage": "conveyor", "seed": seed, "clips": counts, "normal_s": normal_s,
        "clip_s": clip_s, "kinds": list(kinds), "config": asdict(camera),
    }  # fmt: skip
    made = ConveyorFootage(
        folder=folder,
        normal=folder / "normal",
        labeled=folder / "labeled",
        labeled_csv=folder / "labeled.csv",
        test=folder / "test",
        test_csv=folder / "test.csv",
        masks=folder / "masks",
        seed=seed,
        config=camera,
        reused=already_there(folder, request),
    )
    if made.reused:
        return made
    normal = {
        f"normal_{i + 1:02d}": plan_clip(hashed(seed, 100, i), normal_s, config=camera)
        for i in range(normal_clips)
    }
    labeled = _planned("labeled", hashed(seed, 101), labeled_clips, clean_clips, clip_s, kinds, camera)
    test = _planned("test", hashed(seed, 102), test_clips, clean_clips, clip_s, kinds, camera)
    labeled_and_test = {"labeled": labeled, "test": test}
    files = [f"normal/{name}.mp4" for name in normal]
    for part, clips in labeled_and_test.items():
        files += [
            f"{part}.csv",
            *(f"{part}/{name}.mp4" for name in clips),
            *(f"masks/{name}.npz" for name in clips),
        ]
    begin(folder, request, files)
    for directory in (made.normal, made.labeled, made.test, made.masks):
        directory.mkdir(exist_ok=True)
    jobs = [partial(write_clip, clip, made.normal / f"{name}.mp4", crf=_CRF) for name, clip in normal.items()]
    for part, clips in labeled_and_test.items():
        rows = [row for name, clip in clips.items() for row in label_rows(clip, f"{name}.mp4")]
        write_text(folder / f"{part}.csv", csv_text("video,start_s,end_s,label", rows))
        jobs += [
            partial(
                write_clip, clip, folder / part / f"{name}.mp4", crf=_CRF, masks=made.masks / f"{name}.npz"
            )
            for name, clip in clips.items()
        ]
    in_parallel(jobs, workers, progress)
    finish(folder, request, files)
    return made


def _planned(
    name: str, seed: int, faulty: int, clean: int, clip_s: float, kinds: Sequence[str], config: SceneConfig
) -> dict[str, Clip]:
    clips: dict[str, Clip] = {}
    for i in range(faulty + clean):
        # The middle of the fault keeps normal time before and after it.
        middle = clip_s * uniform(0.42, 0.58, seed, i, 1)
        faults = [PlannedFault(kinds[i % len(kinds)], middle)] if i < faulty else []
        clips[f"{name}_{i + 1:02d}"] = plan_clip(hashed(seed, i), clip_s, faults, config=config)
    return clips
