"""`anomaly record`: files that play and that `fit` reads, from a real camera that goes and comes back."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from pathlib import Path

import av
import pytest
from clips import texture, write_clip
from rtsp_server import RtspServer, number_in
from small_model import FIT, invoke, start, succeed

from anomaly.edge.session import gaps_between
from anomaly.edge.store import Store
from anomaly.footage.source import find_sources, read_frames


def recorded(out: Path) -> list[Path]:
    return sorted((out / "camera").rglob("*.mp4"))


def wait_for(condition: object, seconds: float = 20.0) -> None:
    """Poll a callable until it is true."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("spans", "gaps"),
    [
        ([], [(0, 100)]),
        ([(0.5, 100)], []),
        ([(0, 40), (45, 99.5)], [(40, 45)]),
        ([(45, 70), (0, 50), (10, 20)], [(70, 100)]),
    ],
)
def test_gaps_are_what_no_segment_covers(spans: list[tuple[float, float]], gaps: list[tuple[float, float]]):
    assert gaps_between(spans, 0, 100) == gaps


def test_ctrl_c_leaves_whole_files_that_fit_learns_from(tmp_path: Path):
    """And a camera that was away in between is told as a gap."""
    out = tmp_path / "footage"
    with RtspServer(keyframe_every=5) as server:
        child = start(
            "record", "--source", server.url, "--out", out, "--hours", 1, "record.segment_s=2", "record.look_s=1",
            cwd=tmp_path,
        )  # fmt: skip
        wait_for(lambda: len(recorded(out)) >= 2, 60)
        server.kill()
        time.sleep(3)  # the pause itself is what is recorded
        before = len(recorded(out))
        server.start()
        wait_for(lambda: len(recorded(out)) > before + 1, 60)
        child.send_signal(signal.SIGINT)
        said, problems = child.communicate(timeout=60)
    assert child.returncode == 0, problems
    assert "1 h take about" in said
    assert "Not recorded: 0:0" in said
    assert f"--normal-videos {out}/camera" in said
    assert "connection lost" in problems
    assert not list(out.rglob("*.part"))
    files = recorded(out)
    numbers = []
    for file in files:
        (source,) = find_sources([file])
        frames = list(read_frames(source))
        times = [frame.pts_s for frame in frames]
        assert all(b > a for a, b in itertools.pairwise(times))
        numbers += [number_in(frame.image) for frame in frames]
        with av.open(str(file)) as video:
            assert not video.streams.audio
    assert len(numbers) >= 40
    # Nothing twice and nothing lost inside a connection; the server's restart counts from zero.
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    assert sum(step != 1 for step in steps) == 1
    model = tmp_path / "model"
    succeed("fit", "--normal-videos", out / "camera", "--model", model, *FIT, "bank.size=200")
    assert (model / "model.json").is_file()


def test_a_file_is_recorded_at_its_own_speed_and_to_its_end(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", texture(30), fps=10, encoder={"g": "10", "bf": "0"})
    began = time.monotonic()
    said = succeed(
        "record", "--source", clip, "--out", tmp_path / "out", "--hours", 1, "record.segment_s=1",
        "record.black=[[[0,0],[0.5,0],[0.5,1],[0,1]]]",
    )  # fmt: skip
    assert time.monotonic() - began > 2.5
    assert "30 pictures" in said
    files = recorded(tmp_path / "out")
    assert len(files) == 3
    # What is masked never reaches the disk.
    frames = [frame.image for file in files for frame in read_frames(*find_sources([file]))]
    assert len(frames) == 30
    width = frames[0].shape[1]
    assert all(image[:, : width // 2 - 4].max() < 40 < image[:, width // 2 + 4 :].max() for image in frames)


def test_what_does_not_fit_on_the_disk_is_refused_unless_told(tmp_path: Path):
    with RtspServer() as server:
        arguments = ["record", "--source", server.url, "--out", tmp_path / "out", "record.look_s=1"]
        done = invoke(*arguments, "--hours", 1e9)
        assert done.status == 1
        assert "lower --hours" in done.message
        assert not recorded(tmp_path / "out")
        stop = threading.Timer(6, os.kill, (os.getpid(), signal.SIGTERM))
        stop.start()
        done = invoke(*arguments, "--hours", 1e9, "record.force=true")
        stop.cancel()
    assert done.status == 0, done.err
    assert recorded(tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--source", "absent.mp4"], 1, "absent.mp4"),
        (["--source", "rtsp://127.0.0.1:9/x"], 1, "127.0.0.1:9"),
        (["--source", "a.mp4", "record.camera=../x"], 2, "record.camera"),
        (["--source", "a.mp4", "--hours", "0"], 2, "hours=0"),
        (["--source", "a.mp4", "record.black=[[0,1]]"], 2, "record.black is no list of polygons"),
    ],
)
def test_what_cannot_be_recorded_is_one_line(arguments: list[str], status: int, says: str, tmp_path: Path):
    done = invoke("record", "--out", tmp_path / "out", *arguments)
    assert done.status == status
    assert says in done.message


def test_one_recording_at_a_time_into_a_folder(tmp_path: Path):
    """The second took over the file that the first was writing: of eight hours "nothing was recorded"."""
    clip = write_clip(tmp_path / "a.mp4", texture(100), fps=10, encoder={"g": "10", "bf": "0"})
    out = tmp_path / "out"
    first = start("record", "--source", clip, "--out", out, "record.segment_s=2", cwd=tmp_path)
    wait_for(lambda: list(out.rglob("*.part")), 60)
    done = invoke("record", "--source", clip, "--out", out)
    assert done.status == 2
    assert "record.camera=NAME" in done.message
    said, problems = first.communicate(timeout=60)
    assert first.returncode == 0, problems
    assert "100 pictures" in said


def test_footage_for_fit_is_not_laid_where_run_deletes(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", texture(5), fps=10)
    with Store(tmp_path / "store"):
        done = invoke("record", "--source", clip, "--out", tmp_path / "store" / "recording")
    assert done.status == 2
    assert "give another folder" in done.message
