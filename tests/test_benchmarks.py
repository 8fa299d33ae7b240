"""The benchmarks run from a shell, and their figures hold together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from broker import needs_mosquitto
from conftest import ROOT
from page_case import CHROMIUM

SCRIPTS = (
    "quality",
    "development",
    "fit",
    "thousand_videos",
    "certificate",
    "memory_bank",
    "runtime",
    "edge",
    "edge_install",
    "endurance",
    "sinks",
    "serve",
)


def bench(tmp_path: Path, script: str, *arguments: str, **environment: str) -> tuple[dict[str, Any], str]:
    """Run a benchmark in a process of its own; its figures and what it printed."""
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *arguments, "--json", str(figures)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert all(value is None or isinstance(value, int | float | str) for value in found.values())
    return found, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_the_common_options(tmp_path: Path, script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout
    assert "--json FILE" in done.stdout


def test_quality_says_what_it_leaves_out_where_there_is_no_real_footage(tmp_path: Path) -> None:
    found, printed = bench(
        tmp_path, "quality", "--quick", "--only", "tile", ANOMALY_DATA=str(tmp_path / "nothing")
    )
    assert "tile left out" in printed
    assert str(tmp_path / "nothing") in printed.replace("\n", "")
    assert found["tile_left_out"] == "no real footage"
    assert "tile_image_auroc" not in found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_quality_on_generated_footage(tmp_path: Path) -> None:
    found, _ = bench(tmp_path, "quality", "--quick", "--only", "conveyor")
    assert found["conveyor_n_events"] == 6
    assert found["conveyor_motion_events"] == 2
    assert found["conveyor_frame_auroc"] > 0.6
    assert found["conveyor_pixel_auroc"] > 0.6
    # Five minutes and the hold-out; too little for a rate, so none is told.
    assert 5 / 60 - 0.01 < found["conveyor_normal_hours"] < 0.1
    assert found["conveyor_false_alarms"] >= 0
    assert found["conveyor_false_alarms_per_hour"] is None
    # Six events prove no more than this, whatever the detector.
    assert (found["conveyor_certified_recall"] or 0) <= 0.05 ** (1 / 6) + 1e-9


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("shared_data")
def test_quality_on_real_footage(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for part in ("ped2", "tile", "bottles"):
        found |= bench(tmp_path, "quality", "--quick", "--only", part)[0]
    # What `evaluate` says and what the scores in the model folder give are the same figure.
    assert found["ped2_frame_auroc"] == pytest.approx(found["ped2_frame_auroc_pooled"], abs=1e-9)
    assert found["ped2_frame_auroc_low"] <= found["ped2_frame_auroc_pooled"] <= found["ped2_frame_auroc_high"]
    assert found["ped2_pixel_auroc"] > 0.5
    assert 0 < found["ped2_aupro"] <= 1
    assert (found["ped2_certified_recall"] or 0) <= found["ped2_certifiable_recall"]
    assert found["ped2_false_alarms_per_hour"] is None
    assert found["tile_n_sources"] == 24
    assert found["tile_image_auroc"] > 0.5
    assert found["bottles_events"] == 3
    assert found["bottles_event_recall"] in (0, 1 / 3, 2 / 3, 1)
    assert found["bottles_false_alarms_per_hour"] is None


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fit_is_flat_in_memory_and_its_pieces_add_up(tmp_path: Path) -> None:
    found, _ = bench(tmp_path, "fit", "--quick")
    assert found["peak_growth"] < 1.25
    assert found["same_bank_as_the_command"] == 1
    names = ("decode", "resize", "network", "project", "search", "decide")
    assert sum(found[f"{name}_share"] for name in names) == pytest.approx(1)
    assert sum(found[f"{name}_ms"] for name in names) == pytest.approx(found["pieces_ms"])
    # Done together they cannot take many times what they take one by one.
    assert found["decode_to_decision_ms"] < 3 * found["pieces_ms"]
    assert found["bank_rows"] <= 20_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_calibration_goes_on_where_it_was(tmp_path: Path) -> None:
    found, _ = bench(tmp_path, "thousand_videos", "--quick")
    # The damaged file is named and stops nothing; it counts where a part of it can be read.
    assert found["damaged_named"] == 1
    assert found["videos"] - found["damaged"] <= found["scored_in_all"] <= found["videos"]
    assert found["events"] == found["scored_in_all"]
    assert found["scored_before_kill"] >= found["videos"] // 2
    assert found["scored_before_kill"] + found["scored_after_kill"] == found["scored_in_all"]
    assert found["rescored"] == 0
    # The kill came before there was a threshold, and both ways lead to the same one.
    assert found["threshold_before_resume"] == 0
    assert found["same_threshold"] == 1
    assert found["same_event_scores"] == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_exported_graphs_answer_as_torch_beside_the_peer(tmp_path: Path) -> None:
    found, _ = bench(tmp_path, "runtime", "--quick")
    for bank in ("efficientnet_lite0_1000_kcenter", "efficientnet_lite0_1000_random"):
        for runtime in ("onnxruntime_fp32", "openvino_fp32"):
            assert found[f"{bank}_{runtime}_largest_difference"] < 1e-3
            assert found[f"{bank}_{runtime}_flipped"] == 0
            assert found[f"{bank}_{runtime}_auroc"] == pytest.approx(found[f"{bank}_ours_auroc"], abs=5e-3)
        for peer in ("torch", "openvino"):
            assert found[f"{bank}_times_anomalib_{peer}"] > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_mosquitto
def test_a_brokers_outage_costs_no_message_and_no_order(tmp_path: Path) -> None:
    found, _ = bench(tmp_path, "sinks", "--quick")
    assert found["outage_delivered"] == found["outage_events"] == 1000
    assert found["outage_in_order"] == 1
    assert found["outage_seconds_to_drain"] < 60
    assert found["mqtt_committed_to_received_p50_ms"] <= found["mqtt_committed_to_received_p99_ms"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not CHROMIUM.exists(), reason="apt-get install chromium")
def test_watchers_see_the_camera_and_cost_scoring_nothing_at_the_lines_rate(tmp_path: Path) -> None:
    found, _ = bench(tmp_path, "serve", "--quick")
    assert found["screen_frames"] > 0
    assert 0 < found["screen_camera_to_screen_p50_ms"] <= found["screen_camera_to_screen_p99_ms"]
    for count in (1, 4, 16):
        assert found[f"line_{count}_watching_camera_to_client_p50_ms"] > 0
        # Ten frames a second are far below what a core can score.
        assert found[f"line_{count}_watching_scored_to_nobody_watching"] > 0.9


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_mosquitto
def test_a_runner_that_is_cut_off_and_reloaded_loses_nothing(tmp_path: Path) -> None:
    found, _ = bench(tmp_path, "endurance", "--quick")
    assert found["status"] == 0
    # Each anomaly that a camera could see, less those of a reconnecting one.
    assert (
        found["anomalies_shown_to_cameras"] / 2
        < found["events"]
        == found["events_told"]
        == found["ends_told"]
    )
    assert found["events_told_that_are_not_stored"] == 0
    assert found["clips_that_play"] == found["clips_ready"] == found["events"]
    assert 0 <= found["captured"] - found["scored"] - found["dropped"] <= 2
