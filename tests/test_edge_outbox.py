"""The outbox: what waits, in which order, and what becomes of it, in a real store."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from broker import Broker, Listener, Receiver, free_port, needs_mosquitto, until
from told_site import ORIGIN, QUICK, SECRET, Site, told_site

from anomaly.edge import outbox
from anomaly.edge.notify import Bounds, MqttSettings, PeopleSettings, WebhookSettings
from anomaly.edge.notify.message import summary_message, utc_text
from anomaly.edge.notify.settings import Backoff
from anomaly.edge.store.database import connect
from anomaly.edge.store.event import blank, next_id
from anomaly.errors import StoreError, UsageError

NOBODY = WebhookSettings(
    "http://127.0.0.1:1/", ("0123456789abcdef",), name="hook", backoff=Backoff(0.05, 0.1)
)


@pytest.fixture
def connection() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.executescript(outbox.SCHEMA)
    return made


def put(
    connection: sqlite3.Connection,
    name: str,
    camera: str = "top",
    kind: str = "start",
    body: str = "{}",
    **more,
) -> bool:
    given = {"event_id": name, "message_id": f"{name}-{kind}", "utc_s": 1000.0, **more}
    return outbox.put(connection, "hook", camera=camera, kind=kind, body=body, **given)


def names(connection: sqlite3.Connection, **more) -> list[str]:
    return [row.message_id for row in outbox.pending(connection, "hook", **more)]


def test_an_event_and_its_messages_are_there_together_or_not_at_all(tmp_path: Path):
    with told_site(tmp_path, [NOBODY, MqttSettings("127.0.0.1", 1)], running=False) as site:
        site.start()

        def fails(*given: object) -> None:
            raise RuntimeError("after the outbox was written")

        site.store._on_event += (fails,)
        with pytest.raises(RuntimeError):
            site.start()
        assert len(site.store.events()) == 1
        assert site.status("hook")["pending"] == site.status("mqtt")["pending"] == 1


def test_rows_come_in_the_order_they_were_written(connection: sqlite3.Connection):
    for name in "abc":
        assert put(connection, name)
    assert names(connection) == ["a-start", "b-start", "c-start"]
    assert names(connection, limit=2) == ["a-start", "b-start"]
    assert names(connection, after_id=1) == ["b-start", "c-start"]


def test_a_message_is_written_once(connection: sqlite3.Connection):
    assert put(connection, "a")
    assert not put(connection, "a")
    assert names(connection) == ["a-start"]


def test_an_update_that_waits_gives_way_to_the_next_and_to_the_end(connection: sqlite3.Connection):
    put(connection, "a")
    put(connection, "a", kind="update", message_id="one")
    put(connection, "a", kind="update", message_id="two")
    put(connection, "b", kind="update", message_id="other")
    assert names(connection) == ["a-start", "two", "other"]
    put(connection, "a", kind="end")
    assert names(connection) == ["a-start", "other", "a-end"]


def test_what_was_refused_no_longer_waits_and_can_be_sent_again(connection: sqlite3.Connection):
    put(connection, "a")
    put(connection, "b")
    outbox.set_aside(connection, "hook", 1, "410", 1001.0)
    assert names(connection) == ["b-start"]
    assert outbox.totals(connection, "hook").set_aside == 1
    assert outbox.send_again(connection, "hook") == 1
    assert names(connection) == ["b-start", "a-start"]
    assert outbox.totals(connection, "hook").set_aside == 0


@pytest.mark.parametrize("sent", [False, True])
def test_an_old_update_that_was_refused_does_not_come_after_a_newer_one(
    connection: sqlite3.Connection, sent: bool
):
    put(connection, "a")
    put(connection, "a", kind="update", message_id="a-update-1")
    outbox.set_aside(connection, "hook", 1, "410", 1001.0)
    outbox.set_aside(connection, "hook", 2, "410", 1001.0)
    put(connection, "a", kind="update", message_id="a-update-2")
    if sent:
        outbox.mark_sent(connection, "hook", 3, 1002.0)
    assert outbox.send_again(connection, "hook") == 1
    assert names(connection) == (["a-start"] if sent else ["a-update-2", "a-start"])
    assert outbox.totals(connection, "hook").set_aside == 0


def test_age_is_time_in_which_the_program_ran(connection: sqlite3.Connection):
    put(connection, "old")
    outbox.advance(connection, "hook", 50.0)
    put(connection, "young")
    # However far the clock jumps.
    assert outbox.expire(connection, "hook", max_age_s=60, max_bytes=10**6, utc_s=1e12) is None
    outbox.advance(connection, "hook", 20.0)
    gone = outbox.expire(connection, "hook", max_age_s=60, max_bytes=10**6, utc_s=1e12)
    assert gone is not None
    assert (gone.cameras, gone.count) == ({"top": 1}, 1)
    assert names(connection) == ["young-start"]
    assert outbox.totals(connection, "hook").expired == 1


def test_too_many_bytes_cost_the_refused_ones_first_and_then_the_oldest(connection: sqlite3.Connection):
    for name in "abcd":
        put(connection, name, body="x" * 100)
    outbox.set_aside(connection, "hook", 3, "410", 1001.0)
    gone = outbox.expire(connection, "hook", max_age_s=60, max_bytes=300, utc_s=1000.0)
    assert gone is not None
    assert gone.count == 1
    assert names(connection) == ["a-start", "b-start", "d-start"]
    gone = outbox.expire(connection, "hook", max_age_s=60, max_bytes=100, utc_s=1000.0)
    assert gone is not None
    assert gone.count == 2
    assert names(connection) == ["d-start"]


def test_what_is_done_is_kept_in_bounds(connection: sqlite3.Connection):
    for number in range(outbox.KEPT_DONE + 30):
        put(connection, str(number))
    for row in outbox.pending(connection, "hook", limit=10**6):
        outbox.mark_sent(connection, "hook", row.id, 1001.0)
    outbox.prune(connection, "hook")
    assert connection.execute("SELECT count(*) FROM outbox").fetchone()[0] == outbox.KEPT_DONE
    assert outbox.totals(connection, "hook").sent == outbox.KEPT_DONE + 30


def test_what_expires_is_counted_and_announced_in_one_message(tmp_path: Path):
    trouble = []
    quick = WebhookSettings(
        NOBODY.url,
        NOBODY.secrets,
        name="hook",
        backoff=NOBODY.backoff,
        bounds=Bounds(max_age_s=0.5, late_s=0.2),
    )
    with told_site(
        tmp_path, [quick], tend_every_s=0.1, on_trouble=lambda *told: trouble.append(told)
    ) as site:
        for turn in range(3):
            site.start("top")
            site.start("side")
            until(lambda turn=turn: site.status("hook")["expired"] == 2 * turn + 2)
        assert len(site.store.events()) == 6, "the store keeps them all"
        with site.store.transaction() as connection:
            (row,) = outbox.pending(connection, "hook")
        told = json.loads(row.body)
        assert (told["kind"], told["reason"], told["count"]) == ("summary", "expired", 6)
        assert told["cameras"] == {"top": 3, "side": 3}
        first = min(event.start_utc_s for event in site.store.events())
        assert told["first_utc"][:19] == utc_text(first)[:19]
    assert sum(detail["count"] for _, kind, detail in trouble if kind == "expired") == 6
    assert "down" in [kind for _, kind, _ in trouble]


def test_a_receiver_that_refuses_everything_keeps_the_outbox_within_its_bound(tmp_path: Path):
    bound = 20_000
    with Receiver() as receiver:
        receiver.answer = lambda content: 401
        hook = WebhookSettings(
            receiver.url, (SECRET,), name="hook", backoff=QUICK, bounds=Bounds(max_bytes=bound)
        )
        with told_site(tmp_path, [hook], tend_every_s=0.02) as site:
            connection = site.store.connection()
            size = "SELECT coalesce(sum(bytes), 0), sum(kind = 'summary') FROM outbox WHERE state <> 'sent'"
            for _ in range(30):
                with site.store.transaction():
                    for _ in range(5):
                        site.start()
                until(lambda: site.status("hook")["pending"] == 0)
            until(lambda: connection.execute(size).fetchone()[0] <= bound)
            until(lambda: site.status("hook")["pending"] == 0)
            assert connection.execute(size).fetchone()[1] == 1
            status = site.status("hook")
            assert status["set_aside"] > 1
            # Repaired, it gets what was kept, and learns how much was not.
            receiver.answer = lambda content: 204
            receiver.requests.clear()
            kept = site.delivery.send_again("hook")
            until(lambda: site.status("hook")["sent"] == kept)
            told = [one for one in receiver.contents() if one["kind"] == "summary"]
            assert [one["cameras"] for one in told] == [{"top": status["expired"]}]


def test_a_deleted_event_is_forgotten_once_it_was_told(tmp_path: Path):
    with told_site(tmp_path, [NOBODY], running=False) as site:
        waiting, told = site.start(), site.start()
        with site.store.transaction() as connection:
            outbox.mark_sent(connection, "hook", 2, time.time())
        for event in (waiting, told):
            site.store.delete_event(event.id)
        left = site.store.connection().execute("SELECT event_id FROM outbox").fetchall()
        assert [row[0] for row in left] == [waiting.id]


def test_what_was_told_is_kept_no_longer(tmp_path: Path):
    """Also of an event that was deleted before it was told."""
    with Receiver() as receiver:
        receiver.answer = lambda content: 503
        hook = WebhookSettings(receiver.url, (SECRET,), name="hook", backoff=QUICK)
        with told_site(tmp_path, [hook]) as site:
            event = site.start(doubt="canary")
            site.store.delete_event(event.id)
            receiver.answer = lambda content: 204
            until(lambda: site.status("hook")["sent"] == 1)
    assert "canary" in receiver.contents()[-1]["doubt"]
    assert all(b"canary" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_an_event_that_cannot_be_stored_is_told_all_the_same(tmp_path: Path):
    with Receiver() as receiver:
        hook = WebhookSettings(receiver.url, (SECRET,), name="hook", backoff=QUICK)
        with told_site(tmp_path, [hook]) as site:
            event = site.start(announced=False)
            for announced in (False, True):
                unstored = type(event)(
                    **{**{n: getattr(event, n) for n in event.__slots__}, "announced": announced}
                )
                site.delivery.on_event_not_stored(unstored, "start")
            until(receiver.ids)
            until(lambda: site.status("hook")["connected"])
            assert receiver.ids() == [f"{event.id}-start"]
            assert site.status("hook")["pending"] == 0


def test_what_is_stored_after_the_store_took_nothing_for_a_while_is_not_as_old_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("anomaly.edge.notify.queue._WRITE_AGAIN_S", 0.2)
    trouble: list[str] = []
    hook = WebhookSettings(
        f"http://127.0.0.1:{free_port()}/",
        (SECRET,),
        name="hook",
        backoff=QUICK,
        bounds=Bounds(max_age_s=2.5, late_s=2.0),
    )
    with told_site(
        tmp_path, [hook], tend_every_s=0.1, on_trouble=lambda sink, kind, detail: trouble.append(kind)
    ) as site:
        until(lambda: site.status("hook")["connected"] is not None or site.start())
        queue = site.delivery._queues["hook"]
        queue.connection.execute("PRAGMA busy_timeout = 20")
        with closing(connect(tmp_path / "anomaly.db")) as other:
            other.execute("DELETE FROM outbox")
            other.execute("BEGIN IMMEDIATE")
            time.sleep(3.0)
            assert queue.behind_s > 2.5
            other.execute("ROLLBACK")
        site.start()
        time.sleep(1.0)
        assert site.status("hook")["expired"] == 0
        assert site.status("hook")["pending"] == 1
        assert trouble == []
        until(lambda: site.status("hook")["expired"] == 1)
        assert trouble[0] == "down"


def test_two_sinks_of_one_name_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="one name"), told_site(tmp_path, [NOBODY, NOBODY]):
        pass


def test_what_is_not_a_number_is_null():
    message = summary_message(ORIGIN, "flood", {"top": 2}, 0.0, 1.5, utc_s=2.0, clock_offset_s=float("nan"))
    told = json.loads(message.body, parse_constant=lambda word: pytest.fail(word))
    assert told["clock_offset_s"] is None
    assert told["last_utc"] == "1970-01-01T00:00:01.500Z"


def test_tries_are_spread_and_ever_rarer():
    waits = Backoff(1.0, 60.0)
    for failures, whole in ((1, 1.0), (4, 8.0), (100, 60.0)):
        drawn = [waits.delay_s(failures) for _ in range(200)]
        assert whole / 2 <= min(drawn) < whole * 0.6
        assert whole * 0.9 < max(drawn) <= whole


def unstored(site: Site, camera: str) -> str:
    """The id of an event that the store could not take and that is told from memory."""
    event = blank(
        {
            "id": next_id(None, time.time()),
            "camera": camera,
            "model": "m",
            "start_utc_s": time.time(),
            "start_pts_s": 1.0,
            "score": 2.0,
            "threshold": 1.0,
        }
    )
    site.delivery.on_event_not_stored(event, "start")
    return event.id


def tell_around_a_full_disk(site: Site) -> dict[str, list[str]]:
    """Events before, while and after the store could not be written; their ids by camera, in that order."""
    told: dict[str, list[str]] = {"top": [], "side": []}
    for camera in ("top", "side", "top"):
        told[camera].append(site.start(camera).id)
    told["top"] += [unstored(site, "top"), unstored(site, "top")]
    for camera in ("top", "side"):
        told[camera].append(site.start(camera).id)
    told["top"].append(unstored(site, "top"))
    told["top"] += [site.start("top").id for _ in range(60)]
    told["side"].append(site.start("side").id)
    return told


def test_what_could_not_be_stored_is_told_in_its_cameras_order(tmp_path: Path):
    with Receiver() as receiver:
        receiver.answer = lambda content: 503
        hook = WebhookSettings(receiver.url, (SECRET,), name="hook", backoff=QUICK)
        with told_site(tmp_path, [hook]) as site:
            told = tell_around_a_full_disk(site)
            until(lambda: len(receiver.requests) > 3)
            tried = len(receiver.requests)
            receiver.answer = lambda content: 204
            until(lambda: site.status("hook")["sent"] == 66)
            taken = [(one["camera"], one["event_id"]) for one in receiver.contents()[tried:]]
            for camera, ids in told.items():
                assert [event_id for of, event_id in dict.fromkeys(taken) if of == camera] == ids


def test_what_could_not_be_stored_holds_its_camera_up_no_longer_than_messages_are_kept(tmp_path: Path):
    trouble = []
    with Receiver() as receiver:
        hook = WebhookSettings(
            receiver.url, (SECRET,), name="hook", backoff=QUICK, bounds=Bounds(max_age_s=1.5, late_s=1.0)
        )
        with told_site(
            tmp_path, [hook], tend_every_s=0.1, on_trouble=lambda *told: trouble.append(told)
        ) as site:
            receiver.answer = lambda content: 500
            bad = unstored(site, "top")
            receiver.answer = lambda content: 500 if content["event_id"] == bad else 204
            time.sleep(1.0)
            good = site.start("top")
            until(lambda: f"{good.id}-start" in receiver.ids())
    assert ("hook", "expired", {"count": 1, "cameras": {"top": 1}}) in trouble


def test_a_heartbeat_stops_while_what_could_not_be_stored_waits_too_long(tmp_path: Path):
    def beats() -> int:
        return sum(content["kind"] == "heartbeat" for content in receiver.contents())

    trouble: list[str] = []
    with Receiver() as receiver:
        receiver.answer = lambda content: 204 if content["kind"] == "heartbeat" else 500
        settings = WebhookSettings(
            receiver.url,
            (SECRET,),
            name="hook",
            backoff=QUICK,
            heartbeat_s=0.05,
            bounds=Bounds(late_s=0.3),
        )
        with told_site(
            tmp_path, [settings], tend_every_s=0.05, on_trouble=lambda _, kind, __: trouble.append(kind)
        ) as site:
            until(lambda: beats() >= 2)
            unstored(site, "top")
            until(lambda: not site.status("hook")["draining"])
            time.sleep(0.1)
            before = beats()
            time.sleep(0.4)
            assert beats() == before
            receiver.answer = lambda content: 204
            until(lambda: beats() > before and len(trouble) > 1)
    assert trouble == ["down", "up"]


@needs_mosquitto
def test_over_mqtt_too_what_could_not_be_stored_is_told_in_its_cameras_order(tmp_path: Path):
    with (
        Broker(tmp_path / "broker") as broker,
        Listener(broker.port) as listener,
        told_site(tmp_path / "s", [MqttSettings("127.0.0.1", broker.port, backoff=QUICK)]) as site,
    ):
        until(lambda: site.status("mqtt")["connected"])
        told = tell_around_a_full_disk(site)
        broker.stop()
        for camera, ids in tell_around_a_full_disk(site).items():
            told[camera] += ids
        broker.start()
        until(lambda: len(listener.once("start")) == sum(map(len, told.values())))
        for camera, ids in told.items():
            assert [one["event_id"] for one in listener.once("start") if one["camera"] == camera] == ids


@contextmanager
def taking_nothing(site: Site) -> Iterator[None]:
    """Another process holds the store's database: it can be read and takes nothing."""
    holder = sqlite3.connect(site.store.folder / "anomaly.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    yield
    holder.execute("ROLLBACK")
    holder.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomaly.edge.store.database.BUSY_S", 0.05)
    monkeypatch.setattr("anomaly.edge.notify.queue._WRITE_AGAIN_S", 0.2)


@needs_mosquitto
def test_a_broker_that_comes_back_is_told_also_while_the_store_takes_nothing(tmp_path: Path, impatient: None):
    with Broker(tmp_path / "broker") as broker, Listener(broker.port) as listener:
        mqtt = MqttSettings("127.0.0.1", broker.port, backoff=QUICK)
        with told_site(tmp_path / "s", [mqtt], tend_every_s=0.1) as site:
            until(lambda: listener.statuses() == [True])
            broker.stop()
            until(lambda: site.status("mqtt")["connected"] is False)
            stored = site.start("side").id
            with taking_nothing(site):
                alarm = unstored(site, "top")
                broker.start()
                until(lambda: len(listener.once("start")) == 2)
                time.sleep(1.5)
                assert sorted(one["event_id"] for one in listener.told("start")) == sorted([stored, alarm])
                assert site.status("mqtt")["connected"] is True
                # The will of the connection that ended with the broker, and one connection since.
                assert listener.statuses()[-1] is True
                assert listener.statuses().count(True) <= 3
            until(lambda: site.status("mqtt")["sent"] == 1)
            assert site.status("mqtt")["pending"] == 0


def test_a_receiver_hears_nothing_twice_while_the_store_takes_nothing(tmp_path: Path, impatient: None):
    port = free_port()
    hook = WebhookSettings(f"http://127.0.0.1:{port}/hook", (SECRET,), name="hook", backoff=Backoff(0.3, 0.3))
    with told_site(tmp_path, [hook], tend_every_s=0.1) as site:
        sent, refused, failing = (site.start(camera).id for camera in ("sent", "refused", "failing"))
        until(lambda: site.status("hook")["connected"] is False)
        with taking_nothing(site), Receiver(port) as receiver:
            answers = {refused: 400, failing: 500}
            receiver.answer = lambda content: answers.get(content["event_id"], 204)
            alarm = unstored(site, "sent")
            until(lambda: f"{alarm}-start" in receiver.ids())
            began, before = time.monotonic(), receiver.ids().count(f"{failing}-start")
            time.sleep(1.5)
            assert [receiver.ids().count(f"{one}-start") for one in (sent, refused, alarm)] == [1, 1, 1]
            # What fails is tried again no sooner than elsewhere.
            tries = receiver.ids().count(f"{failing}-start") - before
            assert 1 <= tries <= (time.monotonic() - began) / 0.15 + 1
        until(lambda: site.status("hook")["sent"] == 1)
        assert (site.status("hook")["set_aside"], site.status("hook")["pending"]) == (1, 1)


def test_people_are_not_flooded_while_the_store_takes_nothing(tmp_path: Path, impatient: None):
    with Receiver() as receiver:
        address = f"json://127.0.0.1:{receiver.port}/"
        shift = PeopleSettings(address, enabled=True, most=2, window_s=60.0, backoff=QUICK)
        with told_site(tmp_path, [shift], tend_every_s=0.1) as site:
            site.start()
            until(lambda: site.status("people")["sent"] == 1)
            with taking_nothing(site):
                unstored(site, "top")
                until(lambda: len(receiver.requests) == 2)
                for _ in range(3):
                    unstored(site, "top")
                    time.sleep(0.7)
                assert len(receiver.requests) == 2
            until(
                lambda: site.store.connection().execute("SELECT count(*) FROM outbox_told").fetchone()[0] == 2
            )


def test_a_clock_that_is_set_back_delays_no_next_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Receiver() as receiver:
        receiver.answer = lambda content: 500
        hook = WebhookSettings(receiver.url, (SECRET,), name="hook", backoff=QUICK)
        with told_site(tmp_path, [hook]) as site:
            site.start()
            until(lambda: len(receiver.requests) > 1)
            real = time.time
            monkeypatch.setattr(time, "time", lambda: real() - 3600.0)
            receiver.answer = lambda content: 204
            until(lambda: site.status("hook")["sent"] == 1, 5.0)


def damage(site: Site) -> None:
    """The disk gives back something else than was written of the outbox."""
    connection = site.store.connection()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    pages = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE tbl_name = 'outbox' AND rootpage > 0"
    )
    with (site.store.folder / "anomaly.db").open("r+b") as file:
        for (page,) in pages.fetchall():
            file.seek((page - 1) * size)
            file.write(b"\xa5" * size)


def test_alarms_are_told_though_the_store_is_damaged_and_silence_says_so(tmp_path: Path):
    with Receiver() as receiver, Receiver() as service:
        sinks = [
            WebhookSettings(receiver.url, (SECRET,), name="hook", backoff=QUICK, heartbeat_s=0.05),
            PeopleSettings(f"json://127.0.0.1:{service.port}/", enabled=True, backoff=QUICK),
        ]
        trouble = []
        with told_site(
            tmp_path, sinks, tend_every_s=0.1, on_trouble=lambda *told: trouble.append(told)
        ) as site:
            until(lambda: "hook" in str(site.delivery.status()) and receiver.requests)
            damage(site)
            with pytest.raises(StoreError, match="damaged"):
                site.start()
            alarms = [unstored(site, camera) for camera in ("top", "side", "top")]
            until(lambda: {f"{alarm}-start" for alarm in alarms} <= set(receiver.ids()))
            until(lambda: len(service.requests) == 3)
            until(lambda: ("hook", "down") in [told[:2] for told in trouble])
            time.sleep(0.3)
            beats = len(receiver.requests)
            time.sleep(0.5)
            assert len(receiver.requests) == beats


def test_a_sink_whose_thread_does_nothing_more_is_told_by_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("anomaly.edge.notify.queue._UNTENDED_S", 0.5)
    monkeypatch.setattr("anomaly.edge.notify.people.PeopleSink.run", fails)
    with Receiver() as receiver:
        sinks = [
            WebhookSettings(
                receiver.url,
                (SECRET,),
                name="hook",
                backoff=QUICK,
                heartbeat_s=0.1,
                bounds=Bounds(late_s=0.5),
            ),
            PeopleSettings("json://127.0.0.1:1/", enabled=True, bounds=Bounds(late_s=0.5)),
        ]
        with told_site(tmp_path, sinks, tend_every_s=0.1):
            until(receiver.requests.__len__)
            assert receiver.contents()[0]["sinks"] == {"hook": True, "people": True}
            until(lambda: receiver.contents()[-1]["sinks"] == {"hook": True, "people": False}, 5.0)
