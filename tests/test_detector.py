"""A fitted detector: looks without state, steps with the state of one camera, and what feeds it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from small_model import FPS, SmallModel, succeed

from anomaly.decider import Decider
from anomaly.detector import Detector, rescaled
from anomaly.edge.sinks import AnnotatedVideo, EventLog, annotate, write_jpeg
from anomaly.edge.watch import watch
from anomaly.footage.source import find_sources, read_frames
from anomaly.model import Model, load_model
from anomaly.regions import Regions
from anomaly.scoring import look_at, score_source, score_sources
from anomaly.thresholds import Threshold, load_threshold
from anomaly.types import Frame


@pytest.fixture(scope="module")
def model(small_model: SmallModel) -> Model:
    return load_model(small_model.folder, offline=True)


@pytest.fixture(scope="module")
def frames(small_model: SmallModel) -> list[Frame]:
    (source,) = find_sources([small_model.footage.test / "test_01.mp4"])
    return list(read_frames(source, fps=5))


@pytest.fixture(scope="module")
def threshold(model: Model) -> Threshold:
    return load_threshold(model, fps=5.0)


def test_a_look_is_what_the_bank_says_of_every_patch(model: Model, frames: list[Frame]):
    (branch,) = model.detector.branches
    look = model.detector.look([frames[0].image])[0]
    patches = branch.patches([frames[0].image])[0]
    distances, rows = branch.bank.search(patches)
    np.testing.assert_allclose(look.distances, distances[:, 0] / branch.scale, rtol=1e-5)
    np.testing.assert_array_equal(look.nearest, rows[:, 0])
    assert look.grid == (6, 10)
    assert look.score == pytest.approx(float(np.sort(look.distances)[-1:].mean()))
    assert look.heatmap((96, 160)).shape == (96, 160)


def test_frames_looked_at_together_are_as_alone(model: Model, frames: list[Frame]):
    together = model.detector.look([frame.image for frame in frames[:5]])
    for frame, look in zip(frames[:5], together, strict=True):
        assert model.detector.look([frame.image])[0].score == pytest.approx(look.score, rel=1e-5)


def test_ordinary_frames_score_about_one_and_the_spill_more(
    model: Model, small_model: SmallModel, frames: list[Frame]
):
    assert 0.8 < model.detector.look([frames[0].image])[0].score < 1.3
    spilled = max(look.score for look in model.detector.look([frame.image for frame in frames]))
    assert spilled > 1.3


def test_steps_are_looks_and_decisions_and_cameras_do_not_mix(
    model: Model, frames: list[Frame], threshold: Threshold
):
    detector = model.detector.with_decider(threshold.decider, threshold.value)
    decider = Decider(threshold.decider, threshold.value)
    own, other, alone = detector.start(), detector.start(), decider.start()
    for frame in frames[:8]:
        result, own = detector.step(frame, own)
        expected, alone = decider.step(alone, frame.pts_s, result.look.score)
        assert result.decision == expected
        _, other = detector.step(Frame(frames[20].image, frame.pts_s, frame.index, "other"), other)
    assert own.decided.time_s == other.decided.time_s == frames[7].pts_s
    assert (
        other.decided.smoothed != own.decided.smoothed
    )  # each camera saw other pictures and kept its own state


def test_regions_leave_patches_out_of_the_score(model: Model, frames: list[Frame]):
    look = model.detector.look([frames[20].image])[0]
    worst = int(look.distances.argmax())
    y, x = divmod(worst, 10)
    hole = [[(x / 10, y / 6), ((x + 1) / 10, y / 6), ((x + 1) / 10, (y + 1) / 6), (x / 10, (y + 1) / 6)]]
    masked = Detector(model.detector.branches, Regions((), hole), model.detector.decider.config)
    without = masked.look([frames[20].image])[0]
    assert not without.counts[worst]
    assert without.score == pytest.approx(float(np.delete(look.distances, worst).max()))
    assert (
        without.heatmap((96, 160))[16 * y + 8, 16 * x + 8] < look.heatmap((96, 160))[16 * y + 8, 16 * x + 8]
    )


def test_a_scale_divides_scores_and_never_is_zero(model: Model, frames: list[Frame]):
    (branch,) = model.detector.branches
    doubled = Detector(
        [rescaled(branch, 2 * branch.scale)], model.detector.regions, model.detector.decider.config
    )
    image = [frames[0].image]
    assert doubled.look(image)[0].score == pytest.approx(model.detector.look(image)[0].score / 2, rel=1e-5)
    assert rescaled(branch, 0.0).scale > 0
    with pytest.raises(ValueError, match="branch"):
        Detector([], model.detector.regions, model.detector.decider.config)


def test_of_two_branches_the_higher_score_counts(model: Model, frames: list[Frame]):
    (branch,) = model.detector.branches
    both = Detector(
        [rescaled(branch, 3 * branch.scale), branch], model.detector.regions, model.detector.decider.config
    )
    image = [frames[0].image]
    assert both.look(image)[0].score == pytest.approx(model.detector.look(image)[0].score, rel=1e-6)


def test_watching_gives_every_frame_and_every_event_once(
    model: Model, frames: list[Frame], threshold: Threshold
):
    seen = list(watch(model, iter(frames), threshold))
    assert [one.frame.index for one in seen] == [frame.index for frame in frames]
    events = [event for one in seen for event in one.ended]
    started = [one.decision.started for one in seen if one.decision.started is not None]
    assert [event.start_s for event in events] == [alarm.start_s for alarm in started]
    for event in events:
        assert event.frame.pts_s == event.peak_s
        assert event.look.score > 1


def test_an_event_that_is_still_on_comes_with_the_last_frame(
    model: Model, frames: list[Frame], threshold: Threshold
):
    seen = list(watch(model, iter(frames), threshold))
    alarmed = [index for index, one in enumerate(seen) if one.decision.alarm]
    cut = list(watch(model, iter(frames[: alarmed[0] + 1]), threshold))
    assert cut[-1].decision.alarm
    (event,) = cut[-1].ended
    assert event.start_s == event.end_s == frames[alarmed[0]].pts_s
    assert not any(one.ended for one in cut[:-1])


def test_watching_nothing_gives_nothing(model: Model, threshold: Threshold):
    assert list(watch(model, iter([]), threshold)) == []


def test_a_threshold_of_zero_splits_the_alarm_at_its_longest(
    model: Model, frames: list[Frame], threshold: Threshold
):
    from dataclasses import replace

    always = replace(threshold, value=0.01, decider=replace(threshold.decider, max_duration_s=2.0))
    events = [event for one in watch(model, iter(frames), always) for event in one.ended]
    assert [event.continued for event in events] == [False, True, True, True]
    assert [event.start_s for event in events] == pytest.approx([0.0, 2.0, 4.0, 6.0])
    for event in events:
        assert event.start_s <= event.peak_s <= event.end_s
        assert event.frame.pts_s == event.peak_s


def test_a_line_is_on_the_disk_before_the_next_frame(
    model: Model, frames: list[Frame], threshold: Threshold, tmp_path: Path
):
    events = [event for one in watch(model, iter(frames), threshold) for event in one.ended]
    with EventLog(tmp_path / "out", threshold) as log:
        assert (tmp_path / "out" / "events.jsonl").read_text() == ""
        for count, event in enumerate(events, 1):
            log.write(event)
            assert len((tmp_path / "out" / "events.jsonl").read_text().splitlines()) == count == log.count
            assert (tmp_path / "out" / "snapshots" / f"event_{count:04d}.jpg").is_file()


def test_an_annotated_video_that_breaks_off_leaves_no_file(
    model: Model, frames: list[Frame], threshold: Threshold, tmp_path: Path
):
    seen = list(watch(model, iter(frames[:2]), threshold))

    def broken() -> Iterator[None]:
        with AnnotatedVideo(tmp_path / "a.mp4", threshold, 5.0, 0.5) as video:
            video.write(seen[0])
            raise RuntimeError("cut")
            yield

    with pytest.raises(RuntimeError, match="cut"):
        list(broken())
    assert not list(tmp_path.iterdir())


def test_the_bar_and_the_frame_show_the_alarm(model: Model, frames: list[Frame], threshold: Threshold):
    seen = list(watch(model, iter(frames), threshold))
    calm = annotate(seen[0], threshold, 0.5)
    alarm = annotate(next(one for one in seen if one.decision.alarm), threshold, 0.5)
    assert alarm[48, 0].tolist() == [230, 60, 40]
    assert calm[48, 0].tolist() != [230, 60, 40]
    # The bar passes the middle exactly when an alarm is on.
    assert alarm[-1, 70].tolist() == [230, 60, 40]
    assert calm[-1, 90].tolist() != [70, 160, 90]


def test_what_is_above_the_threshold_has_a_line_around_it(
    model: Model, frames: list[Frame], threshold: Threshold
):
    one = next(one for one in watch(model, iter(frames), threshold) if one.decision.alarm)
    reached = (one.look.heatmap((96, 160)) >= threshold.value).astype(np.uint8)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    edge = (reached - cv2.erode(reached, cross)).astype(bool)
    edge[:24] = edge[88:] = edge[:, :4] = edge[:, -4:] = False
    assert edge.sum() > 5
    drawn = annotate(one, threshold, 0.0)[edge]
    assert (drawn.min(axis=1) > 200).mean() > 0.8
    assert (one.frame.image[edge].min(axis=1) > 200).mean() < 0.2


def test_the_dark_edge_of_the_score_lies_around_it(model: Model, threshold: Threshold):
    frame = Frame(np.full((96, 480, 3), 128, np.uint8), 0.0, 0, "grey.png")
    (seen,) = watch(model, iter([frame]), threshold, still=True)
    label = annotate(seen, threshold, 0.0)[6:20, 4:200]
    light, dark = (np.nonzero(found.all(2).any(0))[0] for found in (label > 200, label < 60))
    assert light.max() - light.min() > 40
    assert abs(int(dark.max()) - int(light.max())) <= 2


def test_a_picture_of_one_pixel_can_be_annotated(model: Model, threshold: Threshold, tmp_path: Path):
    frame = Frame(np.zeros((1, 1, 3), np.uint8), 0.0, 0, "dot.png")
    (seen,) = watch(model, iter([frame]), threshold, still=True)
    write_jpeg(tmp_path / "dot.jpg", annotate(seen, threshold, 0.5))
    assert cv2.imread(str(tmp_path / "dot.jpg")).shape == (1, 1, 3)


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path):
    with pytest.raises(OSError, match="none"):
        write_jpeg(tmp_path / "none" / "a.jpg", np.zeros((4, 4, 3), np.uint8))


def test_scores_are_cached_by_what_the_file_holds(
    model: Model, small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ANOMALY_CACHE", str(tmp_path / "cache"))
    clip = small_model.footage.test / "test_03.mp4"
    (source,) = find_sources([clip])
    (tmp_path / "other name.mp4").write_bytes(clip.read_bytes())
    (renamed,) = find_sources([tmp_path / "other name.mp4"])
    first = score_source(model, source, fps=2)
    again = score_source(model, renamed, fps=2)
    np.testing.assert_array_equal(first.scores, again.scores)
    assert again.source.name == "other name.mp4"
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 1
    score_source(model, source, fps=1)
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 2
    assert score_source(model, source, fps=2).grids is None
    with_grids = score_source(model, source, fps=2, grids=True)
    assert with_grids.grids is not None
    assert with_grids.grids.shape == (16, 60)
    np.testing.assert_allclose(with_grids.grids.max(axis=1), first.scores, rtol=1e-5)
    assert score_source(model, source, fps=2, grids=True).grids is not None
    assert with_grids.size == (96, 160)


def test_scores_of_another_version_are_not_told_as_this_ones(
    model: Model, small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As after `pip install --upgrade`: `evaluate` told the recall of scores that nothing here gives any more."""
    monkeypatch.setenv("ANOMALY_CACHE", str(tmp_path / "cache"))
    (source,) = find_sources([small_model.footage.test / "test_03.mp4"])
    versions = {"torch": "2.15.0"}
    monkeypatch.setattr("anomaly.model.version", lambda package: versions.get(package, "1"))
    scored: list[str] = []

    def counted(*arguments: Any) -> Any:
        scored.append("once")
        return look_at(*arguments)

    monkeypatch.setattr("anomaly.scoring.look_at", counted)
    score_source(model, source, fps=1)
    score_source(model, source, fps=1)
    assert scored == ["once"]
    versions["torch"] = "2.16.0"
    score_source(model, source, fps=1)
    assert scored == ["once"] * 2


def test_progress_counts_every_frame_cached_or_not(
    model: Model, small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ANOMALY_CACHE", str(tmp_path))
    sources = find_sources([small_model.footage.test])
    for _ in range(2):
        done: list[int] = []
        scored, problems = score_sources(model, sources, fps=1, progress=done.append)
        assert sum(done) == 24 == sum(len(one.times) for one in scored)
        assert problems == []


def test_scores_of_the_cache_and_of_the_command_line_agree(
    model: Model, small_model: SmallModel, tmp_path: Path
):
    (source,) = find_sources([small_model.footage.test / "test_02.mp4"])
    succeed("score", "--model", small_model.folder, "--source", source.path, "--out", tmp_path / "s.csv", FPS)
    rows = [line.split(",") for line in (tmp_path / "s.csv").read_text().splitlines()[1:]]
    np.testing.assert_allclose(
        [float(row[3]) for row in rows], score_source(model, source, fps=5.0).scores, rtol=1e-6
    )
