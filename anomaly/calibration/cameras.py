"""Several cameras (or regimes): scores on one scale, and a certificate for each that can carry one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from scipy import stats

from anomaly.calibration.budget import without
from anomaly.calibration.certificate import CHOSE, at_least, at_most, events_needed, percent
from anomaly.calibration.checks import chance_verdict
from anomaly.calibration.events import Event, searched_s, shortest_of_units, unit_keys, unit_name
from anomaly.calibration.false_alarms import FalseAlarms, false_alarms, normal_windows
from anomaly.calibration.result import Calibration
from anomaly.calibration.scales import ScoreScale, fit_scales, scaled_apart
from anomaly.calibration.series import Series, by_source, decide
from anomaly.calibration.threshold import calibrate, kind_outcomes
from anomaly.decider import DeciderConfig
from anomaly.errors import CalibrationError

if TYPE_CHECKING:
    from anomaly.calibration.budget import Spent
    from anomaly.calibration.certificate import Certificate


#: What a threshold of 0, which alarms always, counts as where scores are told in proportion to it.
SMALLEST = 1e-9
_AS_A_WHOLE = (
    "What is certified of several cameras speaks for their anomalies as a whole, and for one of the cameras only if its "
    "anomalies stand out from its normal footage as much as the others' do."
)
_EACH_BY_ITSELF = "no sentence speaks for all cameras; see what is certified of each"


@dataclass(frozen=True)
class CameraCalibrations:
    """Calibrations of several cameras on one scale.

    Attributes:
        scales: each camera's scale; apply it before the decider.
        pooled: the events of all cameras and one threshold for them, for pages of all. Its certificate speaks for the
            cameras together, where all of them use that threshold; it is None where one uses another.
        own: cameras whose own events prove the target, and the only other one with events: their own threshold and
            certificate.
        assumption: what the certificate of several cameras takes for granted, and the figures of each of them.
        unproven: cameras without an event that proves something, and why; nothing is certified of them.
        unspoken: why what is certified of several cameras does not speak for one of them: its own normal footage
            reaches the threshold too often, or its own labelled events contradict it.
        shared: the calibration that decides for the cameras not in `own`; None = `pooled` does.
    """

    scales: Mapping[str, ScoreScale]
    pooled: Calibration
    own: Mapping[str, Calibration]
    assumption: str
    unproven: Mapping[str, str]
    unspoken: Mapping[str, str] = field(default_factory=dict)
    shared: Calibration | None = None

    def proven(self, camera: str) -> tuple[Certificate | None, str]:
        """The certificate of a camera by itself, or None and why it has none.

        Events of other cameras do not certify it: even of cameras that are alike each one's scale is measured on
        footage of its own, and an error in it moves all of its scores against the threshold.
        """
        if camera in self.unproven:
            return (
                None,
                f"{self.unproven[camera]}, so nothing is known of those that camera {camera} will catch",
            )
        if camera in self.unspoken:
            return None, self.unspoken[camera]
        if camera in self.own:
            return self.own[camera].certificate, self.own[camera].withheld
        together = self.deciding(camera)
        if self.unspoken:
            return None, (
                f"the labelled anomalies of camera {camera} are too few to prove the target by themselves, and what the cameras "
                f"prove together does not hold for {', '.join(sorted(self.unspoken))}"
            )
        if together.certificate is None:
            return None, together.withheld
        others = ", ".join(sorted(self.scales.keys() - self.unproven.keys() - self.own.keys() - {camera}))
        return None, (
            f"the labelled anomalies of camera {camera} are too few to prove the target by themselves. Together with those "
            f"of {others} they prove {at_least(together.certificate.recall)} for these cameras as a whole, which is that of {camera} only if "
            "its anomalies stand out from its normal footage as much as theirs do"
        )

    def deciding(self, camera: str) -> Calibration:
        """The calibration whose threshold a camera uses."""
        return self.own.get(camera) or self.shared or self.pooled

    def threshold(self, camera: str) -> float:
        """The threshold of a camera, on the shared scale."""
        return self.deciding(camera).threshold

    def factor(self, camera: str) -> float:
        """What brings a camera's scores, on the shared scale, to where its own threshold is the pooled one.

        A threshold of 0, which alarms always, counts as the smallest that does not divide by it.
        """
        return max(self.pooled.threshold, SMALLEST) / max(self.threshold(camera), SMALLEST)

    def apply(self, series: Series) -> Series:
        """Raw scores of one camera, so that the pooled threshold decides as the camera's own does."""
        scaled = self.scales[series.camera].apply(series)
        return replace(scaled, scores=scaled.scores * self.factor(series.camera))

    def apply_normal(self, holdout: Sequence[Series]) -> list[Series]:
        """Normal footage as it was counted, for the pooled threshold like `apply`."""
        return [
            self.apply(one)
            if one.camera in self.own
            else replace(apart, scores=apart.scores * self.factor(one.camera))
            for one, apart in zip(holdout, scaled_apart(holdout), strict=True)
        ]

    def spending(self, spent: Sequence[Spent]) -> CameraCalibrations:
        """The same, with more normal footage on which something was chosen."""
        own = {camera: one.spending(spent) for camera, one in self.own.items()}
        shared = self.shared and self.shared.spending(spent)
        return replace(self, pooled=self.pooled.spending(spent), own=own, shared=shared)

    def noting(self, notes: Sequence[str]) -> CameraCalibrations:
        """The same, with more to be told of all cameras."""
        return replace(self, assumption=" ".join([self.assumption, *notes]).strip())

    def as_decided(self, camera_of: Mapping[str, str]) -> Calibration:
        """The pooled calibration with each event as its camera's own threshold decides it, for one page of all.

        Args:
            camera_of: the camera of each labelled video.
        """
        scored = self.as_scored(camera_of)
        events = tuple(
            replace(one, score=one.score * self.factor(camera_of[one.event.video])) for one in scored.events
        )
        return replace(scored, events=events, kinds=kind_outcomes(events))

    def as_scored(self, camera_of: Mapping[str, str]) -> Calibration:
        """The pooled calibration with each event as the one scored it whose threshold its camera uses, on the shared scale.

        What is ordinary among all cameras lies a little beside what is on one of them, and events are scored by it.

        Args:
            camera_of: the camera of each labelled video.
        """
        by_own = {
            one.event: one
            for camera in self.scales
            for one in self.deciding(camera).events
            if camera_of[one.event.video] == camera
        }
        events = tuple(by_own.get(one.event, one) for one in self.pooled.events)
        return replace(self.pooled, events=events, kinds=kind_outcomes(events))

    def text(self) -> str:
        """All of it in plain words."""
        lines = [] if self.own else [f"All cameras together: {self.pooled.text()}"]
        lines += [f"Camera {camera} by itself: {one.text()}" for camera, one in self.own.items()]
        if self.shared is not None:
            rest = ", ".join(sorted(set(self.scales) - set(self.own)))
            lines.append(f"Of {rest}, together: {self.shared.text()}")
        lines += [self.assumption] if self.assumption else []
        # What stands above for several speaks for none of them, and who reads it would take it for each.
        without = [camera for camera in sorted(self.scales) if self.proven(camera)[0] is None]
        if without:
            lines.append(
                f"No recall is certified for {' or '.join(without)} alone: `run` says UNCERTIFIED there."
            )
        return "\n".join(lines)


def calibrate_cameras(
    labeled: Sequence[Series],
    events: Sequence[Event],
    holdout: Sequence[Series],
    config: DeciderConfig,
    **options: Any,
) -> CameraCalibrations:
    """Calibrate each camera by itself where its events suffice for the target, and the others together.

    Which cameras stand by themselves is decided by the number of their events, before scores are looked at. Each is
    judged at the confidence asked for, by itself. The others share a threshold, and what is certified of them
    is of their anomalies as a whole, in the proportions of the labelled ones.

    Args:
        labeled, events, holdout, config: as for `calibrate`, with `Series.camera` set and raw scores.
        options: keyword arguments of `calibrate`.

    Raises:
        CalibrationError: as `calibrate` and `fit_scale`.
    """
    scales = fit_scales(labeled, holdout)
    return calibrate_scaled(
        [scales[one.camera].apply(one) for one in labeled],
        events,
        scaled_apart(holdout),
        config,
        scales,
        whole=[scales[one.camera].apply(one) for one in holdout],
        **options,
    )


def calibrate_scaled(
    labeled: Sequence[Series],
    events: Sequence[Event],
    holdout: Sequence[Series],
    config: DeciderConfig,
    scales: Mapping[str, ScoreScale],
    *,
    whole: Sequence[Series],
    **options: Any,
) -> CameraCalibrations:
    """`calibrate_cameras` of scores that are on the shared scale already.

    Args:
        scales: what put them there, by camera; normal footage is put there by `scaled_apart`.
        whole: the same normal footage on `scales`, to count on for a camera that is calibrated by itself: its threshold and its
            scores move alike with its scale, so that no scale changes what alarms.
        labeled, events, holdout, config, options: as for `calibrate_cameras`.

    Raises:
        CalibrationError: as `calibrate`.
    """
    camera_of = {name: one.camera for name, one in by_source(labeled).items()}
    pooled = _per_camera(calibrate(labeled, events, holdout, config, **options), holdout)
    needed = events_needed(
        options.get("target_recall", 0.95), options.get("confidence", 0.95), options.get("settings_tried", 1)
    )
    seen = {one.event for one in pooled.events if one.outcome != "blind"}
    of = {camera: [one for one in events if camera_of.get(one.video) == camera] for camera in scales}
    proving = {
        camera: len(set(unit_keys([one for one in mine if one.certifies and one in seen], pooled.count)))
        for camera, mine in of.items()
    }

    def calibrated(some: Sequence[str]) -> Calibration:
        normal = [one for one in (whole if len(some) == 1 else holdout) if one.camera in some]
        found = calibrate(
            [one for one in labeled if one.camera in some],
            [one for one in events if camera_of.get(one.video) in some],
            normal,
            config,
            **options,
        )
        return _per_camera(found, normal)

    own: dict[str, Calibration] = {}
    failing: dict[str, str] = {}
    for camera, n in proving.items():
        if needed is not None and n >= needed:
            try:
                own[camera] = calibrated([camera])
            except CalibrationError as error:  # what is not seen on one camera takes nothing from the others
                failing[camera] = str(error)
    rest = [camera for camera in scales if camera not in own]
    provers = [camera for camera in rest if proving[camera]]
    shared = None
    try:
        if failing or not provers:
            pass
        elif len(provers) == 1:
            # It has nobody to be pooled with: what its few events prove, they prove of it.
            own[provers[0]] = calibrated(provers)
            rest.remove(provers[0])
        elif own:
            shared = calibrated(rest)
    except CalibrationError as error:
        failing = dict.fromkeys(provers, str(error))
    together = shared or pooled
    unproven = {camera: _unproven(of[camera]) for camera, n in proving.items() if not n}
    told, unspoken = [], {}
    for camera in rest:
        rows = [one for one in together.events if camera_of[one.event.video] == camera]
        caught = sum(one.caught for one in rows)
        share = f" ({percent(caught / len(rows))})" if rows else ""
        normal = [one for one in holdout if one.camera == camera]
        price, why = price_on(
            camera,
            normal,
            together,
            labeled,
            options.get("max_chance_hit", 0.10),
            options.get("confidence", 0.95),
        )
        doubt, why = "", failing.get(camera) or why
        if camera in unproven:
            doubt = f" Nothing is certified for {camera}: {unproven[camera]}."
        elif why:
            unspoken[camera] = f"of camera {camera}, {why}"
            doubt = f" No certificate for {camera}: {why}"
        told.append(
            f"Camera {camera}: {caught} of {len(rows)} labelled events caught{share}; {price.text()}{doubt}"
        )
    as_a_whole = any(camera not in unproven for camera in rest)
    assumption = " ".join([*([_AS_A_WHOLE] if as_a_whole else []), *told])
    if own or unspoken:
        # One sentence for all would speak of a threshold that some do not use, or of a camera that contradicts it.
        ends = tuple(replace(end, certificate=None, withheld=_EACH_BY_ITSELF) for end in pooled.conflict)
        pooled = replace(pooled, certificate=None, withheld=_EACH_BY_ITSELF, conflict=ends)
    return CameraCalibrations(scales, pooled, own, assumption, unproven, unspoken, shared)


def _per_camera(calibration: Calibration, holdout: Sequence[Series]) -> Calibration:
    """The same, told that the hours of its false alarms are those of several cameras, one after the other."""
    n_cameras = len({one.camera for one in without(holdout, calibration.spent)})

    def told(price: FalseAlarms) -> FalseAlarms:
        return replace(price, n_cameras=max(n_cameras, 1))

    ends = tuple(replace(end, false_alarms=told(end.false_alarms)) for end in calibration.conflict)
    return replace(calibration, false_alarms=told(calibration.false_alarms), conflict=ends)


def _unproven(events: Sequence[Event]) -> str:
    """Why a camera with these events, of which none proves anything, has nothing proven."""
    if not events:
        return "no anomaly of it was labelled"
    if any(one.certifies for one in events):
        return "its footage shows none of the anomalies labelled of it"
    if any(one.found == CHOSE for one in events):
        return "its labelled anomalies served to choose the setting"
    return "its labelled anomalies were found by the detector itself"


def price_on(
    camera: str,
    normal: Sequence[Series],
    pooled: Calibration,
    labeled: Sequence[Series],
    max_chance_hit: float = 0.10,
    confidence: float = 0.95,
) -> tuple[FalseAlarms, str]:
    """What a pooled threshold costs on one camera, and whether what is known of that camera speaks against it.

    Args:
        camera: its name.
        normal: the camera's own normal footage, on the shared scale.
        pooled: the calibration of all cameras together.
        labeled: what it was calibrated on.
        max_chance_hit, confidence: as for `calibrate`.

    Returns:
        (false alarms, why the pooled certificate does not speak for this camera, "" if it does).
    """
    named = by_source(labeled)
    counted = [one.event for one in pooled.events if one.event.certifies and one.outcome != "blind"]
    lengths = [searched_s(event, named[event.video], pooled.tolerance_s) for event in counted]
    reported = [decide(one, pooled.config) for one in without(normal, pooled.spent)]
    windows = normal_windows(
        reported, [lengths[i] for i in shortest_of_units(counted, lengths, pooled.count)]
    )
    price = false_alarms(
        reported,
        pooled.threshold,
        windows=windows,
        confidence=confidence,
        settings_tried=pooled.settings_tried,
    )
    if pooled.certificate is None:
        return price, ""
    if price.chance_hit_rate is None:
        return price, (
            "none of its normal footage is left to tell false alarms and hits by chance on; hold out more of it."
        )
    if price.chance_hit_rate > max_chance_hit:
        return price, chance_verdict(price, windows, pooled.certificate, pooled.threshold, max_chance_hit)
    return price, _contradicted(camera, pooled, pooled.certificate, labeled)


def _contradicted(
    camera: str, pooled: Calibration, certificate: Certificate, labeled: Sequence[Series]
) -> str:
    """Why a camera's own events speak against the pooled certificate: the most that they allow is less; else ""."""
    of = {one.source: one.camera for one in labeled}
    mine = [
        one
        for one in pooled.events
        if one.event.certifies and one.outcome != "blind" and of[one.event.video] == camera
    ]
    events = [one.event for one in mine]
    caught: dict[str, bool] = {}
    for one, unit in zip(mine, unit_keys(events, pooled.count), strict=True):
        caught[unit] = caught.get(unit, True) and one.caught
    n, n_caught = len(caught), sum(caught.values())
    if n_caught == n:
        return ""
    # Clopper and Pearson's other end, at the same confidence.
    most = float(stats.beta.ppf(certificate.confidence, n_caught + 1, n - n_caught))
    if most >= certificate.recall:
        return ""
    return (
        f"{n_caught} of {n} labelled {unit_name(events, pooled.count)}s are caught: at {percent(certificate.confidence)} no more than "
        f"{at_most(most)} of its anomalies, less than the {at_least(certificate.recall)} of all cameras together."
    )
