"""What changes while the runner runs: cameras, recipes, models, the disk; and that every frame stays accounted for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clips import texture, write_clip
from small_model import FPS, SmallModel, start
from test_edge_runner import announced, until

from anomaly.edge.address import parse_address
from anomaly.edge.ledger import Ledger
from anomaly.edge.loaded import Loaded
from anomaly.edge.pictures import Pictures
from anomaly.edge.runner import Runner
from anomaly.edge.site import CameraSite, Site, site_of
from anomaly.edge.store import Store
from anomaly.errors import ModelError, UsageError
from anomaly.model import load_model
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
    folder: Path, loaded: Loaded, *cameras: CameraSite, load: Any = None, **options: Any
) -> Iterator[Runner]:
    with Store(folder) as store:
        pictures = Pictures(store)
        runner = Runner(
            Site("plant", "one", cameras, {}),
            Ledger(store, pictures, None),
            load or (lambda path, fps: loaded),
            **options,
        )
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
        # The same name may come back.
        runner.add_camera(looped(small_model, "second"))
        until(lambda: "second" in runner.status()["cameras"])
        assert scored(runner, "second", 2)


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
        space = os.statvfs(disk)
        with (disk / "foreign").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize)
        log = ""
        # It is told, and alarms go on.
        for line in child.stderr:
            log += line
            if "disk" in log and log.count("ALARM") >= 2:
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
