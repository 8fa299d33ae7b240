"""Several cameras (or regimes): scores on one scale, and a certificate for each that can carry one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from anomaly.calibration.budget import without
from anomaly.calibration.certificate import events_needed, percent
from anomaly.calibration.checks import chance_verdict
from anomaly.calibration.events import Event, searched_s
from anomaly.calibration.false_alarms import FalseAlarms, false_alarms, normal_windows
from anomaly.calibration.result import Calibration
from anomaly.calibration.series import Series, by_source, decide
from anomaly.calibration.threshold import calibrate, kind_outcomes
from anomaly.decider import DeciderConfig
from anomaly.errors import CalibrationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.calibration.certificate import Certificate


_SMALLEST = 1e-9


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
        unspoken: why the pooled certificate does not speak for a camera: its own normal footage reaches the pooled
            threshold too often, or its own labelled events contradict it.
    """

    scales: Mapping[str, ScoreScale]
    pooled: Calibration
    own: Mapping[str, Calibration]
    assumption: str
    labelled: frozenset[str]
    unspoken: Mapping[str, str] = field(default_factory=dict)

    def proven(self, camera: str) -> tuple[Certificate | None, str]:
        """The certificate that speaks for a camera, or None and why there is none."""
        if camera not in self.labelled:
            return (
                None,
                f"no anomaly of camera {camera} was labelled, so nothing is known of those it will catch",
            )
        if camera in self.unspoken:
            return None, self.unspoken[camera]
        result = self.own.get(camera, self.pooled)
        return result.certificate, result.withheld

    def threshold(self, camera: str) -> float:
        """The threshold of a camera, on the shared scale."""
        return self.own.get(camera, self.pooled).threshold

    def factor(self, camera: str) -> float:
        """What brings a camera's scores, on the shared scale, to where its own threshold is the pooled one.

        A threshold of 0, which alarms always, counts as the smallest that does not divide by it.
        """
        return max(self.pooled.threshold, _SMALLEST) / max(self.threshold(camera), _SMALLEST)

    def apply(self, series: Series) -> Series:
        """Raw scores of one camera, so that the pooled threshold decides as the camera's own does."""
        scaled = self.scales[series.camera].apply(series)
        return replace(scaled, scores=scaled.scores * self.factor(series.camera))

    def as_decided(self) -> Calibration:
        """The pooled calibration with each event as its camera's own threshold decides it, for one page of all."""
        by_own = {
            one.event: replace(one, score=one.score * self.factor(camera))
            for camera, own in self.own.items()
            for one in own.events
        }
        events = tuple(by_own.get(one.event, one) for one in self.pooled.events)
        return replace(self.pooled, events=events, kinds=kind_outcomes(events))

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
    seen = {one.event for one in pooled.events if one.outcome != "blind"}
    own: dict[str, Calibration] = {}
    told, labelled, unspoken = [], set(), {}
    for camera in cameras:
        mine = [event for event in events if camera_of.get(event.video) == camera]
        proving = [event for event in mine if event.certifies and event in seen]
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
        price, why = price_on(camera, normal, pooled, labeled, options.get("max_chance_hit", 0.10))
        doubt = ""
        if not proving:
            doubt = f" Nothing is certified for {camera}: no anomaly of it was labelled."
        elif why:
            unspoken[camera] = f"of camera {camera}, {why}"
            doubt = f" No certificate for {camera}: {why}"
        told.append(
            f"Camera {camera}: {caught} of {len(rows)} labelled events caught{share}; {price.text()}{doubt}"
        )
    assumption = ""
    if told:
        assumption = (
            "The pooled certificate speaks for the cameras together, and for one of them only if its "
            f"anomalies stand out from its normal footage as much as the others' do. {' '.join(told)}"
        )
    return CameraCalibrations(scales, pooled, own, assumption, frozenset(labelled), unspoken)


def price_on(
    camera: str,
    normal: Sequence[Series],
    pooled: Calibration,
    labeled: Sequence[Series],
    max_chance_hit: float = 0.10,
) -> tuple[FalseAlarms, str]:
    """What a pooled threshold costs on one camera, and whether what is known of that camera speaks against it.

    Args:
        camera: its name.
        normal: the camera's own normal footage, on the shared scale.
        pooled: the calibration of all cameras together.
        labeled: what it was calibrated on.
        max_chance_hit: as for `calibrate`.

    Returns:
        (false alarms, why the pooled certificate does not speak for this camera, "" if it does).
    """
    named = by_source(labeled)
    lengths = [
        searched_s(one.event, named[one.event.video], pooled.tolerance_s)
        for one in pooled.events
        if one.event.certifies and one.outcome != "blind"
    ]
    reported = [decide(one, pooled.config) for one in without(normal, pooled.spent)]
    windows = normal_windows(reported, lengths)
    price = false_alarms(reported, pooled.threshold, windows=windows)
    if pooled.certificate is None:
        return price, ""
    if (price.chance_hit_rate or 0.0) > max_chance_hit:
        return price, chance_verdict(price, windows, pooled.certificate, pooled.threshold, max_chance_hit)
    return price, _contradicted(camera, pooled, pooled.certificate, labeled)


def _contradicted(
    camera: str, pooled: Calibration, certificate: Certificate, labeled: Sequence[Series]
) -> str:
    """Why a camera's own events speak against the pooled certificate: the most that they allow is less; else ""."""
    of = {one.source: one.camera for one in labeled}
    caught: dict[str, bool] = {}
    for index, one in enumerate(pooled.events):
        if one.event.certifies and one.outcome != "blind" and of[one.event.video] == camera:
            unit = one.event.video if pooled.count == "clip" else str(index)
            caught[unit] = caught.get(unit, True) and one.caught
    n, n_caught = len(caught), sum(caught.values())
    if n_caught == n:
        return ""
    # Clopper and Pearson's other end, at the same confidence.
    most = float(stats.beta.ppf(certificate.confidence, n_caught + 1, n - n_caught))
    if most >= certificate.recall:
        return ""
    return (
        f"{n_caught} of {n} labelled {pooled.count}s are caught: at {percent(certificate.confidence)} no more than "
        f"{percent(most)} of its anomalies, less than the {percent(certificate.recall)} of all cameras together."
    )


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
