from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly.errors import NoFootageError
from anomaly.footage.source import Source, find_sources, fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files by name only: finding does not open them."""
    root = tmp_path / "line"
    for name in (
        "clip_10.mp4",
        "clip_2.MP4",
        "clip_1.mkv",
        "shots/a.png",
        "shots/b.JPG",
        "notes.txt",
        ".hidden.mp4",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / ".cache").mkdir()
    (root / ".cache" / "old.mp4").write_bytes(b"x")
    return root


def test_a_folder_is_searched_below_naturally_sorted_and_hidden_and_other_files_are_passed_over(folder: Path):
    found = find_sources([folder])
    assert [source.name for source in found] == [
        "clip_1.mkv", "clip_2.MP4", "clip_10.mp4", "shots/a.png", "shots/b.JPG",
    ]  # fmt: skip
    assert [source.kind for source in found] == ["video", "video", "video", "image", "image"]
    assert all(source.path == folder / source.name for source in found)


def test_a_file_whose_name_begins_with_a_tilde_is_no_users_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("~nobody.mp4").write_bytes(b"x")
    assert [one.name for one in find_sources(["./~nobody.mp4"])] == ["~nobody.mp4"]
    with pytest.raises(NoFootageError, match="does not exist"):
        find_sources(["~nobody/a.mp4"])


def test_a_single_file_keeps_its_name_and_an_unknown_extension_is_tried_as_video(folder: Path):
    assert find_sources([folder / "shots" / "a.png"]) == [
        Source(folder / "shots" / "a.png", "a.png", "image")
    ]
    assert find_sources([folder / "notes.txt"])[0].kind == "video"
    assert find_sources([folder / ".hidden.mp4"])[0].name == ".hidden.mp4"


def test_a_glob_names_files_from_where_its_pattern_starts(folder: Path):
    assert [s.name for s in find_sources([f"{folder}/clip_*.*"])] == [
        "clip_1.mkv",
        "clip_2.MP4",
        "clip_10.mp4",
    ]
    assert [s.name for s in find_sources([f"{folder}/**/*.png"])] == ["shots/a.png"]
    # A glob that matches a folder means what is in it.
    assert [s.name for s in find_sources([f"{folder}/sh*"])] == ["shots/a.png", "shots/b.JPG"]


def test_a_path_with_brackets_is_first_taken_as_it_is(tmp_path: Path):
    odd = tmp_path / "camera [2].mp4"
    odd.write_bytes(b"x")
    assert [s.name for s in find_sources([odd])] == ["camera [2].mp4"]


def test_names_that_collide_are_told_apart_by_the_folders_above(tmp_path: Path):
    for name in ("monday/am/clip.mp4", "tuesday/am/clip.mp4", "tuesday/am/only.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = find_sources([tmp_path / "monday" / "am", tmp_path / "tuesday" / "am"])
    assert [s.name for s in found] == ["monday/am/clip.mp4", "tuesday/am/clip.mp4", "only.mp4"]


def test_a_file_reached_twice_is_taken_once(folder: Path):
    assert len(find_sources([folder, folder / "clip_1.mkv", f"{folder}/*.mp4"])) == 5


def test_links_cannot_loop_and_footage_keeps_the_name_of_its_real_folder(folder: Path):
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "aaa").symlink_to(folder / "shots", target_is_directory=True)
    (folder / "broken.mp4").symlink_to(folder / "nowhere.mp4")
    names = [s.name for s in find_sources([folder])]
    assert names == ["clip_1.mkv", "clip_2.MP4", "clip_10.mp4", "shots/a.png", "shots/b.JPG"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("absent.mp4", "does not exist"),
        ("none_*.mp4", "matches no video or image"),
        ("rtsp://camera/1", "is an address, not a file"),
    ],
)
def test_a_path_that_leads_nowhere_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, says: str
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoFootageError, match=says) as caught:
        find_sources([path])
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_footage_says_what_it_holds(tmp_path: Path):
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(NoFootageError, match=r"holds no video or image \(1 other file\)"):
        find_sources([tmp_path])
    with pytest.raises(NoFootageError, match="no path"):
        find_sources([])


def test_a_pipe_is_not_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(NoFootageError, match="neither a file nor a folder"):
        find_sources([tmp_path / "pipe.mp4"])
    with pytest.raises(NoFootageError, match="no video or image"):
        find_sources([tmp_path])


def test_a_fingerprint_is_of_the_bytes(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4), np.uint8))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    assert fingerprint(tmp_path / "a.png") == fingerprint(tmp_path / "b.png")
    (tmp_path / "empty").write_bytes(b"")
    assert (
        fingerprint(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
