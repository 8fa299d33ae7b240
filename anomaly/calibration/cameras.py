"""Several cameras (or regimes): scores on one scale, and a certificate for each that can carry one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.calibration.certificate import events_needed, percent
from anomaly.calibration.events import Event
from anomaly.calibration.false_alarms import false_alarms
from anomaly.calibration.result import Calibration
from anomaly.calibration.series import Series, by_source, decide
from anomaly.calibration.threshold import calibrate
from anomaly.decider import DeciderConfig
from anomaly.errors import CalibrationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.calibration.certificate import Certificate


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """Puts raw scores of one camera on a scale that cameras share.

    1 is the camera's ordinary (median) normal frame, 2 its 1-in-100 normal frame, both on its own
    hold-out. Straight in between and beyond, 0 at the lowest.

    Attributes:
        ordinary, rare: the two raw scores.
    """

    ordinary: float
    rare: float

    def apply(self, series: Series) -> Series:
        """The series with its scores on the shared scale."""
        return replace(series, scores=self.of(series.scores))

    def of(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw scores on the shared scale; the same to the last bit for one as for many."""
        return np.maximum(1 + (scores - self.ordinary) / (self.rare - self.ordinary), 0.0)

    def raw(self, score: float) -> float:
        """The raw score that lies at a score of the shared scale, 0 or more; rounded, for comparing cameras."""
        return max(0.0, self.ordinary + (score - 1) * (self.rare - self.ordinary))


def camera_of(source: str) -> str:
    """The camera that a source's name tells: its first folder, or "default" without one."""
    folder, slash, _ = source.partition("/")
    return folder if slash else "default"


def fit_scale(holdout: Sequence[Series]) -> ScoreScale:
    """The scale of one camera, from its own normal footage.

    Raises:
        CalibrationError: no footage, or scores without any spread.
    """
    if not holdout:
        raise CalibrationError("there is no normal footage of a camera to put its scores on a scale")
    scores = np.concatenate([one.scores for one in holdout])
    ordinary, rare = np.quantile(scores, [0.5, 0.99]).tolist()
    if not rare > ordinary:
        raise CalibrationError(
            f"camera {holdout[0].camera!r}: half of its normal scores are {ordinary:g} and hardly any is "
            "higher; hold out more of its normal footage"
        )
    return ScoreScale(ordinary, rare)


@dataclass(frozen=True)
class CameraCalibrations:
    """Calibrations of several cameras on one scale.

    Attributes:
        scales: each camera's scale; apply it before the decider.
        pooled: all cameras' events together, one threshold.
        own: cameras whose own events prove the target: their own threshold and certificate.
        assumption: what the pooled certificate takes for granted, and each pooled camera's figures.
        labelled: cameras with an event that proves something; of the others nothing is certified.
    """

    scales: Mapping[str, ScoreScale]
    pooled: Calibration
    own: Mapping[str, Calibration]
    assumption: str
    labelled: frozenset[str]

    def proven(self, camera: str) -> tuple[Certificate | None, str]:
        """The certificate that speaks for a camera, or None and why there is none."""
        if camera not in self.labelled:
            return (
                None,
                f"no anomaly of camera {camera} was labelled, so nothing is known of those it will catch",
            )
        result = self.own.get(camera, self.pooled)
        return result.certificate, result.withheld

    def threshold(self, camera: str) -> float:
        """The threshold of a camera, on the shared scale."""
        return self.own.get(camera, self.pooled).threshold

    def text(self) -> str:
        """All of it in plain words."""
        lines = [f"All cameras together: {self.pooled.text()}"]
        lines += [f"Camera {camera} by itself: {one.text()}" for camera, one in self.own.items()]
        return "\n".join([*lines, self.assumption] if self.assumption else lines)


def calibrate_cameras(
    labeled: Sequence[Series],
    events: Sequence[Event],
    holdout: Sequence[Series],
    config: DeciderConfig,
    **options: Any,
) -> CameraCalibrations:
    """Calibrate each camera by itself where its events suffice for the target, and all of them together.

    Each camera is judged at the confidence asked for, by itself.

    Args:
        labeled, events, holdout, config: as for `calibrate`, with `Series.camera` set and raw scores.
        options: keyword arguments of `calibrate`.

    Raises:
        CalibrationError: as `calibrate` and `fit_scale`.
    """
    scales = fit_scales(labeled, holdout)
    cameras = list(scales)
    labeled = [scales[one.camera].apply(one) for one in labeled]
    holdout = [scales[one.camera].apply(one) for one in holdout]
    camera_of = {name: one.camera for name, one in by_source(labeled).items()}
    pooled = calibrate(labeled, events, holdout, config, **options)
    needed = events_needed(
        options.get("target_recall", 0.95), options.get("confidence", 0.95), options.get("settings_tried", 1)
    )
    own, told, labelled = {}, [], set()
    for camera in cameras:
        mine = [event for event in events if camera_of.get(event.video) == camera]
        proving = [event for event in mine if event.certifies]
        by_clip = options.get("count", "clip") == "clip"
        n = len({event.video for event in proving}) if by_clip else len(proving)
        normal = [one for one in holdout if one.camera == camera]
        if proving:
            labelled.add(camera)
        if needed is not None and n >= needed:
            own[camera] = calibrate(
                [one for one in labeled if one.camera == camera],
                mine,
                normal,
                config,
                **options,
            )
            continue
        rows = [one for one in pooled.events if camera_of[one.event.video] == camera]
        caught = sum(one.caught for one in rows)
        share = f" ({percent(caught / len(rows))})" if rows else ""
        price = false_alarms([decide(one, config) for one in normal], pooled.threshold)
        told.append(
            f"Camera {camera}: {caught} of {len(rows)} labelled events caught{share}; {price.text()}"
            + ("" if proving else f" Nothing is certified for {camera}: no anomaly of it was labelled.")
        )
    assumption = ""
    if told:
        assumption = (
            "The pooled certificate speaks for the cameras together, and for one of them only if its "
            f"anomalies stand out from its normal footage as much as the others' do. {' '.join(told)}"
        )
    return CameraCalibrations(scales, pooled, own, assumption, frozenset(labelled))


def fit_scales(labeled: Sequence[Series], holdout: Sequence[Series]) -> dict[str, ScoreScale]:
    """The scale of each camera that there is footage of, by name.

    Raises:
        CalibrationError: a camera without normal footage, or without any spread in its scores.
    """
    normal: dict[str, list[Series]] = {one.camera: [] for one in [*labeled, *holdout]}
    for one in holdout:
        normal[one.camera].append(one)
    without = [camera for camera in sorted(normal) if not normal[camera]]
    if without:
        raise CalibrationError(
            f"no normal footage of camera {without[0]} was held out to put its scores on a scale; fit on a folder that "
            f"holds a folder {without[0]}/, or label videos of it as normal"
        )
    return {camera: fit_scale(normal[camera]) for camera in sorted(normal)}
