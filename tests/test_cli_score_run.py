"""`score` and `run`: one decider behind both, the CSV, the events, and the pictures."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from clips import cut_file, texture, write_clip
from small_model import FPS, SmallModel, invoke, process, succeed

from anomaly.edge.sinks import EventLog
from anomaly.model import load_model
from anomaly.thresholds import load_threshold


@pytest.fixture(scope="module")
def watched(small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`s.csv` of `score` and the folder `run` of `run`, on the same footage."""
    folder = tmp_path_factory.mktemp("watched")
    source = small_model.footage.test
    succeed("score", "--model", small_model.folder, "--source", source, "--out", folder / "s.csv", FPS)
    succeed("run", "--model", small_model.folder, "--source", source, "--out", folder / "run", FPS)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def events(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_the_csv_has_a_row_for_every_frame(watched: Path):
    with (watched / "s.csv").open(newline="") as file:
        assert file.readline().strip() == "source,frame,time_s,score,decision_score,alarm"
    table = rows(watched / "s.csv")
    assert len(table) == 120
    for name in ("test_01.mp4", "test_02.mp4", "test_03.mp4"):
        own = [row for row in table if row["source"] == name]
        np.testing.assert_allclose([float(row["time_s"]) for row in own], np.arange(40) / 5, atol=1e-6)
        assert [int(row["frame"]) for row in own] == list(range(0, 80, 2))
    assert {row["alarm"] for row in table} == {"0", "1"}
    assert all(float(row["score"]) > 0 for row in table)


def test_run_decides_as_score_does(watched: Path, small_model: SmallModel):
    """Every alarm frame of the CSV lies in an event, every event holds alarm frames, and they start together."""
    table = rows(watched / "s.csv")
    found = events(watched / "run")
    assert found
    document = json.loads((small_model.folder / "thresholds/torch-fp32.json").read_text())
    gap = document["decider"]["join_gap_s"]
    for name in {row["source"] for row in table}:
        own = [one for one in found if one["source"] == name]
        alarms = [
            (float(row["time_s"]), float(row["decision_score"]))
            for row in table
            if row["source"] == name and row["alarm"] == "1"
        ]
        starts = [
            time for index, (time, _) in enumerate(alarms) if index == 0 or time - alarms[index - 1][0] > 0.3
        ]
        np.testing.assert_allclose(starts, [one["start_s"] for one in own], atol=1e-6)
        for time, _ in alarms:
            assert any(one["start_s"] - 1e-6 <= time <= one["end_s"] + gap for one in own)
        for one in own:
            peak = max(
                score for time, score in alarms if one["start_s"] - 1e-6 <= time <= one["end_s"] + 1e-6
            )
            assert one["score"] == pytest.approx(peak)
            assert one["score"] >= one["threshold"] == document["threshold"]


def test_the_planted_objects_are_the_events(watched: Path, small_model: SmallModel):
    spans = {row["video"]: row for row in rows(small_model.footage.test_csv)}
    found = events(watched / "run")
    assert {one["source"] for one in found} <= {"test_01.mp4", "test_02.mp4"}  # never the clean clip
    for one in found:
        span = spans[one["source"]]
        assert float(span["start_s"]) - 0.5 <= one["start_s"] <= one["peak_s"] <= one["end_s"]
        assert one["start_s"] < float(span["end_s"])
        assert one["certified"] is True
        assert one["continued"] is False
        x0, y0, x1, y1 = one["box"]
        assert 0 <= x0 < x1 <= 160
        assert 0 <= y0 < y1 <= 96
    assert [one["event"] for one in found] == list(range(1, len(found) + 1))


def test_the_box_lies_on_the_object(watched: Path, small_model: SmallModel):
    from anomaly.footage.labels import read_mask

    for one in events(watched / "run"):
        masks = small_model.footage.masks / one["source"].replace(".mp4", ".npz")
        mask = read_mask(masks, round(one["peak_s"] * 10), (96, 160))
        x0, y0, x1, y1 = one["box"]
        assert mask[y0:y1, x0:x1].any()


def test_every_event_has_its_snapshot(watched: Path):
    for one in events(watched / "run"):
        image = cv2.imread(str(watched / "run" / one["snapshot"]))
        assert image.shape == (96, 160, 3)
    assert len(list((watched / "run" / "snapshots").iterdir())) == len(events(watched / "run"))


def test_the_annotated_video_plays_with_the_footages_times(watched: Path):
    for name in ("test_01.mp4", "test_02.mp4", "test_03.mp4"):
        with av.open(str(watched / "run" / "annotated" / name)) as container:
            frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        np.testing.assert_allclose([time for time, _ in frames], np.arange(40) / 5, atol=1e-3)
        assert frames[0][1].shape == (96, 160, 3)
    alarmed = next(one for one in events(watched / "run") if one["source"] == "test_01.mp4")
    with av.open(str(watched / "run" / "annotated" / "test_01.mp4")) as container:
        shown = {
            round(frame.time, 3): frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)
        }
    edge = shown[round(alarmed["peak_s"], 3)][20:70, 0].mean(axis=0)
    assert edge[0] > edge[1] + 40  # the red frame
    calm = shown[0.0][20:70, 0].mean(axis=0)
    assert calm[0] < calm[1] + 40


def test_a_stream_that_changes_its_size_is_watched_to_its_end(small_model: SmallModel, tmp_path: Path):
    """No video has pictures of two sizes: `run` ended at the first of another, with none of the footage's events."""
    parts = [
        write_clip(tmp_path / "0.h264", texture(20), container="h264"),
        write_clip(tmp_path / "1.h264", texture(20, (192, 128)), container="h264"),
    ]
    source = tmp_path / "both.h264"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    succeed("score", "--model", small_model.folder, "--source", source, "--out", tmp_path / "s.csv", FPS)
    succeed("run", "--model", small_model.folder, "--source", source, "--out", tmp_path / "run", FPS)
    alarms = [float(row["time_s"]) for row in rows(tmp_path / "s.csv") if row["alarm"] == "1"]
    assert alarms  # nothing of it looks like the conveyor
    found = events(tmp_path / "run")
    assert (found[0]["start_s"], found[-1]["end_s"]) == (alarms[0], alarms[-1])
    with av.open(str(tmp_path / "run" / "annotated" / "both.h264.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown) == len(rows(tmp_path / "s.csv"))
    assert {image.shape for image in shown} == {(96, 128, 3)}
    # The tall picture stands in the middle, whole: it is half as wide now.
    assert shown[-1][:, :28].max() < 40
    assert shown[-1][:, 36:92].mean() > 40


def test_a_model_scores_the_same_in_a_new_process(watched: Path, small_model: SmallModel, tmp_path: Path):
    done = process(
        "score",
        "--model",
        small_model.folder,
        "--source",
        small_model.footage.test,
        "--out",
        "s.csv",
        FPS,
        cwd=tmp_path,
        ANOMALY_CACHE=str(tmp_path / "cache"),
    )
    assert done.status == 0, done.err
    assert (tmp_path / "s.csv").read_text() == (watched / "s.csv").read_text()


def test_a_copied_model_scores_the_same(
    watched: Path, small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ANOMALY_CACHE", str(tmp_path / "cache"))
    copy = shutil.copytree(small_model.folder, tmp_path / "elsewhere" / "renamed")
    clip = small_model.footage.test / "test_02.mp4"
    succeed("score", "--model", copy, "--source", clip, "--out", tmp_path / "s.csv", FPS)
    assert rows(tmp_path / "s.csv") == [
        row for row in rows(watched / "s.csv") if row["source"] == "test_02.mp4"
    ]


def test_the_order_of_sources_does_not_change_their_scores(
    watched: Path, small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ANOMALY_CACHE", str(tmp_path / "cache"))
    clips = [small_model.footage.test / f"test_0{i}.mp4" for i in (3, 1)]
    succeed("score", "--model", small_model.folder, "--source", *clips, "--out", tmp_path / "s.csv", FPS)
    before = rows(watched / "s.csv")
    for name in ("test_01.mp4", "test_03.mp4"):
        assert [row for row in rows(tmp_path / "s.csv") if row["source"] == name] == [
            row for row in before if row["source"] == name
        ]


def test_the_csv_is_the_same_from_scores_that_are_there_and_with_pictures(
    watched: Path, small_model: SmallModel, tmp_path: Path
):
    source = ("score", "--model", small_model.folder, "--source", small_model.footage.test, FPS)
    for name, more in (("again", ()), ("pictures", ("--heatmaps", tmp_path / "h"))):
        succeed(*source, "--out", tmp_path / f"{name}.csv", *more)
        assert (tmp_path / f"{name}.csv").read_bytes() == (watched / "s.csv").read_bytes()


def test_heatmaps_are_written_for_every_frame(small_model: SmallModel, tmp_path: Path):
    clip = small_model.footage.test / "test_01.mp4"
    folder = tmp_path / "in"
    folder.mkdir()
    for suffix in ("png", "bmp"):
        cv2.imwrite(str(folder / f"a.{suffix}"), np.full((96, 160, 3), 99, np.uint8))
    succeed(
        "score", "--model", small_model.folder, "--source", clip, folder, "--out", tmp_path / "s.csv",
        "--heatmaps", tmp_path / "h", "footage.fps=1",
    )  # fmt: skip
    written = sorted(path.relative_to(tmp_path / "h").as_posix() for path in (tmp_path / "h").rglob("*.jpg"))
    assert written == ["a.bmp.jpg", "a.png.jpg", *(f"test_01.mp4/{i:06d}.jpg" for i in range(0, 80, 10))]
    assert cv2.imread(str(tmp_path / "h" / written[-1])).shape == (96, 160, 3)


def test_a_name_that_is_no_utf_8_is_spelt_out(small_model: SmallModel, tmp_path: Path):
    """As older systems and memory cards have them."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_clip(tmp_path / "a.mp4", texture(10, (96, 160)))
    try:
        (tmp_path / "a.mp4").rename(folder / os.fsdecode(b"t\xfcr.mp4"))
    except OSError:
        pytest.skip("this disk takes no such names")
    source = ("--model", small_model.folder, "--source", folder, FPS)
    succeed("score", *source, "--out", tmp_path / "s.csv", "--heatmaps", tmp_path / "h")
    assert {row["source"] for row in rows(tmp_path / "s.csv")} == {"t\\xfcr.mp4"}
    assert (tmp_path / "h" / "t\\xfcr.mp4" / "000000.jpg").is_file()
    succeed("run", *source, "--out", tmp_path / "run")
    assert (tmp_path / "run" / "annotated" / "t\\xfcr.mp4").is_file()


def test_two_sources_of_one_stem_are_annotated_apart(small_model: SmallModel, tmp_path: Path):
    (tmp_path / "in").mkdir()
    for suffix in ("mp4", "avi", "mkv"):
        write_clip(tmp_path / "in" / f"a.{suffix}", texture(5, (96, 160)))
    cv2.imwrite(str(tmp_path / "in" / "a.png"), np.full((97, 161, 3), 99, np.uint8))
    succeed("run", "--model", small_model.folder, "--source", tmp_path / "in", "--out", tmp_path / "out", FPS)
    found = sorted(path.name for path in (tmp_path / "out" / "annotated").iterdir())
    assert found == ["a.avi.mp4", "a.mkv.mp4", "a.mp4", "a.png.jpg"]


def test_a_rate_it_was_not_calibrated_at_is_uncertified_everywhere(small_model: SmallModel, tmp_path: Path):
    clip = small_model.footage.test / "test_01.mp4"
    arguments = ("--model", small_model.folder, "--source", clip, "footage.fps=4")
    out = succeed("run", *arguments, "--out", tmp_path / "run")
    assert "UNCERTIFIED: it was calibrated at footage.fps=5.0, this runs at 4.0" in out
    found = events(tmp_path / "run")
    assert found
    assert {one["certified"] for one in found} == {False}
    assert "UNCERTIFIED" in succeed("score", *arguments, "--out", tmp_path / "s.csv")
    done = invoke("run", *arguments, "--out", tmp_path / "refused", "run.require_certificate=true")
    assert done.status == 1
    assert "UNCERTIFIED" in done.message
    assert not (tmp_path / "refused").exists()
    certified = ("--model", small_model.folder, "--source", clip, "--out", tmp_path / "ok", FPS)
    assert "At least 36.84 %" in succeed(
        "run", *certified, "run.require_certificate=true", "run.annotate=false"
    )
    assert not (tmp_path / "ok" / "annotated").exists()


def test_a_threshold_of_another_bank_is_uncertified(small_model: SmallModel, tmp_path: Path):
    model = tmp_path / "m"
    from small_model import FIT

    succeed(
        "fit",
        "--normal-videos",
        small_model.footage.normal / "normal_01.mp4",
        "--model",
        model,
        *FIT,
        "bank.size=100",
    )
    shutil.copytree(small_model.folder / "thresholds", model / "thresholds")
    out = succeed(
        "score",
        "--model",
        model,
        "--source",
        small_model.footage.test / "test_01.mp4",
        "--out",
        tmp_path / "s.csv",
        FPS,
    )
    assert "UNCERTIFIED" in out
    assert "calibrate again" in out


def test_an_uncalibrated_model_scores_and_never_alarms(small_model: SmallModel, tmp_path: Path):
    model = shutil.copytree(small_model.folder, tmp_path / "m")
    shutil.rmtree(model / "thresholds")
    clip = small_model.footage.test / "test_01.mp4"
    out = succeed("run", "--model", model, "--source", clip, "--out", tmp_path / "run", FPS)
    assert "NOT CALIBRATED" in out
    assert events(tmp_path / "run") == []
    done = invoke(
        "run",
        "--model",
        model,
        "--source",
        clip,
        "--out",
        tmp_path / "r2",
        FPS,
        "run.require_certificate=true",
    )
    assert done.status == 1
    assert "NOT CALIBRATED" in done.message


def test_single_pictures_are_decided_without_smoothing(
    small_model: SmallModel, watched: Path, tmp_path: Path
):
    with av.open(str(small_model.footage.test / "test_01.mp4")) as container:
        images = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    peak = events(watched / "run")[0]["peak_s"]
    for name, image in (("calm.png", images[0]), ("odd.png", images[round(peak * 10)])):
        cv2.imwrite(str(tmp_path / name), image)
    succeed(
        "score",
        "--model",
        small_model.folder,
        "--source",
        tmp_path / "calm.png",
        tmp_path / "odd.png",
        "--out",
        tmp_path / "s.csv",
        FPS,
    )
    table = {row["source"]: row for row in rows(tmp_path / "s.csv")}
    assert all(row["score"] == row["decision_score"] for row in table.values())
    assert (table["calm.png"]["alarm"], table["odd.png"]["alarm"]) == ("0", "1")
    succeed(
        "run", "--model", small_model.folder, "--source", tmp_path / "odd.png", "--out", tmp_path / "run", FPS
    )
    (event,) = events(tmp_path / "run")
    assert event["start_s"] == event["end_s"] == 0.0


def test_damage_stops_nothing_and_a_csv_without_frames_replaces_nothing(
    small_model: SmallModel, tmp_path: Path
):
    folder = tmp_path / "in"
    folder.mkdir()
    whole = write_clip(tmp_path / "whole.mp4", texture(60, (96, 160)), muxer={"movflags": "faststart"})
    cut_file(whole, 0.6, folder / "cut.mp4")
    (folder / "text.mp4").write_text("hello")
    (folder / "empty.png").touch()
    write_clip(folder / "whole.mp4", texture(10, (96, 160)))
    out = tmp_path / "s.csv"
    done = invoke("score", "--model", small_model.folder, "--source", folder, "--out", out, FPS)
    assert done.status == 0, done.err
    for name in ("cut.mp4", "text.mp4", "empty.png"):
        assert name in done.err
    count = {name: sum(row["source"] == name for row in rows(out)) for name in ("cut.mp4", "whole.mp4")}
    assert count["whole.mp4"] == 5
    assert 5 < count["cut.mp4"] < 30
    before = out.read_bytes()
    for more in ((), ("footage.on_error=refuse",)):
        bad = invoke(
            "score", "--model", small_model.folder, "--source", folder / "text.mp4", "--out", out, FPS, *more
        )
        assert bad.status == 1
        assert "text.mp4" in bad.message
    (folder / "also.mp4").write_text("hello")
    both = [folder / name for name in ("text.mp4", "also.mp4")]
    bad = invoke("score", "--model", small_model.folder, "--source", *both, "--out", out, FPS)
    assert bad.status == 1
    assert all(path.name in bad.err for path in both)
    assert "not one frame of 2 sources" in bad.message
    assert out.read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert (
        "text.mp4"
        in invoke(
            "run",
            "--model",
            small_model.folder,
            "--source",
            folder / "text.mp4",
            "--out",
            tmp_path / "r",
            FPS,
        ).message
    )


def test_every_file_that_cannot_be_read_is_named(small_model: SmallModel, tmp_path: Path):
    for number in range(12):
        (tmp_path / f"bad_{number:02d}.mp4").write_text("hello")
    write_clip(tmp_path / "good.mp4", texture(5, (96, 160)))
    done = invoke(
        "score", "--model", small_model.folder, "--source", tmp_path, "--out", tmp_path / "s.csv", "footage.fps=10",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "5 frames of 1 of 13 sources scored" in done.out
    assert [number for number in range(12) if f"bad_{number:02d}.mp4" not in done.err] == []


def test_two_runs_at_once_do_not_write_into_one_folder(small_model: SmallModel, tmp_path: Path):
    """The second moved the pictures of the first away, and put its own in their place."""
    source = small_model.footage.test / "test_01.mp4"
    run = ["run", "--model", small_model.folder, "--source", source, "--out", tmp_path / "out", FPS]
    threshold = load_threshold(load_model(small_model.folder, offline=True), fps=5.0)
    with EventLog(tmp_path / "out", threshold):
        done = invoke(*run)
        assert done.status == 2
        assert "is being written by another run; wait until it has ended" in done.message
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["events.jsonl"]
    succeed(*run)


def test_a_second_run_keeps_the_events_of_the_first(small_model: SmallModel, tmp_path: Path):
    source = small_model.footage.test / "test_01.mp4"
    run = ["run", "--model", small_model.folder, "--source", source, "--out", tmp_path / "out", FPS]
    succeed(*run)
    video = (tmp_path / "out" / "annotated" / "test_01.mp4").read_bytes()
    first = events(tmp_path / "out")
    pictures = {one["snapshot"]: (tmp_path / "out" / one["snapshot"]).read_bytes() for one in first}
    said = succeed(*run, "run.annotate=false")
    (kept,) = (tmp_path / "out" / "earlier").iterdir()
    assert first
    assert events(kept) == first
    assert (kept / "annotated" / "test_01.mp4").read_bytes() == video
    assert not (tmp_path / "out" / "annotated").exists()
    assert {name: (kept / name).read_bytes() for name in pictures} == pictures
    assert events(tmp_path / "out") == first
    assert "earlier" in str(said)
