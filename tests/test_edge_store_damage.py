"""What the store keeps through kills and damage: all that was announced."""

from __future__ import annotations

import cProfile
import os
import pstats
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anomaly.edge.durable import write_bytes
from anomaly.edge.store import Store
from anomaly.edge.store.database import is_corrupt
from anomaly.errors import StoreError

T0 = 1_790_000_000.0
#: Stores events, and says of each, once it is stored, that it is (as a runner announces it).
RUNNER = """
import sys, time
from anomaly.edge.store import Store

def outbox(connection, event, what):
    connection.execute("INSERT INTO box VALUES (?, ?)", (event.id, what))

with Store(sys.argv[1], [outbox], schemas=["CREATE TABLE IF NOT EXISTS box (id TEXT, what TEXT);"]) as store:
    start = float(sys.argv[2])
    while True:
        start += 1
        event = store.start_event(camera="press", model="m", start_utc_s=start, start_pts_s=0.0, score=2.0,
                                  threshold=1.0)
        print("start", event.id, flush=True)
        store.add_scores("press", [(start + 0.5, 0.5, 1.0, 1.0)])
        store.update_event(event.id, score=3.0)
        store.end_event(event.id, start + 0.6, 0.6)
        print("end", event.id, flush=True)
"""


def add_event(store: Store, start: float = T0, **more: object):
    return store.start_event(
        camera="press", model="m", start_utc_s=start, start_pts_s=0.0, score=2.0, threshold=1.0, **more
    )


def kill_again_and_again(folder: Path, times: int) -> None:
    chance = random.Random(5)
    started: set[str] = set()
    ended: set[str] = set()
    for number in range(times):
        runner = subprocess.Popen(
            [sys.executable, "-c", RUNNER, str(folder), str(T0 + 1000 * number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        first = runner.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.1))
        os.kill(runner.pid, signal.SIGKILL)
        said = (first + runner.stdout.read()).splitlines()
        runner.stdout.close()
        assert runner.wait() == -signal.SIGKILL
        whole = [line.split() for line in said if len(line.split()) == 2 and len(line.split()[1]) == 26]
        assert whole
        started |= {word for kind, word in whole if kind == "start"}
        ended |= {word for kind, word in whole if kind == "end"}
        with Store(folder, owner=False) as store:
            stored = {one.id: one for one in store.events(limit=10**6)}
            assert started <= stored.keys()
            assert all(stored[one].status == "ended" and stored[one].score == 3.0 for one in ended)
            told = set(store.connection().execute("SELECT id, what FROM box"))
            assert {(one, "start") for one in stored} <= told
    with Store(folder) as store:
        assert not [one for one in store.notices if "damaged" in one]
        assert not [one for one in store.events(limit=10**6) if one.status == "open"]
        assert all(one.end_utc_s is not None for one in store.events(limit=10**6))


def test_every_event_that_was_announced_is_there_after_kill_9(tmp_path: Path):
    kill_again_and_again(tmp_path, 5)


@pytest.mark.slow
def test_every_event_that_was_announced_is_there_after_a_hundred_kill_9(tmp_path: Path):
    kill_again_and_again(tmp_path, 100)


def test_an_event_that_was_on_ends_where_its_scores_end(tmp_path: Path):
    told = []
    with Store(tmp_path) as store:
        one = add_event(store)
        store.add_scores("press", [(T0 + 1, 1.0, 1.0, 1.0), (T0 + 2, 2.0, 1.0, 1.0)])
        other = add_event(store, T0 + 50)
    with Store(tmp_path, [lambda connection, event, what: told.append((event.id, what))]) as store:
        assert store.event(one.id).end_utc_s == T0 + 2
        assert (store.event(one.id).end_pts_s, store.event(one.id).status) == (2.0, "cut off")
        assert store.event(other.id).end_utc_s == T0 + 50
        assert store.notices == ("2 events were on when the last run died; they are marked as cut off",)
    assert sorted(told) == sorted([(one.id, "end"), (other.id, "end")])


@pytest.mark.parametrize("mark", ["", ".m0123456789abcdef"])
def test_files_and_rows_agree_after_a_start(tmp_path: Path, mark: str):
    with Store(tmp_path) as store:
        one = add_event(store, snapshot="snapshots/press/a.jpg")
        store.end_event(one.id, T0 + 1, 1.0)
        store.set_clip(one.id, clip="clips/press/a.mp4", clip_state="ready")
        write_bytes(tmp_path / "clips/press/nobody.mp4", b"x")
        write_bytes(tmp_path / "snapshots/press/a.jpg", b"x")
        (tmp_path / "clips/press/.b.mp4.7.part").write_bytes(b"x")
        unfinished = tmp_path / "recording/press/20260921/140010.250.mp4.part"
        write_bytes(unfinished, b"x")
        lost = tmp_path / f"recording/press/20260921/140000.250{mark}.mp4"
        write_bytes(lost, b"x" * 50)
        os.utime(lost, (T0 + 9.5, 1_789_999_210.0))
        store.add_segment("press", "press/20260921/gone.mp4", T0, T0 + 10, 0.0, 5, "h264")
        store.connection().execute("INSERT INTO doomed_files VALUES ('clips/press/secret.mp4')")
        write_bytes(tmp_path / "clips/press/secret.mp4", b"x")
    with Store(tmp_path) as store:
        assert store.event(one.id).clip_state == "pending"
        assert store.event(one.id).snapshot == "snapshots/press/a.jpg"
        [segment] = store.segments("press", 0, 2 * T0)
        assert (segment.path, segment.bytes) == (lost, 50)
        assert segment.start_utc_s == 1_789_999_200.25
        assert segment.end_utc_s == 1_789_999_210.0
        assert (tmp_path / "orphans/clips/press/nobody.mp4").exists()
        assert unfinished.exists()
        left = {path.name for path in (tmp_path / "clips").rglob("*.*")}
        assert left == set()
        assert len(store.notices) == 4
        assert "1 recorded segments had no row; they are indexed again" in store.notices
        assert [one.kind for one in store.health()] == ["store"] * 4
    with Store(tmp_path) as store:
        assert store.notices == ()


def test_a_start_takes_little_time_for_each_file_that_is_as_it_should_be(tmp_path: Path):
    """No camera is watched before: of a week of 16 cameras it took half a minute."""

    def calls(folder: Path) -> int:
        Store(folder).close()
        profile = cProfile.Profile()
        profile.runcall(lambda: Store(folder).close())
        return pstats.Stats(profile).total_calls  # type: ignore[attr-defined]

    few, full = tmp_path / "few", tmp_path / "full"
    segments = full / "recording" / "press" / "20260101"
    segments.mkdir(parents=True)
    for number in range(1000):
        (segments / f"{number:06d}.000.mp4").touch()
    assert calls(full) - calls(few) < 40 * 1000


@pytest.mark.parametrize("damage", ["pages", "header", "log"])
def test_a_damaged_database_is_set_aside_and_what_can_be_read_is_kept(tmp_path: Path, damage: str):
    with Store(tmp_path) as store:
        ids = [add_event(store, T0 + i, doubt="d" * 200).id for i in range(400)]
        store.add_verdict(ids[0], "real", "ann")
        # Another version may have had a column more.
        store.connection().execute("ALTER TABLE states ADD COLUMN why TEXT")
        store.set_state("press", "stopped", "ann", T0)
        write_bytes(tmp_path / "clips/press/a.mp4", b"x")
    path = tmp_path / "anomaly.db"
    data = bytearray(path.read_bytes())
    if damage == "pages":
        middle = data.find(b"d" * 200, len(data) // 2) // 4096 * 4096
        data[middle : middle + 3 * 4096] = os.urandom(3 * 4096)
    elif damage == "header":
        data[:4096] = b"\0" * 4096
    path.write_bytes(data)
    if damage == "log":
        (tmp_path / "anomaly.db-wal").write_bytes(os.urandom(10_000))
    with Store(tmp_path) as store:
        if damage == "log":
            assert len(store.events(limit=1000)) == 400
            assert not [one for one in store.notices if "damaged" in one]
            return
        [notice, *_] = store.notices
        assert "anomaly.db was damaged" in notice
        assert "keep it, `sqlite3" in notice
        [aside] = tmp_path.glob("anomaly.db.damaged-*Z")
        assert bytes(data) == aside.read_bytes()
        assert (tmp_path / "clips/press/a.mp4").exists()
        saved = len(store.events(limit=1000))
        assert 50 < saved < 400 if damage == "pages" else saved == 0
        assert ("press" in store.states()) is (damage == "pages")
        add_event(store, T0 + 1000)
        assert store.health()[-1].kind == "store"
    with Store(tmp_path) as again:
        assert again.events(limit=1)[0].start_utc_s == T0 + 1000


def test_text_that_is_none_is_damage(tmp_path: Path):
    """A page of something else where an id stood: SQLite hands it out, and Python refuses it."""
    with Store(tmp_path) as store:
        store.connection().execute("INSERT INTO facts VALUES ('a', CAST(X'ff00fe' AS TEXT))")
        with pytest.raises(StoreError, match="is damaged") as raised:
            store.fact("a")
        assert is_corrupt(raised.value)
