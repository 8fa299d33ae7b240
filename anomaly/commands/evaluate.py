"""`anomaly evaluate`: figures and a page on labelled footage."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly.artifact import write_file
from anomaly.commands import console
from anomaly.commands.labeled import keep_looks, score_labeled, unset
from anomaly.commands.normal import apart, as_seldom, held_out, seen_seldom
from anomaly.commands.outputs import check_output, page_beside
from anomaly.evaluation import evaluate, flat, measure_rate
from anomaly.looks import Look
from anomaly.model import load_model
from anomaly.report.evaluation import evaluation_page
from anomaly.thresholds import load_threshold

if TYPE_CHECKING:
    from anomaly.config import EvaluateConfig


_MOST_MISSES = 20


def run(config: EvaluateConfig) -> None:
    """Measure, print, and write what was asked for."""
    page = page_beside(config.model, "evaluation", config.html)
    check_output("--html", page, folder=False)
    importlib.import_module("sklearn")  # missing, it would be told after all the footage was scored
    model = load_model(
        Path(config.model), device=config.device, offline=config.weights.offline, runtime=config.runtime
    )
    console.say(model.headline())
    threshold = load_threshold(model, fps=config.footage.fps)
    labeled = score_labeled(model, config.labeled, config.videos, config.footage, config.labels, grids=True)
    steps = threshold.document.get("steps_s", {})
    holdout = held_out(model, config.footage.fps, steps)
    found = evaluate(
        labeled.footage,
        labeled.events,
        labeled.scored,
        holdout,
        threshold,
        slack_s=config.labels.slack_s,
        familiar=labeled.familiar,
        seldom=lambda one: as_seldom(one, config.footage.fps, steps),
        grid=model.detector.branches[0].backbone.grid,
    )
    # At another rate than was calibrated at both are thinned alike, and the doubt says so.
    if found.alarms is not None and config.footage.fps == threshold.fps:
        _, normal = apart([one.series for one in labeled.scored], labeled.events, labeled.familiar)
        found = replace(found, notes=(*found.notes, *seen_seldom([*holdout, *normal], steps)))
    # What is calibrated later on these clips, with another setting, was chosen knowing this.
    shown_with = threshold.document.get("setting") or unset(model, config.footage.fps)
    keep_looks(model.folder, [Look(shown_with, labeled.seen)])
    videos = [one.source for one in labeled.scored]
    found.figures["frames_per_second"] = measure_rate(model, videos[0], config.footage.fps)
    console.table(
        f"Evaluation on {config.labeled}",
        [(name, "not known" if value is None else f"{value:.4g}") for name, value in found.figures.items()],
    )
    promised = threshold.on({one.kind for one in videos})
    for series in (one.series for one in labeled.scored):
        promised = promised.sampled(series.interval_s, series.source, series.camera)
    for line in promised.promises({one.series.camera: one.source.name for one in labeled.scored}):
        console.say(line)
    if found.alarms is not None:
        console.say(found.alarms.text())
    missed = [one for one in found.outcomes if one.outcome == "missed"]
    for one in missed[:_MOST_MISSES]:
        score = (
            f"score {one.score:.3f}" if math.isfinite(one.score) else "too few frames show it for an alarm"
        )
        console.say(f"Missed: {one.event}, {', '.join(one.event.labels)}, {score}")
    if len(missed) > _MOST_MISSES:
        console.say(f"and {len(missed) - _MOST_MISSES} more missed events; the page lists them all")
    for note in found.notes:
        console.say(note)
    if config.json:
        path = Path(config.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(flat(found.figures), indent=1, allow_nan=False).encode() + b"\n")
    page.parent.mkdir(parents=True, exist_ok=True)
    # Where each camera has its own threshold, scores are in units of it.
    shown = replace(promised, value=1.0) if threshold.document.get("cameras") else promised
    text = evaluation_page(model, found, videos, shown, config.labeled)
    write_file(page, text.encode())
    console.say(f"Look at {page}.")
