"""`anomaly demo`: the whole chain on built-in footage, each step as a user would type it."""

from __future__ import annotations

import csv
import json
import multiprocessing
import runpy
import shlex
import sys
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly.commands import console
from anomaly.conveyor import MOTION_KINDS, SceneConfig, write_footage
from anomaly.errors import AnomalyError
from anomaly.footage.labels import load_labels

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

    from anomaly.config import DemoConfig

#: A thin scratch is smaller than a patch; faults of motion are normal in every single picture.
HARD_KINDS = ("scratch", *MOTION_KINDS)
#: Half of the normal clips are held out: room to see how often normal footage alarms by chance.
_NORMAL_CLIPS, _NORMAL_S, _HOLDOUT = 10, 14.0, 0.5
_LABELED_CLIPS, _TEST_CLIPS, _CLIP_S, _CLEAN_CLIPS = 16, 8, 6.0, 1
#: Frames a second: enough to see every fault several times, and few enough for two cores. At 4 there is too little footage
#: to learn from, and no certificate.
_FPS = 5.0
#: What each step would spend seconds on importing.
_PRELOADED = ["torch", "timm"]


def run(config: DemoConfig) -> None:
    """Generate, fit, calibrate, evaluate, run; say what was caught, what was missed, and where to look."""
    started = time.perf_counter()
    out = Path(config.out)
    steps = _start_steps()
    clips = _NORMAL_CLIPS + _LABELED_CLIPS + _TEST_CLIPS + 2 * _CLEAN_CLIPS
    with console.counter("generating a conveyor with parts and faults", clips) as advance:
        footage = write_footage(
            out / "footage",
            seed=config.seed,
            normal_clips=_NORMAL_CLIPS,
            normal_s=_NORMAL_S,
            labeled_clips=_LABELED_CLIPS,
            test_clips=_TEST_CLIPS,
            clean_clips=_CLEAN_CLIPS,
            clip_s=_CLIP_S,
            config=SceneConfig(fps=_FPS),
            progress=advance,
        )
    model, figures, events = out / "model", out / "figures.json", out / "run"
    # The CPU profile everywhere: the demo must work, and look the same, on any machine.
    # So little footage needs no more than half the usual sample for its projection.
    settings = "profile=cpu", f"seed={config.seed}", f"fit.holdout={_HOLDOUT}", "projection.sample_frames=100"
    # The footage is written anew each time: what a demo that was stopped has learned is of other files.
    _step(steps, "fit", "--normal-videos", footage.normal, "--model", model, *settings, "fit.fresh=true")
    # Calibrating on what this model cannot see would pull the threshold down into the noise, as `calibrate`
    # itself would say: the hard kinds are left to the evaluation, which lists them as the misses they are.
    labels = _without_hard_kinds(footage.labeled_csv)
    _step(steps, "calibrate", "--model", model, "--labeled", labels, "--videos", footage.labeled)
    _step(
        steps,
        "evaluate",
        "--model",
        model,
        "--labeled",
        footage.test_csv,
        "--videos",
        footage.test,
        "--json",
        figures,
    )
    shown = [source.path for source in load_labels(footage.test_csv, footage.test).sources][:2]
    _step(steps, "run", "--model", model, "--source", *shown, "--out", events)
    found = json.loads(figures.read_text(encoding="utf-8"))
    console.say("")
    console.say(f"The demo took {time.perf_counter() - started:.0f} s.")
    console.say(
        f"Caught {found['event_recall']:.0%} of {found['n_events']} faults it had never seen. "
        f"{' and '.join(MOTION_KINDS)} are faults of motion, not of appearance: this model looks at single pictures, "
        "so catching those is luck, and missing them is honest."
    )
    console.say("Look at:")
    for path, what in (
        (out / "model_fit_review.html", "the normal moments that are explained worst"),
        (out / "model_evaluation.html", "figures, misses, false alarms, scores over time"),
        (events / "annotated", "the footage with its heatmap"),
        (events / "snapshots", "one picture an event"),
        (events / "events.jsonl", "one line an event"),
    ):
        console.say(f"  {path}  {what}")


def _without_hard_kinds(labels: Path) -> Path:
    """A copy of a label file without the kinds that look normal to this model."""
    with labels.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    copy = labels.with_name(f"{labels.stem}_seen.csv")
    with copy.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(row for row in rows if row["label"] not in HARD_KINDS)
    return copy


def _start_steps() -> BaseContext:
    """Where steps run: each in a new process, on Linux forked from one that imports while the footage is generated.

    Elsewhere, forking a process that has loaded torch is not safe, and each step imports for itself.
    """
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    forkserver.ensure_running()
    return context


def _step(steps: BaseContext, command: str, *arguments: object) -> None:
    """Run one command in a process of its own, shown as it could be typed."""
    typed = [command, *(str(argument) for argument in arguments)]
    console.say("")
    console.say(f"$ python -m anomaly {shlex.join(typed)}")
    process = steps.Process(target=_typed, args=(typed,))  # type: ignore[attr-defined]
    process.start()
    process.join()
    if process.exitcode:
        raise AnomalyError(
            f"the demo stopped at `anomaly {command}`, which ended with status {process.exitcode}; see its message above"
        )


def _typed(arguments: list[str]) -> None:
    """`python -m anomaly` with these arguments; ends with its exit status."""
    sys.argv = ["anomaly", *arguments]
    runpy.run_module("anomaly", run_name="__main__", alter_sys=True)
