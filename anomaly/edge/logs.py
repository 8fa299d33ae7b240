"""The runner's log: a line a fact, for people on a terminal, as JSON for machines that gather logs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    """Each record as one JSON object: utc, level, where, text."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        told = {
            "utc": _utc(record),
            "level": record.levelname.lower(),
            "where": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


class Lines(logging.Formatter):
    """Time and text."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback below it where something unexpected happened."""
        text = f"{_utc(record)}  {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


@contextmanager
def logging_to_stderr(as_json: bool) -> Iterator[None]:
    """Send this program's log to standard error, from INFO up, as long as the context is open.

    And libraries' warnings: what gathers the lines could not read them as they print them themselves.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else Lines())
    everybody, ours = logging.getLogger(), logging.getLogger("anomaly")
    before = ours.level
    everybody.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.setLevel(before)
        everybody.removeHandler(handler)


def _utc(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
