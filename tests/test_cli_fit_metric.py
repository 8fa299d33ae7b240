"""Place in the metric and re-weighted scores, chosen at `fit` and carried to every command that scores."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_model import FIT, FPS, SmallModel, invoke, succeed

from anomaly.extractor import patch_places
from anomaly.footage.source import find_sources, read_frames
from anomaly.model import Model, load_model
from anomaly.scoring import look_at
from memory_bank import reweighted

#: A finer grid than the small model's: of its 240 patches two make the score, and a search can leave some out.
QUICK = (*FIT, "bank.size=400", "fit.fps=2", "projection.sample_frames=8", "fit.review=0", "backbone.input_size=[192,320]",
         "exemplars.max_mb=0.1")  # fmt: skip


def loaded(folder: Path) -> Model:
    return load_model(folder, device="cpu", offline=True)


@pytest.fixture(scope="module")
def clip(small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one normal clip."""
    folder = tmp_path_factory.mktemp("clip")
    shutil.copy2(small_model.footage.normal / "normal_01.mp4", folder)
    return folder


@pytest.fixture(scope="module")
def model(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fitted in shards with both settings; shared, not to be changed."""
    folder = tmp_path_factory.mktemp("both") / "model"
    settings = ("bank.place_weight=20", "bank.reweight=5", "fit.shard_s=3")
    said = succeed("fit", "--normal-videos", clip, "--model", folder, *QUICK, *settings)
    assert "place counts" in said
    assert "re-weighted" in said
    return folder


def test_scores_are_those_of_the_formula(model: Path, small_model: SmallModel, tmp_path: Path):
    """By hand from the bank's rows: place as two more dimensions, PatchCore's weight on the largest distances."""
    source = small_model.footage.test / "test_01.mp4"
    succeed(
        "score", "--model", model, "--source", source, "--out", tmp_path / "s.csv", FPS,
        "--heatmaps", tmp_path / "heat",
    )  # fmt: skip
    with (tmp_path / "s.csv").open(encoding="utf-8") as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    known = loaded(model)
    (branch,) = known.detector.branches
    bank = branch.bank
    assert bank.place_weight == 20
    assert branch.reweight == 5
    y, x = patch_places(branch.backbone.grid)
    (video,) = find_sources([source])
    frames = list(read_frames(video, fps=5))
    assert len(frames) == len(scores)
    for frame, score in list(zip(frames, scores, strict=True))[::5]:
        patches = branch.patches([frame.image])[0]
        apart = ((patches[:, None].astype(float) - bank.rows) ** 2).sum(-1)
        apart += 400 * ((y[:, None] - bank.origins.y) ** 2 + (x[:, None] - bank.origins.x) ** 2)
        plain = np.sqrt(apart.min(axis=1))
        worst = np.argsort(-plain, kind="stable")[:2]
        weighted = reweighted(bank, patches[worst], 5, y=y[worst], x=x[worst])
        assert (weighted < plain[worst]).all()
        assert score == pytest.approx(weighted.mean() / branch.scale, rel=1e-4)
        # The heatmap shows distances as they are.
        look = known.detector.look([frame.image])[0]
        np.testing.assert_allclose(look.distances, plain / branch.scale, rtol=1e-3)


def test_a_followed_camera_scores_as_frames_searched_whole(model: Path, small_model: SmallModel):
    known = loaded(model)
    (video,) = find_sources([small_model.footage.test / "test_01.mp4"])
    frames = list(read_frames(video, fps=5))
    loose = 0
    for frame, look in look_at(known, frames):
        whole = known.detector.look([frame.image])[0]
        loose += int((look.bounds > whole.distances * 1.001).sum())
        assert look.score == pytest.approx(whole.score, rel=1e-6)
        np.testing.assert_allclose(look.distances, whole.distances, rtol=1e-5)
    assert loose > 0  # else nothing was saved, and nothing tested


def test_a_patch_covered_only_from_elsewhere_is_kept(clip: Path, tmp_path: Path):
    """A radius covers every learned patch by likeness and place together; without place, likeness is enough."""
    settings = (*QUICK, "fit.holdout=0")
    succeed("fit", "--normal-videos", clip, "--model", tmp_path / "sized", *settings)
    radius = json.loads((tmp_path / "sized" / "model.json").read_text())["fit"]["scale"]
    of = [one for one in settings if not one.startswith("backbone.input_size")]
    of += [f"projection.of={tmp_path / 'sized'}", f"bank.radius={radius}", "bank.size=5000"]
    # A fifth of the picture away counts as much as a patch that is as unlike as the radius.
    for name, weight in (("plain", 0.0), ("placed", 5 * radius)):
        succeed(
            "fit", "--normal-videos", clip, "--model", tmp_path / name, *of, f"bank.place_weight={weight}"
        )
    plain, placed = (loaded(tmp_path / name).detector.branches[0] for name in ("plain", "placed"))
    y, x = patch_places(plain.backbone.grid)
    (source,) = find_sources([clip])
    dropped = 0
    for frame in read_frames(source, fps=2):
        patches = plain.patches([frame.image])[0]
        assert placed.bank.search(patches, y=y, x=x)[0].max() <= radius * 1.001
        # All that covers it in the plain bank lies elsewhere: with place that would be beyond the radius.
        assert plain.bank.search(patches)[0].max() <= radius * 1.001
        within = plain.bank.replace(place_weight=5 * radius).search(patches, y=y, x=x)[0]
        dropped += int((within > radius * 1.001).sum())
    assert dropped > 0
    assert len(placed.bank) > len(plain.bank)


def test_of_the_hold_out_too_a_radius_covers_all_and_adds_nothing_near(clip: Path, tmp_path: Path):
    settings = [one for one in QUICK if not one.startswith("fit.holdout=")]
    succeed("fit", "--normal-videos", clip, "--model", tmp_path / "sized", *settings)
    radius = json.loads((tmp_path / "sized" / "model.json").read_text())["fit"]["scale"]
    of = [one for one in settings if not one.startswith("backbone.input_size")]
    of += [f"projection.of={tmp_path / 'sized'}", f"bank.radius={radius}", "bank.size=5000"]
    rows = []
    for name, learns in (("learned", True), ("left", False)):
        succeed(
            "fit", "--normal-videos", clip, "--model", tmp_path / name, *of, f"fit.learn_holdout={learns}"
        )
        rows.append(loaded(tmp_path / name).detector.branches[0].bank.rows)
    learned, left = rows
    np.testing.assert_array_equal(learned[: len(left)], left)
    added = learned[len(left) :]
    assert all(np.linalg.norm(left - row, axis=1).min() > radius / 2 * 0.999 for row in added)
    about = json.loads((tmp_path / "learned" / "model.json").read_text())["fit"]
    assert about["holdout_frames_learned"] > 0
    assert about["coverage"]["largest_bound"] <= radius * 1.001


def test_a_radius_that_takes_more_rows_than_allowed_widens_and_says_so(clip: Path, tmp_path: Path):
    """A radius alone bounds no memory: what it takes is not known beforehand."""
    out = succeed("fit", "--normal-videos", clip, "--model", tmp_path / "m", *QUICK, "bank.radius=1e-3")
    told = json.loads((tmp_path / "m" / "model.json").read_text())["fit"]
    size = len(loaded(tmp_path / "m").detector.branches[0].bank)
    asked = [one for one in QUICK if one.startswith("bank.size=")][-1]
    assert size == int(asked.removeprefix("bank.size="))
    assert f"bank.radius=0.001 is not kept by bank.size={size} rows, these cover to within" in " ".join(
        out.split()
    )
    assert told["coverage"]["largest_bound"] > 1e-3
    out = succeed("fit", "--normal-videos", clip, "--model", tmp_path / "wide", *QUICK, "bank.radius=1e3")
    assert "bank.radius=1000 is kept by" in " ".join(out.split())


@pytest.mark.slow
def test_every_command_takes_such_a_model(model: Path, small_model: SmallModel, tmp_path: Path):
    """Calibrate and its check, explain, bench, and exports that answer alike with the search inside and beside."""
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    footage = small_model.footage
    succeed(
        "calibrate", "--model", folder, "--labeled", footage.labeled_csv, "--videos", footage.labeled,
        "--target-recall", 0.5, FPS,
    )  # fmt: skip
    succeed(
        "score", "--model", folder, "--source", footage.test / "test_01.mp4", "--out", tmp_path / "s.csv", FPS,
        "--explain", tmp_path / "why",
    )  # fmt: skip
    for runtime in ("onnxruntime", "openvino"):
        said = succeed("export", "--model", folder, "--runtime", runtime)
        assert "0 labels flipped" in said
        assert "search in the graph" in said
    succeed("bench", "--model", folder, "frames=3")
    succeed("fit", "--normal-videos", footage.normal / "normal_01.mp4", "--model", tmp_path / "review", *QUICK,
            "bank.place_weight=20", "fit.review=2")  # fmt: skip


def test_a_certificate_hangs_on_both(model: Path):
    from dataclasses import replace

    from anomaly.decider import DeciderConfig
    from anomaly.thresholds import identities

    known = loaded(model)
    (branch,) = known.description["branches"]
    for changed in ({**branch, "reweight": 9}, {**branch, "bank": {**branch["bank"], "place_weight": 1.0}}):
        other = replace(known, description={**known.description, "branches": [changed]})
        mine, theirs = (identities(one, DeciderConfig(), 5.0) for one in (known, other))
        assert [name for name in mine if mine[name] != theirs[name]] == ["bank"]


def test_models_of_other_settings_do_not_merge(model: Path, clip: Path, tmp_path: Path):
    for settings, what in (
        (("bank.place_weight=20",), "bank.reweight"),
        (("bank.place_weight=9", "bank.reweight=5"), "bank.place_weight"),
    ):
        of = [one for one in QUICK if not one.startswith("backbone.input_size")]
        other = tmp_path / what
        succeed(
            "fit", "--normal-videos", clip, "--model", other, *of, f"projection.of={model}", *settings
        )  # fmt: skip
        done = invoke("bank", "merge", "--models", model, other, "--model", tmp_path / "m")
        assert done.status == 1
        assert what in done.message


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("bank.place_weight=-1", "bank.place_weight=-1.0"),
        ("bank.gather_mib=-1", "bank.gather_mib=-1.0"),
        ("bank.place_weight=inf", "bank.place_weight=inf"),
        ("bank.reweight=1", "no neighbourhood"),
        ("bank.reweight=-2", "bank.reweight=-2"),
        ("bank.reweight=some", "bank.reweight"),
    ],
)
def test_settings_out_of_range_are_one_line(setting: str, why: str, clip: Path, tmp_path: Path):
    done = invoke("fit", "--normal-videos", clip, "--model", tmp_path / "m", *QUICK, setting)
    assert done.status == 2
    assert why in done.message
