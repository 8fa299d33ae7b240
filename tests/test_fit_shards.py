"""A fit in shards: here or on a Ray cluster, with one worker or three, the bank is the same."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_model import FIT, FPS, SmallModel, invoke, start, succeed

from anomaly.decider import DeciderConfig
from anomaly.errors import FootageError
from anomaly.fitting import FitOptions, fit
from anomaly.fitting.reading import Reader
from anomaly.fitting.shards import cut_into_shards
from anomaly.footage.source import find_sources
from anomaly.model import load_model
from anomaly.regions import Regions
from anomaly.splits import Span
from anomaly.weights import load_weights

SHARDS = (*FIT, "bank.size=400", "fit.fps=2", "projection.sample_frames=6", "fit.review=0", "exemplars.max_mb=0",
          "fit.shard_s=3")  # fmt: skip
BANK = "banks/appearance.safetensors"


def test_footage_is_cut_evenly_and_wholly(small_model: SmallModel):
    sources = find_sources([small_model.footage.normal])
    spans = [Span(source, 1.0, 9.0) for source in sources] + [Span(sources[0], 9.0, 9.5)]
    reader = Reader({source.name: 10.0 for source in sources}, {}, False, [])
    shards = cut_into_shards(spans, reader, 4.0, 2.0)
    flat = [span for shard in shards for span in shard]
    assert [len(shard) for shard in shards[:-1]] == [1] * 7 + [1]
    for source in sources[1:]:
        own = [span for span in flat if span.source == source]
        assert [(span.start_s, span.end_s) for span in own] == [(1.0, 5.0), (5.0, 9.0)]
    # Short clips share a shard.
    assert len(cut_into_shards(spans, reader, 100.0, 2.0)) == 1
    assert sum(span.end_s - span.start_s for span in flat) == pytest.approx(4 * 8 + 0.5)


def test_a_fit_in_shards_learns_the_same_frames_and_covers_them(small_model: SmallModel, tmp_path: Path):
    normal = small_model.footage.normal
    succeed("fit", "--normal-videos", normal, "--model", tmp_path / "shards", *SHARDS)
    succeed("fit", "--normal-videos", normal, "--model", tmp_path / "one", *SHARDS, "fit.shard_s=null")
    shards, one = (load_model(tmp_path / name, device="cpu", offline=True) for name in ("shards", "one"))
    facts, whole = shards.description["fit"], one.description["fit"]
    assert facts["frames"] == whole["frames"]
    assert facts["patches"] == whole["patches"] == 60 * facts["frames"]
    # Coverage is measured before the hold-out is learned, which can only narrow it.
    assert facts["coverage"]["patches"] == 60 * (facts["frames"] - facts["holdout_frames_learned"])
    bank, other = shards.detector.branches[0].bank, one.detector.branches[0].bank
    assert len(bank) <= 400
    assert bank.counts.sum() == other.counts.sum()
    assert set(bank.sources) == set(other.sources)
    assert facts["coverage"]["largest"] <= facts["coverage"]["largest_bound"]
    assert facts["coverage"]["mean"] < 1.2 * whole["coverage"]["mean"]
    clip = small_model.footage.test / "test_01.mp4"
    for name in ("shards", "one"):
        succeed("score", "--model", tmp_path / name, "--source", clip, "--out", tmp_path / f"{name}.csv", FPS)
    scores = [
        np.array([float(line.split(",")[3]) for line in (tmp_path / f"{name}.csv").read_text().split()[1:]])
        for name in ("shards", "one")
    ]
    assert np.corrcoef(*scores)[0, 1] > 0.9


@pytest.mark.slow
def test_a_radius_bounds_the_bank_of_a_fit_in_shards_as_of_one_stream(
    small_model: SmallModel, tmp_path: Path
):
    """However many shards a still scene is cut into, its bank has about the rows of one."""
    normal = small_model.footage.normal
    lone = (*SHARDS, "fit.holdout=0")
    succeed("fit", "--normal-videos", normal, "--model", tmp_path / "size", *lone)
    bank = load_model(tmp_path / "size", device="cpu", offline=True).detector.branches[0].bank
    apart = np.sort(bank.search(bank.rows, 2)[0][:, 1])
    radius = 2 * float(np.median(apart))
    rows = {}
    for shard_s in (100, 6, 2):
        folder = tmp_path / f"shards{shard_s}"
        change = (f"bank.radius={radius}", f"fit.shard_s={shard_s}")
        succeed("fit", "--normal-videos", normal, "--model", folder, *lone, *change)
        model = load_model(folder, device="cpu", offline=True)
        rows[shard_s] = len(model.detector.branches[0].bank)
        coverage = model.description["fit"]["coverage"]
        assert coverage["largest"] <= coverage["largest_bound"] <= radius * 1.001
    assert rows[2] < 1.5 * rows[100]
    assert rows[6] < 1.5 * rows[100]


def test_settings_that_cannot_be(small_model: SmallModel, tmp_path: Path):
    for change, why in (("fit.compute=slurm", "choose local or ray"), ("fit.shard_s=0", "fit.shard_s=0")):
        done = invoke(
            "fit", "--normal-videos", small_model.footage.normal, "--model", tmp_path / "m", *FIT, change
        )
        assert done.status == 2
        assert why in done.message


@pytest.fixture
def cluster() -> Iterator[object]:
    """Starts a Ray cluster on this machine, of as many workers as asked for."""
    ray = pytest.importorskip("ray")

    def start(workers: int) -> None:
        ray.shutdown()
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")

    yield start
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_bank_is_the_same_whoever_fills_it(small_model: SmallModel, cluster, tmp_path: Path):
    """One machine without Ray, one worker, three workers, three of which one is killed half-way."""
    normal = small_model.footage.normal
    succeed("fit", "--normal-videos", normal, "--model", tmp_path / "here", *SHARDS)
    expected = (tmp_path / "here" / BANK).read_bytes()
    for workers in (1, 3):
        cluster(workers)
        model = tmp_path / f"ray{workers}"
        succeed("fit", "--normal-videos", normal, "--model", model, *SHARDS, "fit.compute=ray")
        assert (model / BANK).read_bytes() == expected
    killed: list[int] = []
    killer = threading.Thread(target=kill_one_worker, args=(killed,))
    killer.start()
    succeed("fit", "--normal-videos", normal, "--model", tmp_path / "killed", *SHARDS, "fit.compute=ray")
    killer.join(60)
    assert len(killed) == 1
    assert (tmp_path / "killed" / BANK).read_bytes() == expected


def kill_one_worker(killed: list[int]) -> None:
    """Kill the first process that works on a shard."""
    until = time.monotonic() + 60
    while not killed and time.monotonic() < until:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if command.startswith(b"ray::fill_shard"):
                os.kill(int(folder.name), signal.SIGKILL)
                killed.append(int(folder.name))
                break
        time.sleep(0.005)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_a_cluster_that_is_not_there_is_told(
    address: str, small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", address)
    clip = small_model.footage.normal / "normal_01.mp4"
    done = invoke("fit", "--normal-videos", clip, "--model", tmp_path / "m", *SHARDS, "fit.compute=ray")
    assert done.status == 1
    assert f"RAY_ADDRESS={address}" in done.message
    assert "unset RAY_ADDRESS" in done.message
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("compute", ["local", "ray"])
def test_a_clip_that_a_worker_does_not_see_is_named(
    compute: str, small_model: SmallModel, cluster, tmp_path: Path
):
    """It was there when the headers were read, and is gone when its shard is worked on."""
    if compute == "ray":
        cluster(2)
    folder = Path(shutil.copytree(small_model.footage.normal, tmp_path / "in"))
    weights, _ = load_weights("efficientnet_lite0", offline=True)
    branch = load_model(small_model.folder, device="cpu", offline=True).detector.branches[0]

    def progress(stage: str, done: float, total: float | None) -> None:
        if stage.startswith("filling"):
            (folder / "normal_03.mp4").unlink(missing_ok=True)

    options = FitOptions(fps=2.0, sample_frames=6, bank_size=200, compute=compute, shard_s=3.0)
    with pytest.raises(FootageError, match=r"'normal_03\.mp4' is not at .*every worker sees"):
        fit(
            find_sources([folder]), branch.backbone.spec, weights, Regions([], [], None), DeciderConfig(), options,
            input_size=(96, 160), progress=progress,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("how", "more"),
    [
        pytest.param(signal.SIGINT, [], marks=pytest.mark.slow),
        (signal.SIGKILL, []),
        pytest.param(signal.SIGINT, ["fit.compute=ray"], marks=pytest.mark.slow),
    ],
)
def test_finished_shards_outlive_an_interruption(
    how: signal.Signals, more: list[str], small_model: SmallModel, tmp_path: Path
):
    """Stopped after its first shard: the next fit, on one machine, takes that one from the disk and comes to the same bank."""
    normal = small_model.footage.normal
    succeed("fit", "--normal-videos", normal, "--model", tmp_path / "whole", *SHARDS)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]  # no shard is left
    slow = ("fit", "--normal-videos", normal, "--model", "m", *SHARDS)
    child = start(*slow, *more, cwd=tmp_path)
    kept = tmp_path / ".m.fit" / "shard_0.safetensors"
    until = time.monotonic() + 120
    while not kept.is_file():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
    child.send_signal(how)
    child.communicate(timeout=60)
    assert child.returncode != 0
    assert not (tmp_path / "m").exists()
    before = len(list(kept.parent.glob("shard_*")))
    other = invoke("fit", "--normal-videos", normal, "--model", tmp_path / "m", *SHARDS, "bank.size=300")
    assert other.status == 2
    assert "it is of other settings (bank_size);" in other.message
    one_stream = invoke(
        "fit", "--normal-videos", normal, "--model", tmp_path / "m", *SHARDS, "fit.shard_s=null"
    )
    assert one_stream.status == 2
    assert "it was cut into shards" in one_stream.message
    done = invoke("fit", "--normal-videos", normal, "--model", tmp_path / "m", *SHARDS)
    assert done.status == 0, done.err
    assert f"went on with {before} finished shard" in done.err
    assert (tmp_path / "m" / BANK).read_bytes() == (tmp_path / "whole" / BANK).read_bytes()
    assert not kept.parent.exists()
