"""A fit that is stopped goes on from its checkpoint, and comes to the same bank."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from small_model import FIT, SmallModel, invoke, start, succeed

from anomaly.fitting.scored import Scored, ScoredCheckpoint
from memory_bank import checkpoint_note

#: Slow enough to be stopped in the middle, and saved after every few frames.
SLOW = (*FIT, "bank.size=300", "bank.gather_mib=0.5", "projection.sample_frames=6", "backbone.input_size=[256,416]", "fit.review=0",
        "fit.checkpoint_s=0.05")  # fmt: skip
BANK, PROJECTION = "banks/appearance.safetensors", "projection.safetensors"


def stopped(footage: Path, cwd: Path, how: signal.Signals, *extra: str) -> Path:
    """Start a fit of model `m`, stop it once it has read into the second clip; its last checkpoint."""
    child = start("fit", "--normal-videos", footage, "--model", "m", *SLOW, *extra, cwd=cwd)
    checkpoint = cwd / ".m.fit" / "coreset.safetensors"
    wait_for(lambda: checkpoint.is_file() and checkpoint_note(checkpoint)["tally"]["span"] >= 1, child)
    child.send_signal(how)
    _, err = child.communicate(timeout=60)
    assert child.returncode != 0
    if how == signal.SIGINT:
        assert "run the same command to go on" in err
        assert len(err.splitlines()) == 1
    assert not (cwd / "m").exists()
    return checkpoint


def test_two_fits_do_not_share_a_model(clips: Path, tmp_path: Path):
    """They would go on from one another's checkpoints, and the later one would put its model in the place of the other's."""
    child = start("fit", "--normal-videos", clips, "--model", "m", *SLOW, cwd=tmp_path)
    wait_for((tmp_path / ".m.fit" / "coreset.safetensors").is_file, child)
    for more in ((), ("fit.fresh=true",)):
        done = invoke("fit", "--normal-videos", clips, "--model", tmp_path / "m", *SLOW, *more)
        assert done.status == 2
        assert "is being fitted by another process; wait until it has ended" in done.message
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def wait_for(happened: Callable[[], object], child: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not happened():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture(scope="module")
def clips(small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of the small footage."""
    folder = tmp_path_factory.mktemp("clips")
    for number in (1, 2):
        shutil.copy2(small_model.footage.normal / f"normal_0{number}.mp4", folder)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "m"
    succeed("fit", "--normal-videos", clips, "--model", folder, *SLOW)
    assert [path.name for path in folder.parent.iterdir()] == ["m"]  # no checkpoint is left
    return folder


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_stopped_fit_goes_on_and_gives_the_same_bank(
    how: signal.Signals, clips: Path, uninterrupted: Path, tmp_path: Path
):
    checkpoint = stopped(clips, tmp_path, how)
    learned = checkpoint_note(checkpoint)["tally"]["frames"]
    assert learned > 0
    with safe_open(str(checkpoint), "numpy") as file:  # bounded by the bank's size, not by the footage
        assert file.get_slice("rows").get_shape()[0] <= 2 * 300
    done = invoke("fit", "--normal-videos", clips, "--model", tmp_path / "m", *SLOW)
    assert done.status == 0, done.err
    assert f"went on with an unfinished fit of {learned} frames" in done.err
    for name in (BANK, PROJECTION):
        assert (tmp_path / "m" / name).read_bytes() == (uninterrupted / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_checkpoint_of_another_fit_is_not_gone_on_with(
    small_model: SmallModel, clips: Path, tmp_path: Path
):
    """Other settings, other footage, another backbone, a damaged file: one line, and nothing is lost."""
    footage = Path(shutil.copytree(clips, tmp_path / "in"))
    checkpoint = stopped(footage, tmp_path, signal.SIGKILL)
    whole = checkpoint.read_bytes()
    for changes, why in (
        (("bank.size=200",), "settings (bank_size)"),
        (("bank.place_weight=3",), "settings (place_weight)"),
        (("fit.shard_s=3",), "it was not cut into shards"),
        (("fit.drop=[normal_01.mp4@0-1]",), "other excluded moments;"),
        (("backbone.neighbourhood=5",), "other backbone;"),
        ((), "cannot be read"),
    ):
        if why == "cannot be read":
            checkpoint.write_bytes(whole[:1000])
        done = invoke("fit", "--normal-videos", footage, "--model", tmp_path / "m", *SLOW, *changes)
        assert done.status == 2
        assert "cannot be gone on with" in done.message
        assert why in done.message
        assert "fit.fresh=true" in done.message
        assert checkpoint.read_bytes() == (whole[:1000] if why == "cannot be read" else whole)
        assert not (tmp_path / "m").exists()
    checkpoint.write_bytes(whole)
    # What is done with a bank once it is filled may change.
    more = Path(shutil.copy(small_model.footage.normal / "normal_03.mp4", footage))
    done = invoke("fit", "--normal-videos", footage, "--model", tmp_path / "m", *SLOW)
    assert "of other footage;" in done.message
    more.unlink()
    done = invoke("fit", "--normal-videos", footage, "--model", tmp_path / "m", *SLOW, "bank.half=true")
    assert done.status == 0, done.message
    assert "went on with" in done.err
    assert not checkpoint.parent.exists()


def test_a_fit_stopped_while_it_scored_the_holdout_goes_on_there(small_model: SmallModel, tmp_path: Path):
    settings = (*FIT, "bank.size=300", "fit.holdout=0.5", "footage.fps=null", "fit.fps=2", "fit.review=0", "fit.checkpoint_s=0.01")  # fmt: skip
    fit = ("fit", "--normal-videos", small_model.footage.normal, *settings)
    child = start(*fit, "--model", "m", cwd=tmp_path)
    kept = tmp_path / ".m.fit" / "holdout.safetensors"
    wait_for(kept.is_file, child)
    child.kill()
    child.communicate(timeout=60)
    assert not (tmp_path / "m").exists()
    other = shutil.copytree(kept.parent, tmp_path / ".other.fit") / kept.name
    other.write_bytes(other.read_bytes()[:1000])  # cannot be read: no loss
    assert "scored before" not in invoke(*fit, "--model", tmp_path / "other").err
    done = invoke(*fit, "--model", tmp_path / "m")
    assert done.status == 0, done.err
    scored = int(done.err.split("went on with ")[-1].split(" held-out frames that were scored before")[0])
    assert scored >= 100
    for name in (BANK, "scores.npz"):
        assert (tmp_path / "m" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    one, same = (json.loads((tmp_path / name / "model.json").read_text()) for name in ("m", "other"))
    assert {**one["fit"], "seconds": 0} == {**same["fit"], "seconds": 0}
    assert one["fitted_on"] == same["fitted_on"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "other"]


def test_scores_of_the_holdout_belong_to_one_bank_and_one_way_of_scoring(tmp_path: Path):
    told: list[str] = []
    scored = Scored(2, 7, ["a", "b", "a"], [0.1, 0.2, 0.3], [1 / 3, 2.0, 5.0], [1.0], [0.5], float("inf"))
    ScoredCheckpoint(tmp_path, {"bank": "one"}, 0.0, told.append).save_if_due(scored, None)
    assert ScoredCheckpoint(tmp_path, {"bank": "other"}, 0.0, told.append).resume() is None
    assert ScoredCheckpoint(tmp_path / "none", {"bank": "one"}, 0.0, told.append).resume() is None
    assert ScoredCheckpoint(tmp_path, {"bank": "one"}, 0.0, told.append).resume() == (scored, None)
    assert told == ["went on with 3 held-out frames that were scored before"]


def test_an_unfinished_fit_is_thrown_away_when_that_is_asked_for(clips: Path, tmp_path: Path):
    checkpoint = stopped(clips, tmp_path, signal.SIGKILL)
    quick = ("backbone.input_size=[64,96]", "fit.fps=1", "fit.checkpoint_s=60", "fit.fresh=true")
    done = invoke("fit", "--normal-videos", clips, "--model", tmp_path / "m", *SLOW, *quick)
    assert done.status == 0, done.message
    assert "went on with" not in done.err
    assert not checkpoint.parent.exists()


def test_a_disk_that_fills_costs_the_checkpoints_and_not_the_fit(
    clips: Path, uninterrupted: Path, tmp_path: Path
):
    """The hidden folder's place is taken by a disk too small for a checkpoint."""
    place = tmp_path / ".m.fit"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        done = invoke("fit", "--normal-videos", clips, "--model", tmp_path / "m", *SLOW)
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert done.status == 0, done.err
    (line,) = [line for line in done.err.splitlines() if "checkpoint" in line]
    assert "no checkpoint could be written" in line
    assert "No space left" in line
    assert (tmp_path / "m" / BANK).read_bytes() == (uninterrupted / BANK).read_bytes()
