"""What is kept and for how long, on disks that fill and under clocks that jump."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from clips import texture, write_clip

import anomaly.edge.retention
from anomaly.edge.durable import write_bytes
from anomaly.edge.retention import Clocks, Retention, RetentionSettings, estimate_disk
from anomaly.edge.segment_name import mask_mark, segment_name
from anomaly.edge.store import Segment, Store, timeline
from anomaly.edge.store.upkeep import delete_old_recording
from anomaly.errors import StoreFullError

NOW = 1_790_000_000.0
DAY = 86_400.0


class Clock:
    """A machine's two clocks, of which one can be set."""

    def __init__(self) -> None:
        self.wall, self.steady = NOW, 50.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    @property
    def clocks(self) -> Clocks:
        return Clocks(lambda: self.wall, lambda: self.steady)


def add_event(store: Store, start: float, *, held: bool = False, size: int = 10) -> str:
    one = store.start_event(
        camera="press", model="m", start_utc_s=start, start_pts_s=0.0, score=2.0, threshold=1.0, held=held
    )
    for kind, end in (("snapshots", "jpg"), ("clips", "mp4")):
        write_bytes(store.folder / f"{kind}/press/{one.id}.{end}", b"x" * size)
    store.update_event(one.id, snapshot=f"snapshots/press/{one.id}.jpg")
    store.end_event(one.id, start + 2, 2.0)
    store.set_clip(one.id, clip=f"clips/press/{one.id}.mp4", clip_state="ready")
    return one.id


def add_segment(store: Store, start: float, size: int = 10, mark: str = "") -> Path:
    path = Path("press") / segment_name(start, mark)
    write_bytes(store.folder / "recording" / path, b"x" * size)
    store.add_segment("press", path, start, start + 10, 0.0, size, "h264")
    store.add_scores("press", [(start, 0.0, 1.0, 1.0)])
    return store.folder / "recording" / path


def clips(store: Store) -> set[str]:
    return {path.stem for path in (store.folder / "clips").rglob("*.mp4")}


def test_by_age_clips_go_then_rows_and_what_is_held_stays(tmp_path: Path):
    with Store(tmp_path) as store:
        ages = {name: add_event(store, NOW - days * DAY, held=name == "held") for name, days in
                (("ancient", 400), ("held", 400), ("old", 31), ("new", 29))}  # fmt: skip
        kept, gone = add_segment(store, NOW - 23 * 3600), add_segment(store, NOW - 25 * 3600)
        Retention(store, clocks=Clock().clocks).tidy()
        assert clips(store) == {ages["held"], ages["new"]}
        assert store.event(ages["ancient"]) is None
        old = store.event(ages["old"])
        assert (old.clip, old.snapshot, old.clip_state) == (None, None, "none")
        assert store.event(ages["held"]).snapshot is not None
        assert kept.exists()
        assert not gone.exists()
        assert len(store.segments("press", 0, NOW + DAY)) == 1
        assert len(store.scores("press", 0, NOW + DAY)) == 1


@pytest.mark.parametrize("jump", [DAY, -1.5 * DAY, 60 * DAY, -60 * DAY, 400 * DAY])
def test_a_jump_makes_nothing_older_nor_younger(tmp_path: Path, jump: float):
    clock = Clock()
    with Store(tmp_path) as store:
        old = add_event(store, NOW - 29.99 * DAY)
        recorded = add_segment(store, NOW - 23 * 3600)
        retention = Retention(store, clocks=clock.clocks)
        retention.tidy()
        clock.pass_(30)
        clock.wall += jump
        retention.tidy()
        later = add_event(store, clock.wall)
        clock.pass_(700)
        retention.tidy()
        assert clips(store) == {old, later}
        assert recorded.exists()
        clock.pass_(3000)
        retention.tidy()
        assert clips(store) == {later}
        assert not recorded.exists()
        clock.pass_(30.1 * DAY)
        retention.tidy()
        assert clips(store) == set()


@pytest.mark.parametrize("every", [0.0, 1.0])
def test_a_jump_is_known_after_a_restart_and_the_clock_may_stay_wrong(tmp_path: Path, every: float):
    clock = Clock()
    with Store(tmp_path) as store:
        retention = Retention(store, clocks=clock.clocks)
        retention.tidy()
        add_event(store, NOW - 100)
        add_segment(store, NOW - 100)
        clock.pass_(30)
        retention.tidy()
        clock.wall += 400 * DAY
        clock.pass_(30)
        retention.tidy()
    for _ in range(40):
        with Store(tmp_path) as store:
            clock.pass_(30)
            clock.steady *= every  # of another boot, or of the same
            Retention(store, clocks=clock.clocks).tidy()
    with Store(tmp_path) as store:
        assert len(store.events()) == len(clips(store)) == len(store.segments("press", 0, NOW)) == 1


def test_what_a_wrong_clock_stamped_is_as_old_as_it_is_when_the_clock_is_set_right(tmp_path: Path):
    """A machine without a battery starts in another year until it is told the time, each morning."""
    clock = Clock()
    ancient = NOW - 2000 * DAY
    mornings, days = [], []
    with Store(tmp_path) as store:
        for day in range(34):
            clock.wall = ancient
            retention = Retention(store, clocks=clock.clocks)
            retention.tidy()
            mornings.append(add_event(store, clock.wall + 10))
            clock.pass_(20)
            clock.wall = NOW + day * DAY
            retention.tidy()
            days.append(add_event(store, clock.wall + 10))
            clock.pass_(86_000)
            retention.tidy()
        # Each day that ran counts; the night, of which nothing is known, does not.
        assert clips(store) & set(days) == set(days[-30:])
        # Every morning shows the same time: what it stamped is as young as the youngest.
        assert set(mornings[-30:]) <= clips(store)


def test_weeks_off_and_mondays_keep_things_longer_by_the_time_off_only(tmp_path: Path):
    clock = Clock()
    with Store(tmp_path) as store:
        days = []
        for _ in range(9):
            retention = Retention(store, clocks=clock.clocks)
            retention.tidy()
            for _ in range(5):
                days.append(add_event(store, clock.wall))
                clock.pass_(DAY)
                retention.tidy()
            clock.wall += 2 * DAY
        assert clips(store) == set(days[-30:])


def test_a_clock_that_is_slewed_or_a_summer_time_is_no_jump(tmp_path: Path):
    clock = Clock()
    with Store(tmp_path) as store:
        add_event(store, NOW - 30 * DAY + 100)
        retention = Retention(store, clocks=clock.clocks)
        for _ in range(10):
            retention.tidy()
            clock.pass_(30)
            clock.wall += 0.015
        assert clips(store) == set()


@pytest.mark.parametrize(("off", "deleted"), [(0.9 * DAY, True), (40 * DAY, False), (-0.9 * DAY, False)])
def test_of_the_time_off_up_to_a_day_counts(tmp_path: Path, off: float, deleted: bool):
    with Store(tmp_path) as store:
        clock = Clock()
        Retention(store, clocks=clock.clocks).tidy()
        old = add_event(store, NOW - 29.5 * DAY)
        clock.wall += off
        Retention(store, clocks=clock.clocks).tidy()
        assert clips(store) == (set() if deleted else {old})


def test_a_clock_that_jumps_all_the_time_fills_no_memory_and_deletes_nothing_too_early(tmp_path: Path):
    clock = Clock()
    with Store(tmp_path) as store:
        retention = Retention(store, clocks=clock.clocks)
        retention.tidy()
        old = add_event(store, NOW)
        for turn in range(120):
            clock.pass_(1)
            clock.wall += 3600 * (-1) ** turn
            retention.tidy()
        assert len(store.fact("retention.epochs") or "") < 20_000
        clock.pass_(29.9 * DAY)
        retention.tidy()
        assert clips(store) == {old}
        clock.pass_(1.2 * DAY)
        retention.tidy()
        assert clips(store) == set()


@pytest.mark.parametrize("at_the_start", [False, True])
def test_an_error_that_nobody_foresaw_ends_no_retention_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_the_start: bool
):
    monkeypatch.setattr(anomaly.edge.retention, "_EVERY_S", 0.05)
    told = []
    masks = tmp_path / "masks"
    if not at_the_start:
        masks.mkdir()
    with (
        Store(tmp_path / "store") as store,
        Retention(
            store,
            masked=lambda: dict.fromkeys(os.listdir(masks), "m"),
            on_trouble=told.append,
        ),
    ):
        if not at_the_start:
            masks.rmdir()
        wait_for(lambda: len(told) == 1)
        old = add_event(store, NOW - 4000 * DAY)
        masks.mkdir()
        wait_for(lambda: len(told) == 2)
        wait_for(lambda: store.event(old) is None)
    assert [(one.kind, one.begins) for one in told] == [("retention", True), ("retention", False)]
    assert told[0].detail == {"error": "FileNotFoundError"}


def wait_for(done: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_however_much_is_kept_retention_reads_no_table_to_its_end(tmp_path: Path):
    """Whoever stores an event waits for it, twice a minute: half a second after a day of four cameras, and longer each week."""
    asked: dict[str, None] = {}
    with Store(tmp_path) as store:
        add_event(store, NOW)
        add_segment(store, NOW)
        connection = store.connection()
        connection.set_trace_callback(lambda sql: asked.setdefault(sql))
        Retention(store, clocks=Clock().clocks).tidy()
        connection.set_trace_callback(None)
        plans = {
            sql: [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + sql.replace("Inf", "9e999"))]
            for sql in asked
            if sql.startswith(("SELECT", "DELETE"))
        }
    kept = ("events", "scores", "segments", "health", "gaps")
    looked = {table for table in kept if any(f"FROM {table} " in sql for sql in plans)}
    assert looked == set(kept)
    assert [
        sql
        for sql, plan in plans.items()
        for step in plan
        if step.startswith(tuple(f"SCAN {one}" for one in kept))
    ] == []


def test_by_bytes_what_came_first_goes_though_the_clock_went_back(tmp_path: Path):
    with Store(tmp_path) as store:
        events = [add_event(store, NOW - i * 100, held=i == 0, size=8192) for i in range(5)]
        segments = [add_segment(store, NOW - i * 100, 1000) for i in range(6)]
        settings = RetentionSettings(clip_bytes=3 * 16384, recording_bytes=2500)
        Retention(store, settings, clocks=Clock().clocks).tidy()
        assert clips(store) == {events[0], events[3], events[4]}
        assert [path.exists() for path in segments] == [False] * 4 + [True] * 2


def test_by_bytes_clips_of_misses_go_too_in_their_turn(tmp_path: Path):
    """They count: what was marked as missed kept each new clip out."""
    with Store(tmp_path) as store:
        ids = []
        for i in range(3):
            ids.append(add_event(store, NOW + i, size=4096))
            miss = store.mark_miss("press", NOW + i, NOW + i + 1, "scratch", "mara")
            write_bytes(tmp_path / f"clips/press/{miss.id}.mp4", bytes(8192))
            store.set_clip(miss.id, miss=True, clip=f"clips/press/{miss.id}.mp4", clip_state="ready")
            ids.append(miss.id)
        Retention(store, RetentionSettings(clip_bytes=3 * 8192), clocks=Clock().clocks).tidy()
        assert clips(store) == set(ids[3:])
        assert [one.clip_state for one in store.misses()] == ["ready", "ready", "none"]


def test_by_bytes_what_no_event_knows_goes_before_what_one_shows(tmp_path: Path):
    """After a damaged database all clips of before are such: they would keep each new clip out for a month."""
    with Store(tmp_path) as store:
        event = add_event(store, NOW, size=8192)
        orphans = [tmp_path / f"orphans/clips/press/{i}.mp4" for i in range(3)]
        for i, path in enumerate(orphans):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(16384))
            os.utime(path, (NOW - i, NOW - i))
        Retention(store, RetentionSettings(clip_bytes=3 * 16384), clocks=Clock().clocks).tidy()
        assert clips(store) == {event}
        assert [path.exists() for path in orphans] == [True, True, False]


def test_the_disk_of_a_day_is_told_before_it_is_written():
    told = estimate_disk({"press": 4e6, "belt": 4e6})
    assert told.recording_per_day == pytest.approx(86.4e9)
    assert told.kept > told.recording_per_day + 29 * told.clips_per_day
    assert "recording 86.4 GB a day" in str(told)
    assert estimate_disk({"press": 4e6}, recording=False).recording_per_day == 0
    assert estimate_disk({"press": 4e6}, RetentionSettings(recording_bytes=10**9, clip_bytes=0)).kept < 1.1e9


@pytest.fixture
def small_disk(tmp_path: Path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, text=True
    )
    if not done or done.returncode:
        pytest.skip(
            f"a small disk cannot be mounted here: {done.stderr.strip() if done else 'apt-get install mount'}"
        )
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(path: Path, leave: int = 0) -> None:
    disk = os.statvfs(path.parent)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(disk.f_bavail * disk.f_frsize - leave, 4096))


def test_a_full_disk_stops_recording_then_clips_and_never_events(small_disk: Path):
    told, health = [], []
    settings = RetentionSettings(recording_reserve_bytes=3 * 2**20, clip_reserve_bytes=2**20)
    with Store(small_disk) as store:
        retention = Retention(
            store,
            settings,
            told.append,
            on_health=lambda _, detail, over: health.append((detail["stopped"], over)),
        )
        assert retention.tidy().recording is True
        fill(small_disk / "foreign", 2 * 2**20)
        room = retention.tidy()
        assert (room.recording, room.clips) == (False, True)
        (small_disk / "foreign").unlink()
        fill(small_disk / "foreign")
        room = retention.tidy()
        assert (room.recording, room.clips) == (False, False)
        written = [
            store.start_event(
                camera="press", model="m", start_utc_s=NOW + i, start_pts_s=0.0, score=2.0, threshold=1.0
            ).id
            for i in range(100)
        ]
        assert [one.kind for one in store.health()] == ["disk", "disk"]
        assert health == [("recording", False), ("clips", False)]
        count = 0
        with pytest.raises(StoreFullError, match="make room on the disk"):  # noqa: PT012
            while count < 20_000:
                store.start_event(
                    camera="press",
                    model="m" * 1000,
                    start_utc_s=NOW,
                    start_pts_s=0.0,
                    score=2.0,
                    threshold=1.0,
                )
                count += 1
        assert set(written) <= {one.id for one in store.events(limit=20_000)}
        (small_disk / "foreign").unlink()
        room = retention.tidy()
        assert (room.recording, room.clips) == (True, True)
        store.start_event(
            camera="press", model="m", start_utc_s=NOW, start_pts_s=0.0, score=2.0, threshold=1.0
        )
        assert all(one.end_utc_s is not None for one in store.health())
        assert health[2:] == [("recording", True), ("clips", True)]
        assert [(one.recording, one.clips) for one in told] == [(False, True), (False, False), (True, True)]
        saved = len(store.events(limit=50_000))
    with Store(small_disk) as again:
        assert len(again.events(limit=50_000)) == saved
        assert not [one for one in again.notices if "damaged" in one]


def test_a_store_opens_on_a_disk_that_is_full(small_disk: Path):
    with Store(small_disk) as store:
        one = add_event(store, NOW)
    fill(small_disk / "foreign")
    with Store(small_disk) as store:
        assert store.event(one).status == "ended"
        store.start_event(
            camera="press", model="m", start_utc_s=NOW, start_pts_s=0.0, score=2.0, threshold=1.0
        )


def test_what_was_recorded_before_the_masks_is_kept_only_for_clips_to_come(tmp_path: Path):
    clock = Clock()
    masked: dict[str, str] = {}
    mark, other = (mask_mark([[(0, 0), (1, 0), (1, y)]]) for y in (1, 0.5))
    with Store(tmp_path) as store:
        event = store.start_event(
            camera="press", model="m", start_utc_s=NOW - 3000, start_pts_s=0.0, score=2.0, threshold=1.0,
            clip_state="pending",
        )  # fmt: skip
        store.end_event(event.id, NOW - 2990, 2.0)
        painted, otherwise = (add_segment(store, NOW - 5000, mark=name) for name in (mark, other))
        spent, needed, fresh = (add_segment(store, NOW - age) for age in (4000, 3005, 60))
        everything = (painted, otherwise, spent, needed, fresh)
        retention = Retention(store, clocks=clock.clocks, masked=lambda: masked)
        retention.tidy()
        assert all(path.exists() for path in everything)  # nothing is masked: 24 hours
        masked["press"] = mark
        retention.tidy()
        assert [path.exists() for path in everything] == [True, False, False, True, True]
        store.set_clip(event.id, clip_state="ready", clip="clips/press/a.mp4")
        retention.tidy()
        assert [path.exists() for path in everything] == [True, False, False, False, True]


def test_a_store_that_cannot_be_written_keeps_no_recording_going_on_a_disk_that_fills(tmp_path: Path):
    """Nothing was deleted any more, and recording went on into the room of the events that wait for the store."""
    told: list[bool] = []
    settings = RetentionSettings(recording_reserve_bytes=2**60, clip_reserve_bytes=0)
    with Store(tmp_path) as store:
        database = tmp_path / "anomaly.db"
        database.rename(tmp_path / "taken")
        with Retention(store, settings, on_room=lambda room: told.append(room.recording)) as retention:
            assert not retention.room.recording
        (tmp_path / "taken").rename(database)
        retention.tidy()
        assert told == [False]
        assert [one.detail["stopped"] for one in store.health() if one.kind == "disk"] == ["recording"]


def test_what_a_killed_process_left_is_taken_in_where_its_camera_is_gone(tmp_path: Path):
    """No other process finishes it: it was never deleted, neither by age nor for the camera's privacy masks."""
    clock = Clock()
    with Store(tmp_path / "store") as store:
        rest, empty, written = (begun(store, second) for second in (10, 20, 30))
        with open(empty, "r+b") as file:
            file.truncate(file.read().index(b"moof") - 4)
        # This one was finished, and its process died before it could say so.
        untold = begun(store, 40)
        untold = untold.rename(untold.with_suffix(""))
        known = add_segment(store, NOW + 50)
        retention = Retention(store, clocks=clock.clocks)
        retention.tidy()
        clock.pass_(601)
        written.write_bytes(written.read_bytes() + b"more")
        retention.tidy()
        assert [path.exists() for path in (rest, empty, written)] == [False, False, True]
        rows = {row.path: row for row in store.segments("press", 0, 9e9)}
        assert set(rows) == {rest.with_suffix(""), untold, known}
        assert (rows[untold].start_utc_s, rows[known].end_utc_s) == (NOW + 40, NOW + 60)
        with av.open(str(rest.with_suffix(""))) as container:
            assert sum(1 for _ in container.decode(video=0)) > 5
        clock.pass_(25 * 3600)
        retention.tidy()
        assert not list((store.folder / "recording").rglob("*.mp4"))


def test_at_the_end_what_is_old_is_left_to_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A stop waited half a minute for the files of a night off."""
    clock = Clock()
    with Store(tmp_path / "store") as store:
        (store.folder / "recording" / "press").mkdir()
        with store.transaction() as connection:
            for i in range(500):
                (store.folder / "recording" / "press" / f"{i}.mp4").write_bytes(b"x")
                row = Segment("press", Path("press", f"{i}.mp4"), NOW + i, NOW + i + 1, 0.0, 1, "h264")
                timeline.add_segment(connection, row)
        clock.pass_(2 * DAY)
        retention, remove = Retention(store, clocks=clock.clocks), store.remove_doomed

        def stopped_meanwhile() -> None:
            retention.close()
            remove()

        monkeypatch.setattr(store, "remove_doomed", stopped_meanwhile)
        retention.tidy()
        assert len(store.segments("press", 0, 9e9)) == 300
    with Store(tmp_path / "store") as store:
        Retention(store, clocks=clock.clocks).tidy()
        assert store.segments("press", 0, 9e9) == []


def begun(store: Store, second: int) -> Path:
    """A segment as it is while it is written, of a camera that the site does not have."""
    path = store.folder / "recording" / "press" / segment_name(NOW + second, "")
    part = path.with_name(f"{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    write_clip(part, texture(10), container="mp4", muxer={"movflags": "frag_keyframe+empty_moov"})
    os.utime(part, (NOW + second + 1, NOW + second + 1))
    return part


def test_cameras_are_watched_before_what_is_old_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After a night off hours of recording are due: their deletion kept every camera unwatched for half a minute and more."""
    begun, may_go_on = threading.Event(), threading.Event()

    def slowly(store: Store, before_utc_s: float, after_utc_s: float) -> int:
        begun.set()
        assert may_go_on.wait(20)
        return delete_old_recording(store, before_utc_s, after_utc_s)

    monkeypatch.setattr(anomaly.edge.store.upkeep, "delete_old_recording", slowly)
    with Store(tmp_path) as store:
        old = add_segment(store, NOW - 25 * 3600)
        retention = Retention(store, clocks=Clock().clocks)
        retention.start()
        assert retention.room.free_bytes > 0
        assert begun.wait(20)
        may_go_on.set()
        wait_for(lambda: not old.exists())
        retention.close()
