"""The normal footage that false alarms are counted on: what `fit` held out and what is labelled normal, as it is looked at now."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median_low
from typing import TYPE_CHECKING

import numpy as np

from anomaly.calibration import camera_of
from anomaly.calibration.checks import some
from anomaly.commands import console
from anomaly.footage.clock import Sampler
from anomaly.scores import read_series
from anomaly.thresholds import COARSER

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from anomaly.calibration import Event, Series
    from anomaly.model import Model

#: Frames that are no farther apart than so many times others are not thinned to these: rates are rounded.
_AS_FAR_APART = 1.05


def apart(
    series: Sequence[Series], events: Sequence[Event], familiar: Collection[str] = ()
) -> tuple[list[Series], list[Series]]:
    """(series with an event, series without): the latter are normal footage that nothing was learned from."""
    with_events = {event.video for event in events}
    return (
        [one for one in series if one.source in with_events],
        [one for one in series if one.source not in with_events and one.source not in familiar],
    )


def normal_footage(
    model: Model,
    labelled: Sequence[Series],
    fps: float | None,
    steps: Mapping[str, float],
    cameras: Collection[str] | None = None,
) -> list[Series]:
    """The held-out footage and the labelled normal one, of as many frames a second as are looked at now.

    Args:
        model: loaded.
        labelled: normal series, as `apart` gives them.
        fps, steps: as for `held_out`.
        cameras: whose footage counts; None = all.
    """
    holdout = held_out(model, fps, steps)
    if cameras is not None:
        holdout = _of_cameras(holdout, cameras)
    return holdout + [as_seldom(one, fps, steps) for one in labelled]


def held_out(model: Model, fps: float | None, steps: Mapping[str, float]) -> list[Series]:
    """The scores that `fit` held out, of as many frames a second as are looked at now.

    Of more frames smoothing leaves less that alarms by chance: `fit` at ten a second tells too little of two.

    Args:
        model: loaded.
        fps: the most frames a second that are taken.
        steps: seconds between those of the labelled videos, as `steps_of` gives them: files may have fewer.
    """
    return [as_seldom(one, fps, steps) for one in read_series(model.folder, "holdout")]


def as_seldom(normal: Series, fps: float | None, steps: Mapping[str, float]) -> Series:
    """Normal footage, held out or labelled, with as few frames as `held_out` tells of."""
    step_s = max(_step_s(normal.camera, steps), 1 / fps if fps else 0.0)
    if not normal.interval_s or step_s <= _AS_FAR_APART * normal.interval_s:
        return normal
    sampler = Sampler(1 / step_s, float(normal.times[0]))
    taken = np.array([sampler.takes(time_s) for time_s in normal.times.tolist()])
    return replace(normal, times=normal.times[taken], scores=normal.scores[taken])


def _step_s(camera: str, steps: Mapping[str, float]) -> float:
    return steps.get(camera, max(steps.values(), default=0.0))


def seen_seldom(normal: Sequence[Series], steps: Mapping[str, float]) -> list[str]:
    """What to say where normal footage has fewer frames than the labelled: what is brief was mostly passed over in it.

    Args:
        normal: held-out and labelled normal footage.
        steps: as for `held_out`.
    """
    times = {one.source: one.interval_s / (_step_s(one.camera, steps) or math.inf) for one in normal}
    seldom = [name for name, more in times.items() if more > COARSER]
    if not seldom:
        return []
    return [
        f"Normal footage that false alarms are counted on has up to {max(times.values()):.2g} times fewer frames a second than the "
        f"labelled videos ({some(seldom)}): what is brief was mostly passed over there, and false alarms and chance hits may be as many times "
        "those told, above the bound, too. Hold out footage that has as many."
    ]


def steps_of(series: Sequence[Series], events: Sequence[Event], each: bool) -> dict[str, float]:
    """Usual (median) mean time between frames of the videos that certify, in seconds; of all with events where none does.

    The longest would let one clip that was seen seldom speak for all footage seen so.

    Args:
        series, events: labelled.
        each: by camera; else one for all, called as the camera of footage without a folder.
    """
    certifying = [event for event in events if event.certifies] or events
    named = {event.video for event in certifying}
    steps: dict[str, list[float]] = {}
    for one in series:
        if one.source in named and one.interval_s:
            steps.setdefault(one.camera if each else camera_of(""), []).append(one.interval_s)
    return {camera: median_low(some) for camera, some in steps.items()}


def pooled_folders(series: Sequence[Series], events: Sequence[Event], normal: Sequence[Series]) -> list[str]:
    """What to say where footage of several folders counts as one camera's, though they may well be cameras.

    Folders of cameras hold normal footage and anomalies. Those of a set by kinds of anomaly, as MVTec AD's, hold no normal
    footage but in one.

    Args:
        series: that have an event, of a calibration that does not tell cameras apart.
        events: labelled.
        normal: held-out and labelled normal footage.
    """
    with_events = {event.video for event in events}
    anomalous = {one.camera for one in series if one.source in with_events}
    folders = {one.camera for one in normal} - {camera_of("")}
    if len(folders) < 2 or not folders & anomalous:
        return []
    return [
        f"Footage of {len(folders)} folders ({some(sorted(folders))}) was pooled as one camera's. Where each is a camera, name it in the "
        "labels' column `camera` (or set calibration.cameras=folder): each is then judged by itself."
    ]


def _of_cameras(holdout: Sequence[Series], cameras: Collection[str]) -> list[Series]:
    """The held-out footage of some cameras; told, where there is other footage, which is not used."""
    others = [one.source for one in holdout if one.camera not in cameras]
    if others:
        console.warn(
            [
                f"held-out footage of none of the cameras ({', '.join(sorted(cameras))}), not used: {some(others)}; "
                "fit on a folder that holds a folder for each camera"
            ]
        )
    return [one for one in holdout if one.camera in cameras]
