"""The kind of index that searches the bank: chosen at `fit`, kept by the model, used by every command."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from small_model import FIT, FPS, SmallModel, invoke, succeed

from anomaly.model import load_model
from memory_bank import EXACT, KINDS

#: 400 rows, of which the second half of the hold-out's are not learned, so that every kind gets the same bank.
SAME_BANK = (*FIT, "bank.size=400", "fit.fps=2", "projection.sample_frames=8", "fit.review=0", "exemplars.max_mb=0",
             "fit.learn_holdout=false")  # fmt: skip


@pytest.fixture(scope="module")
def clip(small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one normal clip."""
    folder = tmp_path_factory.mktemp("clip")
    shutil.copy2(small_model.footage.normal / "normal_01.mp4", folder)
    return folder


@pytest.fixture(scope="module")
def models(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each kind of index, of the same footage."""
    folder = tmp_path_factory.mktemp("kinds")
    for kind in KINDS:
        said = succeed(
            "fit", "--normal-videos", clip, "--model", folder / kind, *SAME_BANK, f"bank.index={kind}"
        )
        assert (f"by index {kind}" in said) == (kind != "flat")
    return {kind: folder / kind for kind in KINDS}


def test_each_kind_scores_the_same_bank(
    models: dict[str, Path], small_model: SmallModel, tmp_path: Path
) -> None:
    """An exact kind as flat search does; another may name a row further away, and never one that is nearer."""
    found: dict[str, np.ndarray] = {}
    for kind, model in models.items():
        out = tmp_path / f"{kind}.csv"
        succeed(
            "score", "--model", model, "--source", small_model.footage.test / "test_01.mp4", "--out", out, FPS
        )
        with out.open(encoding="utf-8") as file:
            scores = np.array([float(row["score"]) for row in csv.DictReader(file)])
        # Each model has a scale of its own, the median score of its hold-out.
        found[kind] = scores * json.loads((model / "model.json").read_text())["branches"][0]["scale"]
        bank = load_model(model, device="cpu", offline=True).detector.branches[0].bank
        assert bank.index == kind
        assert len(bank) == 400
    for kind, scores in found.items():
        if kind in EXACT:
            np.testing.assert_allclose(scores, found["flat"], rtol=1e-4)
        else:
            assert (scores >= found["flat"] * (1 - 1e-4)).all()
            np.testing.assert_allclose(scores, found["flat"], rtol=0.2)
    banks = {(model / "banks" / "appearance.safetensors").read_bytes() for model in models.values()}
    assert len(banks) == 1


def test_a_model_of_another_index_is_another_model(models: dict[str, Path], tmp_path: Path) -> None:
    from anomaly.decider import DeciderConfig
    from anomaly.thresholds import identities

    flat, cells = (load_model(models[kind], device="cpu", offline=True) for kind in ("flat", "ivf"))
    assert flat.scoring_digest != cells.scoring_digest
    mine, theirs = (identities(one, DeciderConfig(), 5.0) for one in (flat, cells))
    assert [name for name in mine if mine[name] != theirs[name]] == ["bank"]
    done = invoke("bank", "merge", "--models", models["flat"], models["ivf"], "--model", tmp_path / "m")
    assert done.status == 1
    assert "bank.index" in done.message or "a projection" in done.message
    assert "by index ivf" in succeed("bank", "info", "--model", models["ivf"])


def test_a_graph_does_not_search_past_the_index(models: dict[str, Path], tmp_path: Path) -> None:
    """A graph looks at every row, so that one with the search inside would not answer as cells do."""
    model = shutil.copytree(models["ivf"], tmp_path / "model")
    succeed("export", "--model", model, "--runtime", "onnxruntime")
    graphs = {path.name for path in (model / "graph" / "onnxruntime-fp32").glob("*.onnx")}
    assert graphs == {"appearance.features.onnx"}


def test_what_may_pass_over_a_row_does_not_learn_the_holdout(clip: Path, tmp_path: Path) -> None:
    """The stored hold-out scores would else be lower than those of the bank that is saved."""
    settings = [one for one in SAME_BANK if not one.startswith("fit.learn_holdout")]
    for kind, learned in (("ivf", False), ("faiss", True)):
        model = tmp_path / kind
        succeed("fit", "--normal-videos", clip, "--model", model, *settings, f"bank.index={kind}")
        about = json.loads((model / "model.json").read_text())
        assert about["branches"][0]["bank"]["rows"] == 400
        assert bool(about["fit"]["holdout_frames_learned"]) == learned


def test_an_index_that_cannot_be_used_is_one_line_before_the_work(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(index: str) -> str:
        done = invoke("fit", "--normal-videos", clip, "--model", tmp_path / "m", *SAME_BANK, index)
        assert done.status == 2
        return done.message

    said = fit("bank.index=hnsw")
    assert "bank.index=hnsw" in said
    assert "flat, faiss, ivf, fastscan" in said
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert "needs FAISS" in fit("bank.index=ivf")
