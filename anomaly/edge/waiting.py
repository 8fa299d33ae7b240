"""Events that the store could not take, in a file beside it: a kill must not lose what was announced."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from anomaly.edge.durable import write_bytes
from anomaly.edge.store.event import StoredEvent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LOG = logging.getLogger(__name__)


class Waiting:
    """Keeps events until the store has them; on a disk that takes nothing they are in memory only.

    Args:
        path: of the file; there is none while nothing waits.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = b"[]"

    def left(self) -> list[StoredEvent]:
        """What an earlier run left, oldest first; one that was on then ends at its highest frame."""
        try:
            self._kept = self._path.read_bytes()
            found = [_event(values) for values in json.loads(self._kept)]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            _LOG.warning("%s cannot be read (%s); events in it are not stored", self._path, error)
            return []
        if found:
            _LOG.warning("%d events that the run before could not store are stored now", len(found))
        return found

    def keep(self, events: Mapping[str, StoredEvent]) -> bool:
        """Have exactly these on the disk; False where that cannot be."""
        data = json.dumps([asdict(events[event_id]) for event_id in sorted(events)], default=float).encode()
        if data == self._kept:
            return True
        try:
            if events:
                write_bytes(self._path, data)
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            _LOG.warning("%s cannot be written (%s); events are in memory only", self._path, error.strerror)
            return False
        self._kept = data
        return True


def _event(values: Mapping[str, object]) -> StoredEvent:
    event = StoredEvent(**{one.name: values[one.name] for one in fields(StoredEvent)})  # type: ignore[arg-type]
    if event.end_utc_s is not None:
        return event
    ended = {"end_utc_s": event.peak_utc_s, "end_pts_s": event.peak_pts_s, "status": "ended"}
    return StoredEvent(**{**asdict(event), **ended})
