from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from capture_watch import Watch
from clips import texture, write_clip
from freezing_disk import freeze, freezing_disk, thaw  # noqa: F401  (a fixture)
from rtsp_server import RtspServer, number_in

from anomaly.edge.address import parse_address
from anomaly.edge.capture import Capture, CaptureSettings, Report
from anomaly.edge.capture.encoding import FrameEncoder
from anomaly.edge.capture.recorder import Recorder
from anomaly.edge.capture.segment import Template, adopt
from anomaly.edge.capture.timing import RATE, TIME_BASE
from anomaly.edge.clips import ClipMaker
from anomaly.edge.store import Store


def recording(text: str, folder: Path | None, **options: Any) -> Capture:
    return Capture(
        CaptureSettings("cam1", parse_address(text), **{"recording": folder, "segment_s": 1.0, **options})
    )


def played(path: Path) -> tuple[list[int], list[float]]:
    """The frames' numbers, and their times in the file."""
    with av.open(str(path)) as container:
        assert not container.streams.audio
        first = next(iter(container.demux(video=0)))
        assert first.is_keyframe
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [number_in(frame.to_ndarray(format="rgb24")) for frame in frames], [
        float(frame.time or 0) for frame in frames
    ]


def check(folder: Path, reports: list[Report]) -> list[int]:
    """Each segment told is there, plays, and holds as many frames as told; returns all frames' numbers."""
    numbers: list[int] = []
    for report in reports:
        detail = report.detail
        path = folder / detail["path"]
        assert path.stat().st_size == detail["bytes"]
        inside, times = played(path)
        assert len(inside) == detail["frames"]
        assert times[-1] - times[0] < detail["end_pts_s"] - detail["start_pts_s"] < times[-1] - times[0] + 0.2
        assert detail["end_utc_s"] - detail["start_utc_s"] == pytest.approx(
            detail["end_pts_s"] - detail["start_pts_s"], abs=1e-5
        )
        began = datetime.strptime(f"{path.parent.name} {path.stem}", "%Y%m%d %H%M%S.%f").replace(tzinfo=UTC)
        assert began.timestamp() == pytest.approx(detail["start_utc_s"], abs=1.0)
        numbers += inside
    return numbers


@pytest.mark.parametrize(
    "options", [{"audio": True}, {"b_frames": 2}, {"codec": "h265"}, {"codec": "mjpeg", "size": (320, 240)}]
)
def test_every_frame_is_in_a_segment_as_it_came(tmp_path: Path, options: dict):
    with RtspServer(**{"size": (320, 192), **options}) as server:
        with recording(server.url, tmp_path) as capture:
            watch = Watch(capture)
            watch.until_told("segment", 2)
        watch.take()
    segments = watch.told("segment")
    assert {report.detail["first_keyframe"] for report in segments} == {True}
    numbers = check(tmp_path, segments)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert len(segments) == 3 or len(numbers) % 10 == 0
    for before, after in pairwise(segments):
        assert after.detail["start_pts_s"] == pytest.approx(before.detail["end_pts_s"], abs=1e-3)
        assert after.detail["start_utc_s"] == pytest.approx(before.detail["end_utc_s"], abs=0.3)
    # Clips are cut across segments whose parameter sets agree; x265 says its own twice at first.
    assert len({extradata(tmp_path / report.detail["path"]) for report in segments}) == 1
    # Frames and segments are told in the same two times.
    frame, detail = watch.frames[-1], segments[-1].detail
    assert frame.utc_s - frame.pts_s == pytest.approx(detail["start_utc_s"] - detail["start_pts_s"], abs=0.5)
    assert not list(tmp_path.rglob("*.part"))


def extradata(path: Path) -> bytes:
    with av.open(str(path)) as container:
        return bytes(container.streams.video[0].codec_context.extradata or b"")


def test_a_stream_that_is_joined_between_two_keyframes_is_recorded_from_the_next_one_on(tmp_path: Path):
    """Until then nothing tells its size, and no segment of that connection could ever be written."""
    options = {"g": "50", "bf": "0", "sc_threshold": "0"}
    clip = write_clip(tmp_path / "a.mp4", texture(120, (96, 160)), fps=10, encoder=options)

    class Joined(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with (
                suppress(OSError),
                av.open(str(clip)) as source,
                av.open(self.wfile, "w", format="mpegts", options={"flush_packets": "1"}) as out,
            ):
                stream = out.add_stream_from_template(source.streams.video[0])
                for packet in [one for one in source.demux(video=0) if one.size][10:]:
                    time.sleep(0.1)
                    packet.stream = stream
                    out.mux(packet)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Joined) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with recording(f"http://127.0.0.1:{server.server_address[1]}/a.ts", tmp_path / "rec") as capture:
            watch = Watch(capture)
            report = watch.until_told("segment", timeout_s=20)
        server.shutdown()
    assert not watch.told("recording_stopped")
    assert report.detail["frames"] == 50
    with av.open(str(tmp_path / "rec" / report.detail["path"])) as container:
        assert container.streams.video[0].width == 160
        assert sum(1 for _ in container.decode(video=0)) == 50


def test_another_size_begins_another_segment(tmp_path: Path):
    with RtspServer(size=(320, 192)) as server:
        with recording(server.url, tmp_path, segment_s=30.0) as capture:
            watch = Watch(capture)
            watch.more_frames(8)
            server.change_size(256, 128)
            watch.until_told("segment")
            watch.more_frames(12)
        watch.take()
    sizes = []
    for report in watch.told("segment"):
        with av.open(str(tmp_path / report.detail["path"])) as container:
            sizes.append({(frame.width, frame.height) for frame in container.decode(video=0)})
    assert sizes == [{(320, 192)}, {(256, 128)}]


def kills(folder: Path, count: int) -> None:
    """Kill the process again and again; what it had written plays, and almost nothing is missing."""
    with RtspServer(size=(320, 192), keyframe_every=50) as server:
        with recording(server.url, folder, segment_s=60.0) as capture:
            watch = Watch(capture)
            for _ in range(count):
                watch.more_frames(18)
                assert capture.pid is not None
                os.kill(capture.pid, signal.SIGKILL)
                watch.until_told("crashed", len(watch.told("crashed")) + 1)
            watch.until(lambda: len(watch.told("connected")) > count)
            watch.more_frames(2)
        watch.take()
    # The first GOP of a connection is on disk up to the last second.
    check(folder, watch.told("segment"))
    assert len(watch.told("segment")) >= count
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.mp4")} == {
        report.detail["path"] for report in watch.told("segment")
    }
    assert not list(folder.rglob("*.part"))


def test_what_a_killed_process_had_written_is_finished_by_the_next(tmp_path: Path):
    kills(tmp_path, 2)


@pytest.mark.slow
def test_what_thirty_killed_processes_had_written_is_finished(tmp_path: Path):
    kills(tmp_path, 30)


def test_without_keyframes_a_segment_ends_all_the_same_and_it_is_told(tmp_path: Path):
    """A camera that refreshes its pictures bit by bit sends one keyframe a connection: a file without an end is never
    indexed, nor deleted, whatever may be kept.
    """
    write_clip(
        tmp_path / "one.mp4", texture(90, (48, 64)), 10, encoder={"g": "1000", "bf": "0", "sc_threshold": "0"}
    )
    told: list[tuple[str, dict]] = []
    recorder = Recorder("cam1", 10.0, "", lambda kind, **detail: told.append((kind, detail)))
    recorder.record_to(tmp_path)
    with av.open(str(tmp_path / "one.mp4")) as container:
        stream = container.streams.video[0]
        template = Template.of(stream, 10 * RATE)
        for i, packet in enumerate(one for one in container.demux(stream) if one.size):
            packet.time_base, packet.pts, packet.dts = TIME_BASE, 10 * i * RATE, 10 * i * RATE
            recorder.write(packet, template, 1_790_000_000.0 + 10 * i)
    assert recorder.close(20.0)
    assert [kind for kind, _ in told] == ["recording_resumed", "segment", "recording_stopped"]
    assert told[1][1]["end_utc_s"] - told[1][1]["start_utc_s"] == pytest.approx(600, abs=20)
    assert "keyframe" in told[2][1]["reason"]


@pytest.mark.parametrize(("codec", "name"), [("rawvideo", "raw.avi"), ("libvpx", "web.webm")])
def test_what_fits_no_segment_is_encoded(tmp_path: Path, codec: str, name: str):
    """Cheap USB cameras send raw pictures."""
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = 160, 96
        stream.pix_fmt = "yuyv422" if codec == "rawvideo" else "yuv420p"
        for image in texture(15, (96, 160)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    with recording(str(tmp_path / name), tmp_path / "rec") as capture:
        watch = Watch(capture)
        watch.until_told("ended")
    watch.take()
    assert not watch.told("recording_stopped")
    assert [report.detail["codec"] for report in watch.told("segment")] == ["h264"] * 2
    check(tmp_path / "rec", watch.told("segment"))
    assert sum(report.detail["frames"] for report in watch.told("segment")) == 15


def test_an_encoder_goes_with_its_connection():
    """Each stayed, with its threads and tens of megabytes, until Python's collector came by: a hundred connections later."""

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    (image,) = texture(1, (480, 640))
    gc.disable()
    try:
        before = threads()
        for _ in range(5):
            encoder = FrameEncoder(RATE // 10)
            assert list(encoder.encode(image, 0))
            del encoder
        deadline = time.monotonic() + 10
        while threads() > before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        gc.enable()


def test_a_disk_that_hangs_holds_up_no_frame_and_what_came_meanwhile_is_recorded(tmp_path: Path):
    if shutil.which("strace") is None:
        pytest.skip("no strace on this machine; apt-get install strace")
    with RtspServer(size=(320, 192)) as server:
        with recording(server.url, tmp_path / "rec") as capture:
            watch = Watch(capture)
            watch.until_told("segment")
            command = [
                "strace",
                *("-f", "-qq", "-o", "/dev/null", "-p", str(capture.pid)),
                *("-e", "trace=fsync", "-e", "inject=fsync:delay_enter=12s:when=1"),
            ]
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
                try:
                    watch.more_frames(5)
                    if strace.poll() is not None:
                        assert strace.stderr is not None
                        pytest.skip(f"no process may be traced here: {strace.stderr.read()}")
                    report = watch.until_told("recording_stopped", timeout_s=20)
                    watch.until_told("recording_resumed", 2, timeout_s=20)
                finally:
                    strace.terminate()
            watch.more_frames(15)
        watch.take()
    assert report.detail["reason"].startswith("the disk has taken nothing for 10 s")
    # Each frame was read in time, and is in a segment.
    received = [frame.received_ns / 1e9 for frame in watch.frames]
    assert max(after - before for before, after in pairwise(received)) < 2
    assert not watch.told("disconnected")
    numbers = check(tmp_path / "rec", watch.told("segment"))
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert len(numbers) > 120


def test_a_process_that_no_kill_ends_is_left_and_the_camera_read_anew(
    freezing_disk: Path,  # noqa: F811
    tmp_path: Path,
):
    clip = write_clip(tmp_path / "a.mp4", texture(50, (96, 160)), fps=10, encoder={"g": "10", "bf": "0"})
    capture = recording(str(clip), freezing_disk / "rec", loop=True)
    capture.start()
    watch = Watch(capture)
    try:
        watch.until_told("segment")
        freeze(freezing_disk)
        watch.more_frames(20)
        stuck = capture.pid
        ended: list[bool] = []
        stopping = threading.Thread(target=lambda: ended.append(capture.stop(1.0)), daemon=True)
        stopping.start()
        stopping.join(15)
        assert ended == [False]
        watch.take()
        capture.start()
        watch.more_frames(2)
        # Nor does Python wait for it when it ends itself.
        stuck_too = next(one for one in multiprocessing.active_children() if one.pid == stuck)
        stuck_too.join()
        assert stuck_too.is_alive()
    finally:
        thaw(freezing_disk)
        assert capture.stop()
    stuck_too.join()
    assert not stuck_too.is_alive()


def test_what_does_not_fit_beside_a_disk_that_hangs_is_left_out_and_told(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", texture(100, (96, 160)), fps=10, encoder={"g": "10", "bf": "0"})
    told: list[tuple[str, dict]] = []
    hangs, goes_on = threading.Event(), threading.Event()

    def report(kind: str, **detail: Any) -> None:
        told.append((kind, detail))
        if kind == "segment":
            hangs.set()
            assert goes_on.wait(20)

    def segments() -> list[dict]:
        return [detail for kind, detail in told if kind == "segment"]

    def write(first: int, last: int) -> None:
        for i, packet in enumerate(packets[first:last], first):
            packet.time_base, packet.pts, packet.dts = TIME_BASE, i * RATE // 10, i * RATE // 10
            recorder.write(packet, template, 1_790_000_000.0 + i / 10)

    with av.open(str(clip)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        template = Template.of(container.streams.video[0], RATE // 10)
    recorder = Recorder("cam1", 1.0, "", report, most_waiting=sum(one.size for one in packets[10:45]) + 1)
    recorder.record_to(tmp_path / "rec")
    write(0, 11)
    # The first segment is told with the packet after it, and that is as far as it gets.
    assert hangs.wait(20)
    write(11, 80)
    assert [kind for kind, _ in told] == ["recording_resumed", "segment", "recording_stopped"]
    assert "what comes now is not recorded" in told[-1][1]["reason"]
    goes_on.set()
    deadline = time.monotonic() + 20
    while sum(detail["frames"] for detail in segments()) < 45:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    write(80, 100)
    assert recorder.close(20)
    assert [round(detail["start_pts_s"], 1) for detail in segments()] == [0.0, 1.0, 2.0, 3.0, 4.0, 8.0, 9.0]
    assert [detail["frames"] for detail in segments()] == [10, 10, 10, 10, 5, 10, 10]
    assert [kind for kind, _ in told].count("recording_stopped") == 1
    # It goes on, as told, with what is recorded anew.
    again = len(told) - 1 - [kind for kind, _ in told][::-1].index("recording_resumed")
    assert told[again + 1][1]["start_pts_s"] == pytest.approx(8.0)
    for detail in segments():
        with av.open(str(tmp_path / "rec" / detail["path"])) as container:
            assert sum(1 for _ in container.decode(video=0)) == detail["frames"]


def test_a_clip_waits_for_what_is_still_in_memory_before_a_slow_disk(tmp_path: Path):
    """Between two segments there was none that was begun, and the clip was made without those to come."""
    clip = write_clip(tmp_path / "a.mp4", texture(50, (96, 160)), fps=10, encoder={"g": "10", "bf": "0"})
    begin, hangs, goes_on = 1_790_000_000.0, threading.Event(), threading.Event()
    with Store(tmp_path / "s") as store:

        def report(kind: str, **detail: Any) -> None:
            if kind == "segment":
                hangs.set()
                assert goes_on.wait(30)
                names = ("path", "start_utc_s", "end_utc_s", "start_pts_s", "bytes", "codec")
                store.add_segment("cam1", *(detail[name] for name in names))

        with av.open(str(clip)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
            template = Template.of(container.streams.video[0], RATE // 10)
        recorder = Recorder("cam1", 1.0, "", report)
        recorder.record_to(store.folder / "recording")
        for i, packet in enumerate(packets):
            packet.time_base, packet.pts, packet.dts = TIME_BASE, i * RATE // 10, i * RATE // 10
            recorder.write(packet, template, begin + i / 10)
        assert hangs.wait(20)
        event = store.start_event(
            camera="cam1", model="m", start_utc_s=begin + 2.2, start_pts_s=2.2, score=2.0, threshold=1.0,
            clip_state="pending",
        )  # fmt: skip
        store.end_event(event.id, begin + 2.6, 2.6)
        with ClipMaker(store, 0.5, 0.5, wait_s=0.2) as maker:
            maker.offer(event.id)
            time.sleep(2.5)
            waits = store.event(event.id)
            assert waits is not None
            assert waits.clip_state == "pending"
            goes_on.set()
            assert recorder.close(20)
            deadline = time.monotonic() + 60
            while (made := store.event(event.id)) and made.clip_state == "pending":
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert made is not None
        assert made.clip_state == "ready"
        assert made.clip_start_utc_s == pytest.approx(begin + 1.0, abs=0.05)
        assert made.clip_end_utc_s == pytest.approx(begin + 3.1, abs=0.15)


def test_a_part_that_does_not_play_is_removed(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", texture(20), fps=10, encoder={"g": "10"})
    part = tmp_path / "rec" / "cam1" / "20260101" / "000000.000.mp4.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"\0" * 1000)
    with recording(str(clip), tmp_path / "rec") as capture:
        watch = Watch(capture)
        watch.until_told("ended")
    watch.take()
    assert not part.exists()
    assert len(watch.told("segment")) == 2
    assert sum(report.detail["frames"] for report in watch.told("segment")) == 20


def test_a_part_that_was_finished_meanwhile_stops_no_recording(tmp_path: Path):
    """By the camera's process of a runner that was killed: it lives on for some seconds. Here a link that leads nowhere."""
    part = tmp_path / "rec" / "cam1" / "20260101" / "000000.000.mp4.part"
    part.parent.mkdir(parents=True)
    part.symlink_to(tmp_path / "gone")
    clip = write_clip(tmp_path / "a.mp4", texture(20), fps=10, encoder={"g": "10"})
    with recording(str(clip), tmp_path / "rec") as capture:
        watch = Watch(capture)
        watch.until_told("ended")
    watch.take()
    assert not watch.told("recording_stopped")
    assert sum(report.detail["frames"] for report in watch.told("segment")) == 20


def test_a_part_that_cannot_be_opened_now_is_kept(tmp_path: Path):
    """As where all descriptors are taken: it holds footage that is nowhere else."""
    clip = write_clip(tmp_path / "a.mp4", texture(20), fps=10, encoder={"g": "10"})
    with recording(str(clip), tmp_path / "rec") as capture:
        watch = Watch(capture)
        watch.until_told("ended")
    segment = next((tmp_path / "rec").rglob("*.mp4"))
    part = segment.rename(segment.with_name(segment.name + ".part"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            adopt(part, tmp_path / "rec")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    told = adopt(part, tmp_path / "rec")
    assert told is not None
    assert told["frames"] > 0
    assert segment.exists()


def test_a_folder_that_could_not_be_looked_through_is_recorded_to_all_the_same(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", texture(300, (96, 160)), fps=10, encoder={"g": "10"})
    folder = tmp_path / "recording"
    (folder / "cam1").mkdir(parents=True)
    with recording(str(clip), None, loop=True, segment_s=1.0) as capture:
        watch = Watch(capture)
        watch.more_frames(1)
        assert capture.pid is not None
        limits = resource.prlimit(capture.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(capture.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        capture.record_to(folder)
        report = watch.until_told("recording_stopped")
        assert "Too many open files" in report.detail["reason"]
        resource.prlimit(capture.pid, resource.RLIMIT_NOFILE, limits)
        watch.until_told("segment", timeout_s=30)
        watch.until_told("recording_resumed")


def test_a_disk_that_still_fails_is_told_again_after_recording_was_switched_off(tmp_path: Path):
    """Switched off, it is no trouble any more; on again, nobody would hear that nothing is recorded."""
    clip = write_clip(tmp_path / "a.mp4", texture(30, (96, 160)), fps=10, encoder={"g": "10"})
    # No folder can be made below a file.
    folder = tmp_path / "recording"
    folder.write_text("")
    with recording(str(clip), folder, loop=True) as capture:
        watch = Watch(capture)
        watch.until_told("recording_stopped")
        capture.record_to(None)
        watch.more_frames(5)
        capture.record_to(folder)
        watch.until_told("recording_stopped", 2)


def test_a_full_disk_stops_the_recording_and_not_the_frames(tmp_path: Path):
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small disk here; run as root")
    try:
        clip = write_clip(
            tmp_path / "a.mp4", texture(100, (192, 320)), fps=20, encoder={"g": "10", "crf": "1"}
        )
        with recording(str(clip), place, loop=True, fps=20) as capture:
            watch = Watch(capture)
            report = watch.until_told("recording_stopped")
            assert report.detail["reason"] == "segments cannot be written (No space left on device)"
            assert len(watch.more_frames(20)) == 20
            assert not list(place.rglob("*.part"))
            for path in place.rglob("*.mp4"):
                path.unlink()
            watch.until_told("recording_resumed", timeout_s=20)
            assert len(watch.told("recording_stopped")) >= 1
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_segment_is_synced_before_it_has_its_name_and_told_after(tmp_path: Path):
    if shutil.which("strace") is None:
        pytest.skip("no strace on this machine; apt-get install strace")
    clip = write_clip(tmp_path / "a.mp4", texture(20), fps=20, encoder={"g": "20"})
    (tmp_path / "record.py").write_text(
        "from pathlib import Path\n"
        "from anomaly.edge.address import parse_address\n"
        "from anomaly.edge.capture import Capture, CaptureSettings\n"
        "if __name__ == '__main__':\n"
        f"    folder = Path({str(tmp_path / 'rec')!r})\n"
        f"    capture = Capture(CaptureSettings('a', parse_address({str(clip)!r}), recording=folder))\n"
        "    with capture:\n"
        "        import time\n"
        "        while not any(one.kind == 'segment' for one in capture.reports()): time.sleep(0.05)\n"
    )
    log = tmp_path / "trace"
    trace = ["strace", "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2,write", "-s", "400"]
    subprocess.run(
        [*trace, "-o", str(log), sys.executable, str(tmp_path / "record.py")],
        check=True,
        timeout=120,
    )
    steps = []
    for line in log.read_text().splitlines():
        if "fsync(" in line and ".mp4.part>" in line:
            steps.append("fsync file")
        elif "rename" in line and ".mp4.part" in line:
            steps.append("rename")
        elif "fsync(" in line and "/rec/a/2" in line and ".mp4" not in line:
            steps.append("fsync folder")
        elif "write(" in line and '\\"kind\\": \\"segment\\"' in line:
            steps.append("told")
    assert steps == ["fsync file", "rename", "fsync folder", "told"]
