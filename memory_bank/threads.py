"""Threads of our own around products of one thread each.

A selection makes many small matrix products. Sharing one of them between the threads of a BLAS costs a barrier each
time, and on a machine with other work the threads wait for each other far longer than they compute: four times
slower on two busy cores, measured. So each product gets one thread, and several are made side by side.
A product of one thread also gives the same bits whatever the machine's number of cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import lru_cache
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeAlias

Each: TypeAlias = Callable[[Callable[..., None], Iterable[tuple[Any, ...]]], None]


def usable_threads() -> int:
    """Threads that computing may take: $OMP_NUM_THREADS, or the processors this process may run on."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _blas() -> Any:
    """The BLAS libraries that are loaded; None where threadpoolctl (it comes with scikit-learn) is missing."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController().select(user_api="blas")


def _let_any_thread_set() -> None:
    """OpenBLAS takes a setting from any thread; since 3.8 threadpoolctl hands on those of one thread only.

    Of ours the first one in sets it, and the last one out sets it back.
    """
    for library in _blas().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


class _OneThread:
    """The BLAS on one thread while anyone wants it so, and afterwards as it was. The setting is the process's."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                _let_any_thread_set()
                self._limit = _blas().limit(limits=1)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._restore()

    def before_fork(self) -> None:
        """Nobody may be in the midst of setting: in the child the locks would be held for ever."""
        self._lock.acquire()

    def in_parent(self) -> None:
        """After a fork."""
        self._lock.release()

    def in_child(self) -> None:
        """After a fork: nobody is within, whoever was in the parent."""
        if self._users:
            self._users = 0
            self._restore()
        self._lock.release()

    def _restore(self) -> None:
        _let_any_thread_set()
        self._limit.restore_original_limits()


_one_thread = _OneThread()


class _Helpers:
    """Threads that are kept for the life of the process: a search of one frame is shorter than the start of a thread.

    Daemons, for cameras' threads may go on after the main thread has ended, when an executor takes no more work.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[tuple[Future[None], Callable[[], None]]] = SimpleQueue()
        self._lock = Lock()
        self._threads = 0

    def ask(self, work: Callable[[], None], count: int) -> list[Future[None]]:
        """So many threads are asked to do this; one that has not begun may be cancelled."""
        with self._lock:
            while self._threads < count:
                Thread(target=self._serve, name="products", daemon=True).start()
                self._threads += 1
        asked: list[Future[None]] = [Future() for _ in range(count)]
        for one in asked:
            self._asked.put((one, work))
        return asked

    def _serve(self) -> None:
        while True:
            asked, work = self._asked.get()
            if asked.set_running_or_notify_cancel():
                try:
                    work()
                except BaseException as error:
                    asked.set_exception(error)
                else:
                    asked.set_result(None)
            # What it refers to may be large, and the next may be long in coming.
            del asked, work


_helpers = _Helpers()


def _begin_in_child() -> None:
    """A child has the memory of the threads of its parent, and none of them."""
    global _helpers
    _helpers = _Helpers()
    _one_thread.in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_one_thread.before_fork,
        after_in_parent=_one_thread.in_parent,
        after_in_child=_begin_in_child,
    )


@contextmanager
def side_by_side() -> Iterator[Each]:
    """Within, products of numpy run on one thread each.

    Yields:
        A function that calls another with each of several tuples of arguments, side by side. The calls may do so in turn.
    """
    threads = usable_threads()
    if threads == 1 or _blas() is None:
        yield _one_by_one
        return

    def each(work: Callable[..., None], calls: Iterable[tuple[Any, ...]]) -> None:
        arguments = list(calls)
        # Shared by the threads: each takes the next, which is one step of the interpreter.
        left = iter(arguments)

        def take() -> None:
            try:
                for one in left:
                    work(*one)
            finally:
                # After an error, or Ctrl-C, no other thread begins what is left.
                for _ in left:
                    pass

        helpers = _helpers.ask(take, min(threads, len(arguments)) - 1)
        try:
            take()
        finally:
            # One that has not begun has nothing left to do; waiting for it could be waiting for oneself.
            running = [helper for helper in helpers if not helper.cancel()]
            wait(running)
        for helper in running:
            helper.result()

    with _one_thread:
        yield each


def _one_by_one(work: Callable[..., None], calls: Iterable[tuple[Any, ...]]) -> None:
    for arguments in calls:
        work(*arguments)
