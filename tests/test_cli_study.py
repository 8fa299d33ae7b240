"""`study`: grids and sweeps over scores that are there, what looking costs, thresholds set by hand."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_model import FIT, FPS, SmallModel, invoke, process, succeed

from anomaly.artifact import read_signed
from anomaly.calibration import recall_bound
from anomaly.commands.console import counted
from anomaly.first_start import checked_here
from anomaly.looks import looks_at
from anomaly.model import load_model
from anomaly.thresholds import load_threshold

PNG = b"\x89PNG\r\n\x1a\n"
GRID = "study.grid={smoothing_s:[0,0.5],min_duration_s:[0,0.25,0.5]}"
#: Six settings that change no score: where the model is certified, each of them is.
ALIKE = "study.grid={leave_ratio:[0.85,0.9],join_gap_s:[0.5,1,2]}"


@pytest.fixture
def copy(small_model: SmallModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_model.folder, tmp_path / "model"))


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "study.csv").read_text().splitlines()))


def threshold(model: Path) -> dict:
    return read_signed(model / "thresholds" / "torch-fp32.json")


def test_a_grid_ends_in_one_table_and_one_plot_and_changes_nothing(copy: Path):
    before = threshold(copy)
    out = succeed("study", "--model", copy, "--target-recall", 0.5, GRID, FPS)
    assert "6 decider settings at 100 thresholds" in out
    # None seen in a minute is not none an hour, nor is what one of two clips proves a half.
    first = next(line for line in out.splitlines() if line.startswith("  "))
    shown = re.search(
        r"recall 0\.500 \(at least ([\d.]+) %\), 0 false alarms an hour \(at most ([\d,]+)\)", first
    )
    assert shown, first
    assert "each 95 % sure for all of these together" in out
    folder = copy.parent / "model_study"
    rows = table(folder)
    assert len(rows) == len({row["name"] for row in rows}) == 6
    assert all(float(row["recall_low"]) <= float(row["event_recall"]) <= 1 for row in rows)
    alarms = [float(row["false_alarms_per_hour"]) for row in rows]
    assert alarms == sorted(alarms)
    low, high = float(shown[1]) / 100, float(shown[2].replace(",", ""))
    assert low <= float(rows[0]["recall_low"]) < low + 1e-3
    assert float(rows[0]["per_hour_high"]) <= high < 1.01 * float(rows[0]["per_hour_high"])
    assert (folder / "study.png").read_bytes().startswith(PNG)
    page = (folder / "study.html").read_text()
    assert "<svg" in page
    assert "https:" not in page
    assert "<script" not in page
    assert all(row["name"] in page for row in rows)
    assert threshold(copy) == before
    # But what was looked at is remembered: whoever takes one of them has to pay for it.
    assert len(looks_at(copy)) == 7  # the six, and the best of them on the clips that certify


def test_what_was_tried_is_recorded_and_paid_for(copy: Path):
    arguments = ("study", "--model", copy, "--target-recall", 0.5, ALIKE, "study.apply=true", FPS)
    out = succeed(*arguments, "study.protect=correct")
    document = threshold(copy)
    assert document["settings_tried"] == 6
    assert document["certificate"]["settings_tried"] == 6
    assert document["certificate"]["recall"] == pytest.approx(recall_bound(3, 0, 0.95, 6))
    assert "Up to 6 settings or thresholds were compared on the same anomalies" in out
    assert "best of 6 settings" in document["chosen"]
    # Its frames belonged to the setting before. The scores are still those that this machine gives.
    assert not (copy / "evidence").exists()
    model = load_model(copy, offline=True)
    assert not checked_here(model, load_threshold(model, fps=5.0)).doubt
    # What all clips were looked at with before cannot be undone by splitting them afterwards.
    succeed(*arguments)
    assert threshold(copy)["settings_tried"] > 1


def test_events_that_took_no_part_in_the_choice_pay_for_what_was_seen_on_them_only(copy: Path):
    arguments = ("study", "--model", copy, "--target-recall", 0.5, ALIKE, "study.apply=true", FPS)
    succeed(*arguments)
    document = threshold(copy)
    # The calibration that the scores are from had met them; the six settings of the study have not.
    assert document["settings_tried"] == 2
    found = [event["event"]["found"] for event in document["events"]]
    assert sorted(set(found)) == ["chose", "independent"]
    proving = found.count("independent")
    assert document["certificate"]["n_events"] == proving
    assert document["certificate"]["recall"] == pytest.approx(recall_bound(proving, 0, 0.95, 2))
    assert "Used to choose the settings" in " ".join(document["notes"])
    # They chose once; another study deals all of them anew.
    assert "6 decider settings" in succeed(*arguments, "study.apply=false")
    assert "that played no part in the choice" in document["chosen"]
    # Dealt anew, what chose before would certify and the other way round: the second try is paid for.
    succeed(*arguments, "study.seed=5")
    assert threshold(copy)["settings_tried"] > 2


def test_a_split_tells_the_clips_that_choose_and_certify_not_those_of_the_detectors_own_alarms(
    copy: Path, small_model: SmallModel
):
    header, *rows = small_model.footage.labeled_csv.read_text().splitlines()
    labels = copy.parent / "labels.csv"
    own = ["labeled_04.mp4,2,4,shadow,alarm", "labeled_05.mp4,2,4,shadow,proposed"]
    labels.write_text("\n".join([f"{header},found", *(f"{row}," for row in rows[:3]), *own]) + "\n")
    succeed("calibrate", "--model", copy, "--labeled", labels, "--videos", small_model.footage.labeled,
            "--target-recall", 0.5, "evidence.max_mb=0", FPS)  # fmt: skip
    arguments = ("study", "--model", copy, "--target-recall", 0.5, ALIKE, "study.apply=true", FPS)
    said = " ".join(succeed(*arguments).split())
    found = [event["event"]["found"] for event in threshold(copy)["events"]]
    chose, proving = found.count("chose"), found.count("independent")
    assert (chose + proving, found.count("alarm"), found.count("proposed")) == (3, 1, 1)
    assert (
        f"Chosen on the events of {counted(chose, 'clip')}, certified on {proving} that played no part"
        in said
    )


def test_calibrating_with_what_a_study_found_best_pays_for_the_study(copy: Path, small_model: SmallModel):
    footage = small_model.footage
    calibrate = (
        "calibrate", "--model", copy, "--labeled", footage.labeled_csv, "--videos", footage.labeled,
        "--target-recall", 0.5, "evidence.max_mb=0", FPS,
    )  # fmt: skip
    # The same again is no second try.
    succeed(*calibrate)
    assert threshold(copy)["settings_tried"] == 1
    succeed("study", "--model", copy, "--target-recall", 0.5, GRID, FPS)
    out = succeed(*calibrate, "decider.smoothing_s=0")
    document = threshold(copy)
    assert (
        document["settings_tried"] == 8
    )  # six on the clips that chose, the best of them on the others, this on all
    assert document["certificate"]["recall"] == pytest.approx(recall_bound(3, 0, 0.95, 8))
    assert "Up to 8 settings or thresholds were compared on the same anomalies" in out
    succeed(*calibrate, "decider.smoothing_s=0.1")
    assert threshold(copy)["settings_tried"] == 9
    # Another aim after a look at what the first one gave is a choice too.
    succeed(*calibrate, "decider.smoothing_s=0.1", "calibration.target_recall=0.3")
    assert threshold(copy)["settings_tried"] == 10
    # Clips under other names are the same clips; other clips are not.
    renamed = copy.parent / "renamed"
    renamed.mkdir()
    rows = footage.labeled_csv.read_text()
    for path in footage.labeled.glob("*.mp4"):
        shutil.copy(path, renamed / f"x{path.name}")
    (renamed / "labels.csv").write_text(rows.replace("labeled_0", "xlabeled_0"))
    arguments = ("calibrate", "--model", copy, "--target-recall", 0.5, "evidence.max_mb=0", FPS)
    succeed(*arguments, "--labeled", renamed / "labels.csv")
    assert threshold(copy)["settings_tried"] == 10
    succeed(*arguments, "--labeled", footage.test_csv, "--videos", footage.test)
    assert threshold(copy)["settings_tried"] == 1


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("study.grid={smooth:[1]}",), 2, "smoothing_s"),
        (("study.grid={smoothing_s:5}",), 2, "lists of numbers"),
        (("study.grid={smoothing_s:[a]}",), 2, "lists of numbers"),
        (("study.grid={leave_ratio:[2]}",), 2, "leave_ratio"),
        (("study.grid=fine",), 2, "is no grid"),
        (("study.protect=hope",), 2, "split or correct"),
        (("study.share=0",), 2, "study.share=0"),
    ],
)
def test_a_study_that_cannot_be_made_is_one_line(
    small_model: SmallModel, arguments: tuple[str, ...], status: int, told: str, tmp_path: Path
):
    done = invoke("study", "--model", small_model.folder, "--out", tmp_path, *arguments, FPS)
    assert done.status == status
    assert told in done.message
    assert "unexpected" not in done.message


def test_a_model_without_scores_says_what_to_do(copy: Path):
    shutil.rmtree(copy / "thresholds")
    done = invoke("study", "--model", copy, FPS)
    assert done.status == 1
    assert "python -m anomaly calibrate" in done.message
    assert invoke("study").status == 2


def test_evaluate_pays_for_the_settings_that_were_looked_at_on_the_same_hold_out(
    small_model: SmallModel, tmp_path: Path
):
    model = Path(shutil.copytree(small_model.folder, tmp_path / "model"))
    succeed("study", "--model", model, "--out", tmp_path / "s", "study.grid={smoothing_s:[0,0.5,1]}",
            "study.protect=correct", "study.apply=true", FPS)  # fmt: skip
    footage = small_model.footage
    out = succeed("evaluate", "--model", model, "--labeled", footage.labeled_csv, "--videos", footage.labeled,
                  "--html", tmp_path / "p.html", FPS)  # fmt: skip
    assert re.search(r"at \d+ % for all [3-9] settings compared", out)


def test_a_sweep_resumes_and_ends_in_one_table(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    arguments = (
        "study", "--model", copy, FPS, "hydra.sweep.dir=sweep", "-m",
        "calibration.target_recall=0.5,0.9", "decider.min_duration_s=0,0.5",
    )  # fmt: skip
    first = invoke(*arguments)
    assert first.status == 0, first.err
    rows = table(Path("sweep"))
    assert {row["name"] for row in rows} == {
        f"calibration.target_recall={target} decider.min_duration_s={hold}"
        for target in (0.5, 0.9)
        for hold in (0, 0.5)
    }
    assert Path("sweep/study.png").read_bytes().startswith(PNG)
    # The bands of the table hold for all four together; those of a job for its own 3 ranks.
    alone = {one["name"]: one for i in range(4) for one in table(Path(f"sweep/{i}"))}
    assert len(alone) == 2  # two deciders, each at two targets
    for row in rows:
        missed = round(3 * (1 - float(row["event_recall"])))
        assert float(row["recall_low"]) == pytest.approx(recall_bound(3, missed, 0.95, 4 * 3))
    # Whoever takes the best has compared all: the first job pays for those to come as the last for those before it.
    for i in range(4):
        assert "Up to 4 settings or thresholds were compared" in Path(f"sweep/{i}/study.html").read_text()
    Path("sweep/2/job.json").unlink()
    again = invoke(*arguments)
    assert again.status == 0
    assert [f"job {i} was finished before" in again.err for i in range(4)] == [True, True, False, True]
    other = invoke(*arguments[:-1], "decider.min_duration_s=0.25,0.5")
    assert [f"job {i} was finished before" in other.err for i in range(4)] == [False, True, False, True]


@pytest.mark.slow
def test_models_of_a_sweep_in_several_processes_are_compared(small_model: SmallModel, tmp_path: Path):
    footage = small_model.footage
    sweep = (
        "fit", "--normal-videos", footage.normal, "--model", "m", *FIT, "fit.review=0", "-m", "bank.size=100,0,800",
        "hydra/launcher=joblib", "hydra.sweep.dir=sweep",
    )  # fmt: skip
    done = process(*sweep, cwd=tmp_path)
    assert done.status == 2
    assert "bank.size=0 cannot be used" in done.err
    assert json.loads((tmp_path / "sweep" / "1" / "job.json").read_text())["error"][1] == 2
    again = process(*sweep, cwd=tmp_path)
    assert "job 0 was finished before" in again.err
    assert "job 1 was finished before" not in again.err
    found = process(
        "study", "--sweep", "sweep", "--labeled", footage.labeled_csv, "--videos", footage.labeled, FPS, cwd=tmp_path
    )  # fmt: skip
    assert found.status == 0, found.err
    rows = table(tmp_path / "sweep")
    assert {row["name"] for row in rows} == {"bank.size=100", "bank.size=800"}
    # Each of them knows that it was compared with the other.
    models = [path.parent for path in (tmp_path / "sweep").rglob("model.json")]
    assert [len(looks_at(model)) for model in models] == [2, 2]


def test_a_threshold_set_by_hand_says_so_and_pays(copy: Path, small_model: SmallModel):
    footage = small_model.footage
    arguments = (
        "calibrate",
        "--model",
        copy,
        "--labeled",
        footage.labeled_csv,
        "--videos",
        footage.labeled,
        "--target-recall",
        0.5,
        FPS,
    )
    worked_out = threshold(copy)["threshold"]
    out = succeed(*arguments, f"calibration.threshold={worked_out * 0.99}")
    document = threshold(copy)
    assert document["by_hand"] is True
    assert document["threshold"] == pytest.approx(worked_out * 0.99)
    assert document["certificate"]["recall"] == pytest.approx(recall_bound(3, 0, 0.95))
    assert "set by hand" in out
    second = sorted(event["score"] for event in document["events"])[1]
    out = succeed(*arguments, f"calibration.threshold={np.nextafter(second, 0)}")
    document = threshold(copy)
    assert document["certificate"]["settings_tried"] == 3
    assert document["certificate"]["recall"] == pytest.approx(recall_bound(3, 1, 0.95, 3))
    page = (copy.parent / "model_calibration.html").read_text()
    assert "set by hand" in page
    # Nor is the bound of false alarms one of a threshold that nobody chose by a look.
    told = "The threshold was set by hand: if that was after a look at this footage, the truth may lie above that bound"
    assert told in " ".join(out.split())
    assert told in page
    evaluated = succeed("evaluate", *arguments[1:7], FPS)
    assert told in " ".join(evaluated.split())
    assert told not in " ".join(small_model.calibrate_out.split())
    bad = invoke(*arguments, "calibration.threshold=-1")
    assert (bad.status, "calibration.threshold=-1" in bad.message) == (2, True)
