"""Cameras with thresholds of their own: what is told of their events is what these thresholds make of them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from anomaly.calibration import CameraCalibrations, Event, Series, calibrate, calibrate_cameras, study
from anomaly.decider import DeciderConfig
from anomaly.evaluation import Evaluation, evaluate
from anomaly.footage.labels import LabeledFootage
from anomaly.footage.source import Source
from anomaly.report.calibration import _ordinary
from anomaly.scoring import Scored
from anomaly.thresholds import Threshold, _camera

CONFIG = DeciderConfig(smoothing_s=2.0)


class Cameras:
    """Chips a second and a half after jams: they stand out little on `a`, and very much on `b`, of which more was held out."""

    def __init__(self) -> None:
        chance = np.random.default_rng(0)
        times, minutes = np.arange(100) / 10, np.arange(9000) / 10
        self.labeled: list[Series] = []
        self.events: list[Event] = []
        self.holdout: list[Series] = []
        for camera, height, n_held_out in (("a", 0.8, 1), ("b", 40.0, 3)):
            for i in range(70):
                name = f"{camera}/{i}.mp4"
                scores = np.maximum(1 + 0.1 * chance.normal(size=len(times)), 0)
                scores[(times >= 2) & (times < 4)] += 60
                scores[(times >= 5.5) & (times < 7)] += height * (1 + 0.1 * chance.random())
                self.labeled.append(Series(name, times, scores, camera))
                self.events += [Event(name, 2, 4, ("jam",)), Event(name, 5.5, 7, ("chip",))]
            for i in range(n_held_out):
                scores = np.maximum(1 + 0.1 * chance.normal(size=len(minutes)), 0)
                self.holdout.append(Series(f"{camera}/h{i}.mp4", minutes, scores, camera))
        self.camera_of = {one.source: one.camera for one in self.labeled}
        self.found: CameraCalibrations = calibrate_cameras(
            self.labeled, self.events, self.holdout, CONFIG, tolerance_s=0.5
        )
        self.document = {
            "cameras": {
                camera: {
                    "threshold": own.threshold,
                    **asdict(self.found.scales[camera]),
                    "by_itself": True,
                    "certificate": None,
                }
                for camera, own in self.found.own.items()
            }
        }


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    made = Cameras()
    assert set(made.found.own) == {"a", "b"}
    assert all(one.caught for own in made.found.own.values() for one in own.events)
    return made


def evaluated(
    labeled: list[Series], events: list[Event], holdout: list[Series], threshold: Threshold
) -> Evaluation:
    scored = [
        Scored(
            Source(Path(one.source), one.source, "video"),
            np.arange(len(one.times)),
            one.times,
            one.scores,
            None,
            (9, 9),
            "",
        )
        for one in labeled
    ]
    footage = LabeledFootage(tuple(one.source for one in scored), (), {}, Path("labels.csv"))
    return evaluate(footage, events, scored, holdout, threshold, slack_s=0.5, grid=(1, 1))


def test_evaluate_finds_caught_what_calibration_did(cameras: Cameras):
    threshold = Threshold(cameras.found.pooled.threshold, CONFIG, None, 10.0, "", cameras.document)
    found = evaluated(cameras.labeled, cameras.events, cameras.holdout, threshold)
    assert found.figures["event_recall"] == 1.0


def test_evaluate_finds_caught_what_a_threshold_that_cameras_share_did(cameras: Cameras):
    """Normal footage that drifts lies on another scale by fifths than as a whole: what is ordinary among all lies beside 1."""
    few = [one for one in cameras.labeled if int(Path(one.source).stem) < 20]
    events = [event for event in cameras.events if event.video in {one.source for one in few}]
    drift = [replace(one, scores=one.scores + np.sqrt(one.times / 900)) for one in cameras.holdout]
    found = calibrate_cameras(few, events, drift, CONFIG, tolerance_s=0.5)
    assert not found.own
    assert found.pooled.ordinary != 1.0
    document = {"cameras": {camera: _camera(found, camera) for camera in found.scales}}
    threshold = Threshold(found.pooled.threshold, CONFIG, None, 10.0, "", document)
    told = evaluated(few, events, drift, threshold)
    assert [one.caught for one in told.outcomes] == [one.caught for one in found.pooled.events]


def test_evaluate_finds_caught_what_did_beside_a_part_of_the_footage(cameras: Cameras):
    """A study reports on the half that chose nothing, and scores events beside what is ordinary there."""
    labeled = [one for one in cameras.labeled if one.camera == "a"]
    events = [event for event in cameras.events if event.video in {one.source for one in labeled}]
    chose, left = (
        replace(cameras.holdout[i], source=f"{i}", scores=cameras.holdout[i].scores - 0.1 * i) for i in (1, 0)
    )
    found = calibrate(labeled, events, [left], CONFIG, tolerance_s=0.5)
    assert all(one.caught for one in found.events)
    threshold = Threshold(found.threshold, CONFIG, None, 10.0, "", found.to_json())
    assert evaluated(labeled, events, [chose, left], threshold).figures["event_recall"] == 1.0


def test_the_curve_of_the_page_counts_what_its_table_counts(cameras: Cameras):
    shown = cameras.found.as_decided(cameras.camera_of)
    assert all(one.caught for one in shown.events)
    table = study(
        [cameras.found.apply(one) for one in cameras.labeled],
        cameras.events,
        cameras.found.apply_normal(cameras.holdout),
        [CONFIG],
        [shown.threshold],
        tolerance_s=0.5,
        ordinary=_ordinary(shown, cameras.document),
    )
    assert table.recall.tolist() == [[1.0]]


def test_evidence_scores_each_event_as_its_cameras_threshold_was_set(cameras: Cameras):
    # The lowest of each camera lies on its threshold: scored a trace lower it would be no evidence, and never missed.
    found = {one.event: one.score for one in cameras.found.as_scored(cameras.camera_of).events}
    own = {one.event: one.score for some in cameras.found.own.values() for one in some.events}
    assert found == own
    assert own != {one.event: one.score for one in cameras.found.pooled.events}


def test_false_alarms_of_no_normal_footage_are_not_known(cameras: Cameras):
    labeled = cameras.labeled[:3]
    events = [event for event in cameras.events if event.video in {one.source for one in labeled}]
    told = evaluated(labeled, events, [], Threshold(0.0, CONFIG, None, 10.0, "", {})).figures
    assert told["event_recall"] == 1.0
    assert (told["false_alarms"], told["alarm_time_share"], told["false_alarms_per_hour"]) == (
        None,
        None,
        None,
    )


def test_what_several_cameras_prove_is_not_left_standing_as_what_each_does(cameras: Cameras):
    def told(*numbers: int) -> str:
        few = [one for one in cameras.labeled if int(Path(one.source).stem) < numbers[one.camera == "b"]]
        events = [event for event in cameras.events if event.video in {one.source for one in few}]
        return calibrate_cameras(few, events, cameras.holdout, CONFIG, tolerance_s=0.5).text()

    both = told(20, 20)
    assert "What is certified of several cameras speaks for their anomalies as a whole" in both
    assert both.endswith("No recall is certified for a or b alone: `run` says UNCERTIFIED there.")
    one = told(20, 0)
    assert "of several cameras" not in one
    assert one.endswith("No recall is certified for b alone: `run` says UNCERTIFIED there.")
