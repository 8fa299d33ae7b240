"""Clips out of recorded segments: whole pictures, right times, no sound, made beside the running program."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from clips import number_of, numbered, write_clip

from anomaly.edge.clips import ClipMaker, Segment, cut, preview
from anomaly.edge.segment_name import mask_mark
from anomaly.edge.store import Store
from anomaly.errors import FootageError
from anomaly.privacy import Polygon

T0 = 1_790_000_000.0
CODECS = {
    "h264": ("libx264", {"g": "20", "bf": "3", "sc_threshold": "0", "crf": "16"}),
    "hevc": (
        "libx265",
        {"x265-params": "keyint=20:min-keyint=20:bframes=3:open-gop=1:log-level=none:pools=1"},
    ),
    "mjpeg": ("mjpeg", {}),
}


def record(
    folder: Path,
    codec: str = "h264",
    seconds: int = 24,
    *,
    utc_s: float = T0,
    pts_s: float = 5000.0,
    size: tuple[int, int] = (64, 96),
    segment_s: float = 4.0,
    camera: str = "press",
) -> list[Segment]:
    """Record numbered frames, ten a second, as the capture does: segments that begin with a keyframe."""
    encoder, options = CODECS[codec]
    whole = folder / f"{camera}-{utc_s:.0f}-{codec}.mp4"
    folder.mkdir(parents=True, exist_ok=True)
    write_clip(whole, numbered(10 * seconds, size), 10, encoder, encoder=options)
    parts: list[list] = []
    with av.open(str(whole)) as source:
        stream = source.streams.video[0]
        for packet in source.demux(stream):
            if packet.pts is None:
                continue
            first = parts[-1][0] if parts else None
            if packet.is_keyframe and (
                first is None or (packet.pts - first.pts) * packet.time_base >= segment_s - 0.01
            ):
                parts.append([])
            parts[-1].append(packet)
        segments = []
        for number, part in enumerate(parts):
            start = float(part[0].pts * part[0].time_base)
            end = float(parts[number + 1][0].pts * part[0].time_base) if number + 1 < len(parts) else seconds
            path = folder / camera / f"{utc_s:.0f}" / f"{number:06d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as out:
                track = out.add_stream_from_template(stream)
                sound = out.add_stream("aac", rate=8000)
                for packet in part:
                    packet.stream = track
                    packet.pts += int(pts_s / packet.time_base)
                    packet.dts += int(pts_s / packet.time_base)
                    out.mux(packet)
                noise = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                noise.rate, noise.pts = 8000, int((pts_s + start) * 8000) + 1024
                out.mux(sound.encode(noise) + sound.encode(None))
            segments.append(
                Segment(camera, path, utc_s + start, utc_s + end, pts_s + start, path.stat().st_size, codec, number + 1)
            )  # fmt: skip
    whole.unlink()
    return segments


def pictures(path: Path) -> list[tuple[float, int]]:
    """(seconds in the file, number) of each frame, as PyAV decodes them without a fault."""
    with av.open(str(path)) as source:
        assert len(source.streams) == 1
        source.streams.video[0].codec_context.options = {"err_detect": "explode"}
        return [
            (float(frame.time), number_of(frame.to_ndarray(format="rgb24")))
            for frame in source.decode(video=0)
        ]


@pytest.mark.parametrize("codec", CODECS)
def test_a_clip_runs_across_segments_from_the_keyframe_before_to_the_end(tmp_path: Path, codec: str):
    segments = record(tmp_path / "recording", codec)
    assert len(segments) == 6
    out = tmp_path / "clip.mp4"
    done = cut(segments, T0 + 6.7, T0 + 13.25, out)
    shown = pictures(out)
    first = 67 if codec == "mjpeg" else 60
    numbers = [number for _, number in shown]
    assert numbers[0] == first
    # A picture or two after the end, where others lean on them.
    assert [number for number in numbers if number <= 132] == list(range(first, 133))
    assert numbers[-1] <= 135
    for at, number in shown:
        assert done.start_utc_s + at == pytest.approx(T0 + number / 10, abs=0.002)
    assert done.end_utc_s == pytest.approx(T0 + (numbers[-1] + 1) / 10, abs=0.11)
    assert (done.codec, done.frames, done.bytes) == (codec, len(shown), out.stat().st_size)
    assert done.playable is (codec == "h264")
    assert done.missing == ""
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == ["clip.mp4"]


@pytest.mark.parametrize("codec", CODECS)
def test_others_play_a_clip_too(tmp_path: Path, codec: str):
    if shutil.which("ffprobe") is None:
        pytest.skip("apt-get install ffmpeg")
    out = tmp_path / "clip.mp4"
    done = cut(record(tmp_path / "recording", codec, 12), T0 + 3, T0 + 9, out)
    probe = subprocess.run(
        ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", str(out)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert probe.stderr == ""
    [stream] = json.loads(probe.stdout)["streams"]
    assert (stream["codec_name"], int(stream["nb_read_frames"])) == (codec, done.frames)
    assert stream["codec_tag_string"] == {"h264": "avc1", "hevc": "hvc1", "mjpeg": "mp4v"}[codec]
    assert b"moof" in out.read_bytes()
    video = cv2.VideoCapture(str(out))
    count = 0
    while video.read()[0]:
        count += 1
    assert count == done.frames


def test_a_clip_that_was_cut_off_in_the_middle_still_plays(tmp_path: Path):
    out = tmp_path / "clip.mp4"
    cut(record(tmp_path / "recording", "h264"), T0 + 2, T0 + 18, out)
    out.write_bytes(out.read_bytes()[: int(out.stat().st_size * 0.6)])
    video = cv2.VideoCapture(str(out))
    count = 0
    while video.read()[0]:
        count += 1
    assert count > 60


def test_arrival_times_that_jitter_do_not_shake_the_pictures(tmp_path: Path):
    segments = record(tmp_path / "recording")
    shaken = [
        Segment(one.camera, one.path, one.start_utc_s + late, one.end_utc_s + late, one.start_pts_s, 1, "h264", one.id)
        for one, late in zip(segments, (0, 0.2, -0.1, 0.15, 0, 0.1), strict=True)
    ]  # fmt: skip
    cut(shaken, T0 + 1, T0 + 20, tmp_path / "clip.mp4")
    steps = np.diff([at for at, _ in pictures(tmp_path / "clip.mp4")])
    assert steps.min() == pytest.approx(0.1, abs=0.001)
    assert steps.max() == pytest.approx(0.1, abs=0.001)


def test_a_stream_that_came_back_leaves_its_hole_in_the_clip(tmp_path: Path):
    before = record(tmp_path / "recording", seconds=8)
    after = record(tmp_path / "recording", seconds=8, utc_s=T0 + 20, pts_s=3.0)
    done = cut([*before, *after], T0 + 2, T0 + 25, tmp_path / "clip.mp4")
    at = np.array([at for at, _ in pictures(tmp_path / "clip.mp4")])
    assert np.diff(at).max() == pytest.approx(12.1, abs=0.01)
    assert (np.diff(at) > 0).all()
    assert done.end_utc_s == pytest.approx(T0 + 25, abs=0.5)


def test_what_cannot_stand_in_one_clip_is_left_out_and_told(tmp_path: Path):
    before = record(tmp_path / "recording", seconds=12)
    after = record(tmp_path / "recording", seconds=8, utc_s=T0 + 12, size=(96, 128))
    done = cut([*before, *after], T0 + 2, T0 + 15, tmp_path / "clip.mp4")
    assert done.missing == "the stream changed"
    assert [number for _, number in pictures(tmp_path / "clip.mp4")] == list(range(20, 120))
    assert done.used == (1, 2, 3)
    before[1].path.write_bytes(b"\0" * 5000)
    before[2].path.unlink()
    done = cut(before, T0 + 2, T0 + 12, tmp_path / "clip.mp4")
    assert done.missing == "part of the recording is gone or cannot be read"
    assert [number for _, number in pictures(tmp_path / "clip.mp4")] == list(range(20, 40))


def test_segments_under_a_clock_set_back_do_not_mix(tmp_path: Path):
    before = record(tmp_path / "recording", seconds=12)
    after = record(tmp_path / "recording", seconds=12, utc_s=T0 + 2, pts_s=5012.0)
    shown = pictures(cut([*before, *after], T0 + 4, T0 + 10, tmp_path / "clip.mp4").path)
    assert [number for _, number in shown] == list(range(20, 81))


def test_a_segment_that_names_another_file_opens_nothing(tmp_path: Path):
    secret = tmp_path / "secret.mp4"
    segment = record(tmp_path / "recording", seconds=4)[0]
    segment.path.rename(secret)
    segment.path.write_text(f"ffconcat version 1.0\nfile '{secret}'\n")
    with pytest.raises(FootageError, match="no recorded segment can be read"):
        cut([segment], T0, T0 + 3, tmp_path / "clip.mp4")
    with pytest.raises(FootageError, match="no recorded segment"):
        cut([], T0, T0 + 3, tmp_path / "clip.mp4")
    assert not (tmp_path / "clip.mp4").exists()


@pytest.mark.parametrize("codec", ["hevc", "mjpeg"])
def test_a_preview_is_h264_with_the_same_pictures_and_masks_painted(tmp_path: Path, codec: str):
    done = cut(record(tmp_path / "recording", codec, 8), T0 + 2, T0 + 5, tmp_path / "clip.mp4")
    preview(done.path, tmp_path / "preview.mp4", [[(0.0, 0.5), (1.0, 0.5), (1.0, 1.0), (0.0, 1.0)]])
    with av.open(str(tmp_path / "preview.mp4")) as source:
        assert source.streams.video[0].codec_context.name == "h264"
        images = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    assert len(images) == done.frames
    assert all(image[40:].max() < 40 for image in images)
    assert [number_of(image[:24]) for image in images] == [number for _, number in pictures(done.path)]
    (tmp_path / "broken.mp4").write_bytes(done.path.read_bytes()[:300])
    with pytest.raises(FootageError, match=r"broken\.mp4"):
        preview(tmp_path / "broken.mp4", tmp_path / "none.mp4")
    assert not (tmp_path / "none.mp4").exists()


def test_a_preview_of_pictures_of_two_sizes_has_all_of_them(tmp_path: Path):
    """Under privacy masks no clip could be made at all of a camera that changed its size in the middle of a segment."""
    parts = []
    for name, size in (("small", (64, 96)), ("large", (96, 160))):
        write_clip(tmp_path / f"{name}.mp4", numbered(5, size), 10, "mjpeg", encoder={})
        with av.open(str(tmp_path / f"{name}.mp4")) as source:
            parts += [bytes(packet) for packet in source.demux(video=0) if packet.pts is not None]
    with av.open(str(tmp_path / "small.mp4")) as like, av.open(str(tmp_path / "both.mp4"), "w") as both:
        stream = both.add_stream_from_template(like.streams.video[0])
        for number, data in enumerate(parts):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 10)
            packet.pts = packet.dts = number
            packet.is_keyframe = True
            both.mux(packet)
    preview(
        tmp_path / "both.mp4", tmp_path / "preview.mp4", [[(0.0, 0.5), (1.0, 0.5), (1.0, 1.0), (0.0, 1.0)]]
    )
    with av.open(str(tmp_path / "preview.mp4")) as source:
        images = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    with av.open(str(tmp_path / "both.mp4")) as source:
        sizes = [frame.width for frame in source.decode(video=0)]
    assert set(sizes) == {96, 160}
    assert [image.shape for image in images] == [(64, 96, 3)] * len(sizes)
    assert all(image[40:].max() < 40 for image in images)


def wait_for(what: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def index(store: Store, segments: list[Segment]) -> None:
    for one in segments:
        path = one.path.relative_to(store.folder / "recording")
        store.add_segment(
            one.camera, path, one.start_utc_s, one.end_utc_s, one.start_pts_s, one.bytes, one.codec
        )


def ended_event(store: Store, start: float, camera: str = "press") -> str:
    one = store.start_event(
        camera=camera, model="m", start_utc_s=start, start_pts_s=0.0, score=2.0, threshold=1.0
    )
    store.end_event(one.id, start + 2, 2.0)
    return one.id


def test_the_maker_makes_what_is_pending_and_what_comes(tmp_path: Path):
    with Store(tmp_path) as store:
        index(store, record(tmp_path / "recording"))
        index(store, record(tmp_path / "recording", "hevc", 16, camera="b ..ü"))
        index(store, record(tmp_path / "recording", "h264", 12, camera="masked"))
        first = ended_event(store, T0 + 8)
        nothing = ended_event(store, T0 + 500)
        still_on = store.start_event(
            camera="press", model="m", start_utc_s=T0, start_pts_s=0.0, score=2.0, threshold=1.0
        )
        top = [[(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]]
        with ClipMaker(store, 3, 3, black=lambda camera: top if camera == "masked" else ()) as maker:
            wait_for(lambda: store.event(nothing).clip_state == "none")
            second = ended_event(store, T0 + 6, "b ..ü")
            hidden = ended_event(store, T0 + 6, "masked")
            store.mark_miss("press", T0 + 15, T0 + 16, "dent", "ann")
            maker.offer(second)
            wait_for(lambda: not store.misses(clip_state="pending"))
            wait_for(lambda: [one.id for one in store.events(clip_state="pending")] == [still_on.id])
        done = store.event(first)
        assert (done.clip_state, done.preview, done.clip) == ("ready", None, f"clips/press/{first}.mp4")
        assert [number for _, number in pictures(store.path(done.clip))][::130] == [40]
        assert done.clip_start_utc_s == pytest.approx(T0 + 4, abs=0.4)
        assert done.clip_end_utc_s == pytest.approx(T0 + 13, abs=0.5)
        kept = store.event(second)
        assert (kept.clip_state, kept.preview) == (
            "ready",
            f"clips/b %2E%2Eü/{second}.preview.mp4".replace("ü", "%C3%BC"),
        )
        assert pictures(store.path(kept.preview))[0][1] == 20
        masked = store.event(hidden)
        assert masked.preview is None
        with av.open(str(store.path(masked.clip))) as source:
            assert all(frame.to_ndarray(format="rgb24").max() < 20 for frame in source.decode(video=0))
        assert store.misses()[0].clip_state == "ready"
        assert pictures(store.path(store.misses()[0].clip))[0][1] == 120
        assert not list(tmp_path.rglob("*.part"))


def test_behind_many_clips_the_newest_is_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Store(tmp_path) as store:
        index(store, record(tmp_path / "recording", "mjpeg"))
        events = [ended_event(store, T0 + 2 + i) for i in range(5)]
        made, write = [], store.set_clip

        def noted(item_id: str, *given: Any, **changes: Any) -> bool:
            if len(made) == 1:
                events.append(ended_event(store, T0 + 9))
            made.append(item_id)
            return write(item_id, *given, **changes)

        monkeypatch.setattr(store, "set_clip", noted)
        with ClipMaker(store, 1, 1):
            wait_for(lambda: len(made) == 6)
        # The newest and the oldest in turn; one that comes meanwhile is the newest.
        assert made == [events[i] for i in (4, 0, 5, 1, 3, 2)]


def test_a_clip_bears_the_mark_of_the_masks_it_was_painted_with_though_others_hold_meanwhile(tmp_path: Path):
    left, right = [((0.0, 0.0), (0.5, 0.0), (0.5, 1.0))], [((0.5, 0.0), (1.0, 0.0), (1.0, 1.0))]
    with Store(tmp_path) as store:
        index(store, record(tmp_path / "recording", seconds=12))

        def black(camera: str) -> Sequence[Polygon]:
            # The masks change as soon as the clip is begun.
            store.set_masks(camera, tuple(right))
            return left

        event = ended_event(store, T0 + 4)
        with ClipMaker(store, 1, 1, black=black):
            wait_for(lambda: store.event(event).clip_state == "ready")
        assert store.masks()["press"] == tuple(right)
        assert store.media_mark(event, "clip") == mask_mark(left)


def children() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += [int(one) for one in (task / "children").read_text().split()]
    return found


def test_a_clip_process_that_is_killed_is_started_again(tmp_path: Path):
    with Store(tmp_path) as store:
        index(store, record(tmp_path / "recording", "mjpeg"))
        others = set(children())
        with ClipMaker(store, 1, 1):
            first = ended_event(store, T0 + 2)
            wait_for(lambda: store.event(first).clip_state == "ready")
            [worker] = set(children()) - others
            os.kill(worker, signal.SIGKILL)
            second = ended_event(store, T0 + 9)
            wait_for(lambda: store.event(second).clip_state == "ready")
            assert pictures(store.path(store.event(second).clip))[0][1] == 80
        wait_for(lambda: not set(children()) - others)


def test_a_clip_waits_for_a_segment_that_is_not_finished_however_long_ago_the_event_was(tmp_path: Path):
    """A machine that comes back from a power cut, and a camera with a keyframe a minute."""
    with Store(tmp_path) as store:
        [*whole, last] = record(tmp_path / "recording", seconds=12)
        index(store, whole)
        days = tmp_path / "recording/press/20260921"
        days.mkdir()
        # By its name it began with the last segment; the next process of the camera finishes it.
        began = last.path.rename(
            days / f"{time.strftime('%H%M%S', time.gmtime(last.start_utc_s))}.000.mp4.part"
        )
        event, later = ended_event(store, T0 + 8), ended_event(store, T0 - 500)
        with ClipMaker(store, 1, 1, wait_s=0.5) as maker:
            wait_for(lambda: store.event(later).clip_state == "none")
            for _ in range(3):
                maker.offer(event)
                time.sleep(0.3)
            assert store.event(event).clip_state == "pending"
            began.rename(last.path)
            index(store, [last])
            wait_for(lambda: store.event(event).clip_state == "ready")
        assert pictures(store.path(store.event(event).clip))[-1][1] >= 109


def test_an_error_that_nobody_foresaw_costs_one_clip_and_is_told(tmp_path: Path):
    told = []
    with Store(tmp_path) as store:
        index(store, record(tmp_path / "recording", "mjpeg"))
        first, second = ended_event(store, T0 + 2), ended_event(store, T0 + 9)
        # Neither written nor removed.
        (tmp_path / f"clips/press/{first}.mp4").mkdir(parents=True)
        with ClipMaker(store, 1, 1, on_trouble=told.append) as maker:
            wait_for(lambda: store.event(second).clip_state == "ready")
            wait_for(lambda: told != [])
            maker.offer(first)
            wait_for(lambda: store.event(first).clip_state == "failed")
            wait_for(lambda: maker.offer(first) or len(told) == 2)
    assert [(one.kind, one.begins) for one in told] == [("clips", True), ("clips", False)]
    assert told[0].detail == {"error": "IsADirectoryError"}


def test_order_on_the_disk_is_write_sync_rename_sync_of_the_folder(tmp_path: Path):
    if shutil.which("strace") is None:
        pytest.skip("apt-get install strace")
    segments = record(tmp_path / "recording", seconds=12)
    job = {
        "segments": [{**asdict(one), "path": str(one.path)} for one in segments],
        "start_utc_s": T0 + 2, "end_utc_s": T0 + 8, "black": [],
        "out": str(tmp_path / "clips/a.mp4"), "preview": str(tmp_path / "clips/a.preview.mp4"),
    }  # fmt: skip
    trace = tmp_path / "trace"
    subprocess.run(
        ["strace", "-f", "-y", "-e", "trace=write,pwrite64,fsync,fdatasync,rename,renameat,renameat2", "-o", trace,
         sys.executable, "-m", "anomaly.edge.clip_process"],
        input=json.dumps(job), text=True, check=True, capture_output=True,
    )  # fmt: skip
    steps = []
    for line in trace.read_text().splitlines():
        if str(tmp_path / "clips") in line:
            call = line.split("(")[0].split()[-1]
            steps.append((call.rstrip("0123456789"), ".part" in line.split(",")[0]))
    order = [step for step, before in zip(steps, [None, *steps], strict=False) if step != before]
    assert [step[0].replace("pwrite", "write").replace("fdatasync", "fsync") for step in order] == [
        "write", "fsync", "rename", "fsync",
    ]  # fmt: skip
    assert [step[1] for step in order] == [True, True, True, False]
