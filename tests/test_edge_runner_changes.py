"""What changes while the runner runs: cameras, recipes, models, the disk; and that every frame stays accounted for."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import texture, write_clip
from freezing_disk import freeze, freezing_disk, thaw  # noqa: F401  (a fixture)
from small_model import FPS, SmallModel, start
from test_edge_retention import add_event, add_segment
from test_edge_runner import announced, until

from anomaly.detector import Detector, rescaled
from anomaly.edge import outbox
from anomaly.edge.address import parse_address
from anomaly.edge.blind import Gap
from anomaly.edge.capture import Report
from anomaly.edge.health import Trouble
from anomaly.edge.ledger import Ledger
from anomaly.edge.live import LiveCamera
from anomaly.edge.loaded import Loaded
from anomaly.edge.metrics import Figures, Probes
from anomaly.edge.notify import Delivery, WebhookSettings
from anomaly.edge.notify.message import Origin, event_message
from anomaly.edge.pictures import Pictures, Shot
from anomaly.edge.retention import Clocks, Retention
from anomaly.edge.runner import Runner
from anomaly.edge.site import CameraSite, Site, site_of
from anomaly.edge.state import Schedule, parse_schedule
from anomaly.edge.store import Store
from anomaly.edge.store.database import connect
from anomaly.edge.store.opening import DATABASE
from anomaly.errors import ModelError, StoreError, UsageError
from anomaly.model import load_model
from anomaly.privacy import Polygon
from anomaly.regions import Regions
from anomaly.thresholds import load_threshold


@pytest.fixture(scope="module")
def loaded(small_model: SmallModel) -> Loaded:
    model = load_model(small_model.folder, offline=True)
    return Loaded.of(model, load_threshold(model, fps=5.0))


def looped(small: SmallModel, name: str = "line", **changes: Any) -> CameraSite:
    """A camera that plays a clean clip again and again."""
    source = str(small.footage.test / "test_03.mp4")
    (camera,) = site_of([source], small.folder, fps=5.0, record=False, names=[name]).cameras
    return replace(camera, loop=True, **changes)


@contextmanager
def running(
    folder: Path,
    loaded: Loaded,
    *cameras: CameraSite,
    load: Any = None,
    prepare: Callable[[Runner], None] = lambda runner: None,
    **options: Any,
) -> Iterator[Runner]:
    with Store(folder) as store:
        pictures = Pictures(store)
        runner = Runner(
            Site("plant", "one", cameras, {}),
            Ledger(store, pictures, None),
            load or (lambda path, fps: loaded),
            **options,
        )
        prepare(runner)
        thread = threading.Thread(target=runner.run)
        thread.start()
        try:
            yield runner
        finally:
            runner.stop()
            thread.join(30)
            pictures.close()
        assert not thread.is_alive()


def counts(runner: Runner, name: str) -> dict[str, int]:
    return runner.status()["cameras"][name]["counts"]


def scored(runner: Runner, name: str, more: int) -> bool:
    """Wait until so many more frames of a camera are scored."""
    wanted = counts(runner, name)["scored"] + more
    until(lambda: counts(runner, name)["scored"] >= wanted)
    return True


def test_cameras_come_and_go_while_it_runs(small_model: SmallModel, loaded: Loaded, tmp_path: Path):
    with running(tmp_path / "s", loaded, looped(small_model)) as runner:
        scored(runner, "line", 3)
        runner.add_camera(looped(small_model, "second", black=(((0, 0), (1, 0), (1, 0.5)),)))
        until(lambda: "second" in runner.status()["cameras"])
        # Clips of it are masked as the site says.
        assert runner.site.cameras[1].black
        scored(runner, "second", 3)
        with pytest.raises(UsageError, match="there is a camera second already"):
            runner.add_camera(looped(small_model, "second"))
        pid = runner._cameras["second"].capture.pid
        before = time.monotonic()
        runner.remove_camera("second")
        until(lambda: "second" not in runner.status()["cameras"])
        assert time.monotonic() - before < 1.0
        assert [one.name for one in runner.site.cameras] == ["line"]
        with pytest.raises(UsageError, match="there is no camera 'second'"):
            runner.remove_camera("second")
        until(lambda: not Path(f"/proc/{pid}").exists())
        assert scored(runner, "line", 3)
        # What was recorded of it stays hidden as it was.
        with Store(tmp_path / "s", owner=False) as reader:
            assert reader.masks() == {"second": (((0.0, 0.0), (1.0, 0.0), (1.0, 0.5)),)}
        # The same name may come back.
        runner.add_camera(looped(small_model, "second"))
        until(lambda: "second" in runner.status()["cameras"])
        assert scored(runner, "second", 2)


def test_a_reload_takes_up_another_schedule(small_model: SmallModel, loaded: Loaded, tmp_path: Path):
    stopped = parse_schedule([{"state": "stopped"}])
    plain, by_hand = looped(small_model, schedule=stopped), looped(small_model, "hand", schedule=stopped)
    with running(tmp_path / "s", loaded, plain, by_hand) as runner:
        scored(runner, "line", 1)
        runner.set_state("hand", "maintenance", "somebody")
        states = lambda: [one["state"] for one in runner.status()["cameras"].values()]  # noqa: E731
        until(lambda: states() == ["stopped", "maintenance"])
        pid = runner._cameras["line"].capture.pid
        free = tuple(replace(one, schedule=Schedule()) for one in (plain, by_hand))
        runner.reload(lambda: replace(runner.site, cameras=free))
        until(lambda: states() == ["running", "maintenance"])
        assert runner._cameras["line"].capture.pid == pid


def test_a_start_with_another_schedule_does_not_bring_back_what_the_one_before_had_overruled(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Else a camera that was set to maintenance last week is mute again, and nobody knows why."""
    real = time.time
    offset = [43_200.0 - real() % 86_400.0]  # it is noon
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    rule = {"state": "stopped", "from": "13:00", "to": "24:00"}
    camera = looped(small_model, schedule=parse_schedule([rule], "UTC"))
    with running(tmp_path / "s", loaded, camera) as runner:
        scored(runner, "line", 1)
        runner.set_state("line", "maintenance", "somebody")
        until(lambda: runner.status()["cameras"]["line"]["state"] == "maintenance")
    offset[0] += 2 * 86_400.0
    with running(tmp_path / "s", loaded, looped(small_model)) as runner:
        assert runner.status()["cameras"]["line"]["state"] == "running"


def test_an_anomaly_that_is_still_on_when_the_camera_runs_again_is_announced(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    spilled = parse_address(str(small_model.footage.test / "test_01.mp4"))
    camera = looped(small_model, address=spilled, schedule=parse_schedule([{"state": "stopped"}]))
    with running(tmp_path / "s", loaded, camera) as runner:
        until(lambda: runner.status()["cameras"]["line"]["event"])
        assert not any("ALARM" in line for line in caplog.messages)
        runner.set_state("line", "running", "somebody")
        until(lambda: any("ALARM" in line for line in caplog.messages))
    with Store(tmp_path / "s", owner=False) as store:
        first, rest = store.events()[::-1][:2]
    assert (first.announced, first.state, first.status) == (False, "stopped", "ended")
    assert (rest.announced, rest.state, rest.continued) == (True, "running", True)
    assert rest.start_utc_s == first.end_utc_s


def test_however_many_cameras_do_not_end_the_program_does(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("anomaly.edge.runner._LEAVE_S", 1.0, raising=False)
    leave, go = LiveCamera.leave, threading.Event()
    monkeypatch.setattr(LiveCamera, "leave", lambda camera: go.wait(60) and leave(camera))
    names = ("one", "two", "three", "four")
    try:
        with running(tmp_path / "s", loaded, *(looped(small_model, name) for name in names)) as runner:
            scored(runner, "four", 1)
            began = time.monotonic()
        assert time.monotonic() - began < 20.0
    finally:
        go.set()
    until(lambda: all(camera.capture.pid is None for camera in runner._cameras.values()))


def test_what_is_asked_for_in_vain_ends_nothing(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with running(tmp_path / "s", loaded, looped(small_model)) as runner:
        scored(runner, "line", 1)
        with pytest.raises(UsageError, match="state='asleep' is not known; give running"):
            runner.set_state("line", "asleep", "somebody")

        def twice() -> None:
            # It is there whenever it is asked for, and only once when that is obeyed.
            runner.remove_camera("line")
            runner.remove_camera("line")

        runner._do(twice)
        until(lambda: any("could not be done" in line for line in caplog.messages))
        runner.add_camera(looped(small_model, "more"))
        until(lambda: list(runner.status()["cameras"]) == ["more"])
        scored(runner, "more", 1)


CORNER = ((0.0, 0.0), (0.2, 0.0), (0.2, 0.3))


@pytest.mark.parametrize("black", [(CORNER,), (), (((0.5, 0.5), (0.7, 0.5), (0.7, 0.8)),)])
def test_a_model_fitted_under_masks_is_certified_under_the_same_only(
    loaded: Loaded, black: tuple[Polygon, ...]
):
    detector = loaded.model.detector
    masked = Detector(
        detector.branches, Regions(black=[[list(one) for one in CORNER]]), detector.decider.config
    )
    fitted = replace(loaded, model=replace(loaded.model, detector=masked))
    told = fitted.under(black).threshold_of("line")
    assert told.certified == (black == (CORNER,))
    assert told.certified or "other privacy masks" in told.headline()
    # Footage that was recorded under masks tells a model nothing of them.
    assert loaded.under(black).threshold_of("line").certified


LEFT = Regions(ignore=(((0, 0), (0.5, 0), (0.5, 1), (0, 1)),))


def test_a_cameras_own_regions_count_live_and_without_a_certificate(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    plain, limited = looped(small_model), looped(small_model, "limited", regions=LEFT)
    with running(tmp_path / "s", loaded, plain, limited) as runner:
        for name in ("line", "limited"):
            scored(runner, name, 2)
        told = runner.status()["cameras"]
        assert told["line"]["certified"]
        assert not told["limited"]["certified"]
        assert "UNCERTIFIED: the site file's regions leave out" in told["limited"]["certificate"]
        (whole, right), half = (runner.live(name).heatmap for name in told), loaded.model.detector.places // 2
        assert (whole > 0).all()
        assert not right[:, : right.shape[1] // 2].any()
        assert (right > 0).sum() == half
        # The network is shared all the same.
        cameras = runner._cameras
        assert cameras["line"].loaded.lock is cameras["limited"].loaded.lock
        # A reload that leaves nothing to look at changes nothing.
        tiny = Regions(look=(((0, 0), (0.01, 0), (0.01, 0.01)),))
        was, pid = cameras["line"].loaded, cameras["line"].capture.pid
        runner.reload(lambda: replace(runner.site, cameras=(replace(plain, regions=tiny), limited)))
        until(lambda: not runner._loading.is_alive())
        scored(runner, "line", 1)
        assert cameras["line"].loaded is was
        # One that changes them needs no new process; all of the picture is what was certified.
        everything = Regions(look=(((0, 0), (1, 0), (1, 1), (0, 1)),))
        site = replace(
            runner.site, cameras=(replace(plain, regions=LEFT), replace(limited, regions=everything))
        )
        runner.reload(lambda: site)
        until(lambda: runner.status()["cameras"]["limited"]["certified"])
        assert not runner.status()["cameras"]["line"]["certified"]
        assert scored(runner, "line", 2)
        assert cameras["line"].capture.pid == pid
    with Store(tmp_path / "s", owner=False) as store:
        reasons = [one.detail.get("reason", "") for one in store.health("", limit=9)]
    assert any("camera line: " in one and "not one patch" in one for one in reasons)


def test_a_camera_that_is_not_certified_is_marked_or_refused_by_name(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The certificate is of a camera `line`; nothing is known of the others."""
    document = dict(loaded.threshold.document)
    own = {
        "threshold": loaded.threshold.value,
        "ordinary": 0.0,
        "rare": 1.0,
        "certificate": document["certificate"],
    }
    document["cameras"] = {"line": own}
    known = replace(loaded, threshold=replace(loaded.threshold, document=document))
    spilled = str(small_model.footage.test / "test_01.mp4")
    other = looped(small_model, "other", address=parse_address(spilled))
    recipe = looped(small_model, recipes={"b": tmp_path})
    doubted = replace(known, threshold=replace(known.threshold, doubt="another bank"))
    load = lambda path, fps: doubted if path == tmp_path else known  # noqa: E731
    strict = {"load": load, "require_certificate": True}
    for camera, words in (
        (other, "camera other: .*is of no camera"),
        (recipe, "camera line: .*another bank"),
    ):
        with pytest.raises(ModelError, match=words), running(tmp_path / "s", known, camera, **strict):
            pass
    with running(tmp_path / "s", known, looped(small_model), **strict) as runner:
        scored(runner, "line", 1)
        with pytest.raises(ModelError, match=r"camera other: .*require_certificate=true"):
            runner.add_camera(other)
        for cameras in ((looped(small_model), other), (recipe,)):
            runner.reload(lambda cameras=cameras: replace(runner.site, cameras=cameras))
            until(lambda: not runner._loading.is_alive())
            scored(runner, "line", 1)
            assert list(runner.status()["cameras"]) == ["line"]
            assert not runner.status()["cameras"]["line"]["recipes"]
    # Not asked for, it alarms and says so.
    with (
        running(tmp_path / "open", known, other, load=load) as runner,
        Figures(runner),
        Probes(runner, "127.0.0.1:0", "token") as probes,
    ):
        until(lambda: runner.status()["cameras"]["other"]["events"])
        assert "UNCERTIFIED: other/live is of no camera" in runner.status()["cameras"]["other"]["doubt"]
        asked = urllib.request.Request(f"{probes.url}/metrics", headers={"Authorization": "Bearer token"})
        with urllib.request.urlopen(asked) as answer:
            assert 'anomaly_certified{camera="other"} 0.0' in answer.read().decode()
    with Store(tmp_path / "open", owner=False) as store:
        event = store.events()[-1]
    assert (event.certified, "is of no camera" in event.doubt) == (False, True)
    message = event_message(Origin("plant", "one"), event, "start", utc_s=0.0, clock_offset_s=None)
    assert '"certified": false' in message.body
    assert any("ALARM" in line and "UNCERTIFIED" in line for line in caplog.messages)


def test_a_camera_that_refuses_the_password_is_held_and_told(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    asked: list[str] = []

    class Locked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(401)

        def log_message(self, *_: object) -> None:
            pass

    def hurry(runner: Runner) -> None:
        capture = runner._cameras["gate"].capture
        assert capture.settings.refused_wait_s == 60.0
        capture.settings = replace(capture.settings, refused_wait_s=0.3)

    with ThreadingHTTPServer(("127.0.0.1", 0), Locked) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = parse_address(f"http://127.0.0.1:{server.server_port}/video")
        gate = looped(small_model, "gate", address=address, record=True)
        recording = {"recording": tmp_path / "s" / "recording", "prepare": hurry}
        with running(tmp_path / "s", loaded, looped(small_model), gate, **recording) as runner:
            until(lambda: "held" in runner.status()["cameras"]["gate"]["health"])
            assert len(asked) == 3
            # The other goes on, and nobody is asked again.
            scored(runner, "line", 6)
            assert len(asked) == 3
            for on in (False, True):
                runner.record(on)
            scored(runner, "line", 6)
            assert len(asked) == 3
            told = runner.status()["cameras"]["gate"]
            assert (told["connected"], told["counts"]["scored"]) == (False, 0)
        server.shutdown()
    with Store(tmp_path / "s", owner=False) as store:
        (held,) = [one for one in store.health("gate") if one.kind == "held"]
    assert "status 401" in held.detail["reason"]


def test_an_event_that_begins_while_a_full_disk_stops_the_recording_waits_for_its_clip(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    """What was recorded just before, and is again before it ends, shows it."""
    spill = parse_address(str(small_model.footage.test / "test_01.mp4"))
    camera = looped(small_model, address=spill, record=True)
    options = {"recording": tmp_path / "s" / "recording", "prepare": lambda runner: runner.record(False)}
    with running(tmp_path / "s", loaded, camera, **options) as runner:
        until(lambda: runner.status()["cameras"]["line"]["events"])
    with Store(tmp_path / "s", owner=False) as store:
        assert store.events()[-1].clip_state == "pending"


@pytest.mark.parametrize("step_s", [40 * 86_400.0, pytest.param(-40 * 86_400.0, marks=pytest.mark.slow)])
def test_a_clock_that_jumps_is_told_and_nothing_is_deleted_for_it(
    step_s: float, small_model: SmallModel, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    with running(tmp_path / "s", loaded, looped(small_model)) as runner:
        store = runner._ledger._store
        kept = add_event(store, real() - 60)
        segment = add_segment(store, real() - 60)
        retention = Retention(store, clocks=Clocks(wall=time.time, steady=time.monotonic))
        retention.tidy()
        scored(runner, "line", 1)
        offset[0] = step_s
        until(lambda: any(one.kind == "clock" for one in store.health("")))
        retention.tidy()
        (told,) = [one for one in store.health("") if one.kind == "clock"]
        assert told.end_utc_s is not None
        assert told.detail["step_s"] == pytest.approx(step_s, abs=1.0)
        assert store.event(kept).clip is not None
        assert segment.exists()
        assert scored(runner, "line", 2)


def test_a_frame_that_waited_through_a_stall_is_dropped_not_decided(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("anomaly.edge.live._OLDEST_S", 0.8)
    with running(tmp_path / "s", loaded, looped(small_model)) as runner:
        scored(runner, "line", 2)
        camera, stopped = runner._cameras["line"], threading.Event()
        pid = camera.capture.pid

        def stall() -> None:
            """The loop stands still, and so does the camera, with a frame in between."""
            before = camera.capture.counts().captured
            until(lambda: camera.capture.counts().captured > before)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(1.0)
            stopped.set()

        try:
            runner._do(stall)
            until(stopped.is_set)
            until(lambda: camera.late)
        finally:
            os.kill(pid, signal.SIGCONT)
        scored(runner, "line", 2)
    told, count = camera.status()["counts"], camera.capture.counts()
    # One at least: on a busy machine those after it may come late as well.
    assert camera.late >= 1
    assert told["scored"] == camera.scored == count.taken - camera.late
    assert told["captured"] - told["scored"] - told["dropped"] in (0, 1)


def test_a_runner_that_was_held_up_says_so_and_when(small_model: SmallModel, loaded: Loaded, tmp_path: Path):
    """Without a word the cameras' blind share alone told of it."""
    with running(tmp_path / "s", loaded, looped(small_model)) as runner:
        # For two seconds: the first look of a model takes its time, and is none.
        scored(runner, "line", 20)
        # As a disk that hangs does.
        runner._do(lambda: time.sleep(6.0))
        store = runner._ledger._store
        until(lambda: [one for one in store.health("") if one.kind == "standstill" and one.end_utc_s])
        (told,) = [one for one in store.health("") if one.kind == "standstill"]
        assert 6.0 <= told.detail["seconds"] < 12.0
        assert told.end_utc_s - told.utc_s == pytest.approx(told.detail["seconds"], abs=0.1)
        assert told.detail["model_seconds"] < 3.0
        assert scored(runner, "line", 2)


def test_a_recipe_is_switched_within_a_second(small_model: SmallModel, loaded: Loaded, tmp_path: Path):
    other = Path(shutil.copytree(small_model.folder, tmp_path / "other"))
    second = replace(loaded)
    camera = looped(small_model, recipes={"a": small_model.folder, "b": other}, recipe="a")
    load = lambda path, fps: second if path == other else loaded  # noqa: E731
    with running(tmp_path / "s", loaded, camera, load=load) as runner:
        scored(runner, "line", 3)
        for code in ("b", "a", "b"):
            before = time.monotonic()
            runner.switch_recipe("line", code)
            until(lambda code=code: runner.status()["cameras"]["line"]["recipe"] == code)
            scored(runner, "line", 1)
            assert time.monotonic() - before < 1.0
        assert runner._cameras["line"].loaded is second
        with pytest.raises(UsageError, match="has no recipe 'c'; it has a, b"):
            runner.switch_recipe("line", "c")
        # A reload keeps the recipe that was chosen.
        runner.reload()
        scored(runner, "line", 2)
        assert runner.status()["cameras"]["line"]["recipe"] == "b"


def test_an_event_that_is_on_ends_where_the_next_model_is_not_calibrated(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nothing alarms from then on, nor ends what did: it was on for as long as the program ran, for whoever was told."""
    fresh = Path(shutil.copytree(small_model.folder, tmp_path / "fresh"))
    shutil.rmtree(fresh / "thresholds")
    model = load_model(fresh, offline=True)
    uncalibrated = Loaded.of(model, load_threshold(model, fps=5.0))
    source = parse_address(str(small_model.footage.test / "test_01.mp4"))
    camera = looped(small_model, address=source, recipes={"new": fresh})
    by_path = {fresh: uncalibrated, small_model.folder: loaded}
    shots: list[Shot] = []
    monkeypatch.setattr(Pictures, "offer", lambda _, shot: shots.append(shot))
    with running(tmp_path / "s", loaded, camera, load=lambda path, fps: by_path[path]) as runner:
        until(lambda: runner.status()["cameras"]["line"]["event"])
        scored(runner, "line", 1)
        runner.switch_recipe("line", "new")
        until(lambda: runner.status()["cameras"]["line"]["recipe"] == "new")
        scored(runner, "line", 2)
        assert runner.status()["cameras"]["line"]["event"] is None
        with Store(tmp_path / "s", owner=False) as store:
            assert [one.status for one in store.events()] == ["ended"]
    # Its pictures show what was above the threshold that it was found by.
    assert {shot.threshold for shot in shots} == {loaded.threshold_of("line").value}
    assert len(shots) >= 2


def test_a_recipe_that_was_chosen_holds_over_a_restart_until_the_site_says_another(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    """Else a power cut would have one product looked at with the model of another."""
    other = Path(shutil.copytree(small_model.folder, tmp_path / "other"))
    recipes = {"a": small_model.folder, "b": other, "c": other}
    camera = looped(small_model, recipes=recipes, recipe="a")

    def begins_with(camera: CameraSite) -> str:
        with running(tmp_path / "s", loaded, camera) as runner:
            return runner.status()["cameras"]["line"]["recipe"]

    with running(tmp_path / "s", loaded, camera) as runner:
        scored(runner, "line", 1)
        runner.switch_recipe("line", "b")
        until(lambda: runner.status()["cameras"]["line"]["recipe"] == "b")
        # Read in another way, its process starts anew, and so does all that is kept of it.
        site = replace(runner.site, cameras=(replace(camera, fps=4.0),))
        runner.reload(lambda: site)
        until(lambda: "line" in runner._cameras and runner._cameras["line"].site.fps == 4.0)
        scored(runner, "line", 1)
        assert runner.status()["cameras"]["line"]["recipe"] == "b"
    assert begins_with(camera) == "b"
    assert begins_with(replace(camera, recipe="c")) == "c"
    assert begins_with(replace(camera, recipes={"a": small_model.folder})) == "a"


def test_a_picture_is_explained_by_the_model_that_looked_at_it(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The rows that a look names are those of one bank; of another they are other moments, or none."""
    shots: list[Shot] = []
    monkeypatch.setattr(Pictures, "offer", lambda self, shot: shots.append(shot))
    first = replace(loaded, threshold=replace(loaded.threshold, value=1e-6))
    detector = loaded.model.detector
    (branch,) = detector.branches
    # All scores of the second are far lower: the highest frame is the first one's, whenever that looked.
    low = detector.with_branches([rescaled(branch, 100 * branch.scale)])
    second = replace(first, model=replace(loaded.model, detector=low))
    other = Path(shutil.copytree(small_model.folder, tmp_path / "other"))
    camera = looped(small_model, recipes={"a": small_model.folder, "b": other}, recipe="b")
    load = lambda path, fps: second if path == other else first  # noqa: E731
    with running(tmp_path / "s", loaded, camera, load=load) as runner:
        live = runner._cameras["line"]
        until(lambda: live._open)
        assert live._open is not None
        begun = live._open.score
        runner.switch_recipe("line", "a")
        until(lambda: live._open is not None and live._open.score > 5 * begun)
        runner.switch_recipe("line", "b")
        until(lambda: live.loaded is second)
        scored(runner, "line", 2)
        event = live._open
    assert event is not None
    last = shots[-1]
    assert not last.told
    assert last.frame.pts_s == event.peak_pts_s
    assert last.loaded is first


def test_the_time_between_two_runs_was_not_looked_at(small_model: SmallModel, loaded: Loaded, tmp_path: Path):
    with running(tmp_path / "s", loaded, looped(small_model)) as runner:
        scored(runner, "line", 3)
    stopped = time.time()
    time.sleep(1.5)
    begun = time.time()
    with running(tmp_path / "s", loaded, looped(small_model), looped(small_model, "new")) as runner:
        scored(runner, "line", 3)
        scored(runner, "new", 1)
        told = runner.status()["cameras"]
        # Of both runs, and the share is not that of the second alone.
        assert told["line"]["blind_since_utc_s"] < stopped
        assert told["new"]["blind_since_utc_s"] > begun
    with Store(tmp_path / "s", owner=False) as store:
        (gap,) = [gap for gap in store.gaps("line", 0, 4e9) if gap.reason == "off"]
        assert not [gap for gap in store.gaps("new", 0, 4e9) if gap.reason == "off"]
    assert gap.start_utc_s < stopped
    assert gap.end_utc_s > begun


@pytest.mark.parametrize(
    ("young", "started_again"),
    [(False, True), (True, True), (False, False)],
    ids=["after a while", "just started", "nobody starts it again"],
)
def test_a_database_that_is_damaged_meanwhile_ends_the_run_for_another_to_repair_it(
    young: bool,
    started_again: bool,
    small_model: SmallModel,
    loaded: Loaded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Only a start sets it aside: events would stay in memory for months."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("ANOMALY_STARTED_AGAIN", "1" if started_again else "")
    goes_on = young or not started_again
    monkeypatch.setattr("anomaly.edge.ledger._STORE_FAILS_S", 0.5)
    monkeypatch.setattr("anomaly.edge.runner._BEFORE_DAMAGE_ENDS_S", 1000.0 if young else 0.0)

    def damaged(*_: Any) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorname = "SQLITE_CORRUPT"
        raise StoreError("it is damaged") from error

    with Store(tmp_path / "s") as store:
        monkeypatch.setattr(store, "add_scores", damaged)
        pictures = Pictures(store)
        ledger = Ledger(store, pictures, None)
        runner = Runner(Site("plant", "one", (looped(small_model),), {}), ledger, lambda path, fps: loaded)
        if goes_on:
            threading.Timer(6.0, runner.stop).start()
        with contextlib.nullcontext() if goes_on else pytest.raises(StoreError, match="it is damaged"):
            runner.run()
        pictures.close()
        assert ledger.damage == "it is damaged"
        assert [one.kind for one in store.health("")] == ["store"]


def test_gaps_of_trouble_that_is_told_are_rows_only_where_they_are_long(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    """A camera that gives a frame every other second makes a gap with each, for months; the share counts them all."""
    with running(tmp_path / "s", loaded, looped(small_model)) as runner:
        scored(runner, "line", 1)
    camera, now = runner._cameras["line"], time.time()
    with Store(tmp_path / "s") as store:
        camera._ledger._store = store
        for _ in range(3):
            camera.hear(Report("line", "disconnected", 0, now, {"reason": "gone"}))
            camera._coverage._done += [Gap(now, now + length, "blind") for length in (2.0, 30.0)]
            camera._coverage._done += [Gap(now, now + 3.0, "state")]
            camera.tick(time.monotonic_ns(), now)
            camera.hear(Report("line", "connected", time.monotonic_ns(), now, {}))
        camera._coverage._done += [Gap(now, now + 2.0, "blind")]
        camera.tick(time.monotonic_ns(), now)
        lengths = [round(gap.end_utc_s - gap.start_utc_s) for gap in store.gaps("line", now, now + 60)]
        # The first outage might have been the only one.
        assert sorted(lengths) == [2, 3, 3, 3, 30, 30, 30]
        assert len([one for one in store.health("line") if one.kind == "disconnected"]) == 2
        camera._steadily._ended_ns["disconnected"] = 0
        camera.tick(time.monotonic_ns(), now)
        camera._coverage._done += [Gap(now, now + 2.0, "blind")]
        camera.tick(time.monotonic_ns(), now)
        assert len(store.gaps("line", now, now + 60)) == 8


def test_a_camera_that_is_looked_at_every_ten_seconds_is_silent_after_three_frames(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It was stalled after five seconds, so again and again, and nobody saw when it was; an event ended with each frame."""
    with running(tmp_path / "s", loaded, looped(small_model, fps=0.1)) as runner:
        scored(runner, "line", 1)
    camera, now_ns = runner._cameras["line"], time.monotonic_ns()
    with Store(tmp_path / "s") as store:
        camera._ledger._store = store
        camera.hear(Report("line", "connected", now_ns, time.time(), {}))
        camera._last_ns, camera._open = now_ns, object()
        ended = []
        monkeypatch.setattr(camera, "finish", lambda: ended.append(True))
        for after_s, silent in ((12, False), (29, False), (31, True)):
            camera._asked_ns = now_ns + after_s * 10**9
            camera.tick(camera._asked_ns, time.time() + after_s)
            assert (camera._health.present, bool(ended)) == ((("stalled",), True) if silent else ((), False))


def test_a_black_picture_is_blind_however_many_frames_of_it_are_scored(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    clip = write_clip(tmp_path / "black.mp4", [np.zeros((96, 160, 3), np.uint8)] * 50, fps=10)
    camera = looped(small_model, address=parse_address(str(clip)))
    with running(tmp_path / "s", loaded, camera) as runner:
        until(lambda: runner.status()["cameras"]["line"]["health"] == ["black"])
        scored(runner, "line", 5)
        until(lambda: runner.status()["cameras"]["line"]["blind_share"] > 0.5)
        told = runner.status()["cameras"]["line"]
        assert told["operational_recall"] < 0.5 * told["certified_recall"]


def test_trouble_of_a_run_that_ended_or_of_a_camera_that_was_taken_away_is_over(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    """Else it is on for ever, on the page, in the store and for whoever was told that it began."""
    clip = write_clip(tmp_path / "black.mp4", [np.zeros((96, 160, 3), np.uint8)] * 50, fps=10)
    dark = [looped(small_model, name, address=parse_address(str(clip))) for name in ("one", "two")]
    with running(tmp_path / "s", loaded, *dark) as runner:
        until(lambda: all(one["health"] == ["black"] for one in runner.status()["cameras"].values()))
        runner.remove_camera("two")
        for _ in range(2):
            runner.trouble(Trouble("model", True, time.time(), {"reason": "it is not there"}))
        scored(runner, "one", 3)
        until(lambda: len(runner._ledger._store.health()) == 4)
    ended = time.time()
    with Store(tmp_path / "s", owner=False) as store:
        rows = {(one.camera, one.kind, one.end_utc_s is not None) for one in store.health()}
    assert rows == {
        ("one", "black", False),
        ("two", "black", True),
        ("", "model", True),
        ("", "model", False),
    }
    with running(tmp_path / "s", loaded, looped(small_model, "one")) as runner:
        scored(runner, "one", 1)
        with Store(tmp_path / "s", owner=False) as store:
            assert all(one.end_utc_s is not None for one in store.health())
            assert all(one.utc_s <= one.end_utc_s <= ended for one in store.health() if one.end_utc_s)


def test_who_was_told_of_trouble_is_told_of_its_end_by_the_next_run(tmp_path: Path):
    settings = WebhookSettings(
        name="mes", url="https://mes.example/anomaly", secrets=("a-secret-of-16-or-more",)
    )
    delivery = Delivery(lambda: connect(tmp_path / DATABASE), [settings], Origin("plant", "line"))
    for begins in (True, False):
        with Store(tmp_path, [delivery.on_event], schemas=[outbox.SCHEMA]) as store:
            ledger = Ledger(store, Pictures(store), None, delivery)
            ledger.take_over()
            if begins:
                ledger.trouble(
                    "press", "running", [Trouble("disconnected", True, time.time(), {"reason": "timed out"})]
                )
    with Store(tmp_path, owner=False) as store:
        bodies = [
            json.loads(row[0]) for row in store.connection().execute("SELECT body FROM outbox ORDER BY id")
        ]
    assert [(one["camera"], one["health"], one["over"]) for one in bodies] == [
        ("press", "disconnected", False),
        ("press", "disconnected", True),
    ]


def test_a_clock_that_is_set_back_does_not_make_a_silent_camera_look_scored(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    wall = time.time
    with running(tmp_path / "s", loaded, looped(small_model)) as runner:
        scored(runner, "line", 2)
        monkeypatch.setattr(time, "time", lambda: wall() - 86_400)
        pid = runner._cameras["line"].capture.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(2.5)
            assert not runner.scored_since(2.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: runner.scored_since(2.0))


def test_signs_of_life_stop_when_no_frame_is_scored_and_the_program_is_not_started_anew_for_it(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    clip = write_clip(tmp_path / "a.mp4", texture(10, (96, 160)), fps=10)
    camera = looped(small_model, address=parse_address(str(clip)))
    before: list[bool] = []
    ask = lambda runner: before.append(runner.scored_since(60.0))  # noqa: E731
    with running(tmp_path / "s", loaded, camera, prepare=ask) as runner:
        # Else a program that dies again and again looks as if it looked.
        assert before == [False]
        until(lambda: runner.scored_since(2.0))
        clip.rename(tmp_path / "pulled.mp4")
        until(lambda: "disconnected" in runner.status()["cameras"]["line"]["health"])
        until(lambda: not runner.scored_since(2.0))
        assert runner.keeps_up(1.0)
        # One that is gone does not silence the others.
        runner.add_camera(looped(small_model, "more"))
        until(lambda: "more" in runner.status()["cameras"])
        until(lambda: runner.scored_since(2.0))
        runner.remove_camera("more")
        # Nobody is to look: nothing is missed.
        runner.set_state("line", "stopped", "somebody")
        until(lambda: runner.status()["cameras"]["line"]["state"] == "stopped")
        assert runner.scored_since(2.0)
        runner.set_state("line", "running", "somebody")
        until(lambda: not runner.scored_since(2.0))
        (tmp_path / "pulled.mp4").rename(clip)
        until(lambda: runner.scored_since(2.0))


def test_a_camera_that_was_just_taken_up_has_time_for_its_first_frame(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    """Else each reload that adds a camera looks like a program that hangs, to whoever would start it anew."""

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            go.wait(30)

    go = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = parse_address(f"http://127.0.0.1:{server.server_port}/video")
        slow = looped(small_model, "slow", address=address)
        with running(tmp_path / "s", loaded, looped(small_model)) as runner:
            scored(runner, "line", 2)
            time.sleep(1.5)
            runner.add_camera(slow)
            until(lambda: "slow" in runner.status()["cameras"])
            assert runner.keeps_up(1.5)
            assert runner.scored_since(1.5)
            # The time is over, and it is there by all that is known.
            until(lambda: not runner.keeps_up(1.5))
            assert not runner.scored_since(1.5)
            go.set()
        server.shutdown()


def test_no_frame_loses_its_decision_to_reloads(small_model: SmallModel, loaded: Loaded, tmp_path: Path):
    seen: list[int] = []
    fail = threading.Event()

    def load(path: Path, fps: float | None) -> Loaded:
        if fail.is_set():
            raise ModelError("a byte was changed")
        return replace(loaded)

    with running(tmp_path / "s", loaded, looped(small_model), load=load) as runner:
        scored(runner, "line", 2)
        camera = runner._cameras["line"]
        see = camera.see
        camera.see = lambda frame, look: (seen.append(frame.index), see(frame, look))  # type: ignore[method-assign]
        for number in range(10):
            (fail.set if number % 3 == 2 else fail.clear)()
            was = camera.loaded
            runner.reload()
            until(lambda: runner._loading is not None and not runner._loading.is_alive())
            if fail.is_set():
                scored(runner, "line", 1)
                assert camera.loaded is was
            else:
                until(lambda was=was: camera.loaded is not was)
        scored(runner, "line", 2)
    end = camera.capture.counts()
    waiting = end.captured - end.taken - end.dropped
    assert waiting in (0, 1)
    # Each frame that was taken was decided, and once.
    assert camera.scored == end.taken
    assert len(set(seen)) == len(seen)


def test_a_reload_that_fails_in_any_way_is_told_and_one_asked_for_meanwhile_follows(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    reading, go = threading.Event(), threading.Event()

    def broken() -> Site:
        reading.set()
        go.wait(30)
        raise ValueError("month must be in 1..12")

    with running(tmp_path / "s", loaded, looped(small_model)) as runner:
        scored(runner, "line", 1)
        runner.reload(broken)
        assert reading.wait(30)
        runner.reload(
            lambda: replace(runner.site, cameras=(looped(small_model), looped(small_model, "more")))
        )
        scored(runner, "line", 1)
        assert list(runner.status()["cameras"]) == ["line"]
        go.set()
        until(lambda: list(runner.status()["cameras"]) == ["line", "more"])
    with Store(tmp_path / "s", owner=False) as store:
        kept = [one.detail for one in store.health("", limit=9) if one.detail.get("kept")]
    assert [one["reason"] for one in kept] == ["ValueError: month must be in 1..12"]


def test_a_reload_that_does_not_end_is_told_and_what_is_asked_for_meanwhile_is_done_after_it(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A folder on a share that is away: whoever reads there waits, as at a pipe into which nobody writes."""
    monkeypatch.setattr("anomaly.edge.runner._LONG_RELOAD_S", 1.5, raising=False)
    away = tmp_path / "away"
    os.mkfifo(away)

    def load(path: Path, fps: float | None) -> Loaded:
        if path == away:
            raise ModelError(path.read_text())
        return loaded

    def model_troubles() -> list[Any]:
        with Store(tmp_path / "s", owner=False) as store:
            return [one for one in store.health("")[::-1] if one.kind == "model"]

    with running(tmp_path / "s", loaded, looped(small_model), load=load) as runner:
        scored(runner, "line", 1)
        runner.reload(lambda: replace(runner.site, cameras=(looped(small_model, model=away),)))
        until(model_troubles)
        more = (looped(small_model), looped(small_model, "more"))
        runner.reload(lambda: replace(runner.site, cameras=more))
        assert scored(runner, "line", 5)
        (told,) = model_troubles()
        assert str(away) in told.detail["reason"]
        assert told.end_utc_s is None
        away.write_text("it is no model")
        until(lambda: list(runner.status()["cameras"]) == ["line", "more"])
        until(lambda: runner.status()["trouble"] == [])
    assert all(one.end_utc_s is not None for one in model_troubles())


def test_a_reload_for_which_there_is_no_thread_is_told_and_the_next_one_is_done(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """And one that a signal asks for just as a thread starts is not done by a second one beside it."""
    start, none_left = threading.Thread.start, threading.Event()
    loading: list[threading.Thread] = []

    def start_if_possible(thread: threading.Thread) -> None:
        if thread.name != "reload":
            return start(thread)
        if none_left.is_set():
            raise RuntimeError("can't start new thread")
        loading.append(thread)
        start(thread)
        if len(loading) == 1:
            runner.reload()
        return None

    monkeypatch.setattr(threading.Thread, "start", start_if_possible)
    with running(tmp_path / "s", loaded, looped(small_model)) as runner:
        none_left.set()
        runner.reload()
        scored(runner, "line", 1)
        none_left.clear()
        more = (looped(small_model), looped(small_model, "more"))
        runner.reload(lambda: replace(runner.site, cameras=more))
        until(lambda: not any(thread.is_alive() for thread in loading))
        scored(runner, "line", 1)
        assert len(loading) == 1
    with Store(tmp_path / "s", owner=False) as store:
        kept = [one.detail for one in store.health("", limit=9) if one.detail.get("kept")]
    assert [one["reason"] for one in kept] == ["can't start new thread"]


def test_a_camera_that_cannot_be_changed_over_now_is_told_and_tried_again_and_no_other_waits(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    cameras = tuple(looped(small_model, name) for name in ("again", "line"))
    changed = (
        replace(cameras[0], fps=4.0),
        replace(cameras[1], schedule=parse_schedule([{"state": "stopped"}])),
        looped(small_model, "new"),
    )
    with running(tmp_path / "s", loaded, *cameras) as runner:
        for name in ("again", "line"):
            scored(runner, name, 1)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            runner.reload(lambda: replace(runner.site, cameras=changed))
            until(lambda: runner.status()["cameras"]["line"]["state"] == "stopped")
            # It goes on as it was.
            assert scored(runner, "again", 3)
            assert runner._cameras["again"].site.fps == 5.0
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        until(lambda: len(runner.status()["cameras"]) == 3)
        assert runner._cameras["again"].site.fps == 4.0
        for name in ("again", "new"):
            scored(runner, name, 1)
    with Store(tmp_path / "s", owner=False) as store:
        told = [one for one in store.health() if one.kind == "reload"]
    assert sorted(one.camera for one in told) == ["again", "new"]
    assert all("Too many open files" in one.detail["reason"] and one.end_utc_s for one in told)


def test_a_camera_whose_last_process_nobody_can_wait_for_yet_is_told_and_read_as_soon_as_somebody_can(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    start, none_left = threading.Thread.start, threading.Event()

    def start_if_possible(thread: threading.Thread) -> None:
        if none_left.is_set() and thread.name.startswith("stop "):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_possible)
    with running(tmp_path / "s", loaded, looped(small_model), looped(small_model, "other")) as runner:
        scored(runner, "line", 1)
        before = runner._cameras["line"]
        none_left.set()
        changed = replace(runner.site.cameras[0], fps=4.0)
        runner.reload(lambda: replace(runner.site, cameras=(changed, runner.site.cameras[1])))
        until(lambda: runner._cameras.get("line", before) is not before)
        scored(runner, "other", 2)
        until(lambda: runner.status()["cameras"]["line"]["health"] == ["disconnected"])
        none_left.clear()
        assert scored(runner, "line", 2)
        until(lambda: runner.status()["cameras"]["line"]["health"] == [])


def test_the_end_needs_no_new_thread(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    start = threading.Thread.start

    def start_if_possible(thread: threading.Thread) -> None:
        if "leave" in thread.name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_possible)
    folder = tmp_path / "s" / "recording"
    cameras = (looped(small_model, record=True), looped(small_model, "other", record=True))
    with running(tmp_path / "s", loaded, *cameras, recording=folder) as runner:
        for name in ("line", "other"):
            scored(runner, name, 2)
        until(lambda: len(list(folder.rglob("*.part"))) == 2)
    assert not list(folder.rglob("*.part"))
    with Store(tmp_path / "s", owner=False) as store:
        known = {one.path for name in ("line", "other") for one in store.segments(name, 0.0, 2e10)}
    assert known == set(folder.rglob("*.mp4"))
    assert len({path.parent for path in known}) == 2


def test_recording_stops_and_goes_on_and_a_camera_that_left_stays_away(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    folder = tmp_path / "s" / "recording"
    # A keyframe a second, so that files are finished soon.
    clip = write_clip(tmp_path / "a.mp4", texture(50, (96, 160)), fps=10, encoder={"g": "10"})
    at = {"address": parse_address(str(clip)), "record": True}
    cameras = (looped(small_model, **at), looped(small_model, "other", **at))
    with running(tmp_path / "s", loaded, *cameras, recording=folder, segment_s=1.0) as runner:
        until(lambda: list(folder.rglob("*.mp4")))
        capture = runner._cameras["line"].capture
        pid = capture.pid
        runner.record(False)
        until(lambda: not list(folder.rglob("*.part")))
        # Whoever comes while the disk is full is not recorded either.
        runner.add_camera(looped(small_model, "late", **at))
        until(lambda: "late" in runner.status()["cameras"])
        files = set(folder.rglob("*.mp4"))
        for name in ("line", "late"):
            scored(runner, name, 5)
        assert set(folder.rglob("*.mp4")) == files
        other = runner._cameras["other"].capture
        runner.remove_camera("other")
        runner.record(True)
        until(lambda: set(folder.rglob("late/*/*.mp4")))
        until(lambda: other.pid is None)
        assert scored(runner, "line", 2)
        until(lambda: set(folder.rglob("line/*/*.mp4")) - files)
        # No frame was lost to that.
        assert capture.pid == pid
        site = replace(runner.site, cameras=(replace(cameras[0], record=False),))
        runner.reload(lambda: site)
        until(lambda: not list(folder.rglob("line/*/*.part")))
        assert capture.pid == pid


def test_that_a_camera_which_is_not_to_be_recorded_is_not_recorded_is_no_trouble(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    folder = tmp_path / "s" / "recording"
    folder.mkdir(parents=True)
    (folder / "line").write_text("no folder")
    camera = looped(small_model, record=True)
    with running(tmp_path / "s", loaded, camera, recording=folder) as runner:
        health = lambda: runner.status()["cameras"]["line"]["health"]  # noqa: E731
        until(lambda: health() == ["recording"])
        site = replace(runner.site, cameras=(replace(camera, record=False),))
        runner.reload(lambda: site)
        until(lambda: health() == [])
        # Said before the process heard of it.
        late = Report("line", "recording_stopped", time.monotonic_ns(), time.time(), {"reason": "no folder"})
        runner._cameras["line"].capture._tell(late)
        scored(runner, "line", 3)
        assert health() == []
    with Store(tmp_path / "s", owner=False) as store:
        (told,) = [one for one in store.health() if one.kind == "recording"]
    assert told.end_utc_s is not None


def test_a_camera_that_is_read_otherwise_keeps_the_index_of_its_last_segment(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    folder = tmp_path / "s" / "recording"
    clip = write_clip(tmp_path / "a.mp4", texture(50, (96, 160)), fps=10, encoder={"g": "10"})
    camera = looped(small_model, address=parse_address(str(clip)), record=True)
    other = looped(small_model, "other")
    with running(tmp_path / "s", loaded, camera, other, recording=folder, segment_s=60.0) as runner:
        until(lambda: list(folder.rglob("*.part")))
        scored(runner, "line", 5)
        live = runner._cameras["line"]
        before = live.capture
        os.kill(before.pid, signal.SIGSTOP)
        site = replace(runner.site, cameras=(replace(camera, fps=4.0), other))
        runner.reload(lambda: site)
        until(lambda: runner._cameras.get("line", live) is not live)
        # The part that the old process still writes is nothing for the new one to finish, and nobody waits.
        scored(runner, "other", 2)
        assert runner._cameras["line"].capture.pid is None
        os.kill(before.pid, signal.SIGCONT)
        scored(runner, "line", 2)
        (file,) = folder.rglob("*.mp4")
        with Store(tmp_path / "s", owner=False) as store:
            (segment,) = store.segments("line", 0.0, 2e10)
        assert segment.path == file
        assert segment.bytes == file.stat().st_size
        # And so is that of a camera which leaves just before the end.
        runner.remove_camera("line")
        until(lambda: "line" not in runner.status()["cameras"])
    with Store(tmp_path / "s", owner=False) as store:
        known = {one.path for one in store.segments("line", 0.0, 2e10)}
    assert known == set(folder.rglob("*.mp4"))
    assert len(known) == 2


def test_what_a_camera_that_leaves_could_not_record_is_told_and_its_successor_is_read(
    small_model: SmallModel,
    loaded: Loaded,
    tmp_path: Path,
    freezing_disk: Path,  # noqa: F811
):
    camera, folder = looped(small_model, record=True), freezing_disk / "recording"
    with running(tmp_path / "s", loaded, camera, recording=folder, segment_s=60.0) as runner:
        until(lambda: list(folder.rglob("*.part")))
        freeze(freezing_disk)
        try:
            scored(runner, "line", 5)
            stuck = runner._cameras["line"].capture.pid
            runner.remove_camera("line")
            until(lambda: "line" not in runner.status()["cameras"])
            runner.add_camera(camera)
            until(lambda: "line" in runner.status()["cameras"])
            scored(runner, "line", 2)
            assert runner._cameras["line"].capture.pid != stuck
        finally:
            thaw(freezing_disk)
        with Store(tmp_path / "s", owner=False) as store:
            (told,) = [one for one in store.health("line") if one.kind == "recording"]
        assert "took no more at the end" in told.detail["reason"]
        assert told.end_utc_s is not None


def test_a_disk_that_is_full_at_the_start_stops_the_recording_before_it_begins(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    folder = tmp_path / "s" / "recording"
    with Store(tmp_path / "s") as store:
        pictures = Pictures(store)
        runner = Runner(
            Site("plant", "one", (looped(small_model, record=True),), {}),
            Ledger(store, pictures, None),
            lambda path, fps: loaded,
            recording=folder,
        )
        runner.record(False)
        thread = threading.Thread(target=runner.run)
        thread.start()
        try:
            scored(runner, "line", 3)
        finally:
            runner.stop()
            thread.join(30)
            pictures.close()
    assert not list(folder.rglob("*.mp4"))


@pytest.mark.slow
def test_a_full_disk_stops_the_recording_and_the_clips_and_no_alarm(small_model: SmallModel, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True, text=True
    )
    if not done or done.returncode:
        pytest.skip(
            f"a small disk cannot be mounted here: {done.stderr if done else 'apt-get install mount'}"
        )
    site = tmp_path / "site.yaml"
    source = str(small_model.footage.test / "test_01.mp4")
    camera = {"name": "line", "model": str(small_model.folder), "fps": 5, "source": source, "loop": True}
    site.write_text(json.dumps({"cameras": [camera]}))
    child = start(
        "run", "--site", site, "--out", disk / "store", "run.metrics=null", "run.log=text", FPS, cwd=tmp_path
    )
    try:
        assert child.stderr is not None
        next(line for line in child.stderr if "ALARM" in line)
        with (disk / "foreign").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        log = ""
        # It is told, and alarms go on.
        for line in child.stderr:
            log += line
            if "free on the disk: recording stopped" in log and log.count("ALARM") >= 2:
                break
        child.send_signal(signal.SIGTERM)
        log += child.communicate(timeout=60)[1]
        assert child.returncode == 0, log
        with Store(disk / "store", owner=False) as store:
            kept = {one.id for one in store.events()}
            assert set(announced(log)) <= kept
            assert "disk" in {one.kind for one in store.health(limit=50)}
    finally:
        child.kill()
        child.communicate()
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_camera_that_waits_for_a_slow_machine_is_not_told_as_stalled(
    small_model: SmallModel, loaded: Loaded, tmp_path: Path
):
    """It sends all the time; whoever is told that it stalled looks for its cable."""

    class Slow(Loaded):
        def look(self, *arguments: Any) -> list[Any]:
            time.sleep(6)
            return super().look(*arguments)

    slow = Slow(loaded.model, loaded.threshold, loaded.exemplars)
    with running(tmp_path / "s", slow, looped(small_model)) as runner:
        scored(runner, "line", 2)
        with Store(tmp_path / "s", owner=False) as store:
            assert store.health("line") == []
