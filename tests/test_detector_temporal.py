"""Following a camera: a short search of each frame, and the scores and events of a full one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_model import SmallModel

from anomaly.backbone import Backbone
from anomaly.decider import Decider
from anomaly.detector import Detector, Recent
from anomaly.edge.watch import watch
from anomaly.footage.source import find_sources, read_frames
from anomaly.model import Model, load_model
from anomaly.scoring import look_at
from anomaly.thresholds import load_threshold
from anomaly.types import Frame
from anomaly.weights import load_weights


@pytest.fixture(scope="module")
def model(small_model: SmallModel) -> Model:
    """The small model on a finer grid: of 240 patches a search can leave some out, of 60 it searches all."""
    loaded = load_model(small_model.folder, device="cpu", offline=True)
    (branch,) = loaded.detector.branches
    weights, _ = load_weights(branch.backbone.spec.name, offline=True)
    finer = replace(branch, backbone=Backbone(branch.backbone.spec, weights, (192, 320)))
    return replace(
        loaded, detector=Detector([finer], loaded.detector.regions, loaded.detector.decider.config)
    )


@pytest.fixture(scope="module")
def frames(small_model: SmallModel) -> list[Frame]:
    (source,) = find_sources([small_model.footage.test / "test_01.mp4"])
    return list(read_frames(source, fps=5))


def test_scores_of_a_followed_camera_are_those_of_frames_searched_whole(model: Model, frames: list[Frame]):
    followed = [look for _, look in look_at(model, frames)]
    whole = [model.detector.look([frame.image])[0] for frame in frames]
    np.testing.assert_allclose([one.score for one in followed], [one.score for one in whole], rtol=1e-6)
    for one, other in zip(followed, whole, strict=True):
        assert (one.bounds >= other.distances * (1 - 1e-6)).all()
        assert one.bounds.max() == pytest.approx(other.distances.max(), rel=1e-6)


def test_a_heatmap_of_a_followed_camera_is_exact_for_every_patch(model: Model, frames: list[Frame]):
    loose = 0
    for frame, look in look_at(model, frames[:20]):
        whole = model.detector.look([frame.image])[0]
        loose += int((look.bounds > whole.distances * 1.001).sum())
        np.testing.assert_allclose(look.distances, whole.distances, rtol=1e-5)
        np.testing.assert_allclose(look.heatmap((96, 160)), whole.heatmap((96, 160)), rtol=1e-4, atol=1e-4)
        assert look.box((96, 160)) == whole.box((96, 160))
    assert loose > 0  # else nothing was saved, and nothing tested


def test_events_of_a_followed_camera_are_those_of_frames_searched_whole(model: Model, frames: list[Frame]):
    threshold = load_threshold(model, fps=5.0)
    found = [event for one in watch(model, iter(frames), threshold) for event in one.ended]
    decider = Decider(threshold.decider, threshold.value)
    state, alarms = decider.start(), []
    for frame in frames:
        decision, state = decider.step(state, frame.pts_s, model.detector.look([frame.image])[0].score)
        alarms += decision.ended
    alarms += decider.finish(state)
    assert alarms
    assert [(one.start_s, one.peak_s, one.end_s) for one in found] == [
        (one.start_s, one.peak_s, one.end_s) for one in alarms
    ]


def test_what_another_camera_showed_changes_no_score(model: Model, frames: list[Frame]):
    recent = Recent()
    model.detector.look([frames[25].image, np.zeros_like(frames[0].image)], recent)
    alone = model.detector.look([frames[0].image])[0]
    after = model.detector.look([frames[0].image], recent)[0]
    assert after.score == pytest.approx(alone.score, rel=1e-6)


def test_real_footage_scores_alike(model: Model, shared_data: Path):
    (source,) = find_sources([shared_data / "ped2" / "test" / "test_01.mp4"])
    frames = [frame for _, frame in zip(range(30), read_frames(source), strict=False)]
    followed = [look.score for _, look in look_at(model, frames)]
    whole = [model.detector.look([frame.image])[0].score for frame in frames]
    np.testing.assert_allclose(followed, whole, rtol=1e-6)
