"""Who is signed in: sessions behind a cookie, renewed at every log-in, ended by idleness and by age."""

from __future__ import annotations

import hashlib
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomaly.edge.server.accounts import Account
from anomaly.errors import StoreFullError

if TYPE_CHECKING:
    from anomaly.edge.vault import Vault

SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    id_sha256 TEXT PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES accounts(id) ON DELETE CASCADE,
    started_utc_s REAL NOT NULL,
    seen_utc_s REAL NOT NULL
);
"""

# A session's last use is written at most so often: a page that polls must not write the disk each time.
_SEEN_EVERY_S = 30.0


@dataclass(frozen=True)
class Session:
    """A signed-in browser.

    Attributes:
        account: who.
        csrf: what the page must send as `X-CSRF-Token` with everything that changes something.
        ends_utc_s: when it ends whatever is done.
    """

    account: Account
    csrf: str
    ends_utc_s: float


class Sessions:
    """All sessions. Only a hash of each id is kept, so that a copy of the file signs nobody in.

    Args:
        vault: the open database; holds `SCHEMA` and the accounts' tables.
        idle_s: a session that nobody has used for so long ends, though a page of it be open.
        absolute_s: a session so old ends, used or not.
    """

    def __init__(self, vault: Vault, *, idle_s: float, absolute_s: float) -> None:
        self._vault = vault
        self.idle_s = idle_s
        self.absolute_s = absolute_s

    def start(self, account: Account, presented: str | None) -> str:
        """Start a session for someone who has just proved who they are.

        Args:
            account: who.
            presented: the id the browser came with, if any; that session ends here.

        Returns:
            The id for the cookie.
        """
        identity, now = renewed_id(presented), time.time()
        with self._vault.writing() as connection:
            if presented:
                connection.execute("DELETE FROM sessions WHERE id_sha256 = ?", (_sha256(presented),))
            connection.execute(
                "DELETE FROM sessions WHERE seen_utc_s < ? OR started_utc_s < ?",
                (now - self.idle_s, now - self.absolute_s),
            )
            connection.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?)", (_sha256(identity), account.id, now, now)
            )
        return identity

    def find(self, identity: str, *, used: bool) -> Session | None:
        """The session of an id, or None where there is none or it has ended.

        Args:
            identity: the id in the cookie.
            used: whether somebody is there; what a page that nobody touches asks for by itself is no use.
        """
        with self._vault.reading() as connection:
            row = connection.execute(
                "SELECT accounts.id, name, role, created_utc_s, started_utc_s, seen_utc_s FROM sessions "
                "JOIN accounts ON accounts.id = sessions.account WHERE id_sha256 = ?",
                (_sha256(identity),),
            ).fetchone()
        if row is None:
            return None
        started, seen, now = row[4], row[5], time.time()
        # A clock set back must not lengthen a session: times from the future have ended as well.
        if not (0 <= now - started < self.absolute_s and -_SEEN_EVERY_S < now - seen < self.idle_s):
            self.end(identity)
            return None
        if used and now - seen > min(_SEEN_EVERY_S, self.idle_s / 4):
            # A full disk must not keep people from looking at what is wrong.
            with suppress(StoreFullError), self._vault.writing() as connection:
                connection.execute(
                    "UPDATE sessions SET seen_utc_s = ? WHERE id_sha256 = ?", (now, _sha256(identity))
                )
        return Session(Account(*row[:4]), csrf_of(identity), started + self.absolute_s)

    def end(self, identity: str) -> None:
        """End one session (log-out)."""
        with self._vault.writing() as connection:
            connection.execute("DELETE FROM sessions WHERE id_sha256 = ?", (_sha256(identity),))

    def end_all(self, account: Account) -> None:
        """End all sessions of an account: a new password or role, or the account is gone."""
        with self._vault.writing() as connection:
            connection.execute("DELETE FROM sessions WHERE account = ?", (account.id,))


def renewed_id(presented: str | None) -> str:
    """A session's id after a log-in: always a new one of 256 random bits, whatever the browser `presented`.

    Taking over the presented one would be session fixation: someone who planted it would be signed in too.
    """
    del presented
    return secrets.token_urlsafe(32)


def csrf_of(identity: str) -> str:
    """The token that goes with a session's id; it cannot be turned back into the id."""
    return _sha256("csrf:" + identity)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
