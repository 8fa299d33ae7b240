"""`anomaly export`: a model as a graph for a runtime without torch, compared and certified at once."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly.commands import console
from anomaly.commands.outputs import check_output
from anomaly.errors import ModelError, UsageError
from anomaly.exported import FOLDER
from anomaly.exporting import export_model
from anomaly.model import load_model
from export import PRECISIONS, QUANTISED, check_runtime

if TYPE_CHECKING:
    from anomaly.config import ExportConfig


def run(config: ExportConfig) -> None:
    """Export into the model folder, and say what came of it."""
    precision = config.precision or PRECISIONS.get(config.runtime, ("",))[0]
    check_runtime(config.runtime, precision)
    if importlib.util.find_spec("torch") is None:
        raise ModelError(
            "export needs torch, to write a graph and to compare it; run it where the model was fitted, and copy the model's folder here"
        )
    size = config.source_size
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise UsageError(f"source_size={size} is not [height, width]; give two numbers of pixels")
    model = load_model(Path(config.model), device="cpu", offline=config.weights.offline, runtime="torch")
    check_output("--model", model.folder / FOLDER, folder=True)
    with console.stages() as tell:
        done = export_model(
            model,
            config.runtime,
            precision,
            tolerance=config.tolerance,
            source_size=None if size is None else (size[0], size[1]),
            tell=tell,
        )
    for what, parity in done.parity.items():
        console.say(f"Against torch, {what}, on {done.pictures}: {parity.text()}.")
    for why in done.left_out:
        console.say(f"Not compared and left out, so frames are searched beside the graph: {why}.")
    console.say(
        f"Patch features of a frame: {done.graph_ms:.1f} ms, {done.before} {done.before_ms:.1f} ms on this machine."
    )
    if precision in QUANTISED and done.rescored is not None:
        found = done.rescored.recheck
        others = (
            f"whether it alarms on normal footage was judged on {done.judged_on} others"
            if done.judged_on
            else "on the same ones it was judged whether it alarms on normal footage, for they are too few to be kept apart: "
            "calibrate with more normal footage to know that better"
        )
        console.say(
            f"{precision} learned its scales on {done.scaled_on} normal frames of the evidence; {others}."
        )
        console.say(
            f"{precision} keeps all {found.n_events} calibrated events; {found.new_alarms} of {found.n_normal} normal frames "
            f"reach the threshold that did not before, when {found.alarmed} did; scores move by up to "
            f"{found.largest_difference:.2g} (an ordinary frame scores 1)."
        )
    console.say(f"Written to {done.folder}, {done.megabytes:.1f} MB.")
    console.say(done.certificate)
    console.say(
        f"Next, where torch need not be installed: python -m anomaly score --model {config.model} "
        f"--source VIDEO --out scores.csv runtime={done.name}"
    )
