"""`anomaly check SOURCE` on files and on a real RTSP server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from clips import texture, write_clip
from rtsp_server import RtspServer
from small_model import invoke


def check(folder: Path, source: object, *arguments: object) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Run it; the figures, the findings by their name, what was printed."""
    path = folder / "found.json"
    done = invoke("check", source, "--json", path, *arguments)
    assert done.status == 0, done.err
    figures = json.loads(path.read_text())
    return figures, {one["name"]: one for one in figures["findings"]}, done.out


def test_a_good_file_is_fit_to_be_watched(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", texture(60), fps=10, encoder={"bf": "0", "g": "10"})
    figures, findings, out = check(tmp_path, clip, "--shortest", 1)
    assert figures["verdict"] == "fit to be watched"
    assert f"Verdict: {figures['verdict']}." in out
    assert (figures["codec"], figures["width"], figures["height"]) == ("h264", 128, 96)
    assert figures["rate"] == pytest.approx(10, rel=1e-3)
    assert figures["keyframe_spacing_s"] == pytest.approx(1.0, abs=0.01)
    assert figures["b_frames"] is False
    assert figures["needed_rate"] == pytest.approx(3)
    assert {one["level"] for one in findings.values()} == {"good"}


def test_b_frames_and_sparse_keyframes_are_told(tmp_path: Path):
    clip = write_clip(
        tmp_path / "a.mp4", texture(80), fps=10, encoder={"bf": "3", "g": "40", "b_strategy": "0"}
    )
    figures, _, _ = check(tmp_path, clip)
    assert figures["b_frames"] is True
    assert figures["reorder_frames"] >= 1
    assert figures["keyframe_spacing_s"] == pytest.approx(4.0, abs=0.01)
    assert figures["jitter_s"] == pytest.approx(0, abs=0.002)


def test_a_rate_too_low_for_the_shortest_anomaly_is_not_fit(tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", texture(30), fps=5)
    figures, findings, out = check(tmp_path, clip, "--shortest", 0.4)
    assert figures["needed_rate"] == pytest.approx(7.5)
    assert findings["sampling"]["level"] == "bad"
    assert "set it to 8 or more" in findings["sampling"]["advice"]
    assert "not fit yet: set right sampling" in out
    # The camera would do, what is scored of it would not.
    fast = write_clip(tmp_path / "b.mp4", texture(60), fps=30)
    _, findings, _ = check(tmp_path, fast, "--shortest", 0.2, "decider.smoothing_s=0.1")
    assert "footage.fps=15" in findings["sampling"]["advice"]
    _, findings, _ = check(tmp_path, fast, "--shortest", 0.2, "decider.min_duration_s=0.5")
    assert "no rate catches" in findings["sampling"]["value"]


def test_a_picture_that_does_not_change_is_called_frozen(tmp_path: Path):
    one = next(iter(texture(1)))
    clip = write_clip(tmp_path / "a.mp4", [one] * 60, fps=10, encoder={"bf": "0"})
    figures, findings, _ = check(tmp_path, clip)
    assert findings["frozen"]["level"] == "bad"
    assert figures["longest_still_s"] > 3


def test_a_dark_and_a_white_picture_are_told(tmp_path: Path):
    dark = write_clip(tmp_path / "dark.mp4", (image // 8 for image in texture(20)), fps=10)
    white = write_clip(tmp_path / "white.mp4", (image // 20 + 243 for image in texture(20)), fps=10)
    assert check(tmp_path, dark)[1]["exposure"]["advice"].startswith("too dark")
    assert check(tmp_path, white)[0]["over_exposed_share"] > 0.05


def test_missing_pictures_are_counted(tmp_path: Path):
    times = [i / 10 for i in range(60) if i not in {20, 21, 22}]
    clip = write_clip(tmp_path / "a.mkv", texture(len(times)), times=times)
    figures, findings, _ = check(tmp_path, clip)
    assert figures["holes"] == 1
    assert figures["longest_step_s"] == pytest.approx(0.4, abs=0.005)
    assert findings["rate"]["level"] == "note"


@pytest.mark.parametrize(
    ("source", "status", "says"),
    [
        ("absent.mp4", 1, "absent.mp4"),
        ("ftp://host/x", 1, "rtsp://"),
        ("rtsp://127.0.0.1:9/live/ch=1", 1, "127.0.0.1:9/live/ch=1 cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_line(source: str, status: int, says: str, tmp_path: Path):
    done = invoke("check", source)
    assert done.status == status
    assert says in done.message
    # No network is to blame for a file.
    assert ("network" in done.message) == (source.startswith("rtsp"))


@pytest.mark.parametrize("arguments", [["check.seconds=0"], ["--shortest", "-1"]])
def test_times_that_are_none_are_bad_usage(arguments: list[str], tmp_path: Path):
    assert invoke("check", "x.mp4", *arguments).status == 2


def test_a_camera_with_a_keyframe_every_four_seconds(tmp_path: Path):
    with RtspServer(keyframe_every=40, b_frames=0) as server:
        figures, findings, _ = check(tmp_path, server.url, "check.seconds=9")
    assert figures["live"] is True
    assert figures["rate"] == pytest.approx(10, rel=0.1)
    assert figures["keyframe_spacing_s"] == pytest.approx(4, abs=0.2)
    assert "I-frame interval to 1 s" in findings["keyframes"]["advice"]
    assert figures["arrival_jitter_s"] < 0.25
    assert figures["bits_per_s"] > 1000


def test_a_password_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHECK_CAMERA", "canary-3141")
    monkeypatch.setenv("CHECK_WRONG", "canary-2718")
    with RtspServer(password="canary-3141") as server:
        address = f"rtsp://user:${{env:CHECK_CAMERA}}@127.0.0.1:{server.port}/live"
        figures, _, out = check(tmp_path, address, "check.seconds=2")
        wrong = invoke("check", address.replace("CHECK_CAMERA", "CHECK_WRONG"))
    assert figures["source"] == server.url
    assert "canary" not in out + (tmp_path / "found.json").read_text()
    assert wrong.status == 1
    assert "401" in wrong.message
    assert "canary" not in wrong.err + wrong.out
