"""Messages over MQTT, with a real broker that goes away, comes back, asks for certificates and refuses."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from broker import Broker, FakeBroker, Listener, needs_mosquitto, until
from told_site import BASE, QUICK, Site, told_site

from anomaly.edge.notify import Backoff, Bounds, MqttSettings, Tls
from anomaly.edge.store.database import BUSY_S
from anomaly.errors import UsageError

pytestmark = needs_mosquitto
HERE = Path(__file__).resolve().parent


def mqtt(port: int, **more) -> MqttSettings:
    return MqttSettings("127.0.0.1", port, backoff=QUICK, **more)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_an_event_is_told_from_start_to_end(tmp_path: Path, protocol: str):
    with Broker(tmp_path / "broker") as broker, Listener(broker.port) as listener:
        with told_site(tmp_path / "site", [mqtt(broker.port, protocol=protocol)]) as site:
            event = site.start("cam/1 +#", certified=False, doubt="another runtime", box=(1, 2, 3, 4))
            site.end(event)
            until(lambda: listener.told("end"))
            until(lambda: site.status("mqtt")["sent"] == 2)
        topic, first, _ = next(one for one in listener.messages if one[1].get("kind") == "start")
        assert topic == f"{BASE}/cameras/cam%2F1 %2B%23/events"
        assert first["id"] == f"{event.id}-start"
        assert first["event_id"] == event.id
        assert (first["site"], first["line"], first["camera"]) == ("plant north", "line 3", "cam/1 +#")
        assert (first["certified"], first["doubt"], first["box"]) == (False, "another runtime", [1, 2, 3, 4])
        assert first["state"] == "running"
        assert first["end_utc"] is None
        assert first["start_utc"].endswith("Z")
        assert {"schema", "utc", "clock_offset_s", "model", "score", "threshold"} <= first.keys()
        assert listener.told("end")[0]["end_utc"] is not None


def test_unannounced_events_are_stored_and_not_told(tmp_path: Path):
    with Broker(tmp_path / "broker") as broker, Listener(broker.port) as listener:
        with told_site(tmp_path / "site", [mqtt(broker.port)]) as site:
            site.start(announced=False, state="maintenance")
            told = site.start()
            until(lambda: listener.told("start"))
            assert len(site.store.events()) == 2
        assert [one["event_id"] for one in listener.told("start", "update", "end")] == [told.id]


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_broker_that_goes_away_and_comes_back_gets_everything_in_order(tmp_path: Path, count: int):
    broker = Broker(tmp_path / "broker")
    with broker, Listener(broker.port) as listener, told_site(tmp_path / "site", [mqtt(broker.port)]) as site:
        expected: dict[str, list[str]] = {"left": [], "right": []}

        def tell(number: int) -> None:
            for turn in range(number):
                camera = "left" if turn % 3 else "right"
                expected[camera].append(site.start(camera).id)

        tell(count // 3)
        broker.stop()
        tell(count // 3)
        broker.start()
        tell(count // 3)
        # Once more, in the midst of it, and without a good-bye of the network's.
        broker.stop()
        tell(count // 3)
        broker.start()
        total = sum(map(len, expected.values()))
        until(lambda: len(listener.once("start")) == total, 60)
        for camera, ids in expected.items():
            assert [one["event_id"] for one in listener.once("start") if one["camera"] == camera] == ids
        # None twice, unless with the same id.
        assert len({one["id"] for one in listener.told("start")}) == total
        until(lambda: site.status("mqtt")["pending"] == 0)
        assert site.status("mqtt")["sent"] == total


def test_what_waits_is_told_after_a_restart_of_the_program(tmp_path: Path):
    broker = Broker(tmp_path / "broker")
    with told_site(tmp_path / "site", [mqtt(broker.port)]) as site:
        ids = [site.start().id for _ in range(5)]
        until(lambda: site.status("mqtt")["connected"] is False)
        assert "refused" in site.status("mqtt")["last_error"]
        assert site.status("mqtt")["pending"] == 5
    with broker, Listener(broker.port) as listener, told_site(tmp_path / "site", [mqtt(broker.port)]):
        until(lambda: len(listener.once("start")) == 5)
        assert [one["event_id"] for one in listener.once("start")] == ids


def test_a_killed_program_is_told_of_by_its_last_will_and_loses_nothing(tmp_path: Path):
    with Broker(tmp_path / "broker") as broker, Listener(broker.port) as listener:
        command = [
            sys.executable,
            str(HERE / "told_site.py"),
            str(tmp_path / "site"),
            "mqtt",
            str(broker.port),
            "200",
        ]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        assert child.stdout is not None
        stored = [child.stdout.readline().strip() for _ in range(30)]
        child.kill()
        child.wait(10)
        stored += child.stdout.read().split()
        child.stdout.close()
        until(lambda: listener.statuses() == [True, False])
        with told_site(tmp_path / "site", [mqtt(broker.port)]) as site:
            until(lambda: site.status("mqtt")["pending"] == 0)
            # The last event may have been committed and not printed any more.
            committed = [event.id for event in reversed(site.store.events(limit=1000))]
        assert committed[: len(stored)] == stored
        until(lambda: {one["event_id"] for one in listener.told("start")} == set(committed))
        assert [one["event_id"] for one in listener.once("start")] == committed
        until(lambda: listener.statuses()[-2:] == [True, False])


def test_who_comes_later_learns_the_state_of_each_camera(tmp_path: Path):
    def states(listener: Listener) -> dict[str, str]:
        return {
            topic.removeprefix(f"{BASE}/cameras/"): content["state"]
            for topic, content, _ in list(listener.messages)
            if topic.endswith("/state")
        }

    expected = {f"cam {number}/state": "running" for number in range(50)} | {"cam 7/state": "stopped"}
    with Broker(tmp_path / "broker") as broker, told_site(tmp_path / "site", [mqtt(broker.port)]) as site:
        for number in range(50):
            site.delivery.set_camera_state(f"cam {number}", {"state": "running", "alarm": False})
        site.delivery.set_camera_state("cam 7", {"state": "stopped", "alarm": False})
        with Listener(broker.port) as listener:
            until(lambda: states(listener) == expected)
            assert listener.statuses() == [True]
        # A broker that forgot everything is told again.
        broker.kill()
        broker.start()
        with Listener(broker.port) as listener:
            until(lambda: states(listener) == expected)
            until(lambda: listener.statuses() == [True])


def kept(broker: Broker) -> dict[str, str]:
    """What who comes now is told of states."""
    with Listener(broker.port) as listener:
        until(listener.statuses)
        time.sleep(0.1)
        return {
            topic.split("/")[-2]: content["state"]
            for topic, content, retained in list(listener.messages)
            if topic.endswith("/state") and retained and content
        }


def test_of_a_camera_that_left_no_state_is_kept(tmp_path: Path):
    there = ["top", "press", "old"]
    with Broker(tmp_path / "broker") as broker:
        with told_site(tmp_path / "site", [mqtt(broker.port)], cameras=lambda: there) as site:
            for camera in there:
                site.delivery.set_camera_state(camera, {"state": "running"})
            until(lambda: kept(broker) == dict.fromkeys(there, "running"))
            there.remove("old")
            until(lambda: kept(broker) == {"top": "running", "press": "running"})
            there.append("old")
            until(lambda: len(kept(broker)) == 3)
        # Taken out of the site while nothing ran.
        there.remove("old")
        with told_site(tmp_path / "site", [mqtt(broker.port)], cameras=lambda: there):
            until(lambda: kept(broker) == {"top": "running", "press": "running"})


def test_a_store_that_cannot_be_written_breaks_no_connection_and_what_is_kept_is_noted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("anomaly.edge.notify.queue._WRITE_AGAIN_S", 0.1)
    with (
        Broker(tmp_path / "broker") as broker,
        told_site(tmp_path / "site", [mqtt(broker.port)], cameras=lambda: ["top"]) as site,
        Listener(broker.port) as listener,
    ):
        until(listener.statuses)
        other = sqlite3.connect(tmp_path / "site" / "anomaly.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        site.delivery.set_camera_state("top", {"state": "stopped"})
        until(lambda: any(topic.endswith("/top/state") for topic, _, _ in list(listener.messages)))
        # Tried again meanwhile, in vain.
        time.sleep(BUSY_S + 1.0)
        assert listener.statuses() == [True]
        other.execute("ROLLBACK")
        until(lambda: other.execute("SELECT camera FROM outbox_retained").fetchall() == [("top",)])
        other.close()
        assert listener.statuses() == [True]


def test_the_heartbeat_goes_on_only_while_frames_are_scored(tmp_path: Path):
    scored = [True]
    with Broker(tmp_path / "broker") as broker, Listener(broker.port) as listener:
        settings = mqtt(broker.port, heartbeat_s=0.1)
        with told_site(tmp_path / "site", [settings], scored_since=lambda seconds: scored[0]):
            until(lambda: len(listener.told("heartbeat")) >= 3)
            scored[0] = False
            time.sleep(0.2)
            before = len(listener.told("heartbeat"))
            time.sleep(0.5)
            assert len(listener.told("heartbeat")) == before
            scored[0] = True
            until(lambda: len(listener.told("heartbeat")) >= before + 2)
        assert listener.told("heartbeat")[0]["sinks"] == {"mqtt": True}
        assert listener.told("heartbeat")[0]["every_s"] == 0.1


def test_one_channel_s_heartbeat_reports_that_another_does_not_drain(tmp_path: Path):
    trouble = []
    with Broker(tmp_path / "broker") as broker, Listener(broker.port) as listener:
        settings = mqtt(broker.port, heartbeat_s=0.1, bounds=Bounds(late_s=0.3))
        other = MqttSettings(
            "127.0.0.1", 1, name="other", backoff=QUICK, heartbeat_s=0.1, bounds=Bounds(late_s=0.3)
        )
        with told_site(
            tmp_path / "site",
            [settings, other],
            tend_every_s=0.1,
            on_trouble=lambda *told: trouble.append(told),
        ) as site:
            site.start()
            until(lambda: listener.told("start"))
            until(
                lambda: any(
                    one["sinks"] == {"mqtt": True, "other": False} for one in listener.told("heartbeat")
                )
            )
            assert site.status("other")["draining"] is False
            assert site.status("mqtt")["draining"] is True
    assert ("other", "down") in [told[:2] for told in trouble]


def test_a_state_set_over_mqtt_arrives_and_nonsense_does_not(tmp_path: Path):
    told = []
    with Broker(tmp_path / "broker") as broker, Listener(broker.port, topic=f"{BASE}/status") as listener:
        topic = f"{BASE}/cameras/cam%2F1/state/set"
        # Meant long ago: a retained command must not be obeyed at each connection.
        listener.client.publish(topic, "stopped", qos=1, retain=True).wait_for_publish(10)
        settings = mqtt(broker.port, commands=True)
        with told_site(tmp_path / "site", [settings], on_state=lambda *given: told.append(given)):
            # Who is online listens.
            until(listener.statuses)
            for payload in ("open the door", b"\xff\xfe", "", "maintenance"):
                listener.client.publish(topic, payload, qos=1).wait_for_publish(10)
            until(lambda: told)
    assert told == [("cam/1", "maintenance", "mqtt:mqtt")]


def test_a_message_that_the_broker_refuses_is_set_aside_and_the_rest_goes_on(tmp_path: Path):
    rules = tmp_path / "acl"
    rules.write_text(
        f"topic readwrite {BASE}/status\ntopic read #\ntopic readwrite {BASE}/cameras/allowed/#\n"
    )
    trouble = []
    with (
        Broker(tmp_path / "broker", f"acl_file {rules}") as broker,
        Listener(broker.port) as listener,
        told_site(
            tmp_path / "site", [mqtt(broker.port)], on_trouble=lambda *told: trouble.append(told)
        ) as site,
    ):
        site.start("forbidden")
        event = site.start("allowed")
        until(lambda: listener.told("start"))
        until(lambda: site.status("mqtt")["set_aside"] == 1)
        until(lambda: site.status("mqtt")["pending"] == 0)
        assert [one["event_id"] for one in listener.told("start")] == [event.id]
        assert site.delivery.send_again("mqtt") == 1
        until(lambda: site.status("mqtt")["set_aside"] == 1)
    assert trouble[0][:2] == ("mqtt", "set aside")
    assert "0x87" in trouble[0][2]["reason"]


def test_a_message_at_which_the_broker_hangs_up_does_not_block_the_others(tmp_path: Path):
    with (
        Broker(tmp_path / "broker", "max_packet_size 2000") as broker,
        Listener(broker.port) as listener,
        told_site(tmp_path / "site", [mqtt(broker.port, protocol="3.1.1")]) as site,
    ):
        before = site.start()
        site.start(doubt="x" * 3000)
        after = site.start()
        until(lambda: site.status("mqtt")["sent"] == 2)
        assert site.status("mqtt")["set_aside"] == 1
        assert [one["event_id"] for one in listener.once("start")] == [before.id, after.id]


@pytest.mark.parametrize("code", [0x80, 0x83])
def test_a_message_that_the_broker_never_takes_does_not_block_the_others(tmp_path: Path, code: int):
    """It does not meet a schema of the broker's, say, which gives no reason that means just that."""
    bad: list[str] = []

    def answer(topic: str, content: dict[str, Any]) -> int:
        return code if content.get("event_id") in bad else 0

    with (
        FakeBroker(answer) as broker,
        told_site(tmp_path, [mqtt(broker.port)], running=False) as site,
    ):
        bad.append(site.start("press").id)
        good = [site.start(camera).id for camera in ("top", "press")]
        site.delivery.start()
        until(lambda: site.status("mqtt")["sent"] == 2)
        while site.status("mqtt")["set_aside"] == 0:
            good.append(site.start("press").id)
            until(lambda: site.status("mqtt")["sent"] == len(good))
            assert len(good) < 12
        told = [content["event_id"] for _, content in broker.messages if content.get("kind") == "start"]
        assert [one for one in told if one not in bad] == good
        assert site.status("mqtt")["pending"] == 0


def refusing(content: dict[str, Any]) -> int:
    return 0x80 if (content.get("kind"), content.get("camera")) == ("start", "press") else 0


def test_a_camera_whose_messages_the_broker_never_takes_holds_up_no_other(tmp_path: Path):
    told: list[Any] = []
    with (
        FakeBroker(lambda topic, content: refusing(content)) as broker,
        told_site(
            tmp_path,
            [mqtt(broker.port, bounds=Bounds(late_s=4.0))],
            running=False,
            tend_every_s=0.1,
            on_trouble=lambda *one: told.append(one),
        ) as site,
    ):
        # More than go out at a time.
        for _ in range(25):
            site.start("press")
        good = [site.start("top").id for _ in range(3)]
        site.delivery.start()
        until(lambda: site.status("mqtt")["sent"] == 3, 2.0)
        until(lambda: told)
        assert told[0][1] == "down"
        assert "could not take a message (MQTT reason 0x80)" in told[0][2]["reason"]
        while site.status("mqtt")["set_aside"] < 25:
            good.append(site.start("top").id)
            until(lambda: site.status("mqtt")["sent"] == len(good), 2.0)
            time.sleep(0.1)
            assert len(good) < 200
        taken = [content for _, content in broker.messages if not refusing(content)]
        assert [one["event_id"] for one in taken if one.get("kind") == "start"] == good
        assert sum("online" in one for one in taken) == 1


def test_behind_many_that_the_broker_never_takes_those_that_it_takes_are_found(tmp_path: Path):
    """Of the only camera."""
    bad: list[str] = []

    def answer(topic: str, content: dict[str, Any]) -> int:
        return 0x80 if content.get("event_id") in bad else 0

    with FakeBroker(answer) as broker, told_site(tmp_path, [mqtt(broker.port)], running=False) as site:
        bad += [site.start().id for _ in range(45)]
        site.start()
        site.delivery.start()
        until(lambda: site.status("mqtt")["sent"] == 1)
        assert site.status("mqtt")["set_aside"] == 0


@pytest.mark.parametrize("code", [0x80, 0x83, 0x97])
def test_a_broker_that_takes_nothing_for_now_has_all_of_it_later_in_order(tmp_path: Path, code: int):
    """Its disk is full, or a quota, or a queue behind it: that is no fault of a message."""
    tries, taken, ids = [], [], []

    def answer(topic: str, content: dict[str, Any]) -> int:
        if content.get("kind") != "start":
            return 0
        tries.append(content["event_id"] == ids[0])
        if sum(tries) < 12:
            return code
        taken.append(content["event_id"])
        return 0

    with FakeBroker(answer) as broker, told_site(tmp_path, [mqtt(broker.port)], running=False) as site:
        ids += [site.start().id for _ in range(3)]
        site.delivery.start()
        until(lambda: sum(tries) > 5)
        ids.append(site.start().id)
        until(lambda: site.status("mqtt")["sent"] == 4)
        assert taken == ids
        assert site.status("mqtt")["set_aside"] == 0


def test_the_more_tries_the_longer_a_camera_waits_though_new_messages_are_not_taken_either(tmp_path: Path):
    tries: list[str] = []

    def answer(topic: str, content: dict[str, Any]) -> int:
        if content.get("kind") != "start":
            return 0
        tries.append(content["event_id"])
        return 0x83

    with FakeBroker(answer) as broker:
        patient = MqttSettings("127.0.0.1", broker.port, backoff=Backoff(0.05, 60.0))
        with told_site(tmp_path, [patient]) as site:
            first = site.start().id
            until_s = time.monotonic() + 4.0
            while time.monotonic() < until_s:
                site.start()
                time.sleep(0.02)
    # Each wait is twice the one before, or up to half shorter: eight of them take three seconds at least.
    assert 2 < tries.count(first) < 10


def test_a_message_that_is_not_taken_is_tried_again_though_others_of_its_camera_are_always_on_their_way(
    tmp_path: Path,
):
    bad: list[str] = []

    def answer(topic: str, content: dict[str, Any]) -> int:
        if content.get("event_id") in bad:
            return 0x80
        if content.get("kind") == "start":
            time.sleep(0.06)
        return 0

    with FakeBroker(answer) as broker, told_site(tmp_path, [mqtt(broker.port)], running=False) as site:
        bad.append(site.start().id)
        site.start()
        site.delivery.start()
        until_s = time.monotonic() + 15.0
        while site.status("mqtt")["set_aside"] == 0:
            site.start()
            time.sleep(0.04)
            assert time.monotonic() < until_s


def test_a_message_in_memory_that_the_broker_never_takes_is_set_aside_though_later_ones_are_taken(
    tmp_path: Path,
):
    def answer(topic: str, content: dict[str, Any]) -> int:
        return 0x80 if content.get("detail") == {"reason": "bad"} else 0

    def taken() -> int:
        return sum(content.get("detail") == {"reason": "good"} for _, content in broker.messages)

    with FakeBroker(answer) as broker, told_site(tmp_path, [mqtt(broker.port)]) as site:
        site.delivery.on_health_not_stored("top", "running", "disk", {"reason": "bad"})
        for count in range(1, 21):
            site.delivery.on_health_not_stored("top", "running", "disk", {"reason": "good"})
            until(lambda count=count: taken() == count)
        # It waited for what was in memory before it.
        site.start("top")
        until(lambda: site.status("mqtt")["sent"] == 1, 5.0)


def test_a_queue_behind_the_broker_that_is_full_and_moves_on_slowly_costs_no_message(tmp_path: Path):
    """So RabbitMQ answers where its queue has a length: each try one message is taken."""
    free_at = [0.0]

    def answer(topic: str, content: dict[str, Any]) -> int:
        now = time.monotonic()
        if content.get("kind") != "start":
            return 0
        if now < free_at[0]:
            return 0x83
        free_at[0] = now + 0.2
        return 0

    with FakeBroker(answer) as broker, told_site(tmp_path, [mqtt(broker.port)], running=False) as site:
        for _ in range(20):
            site.start()
        site.delivery.start()
        until(lambda: site.status("mqtt")["sent"] == 20, 30.0)
        assert site.status("mqtt")["set_aside"] == 0


def test_what_waited_behind_a_message_in_memory_goes_out_once_the_broker_cannot_have_it(tmp_path: Path):
    with (
        Broker(tmp_path / "broker", "max_packet_size 3000") as broker,
        told_site(tmp_path / "site", [mqtt(broker.port)], running=False) as site,
    ):
        site.delivery.on_health_not_stored("top", "running", "disk", {"reason": "x" * 4000})
        for camera in ("top", "side"):
            site.start(camera)
        site.delivery.start()
        until(lambda: site.status("mqtt")["sent"] == 2)


def test_a_message_that_is_too_large_for_the_broker_breaks_no_connection(tmp_path: Path):
    with (
        Broker(tmp_path / "broker", "max_packet_size 2000") as broker,
        Listener(broker.port) as listener,
        told_site(tmp_path / "site", [mqtt(broker.port)]) as site,
    ):
        site.start(doubt="x" * 3000)
        site.start()
        until(lambda: site.status("mqtt")["sent"] == 1)
        assert site.status("mqtt")["set_aside"] == 1
        assert listener.statuses() == [True]


def test_two_programs_with_one_client_id_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("anomaly.edge.notify.queue._BREAKS_S", 2.0)
    told = []
    with Broker(tmp_path / "broker") as broker:
        quick = {"tend_every_s": 0.1, "on_trouble": lambda *one: told.append(one)}
        with told_site(tmp_path / "one", [mqtt(broker.port)], **quick):
            with told_site(tmp_path / "two", [mqtt(broker.port)]):
                until(lambda: told)
            until(lambda: len(told) == 2)
    assert [one[:2] for one in told] == [("mqtt", "down"), ("mqtt", "up")]
    assert "another program comes with our client id" in told[0][2]["reason"]
    assert "sinks.mqtt.client_id" in told[0][2]["reason"]


def test_a_broker_that_is_back_is_told_as_such_at_once(tmp_path: Path):
    """Its outage broke off one connection; only where they keep breaking off it is waited whether one stands."""
    told: list[tuple[Any, ...]] = []
    with Broker(tmp_path / "broker") as broker:
        settings = mqtt(broker.port, bounds=Bounds(late_s=0.3))
        quick = {"tend_every_s": 0.1, "on_trouble": lambda *one: told.append(one)}
        with told_site(tmp_path / "site", [settings], **quick) as site:
            site.start()
            until(lambda: site.status("mqtt")["sent"] == 1)
            broker.stop()
            site.start()
            until(lambda: told)
            broker.start()
            until(lambda: site.status("mqtt")["sent"] == 2)
            until(lambda: len(told) == 2, 10)
    assert [one[1] for one in told] == ["down", "up"]


def test_a_broker_that_acknowledges_nothing_is_told_as_such(tmp_path: Path):
    """And not as another program with our client id alone."""
    told: list[Any] = []

    def answer(door: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here, _ = door.accept()
                with here, suppress(OSError):
                    here.recv(4096)
                    here.sendall(b"\x20\x02\x00\x00")
                    while here.recv(4096):
                        pass

    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=answer, args=(door,), daemon=True).start()
        silent = mqtt(door.getsockname()[1], protocol="3.1.1", ack_s=0.2)
        with told_site(
            tmp_path, [silent], tend_every_s=0.1, on_trouble=lambda *one: told.append(one)
        ) as site:
            site.start()
            until(lambda: told)
    assert "no acknowledgement for 0.2 s" in told[0][2]["reason"]


def test_a_state_is_taken_back_again_where_the_broker_did_not_hear_it(tmp_path: Path):
    there = ["top", "old"]
    saving = "autosave_on_changes true", "autosave_interval 1"
    with (
        Broker(tmp_path / "broker", *saving) as broker,
        told_site(tmp_path / "site", [mqtt(broker.port)], cameras=lambda: there, tend_every_s=0.1) as site,
    ):
        for camera in there:
            site.delivery.set_camera_state(camera, {"state": "running"})
        until(lambda: len(kept(broker)) == 2)
        time.sleep(0.5)
        # Gone without a word, as with its cable: what is sent to it meanwhile is lost.
        broker.freeze()
        there.remove("old")
        time.sleep(1.5)
        broker.kill()
        broker.start()
        until(lambda: kept(broker) == {"top": "running"})


def test_what_the_broker_does_not_allow_is_told(tmp_path: Path):
    rules = tmp_path / "acl"
    rules.write_text(f"topic readwrite {BASE}/status\n")
    with (
        Broker(tmp_path / "broker", f"acl_file {rules}") as broker,
        told_site(tmp_path / "site", [mqtt(broker.port, heartbeat_s=0.2)]) as site,
    ):
        until(lambda: f"not let us publish to {BASE}/heartbeat" in site.status("mqtt")["last_error"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=refuse_commands, args=(server,), daemon=True).start()
        settings = mqtt(server.getsockname()[1], commands=True)
        with told_site(tmp_path / "other", [settings], on_state=lambda *told: None) as site:
            listening = f"not let us listen to {BASE}/cameras/+/state/set"
            until(lambda: listening in site.status("mqtt")["last_error"])
            until(lambda: "ended the connection (Administrative action)" in site.status("mqtt")["last_error"])


def refuse_commands(server: socket.socket) -> None:
    """A broker that allows nobody to subscribe and, half a second later, ends the connection and says so."""
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client, client.makefile("rb") as given:
            while head := given.read(1):
                length, shift = 0, 0
                while True:
                    (byte,) = given.read(1)
                    length, shift = length | (byte & 0x7F) << shift, shift + 7
                    if byte < 0x80:
                        break
                body = given.read(length)
                if head[0] >> 4 == 1:  # CONNECT
                    client.sendall(b"\x20\x03\x00\x00\x00")
                elif head[0] >> 4 == 8:  # SUBSCRIBE
                    client.sendall(b"\x90\x04" + body[:2] + b"\x00\x87")
                    time.sleep(0.5)
                    client.sendall(b"\xe0\x02\x98\x00")
                    break


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a broker's certificate for 127.0.0.1, a client's, and another CA that signed nothing."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl; apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "other"):
        openssl(
            "req",
            "-x509",
            *key,
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.pem",
            "-subj",
            f"/CN={name}",
            "-days",
            "2",
        )
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", f"{name}.pem", "-days", "2", "-extfile", "san"),
        )
    return folder


def test_tls_with_an_authority_and_a_client_certificate(tmp_path: Path, authority: Path):
    files = [
        f"cafile {authority}/ca.pem",
        f"certfile {authority}/server.pem",
        f"keyfile {authority}/server.key",
    ]
    ours = Tls(authority / "ca.pem", authority / "client.pem", authority / "client.key")

    def told_by(site: Site) -> str:
        return site.status("mqtt")["last_error"]

    def trust(client: paho.Client) -> None:
        client.tls_set(str(ours.ca), str(ours.certificate), str(ours.key), cert_reqs=ssl.CERT_REQUIRED)

    with (
        Broker(tmp_path / "broker", *files, "require_certificate true") as broker,
        Listener(broker.port, tls=trust) as listener,
    ):
        with told_site(tmp_path / "wrong", [mqtt(broker.port, tls=Tls(authority / "other.pem"))]) as site:
            until(lambda: "certificate is not accepted (self-signed certificate in" in told_by(site))
        with told_site(tmp_path / "nobody", [mqtt(broker.port, tls=Tls(authority / "ca.pem"))]) as site:
            until(lambda: "certificate of ours (sinks.mqtt.tls)" in told_by(site))
        with told_site(tmp_path / "clear", [mqtt(broker.port)]) as site:
            until(lambda: "wants TLS" in told_by(site))
        with told_site(tmp_path / "site", [mqtt(broker.port, tls=ours)]) as site:
            event = site.start()
            until(lambda: listener.told("start"))
        assert [one["event_id"] for one in listener.told("start")] == [event.id]


def test_a_client_s_key_is_read_at_each_connection_and_an_encrypted_one_is_told(
    tmp_path: Path, authority: Path
):
    files = [
        f"cafile {authority}/ca.pem",
        f"certfile {authority}/server.pem",
        f"keyfile {authority}/server.key",
    ]
    key = tmp_path / "client.key"
    encrypted = ["openssl", "pkey", "-aes256", "-passout", "pass:canary", "-in", "client.key", "-out"]
    subprocess.run([*encrypted, str(key)], cwd=authority, check=True)
    ours = Tls(authority / "ca.pem", authority / "client.pem", key)
    with (
        Broker(tmp_path / "broker", *files, "require_certificate true") as broker,
        told_site(tmp_path / "site", [mqtt(broker.port, tls=ours)]) as site,
    ):
        site.start()
        until(lambda: f"{key} is encrypted" in site.status("mqtt")["last_error"])
        shutil.copy(authority / "client.key", key)
        until(lambda: site.status("mqtt")["sent"] == 1)


def test_a_password_is_read_when_connecting_and_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    passwords = tmp_path / "passwords"
    passwords.write_text("runner:canary-8c1f\n")
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("no mosquitto_passwd; apt-get install --no-install-recommends mosquitto")
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
    caplog.set_level("DEBUG")
    with Broker(tmp_path / "broker", "allow_anonymous false", f"password_file {passwords}") as broker:
        settings = mqtt(broker.port, user="runner", password="${env:BROKER_PASSWORD}")
        monkeypatch.delenv("BROKER_PASSWORD", raising=False)
        with told_site(tmp_path / "site", [settings]) as site:
            until(lambda: "BROKER_PASSWORD is not set" in site.status("mqtt")["last_error"].replace("}", ""))
            monkeypatch.setenv("BROKER_PASSWORD", "canary-wrong")
            until(lambda: "refused the connection" in site.status("mqtt")["last_error"])
            monkeypatch.setenv("BROKER_PASSWORD", "canary-8c1f")
            site.start()
            until(lambda: site.status("mqtt")["sent"] == 1)
            assert "canary" not in repr(settings) + repr(site.delivery.status()) + caplog.text
    assert b"canary" not in b"".join(
        path.read_bytes() for path in (tmp_path / "site").rglob("*") if path.is_file()
    )


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"host": "mqtt://broker"}, "host"),
        ({"host": "broker", "password": "x", "user": "u"}, "clear"),
        ({"host": "broker", "protocol": "4"}, "protocol"),
        ({"host": "broker", "prefix": "a/#"}, "prefix"),
        ({"host": "broker", "heartbeat_s": 0}, "heartbeat_s"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(given: dict, named: str):
    with pytest.raises(UsageError, match=named):
        MqttSettings(**given)
