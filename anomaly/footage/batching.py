"""Frames in groups, the next group read while this one is used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most `size` items, in order."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, the next one made in a thread while this one is used.

    Decoding releases Python's lock, so that it runs beside the network. Errors come out where the
    item would have.
    """
    iterator = iter(items)
    nothing = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, iterator, nothing)
        while (item := coming.result()) is not nothing:
            coming = pool.submit(next, iterator, nothing)
            yield item  # type: ignore[misc]
