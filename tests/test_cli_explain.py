"""`score --explain`: pictures of alarms beside the normal patches most like them, from the model folder alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_model import FIT, FPS, SmallModel, invoke, succeed

from anomaly.exemplars import CELL, load_exemplars
from anomaly.explanation import clock, moment_name
from anomaly.footage.source import find_sources, read_frame_at
from anomaly.model import load_model


def explained(model: Path, source: Path, out: Path, *extra: str) -> tuple[list[dict], str]:
    printed = succeed(
        "score", "--model", model, "--source", source, "--out", out / "s.csv", "--explain", out / "why", FPS, *extra
    )  # fmt: skip
    return json.loads((out / "why" / "explanations.json").read_text())["moments"], printed


def test_every_alarm_gets_a_picture_and_an_entry(small_model: SmallModel, tmp_path: Path):
    moments, printed = explained(small_model.folder, small_model.footage.test, tmp_path)
    rows = [line.split(",") for line in (tmp_path / "s.csv").read_text().splitlines()[1:]]
    alarms = sum(
        row[5] == "1" and (before[5] == "0" or before[0] != row[0])
        for before, row in zip([["", "", "", "", "", "0"], *rows], rows, strict=False)
    )
    assert len(moments) == alarms > 0
    assert f"{len(moments)} alarm{'s' if len(moments) > 1 else ''} explained" in printed
    times = {row[0]: [float(other[2]) for other in rows if other[0] == row[0]] for row in rows}
    for one in moments:
        assert one["start_s"] <= one["time_s"] <= one["end_s"]
        assert min(abs(time - one["time_s"]) for time in times[one["source"]]) < 1e-5
        image = cv2.imread(str(tmp_path / "why" / one["picture"]))
        assert image.shape[0] >= 360
        assert one["explanation"].startswith("the most similar normal moment is normal_0")
        distances = [patch["distance"] for patch in one["patches"]]
        assert distances == sorted(distances, reverse=True)
        x0, y0, x1, y1 = one["box"]
        assert all(y0 <= 96 * patch["y"] <= y1 and x0 <= 160 * patch["x"] <= x1 for patch in one["patches"])
    assert len(list((tmp_path / "why").iterdir())) == len(moments) + 1


def test_a_folder_holds_the_pictures_of_its_index_and_what_is_not_ours(
    small_model: SmallModel, tmp_path: Path
):
    # Of a threshold that ordinary frames pass, alarms are many.
    model, footage = Path(shutil.copytree(small_model.folder, tmp_path / "m")), small_model.footage
    succeed(
        "calibrate", "--model", model, "--labeled", footage.labeled_csv, "--videos", footage.labeled, FPS,
        "calibration.threshold=1", "decider.max_duration_s=2", "evidence.max_mb=0",
    )  # fmt: skip
    clip = footage.test / "test_01.mp4"
    everything, printed = explained(model, clip, tmp_path)
    assert len(everything) > 1
    assert f"{len(everything)} alarms explained" in printed
    (tmp_path / "why" / "moment_of_glory.jpg").write_bytes(b"mine")
    (tmp_path / "why" / "moment_9999.jpg").write_bytes(b"mine")
    (one,), printed = explained(model, clip, tmp_path, "explain_most=1")
    assert one["score"] == max(moment["score"] for moment in everything)
    assert f"1 of {len(everything)} alarms explained" in printed
    assert {path.name for path in (tmp_path / "why").iterdir()} == {
        "explanations.json", one["picture"], "moment_of_glory.jpg", "moment_9999.jpg",
    }  # fmt: skip


def test_the_nearest_normal_moment_is_the_bank_s(small_model: SmallModel, tmp_path: Path):
    moments, _ = explained(small_model.folder, small_model.footage.test / "test_01.mp4", tmp_path)
    model = load_model(small_model.folder, device="cpu", offline=True)
    (branch,) = model.detector.branches
    (source,) = find_sources([small_model.footage.test / "test_01.mp4"])
    for one in moments:
        patches = branch.patches([read_frame_at(source, one["time_s"]).image])[0]
        distances, rows = branch.bank.search(patches)
        patch = one["patches"][0]
        place = int(patch["y"] * branch.backbone.grid[0]) * branch.backbone.grid[1]
        place += int(patch["x"] * branch.backbone.grid[1])
        assert patch["nearest_row"] == rows[place, 0]
        assert patch["distance"] == pytest.approx(distances[place, 0] / branch.scale, rel=1e-4)
        origins = branch.bank.origins
        shown = patch["picture_of_row"]
        assert patch["picture_of_source"] == branch.bank.sources[branch.bank.origins.source[shown]]
        assert patch["picture_of_time_s"] == pytest.approx(branch.bank.origins.time_s[shown], abs=1e-5)
        assert patch["nearest_time_s"] == pytest.approx(origins.time_s[rows[place, 0]], abs=1e-5)


def test_without_a_threshold_the_worst_moments_are_explained_a_bounded_number(
    small_model: SmallModel, tmp_path: Path
):
    model = Path(shutil.copytree(small_model.folder, tmp_path / "m"))
    shutil.rmtree(model / "thresholds")
    moments, printed = explained(model, small_model.footage.test, tmp_path, "explain_most=3")
    assert "3 worst moments explained" in printed
    scores = [float(line.split(",")[3]) for line in (tmp_path / "s.csv").read_text().splitlines()[1:]]
    assert max(one["score"] for one in moments) == max(scores)
    for i, one in enumerate(moments):
        for other in moments[i + 1 :]:
            assert one["source"] != other["source"] or abs(one["time_s"] - other["time_s"]) >= 2.0


def test_crops_show_what_the_rows_came_from(small_model: SmallModel):
    """Each crop is found again in the frame that its row names."""
    exemplars = load_exemplars(small_model.folder)
    assert exemplars is not None
    bank = load_model(small_model.folder, device="cpu", offline=True).detector.branches[0].bank
    sources = {one.name: one for one in find_sources([small_model.footage.normal])}
    for row in exemplars.rows[:: max(1, len(exemplars.rows) // 12)].tolist():
        crop = exemplars.crop(row)
        assert crop is not None
        assert crop.shape == (CELL, CELL, 3)
        name = bank.sources[int(bank.origins.source[row])]
        frame = read_frame_at(sources[name], float(bank.origins.time_s[row])).image
        side = round(0.22 * 96) if 0.22 * 96 > 5 * 16 else 80  # five patches of 16 pixels
        small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
        found = cv2.minMaxLoc(cv2.matchTemplate(frame, small, cv2.TM_SQDIFF_NORMED))
        assert found[0] < 0.01
        left, top = found[2]
        assert left - 1 <= 160 * bank.origins.x[row] <= left + side + 1
        assert top - 1 <= 96 * bank.origins.y[row] <= top + side + 1


def test_exemplars_are_bounded_and_verified_and_can_be_left_out(small_model: SmallModel, tmp_path: Path):
    clip = small_model.footage.normal / "normal_01.mp4"
    quick = (*FIT, "bank.size=300", "fit.fps=2", "projection.sample_frames=6", "fit.review=0")
    for size in (0, 0.05):
        succeed("fit", "--normal-videos", clip, "--model", tmp_path / "m", *quick, f"exemplars.max_mb={size}")
        files = list((tmp_path / "m").glob("exemplars/*"))
        assert sum(path.stat().st_size for path in files) <= 1e6 * size
        assert bool(files) == bool(size)
        moments, _ = explained(tmp_path / "m", small_model.footage.test / "test_01.mp4", tmp_path)
        assert moments
        assert all((patch["picture_of_row"] is None) == (size == 0) for patch in moments[0]["patches"])
    sheet = tmp_path / "m" / "exemplars" / "0000.jpg"
    sheet.write_bytes(sheet.read_bytes()[:-1] + b"x")
    done = invoke("score", "--model", tmp_path / "m", "--source", clip, "--out", tmp_path / "s.csv")
    assert done.status == 1
    assert "0000.jpg' was changed" in done.message


def test_what_regions_leave_out_is_not_kept(small_model: SmallModel, tmp_path: Path):
    clip = small_model.footage.normal / "normal_01.mp4"
    left = "regions.look=[[[0,0],[0.5,0],[0.5,1],[0,1]]]"
    quick = (*FIT, "bank.size=100", "fit.fps=1", "projection.sample_frames=6", "fit.review=0", left)
    succeed("fit", "--normal-videos", clip, "--model", tmp_path / "m", *quick)
    exemplars = load_exemplars(tmp_path / "m")
    bank = load_model(tmp_path / "m", offline=True).detector.branches[0].bank
    assert exemplars is not None
    near = [row for row in exemplars.rows.tolist() if bank.origins.x[row] > 0.4]
    assert near
    for row in near:
        crop = exemplars.crop(row)
        assert crop is not None
        assert np.asarray(crop)[:, -10:].max() < 32  # JPEG rings a little


def test_times_are_read_as_clocks():
    assert [clock(seconds) for seconds in (0, 41.9, 61, 3600, 7325)] == [
        "00:00", "00:41", "01:01", "1:00:00", "2:02:05",
    ]  # fmt: skip
    assert moment_name("line/day1.mp4", 161) == "line/day1.mp4, 02:41"
    assert moment_name("good/000.PNG", 0) == "good/000.PNG"


def test_nothing_is_read_of_exemplars_that_have_no_index(tmp_path: Path):
    (tmp_path / "exemplars" / "0000.jpg").mkdir(parents=True)  # whoever reads it fails
    assert load_exemplars(tmp_path) is None
