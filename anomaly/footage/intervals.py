"""Labelled intervals of videos: checked against the footage, widened, joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from anomaly.footage.label_csv import DETECTOR_FOUND, HOW_FOUND
from anomaly.types import Interval


def join_overlapping(intervals: Sequence[Interval]) -> tuple[tuple[Interval, ...], int]:
    """Join the intervals of each video that overlap: they are one incident.

    A joined interval reaches from the first start to the last end, carries the labels in order of appearance
    ("jam + spill"), and counts as found in the way that proves least. Intervals that only touch stay apart, and so
    do those that the detector found from those that it did not: what becomes of them is for the one who counts
    (`anomaly.calibration.join_events`).

    Returns:
        The intervals, by video in order of appearance, then by start; and how many were joined to another.
    """
    order = {video: i for i, video in enumerate(dict.fromkeys(interval.video for interval in intervals))}
    joined: list[Interval] = []
    for _, group in groupby(
        sorted(intervals, key=lambda i: (order[i.video], i.start_s, i.end_s)), key=lambda i: i.video
    ):
        of_video: list[Interval] = []
        for _, alike in groupby(sorted(group, key=_by_detector), key=_by_detector):
            incidents: list[Interval] = []
            for interval in alike:
                if incidents and interval.start_s < incidents[-1].end_s:
                    incidents[-1] = _union(incidents[-1], interval)
                else:
                    incidents.append(interval)
            of_video.extend(incidents)
        joined.extend(sorted(of_video, key=lambda interval: (interval.start_s, interval.end_s)))
    return tuple(joined), len(intervals) - len(joined)


def _by_detector(interval: Interval) -> bool:
    return interval.found in DETECTOR_FOUND


def _union(first: Interval, second: Interval) -> Interval:
    labels = dict.fromkeys([*first.label.split(" + "), *second.label.split(" + ")])
    return replace(
        first,
        end_s=max(first.end_s, second.end_s),
        label=" + ".join(labels),
        found=max(first.found, second.found, key=HOW_FOUND.index),
    )
