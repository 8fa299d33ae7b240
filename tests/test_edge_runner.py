"""`run` beside the line: real capture processes, a real store, a real stream; the same decisions as `score`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from rtsp_server import RtspServer
from small_model import FPS, SmallModel, invoke, process, start, succeed

from anomaly.edge.ledger import Ledger
from anomaly.edge.loaded import Loaded
from anomaly.edge.pictures import Pictures
from anomaly.edge.runner import Runner
from anomaly.edge.site import site_of
from anomaly.edge.store import Store
from anomaly.errors import AnomalyError
from anomaly.model import load_model
from anomaly.thresholds import load_threshold

TOKEN = "a-long-token-of-the-scraper"
PROBES = ("run.metrics=127.0.0.1:0", "--scrape-token", "${env:SCRAPE}")
LIVE = ("run.live=true", "run.metrics=null", "run.log=text", FPS)


def until(so: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not so():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.1)


def events_of(folder: Path) -> list:
    """What the store of a run holds, oldest first."""
    if not (folder / "anomaly.db").exists():
        return []
    with Store(folder, owner=False) as store:
        return store.events()[::-1]


def announced(log: str) -> list[str]:
    """Ids of the events that were announced."""
    return [line.rpartition("(event ")[2].rstrip(")") for line in log.splitlines() if "ALARM" in line]


@pytest.fixture(scope="module")
def watched(small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A clip with a spill, played at its own speed to its end: the store, and the log."""
    folder = tmp_path_factory.mktemp("live")
    done = process(
        "run", "--model", small_model.folder, "--source", small_model.footage.test / "test_01.mp4",
        "--out", folder / "store", *LIVE, "keep.after_s=1", cwd=folder,
    )  # fmt: skip
    assert done.status == 0, done.err
    return folder / "store", done.out + done.err


def test_live_decisions_are_those_of_score(
    watched: tuple[Path, str], small_model: SmallModel, tmp_path: Path
):
    folder, _ = watched
    source = small_model.footage.test / "test_01.mp4"
    succeed("score", "--model", small_model.folder, "--source", source, "--out", tmp_path / "s.csv", FPS)
    rows = [line.split(",") for line in (tmp_path / "s.csv").read_text().splitlines()[1:]]
    wanted = {round(float(row[2]), 3): float(row[3]) for row in rows}
    with Store(folder, owner=False) as store:
        camera = store.events()[0].camera
        found = store.scores(camera, 0.0, 4e9, 5000)
        (event,) = store.events()
    assert len(found) >= 0.9 * len(rows)
    known = sorted(wanted.values())
    for point in found:
        # Every score is one that `score` gives for a frame of this clip, to the last digits it prints.
        nearest = min(known, key=lambda one: abs(one - point.score))
        assert point.score == pytest.approx(nearest, rel=1e-5)
    alarms = [float(row[2]) for row in rows if row[5] == "1"]
    assert event.end_pts_s is not None
    assert event.end_pts_s - event.start_pts_s == pytest.approx(alarms[-1] - alarms[0], abs=1.3)
    # A busy machine drops frames of a stream, and counts them; without drops the peak is the same to the last bit.
    highest = max(float(row[4]) for row in rows)
    assert event.score == pytest.approx(highest, rel=1e-9 if len(found) == len(rows) else 0.1)


def test_an_event_has_its_pictures_its_clip_and_what_it_hangs_on(
    watched: tuple[Path, str], small_model: SmallModel
):
    folder, log = watched
    (event,) = events_of(folder)
    assert announced(log) == [event.id]
    assert event.status == "ended"
    assert event.certified == ("UNCERTIFIED" not in log)
    assert event.box is not None
    assert "most similar normal moment" in event.explanation["text"]
    for name in (event.snapshot, event.heatmap, event.normal):
        assert name is not None
        assert (folder / name).read_bytes()[:2] == b"\xff\xd8"
    with Store(folder, owner=False) as store:
        assert store.segments(event.camera, event.start_utc_s, event.end_utc_s)
        assert store.health(limit=50) == [] or all(one.kind != "overloaded" for one in store.health(limit=50))


def test_a_camera_that_goes_and_comes_back_is_told_and_scored_again(small_model: SmallModel, tmp_path: Path):
    with RtspServer(size=(160, 96), fps=5, keyframe_every=5) as server:
        child = start(
            "run", "--model", small_model.folder, "--source", server.url, "--out", tmp_path / "store",
            FPS, *PROBES, "run.log=json", cwd=tmp_path, SCRAPE=TOKEN,
        )  # fmt: skip
        try:
            probes = _probes(child)
            until(lambda: _ready(probes))
            server.kill()
            until(lambda: 'kind="disconnected"} 1.0' in _metrics(probes))
            server.start()
            until(lambda: 'kind="disconnected"} 1.0' not in _metrics(probes))
            seen = _figure(_metrics(probes), 'anomaly_frames_total{camera="camera1",what="scored"}')
            until(lambda: _figure(_metrics(probes), 'what="scored"}') > seen + 3)
            figures = _metrics(probes)
            counts = [_figure(figures, f'what="{what}"}}') for what in ("captured", "scored", "dropped")]
            assert counts[0] - counts[1] - counts[2] in (0, 1)
        finally:
            child.send_signal(signal.SIGTERM)
            _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    with Store(tmp_path / "store", owner=False) as store:
        kinds = [one.kind for one in store.health(limit=50)]
        assert "disconnected" in kinds
        assert all(one.end_utc_s is not None for one in store.health(limit=50) if one.kind == "disconnected")
        assert any(gap.reason == "blind" for gap in store.gaps("camera1", 0, 4e9))
    for line in err.splitlines():
        if line.startswith("{"):
            assert {"utc", "level", "where", "text"} <= json.loads(line).keys()


def test_sigterm_ends_the_event_that_is_on(small_model: SmallModel, tmp_path: Path):
    site = _site(
        tmp_path,
        small_model,
        {"line": {"source": str(small_model.footage.test / "test_01.mp4"), "loop": True}},
    )
    child = start("run", "--site", site, "--out", tmp_path / "store", *LIVE[1:], cwd=tmp_path)
    assert child.stderr is not None
    next(line for line in child.stderr if "ALARM" in line)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode == 0
    assert {one.status for one in events_of(tmp_path / "store")} == {"ended"}


def test_a_new_model_takes_over_and_a_broken_one_does_not(small_model: SmallModel, tmp_path: Path):
    model = Path(shutil.copytree(small_model.folder, tmp_path / "model"))
    site = _site(
        tmp_path,
        small_model,
        {"line": {"source": str(small_model.footage.test / "test_03.mp4"), "loop": True}},
        model=model,
    )
    child = start(
        "run", "--site", site, "--out", tmp_path / "store", FPS, *PROBES, cwd=tmp_path, SCRAPE=TOKEN
    )
    try:
        probes = _probes(child)
        until(lambda: _ready(probes))
        bank = model / "banks" / "appearance.safetensors"
        whole = bank.read_bytes()
        bank.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        child.send_signal(signal.SIGHUP)
        with Store(tmp_path / "store", owner=False) as store:
            until(lambda: [one for one in store.health("") if one.kind == "model" and one.detail["kept"]])
            told = next(one for one in store.health("") if one.kind == "model")
            assert "changed after it was written" in told.detail["reason"]
            before = _figure(_metrics(probes), 'what="scored"}')
            until(lambda: _figure(_metrics(probes), 'what="scored"}') > before + 3)
            bank.write_bytes(whole)
            child.send_signal(signal.SIGHUP)
            until(lambda: [one for one in store.health("") if one.kind == "model" and not one.detail["kept"]])
        before = _figure(_metrics(probes), 'what="scored"}')
        until(lambda: _figure(_metrics(probes), 'what="scored"}') > before + 3)
    finally:
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err


def test_a_reload_takes_up_what_it_can_says_what_waits_and_refuses_what_no_start_would_take(
    small_model: SmallModel, tmp_path: Path
):
    line = {"source": str(small_model.footage.test / "test_03.mp4"), "loop": True, "record": False}
    site = _site(tmp_path, small_model, {"line": line})
    child = start(
        "run", "--site", site, "--out", tmp_path / "store", FPS, *PROBES, "keep.segment_s=1", cwd=tmp_path,
        SCRAPE=TOKEN,
    )  # fmt: skip
    try:
        probes = _probes(child)
        until(lambda: _ready(probes))
        assert not (tmp_path / "store" / "recording" / "line").exists()
        _site(tmp_path, small_model, {"line": {**line, "record": True}})
        child.send_signal(signal.SIGHUP)
        until(lambda: list((tmp_path / "store" / "recording").rglob("*.mp4")))
        document = json.loads(site.read_text())
        for sinks in (
            {"webhooks": [{"nam": "shift"}]},
            {"webhooks": [{"name": "shift", "url": "http://127.0.0.1:9/", "secrets": ["${env:SCRAPE}"]}]},
        ):
            site.write_text(json.dumps({**document, "sinks": sinks}))
            child.send_signal(signal.SIGHUP)
            time.sleep(5)
    finally:
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert "the models that run stay: " in err
    assert "nam is not known" in err
    assert (
        err.count("the site file's sinks changed since the start; a reload takes up cameras and models only")
        == 1
    )


def test_a_reload_that_is_asked_for_during_the_start_is_done_after_it(
    small_model: SmallModel, tmp_path: Path
):
    line = {"source": str(small_model.footage.test / "test_03.mp4"), "loop": True, "record": False}
    site = _site(tmp_path, small_model, {"line": line})
    first = site.read_text()
    second = _site(tmp_path, small_model, {"line": line, "more": line}).read_text()
    site.unlink()
    os.mkfifo(site)
    child = start(
        "run", "--site", site, "--out", tmp_path / "store", FPS, *PROBES, cwd=tmp_path, SCRAPE=TOKEN
    )
    try:
        # Opened as soon as the program reads it, which then waits for what it says.
        with site.open("w") as file:
            child.send_signal(signal.SIGHUP)
            file.write(first)
        probes = _probes(child)
        site.write_text(second)
        until(lambda: 'camera="more"' in _metrics(probes))
    finally:
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err


def test_a_dead_camera_does_not_slow_the_other(small_model: SmallModel, tmp_path: Path):
    site = _site(
        tmp_path,
        small_model,
        {
            "dead": {"source": "rtsp://127.0.0.1:9/nothing"},
            "line": {"source": str(small_model.footage.test / "test_03.mp4"), "loop": True},
        },
    )
    child = start(
        "run", "--site", site, "--out", tmp_path / "store", FPS, *PROBES, cwd=tmp_path, SCRAPE=TOKEN
    )
    try:
        probes = _probes(child)
        until(lambda: _figure(_metrics(probes), 'camera="line",what="scored"}') > 5)
        began, before = time.monotonic(), _figure(_metrics(probes), 'camera="line",what="captured"}')
        time.sleep(4)
        figures = _metrics(probes)
        rate = (_figure(figures, 'camera="line",what="captured"}') - before) / (time.monotonic() - began)
        assert rate > 4
        assert _figure(figures, 'camera="dead",kind="disconnected"}') == 1
        # A camera that is away does not make the runner unwell: it is told as what it is.
        assert urllib.request.urlopen(f"{probes}/healthz").status == 200
    finally:
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=60)
    assert child.returncode == 0


def test_no_password_is_written_anywhere(small_model: SmallModel, tmp_path: Path):
    canary = "c4n4ry-p4ssw0rd"
    with RtspServer(size=(160, 96), fps=5, keyframe_every=5, password=canary) as server:
        address = server.url.replace("rtsp://", "rtsp://user:${env:CAMERA_PASSWORD}@")
        child = start(
            "run", "--model", small_model.folder, "--source", address, "--out", tmp_path / "store", FPS,
            *PROBES, cwd=tmp_path, CAMERA_PASSWORD=canary, SCRAPE=TOKEN,
        )  # fmt: skip
        try:
            probes = _probes(child, keep := [])
            until(lambda: _ready(probes))
            figures = _metrics(probes)
            server.kill()
            until(lambda: "disconnected" in _metrics(probes))
            command = Path(f"/proc/{child.pid}/cmdline").read_text()
        finally:
            child.send_signal(signal.SIGTERM)
            out, err = child.communicate(timeout=60)
    for secret in (canary, TOKEN):
        assert secret not in "".join(keep) + out + err + figures + command
    for file in tmp_path.rglob("*"):
        if file.is_file():
            kept = file.read_bytes()
            assert canary.encode() not in kept, file
            assert TOKEN.encode() not in kept, file


def test_a_device_that_fails_is_told_and_ends_the_run(small_model: SmallModel, tmp_path: Path):
    class Gone(Loaded):
        def look(self, images, recents, detectors):
            raise RuntimeError("CUDA error: device lost\nmore")

    model = load_model(small_model.folder, offline=True)
    gone = Gone.of(model, load_threshold(model, fps=5.0))
    site = site_of([str(small_model.footage.test / "test_03.mp4")], small_model.folder, fps=5.0, record=False)
    with Store(tmp_path / "store") as store:
        pictures = Pictures(store)
        runner = Runner(site, Ledger(store, pictures, None), lambda path, fps: gone)
        with pytest.raises(
            AnomalyError, match=r"cannot compute any more .CUDA error: device lost more.; see to the device"
        ):
            runner.run()
        pictures.close()
        (told,) = store.health("")
    assert (told.kind, told.detail["reason"]) == ("device", "CUDA error: device lost more")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--source", "x.mp4"), "needs --model and --source"),
        (("--site", "site.yaml", "--model", "m"), "drop --source and --model"),
        (("--model", "m", "--source", "ftp://camera/x"), "ftp"),
        (("--model", "{model}", "--source", "rtsp://127.0.0.1:9/x", "run.metrics=0.0.0.0:9188"), "loopback"),
        (("--model", "{model}", "--source", "rtsp://127.0.0.1:9/x", "run.metrics=null", "--serve", "0.0.0.0:0"), "TLS"),
        (("--model", "{model}", "--source", "rtsp://127.0.0.1:9/x", "run.metrics=null", "--serve", "8080"), "HOST:PORT"),
        (("--model", "{model}", "--source", "rtsp://127.0.0.1:9/x", "keep.hours=-1"), "keep.hours=-1.0 cannot be used"),
        (("--model", "{model}", "--source", "rtsp://127.0.0.1:9/x", "keep.before_s=-5"), "keep.before_s=-5.0"),
        (("--model", "{model}", "--source", "rtsp://u:secret@127.0.0.1:9/x"), "env:"),
        (("--model", "{model}", "--source", "rtsp://127.0.0.1:9/x", "--scrape-token", "secret-of-16-or-more"), "env:NAME"),
        (("--model", "{model}", "--source", "rtsp://127.0.0.1:9/x", "--scrape-token", "${{file:/dev/null}}"), "0 characters"),
        (
            ("--model", "{model}", "--source", "rtsp://127.0.0.1:9/x", "footage.fps=4", "run.require_certificate=true"),
            "camera camera1: ",
        ),
    ],
)  # fmt: skip
def test_bad_usage_is_one_line(
    arguments: tuple[str, ...],
    told: str,
    small_model: SmallModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    done = invoke("run", *(one.format(model=small_model.folder) for one in arguments))
    assert (done.status, told in done.message) in ((2, True), (1, True)), done.err
    assert "secret" not in done.err
    assert {number: signal.getsignal(number) for number in before} == before


def _site(tmp_path: Path, small: SmallModel, cameras: dict, model: Path | None = None) -> Path:
    path = tmp_path / "site.yaml"
    entries = [
        {"name": name, "model": str(model or small.folder), "fps": 5, **settings}
        for name, settings in cameras.items()
    ]
    # JSON is YAML.
    path.write_text(json.dumps({"site": "plant", "line": "one", "cameras": entries}))
    return path


def _probes(child: subprocess.Popen[str], kept: list[str] | None = None) -> str:
    """Where the probes answer, from what the program says at its start."""
    assert child.stdout is not None
    for line in child.stdout:
        if kept is not None:
            kept.append(line)
        if "Probes and metrics: " in line:
            return line.partition("Probes and metrics: ")[2].partition("/healthz")[0]
    raise AssertionError(child.stderr.read() if child.stderr else "it ended")


def _metrics(probes: str) -> str:
    asked = urllib.request.Request(f"{probes}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return answer.read().decode()


def _ready(probes: str) -> bool:
    try:
        return urllib.request.urlopen(f"{probes}/readyz", timeout=10).status == 200
    except OSError:
        return False


def _figure(metrics: str, name: str) -> float:
    return sum(
        float(line.rpartition(" ")[2]) for line in metrics.splitlines() if name in line and line[0] != "#"
    )
