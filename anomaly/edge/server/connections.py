"""Connections before anybody is known: so many at once, so many an address, and none that asks for nothing.

Each costs a file handle of the process that also records and stores, so they are bounded far below what that may have
open. Where there is no room, the one that has been silent longest goes: whoever holds connections without a request
keeps nobody else out. All of it is used by the server's thread alone.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from typing import Any

from anomaly.edge.server.attempts import network
from anomaly.edge.server.settings import plain_address

#: A whole request has come so long after its connection, or after the answer before it.
REQUEST_S = 10.0
#: Who takes nothing of an answer for so long is gone.
_TAKE_S = 20.0
#: One that was told to go is gone by then; else the loop that closes it hangs, and it counts as busy.
_LEAVE_S = 1.0
_MOST = 512


class Connection(socket.socket):
    """One client's connection.

    Attributes:
        client: (address, port) of the other side.
        network: whose bound it counts to.
        address: of the other side, as people name it.
        deadline: time.monotonic() by which the other side must have done its part; None = it is ours to do something.
        requests: those that have come and are not answered yet.
        idle: whether no whole request is among them.
        leaving: time.monotonic() until which it may take to close, once it was told to.
    """

    def __init__(self, accepted: socket.socket, client: tuple[str, int], held: Connections) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.client = client
        self.network = network(client[0])
        self.address = plain_address(client[0])
        self.deadline: float | None = time.monotonic() + REQUEST_S
        self.requests = 0
        self.idle = True
        self.leaving = 0.0
        self._held = held

    def close(self) -> None:
        """Close it; its place is free."""
        super().close()
        self._held.closed(self)


class Connections:
    """All connections of one server.

    Args:
        proxy: address of the trusted proxy, which stands for many clients; None = there is none.
        most: at once; None = a quarter of the files that this process may have open, 512 at most.
    """

    def __init__(self, proxy: str | None = None, most: int | None = None) -> None:
        self._most = _bound() if most is None else most
        self._proxy = proxy
        self._open: dict[tuple[str, int], Connection] = {}

    def room(self) -> bool:
        """Whether the next connection may be taken; False = one is leaving to make room, look again."""
        now = time.monotonic()
        if len(self._open) < self._most:
            return True
        if any(one.leaving > now for one in self._open.values()):
            return False
        return not self._let_go(list(self._open.values()))

    def admit(self, connection: Connection) -> bool:
        """Keep a new connection; False where it has to be closed: all others are being answered."""
        if len(self._open) >= self._most:
            return False
        if connection.address != self._proxy:
            now = time.monotonic()
            same = [
                one
                for one in self._open.values()
                if one.network == connection.network and one.leaving < now and one.address != self._proxy
            ]
            if len(same) >= self._most // 2 and not self._let_go(same):
                return False
        self._open[connection.client] = connection
        return True

    def closed(self, connection: Connection) -> None:
        """A connection is gone."""
        if self._open.get(connection.client) is connection:
            del self._open[connection.client]

    def began(self, client: tuple[str, int] | None) -> None:
        """A request has come."""
        if client in self._open:
            self._open[client].requests += 1
        self.answering(client)

    def ended(self, client: tuple[str, int] | None) -> None:
        """A request has been answered. The next one may have come since its answer was sent."""
        one = self._open.get(client) if client is not None else None
        if one is not None:
            one.requests -= 1
            if one.requests == 0:
                self.awaiting(client)

    def answering(self, client: tuple[str, int] | None) -> None:
        """It is ours to do something; that may take as long as it takes."""
        self._expect(client, None, idle=False)

    def sending(self, client: tuple[str, int] | None) -> None:
        """The other side has to take a part of the answer."""
        self._expect(client, time.monotonic() + _TAKE_S, idle=False)

    def awaiting(self, client: tuple[str, int] | None, since: float | None = None) -> None:
        """A request, or the rest of the one that began at `since` (time.monotonic()), has to come."""
        self._expect(client, (time.monotonic() if since is None else since) + REQUEST_S, idle=True)

    async def close_late(self) -> None:
        """Close the connections whose other side has not done its part in time."""
        now = time.monotonic()
        for one in list(self._open.values()):
            if one.deadline is not None and one.deadline < now:
                self._end(one)

    def _expect(self, client: tuple[str, int] | None, deadline: float | None, *, idle: bool) -> None:
        one = self._open.get(client) if client is not None else None
        if one is not None:
            one.deadline, one.idle = deadline, idle

    def _let_go(self, connections: list[Connection]) -> bool:
        idle = [one for one in connections if one.idle and one.deadline is not None]
        if idle:
            self._end(min(idle, key=lambda one: one.deadline or 0.0))
        return bool(idle)

    def _end(self, connection: Connection) -> None:
        connection.deadline = None
        connection.leaving = time.monotonic() + _LEAVE_S
        # The loop sees the end of the stream and closes it; where it went by itself there is nothing to end.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


class Listening(socket.socket):
    """A listening socket that takes in what `Connections` has room for."""

    def __init__(self, family: int, kind: int, protocol: int, held: Connections) -> None:
        super().__init__(family, kind, protocol)
        self._held = held

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that may stay.

        Raises:
            BlockingIOError: there is none now.
        """
        while self._held.room():
            accepted, address = super().accept()
            connection = Connection(accepted, (str(address[0]), int(address[1])), self._held)
            if self._held.admit(connection):
                return connection, address
            connection.close()
        raise BlockingIOError


def _bound() -> int:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST if files == resource.RLIM_INFINITY else max(8, min(_MOST, files // 4))
