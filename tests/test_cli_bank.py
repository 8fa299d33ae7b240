"""`bank`: what a model remembers, banks merged, a clip forgotten, and banks in half precision."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clips import texture, write_clip
from server_case import running
from small_model import FIT, FPS, SmallModel, invoke, succeed

from anomaly.evidence import has_evidence, load_evidence
from anomaly.exemplars import load_exemplars
from anomaly.footage.source import find_sources, read_frames
from anomaly.model import Model, load_model, save_model
from anomaly.reissue import reissue
from anomaly.scores import read_series
from anomaly.thresholds import load_threshold
from anomaly.weights import StoredWeights
from memory_bank import MemoryBank

QUICK = (*FIT, "bank.size=400", "fit.fps=2", "projection.sample_frames=8", "fit.review=0")


def loaded(folder: Path) -> Model:
    return load_model(folder, device="cpu", offline=True)


def bank_of(folder: Path) -> MemoryBank:
    return loaded(folder).detector.branches[0].bank


@pytest.fixture(scope="module")
def two_days(small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of one projection; both know a clip of the name `cam.mp4`, not the same one."""
    folder = tmp_path_factory.mktemp("days")
    for day, others in (("day1", "normal_01.mp4"), ("day2", "normal_02.mp4")):
        (folder / f"{day}_clips").mkdir()
        shutil.copy(small_model.footage.normal / others, folder / f"{day}_clips" / "cam.mp4")
    shutil.copy(small_model.footage.normal / "normal_03.mp4", folder / "day1_clips")
    succeed("fit", "--normal-videos", folder / "day1_clips", "--model", folder / "day1", *QUICK)
    again = [one for one in QUICK if not one.startswith("backbone.input_size")]
    of = f"projection.of={folder / 'day1'}"
    succeed("fit", "--normal-videos", folder / "day2_clips", "--model", folder / "day2", *again, of)
    return folder


def test_info_shows_every_source_and_what_forgetting_it_costs(small_model: SmallModel):
    out = succeed("bank", "info", "--model", small_model.folder)
    bank = bank_of(small_model.folder)
    assert f"{len(bank):,} of 48 dimensions, float32" in out
    assert f"{int(bank.counts.sum()):,} patches" in out
    for name in bank.sources:
        assert name in out


def test_merged_models_cover_what_both_cover(two_days: Path, small_model: SmallModel, tmp_path: Path):
    out = succeed(
        "bank", "merge", "--models", two_days / "day1", two_days / "day2", "--model", tmp_path / "both", "size=500"
    )  # fmt: skip
    merged, first, second = (
        bank_of(folder) for folder in (tmp_path / "both", two_days / "day1", two_days / "day2")
    )
    assert len(merged) == 500
    assert merged.counts.sum() == first.counts.sum() + second.counts.sum()
    assert set(merged.sources) == {"day1/cam.mp4", "normal_03.mp4", "day2/cam.mp4"}
    assert "NOT CALIBRATED" in out
    assert load_threshold(loaded(tmp_path / "both"), fps=5.0).value is None
    assert f"500 of {len(first) + len(second):,}" in out
    # The cost that is told is the cost measured here.
    rows = np.concatenate([first.rows, second.rows])
    described = json.loads((tmp_path / "both" / "model.json").read_text())
    assert merged.search(rows)[0].max() == pytest.approx(described["fit"]["merge"]["largest"], rel=1e-5)
    # Crops came along: of the same patches, from either day.
    exemplars = load_exemplars(tmp_path / "both")
    assert exemplars is not None
    assert {merged.sources[merged.origins.source[row]] for row in exemplars.rows} == set(merged.sources)
    clip = small_model.footage.test / "test_01.mp4"
    succeed("score", "--model", tmp_path / "both", "--source", clip, "--out", tmp_path / "s.csv", FPS)


def test_models_that_do_not_compare_are_not_merged(two_days: Path, small_model: SmallModel, tmp_path: Path):
    for models, why in (
        ([two_days / "day1"], "1 models are nothing to merge"),
        ([two_days / "day1", small_model.folder], "has a projection other than"),
        ([two_days / "day1", tmp_path / "none"], "is not there"),
    ):
        done = invoke("bank", "merge", "--models", *models, "--model", tmp_path / "m")
        assert done.status == 1
        assert why in done.message
        assert not (tmp_path / "m").exists()
    clip = small_model.footage.normal / "normal_01.mp4"
    of = f"projection.of={two_days / 'day1'}"
    for change, why in (
        ("backbone.neighbourhood=5", "another backbone"),
        ("backbone.input_size=[64,96]", "is not that of"),
    ):
        done = invoke("fit", "--normal-videos", clip, "--model", tmp_path / "m", *QUICK, of, change)
        assert done.status in (1, 2)
        assert why in done.message


def test_a_forgotten_clip_is_gone_and_the_certificate_with_it(small_model: SmallModel, tmp_path: Path):
    model = Path(shutil.copytree(small_model.folder, tmp_path / "m"))
    before = bank_of(model)
    value = load_threshold(loaded(model), fps=5.0).value
    out = succeed("bank", "forget", "--model", model, "--clip", "normal_02.mp4")
    after = bank_of(model)
    assert "normal_02.mp4" not in after.sources
    assert 0 < len(after) < len(before)
    assert f"{len(before) - len(after):,} dropped, {len(after):,} left" in out
    number = before.sources.index("normal_02.mp4")
    lost = int(before.members.count[before.members.witness.source == number].sum())
    assert after.counts.sum() == before.counts.sum() - lost
    threshold = load_threshold(loaded(model), fps=5.0)
    assert threshold.value == value  # it still alarms
    assert not threshold.certified
    assert "bank" in threshold.headline()
    exemplars = load_exemplars(model)
    assert exemplars is not None
    assert len(exemplars.rows) < len(load_exemplars(small_model.folder).rows)  # type: ignore[union-attr]
    for clip, why in (("normal_02.mp4", "holds no source 'normal_02.mp4'"), (None, "needs --clip")):
        done = invoke("bank", "forget", "--model", model, *(["--clip", clip] if clip else []))
        assert done.status in (1, 2)
        assert why in done.message


def test_an_interval_of_a_camera_is_forgotten_with_its_crops_and_its_evidence(
    small_model: SmallModel, tmp_path: Path
):
    # The second was painted while it was recorded.
    painted = "061510.000.m0123456789abcdef"
    pieces = {"061500.000": "normal_01.mp4", painted: "normal_02.mp4", "071500.000": "normal_03.mp4"}
    day = tmp_path / "footage" / "belt" / "20261123"
    day.mkdir(parents=True)
    for time, clip in pieces.items():
        shutil.copy(small_model.footage.normal / clip, day / f"{time}.mp4")
    model = tmp_path / "m"
    succeed("fit", "--normal-videos", tmp_path / "footage", "--model", model, *QUICK)
    name = next(one for one in bank_of(model).sources if "0615" in one or "0715" in one)
    assert name.startswith("belt/20261123/")
    fitted = json.loads((model / "model.json").read_text())["fitted_on"]
    known = sum("0615" in one["source"] for one in fitted)
    assert painted in str(fitted)
    forget = ("bank", "forget", "--model", model)
    for interval, why in (
        (("--since", "2026-11-23T08:00", "--until", "2026-11-23T09:00"), "holds nothing recorded"),
        (("--since", "2026-11-23T06:00", "--until", "2026-11-23T09:00", "--camera", "top"), "recorded from"),
        (("--since", "2026-11-23T06:00"), "needs --clip"),
        (("--since", "today", "--until", "tomorrow"), "is no time"),
        (("--since", "2026-11-23T06:00", "--until", "2026-11-23T06:00"), "is not before"),
    ):
        done = invoke(*forget, *interval)
        assert done.status == 2
        assert why in done.message
    # Who deletes the interval from a store is told what to do about the models that know it.
    given = {"camera": "press", "start_utc_s": 1795414500.0, "end_utc_s": 1795414800.5}
    with running(tmp_path, cameras=("press", "belt")) as case:
        case.models += [model, small_model.folder, tmp_path / "gone"]
        admin = case.signed_in("admin")
        (told, undated, gone) = admin.post("/api/retention/delete", json=given).json()["models"]
        assert (told["model"], told["clips"], told["undated"]) == ("m", known, 0)
        assert "bank forget" in told["command"]
        assert "--camera" not in told["command"]
        assert (undated["clips"], undated["undated"] > 0) == (0, True)
        assert "bank info" in undated["command"]
        assert "gone" in gone["problem"]
        (told, *_) = admin.post("/api/retention/delete", json={**given, "camera": "belt"}).json()["models"]
        assert "--camera belt" in told["command"]
        copy = Path(shutil.copytree(model, tmp_path / "copy"))
        command = shlex.split(told["command"].replace(str(model.resolve()), str(copy)))
        succeed(*command[3:])
        case.models[:] = [copy]
        assert admin.post("/api/retention/delete", json=given).json()["models"] == []
    # From the middle of the first piece into the second; the one an hour later stays.
    out = succeed(
        *forget, "--since", "2026-11-23T06:15:05", "--until", "2026-11-23T06:15:11", "--camera", "belt"
    )
    left = bank_of(model)
    assert all("071500" in one for one in left.sources)
    exemplars = load_exemplars(model)
    assert exemplars is not None
    assert {left.sources[left.origins.source[row]] for row in exemplars.rows} <= set(left.sources)
    fitted = json.loads((model / "model.json").read_text())["fitted_on"]
    assert all("0615" not in one["source"] for one in fitted)
    assert "Forgot belt/20261123/0615" in out


def test_evidence_that_shows_a_forgotten_clip_is_gone(small_model: SmallModel, tmp_path: Path):
    model = Path(shutil.copytree(small_model.folder, tmp_path / "m"))
    shown = {stretch.source for stretch in load_evidence(model).stretches}
    others = [name for name in bank_of(model).sources if name not in shown]
    if others:
        succeed("bank", "forget", "--model", model, "--clip", others[0])
        assert has_evidence(model)
        # It shows how the bank before answered: the one that is left is no other runtime of that.
        assert "is not what it was calibrated with" in reissue(loaded(model), "onnxruntime-fp32", None)
    clip = sorted(shown)[0]
    out = succeed("bank", "forget", "--model", model, "--clip", clip)
    assert "The evidence showed it too" in out
    assert not (model / "evidence").exists()
    loaded(model)  # what is left is whole


def test_a_forgotten_clip_leaves_no_scores_and_no_name(small_model: SmallModel, tmp_path: Path):
    """One that was held out, and one that a threshold was calibrated on."""
    model = Path(shutil.copytree(small_model.folder, tmp_path / "m"))
    held, labeled = (read_series(model, part) for part in ("holdout", "labeled"))
    bank = bank_of(model)
    shown = {stretch.source for stretch in load_evidence(model).stretches}
    gone = [
        held[0].source,
        *(one.source for one in labeled if one.source in shown or one.source in bank.sources),
    ][:2]
    for clip in gone:
        succeed("bank", "forget", "--model", model, "--clip", clip)
    after = read_series(model, "holdout"), read_series(model, "labeled")
    # Of the clip that was held out the rest was learned, and the others were scored with rows of that.
    assert after[0] == []
    kept = [one for one in labeled if one.source not in gone]
    assert [one.source for one in after[1]] == [one.source for one in kept]
    for one, same in zip(kept, after[1], strict=True):
        np.testing.assert_array_equal(one.scores, same.scores)
    description = json.loads((model / "model.json").read_text())
    assert description["fit"]["holdout_sources"] == description["fit"]["holdout_sha256"] == []
    assert loaded(model).description["forgotten"] == gone


def test_held_out_scores_go_with_a_row_that_they_were_measured_with(small_model: SmallModel, tmp_path: Path):
    """Without it they would be higher; without rows that came later they stay an upper end."""
    model = Path(shutil.copytree(small_model.folder, tmp_path / "m"))
    held = [one.source for one in read_series(model, "holdout")]
    assert held
    clip = small_model.footage.test / "test_01.mp4"
    succeed("bank", "add", "--model", model, "--normal-videos", clip, "size=3000", "weights.offline=true")
    out = succeed("bank", "forget", "--model", model, "--clip", "test_01.mp4")
    assert "0 dropped" not in out
    assert "hold-out" not in out
    assert [one.source for one in read_series(model, "holdout")] == held
    out = succeed("bank", "forget", "--model", model, "--clip", held[0])
    assert "The hold-out was scored with rows that are gone and would score higher now" in out
    assert read_series(model, "holdout") == []
    told = json.loads((model / "model.json").read_text())["fit"]
    assert (told["holdout_sources"], told["holdout_sha256"]) == ([], [])
    # Nothing is said twice: it is gone already.
    assert "hold-out" not in succeed("bank", "forget", "--model", model, "--clip", held[1])


def test_forgetting_tells_which_pages_still_show_the_clip(small_model: SmallModel, tmp_path: Path):
    model = Path(shutil.copytree(small_model.folder, tmp_path / "m"))
    review, report, other, foreign = (
        tmp_path / name
        for name in ("m_fit_review.html", "m_calibration.html", "m_evaluation.html", "n_fit_review.html")
    )
    for page, title in ((review, "Fit review of m"), (report, "Certificate"), (foreign, "Fit review of n")):
        page.write_text(f"<title>{title}</title> normal_02.mp4, 3.0 s to 4.0 s")
    other.write_text("<title>Evaluation</title> another.mp4")
    out = succeed("bank", "forget", "--model", model, "--clip", "normal_02.mp4").replace("\n", "")
    assert f"{review} showed it and is removed" in out
    assert f"{report} still shows or names it" in out
    assert not review.exists()
    assert [page.exists() for page in (report, other, foreign)] == [True] * 3
    assert str(other) not in out


def test_what_a_model_says_of_itself_is_true_after_forgetting(small_model: SmallModel, tmp_path: Path):
    model = Path(shutil.copytree(small_model.folder, tmp_path / "m"))
    first = json.loads((model / "model.json").read_text())["fit"]
    succeed("bank", "forget", "--model", model, "--clip", "normal_02.mp4")
    described = json.loads((model / "model.json").read_text())
    told = described["fit"]
    assert told["frames"] == sum(one["frames"] for one in described["fitted_on"]) < first["frames"]
    assert told["patches"] == bank_of(model).counts.sum() < first["patches"]
    model = Path(shutil.copytree(small_model.folder, tmp_path / "again"))
    succeed("bank", "forget", "--model", model, "--clip", first["holdout_sources"][0])
    told = json.loads((model / "model.json").read_text())["fit"]
    assert first["holdout_frames_learned"]
    assert not told["holdout_frames_learned"]  # of which clip they were is not known


def test_one_clip_or_an_interval_is_forgotten_not_both(small_model: SmallModel, tmp_path: Path):
    interval = ("--since", "2026-11-23T06:00", "--until", "2026-11-23T07:00")
    for given in (interval, interval[:2], ("--camera", "belt")):
        done = invoke("bank", "forget", "--model", small_model.folder, "--clip", "normal_02.mp4", *given)
        assert done.status == 2
        assert f"{given[0]}" in done.message
        assert "do not go together" in done.message


def test_no_model_is_lost_to_a_merge(two_days: Path, tmp_path: Path):
    both = [Path(shutil.copytree(two_days / day, tmp_path / day)) for day in ("day1", "day2")]
    before = (both[0] / "model.json").read_bytes()
    for to, why in ((both[0], "is one of the models to merge"), (tmp_path / "day1/../day1", "is one of")):
        done = invoke("bank", "merge", "--models", *both, "--model", to, "overwrite=true")
        assert (done.status, why in done.message) == (2, True)
    other = Path(shutil.copytree(both[0], tmp_path / "other"))
    done = invoke("bank", "merge", "--models", *both, "--model", other)
    assert done.status == 2
    assert "overwrite=true" in done.message
    assert (both[0] / "model.json").read_bytes() == (other / "model.json").read_bytes() == before
    succeed("bank", "merge", "--models", *both, "--model", other, "overwrite=true")
    assert (other / "model.json").read_bytes() != before
    done = invoke("bank", "merge", "--models", both[0], two_days / "day1", "--model", tmp_path / "twice")
    assert done.status == 1
    assert "holds the same bank" in done.message
    assert not (tmp_path / "twice").exists()


def test_a_bank_of_one_clip_does_not_forget_it(two_days: Path):
    done = invoke("bank", "forget", "--model", two_days / "day2", "--clip", "cam.mp4")
    assert done.status == 1
    assert "fit a new bank" in done.message
    assert bank_of(two_days / "day2").sources == ("cam.mp4",)
    assert invoke("bank", "look", "--model", two_days / "day2").status == 2


def test_half_precision_takes_half_the_room_and_changes_no_alarm(small_model: SmallModel, tmp_path: Path):
    """On real features: distances within 1e-3 of those in single precision, and every frame on its side."""
    normal, test = small_model.footage.normal, small_model.footage.test
    sizes = {}
    for half in ("false", "true"):
        model = tmp_path / half
        # So few rows that rounding is far below what is refused.
        few = "bank.size=100"
        succeed("fit", "--normal-videos", normal, "--model", model, *QUICK, few, f"bank.half={half}")
        sizes[half] = (model / "banks" / "appearance.safetensors").stat().st_size
    rows = len(bank_of(tmp_path / "true"))
    assert sizes["false"] - sizes["true"] == pytest.approx(rows * 48 * 2, abs=64)  # headers are padded
    single, half_model = loaded(tmp_path / "false"), loaded(tmp_path / "true")
    assert half_model.detector.branches[0].bank.storage == "float16"
    branch = single.detector.branches[0]
    scores: dict[str, list[float]] = {"single": [], "half": []}
    for source in find_sources([test]):
        for frame in read_frames(source, fps=2):
            patches = branch.patches([frame.image])[0]
            exact = branch.bank.search(patches)[0][:, 0]
            rough = half_model.detector.branches[0].bank.search(patches)[0][:, 0]
            np.testing.assert_allclose(rough, exact, rtol=1e-3)
            scores["single"].append(float(exact.max()))
            scores["half"].append(float(rough.max()))
    ordered = np.sort(scores["single"])
    place = len(ordered) // 4 + int(np.diff(ordered[len(ordered) // 4 :]).argmax())
    threshold = (ordered[place] + ordered[place + 1]) / 2
    assert 0 < (np.array(scores["single"]) >= threshold).sum() < len(ordered)
    np.testing.assert_array_equal(
        np.array(scores["half"]) >= threshold, np.array(scores["single"]) >= threshold
    )


def test_half_precision_is_refused_where_it_is_much_of_a_score(tmp_path: Path):
    """A still scene: its patches are so alike that what rounding moves them by is seen."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    (scene,) = texture(1, (96, 160))
    frames = [
        np.clip(scene.astype(int) + rng.integers(-1, 2, scene.shape), 0, 255).astype("u1") for _ in range(24)
    ]
    for number in range(3):
        write_clip(tmp_path / "in" / f"{number}.mp4", frames[number::3])
    line = ("fit", "--normal-videos", tmp_path / "in", "--model", tmp_path / "m", *QUICK)
    done = invoke(*line, "bank.half=true")
    assert done.status == 2, done.err
    assert (
        "of an ordinary frame's score, as this footage's patches are that alike; 0.1% is allowed"
        in done.message
    )
    assert invoke(*line).status == 0


def renamed(small_model: SmallModel, folder: Path, names: list[str], contents: str) -> MemoryBank:
    """The small model again, as if it had been fitted on other clips of these names; its bank."""
    known = loaded(small_model.folder)
    (branch,) = known.detector.branches
    new = dict(zip(branch.bank.sources, names, strict=True))
    bank = branch.bank.replace(sources=names)
    facts = {key: known.description[key] for key in known.description if key not in {"branches", "files"}}
    facts["fitted_on"] = [
        {**one, "source": new[one["source"]], "sha256": contents + one["sha256"]}
        for one in facts["fitted_on"]
    ]
    save_model(
        folder,
        known.detector.with_branches([replace(branch, bank=bank)]),
        StoredWeights(**known.description["branches"][0]["weights"]),
        dict(np.load(small_model.folder / "scores.npz")),
        facts,
    )
    return bank


def patches_by_source(bank: MemoryBank) -> dict[str, int]:
    stood = np.bincount(bank.members.witness.source, bank.members.count, len(bank.sources))
    return dict(zip(bank.sources, stood.astype(int).tolist(), strict=True))


def test_cameras_of_merged_models_stay_apart_and_are_forgotten_one_by_one(
    small_model: SmallModel, tmp_path: Path
):
    """Two sites whose model folders, cameras and hours have the same names; the clips are others."""
    names = [f"{cam}/20261123/{hour}1500.000.mp4" for cam in ("belt", "top") for hour in ("06", "07")]
    merge = ["bank", "merge", "--model", tmp_path / "all", "size=700", "--models"]
    wanted: dict[str, int] = {}
    for site in ("north", "south"):
        bank = renamed(small_model, tmp_path / site / "model", names, site)
        merge.append(tmp_path / site / "model")
        wanted |= {f"{site}/model/{name}": count for name, count in patches_by_source(bank).items()}
    succeed(*merge)
    merged = bank_of(tmp_path / "all")
    assert len(merged) == 700
    assert patches_by_source(merged) == wanted
    fitted = json.loads((tmp_path / "all" / "model.json").read_text())["fitted_on"]
    assert {one["source"] for one in fitted} == set(wanted)
    # One camera's hour, of either site; the other camera, and its other hour, stand for what they did.
    succeed(
        "bank", "forget", "--model", tmp_path / "all", "--camera", "top",
        "--since", "2026-11-23T06:00", "--until", "2026-11-23T07:00",
    )  # fmt: skip
    left = {name: count for name, count in wanted.items() if "top/20261123/06" not in name}
    assert len(left) == len(wanted) - 2
    assert patches_by_source(bank_of(tmp_path / "all")) == left


def test_models_of_several_branches_are_left_as_they_are(small_model: SmallModel, tmp_path: Path):
    """Merging or forgetting in one branch of two would leave the other as it was: refused, and nothing written."""
    folder = Path(shutil.copytree(small_model.folder, tmp_path / "two"))
    known = loaded(folder)
    (branch,) = known.detector.branches
    description = {
        key: known.description[key] for key in known.description if key not in {"branches", "files"}
    }
    save_model(
        folder,
        known.detector.with_branches([branch, replace(branch, name="again")]),
        StoredWeights(**known.description["branches"][0]["weights"]),
        dict(np.load(folder / "scores.npz")),
        description,
    )
    assert len(loaded(folder).detector.branches) == 2
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    clip = branch.bank.sources[0]
    for command in (
        ("bank", "forget", "--model", folder, "--clip", clip),
        ("bank", "add", "--model", folder, "--normal-videos", small_model.footage.test),
        ("bank", "merge", "--models", folder, small_model.folder, "--model", tmp_path / "m"),
        ("bank", "merge", "--models", small_model.folder, folder, "--model", tmp_path / "m"),
    ):
        done = invoke(*command)
        assert done.status == 1
        assert "2 branches" in done.message
        assert not (tmp_path / "m").exists()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
