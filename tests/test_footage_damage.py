"""Damaged video: everything readable is read, everything lost is told, in one line that names the file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from clips import cut_file, number_of, numbered, scramble_file, texture, write_clip

from anomaly.errors import DamagedFootageError
from anomaly.footage.source import Source, probe, read_frame_at, read_frames

FORMATS = [
    ("a.mp4", "libx264", {"muxer": {"movflags": "faststart"}}),
    (
        "fragmented.mp4",
        "libx264",
        {"muxer": {"movflags": "frag_keyframe+empty_moov"}, "encoder": {"g": "10"}},
    ),
    ("a.mkv", "libx264", {}),
    ("a.webm", "libvpx-vp9", {"encoder": {"deadline": "realtime", "cpu-used": "8"}}),
    ("a.avi", "mjpeg", {}),
    ("reordered.avi", "libx264", {}),
    ("a.ts", "libx264", {"container": "mpegts"}),
    ("a.flv", "libx264", {}),
]
IDS = [entry[0] for entry in FORMATS]


def read(path: Path) -> tuple[list, list[str]]:
    damage: list[str] = []
    frames = list(read_frames(Source(path, path.name, "video"), on_damage=damage.append))
    times = [frame.pts_s for frame in frames]
    assert times == sorted(set(times))
    return frames, damage


@pytest.mark.parametrize(("name", "codec", "options"), FORMATS, ids=IDS)
def test_a_recording_cut_short_gives_what_it_holds_and_says_where_it_ends(
    tmp_path: Path, name: str, codec: str, options: dict
):
    whole = write_clip(tmp_path / name, texture(80), codec=codec, **options)
    assert read(whole)[1] == []
    frames, damage = read(cut_file(whole, 0.61, tmp_path / f"cut_{name}"))
    assert 20 < len(frames) < 70
    assert frames[-1].pts_s == pytest.approx((len(frames) - 1) / 10, abs=0.35)
    (message,) = damage
    assert f"cut_{name}" in message
    assert f"{len(frames)} frames up to " in message
    assert "\n" not in message


@pytest.mark.parametrize(("name", "codec", "options"), FORMATS, ids=IDS)
def test_noise_in_the_middle_is_passed_over_and_reported(
    tmp_path: Path, name: str, codec: str, options: dict
):
    encoder = {**options.get("encoder", {}), "g": "10"}
    whole = write_clip(tmp_path / name, texture(80), codec=codec, **{**options, "encoder": encoder})
    frames, damage = read(scramble_file(whole, 0.5, 0.05, tmp_path / f"noisy_{name}"))
    assert len(frames) < 80
    assert len(frames) > 30
    # It goes on after the damage; an AVI counts its frames and cannot know how many it lost.
    assert frames[-1].pts_s > (6.5 if name.endswith("avi") else 7.5)
    (message,) = damage
    assert message.startswith(f"noisy_{name} is damaged at ")
    assert f"; {len(frames)} frames up to" in message


def test_every_frame_is_read_or_counted_as_lost(tmp_path: Path):
    whole = write_clip(tmp_path / "a.mp4", texture(80))
    frames, (message,) = read(scramble_file(whole, 0.5, 0.05, tmp_path / "noisy.mp4"))
    lost = [int(n) for n in re.findall(r"(\d+) (?:undecodable packet|damaged frame|missing frame)", message)]
    assert "undecodable packet" in message
    assert "damaged frame" in message
    assert len(frames) + sum(lost) == 80


def test_the_frames_around_the_damage_are_the_right_ones(tmp_path: Path):
    whole = write_clip(tmp_path / "a.mp4", numbered(120), encoder={"g": "10"})
    frames, damage = read(scramble_file(whole, 0.4, 0.02, tmp_path / "noisy.mp4"))
    assert len(damage) == 1
    wrong = [f for f in frames if number_of(f.image) != round(f.pts_s * 10)]
    # Pictures that hang on a lost one are smeared until the next key frame, at most ten later.
    assert len(wrong) <= 10
    assert len(frames) >= 100
    assert number_of(frames[-1].image) == 119


def test_without_somebody_to_tell_damage_is_an_error_after_the_last_frame(tmp_path: Path):
    whole = write_clip(tmp_path / "a.mkv", texture(60))
    cut = cut_file(whole, 0.5, tmp_path / "cut.mkv")
    frames = read_frames(Source(cut, "cut.mkv", "video"))
    for _ in range(len(read(cut)[0])):
        next(frames)
    with pytest.raises(DamagedFootageError, match=r"cut.mkv is damaged"):
        next(frames)


def test_damage_after_the_part_that_was_asked_for_is_no_matter(tmp_path: Path):
    whole = write_clip(tmp_path / "a.mkv", texture(60))
    cut = cut_file(whole, 0.6, tmp_path / "cut.mkv")
    assert len(list(read_frames(Source(cut, "cut.mkv", "video"), end_s=1.0))) == 10


def test_an_mp4_whose_index_was_never_written_is_one_line(tmp_path: Path):
    cut = cut_file(write_clip(tmp_path / "a.mp4", texture(60)), 0.6, tmp_path / "cut.mp4")
    source = Source(cut, "camera 1/cut.mp4", "video")
    attempts: list[Callable[[], object]] = [
        lambda: probe(source),
        lambda: next(read_frames(source)),
        lambda: read_frame_at(source, 1.0),
    ]
    for attempt in attempts:
        with pytest.raises(DamagedFootageError, match="cut short before its index was written") as caught:
            attempt()
        assert str(caught.value).startswith("camera 1/cut.mp4 ")
        assert "\n" not in str(caught.value)
    told: list[str] = []
    assert list(read_frames(source, on_damage=told.append)) == []
    assert len(told) == 1


def test_an_empty_and_an_absent_file_are_told_apart(tmp_path: Path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(DamagedFootageError, match=r"empty.mp4 is empty \(0 bytes\)"):
        probe(Source(tmp_path / "empty.mp4", "empty.mp4", "video"))
    with pytest.raises(DamagedFootageError, match=r"absent.mp4 cannot be read"):
        probe(Source(tmp_path / "absent.mp4", "absent.mp4", "video"))


def test_a_file_that_opens_but_shows_nothing_is_damaged(tmp_path: Path):
    whole = write_clip(tmp_path / "a.mp4", texture(20), muxer={"movflags": "faststart"})
    data = bytearray(whole.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = b"\xff" * (len(data) - start)
    (tmp_path / "void.mp4").write_bytes(data)
    source = Source(tmp_path / "void.mp4", "void.mp4", "video")
    frames, damage = read(source.path)
    assert frames == []
    assert "0 frames" in damage[0]
    with pytest.raises(DamagedFootageError, match=r"void.mp4 is damaged"):
        probe(source)


def test_a_long_soundtrack_is_no_sign_of_damage(tmp_path: Path):
    """Matroska states one length for all streams; here the sound goes on for five seconds more."""
    import av
    import numpy as np

    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
        audio = out.add_stream("libopus", rate=48000, layout="mono")
        packets = []
        for image in texture(20):
            packets += video.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 7 * 48000), np.int16), format="s16", layout="mono")
        sound.sample_rate = 48000
        resampler = av.AudioResampler(format="s16", layout="mono", rate=48000, frame_size=960)
        for chunk in resampler.resample(sound):
            packets += audio.encode(chunk)
        for packet in [*packets, *video.encode(), *audio.encode()]:
            out.mux(packet)
    frames, damage = read(path)
    assert len(frames) == 20
    assert damage == []


def test_a_pause_in_the_recording_is_no_sign_of_damage(tmp_path: Path):
    times = [i / 10 for i in range(20)] + [60 + i / 10 for i in range(20)]
    frames, damage = read(write_clip(tmp_path / "paused.mkv", texture(40), times=times))
    assert [f.pts_s for f in frames] == pytest.approx(times, abs=2e-3)
    assert damage == []
