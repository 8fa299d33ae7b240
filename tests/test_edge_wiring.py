"""`run` with a page and a broker: what is asked on one side shows on the other, in the store and in the audit."""

from __future__ import annotations

import json
import logging
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import httpx
import pytest
from broker import Broker, Listener, Receiver, needs_mosquitto, until
from small_model import FPS, SmallModel, start
from test_edge_clips import ended_event, index, record
from told_site import told_site

from anomaly.commands.live import _set_state
from anomaly.edge.audit import Audit
from anomaly.edge.health import Trouble
from anomaly.edge.logs import logging_to_stderr
from anomaly.edge.notify import PeopleSettings
from anomaly.edge.notify.troubles import SinkTroubles
from anomaly.edge.server.accounts import Accounts
from anomaly.edge.server.door import open_vault
from anomaly.edge.store import Store
from anomaly.errors import StoreError

BASE = "anomaly/plant/one"


def states(listener: Listener) -> list[tuple[str, str]]:
    """(state, recipe) of the camera, as they were told."""
    return [
        (content["state"], content["recipe"])
        for topic, content, _ in list(listener.messages)
        if topic == f"{BASE}/cameras/line/state"
    ]


@needs_mosquitto
@pytest.mark.timeout(180)
@pytest.mark.slow
def test_states_recipes_and_a_silent_broker_are_told_and_written(small_model: SmallModel, tmp_path: Path):
    store = tmp_path / "store"
    store.mkdir()
    vault = open_vault(store)
    Accounts(vault).add("mara", "engineer", "correct horse battery")
    _, token = Accounts(vault).add_token("mara", "mes", "engineer", ("control", "live"))
    with Broker(tmp_path / "broker") as broker, Listener(broker.port) as listener:
        site = tmp_path / "site.yaml"
        camera = {
            "name": "line",
            "source": str(small_model.footage.test / "test_01.mp4"),
            "loop": True,
            "model": str(small_model.folder),
            "fps": 5,
            "recipes": {"A": str(small_model.folder), "B": str(small_model.folder)},
            "recipe": "A",
        }
        sink = {"host": "127.0.0.1", "port": broker.port, "commands": True, "bounds": {"late_s": 1.0}}
        document = {"site": "plant", "line": "one", "cameras": [camera], "sinks": {"mqtt": sink}}
        site.write_text(json.dumps(document))
        child = start(
            "run",
            "--site",
            site,
            "--out",
            store,
            "--serve",
            "127.0.0.1:0",
            "run.metrics=null",
            FPS,
            cwd=tmp_path,
        )
        try:
            assert child.stdout is not None
            url = (
                next(line for line in child.stdout if "The page: " in line).partition("The page: ")[2].strip()
            )
            page = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=20)
            until(lambda: states(listener) == [("running", "A")])
            listener.client.publish(f"{BASE}/cameras/line/state/set", json.dumps("maintenance"), qos=1)
            until(lambda: states(listener)[-1] == ("maintenance", "A"))
            assert page.post("/api/cameras/line/recipe", json={"recipe": "B"}).status_code == 200
            until(lambda: states(listener)[-1] == ("maintenance", "B"))
            assert page.post("/api/cameras/line/state", json={"state": "running"}).status_code == 200
            until(lambda: states(listener)[-1] == ("running", "B"))
            assert page.get("/api/sinks").json()["sinks"][0]["name"] == "mqtt"
            assert page.post("/api/models/reload").status_code == 200
            with Store(store, owner=False) as reader:
                until(lambda: any(one.kind == "model" for one in reader.health("")))
                broker.stop()
                until(lambda: any(one.kind == "sink mqtt" for one in reader.health("")), 60)
                broker.start()
                until(lambda: all(one.end_utc_s for one in reader.health("") if one.kind == "sink mqtt"), 60)
        finally:
            child.send_signal(signal.SIGTERM)
            _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    lines = [(one.who, one.action, one.subject) for one in reversed(Audit(vault).lines())]
    vault.close()
    assert lines[-6:] == [
        ("", "threshold", "line"),
        ("mqtt:mqtt", "state", "line"),
        ("token mes of mara", "recipe", "line"),
        ("", "threshold", "line"),
        ("token mes of mara", "state", "line"),
        ("token mes of mara", "reload", ""),
    ]


@needs_mosquitto
@pytest.mark.timeout(120)
def test_without_a_page_too_the_audit_tells_who_muted_and_what_decides(
    small_model: SmallModel, tmp_path: Path
):
    folder, site = tmp_path / "store", tmp_path / "site.yaml"
    source = str(small_model.footage.test / "test_01.mp4")
    camera = {"name": "line", "source": source, "loop": True, "model": str(small_model.folder), "fps": 5}
    with Broker(tmp_path / "broker") as broker, Listener(broker.port) as listener:
        sinks = {"mqtt": {"host": "127.0.0.1", "port": broker.port, "commands": True}}
        document = {"site": "plant", "line": "one", "cameras": [{**camera, "record": False}], "sinks": sinks}
        site.write_text(json.dumps(document))
        child = start("run", "--site", site, "--out", folder, "run.metrics=null", FPS, cwd=tmp_path)
        try:
            until(lambda: states(listener) == [("running", "")], 60)
            listener.client.publish(f"{BASE}/cameras/line/state/set", json.dumps("maintenance"), qos=1)
            until(lambda: states(listener)[-1] == ("maintenance", ""))
            child.send_signal(signal.SIGHUP)
            with Store(folder, owner=False) as reader:
                until(lambda: any(one.kind == "model" for one in reader.health("")))
        finally:
            child.send_signal(signal.SIGTERM)
            _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    vault = open_vault(folder)
    lines = [(one.who, one.action, one.subject) for one in reversed(Audit(vault).lines())]
    vault.close()
    assert lines == [
        ("", "threshold", "line"),
        ("mqtt:mqtt", "state", "line"),
        ("signal SIGHUP", "reload", ""),
    ]


def test_where_no_audit_can_be_written_nobody_is_muted():
    """As where a line of it cannot be: with a damaged accounts.db a camera was silenced, and nothing told by whom."""
    asked: list[tuple[str, ...]] = []
    runner: Any = SimpleNamespace(set_state=lambda *what: asked.append(what))
    with pytest.raises(StoreError, match=r"line stays as it is.*mqtt:mqtt.*see to accounts\.db"):
        _set_state([runner], [], "line", "maintenance", "mqtt:mqtt")
    _set_state([runner], [], "line", "running", "mqtt:mqtt")
    assert asked == [("line", "running", "mqtt:mqtt")]


def test_a_sink_that_refuses_everything_is_told_once_not_for_each_refusal():
    told: list[Trouble] = []
    troubles = SinkTroubles(told.append)
    for number in range(50):
        # Each is told to the sinks too, where it may be refused in turn.
        troubles("mes", "set aside", {"message": str(number)})
    assert [(one.kind, one.begins) for one in told] == [
        ("sink mes set aside", True),
        ("sink mes set aside", False),
    ]
    troubles("mes", "down", {"waited_s": 61.0})
    troubles("mes", "up", {})
    assert [(one.kind, one.begins) for one in told[2:]] == [("sink mes", True), ("sink mes", False)]
    assert all(abs(one.utc_s - time.time()) < 60 for one in told)


def test_no_picture_from_before_a_mask_leaves_the_site(small_model: SmallModel, tmp_path: Path):
    """People are told when their service is back; what the page shows no more is not sent to them then."""
    folder = tmp_path / "store"
    with Receiver() as receiver:
        people = {
            "name": "people",
            "address": f"json://127.0.0.1:{receiver.port}/",
            "enabled": True,
            "pictures": True,
        }
        settings = PeopleSettings(people["address"], enabled=True, pictures=True)
        with told_site(folder, [settings], running=False) as told:
            events = [told.start(camera) for camera in ("open", "hidden")]
            for event in events:
                picture = told.store.path(f"snapshots/{event.id}.heatmap.jpg")
                picture.parent.mkdir(exist_ok=True)
                picture.write_bytes(b"a picture")
                told.store.end_event(event.id, time.time(), 2.0, heatmap=f"snapshots/{picture.name}")
            told.store.set_masks("hidden", (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),))
        source = str(small_model.footage.test / "test_01.mp4")
        camera = {
            "name": "line",
            "source": source,
            "loop": True,
            "record": False,
            "model": str(small_model.folder),
        }
        site = tmp_path / "site.yaml"
        site.write_text(json.dumps({"cameras": [camera], "sinks": {"people": [people]}}))
        child = start("run", "--site", site, "--out", folder, "run.metrics=null", FPS, cwd=tmp_path)
        try:
            until(lambda: len(receiver.contents()) >= 2, 120)
        finally:
            child.send_signal(signal.SIGTERM)
            _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    sent = {
        event.camera: one["attachments"]
        for event in events
        for one in receiver.contents()
        if event.id in one["message"]
    }
    assert len(sent["open"]) == 1
    assert sent["hidden"] == []


def test_a_log_for_machines_holds_nothing_else(capfd: pytest.CaptureFixture[str]):
    """A line that a library prints itself is none that a gatherer of logs can read."""
    with logging_to_stderr(True):
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
        logging.getLogger("uvicorn.error").info("that is not asked for")
        logging.getLogger("anomaly.edge.live").info("a fact")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(one["where"], one["text"]) for one in lines] == [
        ("uvicorn.error", "Invalid HTTP request received."),
        ("anomaly.edge.live", "a fact"),
    ]


@pytest.mark.timeout(120)
def test_a_camera_that_was_taken_away_stays_behind_its_masks(small_model: SmallModel, tmp_path: Path):
    """Its clips are painted, and what was recorded before the masks is kept for these clips only."""
    folder, now = tmp_path / "store", time.time()
    source = str(small_model.footage.test / "test_01.mp4")
    camera = {"name": "line", "source": source, "loop": True, "model": str(small_model.folder), "fps": 5}
    site = tmp_path / "site.yaml"
    site.write_text(json.dumps({"cameras": [{**camera, "record": False}]}))
    with Store(folder) as store:
        for age_s in (9000.0, 3000.0):
            index(store, record(folder / "recording", utc_s=now - age_s, camera="gone"))
        event = ended_event(store, now - 2990, "gone")
        store.set_masks("gone", (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),))
    child = start("run", "--site", site, "--out", folder, "run.metrics=null", FPS, cwd=tmp_path)
    try:
        with Store(folder, owner=False) as reader:
            until(lambda: reader.event(event).clip_state == "ready", 60)
            until(lambda: not reader.segments("gone", now - 9100, now - 8000))
            clip = reader.path(reader.event(event).clip)
            with av.open(str(clip)) as video:
                assert all(frame.to_ndarray(format="rgb24").max() < 20 for frame in video.decode(video=0))
    finally:
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
