"""Ctrl-C, a kill, and a full disk: no half model, the old one intact, and what was finished is kept."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_model import FIT, FPS, SmallModel, invoke, process, start, succeed

from anomaly.artifact import read_description, read_signed
from anomaly.model import load_model
from anomaly.thresholds import load_threshold


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def wait_for(happened: Callable[[], object], child: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not happened():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def long_fit(small_model: SmallModel, cwd: Path) -> subprocess.Popen[str]:
    """A fit that would take minutes, in a process of its own, stopped once it reads the footage."""
    child = start(
        "fit", "--normal-videos", small_model.footage.normal, "--model", "m", *FIT,
        "fit.fps=10", "backbone.input_size=[960,1600]", cwd=cwd,
    )  # fmt: skip

    def reads() -> bool:
        return any(target.endswith(".mp4") for target in open_files(child.pid))

    wait_for(reads, child)
    return child


def open_files(pid: int) -> Iterator[str]:
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed in the meantime
            yield os.readlink(one)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_fit_leaves_the_old_model_and_no_half_one(
    how: signal.Signals, small_model: SmallModel, tmp_path: Path
):
    quick = ("bank.size=50", "fit.fps=1", "projection.sample_frames=5")
    clip = small_model.footage.normal / "normal_01.mp4"
    succeed("fit", "--normal-videos", clip, "--model", tmp_path / "m", *FIT, *quick, "fit.review=0")
    before = contents(tmp_path)
    child = long_fit(small_model, tmp_path)
    child.send_signal(how)
    _, err = child.communicate(timeout=120)
    if how != signal.SIGKILL:
        assert child.returncode == 128 + how
        assert "run the same command to go on" in err
        assert len(err.splitlines()) == 1
    else:
        assert child.returncode == -how
    assert contents(tmp_path) == before
    assert read_description(tmp_path / "m")["branches"]


def labeled(model: Path, small_model: SmallModel) -> tuple[object, ...]:
    footage = small_model.footage
    return ("calibrate", "--model", model, "--labeled", footage.labeled_csv, "--videos", footage.labeled, FPS)


def test_an_interrupted_calibration_goes_on_where_it_stopped(small_model: SmallModel, tmp_path: Path):
    """Killed half-way; then only what had not been scored is scored, and the result is that of one go."""
    cache, model = tmp_path / "cache", Path(shutil.copytree(small_model.folder, tmp_path / "m"))
    shutil.rmtree(model / "thresholds")
    command = (*labeled(model, small_model), "--target-recall", 0.5)
    child = start(*command, cwd=tmp_path, ANOMALY_CACHE=str(cache))
    wait_for(lambda: len(list(cache.rglob("*.npz"))) >= 2, child)
    child.kill()
    child.communicate(timeout=60)
    assert not (model / "thresholds").exists()
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")}
    assert 2 <= len(kept) < 5
    done = process(*command, cwd=tmp_path, ANOMALY_CACHE=str(cache))
    assert done.status == 0, done.err
    after = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")}
    assert len(after) == 5
    assert {path: after[path] for path in kept} == kept
    name = "thresholds/torch-fp32.json"
    assert read_signed(model / name)["events"] == read_signed(small_model.folder / name)["events"]


@pytest.mark.parametrize(
    ("step", "certified"),
    [
        ("anomaly.commands.calibrate.collect_evidence", True),
        ("anomaly.thresholds.replace_labeled", False),
        ("anomaly.thresholds.write_json", False),
    ],
)
def test_a_calibration_cut_off_leaves_threshold_and_evidence_of_one_calibration_or_is_uncertified(
    step: str, certified: bool, small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = Path(shutil.copytree(small_model.folder, tmp_path / "m"))
    before = contents(model)
    command = (*labeled(model, small_model), "--target-recall", 0.5, "decider.smoothing_s=0.25")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(step, stop)
        assert invoke(*command).status == 130
    threshold, evidence = "thresholds/torch-fp32.json", "evidence/index.json"
    after = contents(model)
    assert after[threshold] == before[threshold]
    assert (after[evidence] == before[evidence]) is certified
    doubt = load_threshold(load_model(model, offline=True), fps=5.0).doubt
    assert bool(doubt) is not certified
    assert certified or "of another calibration than its threshold" in doubt
    succeed(*command)
    assert load_threshold(load_model(model, offline=True), fps=5.0).certified


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at /proc")
@pytest.mark.parametrize("verb", ["score", "run"])
def test_a_stopped_score_or_run_says_what_is_left_of_it(verb: str, small_model: SmallModel, tmp_path: Path):
    """`score` goes on after the files that it had finished; `run` starts anew, and says so."""
    normal, cache = small_model.footage.normal, tmp_path / "cache"
    clips = [normal / "normal_01.mp4", normal / "normal_02.mp4"]
    child = start(
        verb, "--model", small_model.folder, "--source", *clips, "--out", "out", "footage.fps=10", cwd=tmp_path,
        ANOMALY_CACHE=str(cache),
    )  # fmt: skip

    def at_the_second() -> bool:
        # It is opened for its length before the first is read, too.
        begun = any(cache.rglob("*.npz")) or (tmp_path / "out" / "annotated" / "normal_01.mp4").exists()
        return begun and any(target.endswith("normal_02.mp4") for target in open_files(child.pid))

    wait_for(at_the_second, child)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 130
    left = [path.name for path in tmp_path.iterdir()]
    if verb == "run":
        assert "the events until now are kept, the same command starts from the beginning" in err
        assert [path.name for path in (tmp_path / "out" / "annotated").iterdir()] == ["normal_01.mp4"]
        return
    assert "no CSV was written, the same command goes on after the files that were finished" in err
    assert left == ["cache"]
    assert len(list(cache.rglob("*.npz"))) == 1


@pytest.mark.slow
def test_scores_from_the_cache_are_those_without_it(
    small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A cached, a damaged, and an unwritable cache: the same figures."""
    model = Path(shutil.copytree(small_model.folder, tmp_path / "m"))
    monkeypatch.setenv("ANOMALY_CACHE", str(tmp_path / "cache"))
    found = []
    for state in ("fresh", "cached", "damaged", "unwritable"):
        if state == "damaged":
            for path, size in zip(
                sorted((tmp_path / "cache").rglob("*.npz")), (0, 100, 900, None, 0), strict=True
            ):
                if size is None:
                    path.write_bytes(b"no archive")
                else:
                    os.truncate(path, size)
        if state == "unwritable":
            (tmp_path / "file").touch()
            monkeypatch.setenv("ANOMALY_CACHE", str(tmp_path / "file" / "cache"))
        succeed(*labeled(model, small_model))
        found.append((model / "thresholds" / "torch-fp32.json").read_bytes())
    assert len(set(found)) == 1


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of so many kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("small_disk", [300], indirect=True)
def test_a_disk_that_fills_while_saving_leaves_the_old_model(small_disk: Path, small_model: SmallModel):
    normal = small_model.footage.normal
    quick = (*FIT, "projection.sample_frames=5", "fit.review=0", "exemplars.max_mb=0")
    succeed(
        "fit",
        "--normal-videos",
        normal / "normal_01.mp4",
        "--model",
        small_disk / "m",
        *quick,
        "bank.size=100",
    )
    before = contents(small_disk)
    done = invoke("fit", "--normal-videos", normal, "--model", small_disk / "m", *quick, "bank.size=1000")
    assert done.status == 1
    assert len(done.err.splitlines()) == 1
    assert "no space left on device" in done.message
    assert "free the space" in done.message
    assert contents(small_disk) == before
    read_description(small_disk / "m")


@pytest.mark.parametrize("small_disk", [1000], indirect=True)
def test_a_disk_that_fills_while_calibrating_leaves_the_old_threshold(
    small_disk: Path, small_model: SmallModel
):
    without = shutil.ignore_patterns("evidence")
    model = Path(shutil.copytree(small_model.folder, small_disk / "m", ignore=without))
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    before = contents(model)
    done = invoke(*labeled(model, small_model), "decider.smoothing_s=0")
    assert done.status == 1
    assert "no space left on device" in done.message
    assert contents(model) == before
    clip = small_model.footage.test / "test_01.mp4"
    succeed("score", "--model", model, "--source", clip, "--out", small_disk.parent / "s.csv", FPS)


@pytest.mark.parametrize("small_disk", [40], indirect=True)
def test_a_disk_that_fills_while_scoring_is_told_with_the_file(small_disk: Path, small_model: SmallModel):
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    clip, out = small_model.footage.test / "test_01.mp4", small_disk / "s.csv"
    for more in ((), ("--heatmaps", small_disk / "h")):
        done = invoke("score", "--model", small_model.folder, "--source", clip, "--out", out, FPS, *more)
        assert done.status == 1
        assert f"no space left on device '{small_disk}/" in done.message
        assert "free the space" in done.message
    # The empty mark of the folder of heatmaps takes no room.
    assert {path.name for path in small_disk.rglob("*") if path.is_file()} == {"filler", ".heatmaps"}


@pytest.mark.parametrize("small_disk", [1000], indirect=True)
def test_a_disk_that_fills_while_adding_footage_leaves_the_old_bank(
    small_disk: Path, small_model: SmallModel
):
    without = shutil.ignore_patterns("evidence")
    model = Path(shutil.copytree(small_model.folder, small_disk / "m", ignore=without))
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 100_000))
    before = contents(small_disk)
    done = invoke(
        "bank", "add", "--model", model, "--normal-videos", small_model.footage.test / "test_01.mp4",
        "size=3000", "weights.offline=true",
    )  # fmt: skip
    assert done.status == 1
    assert "no space left on device" in done.message
    assert contents(small_disk) == before
    read_description(model)
