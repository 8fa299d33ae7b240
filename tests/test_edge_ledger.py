"""What is wrong with a camera is told and written, though the store cannot be written at the time."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from broker import Receiver, until
from told_site import QUICK, SECRET, Site, told_site

from anomaly.edge.health import Trouble
from anomaly.edge.ledger import UNSTORED, Ledger
from anomaly.edge.notify import WebhookSettings
from anomaly.edge.pictures import Pictures
from anomaly.edge.store import Store
from anomaly.edge.store.event import StoredEvent
from anomaly.errors import StoreError


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def site(tmp_path: Path, receiver: Receiver) -> Iterator[Site]:
    with told_site(tmp_path, [WebhookSettings(receiver.url, (SECRET,), backoff=QUICK)]) as site:
        yield site


@pytest.fixture
def ledger(site: Site) -> Iterator[Ledger]:
    pictures = Pictures(site.store)
    yield Ledger(site.store, pictures, None, site.delivery)
    pictures.close()


@contextmanager
def unwritable(store: Store) -> Iterator[None]:
    """This thread's connection to the store takes no write, as on a full disk."""
    store.connection().execute("PRAGMA query_only = ON")
    yield
    store.connection().execute("PRAGMA query_only = OFF")


def goes(ledger: Ledger, kind: str = "disconnected", *, begins: bool, utc_s: float = 1000.0) -> None:
    ledger.trouble("cam", "running", [Trouble(kind, begins, utc_s, {})])


def told(receiver: Receiver) -> list[tuple[str, bool]]:
    return [(one["health"], one["over"]) for one in receiver.contents()]


def written(store: Store) -> list[tuple[str, float, float | None]]:
    """Kind, beginning and end, oldest first."""
    return [(one.kind, one.utc_s, one.end_utc_s) for one in reversed(store.health())]


def test_trouble_that_could_not_be_written_is_told_at_once_and_written_later(
    site: Site, ledger: Ledger, receiver: Receiver
):
    with unwritable(site.store):
        goes(ledger, begins=True)
        until(lambda: told(receiver) == [("disconnected", False)])
        ledger.tick()
    assert written(site.store) == []
    ledger.tick()
    assert written(site.store) == [("disconnected", 1000.0, None)]
    goes(ledger, begins=False, utc_s=1010.0)
    assert written(site.store) == [("disconnected", 1000.0, 1010.0)]
    until(lambda: told(receiver) == [("disconnected", False), ("disconnected", True)])


def test_an_end_that_could_not_be_written_is_told_and_written_later(
    site: Site, ledger: Ledger, receiver: Receiver
):
    goes(ledger, begins=True)
    with unwritable(site.store):
        goes(ledger, begins=False, utc_s=1010.0)
        goes(ledger, "black", begins=True, utc_s=1011.0)
        goes(ledger, "black", begins=False, utc_s=1012.0)
        goes(ledger, begins=True, utc_s=1013.0)
    # Before it is written, it goes on: in its order.
    goes(ledger, begins=False, utc_s=1014.0)
    for _ in range(2):
        ledger.tick()
    assert written(site.store) == [
        ("disconnected", 1000.0, 1010.0),
        ("black", 1011.0, 1012.0),
        ("disconnected", 1013.0, 1014.0),
    ]
    until(lambda: len(told(receiver)) == 6)
    time.sleep(0.3)
    assert told(receiver) == [
        ("disconnected", False),
        ("disconnected", True),
        ("black", False),
        ("black", True),
        ("disconnected", False),
        ("disconnected", True),
    ]


def test_however_long_the_store_cannot_be_written_what_is_kept_is_bounded_and_ends(
    site: Site, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("anomaly.edge.ledger._MOST_UNWRITTEN", 10)
    goes(ledger, "black", begins=True)
    with unwritable(site.store):
        for second in range(100):
            goes(ledger, begins=not second % 2, utc_s=1000.0 + second)
        goes(ledger, "black", begins=False, utc_s=2000.0)
    ledger.tick()
    assert written(site.store) == [
        ("black", 1000.0, 2000.0),
        *[("disconnected", 1000.0 + second, 1001.0 + second) for second in range(0, 10, 2)],
    ]


def test_what_the_run_before_left_on_ends_though_not_at_once(site: Site, ledger: Ledger, receiver: Receiver):
    site.store.add_health("cam", "frozen", 900.0)
    with unwritable(site.store):
        ledger.take_over()
        goes(ledger, begins=True)
    ledger.tick()
    assert written(site.store) == [("frozen", 900.0, 900.0), ("disconnected", 1000.0, None)]
    until(lambda: sorted(told(receiver)) == [("disconnected", False), ("frozen", True)])


def test_recorded_files_and_gaps_that_could_not_be_written_are_written_later(site: Site, ledger: Ledger):
    """Another process may hold the database for an hour: what was recorded then is in clips, and is deleted in its turn."""

    def records(number: int) -> None:
        detail = {"path": f"cam/20260101/{number:06d}.mp4", "start_pts_s": 0.0, "bytes": 5, "codec": "h264"}
        ledger.segment("cam", {**detail, "start_utc_s": 1000.0 + number, "end_utc_s": 1001.0 + number})

    with unwritable(site.store):
        for number in range(70):
            records(number)
        ledger.gap("cam", 1000.0, 1010.0, "blind")
        ledger.tick()
    ledger.tick()
    # Not all at once: frames wait meanwhile.
    assert 0 < len(site.store.segments("cam", 0.0, 2000.0)) < 70
    records(70)
    ledger.tick()
    assert [one.start_utc_s for one in site.store.segments("cam", 0.0, 2000.0)] == [
        1000.0 + i for i in range(71)
    ]
    assert [one.end_utc_s for one in site.store.gaps("cam", 0.0, 2000.0)] == [1010.0]


def test_a_store_that_cannot_be_written_for_long_is_told_and_so_is_its_end(
    site: Site, ledger: Ledger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    """A disk that is read-only, a damaged database: alarms go on, and what they leave is lost with the program."""
    now_s = [1000.0]
    clocks = SimpleNamespace(time=time.time, monotonic=lambda: now_s[0])
    monkeypatch.setattr("anomaly.edge.ledger.time", clocks)
    # Once is no trouble: another process had it for a moment.
    with unwritable(site.store):
        ledger.gap("cam", 1.0, 9.0, "blind")
        ledger.tick()
    now_s[0] += 61.0
    ledger.tick()
    assert written(site.store) == []
    with unwritable(site.store):
        for _ in range(30):
            ledger.gap("cam", 1.0, 9.0, "blind")
            ledger.tick()
            now_s[0] += 1.0
        until(lambda: told(receiver) == [("store", False)])
    # A write that is done now and then ends nothing yet.
    ledger.tick()
    with unwritable(site.store):
        ledger.gap("cam", 1.0, 9.0, "blind")
    ledger.tick()
    assert [(kind, end) for kind, _, end in written(site.store)] == [("store", None)]
    now_s[0] += 60.0
    ledger.tick()
    until(lambda: told(receiver) == [("store", False), ("store", True)])
    (row,) = site.store.health()
    assert row.end_utc_s is not None
    assert "readonly database" in row.detail["reason"]


def begun(ledger: Ledger, start_utc_s: float = 1000.0) -> StoredEvent:
    return ledger.begins(
        camera="cam", model="m", recipe="", state="running", announced=True, certified=True, doubt="",
        start_utc_s=start_utc_s, start_pts_s=1.0, score=2.0, threshold=1.0, frame_size=(96, 160),
    )  # fmt: skip


def test_events_that_could_not_be_stored_outlive_a_kill(site: Site, ledger: Ledger):
    """Announced, they were in memory only: a damaged database and then a power cut lost them all."""
    stored = begun(ledger)
    with unwritable(site.store):
        over, on = begun(ledger, 1010.0), begun(ledger, 1020.0)
        ledger.ends(stored, 1005.0, 6.0, 3.0)
        ledger.ends(over, 1015.0, 6.0, 4.0)
    # No tick: it is killed.
    pictures = Pictures(site.store)
    again = Ledger(site.store, pictures, None, site.delivery)
    again.take_over()
    assert again.waiting == 3
    again.tick()
    pictures.close()
    found = {one.id: (one.end_utc_s, one.score, one.status, one.frame_size) for one in site.store.events()}
    assert found == {
        stored.id: (1005.0, 3.0, "ended", (96, 160)),
        over.id: (1015.0, 4.0, "ended", (96, 160)),
        on.id: (1020.0, 2.0, "ended", (96, 160)),
    }
    assert again.waiting == 0
    assert not (site.store.folder / UNSTORED).exists()


@pytest.mark.parametrize(
    ("end_utc_s", "stored_s"), [(999.8, 1000.0), (1000.4, 1000.4), (-85_400.0, -85_400.0)]
)
def test_no_event_ends_before_it_began_unless_the_clock_was_set(
    site: Site, ledger: Ledger, end_utc_s: float, stored_s: float
):
    """A frame that arrived late began it, one that arrived in time told when it was over."""
    ledger.ends(begun(ledger), end_utc_s, 1.2, 2.0)
    assert [one.end_utc_s for one in site.store.events()] == [stored_s]


def test_what_was_told_before_it_could_be_stored_is_told_once(site: Site, ledger: Ledger, receiver: Receiver):
    """After a night of a full disk people heard each of its alarms again, as if it were new."""
    with unwritable(site.store):
        events = [begun(ledger, 1000.0 + second) for second in range(3)]
        until(lambda: len(receiver.requests) == 3)
        # The receiver is away when the last is over, and told after it is stored.
        receiver.answer = lambda content: 503
        ledger.ends(events[0], 1005.0, 6.0, 3.0)
        until(lambda: len(receiver.requests) > 3)
    ledger.tick()
    assert ledger.waiting == 0
    receiver.answer = lambda content: 204
    after = begun(ledger)
    until(lambda: f"{after.id}-start" in receiver.ids())
    until(lambda: site.status("webhook")["pending"] == 0)
    told = [f"{event.id}-start" for event in events] + [f"{events[0].id}-end", f"{after.id}-start"]
    assert list(dict.fromkeys(receiver.ids())) == told
    assert [receiver.ids().count(one) for one in told[:3]] == [1, 1, 1]
    assert site.status("webhook")["sent"] == 5


@pytest.mark.parametrize("text", ["", "[", "{}", '[{"id": 1}]', "7"])
def test_a_file_of_events_that_cannot_be_read_keeps_nobody_from_watching(
    site: Site, ledger: Ledger, text: str
):
    (site.store.folder / UNSTORED).write_text(text)
    ledger.take_over()
    assert ledger.waiting == 0
    ledger.tick()
    assert not (site.store.folder / UNSTORED).exists()


def test_of_an_event_that_is_stored_only_the_end_is_lost(
    site: Site, ledger: Ledger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """A disk that turned read-only while an event was on: it is in the store, and was called lost."""
    event = begun(ledger)
    monkeypatch.setattr("anomaly.edge.waiting.write_bytes", _no_disk)
    with unwritable(site.store):
        ledger.ends(event, 1005.0, 6.0, 3.0)
        ledger.end()
    assert f"event {event.id} is stored, but not that it is over: cam" in caplog.text
    assert "lost" not in caplog.text


def test_what_is_lost_at_the_end_is_said(
    site: Site, ledger: Ledger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """A disk that is gone takes neither the database nor the file: nobody knew what went with the program."""
    with unwritable(site.store):
        event = begun(ledger)
        goes(ledger, begins=True)
        ledger.gap("cam", 1.0, 9.0, "blind")
        ledger.end()
        assert f"1 events that could not be stored wait in {UNSTORED}" in caplog.text
        assert "is lost, it could" not in caplog.text
        monkeypatch.setattr("anomaly.edge.waiting.write_bytes", _no_disk)
        ledger.ends(event, 1005.0, 6.0, 3.0)
        caplog.clear()
        ledger.end(unsaved_scores=70)
    assert (
        f"event {event.id} is lost, it could not be stored: cam, 1970-01-01T00:16:40+00:00, score 3"
        in caplog.text
    )
    assert "lost: 1 health events, 1 rows of recorded files and gaps, 70 scores" in caplog.text
    caplog.clear()
    ledger.tick()
    ledger.end()
    assert "lost" not in caplog.text


def test_alarms_go_on_without_the_file_of_the_store_and_its_next_start_has_them(
    site: Site, ledger: Ledger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("anomaly.edge.ledger._STORE_FAILS_S", 0.0)
    database = site.store.folder / "anomaly.db"
    before = begun(ledger)
    database.rename(database.with_name("taken"))
    event = begun(ledger)
    ledger.ends(event, 1005.0, 6.0, 3.0)
    ledger.tick()
    until(lambda: {one["kind"] for one in receiver.contents()} == {"start", "end", "health"})
    with pytest.raises(StoreError, match="No such file"):
        site.status("webhook")
    assert not database.exists()
    # Whoever starts the program again has it repaired, as where it is damaged.
    assert ledger.damage is not None
    assert "removed or replaced" in ledger.damage
    assert ledger.unwritable == ledger.damage
    assert event.id in (site.store.folder / UNSTORED).read_text()
    database.with_name("taken").rename(database)
    ledger.tick()
    assert ledger.damage is None
    assert [one.id for one in site.store.events()] == [event.id, before.id]
    with Store(site.store.folder, owner=False) as reader:
        assert [one.id for one in reader.events()] == [event.id, before.id]


def _no_disk(path: Path, data: bytes) -> None:
    raise OSError(errno.EROFS, "Read-only file system")
