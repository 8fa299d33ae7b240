"""`evaluate`: the figures as one flat object, and a page that needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from clips import cut_file, texture, write_clip
from small_model import FPS, SmallModel, invoke, succeed

from anomaly.footage.source import find_sources
from anomaly.model import load_model
from anomaly.scoring import score_sources

KEYS = [
    "n_frames",
    "n_events",
    "frame_auroc",
    "frame_ap",
    "event_recall",
    "frame_recall",
    "certified_recall",
    "false_alarms_per_hour",
    "alarm_time_share",
    "chance_hit_rate",
    "threshold",
    "frames_per_second",
    "pixel_auroc",
    "aupro",
]


@pytest.fixture(scope="module")
def small_model(small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    """This file's own copy: whoever evaluates a model has looked at it, and it says so."""
    folder = tmp_path_factory.mktemp("evaluate") / "model"
    return replace(small_model, folder=Path(shutil.copytree(small_model.folder, folder)))


@pytest.fixture(scope="module")
def evaluated(small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict, str]:
    """Standard output, figures, page."""
    folder = tmp_path_factory.mktemp("evaluated")
    footage = small_model.footage
    out = succeed(
        "evaluate", "--model", small_model.folder, "--labeled", footage.test_csv, "--videos", footage.test,
        "--json", folder / "deep" / "f.json", "--html", folder / "page.html", FPS,
    )  # fmt: skip
    return out, json.loads((folder / "deep" / "f.json").read_text()), (folder / "page.html").read_text()


def test_every_figure_is_there_and_has_a_sane_value(evaluated: tuple[str, dict, str]):
    _, figures, _ = evaluated
    assert set(KEYS) <= set(figures)
    assert all(value is None or isinstance(value, int | float) for value in figures.values())
    assert (figures["n_sources"], figures["n_frames"], figures["n_events"]) == (3, 120, 2)
    assert 0 < figures["n_anomalous_frames"] < 120
    for name in ("frame_auroc", "frame_ap", "pixel_auroc"):
        assert 0.7 < figures[name] <= 1.0
    assert 0.5 < figures["aupro"] <= 1.0
    for name in ("event_recall", "frame_recall", "certified_recall", "alarm_time_share", "chance_hit_rate"):
        assert 0.0 <= figures[name] <= 1.0
    assert figures["certified_recall"] == pytest.approx(0.05 ** (1 / 3))
    assert figures["threshold"] > 1.0
    assert figures["frames_per_second"] > 0
    assert figures["false_alarms_per_hour"] is None  # a quarter of a minute is no basis for a rate


def test_the_figures_are_printed_with_the_certificate(evaluated: tuple[str, dict, str]):
    out, figures, _ = evaluated
    for name in figures:
        assert name in out
    assert "At least 36.84 %" in out


def test_the_page_is_whole_without_a_network(evaluated: tuple[str, dict, str], small_model: SmallModel):
    _, figures, page = evaluated
    assert not re.search(r"https?://|<script|<link|@import|url\(|src=(?!\"data:)", page)
    assert page.count('src="data:image/jpeg;base64,') >= 2
    assert page.count("<svg") == 3
    assert page.count("<rect") == figures["n_events"]
    assert page.count("stroke-dasharray") == 3
    for part in (
        "test_01.mp4",
        "Every event",
        "Worst false alarms",
        "What this stands on",
        "36.84 %",
        "torch",
    ):
        assert part in page


def test_names_are_escaped(small_model: SmallModel, tmp_path: Path):
    name = "<b>x.mp4"
    shutil.copy(small_model.footage.test / "test_01.mp4", tmp_path / name)
    (tmp_path / "labels.csv").write_text(f"video,start_s,end_s,label\n{name},1.5,6.5,<i>spill & co\n")
    succeed(
        "evaluate",
        "--model",
        small_model.folder,
        "--labeled",
        tmp_path / "labels.csv",
        "--html",
        tmp_path / "p.html",
        FPS,
    )
    page = (tmp_path / "p.html").read_text()
    assert "<b>x" not in page
    assert "<i>spill" not in page
    assert "&lt;b&gt;x.mp4" in page
    assert "&lt;i&gt;spill &amp; co" in page


def test_an_alarm_that_catches_an_event_beside_its_label_is_no_false_alarm(
    small_model: SmallModel, tmp_path: Path
):
    labels = tmp_path / "labels.csv"
    labels.write_text("video,start_s,end_s,label\ntest_01.mp4,0.65,0.8,spill\n")
    succeed(
        "evaluate", "--model", small_model.folder, "--labeled", labels, "--videos", small_model.footage.test,
        "--json", tmp_path / "f.json", "--html", tmp_path / "p.html", FPS, "labels.slack_s=3",
    )  # fmt: skip
    assert json.loads((tmp_path / "f.json").read_text())["event_recall"] == 1
    assert "None outside the labels." in (tmp_path / "p.html").read_text()


def test_without_a_threshold_scores_are_still_measured(small_model: SmallModel, tmp_path: Path):
    model = shutil.copytree(small_model.folder, tmp_path / "m")
    shutil.rmtree(model / "thresholds")
    footage = small_model.footage
    out = succeed(
        "evaluate",
        "--model",
        model,
        "--labeled",
        footage.test_csv,
        "--videos",
        footage.test,
        "--json",
        tmp_path / "f.json",
        FPS,
    )
    assert "NOT CALIBRATED" in out
    figures = json.loads((tmp_path / "f.json").read_text())
    assert set(KEYS) <= set(figures)
    assert figures["threshold"] is figures["event_recall"] is figures["certified_recall"] is None
    assert figures["frame_auroc"] > 0.7
    assert (tmp_path / "m_evaluation.html").is_file()


def test_another_rate_than_calibrated_at_has_no_certificate(small_model: SmallModel, tmp_path: Path):
    footage = small_model.footage
    out = succeed(
        "evaluate", "--model", small_model.folder, "--labeled", footage.test_csv, "--videos", footage.test,
        "--json", tmp_path / "f.json", "--html", tmp_path / "p.html", "footage.fps=2",
    )  # fmt: skip
    assert "UNCERTIFIED" in out
    assert "UNCERTIFIED" in (tmp_path / "p.html").read_text()
    assert json.loads((tmp_path / "f.json").read_text())["certified_recall"] is None


def test_one_damaged_file_stops_nothing(small_model: SmallModel, tmp_path: Path):
    videos = shutil.copytree(small_model.footage.test, tmp_path / "videos")
    (videos / "test_02.mp4").write_text("nothing")
    done = invoke(
        "evaluate", "--model", small_model.folder, "--labeled", small_model.footage.test_csv, "--videos", videos,
        "--json", tmp_path / "f.json", "--html", tmp_path / "p.html", FPS,
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "test_02.mp4" in done.err
    figures = json.loads((tmp_path / "f.json").read_text())
    assert (figures["n_sources"], figures["n_events"]) == (2, 1)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="looks at /proc")
def test_a_file_that_cannot_be_read_stops_nothing(small_model: SmallModel, tmp_path: Path):
    model = load_model(small_model.folder, offline=True)
    write_clip(tmp_path / "b.mp4", texture(6, (96, 160)))
    (tmp_path / "a.mp4").symlink_to("/proc/self/mem")
    scored, problems = score_sources(model, find_sources([tmp_path]), fps=5.0)
    assert [one.source.name for one in scored] == ["b.mp4"]
    assert problems == ["a.mp4 cannot be read (Input/output error); check that it exists and may be read"]


def test_damage_is_told_of_the_file_that_was_given(small_model: SmallModel, tmp_path: Path):
    """Scored before under another name, its scores are there, and not the other's name."""
    model = load_model(small_model.folder, offline=True)
    whole = write_clip(tmp_path / "whole.mp4", texture(60, (96, 160)), muxer={"movflags": "faststart"})
    path = cut_file(whole, 0.6, tmp_path / "first.mp4")
    for name in ("first.mp4", "second.mp4"):
        path = path.rename(tmp_path / name)
        _, (problem,) = score_sources(model, find_sources([path]), fps=5.0)
        assert problem.startswith(f"{name} is damaged at")
