"""The built-in footage: the same from a seed, labelled to the frame, masked to the pixel, endless."""

from __future__ import annotations

import csv
import subprocess
import sys
import tracemalloc
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from small_model import environment

from anomaly.conveyor import (
    KINDS,
    MOTION_KINDS,
    PlannedFault,
    SceneConfig,
    plan_clip,
    render_clip,
    write_footage,
    write_short_clips,
)
from anomaly.errors import UsageError
from anomaly.footage.labels import load_labels, read_mask

SMALL = SceneConfig(width=160, height=96)
SEEN_KINDS = [kind for kind in KINDS if kind not in MOTION_KINDS]


def images(clip, **stretch):
    return np.stack([image for image, _, _ in render_clip(clip, **stretch)])


def frames_in(video: Path) -> list[float]:
    with av.open(str(video)) as container:
        return [frame.time for frame in container.decode(video=0)]


def test_the_same_clip_gives_the_same_frames_and_another_seed_others():
    clip = plan_clip(3, 2.0, ["scratch"], config=SMALL)
    first, again = images(clip), images(plan_clip(3, 2.0, ["scratch"], config=SMALL))
    assert first.shape == (20, 96, 160, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    other = images(plan_clip(4, 2.0, ["scratch"], config=SMALL))
    assert np.abs(first.astype(int) - other).mean() > 2.0


WRITE_IN_ANOTHER_PROCESS = """
import os, sys
from pathlib import Path
from anomaly.conveyor import SceneConfig, plan_clip
from anomaly.conveyor.film import write_clip

folder, processors = Path(sys.argv[1]), int(sys.argv[2])
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processors])
clip = plan_clip(3, 2.0, ["scratch"], config=SceneConfig(160, 128))
write_clip(clip, folder / "clip.mp4", crf=25, masks=folder / "clip.npz")
"""


def test_files_are_the_same_to_the_byte_whatever_a_process_finds(tmp_path):
    """Ten blocks wide, no multiple of eight, and high enough for two threads of the encoder.

    Neither can show where there is one processor or none with AVX-512.
    """
    written = []
    for threads, filler in ((1, 85), (4, 170)):
        folder = tmp_path / str(threads)
        folder.mkdir()
        settings = {
            "PYTHONHASHSEED": str(threads),
            "MALLOC_PERTURB_": str(filler),  # glibc fills memory with it that nothing was written to
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), str(threads)),
        }
        command = [sys.executable, "-c", WRITE_IN_ANOTHER_PROCESS, str(folder), str(threads)]
        subprocess.run(command, env=environment(**settings), check=True, timeout=60)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert sorted(written[0]) == ["clip.mp4", "clip.npz"]
    # Not compared whole, because pytest would explain a difference byte by byte.
    assert [name for name in written[0] if written[0][name] != written[1][name]] == []


def test_a_stretch_is_what_the_whole_clip_shows_there():
    clip = plan_clip(5, 4.0, ["spill", "jam"], config=SMALL)
    whole = list(render_clip(clip))
    part = list(render_clip(clip, start_s=1.5, end_s=2.5))
    assert [round(time_s, 3) for _, time_s, _ in part] == [round(1.5 + i / 10, 3) for i in range(10)]
    for (image, _, mask), (expected, _, expected_mask) in zip(part, whole[15:25], strict=True):
        np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(mask, expected_mask)


def test_times_follow_the_frame_rate():
    clip = plan_clip(1, 1.0, config=SceneConfig(width=64, height=48, fps=29.97))
    times = [time_s for _, time_s, _ in render_clip(clip)]
    assert len(times) == 30
    np.testing.assert_allclose(times, np.arange(30) / 29.97)


@pytest.mark.parametrize("view", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_labels_and_masks_agree_on_every_frame(kind, view):
    for severity in (0.0, 1.0):
        clip = plan_clip(
            40 + view, 7.0, [PlannedFault(kind, 3.5, severity)], config=SceneConfig(160, 96, 5.0, view)
        )
        assert [label.kind for label in clip.labels] == [kind]
        (label,) = clip.labels
        for _, time_s, mask in render_clip(clip):
            if label.start_s <= time_s < label.end_s:
                assert mask is not None, (severity, time_s)
                assert mask.any(), (severity, time_s)
                assert mask.shape == (96, 160)
                assert mask.dtype == np.bool_
            else:
                assert mask is None, (severity, time_s)


@pytest.mark.parametrize("kind", SEEN_KINDS)
def test_a_fault_is_labelled_from_its_entry_to_its_exit(kind):
    clip = plan_clip(8, 14.0, [PlannedFault(kind, 7.0)], config=SMALL)
    (label,) = clip.labels
    assert (
        4.0 < label.end_s - label.start_s < 7.5
    )  # 320 units of belt at 64 a second, and the fault's own length
    centres = {
        time_s: float(np.nonzero(mask)[1].mean()) for _, time_s, mask in render_clip(clip) if mask is not None
    }
    times = sorted(centres)
    assert centres[times[0]] < 25.0
    assert centres[times[-1]] > 135.0
    assert abs(centres[min(times, key=lambda time_s: abs(time_s - 7.0))] - 80.0) < 35.0


@pytest.mark.parametrize("severity", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", SEEN_KINDS)
def test_a_fault_changes_the_picture_where_its_mask_is_and_nowhere_else(kind, severity):
    seed = 60 + SEEN_KINDS.index(kind)
    faulty = plan_clip(seed, 6.0, [PlannedFault(kind, 3.0, severity)])
    clean = plan_clip(seed, 6.0)
    # Shadows, highlights and the outline of the part that should be there reach a little beyond the mask.
    margin = np.ones((51, 51), dtype=np.uint8)
    seen = 0
    for (image, _, mask), (usual, _, nothing) in zip(
        render_clip(faulty, start_s=2.0, end_s=4.0), render_clip(clean, start_s=2.0, end_s=4.0), strict=True
    ):
        assert nothing is None
        assert mask is not None
        difference = np.abs(image.astype(int) - usual).max(axis=2)
        near = cv2.dilate(mask.astype(np.uint8), margin).astype(bool)
        assert not difference[~near].any()
        seen += int(np.percentile(difference[mask], 90) >= 10)
    assert seen >= 18  # in nearly every frame a person could see it


def belt_motion(clip, first: int) -> float:
    """Pixels by which the belt moves from a frame to the next."""
    before, after = (
        images(clip, start_s=first / 10, end_s=(first + 2) / 10)[:, 70:130].astype(np.float32).mean(axis=-1)
    )
    (shift_x, _), _ = cv2.phaseCorrelate(before - before.mean(), after - after.mean())
    return shift_x


def test_a_jam_stops_the_belt_and_a_fault_of_direction_turns_it_round():
    normal = plan_clip(9, 8.0)
    jam = plan_clip(9, 8.0, [PlannedFault("jam", 4.0, duration_s=3.0)])
    backwards = plan_clip(9, 8.0, [PlannedFault("backwards", 4.0, duration_s=3.0)])
    assert [(round(label.start_s, 2), round(label.end_s, 2)) for label in jam.labels] == [(2.55, 5.55)]
    np.testing.assert_array_equal(images(normal, end_s=2.5), images(jam, end_s=2.5))
    assert belt_motion(normal, 40) == pytest.approx(6.4, abs=0.7)
    assert belt_motion(jam, 40) == pytest.approx(0.0, abs=0.4)
    assert belt_motion(backwards, 40) == pytest.approx(-6.4, abs=0.7)
    assert belt_motion(jam, 65) == pytest.approx(6.4, abs=0.7)
    assert belt_motion(backwards, 65) == pytest.approx(6.4, abs=0.7)


def test_kinds_without_times_are_spread_over_the_clip_in_order():
    clip = plan_clip(2, 60.0, ["missing", "spill", "backwards", "scratch"], config=SMALL)
    assert [label.kind for label in clip.labels] == ["missing", "spill", "backwards", "scratch"]
    middles = [(label.start_s + label.end_s) / 2 for label in clip.labels]
    np.testing.assert_allclose(middles, [7.5, 22.5, 37.5, 52.5], atol=2.5)


def test_two_faults_on_parts_at_one_time_take_two_parts():
    clip = plan_clip(2, 8.0, [PlannedFault("missing", 4.0), PlannedFault("scratch", 4.0)], config=SMALL)
    assert len({fault.part for fault in clip.faults}) == 2
    assert {label.kind for label in clip.labels} == {"missing", "scratch"}


def test_ten_hours_can_be_entered_anywhere_and_do_not_repeat():
    clip = plan_clip(6, 36_000.0, config=SMALL)
    belt_loop_s = 1640 / 64  # once round
    last = images(clip, start_s=35_999.0)
    assert len(last) == 10
    lap_before = images(clip, start_s=35_999.0 - belt_loop_s, end_s=36_000.0 - belt_loop_s)
    still = cv2.GaussianBlur(last[0].astype(np.float32) - lap_before[0], (0, 0), 2.0)
    assert np.abs(still).max() > 12.0  # the belt is the same; parts, light and camera are not
    assert not np.array_equal(last[0], images(clip, end_s=0.1)[0])


def test_memory_does_not_grow_with_the_length_of_a_clip():
    clip = plan_clip(6, 36_000.0, config=SMALL)
    for _ in render_clip(clip, end_s=30.0):  # sprites and caches are drawn
        pass
    tracemalloc.start()
    try:
        peaks = []
        for seconds in (2.0, 20.0):
            tracemalloc.reset_peak()
            for _ in render_clip(clip, start_s=1000.0, end_s=1000.0 + seconds):
                pass
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 200_000


def test_light_drifts_slowly_and_only_if_asked():
    still = plan_clip(11, 3600.0, config=SMALL, light_drift=0.0)
    drifting = plan_clip(11, 3600.0, config=SMALL)

    def brightness(clip):  # of the wall, where nothing moves
        return np.array(
            [images(clip, start_s=s, end_s=s + 0.1)[0][:8, :30].mean() for s in range(0, 3600, 150)]
        )

    assert np.ptp(brightness(still)) / brightness(still).mean() < 0.04
    assert np.ptp(brightness(drifting)) / brightness(drifting).mean() > 0.06
    soon = images(drifting, start_s=100.0, end_s=101.0)[:, :8, :30].mean(axis=(1, 2, 3))
    assert np.ptp(soon) / soon.mean() < 0.04


def test_a_regime_an_hour_looks_different_each_hour():
    clip = plan_clip(12, 36_000.0, config=SMALL, regime_every_s=3600.0)
    hours = [images(clip, start_s=3600.0 * hour + 10.0, end_s=3600.0 * hour + 10.1)[0] for hour in range(10)]
    tones = np.array([hour.mean(axis=(0, 1)) for hour in hours])
    distances = np.linalg.norm(tones[:, None] - tones[None], axis=-1)
    assert distances[np.triu_indices(10, 1)].min() > 0.3
    assert distances[np.triu_indices(10, 1)].max() > 8.0


def test_views_are_different_cameras():
    views = [images(plan_clip(1, 0.1, config=SceneConfig(160, 96, 10.0, view)))[0] for view in range(6)]
    for i in range(6):
        for other in views[:i]:
            assert np.abs(views[i].astype(int) - other).mean() > 10.0


def test_footage_on_disk_reads_back_as_labelled(tmp_path):
    calls: list[int] = []
    footage = write_footage(
        tmp_path / "line", seed=1, normal_clips=2, normal_s=3.0, labeled_clips=3, test_clips=2, clean_clips=1,
        clip_s=8.0, config=SMALL, progress=calls.append,
    )  # fmt: skip
    assert sum(calls) == 2 + 3 + 2 + 2
    assert sorted(path.name for path in footage.normal.iterdir()) == ["normal_01.mp4", "normal_02.mp4"]
    assert len(frames_in(footage.normal / "normal_01.mp4")) == 30
    labeled = load_labels(footage.labeled_csv, footage.labeled)
    assert [source.name for source in labeled.sources] == [f"labeled_{i:02d}.mp4" for i in range(1, 5)]
    assert [interval.label for interval in labeled.intervals] == ["missing", "wrong", "tilted"]
    assert labeled.of("labeled_04.mp4") == ()
    assert len(load_labels(footage.test_csv, footage.test).intervals) == 2
    names = {path.stem for folder in (footage.labeled, footage.test) for path in folder.iterdir()}
    assert names == {path.stem for path in footage.masks.iterdir()}
    for interval in labeled.intervals:
        assert 0.0 < interval.start_s < interval.end_s < 8.0
        masks = footage.masks / interval.video.replace(".mp4", ".npz")
        for index, time_s in enumerate(frames_in(footage.labeled / interval.video)):
            assert read_mask(masks, index, (96, 160)).any() == (interval.start_s <= time_s < interval.end_s)


def test_footage_is_reused_made_anew_for_another_seed_and_finished_after_an_interruption(tmp_path):
    folder = tmp_path / "line"

    def write(seed: int, clips: int = 2, progress=None):
        return write_footage(
            folder, seed=seed, normal_clips=clips, normal_s=0.5, labeled_clips=1, test_clips=1, clean_clips=0,
            clip_s=1.0, config=SceneConfig(64, 48), workers=1, progress=progress,
        )  # fmt: skip

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(1, clips=5, progress=stop)
    assert not write(1).reused
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert write(1).reused
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    old = (folder / "normal" / "normal_01.mp4").read_bytes()
    assert not write(2, clips=1).reused
    assert (folder / "normal" / "normal_01.mp4").read_bytes() != old
    assert [path.name for path in (folder / "normal").iterdir()] == ["normal_01.mp4"]  # the other is gone
    (folder / "test" / "test_01.mp4").unlink()
    assert not write(2, clips=1).reused
    assert (folder / "test" / "test_01.mp4").is_file()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"precious")
    with pytest.raises(UsageError, match="not generated footage"):
        write_footage(tmp_path, normal_clips=1, labeled_clips=0, test_clips=0, clean_clips=0)
    with pytest.raises(UsageError, match="not generated footage"):
        write_short_clips(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]


def test_short_clips_come_with_a_moment_each(tmp_path):
    labels = write_short_clips(tmp_path / "short", 16, seed=3, config=SceneConfig(96, 64))
    with labels.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["video", "time_s", "label"]
    assert [row["label"] for row in rows] == [*KINDS, *KINDS]
    assert len({row["video"] for row in rows}) == 16
    for row in rows:
        times = frames_in(tmp_path / "short" / "clips" / row["video"])
        assert len(times) == 24
        assert 0.0 < float(row["time_s"]) < times[-1]
    assert len(load_labels(labels, tmp_path / "short" / "clips").intervals) == 16


def test_what_cannot_be_made_is_refused_in_one_line(tmp_path):
    refused = [
        (lambda: SceneConfig(width=31, height=48), "even width and height"),
        (lambda: SceneConfig(fps=0.0), "frames a second"),
        (lambda: SceneConfig(view=-1), "view -1"),
        (lambda: plan_clip(1, 0.0), "duration above 0"),
        (lambda: plan_clip(1, 5.0, ["explosion"]), "'explosion' does not exist; give one of missing"),
        (lambda: plan_clip(1, 5.0, [PlannedFault("spill", 60.0)]), "never in a picture"),
        (lambda: plan_clip(1, 5.0, [PlannedFault("spill", 2.0, severity=1.5)]), "severity 1.5"),
        (lambda: plan_clip(1, 5.0, regime_every_s=0.0), "regime_every_s"),
        (lambda: render_clip(plan_clip(1, 5.0), start_s=4.0, end_s=6.0), "not a stretch"),
        (lambda: write_footage(tmp_path / "new", normal_clips=-1), "normal_clips -1"),
        (lambda: write_footage(tmp_path / "new", kinds=()), "kinds of faults are empty"),
        (lambda: write_short_clips(tmp_path / "new", 4, kinds=["fire"]), "'fire' does not exist"),
        (lambda: write_short_clips(tmp_path / "new", 0), "0 short clips"),
        (lambda: write_short_clips(tmp_path / "new", 4, clean_share=2.0), "clean_share 2.0"),
    ]
    for make, message in refused:
        with pytest.raises(UsageError, match=message) as raised:
            make()
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "new").exists()
