"""The store: what is committed is there, in order, for every thread and process."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from anomaly.edge.durable import write_bytes
from anomaly.edge.store import ScorePoint, Store, database
from anomaly.edge.store.database import open_database
from anomaly.errors import StoreError, StoreReplacedError

T0 = 1_790_000_000.0


def event(store: Store, start: float = T0, camera: str = "press", **more: object):
    given = {
        "model": "ab" * 32,
        "start_utc_s": start,
        "start_pts_s": start - T0,
        "score": 2.0,
        "threshold": 1.5,
    }
    return store.start_event(camera=camera, **{**given, **more})


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "store") as opened:
        yield opened


def test_an_event_is_what_was_given_and_what_became_of_it(store: Store):
    first = event(
        store, box=(1, 2, 30, 40), frame_size=(48, 64), explanation={"source": "a.mp4", "time_s": 3.5}
    )
    assert (first.status, first.end_utc_s, first.peak_utc_s) == ("open", None, T0)
    assert (first.box, first.frame_size, first.explanation["time_s"]) == ((1, 2, 30, 40), (48, 64), 3.5)
    assert first.announced is True
    assert first.certified is False
    updated = store.update_event(first.id, score=3.25, peak_utc_s=T0 + 1, peak_pts_s=1.0)
    assert (updated.score, updated.peak_pts_s) == (3.25, 1.0)
    ended = store.end_event(first.id, T0 + 2, 2.0, doubt="other camera")
    assert (ended.status, ended.end_pts_s, ended.doubt) == ("ended", 2.0, "other camera")
    assert store.event(first.id) == ended
    assert store.event("0" * 26) is None


def test_what_is_not_an_event_is_refused_in_one_line(store: Store):
    with pytest.raises(StoreError, match="without model, start_utc_s"):
        store.start_event(camera="press")
    with pytest.raises(StoreError, match="no field 'colour'"):
        event(store, colour="red")
    with pytest.raises(StoreError, match="no event nobody"):
        store.update_event("nobody", score=1.0)
    assert store.events() == []


def test_events_come_newest_first_in_pages_and_by_what_is_asked(store: Store):
    made = [event(store, T0 + i, "press" if i % 2 else "belt", announced=i != 4) for i in range(10)]
    ids = [one.id for one in made]
    assert ids == sorted(ids)
    assert {len(one) for one in ids} == {26}
    page = store.events(limit=4)
    assert [one.id for one in page] == ids[:5:-1]
    assert [one.id for one in store.events(limit=4, before_id=page[-1].id)] == ids[5:1:-1]
    assert [one.id for one in store.events(camera="press", limit=2)] == [ids[9], ids[7]]
    assert [one.id for one in store.events(announced=False)] == [ids[4]]
    for one in made:
        store.end_event(one.id, one.start_utc_s + 0.5, one.start_pts_s + 0.5)
    assert [one.id for one in store.events(since=T0 + 2.5, until=T0 + 4)] == [ids[3], ids[2]]


def test_ids_rise_though_the_clock_goes_back(store: Store, monkeypatch: pytest.MonkeyPatch):
    now = time.time()
    ids = []
    for shift in (0, 86400, -86400, -86400, 3600):
        monkeypatch.setattr(time, "time", lambda shift=shift: now + shift)
        ids.append(event(store).id)
    assert ids == sorted(set(ids))


def test_what_the_hooks_write_is_committed_with_the_event_or_not_at_all(tmp_path: Path):
    told = []

    def outbox(connection: sqlite3.Connection, stored, what: str) -> None:
        connection.execute("INSERT INTO box VALUES (?, ?)", (stored.id, what))
        told.append(what)
        if stored.doubt == "unsendable":
            raise RuntimeError("no")

    schema = "CREATE TABLE IF NOT EXISTS box (id TEXT, what TEXT);"
    with Store(tmp_path, [outbox], schemas=[schema]) as store:
        first = event(store)
        store.update_event(first.id, score=9.0)
        store.hold(first.id, True)
        store.end_event(first.id, T0 + 1, 1.0)
        with pytest.raises(RuntimeError):
            event(store, doubt="unsendable")
        assert [one.id for one in store.events()] == [first.id]
        rows = store.connection().execute("SELECT * FROM box").fetchall()
        assert rows == [(first.id, "start"), (first.id, "update"), (first.id, "end")]
        assert told == ["start", "update", "end", "start"]


def test_a_transaction_of_a_sharer_is_all_or_nothing(store: Store):
    with pytest.raises(StoreError), store.transaction():
        store.update_event(event(store).id, colour="red")
    assert store.events() == []
    with store.transaction():
        event(store)
        event(store)
    assert len(store.events()) == 2


def test_verdicts_are_kept_with_who_when_and_model(store: Store):
    first, second = event(store), event(store)
    store.add_verdict(first.id, "unsure", "ann", "dark")
    store.add_verdict(first.id, "false alarm", "bob")
    given = store.verdicts(first.id)
    assert [(one.verdict, one.who, one.note) for one in given] == [
        ("unsure", "ann", "dark"),
        ("false alarm", "bob", ""),
    ]
    assert {one.model for one in given} == {first.model}
    assert all(abs(one.utc_s - time.time()) < 60 for one in given)
    assert [one.id for one in store.events(unreviewed=True)] == [second.id]
    with pytest.raises(StoreError, match="'maybe' is none; say real, false alarm, unsure"):
        store.add_verdict(first.id, "maybe", "ann")
    with pytest.raises(StoreError, match="no event"):
        store.add_verdict("nobody", "real", "ann")


def test_a_miss_is_put_down_to_the_model_that_watched_then(store: Store):
    store.set_model("press", "old", "", T0)
    store.set_model("press", "new", "", T0 + 100)
    miss = store.mark_miss("press", T0 + 50, T0 + 52, "scratch", "ann")
    assert (miss.model, miss.label, miss.who, miss.clip_state) == ("old", "scratch", "ann", "pending")
    assert store.mark_miss("press", T0 + 150, T0 + 152, "dent", "ann").model == "new"
    assert [one.label for one in store.misses("press")] == ["dent", "scratch"]
    assert store.misses("belt") == []
    with pytest.raises(StoreError, match="no length"):
        store.mark_miss("press", T0, T0, "scratch", "ann")


def test_scores_are_thinned_to_their_maxima(store: Store):
    for second in range(60):
        batch = [(T0 + second + i / 10, second + i / 10, 1.0, 0.5) for i in range(10)]
        if second == 33:
            batch[4] = (T0 + 33.4, 33.4, 7.0, float("-inf"))
        store.add_scores("press", batch)
    store.add_scores("press", [])
    whole = store.scores("press", T0, T0 + 60)
    assert len(whole) == 600
    assert whole[334] == ScorePoint(T0 + 33.4, 33.4, 7.0, float("-inf"))
    thin = store.scores("press", T0, T0 + 60, at_most=20)
    assert len(thin) == 20
    assert [one.utc_s for one in thin if one.score == 7.0] == [T0 + 33.4]
    assert max(store.scores("press", T0, T0 + 60, at_most=5), key=lambda one: one.score).score == 7.0
    assert len(store.scores("press", T0 + 10.05, T0 + 11.05)) == 10
    assert store.scores("belt", T0, T0 + 60) == []


def test_health_gaps_and_states_are_kept(store: Store):
    first = store.add_health("press", "disconnected", T0, {"reason": "timed out"})
    store.add_health("", "clock", T0 + 5, {"step_s": 3600.0})
    store.end_health(first, T0 + 2)
    assert [(one.kind, one.end_utc_s) for one in store.health()] == [
        ("clock", None),
        ("disconnected", T0 + 2),
    ]
    assert store.health("press")[0].detail == {"reason": "timed out"}
    assert [one.kind for one in store.health(since=T0 + 3)] == ["clock"]
    store.add_gap("press", T0, T0 + 2, "blind")
    store.add_gap("press", T0 + 10, T0 + 20, "state")
    assert [one.reason for one in store.gaps("press", T0 + 1, T0 + 15)] == ["blind", "state"]
    assert store.gaps("press", T0 + 2, T0 + 10) == []
    store.set_state("press", "stopped", "ann", T0)
    store.set_state("press", "running", "bob", T0 + 1)
    assert {name: (one.state, one.who) for name, one in store.states().items()} == {
        "press": ("running", "bob")
    }


def test_a_gap_that_is_told_in_parts_is_one_row(store: Store):
    """A line that rests at night made a row a minute, half a million a year of each camera."""
    for minute in range(60):
        store.add_gap("press", T0 + 60 * minute, T0 + 60 * minute + 60, "state")
        store.add_gap("belt", T0 + 60 * minute, T0 + 60 * minute + 30, "state")
    assert [(one.start_utc_s, one.end_utc_s) for one in store.gaps("press", T0, T0 + 4000)] == [
        (T0, T0 + 3600)
    ]
    assert len(store.gaps("belt", T0, T0 + 4000)) == 60
    # Another reason, a pause, a clock that was set back: rows of their own.
    store.add_gap("press", T0 + 3600, T0 + 3660, "blind")
    store.add_gap("press", T0 + 3700, T0 + 3760, "blind")
    store.add_gap("press", T0 + 100, T0 + 160, "blind")
    assert len(store.gaps("press", T0, T0 + 4000)) == 4


def test_deletion_takes_all_that_shows_the_camera_then_and_nothing_else(tmp_path: Path):
    gone = []
    with Store(tmp_path, on_delete=[lambda connection, stored: gone.append(stored.id)]) as store:
        events = []
        for camera in ("press", "belt"):
            for minute in range(3):
                start = T0 + 60 * minute
                name = f"{camera}/{minute}"
                for path in (f"snapshots/{name}.jpg", f"clips/{name}.mp4", f"recording/{name}.mp4"):
                    write_bytes(store.folder / path, b"x")
                one = event(store, start, camera, snapshot=f"snapshots/{name}.jpg", held=True)
                store.end_event(one.id, start + 5, 5.0)
                used = store.add_segment(camera, f"{name}.mp4", start, start + 60, 0.0, 1, "h264")
                assert store.set_clip(
                    one.id, [used], clip=f"clips/{name}.mp4", clip_state="ready",
                    clip_start_utc_s=start - 5, clip_end_utc_s=start + 10,
                )  # fmt: skip
                store.add_scores(camera, [(start + 1, 1.0, 1.0, 1.0)])
                store.mark_miss(camera, start + 20, start + 25, "dent", "ann")
                events.append(one)
        # The second event of the press, and the margin before the third.
        done = store.delete("press", T0 + 60, T0 + 117)
        assert (done.events, done.clips, done.misses, done.segments, done.scores) == (1, 1, 1, 2, 1)
        assert gone == [events[1].id]
        assert store.event(events[1].id) is None
        third = store.event(events[2].id)
        assert (third.clip, third.clip_state, third.snapshot) == (None, "none", "snapshots/press/2.jpg")
        files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*") if "/" in str(path)}
        assert {one for one in files if one.startswith(("clips", "snapshots", "recording"))} == {
            "snapshots/press/0.jpg", "snapshots/press/2.jpg", "clips/press/0.mp4", "recording/press/2.mp4",
            *(f"{kind}/belt/{i}.{end}" for i in range(3)
              for kind, end in (("snapshots", "jpg"), ("clips", "mp4"), ("recording", "mp4"))),
        }  # fmt: skip
        assert store.delete_event(events[3].id) is True
        assert store.delete_event(events[3].id) is False
        assert not (tmp_path / "clips/belt/0.mp4").exists()


def test_a_clip_of_deleted_footage_is_not_written_down(store: Store):
    one = event(store)
    used = store.add_segment("press", "press/a.mp4", T0, T0 + 10, 0.0, 1, "h264")
    store.delete("press", T0 + 9, T0 + 10)
    assert store.event(one.id) is None or store.event(one.id).clip is None
    other = event(store, T0 + 20)
    assert store.set_clip(other.id, [used], clip="clips/x.mp4", clip_state="ready") is False
    assert store.event(other.id).clip_state == "pending"


def test_paths_that_lead_out_are_refused(store: Store):
    assert store.path("clips/a.mp4") == store.folder / "clips/a.mp4"
    for name in ("../secret", "/etc/passwd", "clips/../../x"):
        with pytest.raises(StoreError, match="leads out of the store"):
            store.path(name)


def test_one_owner_at_a_time_and_others_beside_it(tmp_path: Path):
    with pytest.raises(StoreError, match="holds no store"):
        Store(tmp_path, owner=False)
    with Store(tmp_path) as store:
        one = event(store)
        with pytest.raises(StoreError, match="in use by another runner"):
            Store(tmp_path)
        with Store(tmp_path, owner=False) as tool:
            assert tool.event(one.id).status == "open"
            assert tool.add_verdict(one.id, "real", "ann").verdict == "real"
        assert store.verdicts(one.id)[0].who == "ann"
    with Store(tmp_path) as again:
        assert again.event(one.id).status == "cut off"
    with pytest.raises(StoreError, match="is closed"):
        again.events()


def test_a_store_whose_file_is_taken_away_or_replaced_says_so_until_it_is_back(tmp_path: Path):
    """Events went into a file that nobody can find any more, and were announced as stored."""
    folder, aside = tmp_path / "store", tmp_path / "aside"
    with Store(folder) as store:
        event(store)
        folder.rename(aside)
        for make in (lambda: None, lambda: Store(folder).close()):
            make()
            with pytest.raises(StoreReplacedError, match="put back what was there, or start `run` again"):
                event(store)
            with pytest.raises(StoreReplacedError):
                store.events()
        shutil.rmtree(folder)
        aside.rename(folder)
        event(store)
        assert len(store.events()) == 2


def test_who_looks_into_a_database_from_outside_takes_nothing_along(tmp_path: Path):
    """Where this process had opened it once more, the other one deleted its log, with all that was stored from then on."""
    path = tmp_path / "anomaly.db"
    look = (
        "import contextlib, sqlite3, sys\n"
        "with contextlib.closing(sqlite3.connect(sys.argv[1])) as connection:\n"
        "    print(connection.execute('SELECT count(*) FROM events').fetchone()[0])"
    )
    with Store(tmp_path) as store:
        for opened_again in (lambda: database.connect(path), lambda: open_database(path, [], 1)):
            opened_again().close()
            for _ in range(2):
                event(store)
                seen = subprocess.run([sys.executable, "-c", look, path], capture_output=True, check=True)
                assert int(seen.stdout) == len(store.events())


def test_a_newer_store_is_left_alone(tmp_path: Path):
    with Store(tmp_path) as store:
        store.connection().execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="schema 99, newer than this program's 1"):
        Store(tmp_path)


def test_a_database_is_private_and_brought_up_step_by_step(tmp_path: Path):
    path = tmp_path / "accounts.db"
    old = open_database(path, ["CREATE TABLE IF NOT EXISTS a (x);"], 1)
    old.execute("INSERT INTO a VALUES (1)")
    old.close()
    assert path.stat().st_mode & 0o777 == 0o600
    new = open_database(
        path, ["CREATE TABLE IF NOT EXISTS b (z);"], 3, {1: "ALTER TABLE a ADD y;", 2: "UPDATE a SET y = 5;"}
    )
    assert new.execute("SELECT x, y FROM a").fetchall() == [(1, 5)]
    assert new.execute("PRAGMA user_version").fetchone() == (3,)
    new.close()


def test_threads_write_at_once_and_leave_no_connection_behind(store: Store):
    def work(number: int) -> None:
        for i in range(5):
            event(store, T0 + i, f"camera {number}")

    held = []
    for _ in range(3):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        names = [os.readlink(one) for one in Path("/proc/self/fd").iterdir() if one.exists()]
        held.append(sum(name.startswith(str(store.folder)) for name in names))
    assert len(store.events(limit=1000)) == 90
    # SQLite keeps a closed file for the next one who opens it; what matters is that they do not add up.
    assert held[-1] <= 6 + 1 + 6


OTHER = """
import sys
from anomaly.edge.store import Store
with Store(sys.argv[1], owner=False) as store:
    for i in range(60):
        event = store.events(limit=1)[0]
        store.add_verdict(event.id, "unsure", "other", str(i))
        store.add_scores("press", [(float(i), 0.0, 1.0, 1.0)])
"""


def test_two_processes_write_at_once(store: Store):
    event(store)
    other = subprocess.Popen([sys.executable, "-c", OTHER, str(store.folder)])
    written = 0
    while other.poll() is None:
        event(store)
        assert len(store.events(limit=3)) >= 1
        written += 1
    assert other.returncode == 0
    assert len(store.verdicts()) == 60
    assert len(store.events(limit=10_000)) == written + 1
    assert written > 5


def test_behind_another_process_that_hangs_only_the_first_write_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every camera's scores are written by the thread that scores: each wait is time in which nothing is looked at."""
    monkeypatch.setattr(database, "BUSY_S", 1.0)
    with Store(tmp_path) as store:
        # As a shell that somebody left open, or a backup that hangs.
        other = sqlite3.connect(tmp_path / "anomaly.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        took = []
        for _ in range(4):
            began = time.monotonic()
            with pytest.raises(StoreError, match="locked"):
                store.set_fact("a", "1")
            took.append(time.monotonic() - began)
        assert took[0] >= 0.9
        assert max(took[1:]) < 0.5
        other.execute("ROLLBACK")
        store.set_fact("a", "2")
        # Who waits for a transaction that ends waits again.
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(StoreError, match="locked"):
            store.set_fact("a", "3")
        assert time.monotonic() - began >= 0.9
        other.close()
        assert store.fact("a") == "2"
