"""One small model for the whole test session, fitted and calibrated through the command line."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from anomaly import cli
from anomaly.artifact import LOOKS, added_files, archive_bytes, read_description, save_folder
from anomaly.banks import without_files
from anomaly.conveyor import ConveyorFootage, PlannedFault, SceneConfig, plan_clip
from anomaly.conveyor.film import csv_text, label_rows, write_clip, write_text

ROOT = Path(__file__).resolve().parent.parent
#: Every command that looks at the small footage takes five frames a second of it.
FPS = "footage.fps=5"
FIT = (
    "bank.size=1000",
    "projection.sample_frames=20",
    "projection.dims=48",
    "backbone.input_size=[96,160]",
    "fit.fps=4",
    "profile=cpu",
    "weights.offline=true",
    "exemplars.max_mb=0.3",
    FPS,
)


@dataclass(frozen=True)
class Done:
    """What a command line came to."""

    status: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The error, which must be one line."""
        lines = [line for line in self.err.splitlines() if line.startswith("anomaly: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("anomaly: ")


def invoke(*arguments: object) -> Done:
    """Run a command line in this process; torch is imported once for all of them."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.run([str(argument) for argument in arguments])
    finally:
        sys.argv = argv
    return Done(status, out.getvalue(), err.getvalue())


def succeed(*arguments: object) -> str:
    """Run a command line that must work; its standard output."""
    done = invoke(*arguments)
    assert done.status == 0, done.err
    return done.out


def environment(**extra: str) -> dict[str, str]:
    """Of a process that finds the program from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **extra}


def start(*arguments: object, cwd: Path, **extra: str) -> subprocess.Popen[str]:
    """Start a command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "anomaly", *(str(argument) for argument in arguments)],
        cwd=cwd, env=environment(**extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Tests started in the background hand down an ignored SIGINT; a terminal would not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def process(*arguments: object, cwd: Path, **extra: str) -> Done:
    """Run a command line in a process of its own."""
    child = start(*arguments, cwd=cwd, **extra)
    out, err = child.communicate(timeout=240)
    return Done(child.returncode, out, err)


@dataclass(frozen=True)
class SmallModel:
    """A model of the built-in conveyor: 4 normal clips, 3 with a spill, 2 clean.

    Attributes:
        footage: what it was made from; `footage.test` is new to it.
        folder: the model.
        fit_out, calibrate_out: what the two commands printed.
    """

    footage: ConveyorFootage
    folder: Path
    fit_out: str
    calibrate_out: str


def put_scores(model: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Put other scores into a model, as if it had been written with them."""
    description = read_description(model)
    files = {name: (model / name).read_bytes() for name in description["files"]}
    added = added_files(model, ("thresholds", "evidence", "graph", LOOKS))
    save_folder(model, {**files, "scores.npz": archive_bytes(arrays)}, without_files(description), added)


@pytest.fixture(scope="session", autouse=True)
def scores_cached_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or leaves scores in the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANOMALY_CACHE", str(folder))
        yield folder


def small_footage(folder: Path, seed: int = 7, kind: str = "spill") -> ConveyorFootage:
    """Two minutes of conveyor in 160x96 under steady light; 3 + 2 plain faults and 2 + 1 clean clips."""
    config = SceneConfig(160, 96)
    made = ConveyorFootage(
        folder, folder / "normal", folder / "labeled", folder / "labeled.csv", folder / "test", folder / "test.csv",
        folder / "masks", seed, config,
    )  # fmt: skip
    for room in (made.normal, made.labeled, made.test, made.masks):
        room.mkdir(parents=True)
    for i in range(4):
        clip = plan_clip(1000 * seed + i, 10.0, config=config, light_drift=0.0)
        write_clip(clip, made.normal / f"normal_{i + 1:02d}.mp4", crf=23)
    for part, count in (("labeled", 3), ("test", 2)):
        rows = []
        # The last labelled clip is long and clean: room for ten stretches as long as an event.
        for i in range(count + (2 if part == "labeled" else 1)):
            faults = [PlannedFault(kind, 4.0, severity=1.0)] if i < count else []
            seconds = 8.0 if i <= count else 64.0
            plan = plan_clip(1000 * seed + 10 * count + i, seconds, faults, config=config, light_drift=0.0)
            name = f"{part}_{i + 1:02d}"
            write_clip(plan, folder / part / f"{name}.mp4", crf=23, masks=made.masks / f"{name}.npz")
            rows += label_rows(plan, f"{name}.mp4")
        write_text(folder / f"{part}.csv", csv_text("video,start_s,end_s,label", rows))
    return made


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> ConveyorFootage:
    """Shared, not to be changed."""
    return small_footage(tmp_path_factory.mktemp("conveyor") / "line")


@pytest.fixture(scope="session")
def small_model(
    footage: ConveyorFootage, tmp_path_factory: pytest.TempPathFactory, scores_cached_elsewhere: Path
) -> Iterator[SmallModel]:
    """A calibrated model; shared, not to be changed (`copytree` it): the session ends with an error if it was."""
    folder = tmp_path_factory.mktemp("small") / "model"
    fit_out = succeed("fit", "--normal-videos", footage.normal, "--model", folder, *FIT)
    calibrate_out = succeed(
        "calibrate", "--model", folder, "--labeled", footage.labeled_csv, "--videos", footage.labeled,
        "--target-recall", 0.5, FPS,
    )  # fmt: skip
    made = _contents(folder)
    yield SmallModel(footage, folder, fit_out, calibrate_out)
    assert _contents(folder) == made, "a test changed the model that all share"


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
