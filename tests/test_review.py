"""Which moments the rest explains worst, on a bank whose answer is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anomaly.footage.source import Source
from anomaly.review import isolation, rank_moments
from memory_bank import MemoryBank, Origins


def bank(rows: list[tuple[str, float, float]]) -> MemoryBank:
    """Rows of (source, time, value) in one dimension."""
    names = list(dict.fromkeys(source for source, _, _ in rows))
    count = len(rows)
    origins = Origins(
        camera=np.zeros(count, np.int32),
        source=np.array([names.index(source) for source, _, _ in rows], np.int32),
        frame=np.arange(count, dtype=np.int64),
        time_s=np.array([time for _, time, _ in rows], np.float64),
        patch=np.zeros(count, np.int32),
        y=np.zeros(count, np.float32),
        x=np.zeros(count, np.float32),
    )
    return MemoryBank(np.array([[value] for _, _, value in rows], np.float32), origins, "euclidean", names)


def test_a_row_is_explained_by_other_clips_only():
    clips = [(f"{name}.mp4", 0.0, 1.0) for name in "abcde"]
    alone = isolation(bank([*clips, ("a.mp4", 50.0, 9.0), ("a.mp4", 99.0, 9.0), ("b.mp4", 1.0, 4.0)]))
    assert alone.tolist() == pytest.approx([0.0] * 5 + [5.0, 5.0, 3.0])


def test_in_few_clips_another_time_explains_too_but_not_the_same_moment():
    rows = [("a.mp4", 0.0, 1.0), ("a.mp4", 100.0, 1.5), ("a.mp4", 101.0, 9.0), ("a.mp4", 102.0, 9.1)]
    assert isolation(bank(rows)).tolist() == pytest.approx([0.5, 0.5, 8.0, 8.1], abs=1e-4)


def test_one_moment_alone_is_not_called_odd():
    assert isolation(bank([("a.mp4", 0.0, 1.0), ("a.mp4", 1.0, 9.0)])).tolist() == [0.0, 0.0]


def test_many_rows_give_what_a_plain_search_gives():
    rng = np.random.default_rng(0)
    values = [(f"{i % 7}.mp4", float(i), float(v)) for i, v in enumerate(rng.normal(size=2500))]
    alone = isolation(bank(values))
    source = np.array([int(name[0]) for name, _, _ in values])
    value = np.array([v for _, _, v in values])
    for i in range(0, 2500, 97):
        assert alone[i] == pytest.approx(np.abs(value[source != source[i]] - value[i]).min(), abs=2e-3)


def test_a_short_clip_is_compared_with_the_rest_of_itself():
    """Five seconds hold no moment a quarter of a minute away; something odd in them is found all the same."""
    rows = [("a.mp4", 0.2 * i, 1.0 + 0.01 * i) for i in range(25)] + [("a.mp4", 3.0, 9.0)]
    alone = isolation(bank(rows))
    assert alone.argmax() == 25
    assert alone[25] > 7
    assert 0 < alone[:25].max() < 0.3


def test_what_lies_within_a_moment_is_not_listed_once_more():
    """Two odd seconds with a less odd one between them are one moment of three."""
    usual = [(name, float(second) + 0.5, 1.0 + 0.1 * (second % 3)) for name in "bcdef" for second in range(4)]
    odd = [("a", 10.5, 9.0), ("a", 11.5, 3.0), ("a", 12.5, 9.0), ("a", 40.5, 1.4)]
    detector: Any = SimpleNamespace(branches=[SimpleNamespace(bank=bank([*usual, *odd]), scale=1.0)])
    sources = [Source(Path(name), name, "video") for name in "abcdef"]
    found = [
        (one.start_s, one.end_s) for one in rank_moments(detector, sources, most=20) if one.source == "a"
    ]
    assert found[0] == (10.0, 13.0)
    assert (11.0, 12.0) not in found
