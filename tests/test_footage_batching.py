"""Groups of frames, read ahead in order, with errors where they belong."""

from __future__ import annotations

import threading

import pytest

from anomaly.footage.batching import batches, read_ahead


def test_batches_keep_order_and_the_rest():
    assert list(batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batches([], 3)) == []


def test_read_ahead_gives_the_same_items():
    assert list(read_ahead(iter(range(50)))) == list(range(50))
    assert list(read_ahead([None, 0, False])) == [None, 0, False]


def test_the_next_item_is_made_while_this_one_is_used():
    made = [threading.Event() for _ in range(3)]

    def items():
        for event in made:
            event.set()
            yield event

    for position, _ in enumerate(read_ahead(items())):
        if position + 1 < len(made):
            assert made[position + 1].wait(5)


def test_one_item_ahead_and_no_more():
    made: list[int] = []

    def items():
        for i in range(10):
            made.append(i)
            yield i

    reading = read_ahead(items())
    next(reading)
    reading.close()
    assert len(made) <= 2


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise ValueError("broken")

    reading = read_ahead(items())
    assert [next(reading), next(reading)] == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(reading)
