from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest
from capture_watch import Watch
from clips import number_of, numbered, texture, write_clip
from rtsp_server import RtspServer, number_in

from anomaly.edge.address import Address, parse_address
from anomaly.edge.capture import Capture, CaptureSettings, process
from anomaly.edge.capture.shared import NewestFrame
from anomaly.edge.capture.timing import STANDS_STILL
from anomaly.edge.segment_name import mark_of, mask_mark, start_of
from anomaly.errors import SourceError

CANARY = "canary-90417"


@contextmanager
def watched(text: str, **options: Any) -> Iterator[Watch]:
    capture = Capture(CaptureSettings("cam1", parse_address(text), **options))
    capture.start()
    watch = Watch(capture)
    try:
        yield watch
    finally:
        capture.stop()
        watch.take()
        counts = capture.counts()
        waiting = counts.captured - counts.taken - counts.dropped
        assert waiting in (0, 1)
        assert counts.taken == len(watch.frames)
        assert counts.decoded >= counts.captured


def decoded(file: Path) -> list[Any]:
    with av.open(str(file)) as video:
        return list(video.decode(video=0))


def settle(watch: Watch) -> None:
    """Frames that piled up while libav looked at the stream are over."""
    watch.more_frames(8)


@pytest.mark.parametrize(
    "options",
    [
        {"b_frames": 2},
        {"slices": 4},
        {"codec": "h265"},
        {"codec": "mjpeg", "size": (320, 240)},
        {"keyframe_every": 100},
    ],
    ids=["b-frames", "slices", "h265", "mjpeg", "10 s to a keyframe"],
)
def test_frames_come_in_order_with_their_times(options: dict):
    with RtspServer(**{"size": (320, 192), **options}) as server, watched(server.url, fps=None) as watch:
        settle(watch)
        frames = watch.more_frames(10)
        numbers = [number_in(frame.image) for frame in frames]
        assert numbers == list(range(numbers[0], numbers[0] + 10))
        assert np.diff([frame.pts_s for frame in frames]) == pytest.approx([0.1] * 9, abs=1e-3)
        offsets = [frame.pts_s - frame.utc_s for frame in frames]
        # An encoder that reorders sends several frames at once.
        assert max(offsets) - min(offsets) < (0.5 if options.get("b_frames") else 0.1)
        assert {(frame.source, frame.camera) for frame in frames} == {("cam1", "cam1")}
        assert all(0 <= time.monotonic_ns() - frame.received_ns < 5e9 for frame in frames)
        detail = watch.told("connected")[0].detail
        assert (detail["width"], detail["height"]) == server.options["size"]
        assert detail["rate"] == pytest.approx(10)


def test_the_clock_of_rtp_runs_over_and_time_goes_on():
    # 32 bits at 90 kHz: 1.5 s are left.
    with (
        RtspServer(size=(320, 192), rtp_start=(1 << 32) - 135_000) as server,
        watched(server.url, fps=None) as watch,
    ):
        settle(watch)
        frames = watch.more_frames(20)
        assert np.diff([frame.pts_s for frame in frames]) == pytest.approx([0.1] * 19, abs=1e-3)
        assert not watch.told("timing")
        assert number_in(frames[-1].image) > 20


def test_a_camera_that_is_killed_is_found_again_and_time_goes_on():
    with RtspServer(size=(320, 192)) as server, watched(server.url) as watch:
        settle(watch)
        server.kill()
        lost = watch.until_told("disconnected")
        last = watch.frames[-1]
        time.sleep(1.0)
        server.start()
        back = time.monotonic()
        watch.until_told("connected", 2)
        frame = watch.more_frames(1)[0]
        assert time.monotonic() - back < 4
        assert lost.detail["reason"]
        assert frame.pts_s - last.pts_s > 1.0
        passed_s = (frame.received_ns - last.received_ns) / 1e9
        assert frame.pts_s - last.pts_s == pytest.approx(passed_s, abs=1.0)
        assert all(later.pts_s > earlier.pts_s for earlier, later in pairwise(watch.frames))
        # While it was away it was told once a reason, not once a try.
        assert len(watch.told("disconnected")) <= 3


def test_a_stalled_camera_is_lost_after_the_time_out_and_its_return_seen():
    with RtspServer(size=(320, 192)) as server, watched(server.url, read_timeout_s=1.0) as watch:
        settle(watch)
        server.pause()
        since = time.monotonic()
        report = watch.until_told("disconnected")
        assert 0.8 < report.at_ns / 1e9 - since < 2.0
        assert report.detail["reason"] == "nothing came for 1 s"
        server.resume()
        watch.until_told("connected", 2)
        watch.more_frames(2)


def test_another_size_in_mid_stream_and_after_a_restart_is_told():
    with RtspServer(size=(320, 192)) as server, watched(server.url) as watch:
        settle(watch)
        server.change_size(256, 128)
        report = watch.until_told("changed")
        assert (report.detail["before"]["width"], report.detail["after"]["width"]) == (320, 256)
        assert watch.more_frames(2)[-1].image.shape == (128, 256, 3)
        server.restart(codec="h265")
        report = watch.until_told("changed", 2)
        assert (report.detail["before"]["codec"], report.detail["after"]["codec"]) == ("h264", "hevc")


def test_a_killed_process_is_started_again_and_counts_hold():
    with RtspServer(size=(320, 192)) as server, watched(server.url) as watch:
        for count in (1, 2, 3):
            watch.more_frames(3)
            pid = watch.capture.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert watch.until_told("crashed", count).detail == {"exit": -9}
        watch.more_frames(3)
        assert all(later.pts_s > earlier.pts_s for earlier, later in pairwise(watch.frames))
        assert not watch.told("changed")


def test_a_process_that_ends_unasked_is_started_again_however_well_it_ended(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", texture(5), fps=10)
    with watched(str(clip), loop=True) as watch:
        watch.more_frames(2)
        pid = watch.capture.pid
        # For the process it looks as if its parent had gone.
        watch.capture._end_life()
        assert watch.until_told("crashed").detail == {"exit": 0}
        watch.more_frames(2)
        assert watch.capture.pid not in (None, pid)


def test_a_camera_outlives_a_machine_that_has_no_descriptors_for_a_while(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", texture(5), fps=10)
    with watched(str(clip), loop=True) as watch:
        watch.more_frames(1)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            os.kill(watch.capture.pid, signal.SIGKILL)
            report = watch.until_told("crashed", 3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert "its process could not be run" in report.detail["reason"]
        assert "Too many open files" in report.detail["reason"]
        watch.more_frames(3)


def test_signals_for_the_parent_do_not_end_the_process():
    with RtspServer(size=(320, 192)) as server, watched(server.url) as watch:
        watch.more_frames(1)
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(watch.capture.pid, one)
        watch.more_frames(5)
        assert not watch.told("crashed")


def test_a_wrong_password_is_tried_three_times_then_held(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAM_PASSWORD", "wrong-" + CANARY)
    with (
        RtspServer(size=(320, 192), password="right") as server,
        watched(
            f"rtsp://user:${{env:CAM_PASSWORD}}@127.0.0.1:{server.port}/live", refused_wait_s=0.3
        ) as watch,
    ):
        report = watch.until_told("held")
        assert [one.detail["status"] for one in watch.told("refused")] == [401, 401, 401]
        times = [one.at_ns / 1e9 for one in watch.told("refused")]
        assert min(np.diff(times)) >= 0.3
        assert "status 401" in report.detail["reason"]
        assert CANARY not in repr(watch.reports)
        # Nor does a process that dies, and is started again, try any more.
        os.kill(watch.capture.pid, signal.SIGKILL)
        watch.until_told("held", 2)
        time.sleep(0.7)
        watch.take()
        assert len(watch.told("refused")) == 3
        monkeypatch.setenv("CAM_PASSWORD", "right")
        watch.capture.stop()
        watch.capture.start()
        watch.more_frames(2)


def test_a_password_shows_nowhere(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setenv("CAM_PASSWORD", CANARY)
    with RtspServer(size=(320, 192), password=CANARY) as server:
        address = f"rtsp://user:${{env:CAM_PASSWORD}}@127.0.0.1:{server.port}/live"
        with watched(address) as watch:
            watch.more_frames(2)
            pid = watch.capture.pid
            assert CANARY not in Path(f"/proc/{pid}/cmdline").read_text()
            server.kill()
            watch.until_told("disconnected", 2)
            assert CANARY not in repr(watch.reports) + repr(watch.capture.settings)
    said = capfd.readouterr()
    assert CANARY not in said.out + said.err


def test_the_process_ends_when_its_parent_is_killed(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", texture(100), fps=10)
    script = (
        "import sys, time\n"
        "from anomaly.edge.address import parse_address\n"
        "from anomaly.edge.capture import Capture, CaptureSettings\n"
        "if __name__ == '__main__':\n"
        f"    capture = Capture(CaptureSettings('a', parse_address({str(clip)!r}), loop=True))\n"
        "    capture.start()\n"
        "    while capture.newest() is None: time.sleep(0.02)\n"
        "    print(capture.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    (tmp_path / "parent.py").write_text(script)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _runs(child):
        assert time.monotonic() < deadline, "the process outlived its parent"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_file_plays_at_its_own_speed_and_ends(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", numbered(20), fps=20)
    with watched(str(clip), fps=None) as watch:
        watch.until_told("ended")
        watch.take()
        times = [frame.received_ns / 1e9 for frame in watch.frames]
        assert times[-1] - times[0] == pytest.approx(0.95, abs=0.25)
        assert [number_of(frame.image) for frame in watch.frames][-1] == 19
        assert watch.capture.counts().captured == 20


def test_a_looped_file_goes_on_and_sampling_holds(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", numbered(20), fps=20)
    with watched(str(clip), fps=5, loop=True) as watch:
        frames = watch.more_frames(12)
        assert np.diff([frame.pts_s for frame in frames]).mean() == pytest.approx(0.2, abs=0.03)
        assert not watch.told("disconnected")
        assert watch.capture.counts().decoded > 3 * len(frames)


def test_a_looped_file_of_one_frame_plays_at_its_own_speed(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", numbered(1), fps=10)
    with watched(str(clip), fps=None, loop=True) as watch:
        watch.more_frames(1)
        before, began = watch.capture.counts().decoded, time.monotonic()
        time.sleep(2.0)
        played, seconds = watch.capture.counts().decoded - before, time.monotonic() - began
        assert 0.3 * 10 * seconds < played < 1.2 * 10 * seconds


def test_a_looped_file_without_a_frame_that_can_be_decoded_is_told_and_tried_now_and_then(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", texture(20), fps=20, encoder={"g": "20"})
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as video:
        for packet in video.demux(video=0):
            if packet.size:
                data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    clip.write_bytes(data)
    with watched(str(clip), loop=True) as watch:
        report = watch.until_told("disconnected")
        assert "no picture" in report.detail["reason"]
        pid = watch.capture.pid
        assert pid is not None
        before = processor_s(pid)
        time.sleep(3.0)
        assert processor_s(pid) - before < 0.9
        assert len(watch.told("disconnected")) == 1


def processor_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_frames_that_nobody_takes_are_dropped_and_counted(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", numbered(30), fps=30)
    with watched(str(clip), fps=None) as watch:
        watch.until(lambda: watch.capture.counts().captured >= 1)
        deadline = time.monotonic() + 10
        while watch.capture.counts().captured < 30:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        watch.until_told("ended")
        counts = watch.capture.counts()
        assert (counts.captured, counts.taken + counts.dropped) == (30, 30)
        assert counts.dropped >= 20
        assert number_of(watch.frames[-1].image) == 29


def test_privacy_masks_are_black_before_anyone_sees_the_frame(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", [np.full((64, 96, 3), 200, np.uint8)] * 10, fps=10)
    corner = ((0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.0, 0.5))
    recorded = tmp_path / "recorded"
    with watched(str(clip), black=(corner,), fps=2, recording=recorded, segment_s=0.5) as watch:
        image = watch.more_frames(1)[0].image
        assert image[:32, :48].max() == 0
        assert image[34:, :].min() > 150
        assert image[:, 50:].min() > 150
        watch.until_told("ended")
        told = watch.told("segment")
    # Nor are they on the disk, in any frame of any file.
    files = sorted(recorded.rglob("*.mp4"))
    images = [frame.to_ndarray(format="rgb24") for file in files for frame in decoded(file)]
    assert (len(told), len(files), len(images)) == (1, 1, 10)
    assert told[0].detail["codec"] == "h264"
    # The file says under which masks it was painted, whatever becomes of the store.
    assert (mark_of(files[0]), start_of(files[0])) == (
        mask_mark((corner,)),
        pytest.approx(told[0].utc_s, abs=60),
    )
    for image in images:
        assert image[:30, :46].max() < 30
        assert image[36:, :].min() > 150


@pytest.mark.parametrize("text", ["/dev/video97", "absent.mp4", "http://127.0.0.1:9/video"])
def test_what_is_not_there_is_told_in_one_line(text: str):
    with watched(text) as watch:
        reason = watch.until_told("disconnected").detail["reason"]
        assert reason
        assert "\n" not in reason


def test_frames_that_are_too_large_are_not_decoded(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", texture(5), fps=10)
    with watched(str(clip), max_pixels=1000) as watch:
        reason = watch.until_told("disconnected").detail["reason"]
        assert "128 x 96 pixels, more than the 1000" in reason


def test_cameras_that_come_and_go_leave_no_descriptors(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", texture(5), fps=10)
    open_files = []
    for _ in range(3):
        with watched(str(clip), loop=True) as watch:
            watch.more_frames(1)
        del watch
        gc.collect()
        open_files.append(len(os.listdir("/proc/self/fd")))
    assert open_files[0] == open_files[2]


def test_a_capture_is_started_once(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", texture(5), fps=10)
    with (
        watched(str(clip), loop=True) as watch,
        pytest.raises(SourceError, match="cam1 is being read already"),
    ):
        watch.capture.start()


class _Camera(BaseHTTPRequestHandler):
    """An HTTP camera: /video is motion JPEG, /status/N refuses, the rest tries to lead astray."""

    protocol_version = "HTTP/1.0"
    opened: list[str] = []  # noqa: RUF012
    #: When each picture was sent last, by its number.
    sent: dict[int, float] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        self.opened.append(self.path)
        if self.path.startswith("/status/"):
            self.send_error(int(self.path.rpartition("/")[2]))
            return
        astray = {
            "/list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:0.5,\n/secret.ts\n#EXT-X-ENDLIST\n",
            "/list.ffconcat": "ffconcat version 1.0\nfile /secret.ts\n",
            "/garbage": "\x00garbage" * 5000,
        }
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "/secret.ts")
            self.end_headers()
            return
        if self.path in astray:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(astray[self.path].encode())
            return
        if self.path == "/snapshot.jpg":
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.end_headers()
            self.wfile.write(cv2.imencode(".jpg", next(iter(numbered(1))))[1].tobytes())
            return
        if self.path not in ("/video", "/flips"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            for i, image in enumerate(numbered(200, (128, 192))):
                rows = 64 if self.path == "/flips" and i % 2 else 128
                data = cv2.imencode(".jpg", image[:rows])[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.sent[i] = time.monotonic()
                self.wfile.write(head.encode() + data + b"\r\n")
                time.sleep(0.05)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def http_camera() -> Iterator[str]:
    _Camera.opened.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Camera)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_http_camera_is_timed_by_arrival(http_camera: str):
    with watched(http_camera + "/video", fps=None) as watch:
        settle(watch)
        frames = watch.more_frames(20)
        numbers = [number_of(frame.image) for frame in frames]
        assert numbers == sorted(numbers)
        # Not every 0.05 s: a busy machine sends them later.
        sent = [_Camera.sent[number] for number in numbers]
        assert frames[-1].pts_s - frames[0].pts_s == pytest.approx(sent[-1] - sent[0], rel=0.3)
        assert watch.told("connected")[0].detail["codec"] == "mjpeg"


def test_a_camera_whose_size_changes_with_every_frame_is_told_now_and_then(http_camera: str):
    """Each word of a camera is a row, and messages: a fault that returns with every frame must not fill the disk."""
    with watched(http_camera + "/flips", fps=None) as watch:
        watch.more_frames(40)
        assert 1 <= len(watch.told("changed")) <= 2
        # What was told last is what the next one is compared with.
        told = watch.until_told("changed", 2)
        assert told.detail["before"] == watch.told("changed")[0].detail["after"]


def test_timestamps_that_jump_with_every_frame_are_told_now_and_then(tmp_path: Path):
    path = tmp_path / "jumps.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for i, image in enumerate(numbered(40, (48, 64))):
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = 200 * i, Fraction(1, 10)
            out.mux(stream.encode(frame))
    with watched(str(path), fps=None) as watch:
        watch.until_told("ended")
        assert watch.capture.counts().decoded == 40
        assert len(watch.told("timing")) == 1


def test_a_time_that_stands_still_after_a_jump_is_told_too():
    """Told once a connection: held back for a minute, it was never told."""
    camera, told = in_this_process(parse_address("rtsp://127.0.0.1:9/x"))
    for note in ("it jumped by 3 s", "it jumped by 4 s", STANDS_STILL):
        camera._tell_odd_time(note)
    assert [one["detail"]["reason"] for one in told()] == ["it jumped by 3 s", STANDS_STILL]


@pytest.mark.parametrize("pictured", [False, True], ids=["joined between keyframes", "after pictures"])
def test_a_first_keyframe_is_waited_for_and_the_wait_is_told(pictured: bool, monkeypatch: pytest.MonkeyPatch):
    """A camera with a keyframe a minute was left every thirty seconds, and joined between two again."""
    for name, value in (("_NO_PICTURE_S", 0.5), ("_NO_FIRST_PICTURE_S", 1.5), ("_TELL_OF_WAIT_S", 0.2)):
        monkeypatch.setattr(process, name, value)
    camera, told = in_this_process(parse_address("rtsp://127.0.0.1:9/x"))
    stream = av.open(os.devnull, "w", format="mp4").add_stream("libx264", rate=10)
    source: Any = SimpleNamespace(stream=stream, timed=False, period=9000)

    def packets(_: Any) -> Iterator[av.Packet]:
        for _ in range(200):
            time.sleep(0.02)
            yield av.Packet()

    frames = iter([[object()]] if pictured else [])

    def frame(*_: Any) -> None:
        camera._connected = True

    monkeypatch.setattr(process, "_decoded", lambda packet: next(frames, []))
    monkeypatch.setattr(process, "_orientation", lambda *_: 1)
    monkeypatch.setattr(camera, "_packets", packets)
    monkeypatch.setattr(camera, "_frame", frame)
    began = time.monotonic()
    with pytest.raises(process.Lost, match=r"0\.5 s" if pictured else r"1\.5 s"):
        camera._read(source)
    assert time.monotonic() - began >= (0.5 if pictured else 1.5)
    waits = [one["detail"]["reason"] for one in told() if one["kind"] == "disconnected"]
    assert len(waits) == (0 if pictured else 1)
    assert all("keyframe is waited for" in one for one in waits)


def in_this_process(address: Address) -> tuple[process._Camera, Callable[[], list[dict[str, Any]]]]:
    """What runs in a camera's process, here, and what it told."""
    read, write = Pipe(duplex=False)
    settings = CaptureSettings("cam1", address)
    camera = process._Camera(settings, NewestFrame(64 * 64), write, write, time.monotonic_ns(), None, 0)

    def told() -> list[dict[str, Any]]:
        found = []
        while read.poll():
            found.append(json.loads(read.recv_bytes()))
        return found

    return camera, told


def test_an_http_cameras_times_are_those_of_arrival_and_not_rounded_to_libavs_clock(http_camera: str):
    with watched(http_camera + "/video", fps=None) as watch:
        frames = watch.more_frames(20)
        # Libav counts the time of motion JPEG in steps of 40 ms, at which every other frame of a sampling was lost.
        apart = np.array([frame.pts_s - frame.received_ns / 1e9 for frame in frames])
        assert np.ptp(apart) < 0.002


def test_a_camera_that_takes_the_connection_and_says_nothing_is_told_as_that():
    """Not as one that sends invalid data, which its cable or its settings would be blamed for."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for kind in ("rtsp", "http"):
            at = f"{kind}://127.0.0.1:{silent.getsockname()[1]}/live"
            with watched(at, open_timeout_s=1.0) as watch:
                reason = watch.until_told("disconnected").detail["reason"]
                assert reason == "it gave no answer of use for 1 s"


def test_a_page_in_place_of_a_camera_leads_nowhere_else(http_camera: str):
    for path in ("/list.m3u8", "/list.ffconcat", "/garbage", "/elsewhere", "/snapshot.jpg"):
        with watched(http_camera + path) as watch:
            reason = watch.until_told("disconnected").detail["reason"]
            assert "open it in a browser" in reason
    assert "/secret.ts" not in _Camera.opened
    with watched(http_camera + "/status/403", refused_wait_s=0.1) as watch:
        watch.until_told("held")
        assert {report.detail["status"] for report in watch.told("refused")} == {403}


def test_a_camera_spoken_to_through_tls_must_prove_who_it_is(tmp_path: Path):
    if shutil.which("openssl") is None:
        pytest.skip("apt-get install openssl")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "camera.pem", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "camera.pem", tmp_path / "key.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Camera)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    _Camera.opened.clear()
    at = f"https://localhost:{server.server_port}/video"
    try:
        # A certificate that nobody vouches for; then one for another name.
        for refused in (at, at.replace("localhost", "127.0.0.1") + f"#ca={tmp_path / 'camera.pem'}"):
            with watched(refused) as watch:
                assert "certificate" in watch.until_told("disconnected").detail["reason"]
        assert not _Camera.opened
        for accepted in (f"{at}#ca={tmp_path / 'camera.pem'}", f"{at}#unverified"):
            with watched(accepted) as watch:
                watch.more_frames(2)
        with watched(f"{at}#ca=/nowhere.pem") as watch:
            assert "/nowhere.pem cannot be read" in watch.until_told("disconnected").detail["reason"]
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_talks_rubbish_is_tried_for_ever():
    listener = socket.create_server(("127.0.0.1", 0))
    calls: list[int] = []

    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            calls.append(1)
            with connection:
                connection.sendall(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n" + os.urandom(50_000))

    threading.Thread(target=answer, daemon=True).start()
    with watched(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/x", open_timeout_s=1.0) as watch:
        watch.until(lambda: len(calls) >= 3)
        assert not watch.told("crashed")
        assert not watch.told("connected")
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
