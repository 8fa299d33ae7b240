"""When a lost camera is tried again."""

from __future__ import annotations

import random

#: Wrong password: so many tries, then no more until somebody looks.
REFUSED_TRIES = 3
_FIRST_S = (0.05, 0.25)
_NEXT_S = (0.4, 1.0)


class Retry:
    """Waits between tries: jittered, at most a second, for ever; long after a refusal, and then no more.

    Args:
        refused_wait_s: between tries with a password that was refused.
        refused: tries that were refused already, before this process.
    """

    def __init__(self, refused_wait_s: float, refused: int = 0) -> None:
        self._refused_wait_s = refused_wait_s
        self._lost = 0
        self._refused = refused

    def connected(self) -> None:
        """A frame came: all is forgotten."""
        self._lost = self._refused = 0

    def at_first(self) -> float | None:
        """Seconds to wait before the first try; None = hold."""
        return self._refused_wait() if self._refused else 0.0

    def after_loss(self) -> float:
        """Seconds to wait after a connection that failed or ended."""
        self._lost += 1
        # Cameras that were lost together (a switch, a power cut) do not all come back in one moment.
        return random.uniform(*(_FIRST_S if self._lost == 1 else _NEXT_S))

    def after_refusal(self) -> float | None:
        """Seconds to wait after a refusal (401, 403); None = hold."""
        self._refused += 1
        return self._refused_wait()

    def _refused_wait(self) -> float | None:
        return None if self._refused >= REFUSED_TRIES else self._refused_wait_s
