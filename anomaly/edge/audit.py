"""Who did what and when: a table that only grows.

Triggers refuse to change or remove a line, whoever asks through SQL; the file itself belongs to the running user.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anomaly.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomaly.edge.vault import Vault

_log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    utc_s REAL NOT NULL,
    who TEXT NOT NULL,
    address TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE TRIGGER IF NOT EXISTS audit_no_update BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER IF NOT EXISTS audit_no_delete BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER IF NOT EXISTS audit_no_replace BEFORE INSERT ON audit
    WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
    BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
"""


@dataclass(frozen=True)
class Line:
    """One thing that was done.

    Attributes:
        id: counts up.
        utc_s: when.
        who: account, "token LABEL of ACCOUNT", or "command line of USER"; "" where nobody was signed in.
        address: where from; "" for the command line.
        action: what, such as "log-in", "log-in refused", "verdict", "state", "recipe", "threshold",
            "deletion", "export".
        subject: to what: an event, a camera, an account.
        detail: plain values.
    """

    id: int
    utc_s: float
    who: str
    address: str
    action: str
    subject: str
    detail: dict[str, Any]


class Audit:
    """The audit of one installation.

    Args:
        vault: the open database; holds `SCHEMA`.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def add(
        self,
        who: str,
        action: str,
        subject: str = "",
        *,
        address: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a line; it is on the disk when this returns."""
        with self._vault.writing() as connection:
            connection.execute(
                "INSERT INTO audit (utc_s, who, address, action, subject, detail) VALUES (?, ?, ?, ?, ?, ?)",
                (time.time(), who[:200], address, action, subject[:500], json.dumps(dict(detail or {}))),
            )

    def state(self, who: str, camera: str, state: str, *, address: str = "") -> None:
        """Write that someone sets a camera's state, before it is set: where that cannot be written, nothing is muted.

        Raises:
            StoreError: it could not be written, and the state is one that mutes. A full disk keeps nobody from
                setting a camera to `running` again.
        """
        try:
            self.add(who, "state", camera, address=address, detail={"state": state})
        except StoreError as error:
            if state != "running":
                raise
            _log.warning("%s: running, set by %s; the audit could not be written (%s)", camera, who, error)

    def threshold(self, camera: str, model: str, recipe: str, value: float | None) -> None:
        """Write by which threshold a camera is judged, where that is not what the last such line says.

        Nobody is named: it came with a model or a recipe, and who loaded those has a line of their own.
        """
        detail = {"threshold": value, "model": model[:12], "recipe": recipe}
        with self._vault.reading() as connection:
            last = connection.execute(
                "SELECT detail FROM audit WHERE action = 'threshold' AND subject = ? ORDER BY id DESC LIMIT 1",
                (camera[:500],),
            ).fetchone()
        if last is None or json.loads(last[0]) != detail:
            self.add("", "threshold", camera, detail=detail)

    def lines(
        self, *, before_id: int | None = None, action: str | None = None, limit: int = 100
    ) -> list[Line]:
        """The newest lines first; `before_id` goes on from the last one seen."""
        with self._vault.reading() as connection:
            rows = connection.execute(
                "SELECT id, utc_s, who, address, action, subject, detail FROM audit "
                "WHERE (? IS NULL OR id < ?) AND (? IS NULL OR action = ?) ORDER BY id DESC LIMIT ?",
                (before_id, before_id, action, action, limit),
            ).fetchall()
        return [
            Line(identity, utc_s, who, address, what, subject, json.loads(detail))
            for identity, utc_s, who, address, what, subject, detail in rows
        ]
