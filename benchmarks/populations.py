"""Populations of scored clips whose true recall at any threshold is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

from anomaly.artifact import read_signed
from anomaly.calibration import Event, Series, decide, event_scores
from anomaly.calibration.events import counting_units
from anomaly.decider import DeciderConfig
from anomaly.exported import TORCH
from anomaly.scores import read_series
from anomaly.thresholds import calibrated_events

TOLERANCE_S = 0.5
FPS, CLIP_FRAMES = 10.0, 150
#: Scores are rounded to this, so that they tie.
STEP = 0.02
#: What ordinary footage scores: the truth is that of events with nothing before them, as certificates speak of.
ORDINARY = 1.0


class Population:
    """Clips to draw from with replacement, and the true share of them that a threshold catches whole."""

    def __init__(self, series: list[Series], events: list[list[Event]]) -> None:
        self.series, self.events = series, events
        self._scores: dict[DeciderConfig, np.ndarray] = {}

    def draw(self, chance: np.random.Generator, n: int) -> tuple[list[Series], list[Event]]:
        """Clips with replacement; one that is drawn again comes under another name."""
        series, events, times = [], [], dict[int, int]()
        for i in chance.integers(len(self.series), size=n).tolist():
            times[i] = times.get(i, 0) + 1
            name = self.series[i].source + ("" if times[i] == 1 else f"#{times[i]}")
            series.append(self.series[i] if times[i] == 1 else replace(self.series[i], source=name))
            events += [replace(event, video=name) for event in self.events[i]]
        return series, events

    def recall(self, config: DeciderConfig, threshold: float) -> float:
        """True share of clips of which every event reaches the threshold."""
        if config not in self._scores:
            decided = {one.source: decide(one, config) for one in self.series}
            events = [event for some in self.events for event in some]
            units = counting_units(events, event_scores(events, decided, TOLERANCE_S, ORDINARY), "clip")
            self._scores[config] = np.sort(units)
        scores = self._scores[config]
        return 1 - float(np.searchsorted(scores, threshold)) / len(scores)


def noise(chance: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return ORDINARY + 0.08 * lfilter([1], [1, -0.85], chance.normal(size=shape), axis=-1)


def simulated_population(chance: np.random.Generator, size: int) -> Population:
    scores = noise(chance, (size, CLIP_FRAMES))
    times = np.arange(CLIP_FRAMES) / FPS
    series, events = [], []
    for i in range(size):
        clip_luck, mine = chance.normal(0, 0.4), []
        for slot in chance.choice(4, size=chance.integers(1, 5), replace=False):
            start, length = 1 + 3.5 * slot + chance.random(), 0.5 + chance.exponential(0.7)
            end = min(start + length, 4.4 + 3.5 * slot)
            height = np.exp(clip_luck + chance.normal(0, 0.6))
            scores[i, (times >= start) & (times < end)] += height
            mine.append(Event(f"clip{i}", start, end, ("bump",)))
        rounded = np.maximum(0.0, np.round(scores[i] / STEP) * STEP)
        series.append(Series(f"clip{i}", times, rounded))
        events.append(mine)
    return Population(series, events)


def model_population(model: Path) -> tuple[Population, list[Series]]:
    """The labelled clips or pictures of a calibrated model as a population, and the normal ones among them."""
    series = read_series(model, "labeled")
    events: dict[str, list[Event]] = {}
    for event in calibrated_events(read_signed(model / "thresholds" / f"{TORCH}.json")):
        events.setdefault(event.video, []).append(event)
    bad = [one for one in series if one.source in events]
    good = [one for one in series if one.source not in events]
    return Population(bad, [events[one.source] for one in bad]), good


def holdout_series(chance: np.random.Generator, minutes: float) -> list[Series]:
    n = int(minutes * 60 * FPS / 2)
    return [Series(f"normal{i}", np.arange(n) / FPS, np.maximum(0, noise(chance, (n,)))) for i in range(2)]
