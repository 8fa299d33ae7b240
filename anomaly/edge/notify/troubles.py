"""A sink's trouble as health events: down until it is up again; what was refused or given up on, told seldom."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from anomaly.edge.health import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: A health event goes to the sinks too. One that refuses everything must not be told of each refusal anew.
_AT_MOST_EVERY_S = 600.0


class SinkTroubles:
    """What `Delivery` calls when a sink is in trouble; called in the sinks' threads.

    Args:
        tell: takes what is to be written down and told.
    """

    def __init__(self, tell: Callable[[Trouble], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._told: dict[tuple[str, str], float] = {}

    def __call__(self, sink: str, kind: str, detail: Mapping[str, Any]) -> None:
        """Tell of a sink: "down" begins, "up" ends, "set aside" and "expired" are over as soon as they are seen."""
        now, name = time.time(), f"sink {sink}"
        if kind in ("down", "up"):
            self._tell(Trouble(name, kind == "down", now, dict(detail)))
            return
        with self._lock:
            if time.monotonic() - self._told.get((sink, kind), -_AT_MOST_EVERY_S) < _AT_MOST_EVERY_S:
                return
            self._told[sink, kind] = time.monotonic()
        name = f"{name} {kind}"
        self._tell(Trouble(name, True, now, dict(detail)))
        self._tell(Trouble(name, False, now, {}))
