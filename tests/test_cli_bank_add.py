"""`bank add`: footage of normal work put to a bank that is there."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import cut_file
from small_model import FIT, Done, SmallModel, environment, invoke, succeed
from test_cli_interrupted import contents

from anomaly.artifact import write_json
from anomaly.errors import ModelError
from anomaly.exemplars import load_exemplars
from anomaly.fitting import add_footage, unknown_sources
from anomaly.footage.source import find_sources, read_frame_at
from anomaly.model import load_model, save_model
from anomaly.scores import read_series
from anomaly.thresholds import load_threshold
from anomaly.weights import StoredWeights
from memory_bank import MemoryBank

BANK = "banks/appearance.safetensors"


def add(model: Path, *footage: object, size: int | None = 3000, **extra: object) -> Done:
    settings = [f"{key.replace('__', '.')}={value}" for key, value in extra.items()]
    room = [] if size is None else [f"size={size}"]
    return invoke(
        "bank", "add", "--model", model, "--normal-videos", *footage, *room, "weights.offline=true",
        "exemplars.max_mb=0.5", *settings,
    )  # fmt: skip


def copy_of(small_model: SmallModel, folder: Path) -> Path:
    return Path(shutil.copytree(small_model.folder, folder))


def bank_of(folder: Path) -> MemoryBank:
    return load_model(folder, device="cpu", offline=True).detector.branches[0].bank


def described(folder: Path) -> dict[str, dict[str, object]]:
    loaded: dict[str, dict[str, object]] = json.loads((folder / "model.json").read_text())
    return loaded


def scores(model: Path, *sources: Path, to: Path) -> dict[tuple[str, str], float]:
    # At the rate of `fit.fps`, so that the frames that were learned are among them.
    succeed("score", "--model", model, "--source", *sources, "--out", to, "footage.fps=4")
    with to.open() as file:
        return {(row["source"], row["frame"]): float(row["score"]) for row in csv.DictReader(file)}


def test_what_was_strange_is_ordinary_and_no_frame_scores_higher(small_model: SmallModel, tmp_path: Path):
    footage, model = small_model.footage, copy_of(small_model, tmp_path / "m")
    new, other = footage.test / "test_01.mp4", footage.test / "test_02.mp4"
    before, was = bank_of(model), scores(model, new, other, to=tmp_path / "before.csv")
    threshold = load_threshold(load_model(model, device="cpu", offline=True), fps=5.0)
    assert threshold.value is not None
    assert max(was.values()) > threshold.value > 1
    done = add(model, new)
    assert done.status == 0, done.err
    now = scores(model, new, other, to=tmp_path / "after.csv")
    assert all(now[frame] <= was[frame] + 1e-5 for frame in was)
    assert max(score for (name, _), score in now.items() if name == "test_01.mp4") <= 1 + 1e-5
    # Rows, what they stand for, and what the model says of itself.
    after, told = bank_of(model), described(model)
    np.testing.assert_array_equal(after.rows[: len(before)], before.rows)
    assert f"{len(after) - len(before):,} added, 0 dropped; {len(after):,} now, 3,000 at most" in done.out
    assert [one["source"] for one in told["fitted_on"]][-1] == "test_01.mp4"
    assert told["fit"]["patches"] == after.counts.sum()
    assert told["fit"]["frames"] == sum(one["frames"] for one in told["fitted_on"])  # type: ignore[call-overload, index]
    assert told["branches"][0]["scale"] == described(small_model.folder)["branches"][0]["scale"]  # type: ignore[index]
    # Covered patches count, too: rows stay for the new clip where those that they came from are forgotten.
    number, members = after.sources.index("test_01.mp4"), after.members
    assert members.count[members.witness.source == number].sum() == after.counts.sum() - before.counts.sum()
    exemplars = load_exemplars(model)
    assert exemplars is not None
    assert {after.sources[after.origins.source[row]] for row in exemplars.rows} > {"test_01.mp4"}
    # Certificate, evidence, and scores that were of the bank before.
    changed = load_threshold(load_model(model, device="cpu", offline=True), fps=5.0)
    assert (changed.value, changed.certified) == (threshold.value, False)
    assert "UNCERTIFIED: not what it was calibrated with: bank" in changed.headline()
    assert "UNCERTIFIED" in done.out
    assert "calibrate --model" in done.out
    assert "The evidence was of the bank before" in done.out
    assert not (model / "evidence").exists()
    for one, same in zip(
        read_series(small_model.folder, "holdout"), read_series(model, "holdout"), strict=True
    ):
        np.testing.assert_array_equal(one.scores, same.scores)
    assert read_series(model, "labeled") == []
    studied = invoke("study", "--model", model, "--out", tmp_path / "study", "footage.fps=5")
    assert "another bank than was calibrated; calibrate again" in studied.message
    assert (model / "looks.json").read_bytes() == (small_model.folder / "looks.json").read_bytes()


def test_a_full_bank_is_left_as_it_is_and_says_what_the_footage_needs(
    small_model: SmallModel, tmp_path: Path
):
    clip, model = small_model.footage.test / "test_01.mp4", copy_of(small_model, tmp_path / "m")
    done = add(model, clip, size=None)
    assert done.status == 2
    assert "the bank is full (1,000 rows)" in done.err.replace("\n", " ")  # before the footage is read
    assert "nothing was added" in done.message
    assert contents(model) == contents(small_model.folder)
    needed = int(done.message.split("give size=")[1].split(",")[0])
    assert needed > 1000
    # A little room is not enough either; what is told to be needed is.
    done = add(model, clip, size=1001)
    assert done.status == 2
    assert f"give size={needed}, with which no row is dropped" in done.message
    assert contents(model) == contents(small_model.folder)
    done = add(model, clip, size=needed)
    assert done.status == 0, done.err
    assert "is full" not in done.out + done.err
    assert "0 dropped" in done.out
    assert len(bank_of(model)) == needed
    assert len(read_series(model, "holdout")) == len(read_series(small_model.folder, "holdout")) > 0


def test_a_full_bank_is_chosen_anew_where_that_is_asked_for(small_model: SmallModel, tmp_path: Path):
    clip = small_model.footage.test / "test_01.mp4"
    first, again = (copy_of(small_model, tmp_path / name) for name in ("m", "again"))
    graph = first / "graph" / "openvino-fp32"
    graph.mkdir(parents=True)
    (graph / "export.json").write_text("{}")
    done = add(first, clip, size=None, anew=True)
    assert done.status == 0, done.err
    add(again, clip, size=None, anew=True)
    assert (first / BANK).read_bytes() == (again / BANK).read_bytes()
    before, after, told = bank_of(small_model.folder), bank_of(first), described(first)["fit"]
    assert len(after) == len(before) == 1000  # as it was fitted
    assert "1,000 now, 1,000 at most" in done.out
    cost = told["merge"]["largest"]  # type: ignore[index]
    assert before.search(after.rows)[0].max() > 0
    assert after.search(before.rows)[0].max() <= cost + 1e-4
    unit = described(first)["branches"][0]["scale"]  # type: ignore[index]
    assert f"{cost / unit:.2f} at most" in done.out
    assert "The hold-out's scores hold no longer" in done.out
    assert "the bank is full" not in done.err
    assert (read_series(first, "holdout"), told["holdout_sources"]) == ([], [])
    assert "Exported graphs were of the bank before and are gone (openvino-fp32)" in done.out
    assert not (first / "graph").exists()
    assert "Exported graphs" not in succeed("bank", "forget", "--model", first, "--clip", "normal_02.mp4")


def test_more_rows_that_may_raise_scores_take_the_holdout_with_them(small_model: SmallModel, tmp_path: Path):
    known = load_model(small_model.folder, device="cpu", offline=True)
    (branch,) = known.detector.branches
    save_model(
        tmp_path / "m",
        known.detector.with_branches([replace(branch, reweight=3)]),
        StoredWeights(**known.description["branches"][0]["weights"]),
        dict(np.load(small_model.folder / "scores.npz")),
        {key: value for key, value in known.description.items() if key not in {"branches", "files"}},
    )
    done = add(tmp_path / "m", small_model.footage.test / "test_01.mp4")
    assert "0 dropped" in done.out
    assert "more rows may raise a score of this model" in done.err.replace("\n", " ")
    assert "more rows may raise a score here" in done.out
    assert read_series(tmp_path / "m", "holdout") == []


def test_a_model_that_keeps_no_crops_gets_none(small_model: SmallModel, tmp_path: Path):
    model = copy_of(small_model, tmp_path / "m")
    description = described(model)
    description["files"] = {
        name: one for name, one in description["files"].items() if "exemplars" not in name
    }
    write_json(model / "model.json", description)
    shutil.rmtree(model / "exemplars")
    assert load_exemplars(model) is None
    assert add(model, small_model.footage.test / "test_01.mp4").status == 0
    assert not (model / "exemplars").exists()


def test_what_is_covered_is_told_by_an_ordinary_score_where_no_coverage_is_known(
    small_model: SmallModel, tmp_path: Path
):
    model = copy_of(small_model, tmp_path / "m")
    description = described(model)
    description["fit"]["coverage"] = None  # as after merging models of which it is not known
    write_json(model / "model.json", description)
    done = add(model, small_model.footage.test / "test_01.mp4")
    assert "within 1.00 of a row" in done.out
    assert described(model)["fit"]["coverage"] is None


def test_footage_that_is_covered_leaves_the_model_and_its_certificate(
    small_model: SmallModel, tmp_path: Path
):
    model = copy_of(small_model, tmp_path / "m")
    (learned,) = find_sources([small_model.footage.normal / "normal_01.mp4"])
    picture = cv2.cvtColor(read_frame_at(learned, 0.0).image, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(tmp_path / "again.png"), picture)
    done = add(model, tmp_path / "again.png", size=None)
    assert done.status == 0, done.err
    assert "Nothing to add" in done.out
    assert "is left as it is" in done.out
    assert "UNCERTIFIED" not in done.out
    assert contents(model) == contents(small_model.folder)


def test_a_clip_that_was_learned_is_left_out_and_another_of_its_name_is_told_apart(
    small_model: SmallModel, tmp_path: Path
):
    footage, model = small_model.footage, copy_of(small_model, tmp_path / "m")
    learned = footage.normal / "normal_01.mp4"
    copied = shutil.copy(learned, tmp_path / "copy.mp4")
    for given in ([learned], [learned, copied]):
        done = add(model, *given)
        assert done.status == 2
        assert "has learned from 'normal_01.mp4' already" in done.message
    assert contents(model) == contents(small_model.folder)
    day2 = tmp_path / "day2"
    day2.mkdir()
    shutil.copy(footage.test / "test_01.mp4", day2 / "normal_01.mp4")
    (day2 / "broken.mp4").write_bytes(b"no video")
    cut = cut_file(footage.test / "test_02.mp4", 0.6, day2 / "cut.mp4")
    for refused in (day2 / "broken.mp4", cut):
        done = add(model, refused, day2 / "normal_01.mp4", footage__on_error="refuse")
        assert done.status == 1
        assert refused.name in done.message
        assert contents(model) == contents(small_model.folder)
    done = add(model, copied, day2)
    assert done.status == 0, done.err
    said = done.err.replace("\n", " ")
    assert "copy.mp4 is left out" in said
    assert "normal_01.mp4 is called day2/normal_01.mp4 in the model" in said
    assert "broken.mp4" in said
    names = [one["source"] for one in described(model)["fitted_on"]]
    assert {"normal_01.mp4", "day2/normal_01.mp4"} <= set(names) == set(bank_of(model).sources)
    assert "broken.mp4" not in names
    succeed("bank", "forget", "--model", model, "--clip", "day2/normal_01.mp4")
    assert "normal_01.mp4" in bank_of(model).sources


def test_what_cannot_be_added_is_said_in_one_line(small_model: SmallModel, tmp_path: Path):
    model, clip = copy_of(small_model, tmp_path / "m"), small_model.footage.test / "test_01.mp4"
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "no_frames.mp4").write_bytes(clip.read_bytes()[:2000])
    other = copy_of(small_model, tmp_path / "other")
    (other / "model.json").write_text(json.dumps({**described(model), "schema": 99}))
    for done, why in (
        (invoke("bank", "add", "--model", model), "bank add needs --normal-videos"),
        (add(model, tmp_path / "nowhere"), "does not exist"),
        (add(model, tmp_path / "empty"), "holds no video or image"),
        (add(model, tmp_path / "broken.mp4"), "none of 1 sources can be read"),
        (add(model, tmp_path / "no_frames.mp4"), "can be read"),
        (add(model, clip, size=999), "size=999 is below the 1000 rows"),
        (add(model, clip, footage__on_error="ask"), "choose skip or refuse"),
        (add(model, clip, footage__fps=5), "no key 'footage.fps'"),
        (add(tmp_path / "none", clip), "is not there"),
        (add(other, clip), "has schema 99"),
    ):
        assert done.status in (1, 2)
        assert why in done.message
    assert contents(model) == contents(small_model.folder)


def test_what_was_forgotten_while_footage_was_read_does_not_come_back(
    small_model: SmallModel, tmp_path: Path
):
    model = copy_of(small_model, tmp_path / "m")
    loaded = load_model(model, device="cpu", offline=True)
    fresh, _ = unknown_sources(loaded.description, find_sources([small_model.footage.test / "test_01.mp4"]))
    succeed("bank", "forget", "--model", model, "--clip", "normal_02.mp4")
    with pytest.raises(ModelError, match="was changed by another command"):
        add_footage(loaded, fresh, size=3000)
    assert "normal_02.mp4" not in bank_of(model).sources


def test_a_model_of_a_radius_in_half_precision_stays_one(small_model: SmallModel, tmp_path: Path):
    normal, model = small_model.footage.normal, tmp_path / "m"
    settings = (*FIT[1:], "projection.sample_frames=5", "fit.fps=1", "fit.review=0", "fit.holdout=0")
    succeed(
        "fit", "--normal-videos", normal / "normal_01.mp4", "--model", model, *settings, "bank.radius=6",
        "bank.half=true", "bank.place_weight=2",
    )  # fmt: skip
    before = bank_of(model)
    done = add(model, normal / "normal_02.mp4", size=None)
    assert done.status == 0, done.err
    after = bank_of(model)
    assert (after.storage, after.place_weight) == ("float16", 2.0)
    np.testing.assert_array_equal(after.rows[: len(before)], before.rows)
    told = described(model)
    assert told["fit"]["size"] == 20_000
    assert told["fit"]["radius"] == 6
    unit = told["branches"][0]["scale"]  # type: ignore[index]
    assert f"within {6 / unit:.2f} of a row" in done.out
    assert told["fitted_on"][-1]["frames"] == 10  # type: ignore[index]


#: Loads the program once and lets a fork be killed at each of three moments of adding.
KILLED = """
import os, signal, sys
import anomaly.artifact, anomaly.fitting.adding, anomaly.commands.bank
from anomaly import cli

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def after(count, real):
    def call(*arguments, **named):
        nonlocal count
        count -= 1
        kill() if count < 0 else None
        return real(*arguments, **named)
    return call

def replace(one, other, real=os.replace):
    # The old model was moved aside, the new one is not in its place yet.
    kill() if os.path.isdir(one) and str(one).endswith(".partial") else real(one, other)

moments = {
    "reading": lambda: setattr(anomaly.commands.bank.console, "stages", stages),
    "writing": lambda: setattr(anomaly.artifact, "write_file", after(3, anomaly.artifact.write_file)),
    "renaming": lambda: setattr(os, "replace", replace),
}

import contextlib
@contextlib.contextmanager
def stages():
    yield lambda what, done, total: kill() if what == "looking for what is new" and done else None

for moment, patch in moments.items():
    child = os.fork()
    if not child:
        patch()
        cli.run(["bank", "add", "--model", moment, *sys.argv[1:], "size=3000", "weights.offline=true"])
        os._exit(0)
    print(moment, os.waitpid(child, 0)[1])
"""


def test_a_kill_leaves_the_old_model_whole(small_model: SmallModel, tmp_path: Path):
    for moment in ("reading", "writing", "renaming"):
        copy_of(small_model, tmp_path / moment)
    clip = small_model.footage.test / "test_01.mp4"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, "--normal-videos", str(clip)],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["reading", "9", "writing", "9", "renaming", "9"], done.stderr
    for moment in ("reading", "writing", "renaming"):
        model = load_model(tmp_path / moment, offline=True)
        assert load_threshold(model, fps=5.0).certified
        assert contents(tmp_path / moment) == contents(small_model.folder)
        # What the kill left beside the model is no obstacle to another go.
        assert add(tmp_path / moment, clip).status == 0
