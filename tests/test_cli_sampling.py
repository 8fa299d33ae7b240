"""How often footage was seen that certifies: files whose own rate is below the one asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip
from small_model import FPS, SmallModel, invoke, put_scores, succeed

from anomaly.artifact import read_signed
from anomaly.calibration import Series
from anomaly.edge.loaded import Loaded
from anomaly.footage.clock import Sampler
from anomaly.footage.source import find_sources, read_frames
from anomaly.model import load_model
from anomaly.scores import packed
from anomaly.thresholds import load_threshold

TOLD = "has a frame every 0.5 s, and it was calibrated on one every 0.2 s"


@pytest.fixture(scope="module")
def seldom(small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The labelled and the test clips, recorded at two frames a second."""
    folder = tmp_path_factory.mktemp("seldom")
    for source in find_sources([small_model.footage.labeled, small_model.footage.test]):
        frames = (frame.image for frame in read_frames(source, fps=2))
        write_clip(folder / Path(source.name).name, frames, fps=2)
    return folder


def test_files_with_fewer_frames_than_were_calibrated_are_in_doubt(
    small_model: SmallModel, seldom: Path, tmp_path: Path
):
    often, few = small_model.footage.test / "test_01.mp4", seldom / "test_01.mp4"
    score = ("score", "--model", small_model.folder, "--out", tmp_path / "s.csv", FPS, "--source")
    assert "UNCERTIFIED" not in succeed(*score, often)
    assert f"UNCERTIFIED: test_01.mp4 {TOLD}; record more frames a second" in succeed(*score, few)
    run = ("run", "--model", small_model.folder, "--out", tmp_path / "run", "run.annotate=false", FPS,
           "--source")  # fmt: skip
    assert "UNCERTIFIED: test_01.mp4" in succeed(*run, few)
    assert TOLD in invoke(*run, few, "run.require_certificate=true").message


def test_an_evaluation_tells_no_certified_recall_of_such_files(
    small_model: SmallModel, seldom: Path, tmp_path: Path
):
    model = Path(shutil.copytree(small_model.folder, tmp_path / "model"))
    evaluate = ("evaluate", "--model", model, "--labeled", small_model.footage.test_csv, "--json", tmp_path / "f.json",
                "--html", tmp_path / "p.html", FPS, "--videos")  # fmt: skip
    succeed(*evaluate, small_model.footage.test)
    assert json.loads((tmp_path / "f.json").read_text())["certified_recall"] is not None
    assert TOLD in succeed(*evaluate, seldom)
    assert json.loads((tmp_path / "f.json").read_text())["certified_recall"] is None


def test_what_was_calibrated_on_fewer_frames_than_asked_for_says_so_and_holds_for_as_few(
    small_model: SmallModel, seldom: Path, tmp_path: Path
):
    model = Path(shutil.copytree(small_model.folder, tmp_path / "model"))
    said = succeed("calibrate", "--model", model, "--labeled", small_model.footage.labeled_csv, "--videos", seldom,
                   "--target-recall", 0.5, FPS)  # fmt: skip
    note = (
        "Labelled videos usually have a frame every 0.5 s only, where footage.fps=5 asks for one every 0.2 s"
    )
    assert note in " ".join(said.split())
    assert note in (tmp_path / "model_calibration.html").read_text()
    assert read_signed(model / "thresholds" / "torch-fp32.json")["steps_s"] == {"default": 0.5}
    few = seldom / "test_01.mp4"
    out = succeed("score", "--model", model, "--source", few, "--out", tmp_path / "s.csv", FPS)
    assert "UNCERTIFIED" not in out
    # Beside the line, where a longer gap counts as not seen.
    loaded = load_model(model, offline=True)
    assert Loaded.of(loaded, load_threshold(loaded, fps=5.0)).interval_of("line") == 0.5


def test_a_camera_is_overloaded_by_its_own_sampling_not_by_another_cameras(
    small_model: SmallModel, seldom: Path, tmp_path: Path
):
    """A camera that is seen seldom excused the one beside it that was calibrated on more."""
    model = Path(shutil.copytree(small_model.folder, tmp_path / "model"))
    rows = ["video,start_s,end_s,label,camera"]
    for camera, folder in (("left", small_model.footage.labeled), ("right", seldom)):
        for clip in (1, 2):
            source = folder / f"labeled_0{clip}.mp4"
            rows.append(f"{shutil.copy(source, tmp_path / f'{camera}_{clip}.mp4').name},3,6.5,spill,{camera}")
        clean = shutil.copy(folder / "labeled_05.mp4", tmp_path / f"{camera}_clean.mp4")
        rows.append(f"{clean.name},,,normal,{camera}")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(rows) + "\n")
    succeed(
        "calibrate", "--model", model, "--labeled", labels, "--videos", tmp_path, "evidence.max_mb=0", FPS
    )
    loaded = load_model(model, offline=True)
    live = Loaded.of(loaded, load_threshold(loaded, fps=5.0))
    assert [live.interval_of(camera) for camera in ("left", "right")] == pytest.approx([0.2, 0.5])


@pytest.mark.parametrize("folder", [".", "left"])
def test_one_labelled_clip_that_was_seen_seldom_does_not_speak_for_files_that_are(
    small_model: SmallModel, seldom: Path, tmp_path: Path, folder: str
):
    model = Path(shutil.copytree(small_model.folder, tmp_path / "model"))
    labeled = Path(shutil.copytree(small_model.footage.labeled, tmp_path / "labeled"))
    (labeled / "labeled_01.mp4").unlink()
    (labeled / folder).mkdir(exist_ok=True)
    shutil.copy(seldom / "labeled_01.mp4", labeled / folder)
    labels = tmp_path / "labels.csv"
    labels.write_text(
        small_model.footage.labeled_csv.read_text().replace(
            "labeled_01", Path(folder, "labeled_01").as_posix()
        )
    )
    succeed(
        "calibrate", "--model", model, "--labeled", labels, "--videos", labeled, "--target-recall", 0.5, FPS
    )
    score = ("score", "--model", model, "--out", tmp_path / "s.csv", FPS, "--source")
    assert "UNCERTIFIED" not in succeed(*score, small_model.footage.test / "test_01.mp4")
    assert f"UNCERTIFIED: test_01.mp4 {TOLD}" in succeed(*score, seldom / "test_01.mp4")


@pytest.mark.parametrize("rate", [6.0, 7.0, 7.5, 12.5, 15.0])
def test_a_rate_that_is_no_multiple_of_the_one_asked_for_is_no_other_sampling(rate: float):
    """Every second and every third frame in turn: the median of the steps is 0.7 to 1.4 times their mean."""
    sampler = Sampler(5.0, 0.0)
    times = np.array([number / rate for number in range(600) if sampler.takes(number / rate)])
    # A hole is no step: what is not there was not taken seldom.
    times[len(times) // 2 :] += 30.0
    assert Series("clip", times, np.ones(len(times))).interval_s == pytest.approx(0.2, rel=0.02)


def test_false_alarms_are_counted_on_as_many_frames_as_are_looked_at(small_model: SmallModel, tmp_path: Path):
    """Held out at five frames a second, where smoothing flattens what alarms at one."""
    model = Path(shutil.copytree(small_model.folder, tmp_path / "model"))
    level = read_signed(model / "thresholds" / "torch-fp32.json")["threshold"]
    times = np.arange(5 * 600) / 5
    scores = np.where(np.arange(len(times)) % 100 == 50, 1.3 * level, 0.5 * level)
    scores += np.random.default_rng(0).uniform(0, 0.01, len(times))
    put_scores(model, packed("holdout", [Series("normal", times, scores)]))
    labeled = (small_model.footage.labeled_csv, "--videos", small_model.footage.labeled)
    alone = ("calibration.false_alarms_per_hour=null", "evidence.max_mb=0", "--target-recall", 0.5)
    told = {}
    for fps in (5, 1):
        at = f"footage.fps={fps}"
        succeed("calibrate", "--model", model, "--labeled", *labeled, *alone, at)
        told[fps] = read_signed(model / "thresholds" / "torch-fp32.json")["false_alarms"]
    assert told[1]["n_frames"] == pytest.approx(told[5]["n_frames"] / 5, rel=0.02)
    assert (told[5]["n_alarms"], told[1]["n_alarms"]) == (0, 30)
    succeed(
        "evaluate", "--model", model, "--labeled", *labeled, "--json", tmp_path / "f.json", "footage.fps=1"
    )
    assert json.loads((tmp_path / "f.json").read_text())["false_alarms"] == 30
    succeed("study", "--model", model, "--out", tmp_path / "study", "study.grid={smoothing_s:[0.5]}", "footage.fps=1",
            "--target-recall", 0.5, "calibration.false_alarms_per_hour=null", "study.apply=true")  # fmt: skip
    studied = read_signed(model / "thresholds" / "torch-fp32.json")["false_alarms"]
    assert (studied["n_alarms"], studied["n_frames"]) == (30, told[1]["n_frames"])


def test_an_evaluation_at_another_rate_blames_the_rate_not_the_footage(
    small_model: SmallModel, tmp_path: Path
):
    footage, model = small_model.footage, shutil.copytree(small_model.folder, tmp_path / "model")
    out = succeed("evaluate", "--model", model, "--labeled", footage.test_csv, "--videos", footage.test,
                  "--html", tmp_path / "page.html", "footage.fps=2")  # fmt: skip
    assert "UNCERTIFIED: it was calibrated at footage.fps=5.0, this runs at 2.0" in out
    assert "fewer frames a second" not in out


def test_files_with_fewer_frames_are_told_the_false_alarms_of_as_few(
    small_model: SmallModel, seldom: Path, tmp_path: Path
):
    """The rate asked for is that of what was held out; the files have less."""
    model = Path(shutil.copytree(small_model.folder, tmp_path / "model"))
    times = np.arange(5 * 600) / 5
    scores = np.where(np.arange(len(times)) % 100 == 50, 1.3, 0.5) + np.random.default_rng(0).uniform(
        0, 0.01, len(times)
    )
    put_scores(model, packed("holdout", [Series("normal", times, scores)]))
    labeled = (small_model.footage.labeled_csv, "--videos", seldom, FPS)
    succeed("calibrate", "--model", model, "--labeled", *labeled, "evidence.max_mb=0", "--target-recall", 0.5,
            "calibration.false_alarms_per_hour=null")  # fmt: skip
    told = read_signed(model / "thresholds" / "torch-fp32.json")["false_alarms"]
    assert told["n_frames"] == pytest.approx(2 * 3600 * told["hours"], rel=0.02)
    succeed("evaluate", "--model", model, "--labeled", *labeled, "--json", tmp_path / "f.json")
    assert json.loads((tmp_path / "f.json").read_text())["false_alarms"] == told["n_alarms"]


def test_normal_footage_with_fewer_frames_than_the_labelled_is_told(small_model: SmallModel, tmp_path: Path):
    """One frame a second passes over most of what lasts a fifth of one, however it is smoothed."""
    model = Path(shutil.copytree(small_model.folder, tmp_path / "model"))
    scores = np.random.default_rng(0).uniform(0.5, 0.51, 600)
    series = [Series("old_camera", np.arange(600.0), scores)]
    put_scores(model, packed("holdout", series))
    labeled = (small_model.footage.labeled_csv, "--videos", small_model.footage.labeled, FPS)
    note = "Normal footage that false alarms are counted on has up to 5 times fewer frames a second than the labelled videos (old_camera)"
    out = succeed("calibrate", "--model", model, "--labeled", *labeled, "evidence.max_mb=0")
    assert note in " ".join(out.split())
    assert note in (tmp_path / "model_calibration.html").read_text()
    page = tmp_path / "p.html"
    assert note in " ".join(
        succeed("evaluate", "--model", model, "--labeled", *labeled, "--html", page).split()
    )
    assert note in page.read_text()
    assert note in " ".join(succeed("study", "--model", model, "--out", tmp_path / "study", FPS).split())
    assert "times fewer frames" not in small_model.calibrate_out


def test_labelled_normal_footage_is_counted_on_as_few_frames_as_the_anomalies_have(
    small_model: SmallModel, seldom: Path, tmp_path: Path
):
    """Smoothing flattened it more than what is looked at, and far fewer false alarms were told."""
    model = Path(shutil.copytree(small_model.folder, tmp_path / "model"))
    for source in find_sources([small_model.footage.labeled]):
        anomalous = int(Path(source.name).stem[-1]) <= 3
        shutil.copy((seldom if anomalous else small_model.footage.labeled) / source.name, tmp_path)
    labels = (
        "--labeled",
        small_model.footage.labeled_csv,
        "--videos",
        tmp_path,
        FPS,
        "labels.unlisted=normal",
    )
    by_hand = ("calibration.threshold=1.0", "calibration.false_alarms_per_hour=null", "evidence.max_mb=0")
    succeed("calibrate", "--model", model, *labels, *by_hand)
    told = read_signed(model / "thresholds" / "torch-fp32.json")["false_alarms"]
    assert told["hours"] > 70 / 3600
    assert told["n_frames"] == pytest.approx(2 * 3600 * told["hours"], rel=0.05)
    assert 0 < told["alarm_time_share"] < 1
    succeed("evaluate", "--model", model, *labels, "--json", tmp_path / "f.json")
    assert json.loads((tmp_path / "f.json").read_text())["alarm_time_share"] == told["alarm_time_share"]
    succeed("study", "--model", model, "--out", tmp_path / "study", "study.grid={smoothing_s:[0.5]}", FPS,
            "--target-recall", 0.5, "calibration.false_alarms_per_hour=null", "study.apply=true")  # fmt: skip
    studied = read_signed(model / "thresholds" / "torch-fp32.json")["false_alarms"]
    assert studied["n_frames"] == told["n_frames"]
