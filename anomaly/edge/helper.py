"""A thread beside the loop that must not end for an error of one turn, nor fail in silence."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from anomaly.edge.health import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG = logging.getLogger(__name__)


class Helper:
    """Says once that a thread's work fails, and once that it is done again.

    Args:
        name: of the work, and the kind of trouble that is told: "retention", "clips", "pictures".
        tell: takes the trouble of this machine, from the thread.
    """

    def __init__(self, name: str, tell: Callable[[Trouble], None] = lambda _: None) -> None:
        self._name = name
        self._tell = tell
        self._failing = False

    def failed(self, error: Exception) -> None:
        """A turn ended with an error that nobody foresaw; called while it is handled, for its trace in the log."""
        _LOG.exception("%s failed; it goes on", self._name)
        if not self._failing:
            self._failing = True
            self._tell(Trouble(self._name, True, time.time(), {"error": type(error).__name__}))

    def worked(self) -> None:
        """A turn ended well."""
        if self._failing:
            self._failing = False
            self._tell(Trouble(self._name, False, time.time()))
