"""`calibrate`: the threshold, the certificate in words, labels of every form, and labels that cannot be used."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_model import FPS, Done, SmallModel, invoke, put_scores, succeed

from anomaly.artifact import read_signed
from anomaly.calibration.certificate import percent
from anomaly.decider import DeciderConfig
from anomaly.footage.source import read_frames
from anomaly.footage.sources import find_sources
from anomaly.model import load_model
from anomaly.scores import read_series
from anomaly.thresholds import Threshold, load_threshold


@pytest.fixture
def copy(small_model: SmallModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_model.folder, tmp_path / "model"))


def calibrate(model: Path, labels: Path, *more: object) -> Done:
    return invoke("calibrate", "--model", model, "--labeled", labels, FPS, *more)


def threshold(model: Path) -> dict:
    return read_signed(model / "thresholds" / "torch-fp32.json")


def test_the_ring_of_the_page_counts_what_its_curve_counts(
    copy: Path, small_model: SmallModel, tmp_path: Path
):
    """Clips, and of their events those that prove something: not the detector's own, of which nothing is to be seen here."""
    header, *rows = small_model.footage.labeled_csv.read_text().splitlines()
    labels = tmp_path / "labels.csv"
    rows = [f"{header},found", *(f"{row}," for row in rows)]
    rows[4] = "labeled_04.mp4,2,4,shadow,alarm"
    labels.write_text("\n".join(rows) + "\n")
    page = tmp_path / "page.html"
    done = calibrate(
        copy, labels, "--videos", small_model.footage.labeled, "--target-recall", 0.5, f"report={page}"
    )
    assert done.status == 0, done.err
    assert "it catches 3 of 4 labelled events" in done.out
    (height,) = re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)" r="7"', page.read_text())
    assert float(height) == 10.0  # the line of recall 1


def test_clips_of_one_group_count_once(copy: Path, small_model: SmallModel, tmp_path: Path):
    videos = ("--videos", small_model.footage.labeled, "--target-recall", 0.5, "evidence.max_mb=0")
    header, *rows = small_model.footage.labeled_csv.read_text().splitlines()
    labels = tmp_path / "labels.csv"
    groups = ["jam1", "jam1", "", "", ""]
    labels.write_text(
        "\n".join([f"{header},group", *(f"{a},{b}" for a, b in zip(rows, groups, strict=True))]) + "\n"
    )
    done = calibrate(copy, labels, *videos)
    assert "of incidents like the 2 labelled incidents will be caught, wherever they are seen." in done.out
    assert "these 2 groups show 2 different incidents" in done.out
    assert threshold(copy)["certificate"]["n_events"] == 2
    # By their names; and another grouping of the same clips is another look.
    done = calibrate(copy, small_model.footage.labeled_csv, *videos, "labels.group='(labeled)_'")
    assert "like the one labelled incident" in done.out
    assert threshold(copy)["certificate"]["n_events"] == 1
    assert threshold(copy)["settings_tried"] == 3
    # The study that follows knows the groups, too.
    done = invoke("study", "--model", copy, FPS, "study.grid={smoothing_s:[0,0.5]}")
    assert "1 clips cannot be split" in done.message


def test_an_event_that_goes_on_in_the_next_recorded_file_counts_once(
    copy: Path, small_model: SmallModel, tmp_path: Path
):
    """As `record` names its files: the second begins where the first ends, the third a minute later."""
    rows = ["video,start_s,end_s,label"]
    for number, name, start_s, end_s in (
        (1, "120000.000", 1.45, 8),
        (2, "120008.000", 0, 7.25),
        (3, "120108.000", 0, 7.45),
    ):
        path = tmp_path / "cam1" / "20261129" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(small_model.footage.labeled / f"labeled_{number:02d}.mp4", path)
        rows.append(f"cam1/20261129/{name}.mp4,{start_s},{end_s},spill")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(rows) + "\n")
    done = calibrate(copy, labels, "evidence.max_mb=0")
    assert "counted once: cam1/20261129/120000.000.mp4, cam1/20261129/120008.000.mp4" in done.err
    groups = [one["event"]["group"] for one in threshold(copy)["events"]]
    assert groups == ["cam1/20261129/120000.000.mp4"] * 2 + [""]
    # A group that the labels give to one of the two is one incident with the other.
    first, *told = rows
    labels.write_text(
        "\n".join([f"{first},group", f"{told[0]},", *(f"{row},jam" for row in told[1:])]) + "\n"
    )
    calibrate(copy, labels, "evidence.max_mb=0")
    assert len({one["event"]["group"] for one in threshold(copy)["events"]}) == 1


def test_the_certificate_is_told_in_plain_words(small_model: SmallModel):
    told = small_model.calibrate_out
    for part in ("it catches 3 of 3 labelled events", "At least 36.84 %", "You asked for 50 %: not proven",
                 "other kinds are not covered", "spill: 3 of 3 caught", "normal footage",
                 "python -m anomaly evaluate"):  # fmt: skip
        assert part in told


def test_the_threshold_file_says_what_it_hangs_on(small_model: SmallModel):
    document = threshold(small_model.folder)
    model = load_model(small_model.folder, offline=True)
    assert document["hangs_on"]["scoring"] == model.scoring_digest
    assert document["fps"] == 5.0
    assert document["certificate"]["n_events"] == 3
    assert document["certificate"]["recall"] == pytest.approx(0.05 ** (1 / 3))
    scores = sorted(event["score"] for event in document["events"])
    assert document["threshold"] == pytest.approx(scores[0], rel=1e-6)
    assert document["threshold"] <= scores[0]
    assert document["decider"]["smoothing_s"] == 0.5
    assert 0 < document["frame_recall"] < 1
    assert f"{percent(document['frame_recall'])} of their frames" in small_model.calibrate_out
    loaded = load_threshold(model, fps=5.0)
    assert loaded.certified
    assert loaded.value == document["threshold"]


def test_the_scores_behind_it_are_kept(small_model: SmallModel):
    with np.load(small_model.folder / "scores.npz", allow_pickle=False) as scores:
        names = [str(name) for name in scores["labeled/sources"]]
        assert names == [f"labeled_0{i}.mp4" for i in range(1, 6)]
        for i, frames in enumerate((40, 40, 40, 40, 320)):
            assert len(scores[f"labeled/{i}/times"]) == len(scores[f"labeled/{i}/scores"]) == frames
    holdout = read_series(small_model.folder, "holdout")
    assert [one.source for one in holdout] == [f"normal_0{i}.mp4" for i in range(1, 5)]
    assert np.median(np.concatenate([one.scores for one in holdout])) == pytest.approx(1.0)


def test_calibrating_again_gives_the_same_and_replaces(copy: Path, small_model: SmallModel):
    footage = small_model.footage
    before = threshold(copy)
    arguments = ("--videos", footage.labeled, "--target-recall", 0.5)
    assert calibrate(copy, footage.labeled_csv, *arguments).status == 0
    assert threshold(copy) == before
    assert calibrate(copy, footage.labeled_csv, *arguments, "decider.smoothing_s=0").status == 0
    assert threshold(copy)["threshold"] != before["threshold"]
    with np.load(copy / "scores.npz", allow_pickle=False) as scores:
        assert len([name for name in scores.files if name.startswith("labeled/")]) == 2 + 2 * 5


def test_moments_are_widened(copy: Path, small_model: SmallModel, tmp_path: Path):
    labels = tmp_path / "moments.csv"
    labels.write_text("video,time_s,label\nlabeled_01.mp4,3.5,spill\nlabeled_02.mp4,4.3,spill\n")
    done = calibrate(copy, labels, "--videos", small_model.footage.labeled, "labels.tolerance_s=0.5")
    assert done.status == 0, done.err
    events = [one["event"] for one in threshold(copy)["events"]]
    assert [(one["start_s"], one["end_s"]) for one in events] == [(3.0, 4.0), (3.8, 4.8)]


def test_folders_of_images_are_calibrated_as_single_pictures(
    small_model: SmallModel, copy: Path, tmp_path: Path
):
    footage = small_model.footage
    for folder, video in (
        ("good", footage.test / "test_03.mp4"),
        ("spill", footage.labeled / "labeled_01.mp4"),
    ):
        (tmp_path / "mvtec" / "test" / folder).mkdir(parents=True)
        (source,) = find_sources([video])
        for frame in list(read_frames(source, fps=2, start_s=3.0, end_s=5.0)):
            name = f"{frame.index:03d}.png"
            cv2.imwrite(
                str(tmp_path / "mvtec" / "test" / folder / name), cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
            )
    done = calibrate(copy, tmp_path / "mvtec" / "test")
    assert done.status == 0, done.err
    document = threshold(copy)
    assert len(document["events"]) == 4
    assert {one["event"]["end_s"] for one in document["events"]} == {None}
    figures = tmp_path / "f.json"
    succeed("evaluate", "--model", copy, "--labeled", tmp_path / "mvtec" / "test", "--json", figures, FPS)
    found = json.loads(figures.read_text())
    assert found["image_auroc"] == found["frame_auroc"] > 0.5
    assert 0 < found["image_ap"] <= 1
    assert found["event_recall"] == 1.0
    assert found["n_sources"] == 8
    # What pictures prove says nothing of video, whose scores are smoothed.
    out = ("--out", tmp_path / "s.csv", FPS)
    stills = succeed("score", "--model", copy, "--source", tmp_path / "mvtec" / "test", *out)
    assert "it was calibrated on single pictures" not in stills
    assert "UNCERTIFIED" in succeed("score", "--model", copy, "--source", footage.test / "test_01.mp4", *out)
    raw = Threshold(1.0, DeciderConfig(smoothing_s=0, min_duration_s=0), None, 5.0, "", {"stills": True})
    assert not raw.on_video().doubt
    smoothed = replace(raw, decider=DeciderConfig(smoothing_s=0.5, min_duration_s=0))
    assert smoothed.on_video().doubt.startswith("it was calibrated on single pictures")
    assert not replace(smoothed, document={"stills": False}).on_video().doubt
    # Nor does video prove anything of a picture, which shows an anomaly once.
    filmed = replace(raw, document={"videos": True})
    assert filmed.on({"video", "image"}).doubt.startswith(
        "it was calibrated on video, where an anomaly is seen in many"
    )
    assert not filmed.on({"video"}).doubt
    assert not raw.on({"image"}).doubt


def test_a_model_of_video_says_that_of_pictures_nothing_is_proven(
    copy: Path, small_model: SmallModel, tmp_path: Path
):
    clip = small_model.footage.test / "test_01.mp4"
    frame = next(iter(read_frames(find_sources([clip])[0])))
    cv2.imwrite(str(tmp_path / "frame.png"), frame.image[..., ::-1])
    done = invoke(
        "score", "--model", copy, "--source", tmp_path / "frame.png", "--out", tmp_path / "s.csv", FPS
    )
    assert done.status == 0, done.err
    assert "UNCERTIFIED: it was calibrated on video" in done.out
    assert "UNCERTIFIED" not in succeed(
        "score", "--model", copy, "--source", clip, "--out", tmp_path / "s.csv", FPS
    )


def test_unlisted_videos_can_count_as_normal(copy: Path, small_model: SmallModel, tmp_path: Path):
    labels = tmp_path / "labels.csv"
    labels.write_text("video,start_s,end_s,label\nlabeled_01.mp4,1.5,6.5,spill\n")
    done = calibrate(copy, labels, "--videos", small_model.footage.labeled)
    assert "4 videos" in done.err
    few = threshold(copy)["false_alarms"]["n_frames"]
    assert (
        calibrate(copy, labels, "--videos", small_model.footage.labeled, "labels.unlisted=normal").status == 0
    )
    assert threshold(copy)["false_alarms"]["n_frames"] == few + 3 * 40 + 320


def test_one_damaged_file_among_labelled_ones_stops_nothing(
    copy: Path, small_model: SmallModel, tmp_path: Path
):
    videos = shutil.copytree(small_model.footage.labeled, tmp_path / "videos")
    (videos / "labeled_02.mp4").write_bytes((videos / "labeled_02.mp4").read_bytes()[:300])
    done = calibrate(copy, small_model.footage.labeled_csv, "--videos", videos)
    assert done.status == 0, done.err
    assert "labeled_02.mp4" in done.err
    assert [one["event"]["video"] for one in threshold(copy)["events"]] == [
        "labeled_01.mp4",
        "labeled_03.mp4",
    ]
    refused = calibrate(copy, small_model.footage.labeled_csv, "--videos", videos, "footage.on_error=refuse")
    assert refused.status == 1
    assert "labeled_02.mp4" in refused.message
    for path in videos.iterdir():
        path.write_bytes(b"")
    lost = calibrate(copy, small_model.footage.labeled_csv, "--videos", videos)
    assert lost.status == 1
    assert "could be scored" in lost.message


HEADER = "video,start_s,end_s,label\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEADER + "labeled_1.mp4,1,2,x\n", "there is no labeled_1.mp4"),
        (HEADER + "../secret.mp4,1,2,x\n", "leads out of"),
        (HEADER + "labeled_01.mp4,1,99,x\n", "past the end"),
        (HEADER + "labeled_01.mp4,4,3.5,x\n", "line 2"),
        (HEADER + "labeled_01.mp4,3,3,x\n", "line 2"),
        (HEADER + "labeled_01.mp4,1,2,x\nlabeled_01.mp4,1,2,x\n", "says the same as line 2"),
        (HEADER + "labeled_04.mp4,,,normal\n", "not one anomaly"),
        (HEADER + "labeled_01.mp4,one,2,x\n", "line 2"),
        (HEADER, "labels.csv"),
        ("", "labels.csv"),
        ("file,from,to\nlabeled_01.mp4,1,2\n", "video,start_s,end_s,label"),
        ("\x00\xff\x00", "labels.csv"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_used_are_one_line(
    text: str, told: str, copy: Path, small_model: SmallModel, tmp_path: Path
):
    before = threshold(copy)
    labels = tmp_path / "labels.csv"
    labels.write_bytes(text.encode("latin1"))
    done = calibrate(copy, labels, "--videos", small_model.footage.labeled)
    assert done.status == 1
    assert len(done.err.splitlines()) == 1
    assert told in done.message
    assert "unexpected" not in done.message
    assert threshold(copy) == before


def test_labels_and_videos_that_are_not_there(copy: Path, small_model: SmallModel, tmp_path: Path):
    assert "none.csv" in calibrate(copy, tmp_path / "none.csv").message
    assert (
        "--videos" in calibrate(copy, small_model.footage.labeled_csv, "--videos", tmp_path / "none").message
    )


def test_overlapping_labels_are_one_event_and_told(copy: Path, small_model: SmallModel, tmp_path: Path):
    labels = tmp_path / "labels.csv"
    labels.write_text(HEADER + "labeled_01.mp4,1,4,a\nlabeled_01.mp4,3,6,b\n")
    done = calibrate(copy, labels, "--videos", small_model.footage.labeled)
    assert done.status == 0, done.err
    assert "overlapped" in done.err
    (event,) = threshold(copy)["events"]
    assert (event["event"]["start_s"], event["event"]["end_s"]) == (1.0, 6.0)
    assert event["event"]["labels"] == ["a + b"]


def test_how_far_apart_labels_are_one_event_is_a_setting(copy: Path, small_model: SmallModel, tmp_path: Path):
    labels = tmp_path / "labels.csv"
    labels.write_text(HEADER + "labeled_01.mp4,1,2,a\nlabeled_01.mp4,4,5,b\n")
    for gap_s, spans in ((1, [(1.0, 2.0), (4.0, 5.0)]), (2.5, [(1.0, 5.0)])):
        done = calibrate(copy, labels, "--videos", small_model.footage.labeled, f"labels.gap_s={gap_s}")
        assert done.status == 0, done.err
        events = [one["event"] for one in threshold(copy)["events"]]
        assert [(event["start_s"], event["end_s"]) for event in events] == spans


def test_where_recall_and_budget_conflict_both_ends_are_told_and_recall_wins_unless_told_otherwise(
    copy: Path, small_model: SmallModel
):
    # Normal footage of which a part scores above the anomalies: no threshold serves both.
    with np.load(copy / "scores.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    count = sum(name.startswith("holdout/") and name.endswith("/scores") for name in arrays)
    for i in range(count):
        times = np.arange(0, 120, 0.2)
        arrays[f"holdout/{i}/times"] = times
        arrays[f"holdout/{i}/scores"] = np.where(times % 20 < 2, 50.0, 0.9)
    put_scores(copy, arrays)
    footage = small_model.footage
    budget = ("--videos", footage.labeled, "calibration.false_alarms_per_hour=1")
    done = calibrate(copy, footage.labeled_csv, *budget)
    assert done.status == 0, done.err
    recall = threshold(copy)
    done = calibrate(copy, footage.labeled_csv, *budget, "calibration.recall_wins=false")
    assert done.status == 0, done.err
    cheap = threshold(copy)
    ends = [(end["serves"], end["threshold"]) for end in recall["conflict"]]
    assert ends == [("recall", recall["threshold"]), ("budget", cheap["threshold"])]
    assert recall["threshold"] < 50 < cheap["threshold"]
    assert recall["false_alarms"]["per_hour"] > 100
    assert cheap["false_alarms"]["n_alarms"] == 0
    missed = [event["outcome"] for event in cheap["events"]]
    assert missed == ["missed"] * len(missed)


def test_what_was_learned_as_normal_cannot_be_certified_as_an_anomaly(
    copy: Path, small_model: SmallModel, tmp_path: Path
):
    """Only a threshold at which nearly everything alarms catches it: that is no certificate."""
    labels = tmp_path / "labels.csv"
    labels.write_text(HEADER + "normal_01.mp4,8,9.5,x\nlabeled_04.mp4,,,normal\n")
    (tmp_path / "videos").mkdir()
    shutil.copy(small_model.footage.normal / "normal_01.mp4", tmp_path / "videos")
    shutil.copy(small_model.footage.labeled / "labeled_04.mp4", tmp_path / "videos")
    done = calibrate(copy, labels, "--videos", tmp_path / "videos")
    if done.status == 0:
        assert threshold(copy)["certificate"] is None
        assert "No certificate" in done.out
        assert threshold(copy)["withheld"]
    else:
        assert "normal" in done.message
