"""What a certificate is withheld for, what calibration refuses, and the page to sign; through the command line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from score_series import labelled_clips, normal_series
from small_model import FPS, Done, SmallModel, invoke, put_scores, succeed

from anomaly.artifact import read_signed
from anomaly.calibration import Series, calibrate, decide, normal_windows
from anomaly.decider import DeciderConfig

HEADER = "video,start_s,end_s,label\n"


@pytest.fixture
def copy(small_model: SmallModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_model.folder, tmp_path / "model"))


@pytest.fixture
def labels(small_model: SmallModel, tmp_path: Path) -> Path:
    """Only the clips with an anomaly: nothing normal beside what `fit` held out."""
    rows = small_model.footage.labeled_csv.read_text().splitlines()
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(row for row in rows if "normal" not in row) + "\n")
    return path


def threshold(model: Path) -> dict:
    return read_signed(model / "thresholds" / "torch-fp32.json")


def change_holdout(model: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Put other scores of the held-out footage into a model."""
    with np.load(model / "scores.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    for name in arrays:
        if re.fullmatch(r"holdout/\d+/scores", name):
            arrays[name] = change(arrays[name])
    put_scores(model, arrays)


def run(model: Path, labels: Path, small_model: SmallModel, *more: object) -> Done:
    target = () if "--target-recall" in more else ("--target-recall", 0.5)
    return invoke(
        "calibrate", "--model", model, "--labeled", labels, "--videos", small_model.footage.labeled,
        "evidence.max_mb=0", *target, FPS, *more,
    )  # fmt: skip


def test_too_little_normal_footage_to_see_chance_gives_no_certificate_and_says_what_would(
    copy: Path, labels: Path, small_model: SmallModel
):
    (copy / "looks.json").unlink()  # of a calibration with other normal clips
    done = run(copy, labels, small_model)
    assert done.status == 0, done.err
    assert "No certificate: the normal footage held out has room for 1 stretch of 7 s" in done.out
    assert "Hold out 61 s more of normal footage, in clips of 7 s or longer" in done.out
    assert "3 events would prove a recall of at most 36.84 % at 95 %" in done.out
    assert "Only 8 s of normal footage were held out" in done.out
    assert threshold(copy)["certificate"] is None
    # The threshold is used all the same, marked.
    footage = small_model.footage
    out = succeed("score", "--model", copy, "--source", footage.test, "--out", copy.parent / "s.csv", FPS)
    assert "UNCERTIFIED: the normal footage held out has room" in out
    assert "No recall is certified." in (copy.parent / "model_calibration.html").read_text()


def test_chance_is_not_measured_over_holes_or_in_blocks_shorter_than_an_event():
    config = DeciderConfig(smoothing_s=0)
    times = np.concatenate([np.arange(0, 4, 0.1) + 120 * block for block in range(8)])
    blocks = decide(Series("n", times, np.full(len(times), 1.0)), config)
    windows = normal_windows([blocks], [6.0])
    # 32 s in all: room for four stretches of 6 to 6.6 s, each in two parts that lie inside a block.
    assert windows.parts == (2,)
    assert windows.rooms == (4,)
    one_spike = np.full(len(times), 1.0)
    one_spike[20] = 5.0
    halves = normal_windows([decide(Series("n", times, one_spike), config)], [3.2])
    whole = normal_windows([decide(Series("n", times, one_spike), config)], [6.4])
    assert whole.hit_rate(4.0) == pytest.approx(2 * halves.hit_rate(4.0), rel=0.1)


def test_ten_stretches_side_by_side_are_enough():
    series, events = labelled_clips(60)  # 2 s, and 1 s of tolerance on both sides: 4.2 s rounded up
    config = DeciderConfig(smoothing_s=0.3)
    enough = calibrate(series, events, normal_series(1, seconds=43), config)
    short = calibrate(series, events, normal_series(1, seconds=40), config)
    assert enough.certificate is not None
    assert short.certificate is None
    assert "room for 9 stretches" in short.withheld
    assert "at most 95.12 %" in short.withheld  # 0.05 ** (1 / 60) is 0.95129


def test_a_budget_does_not_take_the_footage_that_the_certificate_needs():
    series, events = labelled_clips(60, seconds=20.0)
    events = [type(one)(one.video, 2.0, 12.0, one.labels) for one in events]  # 12.2 s with the tolerance
    holdout = normal_series(1, seconds=150)
    result = calibrate(series, events, holdout, DeciderConfig(smoothing_s=0.3), budget_per_hour=6)
    assert result.certificate is not None
    assert result.false_alarms.n_frames == 1500
    assert "was not used" in " ".join(result.notes)


def test_by_default_six_false_alarms_an_hour_may_be_spent_where_the_events_are_few(
    copy: Path, small_model: SmallModel
):
    csv = small_model.footage.labeled_csv
    assert run(copy, csv, small_model).status == 0
    assert threshold(copy)["settings"]["false_alarms_per_hour"] == 6.0
    assert run(copy, csv, small_model, "calibration.false_alarms_per_hour=null").status == 0
    assert "budget" not in " ".join(threshold(copy)["notes"])
    series, events = labelled_clips(6)
    plain = calibrate(series, events, normal_series(), DeciderConfig())
    spent = calibrate(series, events, normal_series(), DeciderConfig(), budget_per_hour=6.0)
    assert spent.threshold < plain.threshold
    assert spent.certificate == plain.certificate


def test_anomalies_below_everything_normal_are_listed(copy: Path, labels: Path, small_model: SmallModel):
    before = threshold(copy)
    change_holdout(copy, lambda scores: scores + 50)
    done = run(copy, labels, small_model)
    assert done.status == 1
    assert "does not see these anomalies" in done.message
    assert all(f"labeled_0{i}.mp4@" in done.message for i in (1, 2, 3))
    assert threshold(copy) == before


def test_scores_that_are_no_numbers_are_refused_by_name(copy: Path, labels: Path, small_model: SmallModel):
    change_holdout(copy, lambda scores: np.where(np.arange(len(scores)) == 3, np.nan, scores))
    done = run(copy, labels, small_model)
    assert done.status == 1
    assert "normal_01.mp4" in done.message
    assert "nan" in done.message


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("--confidence", 1), 2, "calibration.confidence=1"),
        (("--target-recall", 0), 2, "calibration.target_recall=0"),
        (("--target-recall", 1.5), 2, "calibration.target_recall=1.5"),
        (("calibration.false_alarms_per_hour=-1",), 2, "calibration.false_alarms_per_hour=-1"),
        (("decider.leave_ratio=0",), 2, "decider.leave_ratio=0"),
        (("labels.count=frames",), 2, "clip or event"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_one_line(
    small_model: SmallModel, labels: Path, arguments: tuple[object, ...], status: int, told: str
):
    done = run(small_model.folder, labels, small_model, *arguments)
    assert done.status == status
    assert told in done.message
    assert "unexpected" not in done.message


def test_a_target_of_one_is_answered(copy: Path, small_model: SmallModel):
    done = run(copy, small_model.footage.labeled_csv, small_model, "--target-recall", "1.0")
    assert done.status == 0
    assert "no number of examples can prove that" in done.out
    assert "it catches 3 of 3" in done.out


def test_labels_are_needed_unless_it_is_a_check(small_model: SmallModel):
    done = invoke("calibrate", "--model", small_model.folder)
    assert done.status == 2
    assert "--labeled" in done.message


def test_only_what_was_found_without_the_detector_certifies(
    copy: Path, small_model: SmallModel, tmp_path: Path
):
    labels = tmp_path / "found.csv"
    labels.write_text(
        "video,start_s,end_s,label,found\nlabeled_01.mp4,1.5,6.5,spill,audit\nlabeled_02.mp4,2,7,spill,independent\n"
        "labeled_03.mp4,2,7,spill,alarm\nlabeled_04.mp4,,,normal,\nlabeled_05.mp4,,,normal,\n"
    )
    done = run(copy, labels, small_model)
    assert done.status == 0, done.err
    assert threshold(copy)["certificate"]["n_events"] == 2
    assert "Found by the detector itself, so listed but no proof: 1 of 3 events." in done.out
    labels.write_text(labels.read_text().replace("audit", "alarm").replace("independent", "proposed"))
    done = run(copy, labels, small_model)
    assert "No certificate: every event was found by the detector itself" in done.out


def test_an_alarm_that_overlaps_an_independent_label_neither_widens_nor_disowns_it(
    copy: Path, small_model: SmallModel, tmp_path: Path
):
    labels = tmp_path / "found.csv"
    labels.write_text(
        "video,start_s,end_s,label,found\nlabeled_01.mp4,3,6,spill,independent\nlabeled_01.mp4,2,7.5,spill,alarm\n"
        "labeled_05.mp4,,,normal,\n"
    )
    assert run(copy, labels, small_model).status == 0
    (event,) = (one["event"] for one in threshold(copy)["events"])
    assert (event["start_s"], event["end_s"], event["found"]) == (3.0, 6.0, "independent")
    assert threshold(copy)["certificate"]["n_events"] == 1


def test_a_clip_under_two_names_counts_once(copy: Path, small_model: SmallModel, tmp_path: Path):
    videos = Path(shutil.copytree(small_model.footage.labeled, tmp_path / "videos"))
    for i in range(5):
        shutil.copy(videos / "labeled_01.mp4", videos / f"again_{i}.mp4")
    rows = small_model.footage.labeled_csv.read_text()
    first = next(row for row in rows.splitlines() if row.startswith("labeled_01"))
    labels = tmp_path / "labels.csv"
    labels.write_text(rows + "".join(first.replace("labeled_01", f"again_{i}") + "\n" for i in range(5)))
    done = invoke(
        "calibrate", "--model", copy, "--labeled", labels, "--videos", videos, "--target-recall", 0.5, FPS
    )
    assert done.status == 0, done.err
    assert "a clip counts once" in done.err
    # The first by name stays.
    assert threshold(copy)["certificate"]["n_events"] == 3
    labels.write_text(rows + "again_1.mp4,1,2,spill\n")
    done = invoke("calibrate", "--model", copy, "--labeled", labels, "--videos", videos, FPS)
    assert done.status == 1
    assert "is a copy of" in done.message


def test_footage_that_the_model_knows_is_no_proof_of_few_false_alarms(
    copy: Path, labels: Path, small_model: SmallModel, tmp_path: Path
):
    # Without this, 40 s that the bank holds would have passed for new normal footage, and chance for measured.
    videos = Path(shutil.copytree(small_model.footage.labeled, tmp_path / "videos"))
    rows = labels.read_text()
    for path in small_model.footage.normal.iterdir():
        shutil.copy(path, videos / f"day_{path.name}")
        rows += f"day_{path.name},,,normal\n"
    labels.write_text(rows)
    base = ("--model", copy, "--labeled", labels, "--videos", videos, FPS)
    done = invoke("calibrate", *base, "--target-recall", 0.5, "evidence.max_mb=0")
    assert done.status == 0, done.err
    assert "not new to the model" in done.err
    assert "No certificate: the normal footage held out has room for 1 stretch of 7 s" in done.out
    assert "Only 8 s of normal footage were held out" in done.out
    # Nor does a study of the stored scores take it for new.
    succeed("study", "--model", copy, "--out", tmp_path / "s", "study.grid={leave_ratio: [0.8, 0.9]}", FPS,
            "study.protect=correct", "study.apply=true")  # fmt: skip
    assert "room for 1 stretch" in threshold(copy)["withheld"]
    succeed("evaluate", *base, "--json", tmp_path / "f.json", "--html", tmp_path / "p.html")
    assert 3600 * json.loads((tmp_path / "f.json").read_text())["normal_hours"] < 10


def test_constant_scores_are_refused(copy: Path, tmp_path: Path):
    picture = np.full((96, 160, 3), 90, np.uint8)
    for folder, compression in (("good", 0), ("dent", 9)):
        (tmp_path / "test" / folder).mkdir(parents=True)
        path = tmp_path / "test" / folder / "a.png"
        cv2.imwrite(str(path), picture, [cv2.IMWRITE_PNG_COMPRESSION, compression])
    arguments = ("--model", copy, "--source", tmp_path / "test", "--out", tmp_path / "s.csv")
    succeed("score", *arguments)
    one, other = ((tmp_path / "s.csv").read_text().splitlines()[i].split(",")[3] for i in (1, 2))
    assert one == other
    change_holdout(copy, lambda scores: np.full_like(scores, float(one)))
    done = invoke("calibrate", "--model", copy, "--labeled", tmp_path / "test", FPS)
    assert done.status == 1
    assert "the detector tells nothing apart" in done.message


def test_the_page_can_be_read_alone_and_signed(copy: Path, small_model: SmallModel, tmp_path: Path):
    # The clip was calibrated on with other labels, which would cost a setting.
    shutil.rmtree(copy / "thresholds")
    (copy / "looks.json").unlink()
    hostile = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    videos = tmp_path / "videos"
    videos.mkdir()
    name = "cam<b>1.mp4"
    footage = small_model.footage.labeled
    shutil.copy(footage / "labeled_01.mp4", videos / name)
    shutil.copy(footage / "labeled_05.mp4", videos / "clean.mp4")
    labels, page = tmp_path / "l.csv", tmp_path / "deep" / "page.html"
    quoted = hostile.replace('"', '""')
    labels.write_text(f'{HEADER}{name},1.5,6.5,"{quoted}"\nclean.mp4,,,normal\n')
    succeed(
        "calibrate", "--model", copy, "--labeled", labels, "--videos", videos, "--report", page, "evidence.max_mb=0",
        "--target-recall", 0.5, FPS,
    )  # fmt: skip
    text = page.read_text()
    assert not re.search(r"https?://|<script|<link|<img (?!src=\"data:)|@import|url\(", text)
    assert "&lt;script&gt;alert(1)" in text
    assert "cam&lt;b&gt;1.mp4" in text
    assert "cam<b>" not in text
    document = threshold(copy)
    for part in (
        "What was learned as normal", "Not covered", "Recall against false alarms", "Nearest to being missed",
        "Worst false alarms", "What this hangs on", "Signature", "Date", "prefers-color-scheme: dark", "@media print",
        f"{document['threshold']:.4g}", *document["hangs_on"].values(), "normal_01.mp4", "data:image/jpeg;base64,",
    ):  # fmt: skip
        assert part in text, part
    assert "At least 5 % of anomalies like the one labelled anomaly" in text


def test_out_leaves_the_model_and_its_page_alone(copy: Path, small_model: SmallModel, tmp_path: Path):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    done = run(copy, small_model.footage.labeled_csv, small_model, "--out", tmp_path / "t.json")
    assert done.status == 0
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.glob("*.html"))
    assert read_signed(tmp_path / "t.json")["threshold"] > 1
