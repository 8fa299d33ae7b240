"""What is deleted stays deleted, though the runner is in the middle of it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from broker import Receiver, until
from server_case import serving
from small_model import SmallModel
from test_edge_retention import add_event
from told_site import QUICK, SECRET, Site, told_site

from anomaly.detector import Recent
from anomaly.edge.durable import write_bytes
from anomaly.edge.ledger import Ledger
from anomaly.edge.loaded import Loaded
from anomaly.edge.notify import WebhookSettings
from anomaly.edge.pictures import Pictures, Shot
from anomaly.edge.store import Store, StoredEvent
from anomaly.edge.store.event import next_id
from anomaly.edge.store.timeline import Segment, add_segment
from anomaly.footage.source import find_sources, read_frames
from anomaly.heatmap import draw_box, heat_range, overlay
from anomaly.model import load_model
from anomaly.thresholds import load_threshold

Delete = Callable[[httpx.Client, StoredEvent], httpx.Response]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def site(tmp_path: Path, receiver: Receiver) -> Iterator[Site]:
    with told_site(tmp_path / "store", [WebhookSettings(receiver.url, (SECRET,), backoff=QUICK)]) as site:
        yield site


@pytest.fixture
def ledger(site: Site) -> Iterator[Ledger]:
    pictures = Pictures(site.store)
    yield Ledger(site.store, pictures, None, site.delivery)
    pictures.close()


def begin(ledger: Ledger) -> StoredEvent:
    """An event that began five seconds ago and is on."""
    return ledger.begins(
        camera="cam",
        model="a" * 64,
        start_utc_s=time.time() - 5.0,
        start_pts_s=1.0,
        score=2.0,
        threshold=1.0,
        frame_size=(9, 16),
    )


def told(receiver: Receiver) -> list[str]:
    """Kinds of the messages that came, in order."""
    return [one["kind"] for one in receiver.contents()]


def by_id(admin: httpx.Client, event: StoredEvent) -> httpx.Response:
    return admin.delete(f"/api/events/{event.id}")


def by_interval(admin: httpx.Client, event: StoredEvent) -> httpx.Response:
    given = {"camera": "cam", "start_utc_s": event.start_utc_s - 60, "end_utc_s": time.time()}
    return admin.post("/api/retention/delete", json=given)


@pytest.mark.parametrize("delete", [by_id, by_interval])
def test_an_event_that_is_deleted_while_it_is_on_stays_deleted(
    site: Site, ledger: Ledger, receiver: Receiver, delete: Delete
):
    with serving(site.store) as case:
        event = begin(ledger)
        until(lambda: told(receiver) == ["start"])
        assert delete(case.signed_in("admin"), event).status_code == 200
        ledger.rises(event)
        ledger.ends(event, time.time(), 6.0, 2.5)
        for _ in range(2):
            ledger.tick()
        assert site.store.events() == []
        assert ledger.waiting == 0
        # A machine that was told of the start waits for the end.
        until(lambda: told(receiver) == ["start", "end"])
        time.sleep(0.5)
        assert told(receiver) == ["start", "end"]


def test_an_event_whose_end_could_not_be_written_is_not_brought_back_either(site: Site, ledger: Ledger):
    event = begin(ledger)
    # Another program holds the database for longer than is waited for.
    other = sqlite3.connect(site.store.folder / "anomaly.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger.ends(event, time.time(), 6.0, 2.5)
    other.execute("ROLLBACK")
    other.close()
    assert ledger.waiting == 1
    assert site.store.delete_event(event.id)
    ledger.tick()
    assert site.store.events() == []
    assert ledger.waiting == 0


def test_an_event_that_could_not_be_written_at_all_comes_with_its_end(site: Site, ledger: Ledger):
    other = sqlite3.connect(site.store.folder / "anomaly.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    event = begin(ledger)
    ledger.ends(event, event.start_utc_s + 5.0, 6.0, 2.5)
    other.execute("ROLLBACK")
    other.close()
    assert ledger.waiting == 1
    ledger.tick()
    (stored,) = site.store.events()
    assert (stored.id, stored.status, stored.score) == (event.id, "ended", 2.5)
    assert ledger.waiting == 0


def test_an_event_that_only_memory_holds_goes_with_its_interval(site: Site, ledger: Ledger):
    other = sqlite3.connect(site.store.folder / "anomaly.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    event = begin(ledger)
    other.execute("ROLLBACK")
    other.close()
    site.store.delete("cam", event.start_utc_s - 1, time.time())
    ledger.tick()
    ledger.ends(event, time.time(), 6.0, 2.5)
    ledger.tick()
    assert site.store.events() == []
    assert ledger.waiting == 0


def recorded(store: Store, camera: str, start_utc_s: float, end_utc_s: float) -> dict[str, object]:
    """What a capture tells of a segment that it has finished."""
    name = time.strftime("%Y%m%d/%H%M%S.000.mp4", time.gmtime(start_utc_s))
    path = f"{camera}/{name}"
    write_bytes(store.folder / "recording" / path, b"x")
    return {
        "path": path,
        "start_utc_s": start_utc_s,
        "end_utc_s": end_utc_s,
        "start_pts_s": 0.0,
        "bytes": 1,
        "codec": "h264",
    }


def test_what_is_being_written_of_a_deleted_time_is_not_taken_in(site: Site, ledger: Ledger):
    store, now = site.store, float(int(time.time()))
    with serving(store) as case:
        given = {"camera": "cam", "start_utc_s": now - 60, "end_utc_s": now + 3600}
        assert case.signed_in("admin").post("/api/retention/delete", json=given).status_code == 200
    after = time.time()
    # The segment that was open, the scores that were gathered; then what comes after the deletion.
    ledger.segment("cam", recorded(store, "cam", now - 9, now + 1))
    ledger.scores("cam", [(now - 1, 1.0, 1.0, 1.0), (after + 1, 2.0, 1.0, 1.0)])
    ledger.segment("cam", recorded(store, "cam", after + 1, after + 11))
    ledger.segment("other", recorded(store, "other", now - 9, now + 1))
    assert [one.start_utc_s for one in store.segments("cam", 0, now + 3600)] == [after + 1]
    assert [one.utc_s for one in store.scores("cam", 0, now + 3600)] == [after + 1]
    assert len(store.segments("other", 0, now + 3600)) == 1
    assert len(list((store.folder / "recording/cam").rglob("*.mp4"))) == 1


def test_a_segment_that_a_kill_left_of_a_deleted_time_goes_at_the_next_start(tmp_path: Path):
    with Store(tmp_path) as store:
        store.delete("cam", 1_790_000_000.0, 1_790_000_060.0)
        for start in (1_790_000_050.0, 1_790_000_070.0):
            path = store.folder / "recording" / str(recorded(store, "cam", start, start + 10)["path"])
            os.utime(path, (start + 10, start + 10))
    with Store(tmp_path) as store:
        assert [one.start_utc_s for one in store.segments("cam", 0, 2e9)] == [1_790_000_070.0]
        assert len(list((tmp_path / "recording").rglob("*.mp4"))) == 1


def test_a_clock_that_was_set_back_before_a_deletion_loses_no_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with Store(tmp_path) as store:
        now = time.time()
        store.delete("cam", 0.0, now)
        monkeypatch.setattr(time, "time", lambda: now - 3600)
        assert store.add_segment("cam", "cam/a.mp4", now - 3610, now - 3600, 0.0, 1, "h264")


def test_a_store_of_before_remembers_deletions_and_masks_too(tmp_path: Path):
    with Store(tmp_path) as store:
        store.connection().executescript("DROP TABLE erased; DROP TABLE masks")
    with Store(tmp_path) as store:
        store.set_masks("cam", (((0.0, 0.5), (1.0, 0.0), (1.0, 1.0)),))
        assert store.masks() == {"cam": (((0.0, 0.5), (1.0, 0.0), (1.0, 1.0)),)}
        store.delete("cam", 1000.0, 2000.0)
        assert store.add_segment("cam", "cam/a.mp4", 1990.0, 2010.0, 0.0, 1, "h264") == 0


def test_no_word_of_a_deleted_interval_is_left(tmp_path: Path):
    def left() -> list[str]:
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        return [path.name for path in files if b"canary" in path.read_bytes()]

    with Store(tmp_path) as store:
        for i in range(30):
            event = store.start_event(
                camera="cam", model="m", start_utc_s=1.0, start_pts_s=1.0, score=2.0, threshold=1.0
            )
            store.describe_event(event.id, explanation={"text": f"canary {i}"})
            store.add_verdict(event.id, "real", "ann", f"canary {i}")
        alone = store.mark_miss("cam", 1.0, 2.0, "canary", "ann")
        assert left()
        store.delete_miss(alone.id)
        store.mark_miss("cam", 1.0, 2.0, "canary", "ann")
        store.delete("cam", 0.0, 10.0)
        # Also while it is open, and in the log beside it.
        assert left() == []


def test_no_picture_of_a_deleted_event_is_left(small_model: SmallModel, tmp_path: Path):
    model = load_model(small_model.folder, offline=True)
    loaded = Loaded.of(model, load_threshold(model, fps=5.0))
    (source,) = find_sources(small_model.footage.test / "test_03.mp4")
    frame = next(iter(read_frames(source)))
    (look,) = loaded.look([frame.image], [Recent()], [loaded.model.detector])
    with Store(tmp_path) as store:
        events = [
            store.start_event(
                camera="cam", model="m", start_utc_s=1.0, start_pts_s=1.0, score=2.0, threshold=1.0
            )
            for _ in range(2)
        ]
        store.delete_event(events[0].id)
        pictures = Pictures(store)
        for event in events:
            for told in (True, False):
                pictures.offer(Shot(event.id, "cam", frame, look, 0.0, 1.0, 2.0, 1.0, loaded, told))
        pictures.close(60)
        names = {path.name.partition(".")[0] for path in (tmp_path / "snapshots").iterdir()}
        assert names == {events[1].id}


def test_a_stored_heatmap_shows_without_colours_what_is_above_the_threshold(
    small_model: SmallModel, tmp_path: Path
):
    model = load_model(small_model.folder, offline=True)
    loaded = Loaded.of(model, load_threshold(model, fps=5.0))
    (source,) = find_sources(small_model.footage.test / "test_03.mp4")
    frame = next(iter(read_frames(source)))
    (look,) = loaded.look([frame.image], [Recent()], [loaded.model.detector])
    size = frame.image.shape[0], frame.image.shape[1]
    threshold = float(np.median(look.heatmap(size)))
    with Store(tmp_path) as store:
        event = store.start_event(
            camera="cam", model="m", start_utc_s=1.0, start_pts_s=1.0, score=2.0, threshold=threshold
        )
        pictures = Pictures(store)
        pictures.offer(Shot(event.id, "cam", frame, look, 0.0, 1.0, 2.0, threshold, loaded, True))
        pictures.close(60)
        shown = cv2.imread(str(tmp_path / f"snapshots/{event.id}.heatmap.jpg"), cv2.IMREAD_GRAYSCALE)
    coloured = draw_box(overlay(frame.image, look.heatmap(size), *heat_range(threshold)), look.box(size))
    plain = cv2.cvtColor(coloured, cv2.COLOR_RGB2GRAY)
    assert np.abs(shown.astype(int) - plain).max() > 60


def test_a_picture_that_a_library_chokes_on_costs_that_picture_only(small_model: SmallModel, tmp_path: Path):
    model = load_model(small_model.folder, offline=True)
    loaded = Loaded.of(model, load_threshold(model, fps=5.0))
    (source,) = find_sources(small_model.footage.test / "test_03.mp4")
    frame = next(iter(read_frames(source)))
    (look,) = loaded.look([frame.image], [Recent()], [loaded.model.detector])
    troubles = []
    with Store(tmp_path) as store:
        ids = [
            store.start_event(
                camera="cam", model="m", start_utc_s=1.0, start_pts_s=1.0, score=2.0, threshold=1.0
            ).id
            for _ in range(2)
        ]
        pictures = Pictures(store, troubles.append)
        for event_id, image in zip(ids, (frame.image[..., :2], frame.image), strict=True):
            shown = replace(frame, image=image)
            pictures.offer(Shot(event_id, "cam", shown, look, 0.0, 1.0, 2.0, 1.0, loaded, True))
        pictures.close(60)
        assert [store.event(one).snapshot is not None for one in ids] == [False, True]
    assert [(one.kind, one.begins) for one in troubles] == [("pictures", True), ("pictures", False)]


def left(folder: Path, name: str, made: float, written: float) -> Path:
    """A file under an id of that time, last written at another."""
    path = folder / name.format(next_id(None, made))
    write_bytes(path, b"x")
    os.utime(path, (written, written))
    return path


KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from anomaly.edge.store import Store, deletion

some, turns = deletion.delete_some, []

def delete_some(*given):
    turns.append(given)
    if len(turns) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return some(*given)

deletion.delete_some = delete_some
with Store(sys.argv[1]) as store:
    store.delete("press", float(sys.argv[2]), float(sys.argv[3]))
"""


def test_a_long_deletion_lets_others_write_and_is_gone_on_with_after_a_kill(tmp_path: Path):
    day, folder = 1_790_000_000.0, tmp_path / "recording"
    with Store(tmp_path) as store:
        for i in range(600):
            path = Path("press", "20260921", f"{i:06d}.000.mp4")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(b"x")
            with store.transaction() as connection:
                start = day + 10 * i
                add_segment(connection, Segment("press", path, start, start + 10, 0.0, 1, "h264"))
        store.add_scores("press", [(day, 0.0, 1.0, 1.0)])
        one = add_event(store, day + 100)
        after = add_event(store, day + 5990)
    command = [sys.executable, "-c", KILLED_IN_THE_MIDDLE, str(tmp_path), str(day), str(day + 5900)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    with Store(tmp_path, owner=False) as store:
        # Two transactions of the four that the segments took.
        assert len(store.segments("press", 0.0, 2e10)) == 200
        assert store.event(one) is not None
    with Store(tmp_path) as store:
        assert [one.start_utc_s for one in store.segments("press", 0.0, 2e10)] == [
            day + 10 * i for i in range(590, 600)
        ]
        assert [one.id for one in store.events()] == [after]
        assert store.scores("press", day, day + 10) == []
    assert len(list(folder.rglob("*.mp4"))) == 10
    with Store(tmp_path) as store:
        # It is over: what comes later of that time is nothing to it.
        store.mark_miss("press", day + 100, day + 101, "scratch", "somebody")
    with Store(tmp_path) as store:
        assert len(store.misses()) == 1


def test_what_no_row_knows_goes_with_its_interval(tmp_path: Path):
    day = 1_790_000_000.0
    with Store(tmp_path) as store:
        going = [
            left(tmp_path, "orphans/snapshots/{}.snapshot.jpg", day + 3, day + 9),
            left(tmp_path, "snapshots/{}.heatmap.jpg", day + 3, day + 4),
            left(tmp_path, "orphans/clips/cam/{}.mp4", day + 3, day + 30),
            # Of a miss, say, that was marked hours later.
            left(tmp_path, "orphans/clips/cam/{}.mp4", day + 9000, day + 9010),
            left(tmp_path, "clips/cam/{}.preview.mp4", day + 3, day + 30),
            left(tmp_path, "recording/cam/20260921/140640.000.mp4.part", day + 3, day + 8),
            left(tmp_path, "recording/cam/20260921/141320.000.m0123456789abcdef.mp4", day, day + 8),
            left(tmp_path, "anomaly.db.damaged-20260921T150000.000000Z", day, day),
            left(tmp_path, "anomaly.db.damaged-20260921T150000.000000Z-wal", day, day),
        ]
        staying = [
            left(tmp_path, "orphans/snapshots/{}.snapshot.jpg", day - 900, day - 890),
            left(tmp_path, "orphans/snapshots/{}.snapshot.jpg", day + 900, day + 901),
            left(tmp_path, "orphans/clips/other/{}.mp4", day + 3, day + 30),
            left(tmp_path, "clips/cam/{}.mp4", day - 900, day - 800),
            left(tmp_path, "recording/cam/20260921/150000.000.mp4.part", time.time(), time.time()),
            left(tmp_path, "recording/cam/20260921/141345.000.mp4", day + 25, day + 35),
            left(tmp_path, "recording/cam/20260921/141300.000.mp4", day - 20, day - 10),
            left(tmp_path, "recording/other/20260921/141320.000.mp4", day, day + 8),
            left(tmp_path, "anomaly.db.damaged-20260920T150000.000000Z", day, day),
        ]
        there = store.start_event(
            camera="cam", model="m", start_utc_s=day - 900, start_pts_s=1.0, score=2.0, threshold=1.0
        )
        store.end_event(there.id, day - 890, 2.0)
        fresh = tmp_path / f"snapshots/{there.id}.snapshot.jpg"
        write_bytes(fresh, b"x")
        assert store.delete("cam", day, day + 20).leftovers == len(going)
        assert [path.name for path in going if path.exists()] == []
        assert [path.name for path in (*staying, fresh) if not path.exists()] == []
