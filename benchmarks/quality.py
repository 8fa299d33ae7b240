"""How well the program sees: real footage and generated footage, all with the default profile and no other setting.

    ped2      UCSD Ped2: frame AUROC (all frames of the test clips pooled, with a bootstrap interval by clip), pixel
              figures, events caught when each is left out of the calibration, and what so few events can prove
    tile      magnetic tile: image and pixel figures
    bottles   three events in one clip, each caught or not by a threshold from the other two
    conveyor  generated: fit, calibrate, measured on clips and on an hour of normal footage that neither has seen

Ped2, tile and bottles are read from ../shared/data, or $ANOMALY_DATA. No rate of false alarms is told where
less than half an hour of normal footage was held out.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from report import DATA, Figures, anomaly, err, machine, options_parser, out, show, workplace, write_json
from thinned import thin_bottles, thin_images, thin_ped2

from anomaly.calibration import recall_bound
from anomaly.conveyor import KINDS, MOTION_KINDS, SceneConfig, write_footage
from anomaly.decider import DeciderConfig, decision_scores
from anomaly.exported import TORCH
from anomaly.metrics import auroc, bootstrap_interval

CONFIDENCE = 0.95
ENOUGH_HOURS = 0.5


def fit(model: Path, normal: Path) -> float:
    """Learn with the default profile; returns seconds."""
    begin = time.perf_counter()
    anomaly("fit", "--normal-videos", normal, "--model", model, "profile=cpu")
    return time.perf_counter() - begin


def evaluate(model: Path, labels: Path, videos: Path | None = None) -> dict[str, Any]:
    """The program's own figures on labelled footage."""
    figures = model.parent / "figures.json"
    where = ["--videos", videos] if videos else []
    page = model.parent / "page.html"
    anomaly("evaluate", "--model", model, "--labeled", labels, *where, "--json", figures, "--html", page)
    return dict(json.loads(figures.read_text(encoding="utf-8")))


def calibrate(model: Path, labels: Path, videos: Path) -> dict[str, Any] | None:
    """Set the threshold; returns what calibration wrote, None where it refused."""
    try:
        anomaly("calibrate", "--model", model, "--labeled", labels, "--videos", videos)
    except SystemExit as refusal:
        err.print(f"no threshold: {refusal}")
        return None
    return dict(json.loads((model / "thresholds" / f"{TORCH}.json").read_text(encoding="utf-8")))


def leave_one_out(model: Path, labels: Path, videos: Path) -> Figures:
    """Events caught by a threshold that was set without them, and what all of them together prove.

    An event's score is the highest threshold that catches it, so it is caught where the threshold from the
    other events is no higher. Scores come from the cache: each turn costs the decisions only.
    """
    document = calibrate(model, labels, videos)
    if document is None:
        return {"events": 0, "event_recall": None, "certified_recall": None, "threshold": None}
    scores = {(one["event"]["video"], one["event"]["start_s"]): one["score"] for one in document["events"]}
    with labels.open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    # The calibration on all events has just left their scores in the model; the next one replaces them.
    interval = frame_interval(model, rows)
    rest = model.parent / "rest.csv"
    caught = 0
    for row in rows:
        with rest.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *(other for other in rows if other is not row)])
        other = calibrate(model, rest, videos)
        score = scores[row[0], float(row[1])]
        caught += other is not None and score is not None and score >= other["threshold"]
    certificate, alarms = document["certificate"], document["false_alarms"]
    return interval | {
        "events": len(rows),
        "event_recall": caught / len(rows),
        "certified_recall": certificate["recall"] if certificate else None,
        "certificate_withheld": document["withheld"],
        "threshold": document["threshold"],
        "chance_hit_rate": alarms["chance_hit_rate"],
        "alarm_time_share": alarms["alarm_time_share"],
        "normal_hours": alarms["hours"],
        "false_alarms_per_hour": alarms["per_hour"] if alarms["hours"] >= ENOUGH_HOURS else None,
    }


def frame_interval(model: Path, rows: list[list[str]]) -> Figures:
    """Frame AUROC over all frames, and its interval when clips are drawn again; from the scores in the model."""
    config = DeciderConfig()
    clips = []
    with np.load(model / "scores.npz", allow_pickle=False) as stored:
        for index, name in enumerate(stored["labeled/sources"].tolist()):
            times = stored[f"labeled/{index}/times"]
            truth = np.zeros(len(times), bool)
            for row in rows:
                if row[0] == name:
                    truth |= (times >= float(row[1])) & (times < float(row[2]))
            clips.append((truth, decision_scores(times, stored[f"labeled/{index}/scores"], config)))
    if len(clips) < 2:
        return {}
    low, high = bootstrap_interval(auroc, clips, confidence=CONFIDENCE)
    pooled = auroc(*(np.concatenate(part) for part in zip(*clips, strict=True)))
    return {"frame_auroc_pooled": pooled, "frame_auroc_low": low, "frame_auroc_high": high}


def ped2(work: Path, data: Path, quick: bool) -> Figures:
    folder = thin_ped2(data / "ped2", work / "ped2", train=1, test=2) if quick else data / "ped2"
    model, labels, videos = work / "model", folder / "labels.csv", folder / "test"
    figures: Figures = {"fit_seconds": fit(model, folder / "train")}
    # Before the calibration, so that the patch distances that the pixel figures need are cached for it.
    found = evaluate(model, labels, videos)
    figures |= pick(
        found, "n_frames", "frame_auroc", "frame_auroc_raw", "frame_ap", "pixel_auroc", "aupro",
        "frames_per_second",
    )  # fmt: skip
    figures |= leave_one_out(model, labels, videos)
    events = int(figures["events"] or 0)
    figures["certifiable_recall"] = recall_bound(events, 0, CONFIDENCE) if events else None
    return figures


def tile(work: Path, data: Path, quick: bool) -> Figures:
    folder = data / "magnetic_tile"
    if quick:
        folder = thin_images(folder, work / "tile", train=24, test=4)
    model = work / "model"
    figures: Figures = {"fit_seconds": fit(model, folder / "train" / "good")}
    found = evaluate(model, folder)
    return figures | pick(found, "n_sources", "n_events", "image_auroc", "image_ap", "pixel_auroc", "aupro")


def bottles(work: Path, data: Path, quick: bool) -> Figures:
    folder = thin_bottles(data / "bottles", work / "bottles") if quick else data / "bottles"
    model, labels, videos = work / "model", folder / "labels.csv", folder / "test"
    figures: Figures = {"fit_seconds": fit(model, folder / "train")}
    found = evaluate(model, labels, videos)
    figures |= pick(found, "n_frames", "frame_auroc", "frame_ap", "frames_per_second")
    return figures | leave_one_out(model, labels, videos)


def conveyor(work: Path, data: Path, quick: bool) -> Figures:
    camera = SceneConfig(128, 80, 3.0) if quick else SceneConfig(fps=5.0)
    # Faults of motion are measured apart: a model of single pictures cannot see them, and calibrating
    # on them would only pull the threshold down to what is normal.
    kinds = [kind for kind in KINDS if kind not in MOTION_KINDS]
    per_kind = 1 if quick else 11
    seen = write_footage(
        work / "conveyor",
        seed=0,
        normal_clips=5 if quick else 10,
        normal_s=10.0 if quick else 60.0,
        labeled_clips=per_kind * len(kinds),
        test_clips=per_kind * len(kinds),
        clean_clips=0,
        clip_s=8.0 if quick else 12.0,
        kinds=kinds,
        config=camera,
    )
    motion = write_footage(
        work / "motion",
        seed=1,
        normal_clips=0,
        labeled_clips=0,
        test_clips=2 if quick else 12,
        clean_clips=0,
        kinds=MOTION_KINDS,
        config=camera,
    )
    minutes = 5 if quick else 60
    hour = write_footage(
        work / "hour",
        seed=2,
        normal_clips=minutes,
        normal_s=60.0,
        labeled_clips=0,
        test_clips=0,
        clean_clips=0,
        config=camera,
    )
    model = work / "model"
    figures: Figures = {"fit_seconds": fit(model, seen.normal)}
    document = calibrate(model, seen.labeled_csv, seen.labeled)
    if document is None:
        return figures | {"threshold": None}
    certificate = document["certificate"]
    figures |= {
        "threshold": document["threshold"],
        "calibration_events": len(document["events"]),
        "certified_recall": certificate["recall"] if certificate else None,
        "certificate_withheld": document["withheld"],
    }
    figures |= pick(
        evaluate(model, seen.test_csv, seen.test),
        "n_events", "event_recall", "frame_auroc", "frame_ap", "frame_recall", "pixel_auroc", "aupro",
        "frames_per_second",
    )  # fmt: skip
    moved = evaluate(model, motion.test_csv, motion.test)
    figures |= {"motion_events": moved["n_events"], "motion_event_recall": moved["event_recall"]}
    long = evaluate(model, with_normal(work, seen.test_csv, hour.normal), work)
    figures |= pick(long, "normal_hours", "false_alarms", "alarm_time_share", "chance_hit_rate")
    rates = ("false_alarms_per_hour", "false_alarms_per_hour_at_least", "false_alarms_per_hour_at_most")
    enough = long["normal_hours"] >= ENOUGH_HOURS
    return figures | {name: long[name] if enough else None for name in rates}


def with_normal(work: Path, test_csv: Path, normal: Path) -> Path:
    """Labels of the test clips and of normal ones together, names relative to `work`."""
    with test_csv.open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    inside = [[f"{test_csv.parent.name}/{test_csv.stem}/{row[0]}", *row[1:]] for row in rows]
    clean = [
        [f"{normal.parent.name}/{normal.name}/{path.name}", "", "", "normal"]
        for path in sorted(normal.iterdir())
    ]
    together = work / "test_and_normal.csv"
    with together.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *inside, *clean])
    return together


def pick(found: dict[str, Any], *names: str) -> Figures:
    """Some of the program's figures; what it does not tell for this footage is not known."""
    return {name: found.get(name) for name in names}


PARTS: dict[str, Callable[[Path, Path, bool], Figures]] = {
    "ped2": ped2, "tile": tile, "bottles": bottles, "conveyor": conveyor,
}  # fmt: skip


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--only", choices=tuple(PARTS), help="this part alone")
    options = parser.parse_args()
    data, begin = DATA, time.perf_counter()
    figures: Figures = {"quick": int(options.quick), **machine()}
    for name in [options.only] if options.only else PARTS:
        if name != "conveyor" and not (data / "README.md").is_file():
            out.print(
                f"{name} left out: no real footage at {data}; set ANOMALY_DATA to its folder.", soft_wrap=True
            )
            figures[f"{name}_left_out"] = "no real footage"
            continue
        started = time.perf_counter()
        with workplace() as work:
            found = PARTS[name](work, data, options.quick)
        found["seconds"] = time.perf_counter() - started
        show(name + (" (quick: too little footage for a result)" if options.quick else ""), found)
        figures |= {f"{name}_{key}": value for key, value in found.items()}
    figures["seconds"] = time.perf_counter() - begin
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
