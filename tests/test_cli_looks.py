"""Every way of trying a setting on labelled clips is remembered with the model, and paid for by its next certificate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_model import FIT, FPS, SmallModel, invoke, succeed

from anomaly.artifact import read_signed
from anomaly.looks import Look, looks_at, remember

QUICK = ("bank.size=200", "fit.fps=2", "projection.sample_frames=8", "fit.review=0", "exemplars.max_mb=0")


@pytest.fixture
def copy(small_model: SmallModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_model.folder, tmp_path / "model"))


def calibrate(model: Path, small_model: SmallModel, *more: object) -> str:
    footage = small_model.footage
    return succeed(
        "calibrate", "--model", model, "--labeled", footage.labeled_csv, "--videos", footage.labeled,
        "--target-recall", 0.5, "evidence.max_mb=0", FPS, *more,
    )  # fmt: skip


def tried(path: Path) -> int:
    return int(read_signed(path)["settings_tried"])


def in_model(model: Path) -> Path:
    return model / "thresholds" / "torch-fp32.json"


def test_a_threshold_written_apart_is_paid_for(copy: Path, small_model: SmallModel, tmp_path: Path):
    before = in_model(copy).read_bytes()
    for number, smoothing in ((2, 0), (3, 1), (3, 1)):  # the same again is no other try
        out = tmp_path / f"{smoothing}.json"
        said = calibrate(copy, small_model, "--out", out, f"decider.smoothing_s={smoothing}")
        assert "counts this among the settings that were tried" in said
        assert tried(out) == number
    assert in_model(copy).read_bytes() == before
    calibrate(copy, small_model, "decider.smoothing_s=0.2")
    assert tried(in_model(copy)) == 4


@pytest.mark.parametrize(
    ("line", "grid", "number"), [("calibrate", "", 2), ("study", "[30]", 2), ("study", "[30,40]", 3)]
)
def test_what_is_refused_after_a_look_at_the_scores_is_paid_for(
    copy: Path, small_model: SmallModel, line: str, grid: str, number: int
):
    """No clip is long enough for these settings, which the refusal tells of the clips."""
    footage = small_model.footage
    if line == "calibrate":
        done = invoke("calibrate", "--model", copy, "--labeled", footage.labeled_csv, "--videos", footage.labeled,
                      "--target-recall", 0.5, FPS, "decider.min_duration_s=30")  # fmt: skip
    else:
        done = invoke("study", "--model", copy, "--target-recall", 0.5, FPS, "study.protect=correct",
                      f"study.grid={{min_duration_s:{grid}}}")  # fmt: skip
    assert done.status == 1
    assert "no threshold catches" in done.message or "no setting of the study catches" in done.message
    calibrate(copy, small_model)
    assert tried(in_model(copy)) == number


def test_each_job_of_a_sweep_pays_for_all_of_them(
    copy: Path, small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Those before it, and those that are still to run; also of a model that was not calibrated before."""
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(copy / "thresholds")
    (copy / "looks.json").unlink()
    calibrate(copy, small_model, "hydra.sweep.dir=sweep", "-m", "decider.smoothing_s=0,0.5,1")
    assert not (copy / "thresholds").exists()
    assert [tried(tmp_path / "sweep" / str(job) / "threshold.json") for job in range(3)] == [3, 3, 3]
    calibrate(copy, small_model, "decider.smoothing_s=1")
    assert tried(in_model(copy)) == 3
    # Jobs that an earlier sweep left in the folder are none of this one's.
    calibrate(copy, small_model, "hydra.sweep.dir=sweep", "-m", "decider.smoothing_s=2,3")
    assert [tried(tmp_path / "sweep" / str(job) / "threshold.json") for job in range(2)] == [5, 5]


def test_fitting_again_in_the_same_place_forgets_no_look(copy: Path, small_model: SmallModel):
    footage = small_model.footage
    known = looks_at(copy)
    assert len(known) == 1
    succeed("fit", "--normal-videos", footage.normal / "normal_01.mp4", "--model", copy, *FIT, *QUICK)
    assert not (copy / "thresholds").exists()
    assert looks_at(copy) == known
    calibrate(copy, small_model)
    assert tried(in_model(copy)) == 2


@pytest.mark.parametrize(
    ("calibrated", "then", "number"),
    [(True, "another setting", 2), (False, "as it is", 1), (False, "another bank", 2)],
)
def test_an_evaluation_is_a_look(
    copy: Path, small_model: SmallModel, calibrated: bool, then: str, number: int
):
    """What is calibrated on those clips afterwards pays for it, unless it is what was evaluated."""
    footage = small_model.footage
    test = ("--labeled", footage.test_csv, "--videos", footage.test)
    if not calibrated:
        shutil.rmtree(copy / "thresholds")
    succeed("evaluate", "--model", copy, *test, FPS)
    if then == "another bank":
        succeed("bank", "forget", "--model", copy, "--clip", "normal_01.mp4")
    more = ("decider.smoothing_s=0",) if then == "another setting" else ()
    succeed(
        "calibrate", "--model", copy, *test, "--target-recall", 0.5, "evidence.max_mb=0", FPS, *more
    )  # fmt: skip
    assert tried(in_model(copy)) == number


@pytest.mark.parametrize(
    ("edit", "number"),
    [
        (lambda rows: rows[:1] + rows[2:], 2),  # a clip that scored low is left out
        (lambda rows: [rows[0], _moved(rows[1]), *rows[2:]], 2),
        # A budget is spent on normal clips, and chance is told by them.
        (lambda rows: [row for row in rows if "normal" not in row], 2),
        (lambda rows: rows, 1),
    ],
    ids=["a clip less", "a label moved", "normal clips left out", "the same"],
)
def test_labels_that_are_edited_after_a_look_are_another_setting(
    copy: Path, small_model: SmallModel, tmp_path: Path, edit: Callable[[list[str]], list[str]], number: int
):
    calibrate(copy, small_model)
    labels = _relabelled(small_model, tmp_path, edit)
    succeed(
        "calibrate", "--model", copy, "--labeled", labels, "--videos", small_model.footage.labeled,
        "--target-recall", 0.5, "evidence.max_mb=0", FPS,
    )  # fmt: skip
    assert tried(in_model(copy)) == number


def test_a_clip_left_out_after_a_look_is_told_and_one_that_was_added_is_not(
    copy: Path, small_model: SmallModel, tmp_path: Path
):
    """The first two labelled clips are looked at, then all three; then the worst of them is left out."""
    (copy / "looks.json").unlink()
    line = ("calibrate", "--model", copy, "--videos", small_model.footage.labeled, "--target-recall", 0.5,
            "evidence.max_mb=0", FPS, "--labeled")  # fmt: skip
    told = "left out now, or labelled otherwise. If that was for what was seen, what is certified here does not hold"
    for rows_out, expected in ((1, False), (0, False), (0, False), (1, True)):
        labels = _relabelled(small_model, tmp_path, lambda rows, n=rows_out: [*rows[: 4 - n], *rows[4:]])
        said = succeed(*line, labels)
        assert (told in " ".join(said.split())) == expected
    assert "1 clip that results were seen of before is left out now" in " ".join(said.split())
    assert told in " ".join((copy.parent / f"{copy.name}_calibration.html").read_text().split())


def test_settings_seen_with_other_clips_are_told_beside_the_false_alarms(
    copy: Path, small_model: SmallModel, tmp_path: Path
):
    """The normal footage that they were seen on is the same."""
    (copy / "looks.json").unlink()
    footage = small_model.footage
    header, *rows = footage.labeled_csv.read_text().splitlines()
    first, others = tmp_path / "first.csv", tmp_path / "others.csv"
    for path, chosen in ((first, rows[:1]), (others, rows[1:])):
        path.write_text("\n".join([header, *chosen]) + "\n")

    def said(labels: Path, smoothing_s: float) -> str:
        return succeed(
            "calibrate", "--model", copy, "--labeled", labels, "--videos", footage.labeled, "--target-recall", 0.5,
            "evidence.max_mb=0", FPS, f"decider.smoothing_s={smoothing_s}",
        )  # fmt: skip

    assert "looked at before with other" not in said(first, 0.5)
    assert "looked at before with other" not in said(first, 0.2)
    assert "2 other settings were looked at before with other labelled clips" in said(others, 0.3)
    # 0.5 is this one; 0.3 was seen with these clips, and is paid for.
    assert "1 other setting was looked at before with other labelled clips" in said(others, 0.5)
    assert read_signed(in_model(copy))["settings_tried"] == 2


def test_clips_added_after_a_look_are_another(copy: Path, small_model: SmallModel, tmp_path: Path):
    # Whoever adds until he likes what he sees has chosen when to stop.
    (copy / "looks.json").unlink()
    for left_out, number in ((2, 1), (1, 2), (0, 3)):
        labels = _relabelled(small_model, tmp_path, lambda rows, n=left_out: [*rows[: 4 - n], *rows[4:]])
        succeed(
            "calibrate", "--model", copy, "--labeled", labels, "--videos", small_model.footage.labeled,
            "--target-recall", 0.5, "evidence.max_mb=0", FPS,
        )  # fmt: skip
        assert tried(in_model(copy)) == number


def test_what_was_seen_as_the_detectors_own_cannot_be_certified_for_nothing_later(
    copy: Path, small_model: SmallModel, tmp_path: Path
):
    shutil.rmtree(copy / "thresholds")
    (copy / "looks.json").unlink()
    own = _relabelled(
        small_model, tmp_path, lambda rows: [rows[0] + ",found", *(row + ",alarm" for row in rows[1:])]
    )
    for smoothing in (0, 1):
        succeed(
            "calibrate", "--model", copy, "--labeled", own, "--videos", small_model.footage.labeled,
            "evidence.max_mb=0", FPS, f"decider.smoothing_s={smoothing}",
        )  # fmt: skip
    calibrate(copy, small_model)
    assert tried(in_model(copy)) == 3


def _relabelled(small_model: SmallModel, folder: Path, edit: Callable[[list[str]], list[str]]) -> Path:
    rows = small_model.footage.labeled_csv.read_text().splitlines()
    path = folder / "edited.csv"
    path.write_text("\n".join(edit(rows)) + "\n")
    return path


def _moved(row: str) -> str:
    video, start_s, end_s, label = row.split(",")[:4]
    return ",".join([video, f"{float(start_s) + 0.2:g}", end_s, label])


def test_other_banks_of_the_model_keep_the_looks(copy: Path, tmp_path: Path, small_model: SmallModel):
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    (known,) = looks_at(copy)
    new = Look("another", {"a clip": "its labels"})
    remember(other, [new])
    succeed("bank", "forget", "--model", other, "--clip", "normal_01.mp4")
    assert looks_at(other) == [known, new]
    succeed("bank", "merge", "--models", copy, other, "--model", tmp_path / "both", "size=100")
    assert looks_at(tmp_path / "both") == [known, new]


def test_what_was_tried_is_not_tampered_with(copy: Path, small_model: SmallModel):
    document = json.loads((copy / "looks.json").read_text())
    (copy / "looks.json").write_text(json.dumps({**document, "looks": []}))
    footage = small_model.footage
    done = invoke(
        "calibrate", "--model", copy, "--labeled", footage.labeled_csv, "--videos", footage.labeled, FPS
    )  # fmt: skip
    assert done.status == 1
    assert "looks.json" in done.message
    assert "was changed" in done.message
    # A fit in its place would keep it as it is.
    assert "fit into another folder" in done.message
    path = in_model(copy)
    path.write_text(path.read_text().replace("runtime", "Runtime", 1))
    done = invoke("calibrate", "--model", copy, "--check")
    assert done.status == 1
    assert "restore it from a copy or calibrate again" in done.message


def test_the_clips_that_are_said_to_prove_the_target_do_so_once_they_are_added(
    copy: Path, small_model: SmallModel, tmp_path: Path
):
    footage = small_model.footage
    shutil.rmtree(copy / "thresholds")
    (copy / "looks.json").unlink()
    together = tmp_path / "together"
    together.mkdir()
    for path in (*footage.labeled.glob("*.mp4"), *footage.test.glob("*.mp4")):
        shutil.copy(path, together)
    first = footage.labeled_csv.read_text().splitlines()
    further = [row for row in footage.test_csv.read_text().splitlines()[1:] if "normal" not in row]
    labels = tmp_path / "labels.csv"

    def certificate(rows: list[str]) -> dict[str, Any]:
        labels.write_text("\n".join(rows) + "\n")
        succeed(
            "calibrate", "--model", copy, "--labeled", labels, "--videos", together,
            "--target-recall", 0.45, "evidence.max_mb=0", FPS,
        )  # fmt: skip
        return dict(read_signed(in_model(copy))["certificate"])

    promised = certificate(first)["more_events_needed"]
    assert 0 < promised <= len(further)
    assert certificate([*first, *further[:promised]])["more_events_needed"] == 0


def test_a_study_that_splits_the_clips_forgets_none_of_the_looks_before_it(
    copy: Path, small_model: SmallModel, tmp_path: Path
):
    """Clips were added one by one, each time with a look; that the study starts from the last undoes none of them."""
    (copy / "looks.json").unlink()
    for left_out in (2, 1, 0):
        labels = _relabelled(small_model, tmp_path, lambda rows, n=left_out: [*rows[: 4 - n], *rows[4:]])
        succeed(
            "calibrate", "--model", copy, "--labeled", labels, "--videos", small_model.footage.labeled,
            "--target-recall", 0.5, "evidence.max_mb=0", FPS,
        )  # fmt: skip
    clips = read_signed(in_model(copy))["clips"]
    succeed(
        "study",
        "--model",
        copy,
        "--target-recall",
        0.5,
        "study.grid={smoothing_s:[0,0.5]}",
        "study.apply=true",
        FPS,
    )
    document = read_signed(in_model(copy))
    proving = {
        clips[one["event"]["video"]] for one in document["events"] if one["event"]["found"] == "independent"
    }
    met = [look for look in looks_at(copy) if not proving.isdisjoint(look.clips)]
    assert len(met) >= 2  # one at least of those before, and the study's own
    assert document["settings_tried"] == len(met)
