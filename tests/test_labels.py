from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import cut_file, texture, write_clip

from anomaly.errors import LabelsError
from anomaly.footage.labels import LabeledFootage, load_labels, read_mask
from anomaly.types import Interval

HEADER = "video,start_s,end_s,label\n"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds, two frames a second."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", texture(20), fps=2)


@pytest.fixture
def line(tmp_path: Path, clip: Path) -> Path:
    """A folder with three videos, one of them below."""
    for name in ("a.mp4", "b.mp4", "night/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.link(clip, tmp_path / name)
    return tmp_path


def load(folder: Path, text: str | bytes, **options) -> LabeledFootage:
    data = text.encode() if isinstance(text, str) else text
    (folder / "labels.csv").write_bytes(data)
    return load_labels(folder / "labels.csv", **options)


def test_intervals_with_and_without_how_they_were_found(line: Path):
    loaded = load(line, "video,start_s,end_s,label\na.mp4,1,2.5,jam\nnight/c.mp4,0,10,spill\n")
    assert loaded.intervals == (
        Interval("a.mp4", 1.0, 2.5, "jam"),
        Interval("night/c.mp4", 0.0, 10.0, "spill"),
    )
    assert [source.name for source in loaded.sources] == ["a.mp4", "night/c.mp4"]
    assert loaded.sources[1].path == line / "night" / "c.mp4"
    assert loaded.notes == ("not named in labels.csv and left out: 1 video",)
    assert loaded.of("a.mp4") == loaded.intervals[:1]
    assert loaded.of("b.mp4") == ()
    found = load(line, "label,found,video,end_s,start_s\njam,Alarm,a.mp4,2,1\njam,,b.mp4,2,1\n").intervals
    assert [interval.found for interval in found] == ["alarm", "independent"]


def test_videos_of_one_group_show_one_incident(line: Path):
    loaded = load(
        line, "video,time_s,label,group\na.mp4,5,jam,j1\na.mp4,8,jam,j1\nb.mp4,5,jam,\nnight/c.mp4,5,jam,j1\n"
    )
    assert loaded.groups == {"a.mp4": "j1", "night/c.mp4": "j1"}
    # What a row says goes before what a name tells.
    text = "video,time_s,label,group\na.mp4,5,jam,\nb.mp4,5,jam,j2\nnight/c.mp4,5,jam,\n"
    assert load(line, text, group=r"([ab])\.mp4").groups == {"a.mp4": "a", "b.mp4": "j2"}
    with pytest.raises(LabelsError, match=r"line 3 puts a\.mp4 into group j2, an earlier line into j1"):
        load(line, "video,time_s,label,group\na.mp4,5,jam,j1\na.mp4,8,jam,j2\n")


@pytest.mark.parametrize(
    ("group", "told"),
    [
        ("(", "no regular expression"),
        ("clip", "has no brackets"),
        ("(part[0-9]+)", r"found in no name of a labelled anomaly, such as a\.mp4"),
    ],
)
def test_a_pattern_that_groups_nothing_is_refused(line: Path, group: str, told: str):
    with pytest.raises(LabelsError, match=told):
        load(line, "video,time_s,label\na.mp4,5,jam\n", group=group)


def test_moments_are_widened_within_the_video(line: Path):
    text = "video,time_s,label\na.mp4,5,jam\na.mp4,0.25,start\na.mp4,9.9,end\n"
    assert [(i.start_s, i.end_s) for i in load(line, text).intervals] == [
        (0.0, 1.25),
        (4.0, 6.0),
        (8.9, 10.0),
    ]
    wide = load(line, text, tolerance_s=0.1).intervals
    assert wide[1].start_s == pytest.approx(4.9)
    # A moment a little after the end is the end, whatever the tolerance.
    last = load(line, "video,time_s,label\na.mp4,10.5,jam\n", tolerance_s=0.1)
    assert (last.intervals[0].start_s, last.intervals[0].end_s) == (9.9, 10.0)


def test_windows_files_are_read_as_they_are(line: Path):
    loaded = load(
        line, b'\xef\xbb\xbfvideo , start_s, end_s ,Label\r\n night\\c.mp4 , 1 , 2 , "jam, hard"\r\n\r\n'
    )
    assert loaded.intervals == (Interval("night/c.mp4", 1.0, 2.0, "jam, hard"),)


def test_a_bare_file_name_is_found_below(line: Path):
    assert load(line, "video,start_s,end_s,label\nc.mp4,1,2,jam\n").intervals[0].video == "night/c.mp4"
    assert load(line, "video,start_s,end_s,label\n./a.mp4,1,2,jam\n").intervals[0].video == "a.mp4"


def test_an_accent_is_one_letter_or_two(line: Path, clip: Path):
    """Files that were on a Mac have names in which accents are letters of their own."""
    os.link(clip, line / "Pru\u0308fung.mp4")
    (interval,) = load(line, HEADER + "Pr\u00fcfung.mp4,1,2,jam\n").intervals
    assert interval.video == "Pru\u0308fung.mp4"


def test_videos_may_lie_elsewhere(line: Path, tmp_path_factory: pytest.TempPathFactory):
    other = tmp_path_factory.mktemp("labels")
    loaded = load(other, "video,start_s,end_s,label\nc.mp4,1,2,jam\n", videos=line / "night")
    assert loaded.sources[0].name == "c.mp4"
    assert loaded.origin == other / "labels.csv"


def test_a_whole_video_can_be_known_normal(line: Path):
    loaded = load(line, "video,start_s,end_s,label\na.mp4,1,2,jam\nb.mp4,,,normal\nnight/c.mp4,,,Good\n")
    assert [source.name for source in loaded.sources] == ["a.mp4", "b.mp4", "night/c.mp4"]
    assert [interval.video for interval in loaded.intervals] == ["a.mp4"]
    assert loaded.notes == ()
    assert [s.name for s in load(line, "video,time_s,label\na.mp4,1,jam\nb.mp4,,normal\n").sources] == [
        "a.mp4",
        "b.mp4",
    ]


def test_what_is_labelled_ok_is_known_normal(line: Path):
    loaded = load(line, "video,start_s,end_s,label\na.mp4,1,2,jam\nb.mp4,,,ok\n")
    assert loaded.of("b.mp4") == ()
    assert len(loaded.sources) == 2


def test_videos_that_are_not_named_can_count_as_normal(line: Path):
    loaded = load(line, "video,start_s,end_s,label\nb.mp4,1,2,jam\n", unlisted="normal")
    assert [source.name for source in loaded.sources] == ["b.mp4", "a.mp4", "night/c.mp4"]
    assert loaded.notes == ("not named in labels.csv and taken as normal: 2 videos",)


def test_overlapping_intervals_are_one_incident(line: Path):
    rows = ["a.mp4,4,6,spill,alarm", "a.mp4,1,3,jam,", "a.mp4,2,4,jam,audit", "b.mp4,1,2,jam,"]
    loaded = load(line, "\n".join(["video,start_s,end_s,label,found", *rows]))
    assert loaded.intervals == (
        Interval("a.mp4", 1.0, 4.0, "jam", "audit"),
        # It only touches the one before: another incident.
        Interval("a.mp4", 4.0, 6.0, "spill", "alarm"),
        Interval("b.mp4", 1.0, 2.0, "jam"),
    )
    assert "1 label overlapped an earlier one and joined it: one incident" in loaded.notes
    nested = load(line, "video,start_s,end_s,label\na.mp4,1,9,jam\na.mp4,2,3,spill\na.mp4,4,5,smoke\n")
    assert nested.intervals == (Interval("a.mp4", 1.0, 9.0, "jam + spill + smoke"),)


def test_an_end_just_past_the_video_is_clipped_and_told(line: Path):
    loaded = load(line, "video,start_s,end_s,label\na.mp4,8,10.8,jam\n")
    assert loaded.intervals[0].end_s == 10.0
    assert "labels.csv line 2: 10.8 s clipped to the end of a.mp4, 10.00 s" in loaded.notes


def test_one_damaged_video_stops_nothing(line: Path, clip: Path):
    (line / "a.mp4").unlink()
    cut_file(clip, 0.5, line / "a.mp4")
    loaded = load(line, "video,start_s,end_s,label\na.mp4,1,99,jam\nb.mp4,1,2,jam\n")
    assert len(loaded.intervals) == 2
    assert any("a.mp4 cannot be opened" in note for note in loaded.notes)


def test_each_video_counts_for_progress(line: Path):
    steps: list[int] = []
    load(line, "video,start_s,end_s,label\na.mp4,1,2,x\na.mp4,3,4,x\nb.mp4,1,2,x\n", progress=steps.append)
    assert steps == [1, 1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEADER + "x.mp4,1,2,jam\n", r"line 2: there is no x.mp4 in .*; the nearest name there is \w.mp4"),
        (HEADER + "nigth/c.mp4,1,2,jam\n", "the nearest name there is night/c.mp4; correct"),
        (HEADER + "NIGHT/C.MP4,1,2,jam\n", "there is no NIGHT/C.MP4 in .*; the nearest name there is night/c.mp4"),
        (HEADER + "zzzzzzzzzz.webm,1,2,jam\n", "it holds 3 others"),
        (HEADER + "../secret.mp4,1,2,jam\n", r"line 2: \.\./secret.mp4 leads out of"),
        (HEADER + "night/../../x.mp4,1,2,jam\n", "leads out of"),
        (HEADER + "/etc/passwd,1,2,jam\n", "/etc/passwd leads out of"),
        (HEADER + "C:\\videos\\a.mp4,1,2,jam\n", "leads out of"),
        (HEADER + "\\\\server\\a.mp4,1,2,jam\n", "leads out of"),
        (HEADER + "a.mp4,1,20,jam\n", "line 2: 20 s is past the end of a.mp4, which is 10.00 s long"),
        (HEADER + "a.mp4,10,10.5,jam\n", "line 2: 10 s is past the end"),
        ("video,time_s,label\na.mp4,11.5,jam\n", "11.5 s is past the end"),
        (HEADER + "a.mp4,4.0,3.5,jam\n", "line 2: start_s 4.0 is not before end_s 3.5"),
        (HEADER + "a.mp4,4,4,jam\n", "start_s 4 is not before end_s 4"),
        (HEADER + "a.mp4,1,2,jam\n\na.mp4,1,2,jam\n", "line 4 says the same as line 2"),
        (HEADER + "a.mp4,1,2,jam\na.mp4,,,normal\n", "line 3 and line 2 call a.mp4 normal and label an"),
        (HEADER + "a.mp4,1,2,normal\n", "line 2 labels a stretch as normal"),
        # As an anomaly it made the jam inside it one of ten seconds, that any alarm in them caught.
        (HEADER + "a.mp4,0,10,OK\na.mp4,4,5,jam\n", "line 2 labels a stretch as OK"),
        (HEADER + "a.mp4,,,jam\n", "line 2 has no times"),
        (HEADER + "a.mp4,1,,jam\n", "end_s is ''"),
        (HEADER + "a.mp4,-1,2,jam\n", "start_s is '-1'"),
        (HEADER + "a.mp4,nan,2,jam\n", "start_s is 'nan'"),
        (HEADER + "a.mp4,1,inf,jam\n", "end_s is 'inf'"),
        (HEADER + "a.mp4,0:10,0:20,jam\n", "start_s is '0:10'"),
        (HEADER + "a.mp4,1,5,2,5,jam\n", "line 2 has 6 cells, the header 4; write times with a point"),
        (HEADER + "a.mp4,1,2,\n", "line 2 has no label"),
        (HEADER + ",1,2,jam\n", "line 2 names no video"),
        (HEADER + 'a.mp4,1,2,"jam\n', "not CSV"),
        ("video,start_s,end_s,label,found\na.mp4,1,2,jam,guess\n", "found is 'guess'; write one of"),
        ("file,from,to\na.mp4,1,2\n", "has the header 'file,from,to'; write video,start_s,end_s,label or"),
        ("video,start_s,end_s,label,note\n", "has the header"),
        ("video,start_s,start_s,label\n", "has the header"),
        ("video;start_s;end_s;label\na.mp4;1;2;jam\n", "separates its columns by semicolons"),
        ("video\tstart_s\tend_s\tlabel\n", "by tabs"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("video,start_s,end_s,label\na.mp4,1,2,\xe9tape\n".encode("latin-1"), "is not UTF-8 text"),
        ("video,start_s,end_s,label\n".encode("utf-16"), "is not UTF-8 text"),
        (HEADER, "labels not one anomaly"),
        (HEADER + "a.mp4,,,normal\n", "labels not one anomaly"),
    ],
)  # fmt: skip
def test_bad_labels_are_one_line_with_the_place_and_the_remedy(line: Path, text: str | bytes, says: str):
    with pytest.raises(LabelsError, match=says) as caught:
        load(line, text)
    message = str(caught.value)
    assert "labels.csv" in message
    assert "\n" not in message
    assert ";" in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEADER + "p.png,5,6,jam\n", "line 2: 5 s is not in p.png, a picture, which is shown at 0 s; write 0 and 1"),
        ("video,time_s,label\np.png,5,jam\n", "shown at 0 s; write 0 for its time"),
    ],
)  # fmt: skip
def test_a_picture_has_no_later_time(line: Path, text: str, says: str):
    """Its one frame counted as normal, and the event as missed."""
    cv2.imwrite(str(line / "p.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(LabelsError, match=says):
        load(line, text)
    (interval,) = load(line, text.replace(",5", ",0")).intervals
    assert interval.start_s <= 0 < interval.end_s


def test_a_mask_that_is_no_archive_is_not_to_be_loaded_unsafely(tmp_path: Path):
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(
        LabelsError, match=r"a\.npz is no mask file \(no archive of plain numbers\); it needs"
    ):
        read_mask(tmp_path / "a.npz", 0, (8, 8))


def test_labels_without_an_anomaly_can_be_allowed(line: Path):
    loaded = load(line, HEADER + "a.mp4,,,normal\n", need_anomaly=False)
    assert loaded.intervals == ()
    assert len(loaded.sources) == 1


def test_a_name_that_fits_two_videos_is_refused(line: Path, clip: Path):
    os.link(clip, line / "night" / "a.mp4")
    (line / "day").mkdir()
    os.link(clip, line / "day" / "c.mp4")
    # The one at the top is meant by its plain name; below, both could be.
    assert load(line, HEADER + "a.mp4,1,2,jam\n").intervals[0].video == "a.mp4"
    with pytest.raises(LabelsError, match=r"c.mp4 could be day/c.mp4 or night/c.mp4"):
        load(line, HEADER + "c.mp4,1,2,jam\n")


def test_labels_and_videos_that_are_not_there(line: Path):
    with pytest.raises(LabelsError, match=r"absent.csv cannot be read"):
        load_labels(line / "absent.csv")
    with pytest.raises(LabelsError, match="is no folder"):
        load(line, HEADER + "a.mp4,1,2,jam\n", videos=line / "absent")
    (line / "empty").mkdir()
    with pytest.raises(LabelsError, match="no footage to label"):
        load(line, HEADER + "a.mp4,1,2,jam\n", videos=line / "empty")
    with pytest.raises(LabelsError, match="tolerance_s is 0"):
        load(line, HEADER + "a.mp4,1,2,jam\n", tolerance_s=0)


def test_masks_of_videos_lie_beside_the_labels(line: Path):
    truth = np.random.default_rng(0).random((20, 5, 7)) > 0.5
    (line / "masks" / "night").mkdir(parents=True)
    for name in ("masks/a.npz", "masks/night/c.npz"):
        np.savez(line / name, mask=np.packbits(truth), shape=np.array(truth.shape))
    loaded = load(line, HEADER + "a.mp4,1,2,jam\nc.mp4,1,2,jam\nb.mp4,1,2,jam\n")
    assert sorted(loaded.masks) == ["a.mp4", "night/c.mp4"]
    for i in (0, 1, 7, 19):
        np.testing.assert_array_equal(read_mask(loaded.masks["a.mp4"], i, (5, 7)), truth[i])
    assert read_mask(loaded.masks["a.mp4"], 3, (10, 14)).sum() == 4 * truth[3].sum()
    with pytest.raises(LabelsError, match="frames 0 to 19, none of frame 20"):
        read_mask(loaded.masks["a.mp4"], 20, (5, 7))


def test_the_real_labels_load_with_their_masks(shared_data: Path):
    ped2 = load_labels(shared_data / "ped2" / "labels.csv")
    assert len(ped2.sources) == len(ped2.intervals) == len(ped2.masks) == 6
    assert ped2.notes == ("not named in labels.csv and left out: 16 videos",)
    # The masks are where the labels say: nothing at 0 s of test_01, something at 10 s.
    mask = ped2.masks["test/test_01.mp4"]
    assert not read_mask(mask, 0, (240, 360)).any()
    assert read_mask(mask, 100, (240, 360)).any()
    bottles = load_labels(shared_data / "bottles" / "labels.csv")
    assert [interval.video for interval in bottles.intervals] == ["test/handling.mp4"] * 3
    tile = load_labels(shared_data / "magnetic_tile")
    assert (len(tile.sources), len(tile.intervals), len(tile.masks)) == (95 + 198, 198, 198)
