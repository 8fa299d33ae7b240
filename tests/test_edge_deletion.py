"""What is deleted stays deleted, though the runner is in the middle of it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from broker import Receiver, until
from server_case import serving
from told_site import QUICK, SECRET, Site, told_site

from anomaly.edge.ledger import Ledger
from anomaly.edge.notify import WebhookSettings
from anomaly.edge.pictures import Pictures
from anomaly.edge.store import StoredEvent

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
