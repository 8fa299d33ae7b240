"""The database beside the store: accounts, tokens, sessions and the audit, apart from the events.

It is a file of its own, readable by the running user alone, so that the store can be copied or handed on
without a single password hash, and retention never touches the audit.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anomaly.edge.store.database import is_corrupt, open_database, told, transaction
from anomaly.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: Its name, in the store's folder.
ACCOUNTS = "accounts.db"
_VERSION = 1


class Vault:
    """`accounts.db`, mode 0600, used by all threads of who opened it through one connection.

    Args:
        path: the file; made with its folder where it is missing.
        schemas: idempotent SQL of the tables it holds.
    """

    def __init__(self, path: Path, schemas: Sequence[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.RLock()
        with _told(path):
            self._connection = open_database(path, schemas, _VERSION)
        # A file that was copied here may have come with a wider mode.
        os.chmod(path, 0o600)
        if os.geteuid() == 0:
            # Made by root at the terminal, it must still open for the user that the runner runs as.
            owner = path.parent.stat()
            os.chown(path, owner.st_uid, owner.st_gid)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for queries."""
        with self._lock, _told(self.path):
            yield self._connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection inside a transaction: all of what is done is kept, or nothing."""
        with self._lock, _told(self.path), transaction(self._connection) as connection:
            yield connection

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """As `told`; no start of `run` repairs this file, for who is in it decides who comes in."""
    try:
        with told(path):
            yield
    except StoreError as error:
        if not is_corrupt(error):
            raise
        raise StoreError(
            f"{path} is damaged ({error.__cause__}); put back a copy of it, or move it away and make the accounts anew "
            "with `python -m anomaly users add`"
        ) from error.__cause__
