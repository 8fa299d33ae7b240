"""`export`, and `score`, `run` and `bench` from what it wrote, through the command line."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import venv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import write_clip
from small_model import FPS, ROOT, Done, SmallModel, environment, invoke, succeed

from anomaly.artifact import read_signed, write_json
from anomaly.evidence import Evidence, load_evidence, save_evidence
from anomaly.exporting import _apart
from anomaly.gate import raw_thresholds
from anomaly.model import load_model
from anomaly.reissue import Rescored, rescore
from anomaly.scoring import look_at
from export import TOLERANCE, compare

#: As where torch is not installed: it is neither found nor imported.
_WITHOUT_TORCH = """
import importlib.util, sys
GONE = {"torch", "timm", "torchvision", "onnx", "sklearn", "matplotlib"}
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Gone())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split(".")[0] in GONE else found(name, package)
from anomaly.cli import run
status = run(sys.argv[1:])
assert not GONE & set(sys.modules)
sys.exit(status)
"""


def without_torch(*arguments: object, cwd: Path) -> Done:
    """Run a command line in a process that has no torch."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, *map(str, arguments)],
        cwd=cwd, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def exported(small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small model with two exports; shared, not to be changed."""
    folder = Path(shutil.copytree(small_model.folder, tmp_path_factory.mktemp("exported") / "model"))
    for runtime in ("onnxruntime", "openvino"):
        said = succeed("export", "--model", folder, "--runtime", runtime)
        assert "16 frames of the evidence" in said
        assert "0 labels flipped" in said
        assert f"The certificate holds for {runtime}-fp32" in said
    return folder


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "model"))


def scores(path: Path) -> list[float]:
    with path.open(encoding="utf-8") as file:
        return [float(row["score"]) for row in csv.DictReader(file)]


def test_score_without_torch_gives_the_same_scores(exported: Path, small_model: SmallModel, tmp_path: Path):
    source = small_model.footage.test / "test_01.mp4"
    succeed("score", "--model", exported, "--source", source, "--out", tmp_path / "torch.csv", FPS)
    wanted = scores(tmp_path / "torch.csv")
    assert len(wanted) > 20
    for runtime in ("auto", "onnxruntime"):
        out = tmp_path / f"{runtime}.csv"
        done = without_torch(
            "score", "--model", exported, "--source", source, "--out", out, FPS, f"runtime={runtime}", cwd=tmp_path
        )  # fmt: skip
        assert done.status == 0, done.err
        assert "At least" in done.out, "the certificate is the runtime's own"
        assert scores(out) == pytest.approx(wanted, rel=1e-3)
    assert "Runtime onnxruntime-fp32 on CPUExecutionProvider (as asked for" in done.out


def test_run_without_torch_finds_the_event(exported: Path, small_model: SmallModel, tmp_path: Path):
    source = small_model.footage.labeled / "labeled_01.mp4"
    done = without_torch(
        "run", "--model", exported, "--source", source, "--out", tmp_path / "out", FPS, cwd=tmp_path
    )
    assert done.status == 0, done.err
    assert "Runtime openvino-fp32" in done.out
    assert "torch is not installed" in done.out
    events = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    assert events


def test_a_certificate_is_checked_without_torch(exported: Path, tmp_path: Path):
    done = without_torch("calibrate", "--check", "--model", exported, cwd=tmp_path)
    assert done.status == 0, done.err
    assert "Runtime openvino-fp32" in done.out
    assert "The certificate holds here." in done.out


def test_a_check_judges_int8_by_its_events_as_the_export_and_the_first_start_do(
    copy: Path,
):
    """Right after "The certificate holds for onnxruntime-int8" it said that it does not hold, and to calibrate again."""
    graph = Path(shutil.copytree(copy / "graph" / "onnxruntime-fp32", copy / "graph" / "onnxruntime-int8"))
    about = {**read_signed(graph / "export.json"), "precision": "int8", "tolerance": None}
    write_json(graph / "export.json", about)
    issued = read_signed(copy / "thresholds" / "onnxruntime-fp32.json")
    digest = read_signed(graph / "export.json")["digest"]
    write_json(
        copy / "thresholds" / "onnxruntime-int8.json",
        {**issued, "runtime": "onnxruntime-int8", "export": digest},
    )
    # As of a network that scores what is normal a little otherwise in int8.
    evidence = load_evidence(copy)
    images = {name: (evidence.folder / name).read_bytes() for name in evidence.digests if "frames" in name}
    moved = tuple(
        replace(one, scores=one.scores - 0.05) if one.event is None else one for one in evidence.stretches
    )
    save_evidence(replace(evidence, stretches=moved), images)
    said = " ".join(succeed("calibrate", "--check", "--model", copy, "runtime=onnxruntime-int8").split())
    assert "Scores differ by 0.05 at most (an ordinary frame scores 1)" in said
    assert "The certificate holds here. At least" in said
    done = invoke("calibrate", "--check", "--model", copy, "runtime=onnxruntime")
    assert (
        "does not hold with onnxruntime-fp32 here: scores differ by up to 0.05 (allowed 0.01)" in done.message
    )
    assert f"calibrate --model {copy} --labeled LABELS runtime=onnxruntime-fp32`" in done.message


def test_torch_runs_where_it_is_unless_told_otherwise(
    exported: Path, small_model: SmallModel, tmp_path: Path
):
    line = (
        "score", "--model", exported, "--source", small_model.footage.test / "test_01.mp4", "--out",
        tmp_path / "s.csv", FPS,
    )  # fmt: skip
    assert "Runtime torch-fp32 on cpu (torch is installed)" in succeed(*line)
    assert "Runtime openvino-fp32" in succeed(*line, "runtime=openvino")
    assert invoke(*line, "runtime=tensorrt").message.startswith("runtime tensorrt is not installed")
    absent = invoke(*line, "runtime=openvino-int8").message
    assert "holds no export 'openvino-int8'" in absent
    assert "--runtime openvino --precision int8`" in absent
    assert "'abacus' is not known" in invoke(*line, "runtime=abacus").message
    assert "npu" in invoke(*line, "runtime=openvino", "device=npu").message


def test_a_model_without_exports_says_what_to_do(small_model: SmallModel, tmp_path: Path):
    done = without_torch(
        "score", "--model", small_model.folder, "--source", small_model.footage.test, "--out", "s.csv", cwd=tmp_path
    )  # fmt: skip
    assert done.status == 1
    assert "torch is not installed" in done.message
    assert "python -m anomaly export" in done.message


def test_what_needs_torch_says_where_to_do_it(exported: Path, small_model: SmallModel, tmp_path: Path):
    """The extra `train` beside `edge` would bring a second FAISS, and scoring takes hours before figures need it."""
    labeled = ("--labeled", small_model.footage.labeled_csv, "--videos", small_model.footage.labeled)
    for line, told in (
        (("export", "--model", exported, "--runtime", "openvino"), "run it where the model was fitted"),
        (("evaluate", "--model", exported, *labeled), "sklearn is not installed; pip install 'anomaly[train]' in an"),
        (("fit", "--normal-videos", small_model.footage.normal, "--model", tmp_path / "m"), "in an environment of its own"),
    ):  # fmt: skip
        done = without_torch(*line, cwd=tmp_path)
        assert done.status == 1
        assert told in done.message
        assert "scoring" not in done.out + done.err


def test_a_graph_whose_bytes_changed_is_refused(copy: Path, small_model: SmallModel, tmp_path: Path):
    path = copy / "graph" / "onnxruntime-fp32" / "appearance.features.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = invoke(
        "score", "--model", copy, "--source", small_model.footage.test, "--out", tmp_path / "s.csv",
        "runtime=onnxruntime",
    )  # fmt: skip
    assert done.status == 1
    assert "was changed after it was exported; export again with `python -m anomaly export" in done.message
    assert "--runtime onnxruntime --precision fp32`" in done.message


def test_a_graph_of_another_fit_is_refused(copy: Path, small_model: SmallModel, tmp_path: Path):
    index = copy / "graph" / "openvino-fp32" / "export.json"
    write_json(index, {**read_signed(index), "scoring": "0" * 64})
    done = invoke(
        "score", "--model", copy, "--source", small_model.footage.test, "--out", tmp_path / "s.csv",
        "runtime=openvino",
    )  # fmt: skip
    assert "exported from another fit" in done.message


def test_what_is_planted_beside_the_graphs_is_found(copy: Path, small_model: SmallModel, tmp_path: Path):
    (copy / "graph" / "onnxruntime-fp32" / "engine.plan").write_bytes(b"native code")
    done = invoke("score", "--model", copy, "--source", small_model.footage.test, "--out", tmp_path / "s.csv")
    assert "is not one of the model's files" in done.message


def test_calibrating_again_takes_the_exports_certificate(copy: Path, small_model: SmallModel, tmp_path: Path):
    (copy / "thresholds" / "openvino-fp32.json").unlink()
    said = succeed(
        "score", "--model", copy, "--source", small_model.footage.test / "test_01.mp4", "--out", tmp_path / "s.csv",
        FPS, "runtime=openvino",
    )  # fmt: skip
    assert "UNCERTIFIED: it was calibrated with torch-fp32, this runs openvino-fp32" in said


def test_a_certificate_is_of_one_export_and_no_other(copy: Path, small_model: SmallModel, tmp_path: Path):
    """As where `graph` was copied from elsewhere, or an export over an older one was cut off."""
    index = copy / "graph" / "openvino-fp32" / "export.json"
    line = (
        "score", "--model", copy, "--source", small_model.footage.test / "test_01.mp4", "--out", tmp_path / "s.csv",
        FPS, "runtime=openvino",
    )  # fmt: skip
    assert "UNCERTIFIED" not in succeed(*line)
    write_json(index, {**read_signed(index), "tolerance": 10.0})
    said = succeed(*line)
    assert "UNCERTIFIED: it was certified for another export than the openvino-fp32 that runs" in said


def test_scores_of_an_earlier_export_are_not_told_as_those_of_its_successor(
    copy: Path, small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As of int8 whose scales were learned anew: it was certified and evaluated on the scores of the graph before."""
    index = copy / "graph" / "openvino-fp32" / "export.json"
    line = (
        "score", "--model", copy, "--source", small_model.footage.test / "test_01.mp4", "--out", tmp_path / "s.csv",
        FPS, "runtime=openvino",
    )  # fmt: skip
    looked: list[str] = []

    def counted(*arguments: Any) -> Any:
        looked.append("once")
        return look_at(*arguments)

    monkeypatch.setenv("ANOMALY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("anomaly.scoring.look_at", counted)
    succeed(*line)
    succeed(*line)
    assert looked == ["once"]
    write_json(index, {**read_signed(index), "compared_on": "other frames"})
    succeed(*line)
    assert looked == ["once"] * 2


def test_what_an_export_was_calibrated_with_alarms_in_every_runtime(
    copy: Path, small_model: SmallModel, tmp_path: Path
):
    """As on a box without torch: nothing else alarmed any more, and exporting again took its own threshold, too."""
    footage, place = small_model.footage, copy / "thresholds"
    succeed(
        "calibrate", "--model", copy, "--labeled", footage.labeled_csv, "--videos", footage.labeled, FPS,
        "runtime=openvino", "also_tried=0",
    )  # fmt: skip
    assert [path.name for path in place.iterdir()] == ["openvino-fp32.json"]
    line = (
        "score", "--model", copy, "--source", footage.labeled / "labeled_01.mp4", "--out", tmp_path / "s.csv", FPS,
    )  # fmt: skip

    def alarms() -> int:
        with (tmp_path / "s.csv").open(encoding="utf-8") as file:
            return sum(int(row["alarm"]) for row in csv.DictReader(file))

    said = succeed(*line, "runtime=torch")
    assert "UNCERTIFIED: it was calibrated with openvino-fp32, this runs torch-fp32; give runtime=" in said
    assert alarms()
    said = succeed(*line, "runtime=onnxruntime")
    assert "this runs onnxruntime-fp32; `python -m anomaly export --model" in said
    assert "--runtime onnxruntime --precision fp32` certifies it" in said
    assert alarms()
    assert "The certificate holds for openvino-fp32" in succeed(
        "export", "--model", copy, "--runtime", "openvino", "source_size=[64,64]"
    )
    assert "UNCERTIFIED" not in succeed(*line, "runtime=openvino")
    assert alarms()
    # One that may not be certified leaves the threshold that it was calibrated with, in doubt.
    document = read_signed(place / "openvino-fp32.json")
    shutil.rmtree(copy / "evidence")
    assert "UNCERTIFIED: the model holds no evidence" in succeed(
        "export", "--model", copy, "--runtime", "openvino"
    )
    assert read_signed(place / "openvino-fp32.json") == document
    assert "it was certified for another export" in succeed(*line, "runtime=openvino")
    assert alarms()


def test_labels_are_told_at_each_cameras_own_threshold(copy: Path):
    """Cameras have scales of their own, and a graph's scores are raw."""
    (camera,) = {one.camera for one in load_evidence(copy).stretches}
    path = copy / "thresholds" / "torch-fp32.json"
    scale = {"ordinary": 0.8, "rare": 1.2, "certificate": None}
    cameras = {camera: {**scale, "threshold": 3.0}, "other": {**scale, "threshold": 2.0}}
    write_json(path, {**read_signed(path), "cameras": cameras})
    model = load_model(copy, offline=True, runtime="torch")
    found = raw_thresholds(model, [load_evidence(copy).stretches[0], None])
    assert found == pytest.approx([1.6, 1.2]), "of no camera: the one that alarms soonest"
    maps = np.ones((2, 1))
    flipped = [
        compare([1.5, 1.5], [1.7, 1.7], maps, maps, tolerance=1.0, threshold=one, margin=0.0).flipped
        for one in (found, 1.6, 3.0)
    ]
    assert flipped == [1, 2, 0]


def test_an_uncertified_export_is_compared_on_a_new_device_too(
    copy: Path, small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It alarms all the same: where it scores lower than torch the event on the threshold must not be lost."""
    evidence = load_evidence(copy)
    images = {name: (evidence.folder / name).read_bytes() for name in evidence.digests if "frames" in name}
    (copy / "thresholds" / "openvino-fp32.json").unlink()
    path = copy / "thresholds" / "torch-fp32.json"
    document = read_signed(path)
    lowest = min(document["events"], key=lambda one: one["score"])["event"]["video"]
    line = (
        "score", "--model", copy, "--source", small_model.footage.labeled / lowest, "--out", tmp_path / "s.csv",
        FPS, "runtime=openvino",
    )  # fmt: skip

    def calibrated_higher(by: float) -> None:
        """As if torch had scored everything higher by a share."""
        stretches = tuple(
            replace(one, scores=one.scores * (1 + by), threshold=one.threshold * (1 + by),
                    before=None if one.before is None else (one.before[0], one.before[1] * (1 + by)))
            for one in evidence.stretches
        )  # fmt: skip
        save_evidence(replace(evidence, stretches=stretches, threshold=evidence.threshold * (1 + by)), images)
        write_json(path, {**document, "threshold": document["threshold"] * (1 + by)})

    calibrated_higher(0.002)
    said = succeed(*line)
    assert "UNCERTIFIED: it was calibrated with torch-fp32, this runs openvino-fp32" in said
    assert "does not answer" not in said
    with (tmp_path / "s.csv").open(encoding="utf-8") as file:
        assert any(int(row["alarm"]) for row in csv.DictReader(file)), "the event that set the threshold"
    calibrated_higher(0.5)
    said = " ".join(succeed(*line).split())
    assert "UNCERTIFIED: it was calibrated with torch-fp32, this runs openvino-fp32" in said
    assert "openvino-fp32 does not answer as where it was calibrated: 3 of 3 events are not caught" in said


@pytest.mark.slow
def test_a_looser_tolerance_buys_no_certificate(copy: Path, monkeypatch: pytest.MonkeyPatch):
    # As on a machine or with a network whose half precision is further off than it may be.
    monkeypatch.setitem(TOLERANCE, "fp16", 1e-7)
    line = ("export", "--model", copy, "--runtime", "onnxruntime", "--precision", "fp16")
    said = succeed(*line, "tolerance=10")
    assert "within the tolerance=10 that was given, a certificate takes 1e-07" in said
    assert "The certificate holds" not in said
    assert not (copy / "thresholds" / "onnxruntime-fp16.json").exists()
    refused = invoke(*line).message
    assert "does not answer as torch does" in refused
    assert "onnxruntime-fp16' stays, remove that folder if it is not to run" in refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"left_out": 2}, "has no pictures of 2: run `python -m anomaly calibrate"),
        ({"events": None}, "holds 0 that were caught: run `python -m anomaly calibrate"),
    ],
)
def test_int8_whose_recall_cannot_be_told_is_refused(copy: Path, change: dict[str, object], message: str):
    index = copy / "evidence" / "index.json"
    document = read_signed(index)
    if "events" in change:
        document["stretches"] = [{**one, "event": None} for one in document["stretches"]]
    else:
        document |= change
    write_json(index, document)
    done = invoke("export", "--model", copy, "--runtime", "onnxruntime", "--precision", "int8")
    assert message in done.message
    assert not (copy / "graph" / "onnxruntime-int8").exists()


@pytest.mark.parametrize(
    ("clips", "apart"),
    [
        # The spread frames and those that score highest, as evidence holds them: not in the order of time.
        ({"a.mp4": 10, "b.mp4": 12}, ({"a.mp4": 10}, {"b.mp4": 12})),
        ({"a.mp4": 20}, ({"a.mp4": 10}, {"a.mp4": 10})),
        ({"a.mp4": 2, "b.mp4": 20}, ({"a.mp4": 2, "b.mp4": 9}, {"b.mp4": 11})),
        ({"left/a.mp4": 4, "left/b.mp4": 4, "right/a.mp4": 8},
         ({"left/a.mp4": 4, "right/a.mp4": 4}, {"left/b.mp4": 4, "right/a.mp4": 4})),
        ({"a.mp4": 8, "b.mp4": 4}, ({"a.mp4": 8}, {"b.mp4": 4})),
        ({"a.mp4": 12}, ({"a.mp4": 12}, {"a.mp4": 12})),
    ],
)  # fmt: skip
def test_int8_learns_its_scales_on_other_frames_than_it_is_judged_on(
    exported: Path, clips: dict[str, int], apart: tuple[dict[str, int], dict[str, int]]
):
    (one, *_) = load_evidence(exported).normal
    normal = [
        replace(one, source=name, camera=name.partition("/")[0], times=np.array([float(second)]))
        if "/" in name
        else replace(one, source=name, times=np.array([float(second)]))
        for name, count in clips.items()
        for second in [*range(0, count, 2), *range(1, count, 2)]
    ]
    scaled, judged = _apart(normal)
    assert tuple(Counter(one.source for one in part) for part in (scaled, judged)) == apart
    if len(normal) > 12:
        assert not set(map(id, scaled)) & set(map(id, judged))
        for name in clips:
            times = [[float(one.times[0]) for one in part if one.source == name] for part in (scaled, judged)]
            assert max(times[0], default=-1) < min(times[1], default=99), "apart in time, too"


def test_a_model_that_may_not_be_written_is_told_before_the_work(copy: Path, monkeypatch: pytest.MonkeyPatch):
    """As on a disk that is mounted to be read only: it was told after minutes."""
    monkeypatch.setattr("anomaly.commands.outputs.os.access", lambda *_: False)
    monkeypatch.setattr("anomaly.commands.export.export_model", None)
    done = invoke("export", "--model", copy, "--runtime", "openvino")
    assert done.status == 2
    assert "cannot be written: the folder" in done.message


def test_a_calibration_beside_an_export_is_not_certified_on_the_evidence_before_it(
    copy: Path, monkeypatch: pytest.MonkeyPatch
):
    """As of `study study.apply=true` in another window, with the same pictures: its threshold was certified unseen."""

    def calibrated_meanwhile(evidence: Evidence, *arguments: Any, **settings: Any) -> Rescored:
        found = rescore(evidence, *arguments, **settings)
        images = {
            name: (evidence.folder / name).read_bytes() for name in evidence.digests if "frames" in name
        }
        save_evidence(replace(evidence, calibration="another"), images)
        path = copy / "thresholds" / "torch-fp32.json"
        write_json(path, {**read_signed(path), "calibration": "another"})
        return found

    monkeypatch.setattr("anomaly.exporting.rescore", calibrated_meanwhile)
    said = succeed("export", "--model", copy, "--runtime", "openvino")
    assert "UNCERTIFIED: the model was calibrated anew while it was exported; export again" in said
    assert not (copy / "thresholds" / "openvino-fp32.json").exists()
    monkeypatch.undo()
    assert "The certificate holds" in succeed("export", "--model", copy, "--runtime", "openvino")


@pytest.mark.slow
def test_int8_that_loses_an_event_is_not_kept(copy: Path):
    """As of a network that scores its events a third lower in int8 than the reference did."""
    evidence = load_evidence(copy)
    stretches = tuple(
        replace(one, scores=1.5 * one.scores, threshold=1.45 * one.threshold) for one in evidence.stretches
    )
    images = {name: (evidence.folder / name).read_bytes() for name in evidence.digests if "frames" in name}
    save_evidence(replace(evidence, stretches=stretches), images)
    line = ("export", "--model", copy, "--runtime", "onnxruntime", "--precision", "int8")
    message = invoke(*line).message
    assert "int8 loses 3 of 3 calibrated events, the first is labeled_" in message
    assert not (copy / "graph" / "onnxruntime-int8").exists()


@pytest.mark.slow
def test_int8_that_alarms_on_what_is_normal_is_not_kept(copy: Path):
    """As of a network whose int8 scores everything higher than the reference did: it keeps every event so."""
    evidence = load_evidence(copy)
    stretches = tuple(
        one if one.event else replace(one, scores=0.4 * one.scores, threshold=0.5 * float(one.scores.max()))
        for one in evidence.stretches
    )
    images = {name: (evidence.folder / name).read_bytes() for name in evidence.digests if "frames" in name}
    save_evidence(replace(evidence, stretches=stretches), images)
    message = invoke("export", "--model", copy, "--runtime", "onnxruntime", "--precision", "int8").message
    found = re.search(r"int8 alarms on (\d+) of (\d+) normal frames that did not alarm with torch", message)
    assert found is not None, message
    assert int(found[1]) == int(found[2]) > 1
    assert "where 0 did; it is not kept" in message
    assert not (copy / "graph" / "onnxruntime-int8").exists()


@pytest.mark.slow
def test_beyond_the_tolerance_nothing_is_kept_and_the_layer_is_named(copy: Path):
    done = invoke("export", "--model", copy, "--runtime", "openvino", "--precision", "bf16", "tolerance=1e-5")
    assert done.status == 1
    assert "they part at 'layer 2'" in done.message
    assert not (copy / "graph" / "openvino-bf16").exists()
    assert sorted(path.name for path in (copy / "graph").iterdir()) == ["onnxruntime-fp32", "openvino-fp32"]


def test_a_search_that_does_not_fit_into_memory_leaves_the_features_graph(
    copy: Path, monkeypatch: pytest.MonkeyPatch
):
    """As on a small box: the graph that decides needs no room for the search."""
    monkeypatch.setattr("export.memory.available_bytes", lambda: 1024)
    said = succeed("export", "--model", copy, "--runtime", "onnxruntime")
    assert "left out, so frames are searched beside the graph: the search of 1 frames" in said
    assert "The certificate holds for onnxruntime-fp32" in said
    kept = {path.name for path in (copy / "graph" / "onnxruntime-fp32").iterdir()}
    assert "appearance.features.onnx" in kept
    assert not any("whole" in name for name in kept)


def test_frames_that_do_not_fit_into_memory_are_refused_with_how_much(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It took 13 GB and minutes, or was killed. What an export that was killed left behind goes with the next one."""
    left, now = tmp_path / "anomaly-export-abc", tmp_path / "anomaly-export-def"
    for place in (left, now):
        place.mkdir()
        (place / "appearance.whole.onnx").write_bytes(b"graph")
    os.utime(left, (1e9, 1e9))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("export.memory.available_bytes", lambda: 8 * 2**30)
    line = ("export", "--model", copy, "--runtime", "onnxruntime")
    message = invoke(*line, "source_size=[20000,20000]").message
    assert (
        "frames of source_size=[20000,20000] needs 33.5 GiB of memory, 8.0 GiB is free; give that of"
        in message
    )
    assert "certificate holds" in succeed(*line)
    assert [one for one in tmp_path.iterdir() if one.name.startswith("anomaly-export-")] == [now]


def test_without_evidence_an_export_is_uncertified_and_int8_is_not_to_be_had(
    copy: Path, small_model: SmallModel, tmp_path: Path
):
    shutil.rmtree(copy / "evidence")
    said = succeed("export", "--model", copy, "--runtime", "onnxruntime")
    assert "4 generated pictures" in said
    assert "UNCERTIFIED: the model holds no evidence of its own" in said
    assert not (copy / "thresholds" / "onnxruntime-fp32.json").exists()
    done = invoke("export", "--model", copy, "--runtime", "onnxruntime", "--precision", "int8")
    assert "holds 0 of its own: run `python -m anomaly calibrate" in done.message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("scoring_digest", "the model holds no evidence of its own to certify it on"),
        ("calibration", "the model's evidence is of another calibration than its threshold"),
    ],
)
def test_evidence_of_another_model_or_calibration_certifies_no_export(key: str, told: str, copy: Path):
    index = copy / "evidence" / "index.json"
    write_json(index, {**read_signed(index), key: "0" * 64})
    said = succeed("export", "--model", copy, "--runtime", "onnxruntime")
    assert f"UNCERTIFIED: {told}" in said
    assert not (copy / "thresholds" / "onnxruntime-fp32.json").exists()


@pytest.mark.slow
def test_a_model_that_is_not_calibrated_is_exported_and_says_so(copy: Path):
    shutil.rmtree(copy / "evidence")
    shutil.rmtree(copy / "thresholds")
    assert "NOT CALIBRATED" in succeed("export", "--model", copy, "--runtime", "onnxruntime")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--runtime", "tensorrt"), "tensorrt is not installed; pip install 'anomaly[tensorrt]'"),
        (("--runtime", "abacus"), "'abacus' is not known"),
        (("--runtime", "openvino", "--precision", "fp16"), "'fp16' is not one of openvino's"),
        (("--runtime", "openvino", "source_size=[1]"), "source_size=[1]"),
    ],
)
def test_bad_arguments_end_in_one_line(copy: Path, arguments: tuple[str, ...], message: str):
    assert message in invoke("export", "--model", copy, *arguments).message


def test_bench_measures_a_runtime_stage_by_stage(exported: Path, tmp_path: Path):
    said = succeed(
        "bench", "--model", exported, "--json", tmp_path / "b.json", "runtime=onnxruntime", "frames=4"
    )
    assert "resize" in said
    (cost,) = json.loads((tmp_path / "b.json").read_text())["runtimes"]
    assert cost["runtime"] == "onnxruntime-fp32"
    assert cost["frames"] == 4
    assert cost["p99_ms"] >= cost["p50_ms"] > 0
    assert cost["times_floor"] == pytest.approx(cost["p50_ms"] / cost["floor_ms"])
    assert "frames=0" in invoke("bench", "--model", exported, "frames=0").message
    elsewhere = invoke("bench", "--model", exported, "runtime=onnxruntime", "device=tensorrt")
    assert "device 'tensorrt' needs TensorrtExecutionProvider" in elsewhere.message


def killed(*_: object) -> None:
    """As the system does where memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_bench_tells_a_runtime_that_was_killed_and_measures_the_others(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    footage = write_clip(tmp_path / "clip.mp4", [np.zeros((96, 160, 3), np.uint8)] * 3)
    data = bytearray(footage.read_bytes())
    at = data.index(b"mdat")
    size = int.from_bytes(data[at - 4 : at], "big") - 8
    data[at + 4 : at + 4 + size] = b"\xff" * size
    footage.write_bytes(data)
    none = invoke("bench", "--model", exported, "runtime=openvino", "--source", footage)
    assert "clip.mp4 holds no frame that can be read" in none.message
    monkeypatch.setattr("anomaly.benching.measure", killed)
    one = invoke("bench", "--model", exported, "runtime=openvino")
    assert "the process that measured openvino was killed, for want of memory as a rule" in one.message
    every = invoke("bench", "--model", exported)
    assert "note: openvino-fp32: the process" in every.err
    assert every.status == 1, "figures of nothing are none"
    told = "none of torch-fp32, openvino-fp32, onnxruntime-fp32 could be measured; the first: torch-fp32: the process"
    assert every.message.startswith(told)


@pytest.mark.slow
def test_bench_tells_each_stage_of_each_runtime(exported: Path, tmp_path: Path):
    said = succeed(
        "bench", "--model", exported, "--json", tmp_path / "b.json", "--plot", tmp_path / "b.png", "frames=4"
    )
    figures = json.loads((tmp_path / "b.json").read_text())
    costs = {one["runtime"]: one for one in figures["runtimes"]}
    assert set(costs) == {"torch-fp32", "onnxruntime-fp32", "openvino-fp32"}
    for name, one in costs.items():
        assert name in said
        assert set(one["stages_ms"]) == {"resize", "backbone", "search", "heatmap"}
        assert one["p99_ms"] >= one["p50_ms"] > one["score_p50_ms"] > 0
        told = sum(one["stages_ms"][stage] for stage in ("resize", "backbone", "search", "heatmap"))
        assert told == pytest.approx(one["p50_ms"], rel=0.5)
        assert one["times_floor"] == pytest.approx(one["p50_ms"] / one["floor_ms"])
        assert set(one["throughput"]) == {"1", "2", "4", "8"}
    # The same network and search are counted for all, by torch or from what export noted.
    assert len({one["operations"] for one in costs.values()}) == 1
    assert costs["onnxruntime-fp32"]["memory_mb"] < costs["torch-fp32"]["memory_mb"]
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_int8_that_keeps_every_event_is_kept(copy: Path):
    said = succeed("export", "--model", copy, "--runtime", "openvino", "--precision", "int8")
    assert re.search(
        r"int8 keeps all 3 calibrated events; [01] of \d+ normal frames reach the threshold that did", said
    )
    found = re.search(r"int8 learned its scales on (\d+) normal frames .* was judged on (\d+) others", said)
    assert found is not None
    assert int(found[1]) + int(found[2]) == len(load_evidence(copy).normal)
    assert "labels flipped" in said
    assert "openvino-fp32" in said
    assert (copy / "graph" / "openvino-int8" / "export.json").is_file()
    assert "The certificate holds here." in succeed(
        "calibrate", "--model", copy, "--check", "runtime=openvino-int8"
    )


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1800)
def test_a_fresh_environment_without_torch_scores(exported: Path, small_model: SmallModel, tmp_path: Path):
    place = tmp_path / "edge"
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{ROOT}[edge]"], check=True, cwd=tmp_path)
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
    ).stdout
    assert "torch" not in {line.split("==")[0] for line in listed.splitlines()}
    source = small_model.footage.test / "test_01.mp4"
    succeed("score", "--model", exported, "--source", source, "--out", tmp_path / "torch.csv", FPS)
    for verb, out in (("score", tmp_path / "edge.csv"), ("run", tmp_path / "run")):
        done = subprocess.run(
            [python, "-m", "anomaly", verb, "--model", exported, "--source", source, "--out", out, FPS],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert scores(tmp_path / "edge.csv") == pytest.approx(scores(tmp_path / "torch.csv"), rel=1e-3)
