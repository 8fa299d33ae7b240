"""What cannot be written is told before any footage is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_model import invoke


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a folder `dir` that is not empty, and a file `file`."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fit", "--normal-videos", "none.mp4", "--model", "file"], "--model 'file' is a file"),
        (["fit", "--normal-videos", "none.mp4", "--model", "dir"], "'dir' exists and is no model folder"),
        (["fit", "--normal-videos", "none.mp4", "--model", "file/m"], "--model 'file/m' cannot be written: 'file' is a file"),
        (["score", "--model", "m", "--source", "none.mp4", "--out", "dir"], "--out 'dir' is a folder"),
        (["score", "--model", "m", "--source", "none.mp4", "--out", "s.csv", "--explain", "file"], "--explain 'file' is a file"),
        (["score", "--model", "m", "--source", "none.mp4", "--out", "s.csv", "--heatmaps", "file"], "--heatmaps 'file' is a file"),
        (["score", "--model", "m", "--source", "none.mp4", "--out", "file/s.csv"], "'file' is a file"),
        (["evaluate", "--model", "m", "--labeled", "none.csv", "--json", "dir"], "--json 'dir' is a folder"),
        (["evaluate", "--model", "m", "--labeled", "none.csv", "--html", "dir"], "--html 'dir' is a folder"),
        (["calibrate", "--model", "m", "--labeled", "none.csv", "--report", "dir"], "--report 'dir' is a folder"),
        (["run", "--model", "m", "--source", "none.mp4", "--out", "file"], "--out 'file' is a file"),
        (["check", "none.mp4", "--json", "dir"], "--json 'dir' is a folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_told_before_anything_is_read(arguments: list[str], told: str, place: Path):
    done = invoke(*arguments)
    assert done.status in (1, 2)
    assert told in done.message
    assert sorted(path.name for path in place.rglob("*")) == ["dir", "file", "mine"]


def test_the_place_of_a_page_that_nobody_named_is_looked_at_too(place: Path):
    (place / "m_evaluation.html").mkdir()
    (place / "m_calibration.html").mkdir()
    for verb, option in (
        ("evaluate", "--html 'm_evaluation.html'"),
        ("calibrate", "--report 'm_calibration.html'"),
    ):
        done = invoke(verb, "--model", "m", "--labeled", "none.csv")
        assert f"{option} is a folder; give the name of a file" in done.message
    done = invoke("calibrate", "--model", "file", "--labeled", "none.csv")
    assert "--model 'file' is a file; give a folder" in done.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told(place: Path):
    (place / "dir").chmod(0o500)
    for arguments in (
        ("fit", "--normal-videos", "none.mp4", "--model", "dir/m"),
        ("score", "--model", "m", "--source", "none.mp4", "--out", "dir/s.csv"),
    ):
        done = invoke(*arguments)
        assert done.status == 2
        assert "'dir' is write-protected" in done.message
    (place / "dir").chmod(0o700)
