"""The server's certificate, which may be renewed while it is in use."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, TypeAlias

from anomaly.edge.pem import load_chain
from anomaly.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

_Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]

_LOG = logging.getLogger(__name__)


class Certificate:
    """TLS with a certificate and its key, read anew when their files have changed.

    Args:
        cert, key: PEM files; links are followed.

    Attributes:
        context: what to listen with; new connections get what was read last.

    Raises:
        ssl.SSLError, OSError: they cannot be read, or do not belong together.
        UsageError: the key is encrypted.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._files = (cert, key)
        self._read = self._stamp()
        self._newest = self.context = self._load()
        # A context that is in use cannot be tried out first: with a new certificate and an old key it would answer nobody.
        self.context.sni_callback = self._choose

    def renew(self) -> None:
        """Read the files again if they have changed; what cannot be used is told in the log, and the old ones stay."""
        stamp = self._stamp()
        if stamp == self._read:
            return
        self._read = stamp
        try:
            self._newest = self._load()
        except (ssl.SSLError, OSError, UsageError) as error:
            _LOG.error(
                "the TLS certificate %s has changed but cannot be used with the key %s (%s); the one from before stays in use",
                *self._files,
                error,
            )
        else:
            _LOG.info("the TLS certificate %s has changed; new connections get the new one", self._files[0])

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext
    ) -> None:
        connection.context = self._newest

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_chain(context, *self._files)
        return context

    def _stamp(self) -> _Stamp:
        return tuple(map(_stamp_of, self._files))


def _stamp_of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
