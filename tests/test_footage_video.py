from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from clips import number_of, numbered, texture, write_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomaly.errors import DamagedFootageError, FootageError, UsageError
from anomaly.footage.clock import Clock, Sampler
from anomaly.footage.source import Source, duration_s, find_sources, probe, read_frame_at, read_frames

CONTAINERS = [
    # file, encoder, options of write_clip
    ("a.mp4", "libx264", {}),
    ("a.mkv", "libx264", {}),
    ("a.webm", "libvpx-vp9", {"encoder": {"deadline": "realtime", "cpu-used": "8"}}),
    ("a.avi", "mjpeg", {}),
    ("reordered.avi", "libx264", {}),
    ("a.ts", "libx264", {"container": "mpegts"}),
    ("a.flv", "libx264", {}),
    ("a.gif", "gif", {}),
    (
        "fragmented.mp4",
        "libx264",
        {"muxer": {"movflags": "frag_keyframe+empty_moov"}, "encoder": {"g": "10"}},
    ),
    ("no_duration.mkv", "libx264", {"muxer": {"live": "1"}}),
    ("raw.h264", "libx264", {"container": "h264"}),
    ("raw.hevc", "libx265", {"container": "hevc", "encoder": {"x265-params": "log-level=none"}}),
]


def source_of(path: Path) -> Source:
    return find_sources([path])[0]


@pytest.mark.parametrize(("name", "codec", "options"), CONTAINERS, ids=[c[0] for c in CONTAINERS])
def test_every_container_gives_every_frame_at_its_time(tmp_path: Path, name: str, codec: str, options: dict):
    source = source_of(write_clip(tmp_path / name, numbered(40), fps=10, codec=codec, **options))
    frames = list(read_frames(source))
    assert [number_of(frame.image) for frame in frames] == list(range(40))
    assert [frame.index for frame in frames] == list(range(40))
    np.testing.assert_allclose([frame.pts_s for frame in frames], np.arange(40) / 10, atol=1e-3)
    assert {frame.source for frame in frames} == {name}
    info = probe(source)
    assert (info.width, info.height, info.rotation) == (96, 64, 0)
    assert info.fps == pytest.approx(10)
    assert info.duration_s == pytest.approx(4.0, abs=0.11)
    assert duration_s(source) == info.duration_s
    assert info.frames in (40, None)


def test_raw_mjpeg_says_nothing_about_time_so_its_frames_are_25_a_second(tmp_path: Path):
    source = source_of(write_clip(tmp_path / "raw.mjpeg", numbered(10), codec="mjpeg", container="mjpeg"))
    assert [frame.pts_s for frame in read_frames(source)] == pytest.approx([i / 25 for i in range(10)])
    assert probe(source).duration_s == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_variable_frame_rate_keeps_its_times(tmp_path: Path, name: str):
    times = [0.0, 0.04, 0.08, 1.5, 1.54, 4.0, 4.3]
    source = source_of(write_clip(tmp_path / name, numbered(7), times=times))
    assert [frame.pts_s for frame in read_frames(source)] == pytest.approx(times, abs=1e-3)
    assert [number_of(f.image) for f in read_frames(source, start_s=0.05, end_s=4.0)] == [2, 3, 4]


@settings(max_examples=15, deadline=None)
@given(
    steps=st.lists(st.integers(20, 3000), min_size=1, max_size=30),
    start_s=st.floats(0, 20),
    length_s=st.floats(0.1, 20),
    fps=st.one_of(st.none(), st.floats(0.3, 30)),
    codec=st.sampled_from(["libx264", "libvpx-vp9"]),
)
def test_any_part_of_any_clip_is_what_its_timestamps_say(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[int],
    start_s: float,
    length_s: float,
    fps: float | None,
    codec: str,
):
    times = np.cumsum([0, *steps]) / 1000
    encoder = {"deadline": "realtime", "cpu-used": "8"} if codec == "libvpx-vp9" else {"g": "5"}
    path = tmp_path_factory.mktemp("vfr") / "a.mkv"
    source = source_of(write_clip(path, numbered(len(times)), codec=codec, times=times, encoder=encoder))
    sampler = Sampler(fps, start_s)
    inside = [i for i, time in enumerate(times) if start_s <= time < start_s + length_s]
    expected = [i for i in inside if sampler.takes(times[i])]
    frames = list(read_frames(source, fps=fps, start_s=start_s, end_s=start_s + length_s))
    assert [frame.index for frame in frames] == expected
    assert [number_of(frame.image) for frame in frames] == expected
    shown = max(i for i, time in enumerate(times) if i == 0 or time <= start_s + 0.0005)
    if start_s < times[-1]:
        assert number_of(read_frame_at(source, start_s).image) == shown


@pytest.mark.parametrize(("counter_clockwise", "turns"), [(90, 1), (180, 2), (270, 3)])
def test_rotation_metadata_is_applied(tmp_path: Path, counter_clockwise: int, turns: int):
    image = next(iter(texture(1)))
    plain = source_of(write_clip(tmp_path / "plain.mp4", [image] * 3))
    turned = source_of(write_clip(tmp_path / "turned.mp4", [image] * 3, rotation=counter_clockwise))
    upright = next(read_frames(plain)).image
    shown = next(read_frames(turned)).image
    np.testing.assert_array_equal(shown, np.rot90(upright, turns))
    assert shown.flags.c_contiguous
    info = probe(turned)
    assert (info.height, info.width) == shown.shape[:2]
    assert info.rotation == (360 - counter_clockwise) % 360
    np.testing.assert_array_equal(read_frame_at(turned, 0.1).image, shown)


def test_a_mirrored_camera_and_the_older_rotate_tag_are_set_right(tmp_path: Path):
    image = next(iter(texture(1)))
    upright = next(read_frames(source_of(write_clip(tmp_path / "plain.mkv", [image] * 3)))).image
    mirrored = write_clip(tmp_path / "mirrored.mp4", [image] * 3, mirrored=True)
    np.testing.assert_array_equal(next(read_frames(source_of(mirrored))).image, upright[:, ::-1])
    tagged = write_clip(tmp_path / "tagged.mkv", [image] * 3, metadata={"rotate": "90"})
    np.testing.assert_array_equal(next(read_frames(source_of(tagged))).image, np.rot90(upright, -1))


@pytest.mark.parametrize("full_range", [False, True])
def test_grey_levels_come_back_in_limited_and_full_range(tmp_path: Path, full_range: bool):
    ramp = np.repeat(np.arange(0, 256, 5, dtype=np.uint8), 4)[None, :].repeat(64, axis=0)
    ramp = np.ascontiguousarray(ramp[:, : ramp.shape[1] // 2 * 2])
    path = write_clip(
        tmp_path / "a.mp4", [ramp] * 2, encoder={"crf": "0"}, color_range=2 if full_range else 1
    )
    image = next(read_frames(source_of(path))).image
    assert np.abs(image.astype(int) - ramp[..., None]).max() <= 3
    assert np.abs(image[..., 0].astype(int) - image[..., 2]).max() <= 2


def test_a_frame_grabbed_at_a_time_is_the_one_shown_then(tmp_path: Path):
    source = source_of(write_clip(tmp_path / "a.mp4", numbered(250), fps=10, encoder={"g": "25"}))
    frames = list(read_frames(source))
    for i in (0, 7, 24, 25, 101, 124, 125, 180, 249):
        at = read_frame_at(source, frames[i].pts_s)
        assert (at.index, at.pts_s, number_of(at.image)) == (i, frames[i].pts_s, i)
        np.testing.assert_array_equal(at.image, frames[i].image)
    assert read_frame_at(source, 18.05).index == 180
    assert read_frame_at(source, round(frames[187].pts_s, 3)).index == 187
    assert read_frame_at(source, 25.5).index == 249
    with pytest.raises(
        FootageError, match=r"a.mp4 shows nothing at 60.000 s: its last readable frame ends at 25.0"
    ):
        read_frame_at(source, 60)


@pytest.mark.parametrize(("name", "codec", "options"), CONTAINERS, ids=[c[0] for c in CONTAINERS])
def test_reading_from_the_middle_gives_the_frames_that_reading_from_the_start_gives(
    tmp_path: Path, name: str, codec: str, options: dict
):
    source = source_of(write_clip(tmp_path / name, numbered(200), fps=10, codec=codec, **options))
    whole = [(f.index, f.pts_s, number_of(f.image)) for f in read_frames(source)]
    part = [(f.index, f.pts_s, number_of(f.image)) for f in read_frames(source, start_s=12.05, end_s=15.0)]
    assert part == [frame for frame in whole if 12.05 <= frame[1] < 15.0]
    assert len(part) in (29, 30)


@pytest.mark.parametrize("fps", [1, 3, 4.7, 10, 25])
def test_sampling_follows_the_stream_and_never_drifts(tmp_path: Path, fps: float):
    source = source_of(write_clip(tmp_path / "a.mkv", numbered(120), fps=12))
    times = [frame.pts_s for frame in read_frames(source, fps=fps)]
    assert times[0] == 0.0
    assert len(times) == min(round(10 * fps), 120)
    if fps < 12:
        lag = np.asarray(times) - np.arange(len(times)) / fps
        assert (lag > -0.0101).all()
        assert (lag < 1 / 12 + 1e-3).all()


def test_sampling_at_the_clip_s_own_rate_takes_every_frame_though_matroska_rounds_times(tmp_path: Path):
    source = source_of(write_clip(tmp_path / "a.mkv", numbered(200), fps=30))
    assert len(list(read_frames(source, fps=30))) == 200
    assert [f.index for f in read_frames(source, fps=15)] == list(range(0, 200, 2))


def test_wrong_arguments_are_refused_at_once(tmp_path: Path):
    source = Source(tmp_path / "absent.mp4", "absent.mp4", "video")
    for options, says in (
        ({"fps": 0}, "fps 0"),
        ({"fps": float("nan")}, "fps nan"),
        ({"start_s": -1.0}, "start_s -1.0"),
        ({"start_s": 2.0, "end_s": 2.0}, "end_s 2.0 is not after start_s 2.0"),
    ):
        with pytest.raises(UsageError, match=says):
            read_frames(source, **options)


def test_a_text_file_named_mp4_opens_no_other_file(tmp_path: Path):
    """Each of these, opened by libav's own rules, would show the frames of `secret.ts`."""
    secret = write_clip(tmp_path / "secret.ts", texture(5), container="mpegts")
    texts = {
        "concat.mp4": "ffconcat version 1.0\nfile secret.ts\n",
        "playlist.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:0.5,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "session.mp4": "v=0\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 33\n",
        "plain.mp4": "not a video at all\n" * 100,
        "dash.mp4": f'<?xml version="1.0"?><MPD><BaseURL>file://{secret}</BaseURL></MPD>',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        source = Source(tmp_path / name, name, "video")
        with pytest.raises(DamagedFootageError, match=f"{name} cannot be opened as video") as caught:
            next(read_frames(source))
        assert "\n" not in str(caught.value)
        with pytest.raises(DamagedFootageError):
            probe(source)


def test_the_playlist_of_that_test_would_have_opened_it(tmp_path: Path):
    import av

    write_clip(tmp_path / "secret.ts", texture(5), container="mpegts")
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile secret.ts\n")
    with av.open(str(tmp_path / "concat.mp4")) as container:
        assert len(list(container.decode(video=0))) == 5


def test_a_name_that_libav_would_take_for_a_protocol_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "a.mp4", texture(3))
    (tmp_path / "a.mp4").rename(tmp_path / "concat:a.mp4")
    assert len(list(read_frames(Source(Path("concat:a.mp4"), "x", "video")))) == 3


def test_a_sound_file_holds_no_pictures(tmp_path: Path):
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode()]:
            out.mux(packet)
    with pytest.raises(DamagedFootageError, match="holds no video stream"):
        probe(source_of(path))


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=40),
    st.one_of(st.none(), st.floats(-10, 10)),
)
def test_time_never_goes_back_whatever_the_timestamps(timestamps: list[float | None], origin: float | None):
    clock = Clock(origin, 0.04)
    times = [clock.seconds(timestamp) for timestamp in timestamps]
    assert all(later >= earlier for earlier, later in pairwise(times))
    assert all(time >= 0 for time in times)


def test_a_recorder_that_restarts_adds_its_time_and_a_stray_timestamp_does_not():
    clock = Clock(5.0, 0.1)
    assert [clock.seconds(t) for t in (5.0, 5.1, 9.0, 0.0, 0.1, 0.2)] == pytest.approx(
        [0, 0.1, 4.0, 4.01, 4.2, 4.3]
    )
    clock = Clock(0.0, 0.1)
    assert [clock.seconds(t) for t in (4.0, 5.2, 2.1, 5.3, 5.4)] == pytest.approx([4.0, 5.2, 5.21, 5.3, 5.4])


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(st.floats(0.001, 3), min_size=1, max_size=60), st.floats(0.2, 60))
def test_a_sampler_takes_the_first_frame_and_at_most_fps_frames_a_second(steps: list[float], fps: float):
    times = np.concatenate([[0.0], np.cumsum(steps)])
    sampler = Sampler(fps, 0.0)
    taken = [time for time in times if sampler.takes(time)]
    assert taken[0] == 0.0
    assert len(taken) <= int(times[-1] * fps + 0.1) + 1


@pytest.mark.parametrize(
    ("source", "fps"), [(30, 10), (25, 10), (12.5, 10), (10, 3), (29.97, 5), (59.94, 25)]
)
def test_of_a_steady_stream_the_frames_that_reach_the_instants_are_taken(source: float, fps: float):
    times = np.arange(20_000) / source
    sampler = Sampler(fps, 0.0)
    taken = np.array([time for time in times if sampler.takes(time)])
    instants = np.arange(len(taken)) / fps
    late = taken - instants
    assert late.min() >= -0.011
    assert late.max() <= 1 / source + 1e-9
    assert len(taken) == pytest.approx(times[-1] * fps, abs=1.5)


@pytest.mark.parametrize("offset_s", [0.0, 0.01, 0.02, 0.05])
def test_a_camera_that_jitters_at_the_rate_asked_for_loses_no_more_than_a_frame(offset_s: float):
    times = np.arange(1000) / 10 + np.random.default_rng(0).uniform(-0.02, 0.02, 1000)
    times[1:] -= offset_s
    sampler = Sampler(10, times[0])
    assert sum(sampler.takes(time) for time in times) >= 999


def test_a_pause_is_not_made_up_for():
    sampler = Sampler(10, 0.0)
    times = [0.0, *(5 + np.arange(60) / 30)]
    taken = np.diff([time for time in times if sampler.takes(time)])
    assert len(taken) <= 1 + 21
    assert sorted(taken)[1] > 0.09


def test_real_footage_reads_as_its_readme_says(shared_data: Path):
    source = source_of(shared_data / "ped2" / "test" / "test_01.mp4")
    frames = list(read_frames(source))
    assert len(frames) == 180
    assert [f.pts_s for f in frames] == pytest.approx(np.arange(180) / 10)
    assert frames[0].image.shape == (240, 360, 3)
    # A grey camera: the decoded channels are equal but for chroma rounding.
    spread = np.ptp(np.stack([f.image for f in frames[::30]]).astype(int), axis=-1)
    assert spread.max() <= 2
    assert 60 < frames[0].image.mean() < 200
