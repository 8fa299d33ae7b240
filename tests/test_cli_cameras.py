"""Several cameras under one model: each on its own scale, thresholds on raw scores, and footage of none of them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from small_model import FPS, SmallModel, invoke, put_scores, succeed

from anomaly.artifact import read_signed
from anomaly.footage.source import Source
from anomaly.model import Model
from anomaly.scores import packed, read_series
from anomaly.thresholds import camera_scales


@pytest.fixture(scope="module")
def line(small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled footage of cameras `left` and `right`, and a model that held out normal footage of both."""
    folder = tmp_path_factory.mktemp("cameras")
    footage = small_model.footage
    rows = ["video,start_s,end_s,label"]
    for camera, clips in (("left", (1, 2)), ("right", (3,))):
        (folder / "labeled" / camera).mkdir(parents=True)
        for clip in clips:
            name = f"labeled_0{clip}.mp4"
            shutil.copy(footage.labeled / name, folder / "labeled" / camera / name)
            rows.append(f"{camera}/{name},3,6.5,spill")
        clean = (footage.labeled / "labeled_05.mp4").read_bytes()
        if camera == "right":
            clean += b"\0\0\0\x08free"  # the same file of two cameras would count once
        (folder / "labeled" / camera / "clean.mp4").write_bytes(clean)
        rows.append(f"{camera}/clean.mp4,,,normal")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    # As if `fit` had found the normal clips below left/ and right/.
    model = Path(shutil.copytree(small_model.folder, folder / "model"))
    shutil.rmtree(model / "thresholds")
    (model / "looks.json").unlink()
    held_out = read_series(model, "holdout")
    named = [
        replace(one, source=f"{'left' if i < 2 else 'right'}/{one.source}") for i, one in enumerate(held_out)
    ]
    put_scores(model, packed("holdout", named))
    out = succeed(
        "calibrate", "--model", folder / "model", "--labeled", folder / "labels.csv", "--videos",
        folder / "labeled", "calibration.cameras=folder", FPS,
    )  # fmt: skip
    assert "Camera left: 2 of 2 labelled events caught" in out
    # Two cameras beside each other have two such hours in one.
    assert "of normal footage of 2 cameras: " in out
    assert " an hour of one camera, at most " in out
    assert "What is certified of several cameras speaks for their anomalies as a whole" in out
    return folder


def test_each_camera_has_a_threshold_on_its_own_scores(line: Path):
    document = read_signed(line / "model" / "thresholds" / "torch-fp32.json")
    assert set(document["cameras"]) == {"left", "right"}
    # Two events and one prove something of the two cameras as a whole, and nothing of either.
    assert document["certificate"]["n_events"] == 3
    assert all(own["certificate"] is None for own in document["cameras"].values())
    assert all(
        "too few to prove the target by themselves" in own["withheld"] for own in document["cameras"].values()
    )
    # Three clips are too few for a threshold of a camera's own; the scales are.
    assert {own["threshold"] for own in document["cameras"].values()} == {document["threshold"]}
    assert all(own["rare"] > own["ordinary"] > 0 for own in document["cameras"].values())
    assert all(own["spent"] == document["spent"] for own in document["cameras"].values())
    page = (line / "model_calibration.html").read_text()
    assert all(f"<td>{camera}</td>" in page for camera in ("left", "right"))
    assert "of normal footage of 2 cameras: " in page
    assert "false alarms an hour of one camera" in page
    # What is to be signed is not green where no camera would run certified.
    assert '<div class="verdict no"><strong>No single camera is certified.</strong>' in page
    assert "Of left, right together, in the mix of the labelled ones: At least" in page
    assert "The certificate holds here." in succeed("calibrate", "--model", line / "model", "--check")


def test_a_page_of_cameras_with_their_own_thresholds_tells_each_ones_and_keeps_the_left_column_narrow(
    line: Path, tmp_path: Path
):
    """It sent to what is certified of each where nothing was; a name of 80 letters left one to a line beside it, over three printed pages."""
    model = Path(shutil.copytree(line / "model", tmp_path / "model"))
    out = succeed(
        "calibrate", "--model", model, "--labeled", line / "labels.csv", "--videos", line / "labeled",
        "calibration.cameras=folder", "--target-recall", 0.2, "--confidence", 0.7, "labels.slack_s=20", "evidence.max_mb=0", FPS,
    )  # fmt: skip
    assert "Camera left by itself" in out
    assert "Camera right by itself" in out
    cameras = read_signed(model / "thresholds" / "torch-fp32.json")["cameras"]
    assert not any(own["certificate"] for own in cameras.values())
    page = unescape((tmp_path / "model_calibration.html").read_text())
    verdict = page.partition('<div class="verdict no">')[2].partition("</div>")[0]
    assert verdict.startswith("<strong>No recall is certified.</strong>")
    assert all(f"{camera}: not certified, {own['withheld']}" in verdict for camera, own in cameras.items())
    assert max(len(name) for name in re.findall("<dt>(.*?)</dt>", page)) <= 40
    # As each camera's own threshold has them: the one of all together missed an event and had fewer.
    own_frames = [float(told) for told in re.findall(r"labelled events, ([0-9.]+) % of their frames", out)]
    told = re.search(r"<dt>frames of theirs in alarm</dt><dd>([0-9.]+) %", page)
    assert told
    assert min(own_frames) <= float(told[1]) <= max(own_frames)


def test_an_evaluation_colours_its_heatmaps_by_the_raw_threshold_of_each_camera(
    line: Path, monkeypatch: pytest.MonkeyPatch
):
    """They were coloured as if each camera alarmed at 1, what an ordinary frame scores: hot where nothing alarms."""
    drawn: dict[str, float | None] = {}

    def card(
        model: Model, source: Source, time_s: float, threshold: float | None, facts: object
    ) -> list[str]:
        drawn[source.name.partition("/")[0]] = threshold
        return []

    monkeypatch.setattr("anomaly.report.evaluation.moment_card", card)
    succeed("evaluate", "--model", line / "model", "--labeled", line / "labels.csv", "--videos", line / "labeled", "--html", line / "e.html", FPS)  # fmt: skip
    document = read_signed(line / "model" / "thresholds" / "torch-fp32.json")
    raw = {
        name: one.raw(document["cameras"][name]["threshold"]) for name, one in camera_scales(document).items()
    }
    assert drawn == pytest.approx(raw)


POOLED = "Footage of 2 folders (left, right) was pooled as one camera's. Where each is a camera, name it in the labels' column `camera`"


def test_folders_that_may_be_cameras_are_told_where_they_count_as_one(line: Path, tmp_path: Path):
    model = Path(shutil.copytree(line / "model", tmp_path / "model"))
    labeled = ("--videos", line / "labeled", "evidence.max_mb=0", FPS)
    calibrate = ("calibrate", "--model", model, "--labeled", line / "labels.csv", *labeled)
    assert POOLED in " ".join(succeed(*calibrate).split())
    assert POOLED in unescape((tmp_path / "model_calibration.html").read_text())
    assert "cameras" not in read_signed(model / "thresholds" / "torch-fp32.json")
    assert POOLED in " ".join(apply_the_best(model, "study.protect=correct").split())
    # Not where somebody said so, nor where the folders hold nothing normal, as those of kinds of anomaly.
    assert "pooled" not in succeed(*calibrate, "calibration.cameras=one")
    held_out = [replace(one, source=Path(one.source).name) for one in read_series(model, "holdout")]
    put_scores(model, packed("holdout", held_out))
    rows = (line / "labels.csv").read_text().splitlines()
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(row for row in rows if "normal" not in row) + "\n")
    assert "pooled" not in succeed("calibrate", "--model", model, "--labeled", labels, *labeled)


def test_score_alarms_by_the_threshold_of_the_camera(line: Path, tmp_path: Path):
    out = tmp_path / "s.csv"
    new = shutil.copytree(line / "labeled", tmp_path / "new", ignore=shutil.ignore_patterns("clean.mp4"))
    done = invoke("score", "--model", line / "model", "--source", new, "--out", out, FPS)
    assert done.status == 0, done.err
    assert "Camera left: UNCERTIFIED: the labelled anomalies of camera left are too few" in done.out
    assert "Camera right: UNCERTIFIED: the labelled anomalies of camera right are too few" in done.out
    document = read_signed(line / "model" / "thresholds" / "torch-fp32.json")
    rows = [row.split(",") for row in out.read_text().splitlines()[1:]]
    # The lowest event set the threshold, and score meets it to the last bit.
    inside = [row for row in rows if 2.5 <= float(row[2]) < 7.0]
    reached = {
        name: max(float(row[4]) for row in inside if row[0] == name) for name in {row[0] for row in inside}
    }
    lowest = min(document["events"], key=lambda one: one["score"])
    assert reached[lowest["event"]["video"]] == lowest["score"]
    for name in ("left/labeled_01.mp4", "left/labeled_02.mp4", "right/labeled_03.mp4"):
        assert any(row[0] == name and row[5] == "1" for row in rows)
    alone = new / "right" / "labeled_03.mp4"
    stranger = invoke("score", "--model", line / "model", "--source", alone, "--out", out, FPS)
    assert stranger.status == 0
    assert "UNCERTIFIED: labeled_03.mp4 is of no camera that was calibrated (left, right)" in stranger.err
    refused = invoke(
        "run", "--model", line / "model", "--source", alone, "--out", tmp_path / "run", "run.require_certificate=true", FPS,
    )  # fmt: skip
    assert refused.status == 1
    assert "is of no camera that was calibrated" in refused.message


def test_evaluate_measures_in_units_of_each_threshold(line: Path, tmp_path: Path):
    out = succeed(
        "evaluate", "--model", line / "model", "--labeled", line / "labels.csv", "--videos", line / "labeled",
        "--json", tmp_path / "f.json", "--html", tmp_path / "p.html", FPS,
    )  # fmt: skip
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["event_recall"] == 1.0
    assert figures["threshold"] == 1.0
    assert figures["certified_recall"] is None
    assert "of normal footage of 2 cameras: " in out
    assert "Each camera's scale was measured on the footage that was held out" in " ".join(out.split())


def test_what_does_not_go_with_cameras_is_one_line(line: Path):
    base = (
        "calibrate",
        "--model",
        line / "model",
        "--labeled",
        line / "labels.csv",
        "--videos",
        line / "labeled",
        FPS,
    )
    for more, told in (
        (("calibration.cameras=each",), "auto, one or folder"),
        (("calibration.cameras=folder", "calibration.threshold=2"), "drop it"),
    ):
        done = invoke(*base, *more)
        assert (done.status, told in done.message) == (2, True), done.err


def apply_the_best(model: Path, *how: str) -> str:
    """Have a study of two settings write the better one into the model; what it said."""
    return succeed("study", "--model", model, "--out", model.parent / "study", "study.grid={smoothing_s: [0, 0.5]}",
                   "study.apply=true", *how, FPS)  # fmt: skip


def test_a_study_of_cameras_chooses_on_the_scale_they_share(line: Path, tmp_path: Path):
    model = Path(shutil.copytree(line / "model", tmp_path / "model"))
    before = read_signed(model / "thresholds" / "torch-fp32.json")
    out = apply_the_best(model, "study.protect=correct")
    assert "2 decider settings" in out
    assert "False alarms an hour are those in an hour of one camera" in out
    document = read_signed(model / "thresholds" / "torch-fp32.json")
    assert set(document["cameras"]) == {"left", "right"}
    assert document["chosen"].startswith("the best of 2 settings")
    for camera, own in document["cameras"].items():
        assert (own["ordinary"], own["rare"]) == (
            before["cameras"][camera]["ordinary"],
            before["cameras"][camera]["rare"],
        )
        assert own["threshold"] == document["threshold"]
    scored = tmp_path / "s.csv"
    succeed("score", "--model", model, "--source", line / "labeled", "--out", scored, FPS)
    caught = {row.split(",")[0] for row in scored.read_text().splitlines()[1:] if row.endswith(",1")}
    assert {"left/labeled_01.mp4", "left/labeled_02.mp4", "right/labeled_03.mp4"} <= caught


HEADER = "video,start_s,end_s,label,camera\n"


@pytest.fixture(scope="module")
def flat(line: Path, small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same footage in one folder, a column that names each video's camera, and a model calibrated on it."""
    folder = tmp_path_factory.mktemp("flat")
    rows = []
    for camera in ("left", "right"):
        for path in sorted((line / "labeled" / camera).iterdir()):
            name = f"{camera}_{path.name}"
            shutil.copy(path, folder / name)
            rows.append(f"{name},,,normal," if "clean" in name else f"{name},3,6.5,spill,")
            rows[-1] += camera
    (folder / "labels.csv").write_text(HEADER + "\n".join(rows) + "\n")
    model = Path(shutil.copytree(line / "model", folder / "model"))
    shutil.rmtree(model / "thresholds")
    (model / "looks.json").unlink()
    out = succeed("calibrate", "--model", model, "--labeled", folder / "labels.csv", "evidence.max_mb=0", FPS)
    assert "Camera left: 2 of 2 labelled events caught" in out
    return folder


def test_a_column_names_the_camera_of_each_video(flat: Path, line: Path, tmp_path: Path):
    document = read_signed(flat / "model" / "thresholds" / "torch-fp32.json")
    by_folder = read_signed(line / "model" / "thresholds" / "torch-fp32.json")
    told, expected = (
        {name: {**own, "spent": len(own["spent"])} for name, own in one["cameras"].items()}
        for one in (document, by_folder)
    )
    assert told == expected  # but for the names of the clips
    assert document["threshold"] == by_folder["threshold"]
    assert {one.camera for one in read_series(flat / "model", "labeled")} == {"left", "right"}
    figures = tmp_path / "f.json"
    evaluate = ("evaluate", "--model", flat / "model", "--videos", flat, "--json", figures, FPS)
    succeed(*evaluate, "--labeled", flat / "labels.csv", "--html", tmp_path / "p.html")
    found = json.loads(figures.read_text())
    assert (found["event_recall"], found["threshold"]) == (1.0, 1.0)
    assert found["certified_recall"] is None
    # Footage of a camera that was not calibrated has no certificate, whatever the others have.
    (flat / "third.csv").write_text(HEADER + "left_labeled_01.mp4,3,6.5,spill,third\n")
    succeed(*evaluate, "--labeled", flat / "third.csv", "--html", tmp_path / "p.html")
    assert json.loads(figures.read_text())["certified_recall"] is None
    out = succeed("study", "--model", flat / "model", "--out", tmp_path / "s", "study.grid={leave_ratio: [0.8, 0.9]}",
                  "study.protect=correct", FPS)  # fmt: skip
    assert "2 decider settings" in out


def test_a_camera_without_a_labelled_anomaly_has_no_certificate(flat: Path, tmp_path: Path):
    model = Path(shutil.copytree(flat / "model", tmp_path / "model"))
    rows = (flat / "labels.csv").read_text().splitlines()
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(row for row in rows if not row.startswith("right_labeled")) + "\n")
    arguments = ("--model", model, "--labeled", labels, "--videos", flat, FPS)
    out = succeed("calibrate", *arguments, "evidence.max_mb=0")
    assert "Nothing is certified for right: no anomaly of it was labelled." in out
    document = read_signed(model / "thresholds" / "torch-fp32.json")
    # No sentence for both, and for the one with anomalies what they prove of it.
    assert document["certificate"] is None
    assert document["cameras"]["left"]["certificate"]["n_events"] == 2
    assert document["cameras"]["right"]["certificate"] is None
    figures = tmp_path / "f.json"
    succeed("evaluate", *arguments, "--json", figures, "--html", tmp_path / "p.html")
    assert json.loads(figures.read_text())["certified_recall"] is None
    # A study promises the same of each camera, no more and no less.
    out = apply_the_best(model, "study.protect=correct")
    assert "Camera left by itself: Threshold" in out
    document = read_signed(model / "thresholds" / "torch-fp32.json")
    assert document["certificate"] is None
    assert document["cameras"]["left"]["certificate"]["n_events"] == 2
    assert document["cameras"]["right"]["withheld"].startswith("no anomaly of it was labelled, so nothing")


def test_a_study_by_halves_certifies_no_camera_whose_events_all_chose(flat: Path, tmp_path: Path):
    model = Path(shutil.copytree(flat / "model", tmp_path / "model"))
    apply_the_best(model, "study.share=0.67")
    document = read_signed(model / "thresholds" / "torch-fp32.json")
    certifying = {
        one["event"]["video"].split("_")[0] for one in document["events"] if one["event"]["found"] != "chose"
    }
    assert len(certifying) == 1
    assert document["certificate"] is None
    for camera, own in document["cameras"].items():
        if camera in certifying:
            assert own["by_itself"]
        else:
            assert own["certificate"] is None
            assert own["withheld"].startswith("its labelled anomalies served to choose the setting")


def test_a_camera_needs_normal_footage_of_its_own(flat: Path, small_model: SmallModel, tmp_path: Path):
    # Its hold-out lies in no camera's folder.
    model = Path(shutil.copytree(small_model.folder, tmp_path / "model"))
    base = ("calibrate", "--model", model, "--videos", flat, "evidence.max_mb=0", FPS, "--labeled")
    done = invoke(*base, flat / "labels.csv")
    assert done.status == 0, done.err
    assert "held-out footage of none of the cameras (left, right), not used: normal_01.mp4" in done.err
    rows = (flat / "labels.csv").read_text().splitlines()
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(row for row in rows if not row.startswith("right_clean")) + "\n")
    done = invoke(*base, labels)
    assert done.status == 1
    assert "no normal footage of camera right" in done.message
    labels.write_text((flat / "labels.csv").read_text() + "left_labeled_01.mp4,7,7.5,spill,right\n")
    done = invoke(*base, labels)
    assert done.status == 1
    assert "is of camera right, an earlier line of left" in done.message
    # A column with one name is no reason for scales; nor is any with cameras=one.
    labels.write_text((flat / "labels.csv").read_text().replace(",right\n", ",left\n"))
    succeed(*base, labels)
    assert "cameras" not in read_signed(model / "thresholds" / "torch-fp32.json")
    succeed(*base, flat / "labels.csv", "calibration.cameras=one")
    assert "cameras" not in read_signed(model / "thresholds" / "torch-fp32.json")


def test_what_is_promised_is_that_of_the_cameras_that_are_there(line: Path):
    """By a column of the labels, too: and nothing is promised of a camera that has no certificate of its own."""
    rows = (line / "labels.csv").read_text().splitlines()
    flat = line / "flat"
    flat.mkdir()
    told = ["video,start_s,end_s,label,camera"]
    for row in rows[1:]:
        name, *rest = row.split(",")
        if name.startswith("right/"):
            shutil.copy(line / "labeled" / name, flat / Path(name).name)
            told.append(",".join([Path(name).name, *rest, "right"]))
    (flat / "labels.csv").write_text("\n".join(told) + "\n")
    out = succeed(
        "evaluate", "--model", line / "model", "--labeled", flat / "labels.csv", "--videos", flat,
        "--html", flat / "page.html", FPS,
    )  # fmt: skip
    (promise,) = [text for text in out.splitlines() if text.startswith("Camera ")]
    assert promise.startswith("Camera right: UNCERTIFIED: ")
    assert "At least" not in promise
    assert "Camera right: UNCERTIFIED: " in (flat / "page.html").read_text()
