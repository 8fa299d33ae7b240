"""Where a webhook may go: the address is checked on every connection, and the connection goes to what was checked."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from anomaly.errors import UsageError

_Ip: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Destination:
    """An address taken apart.

    Attributes:
        secure: https.
        host, port: whom to connect to.
        target: path and query, which may hold a token: never shown.
    """

    secure: bool
    host: str
    port: int
    target: str

    @property
    def shown(self) -> str:
        """What logs and errors may hold."""
        return f"{'https' if self.secure else 'http'}://{self.host}:{self.port}"


def parse_destination(url: str, *, cleartext: bool) -> Destination:
    """Take an address apart; raises UsageError for one that is not http(s), or holds a user or a password.

    `cleartext`: http may go to other machines than this one; else that is refused as well.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError("sinks.webhook.url cannot be read; give https://host[:port]/path") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"sinks.webhook.url begins with {parts.scheme or 'nothing'}://; give https://host[:port]/path"
        )
    if parts.username or parts.password:
        raise UsageError("sinks.webhook.url holds a user or a password; messages are signed, leave it out")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii() or any(letter <= " " for letter in target):
        raise UsageError("sinks.webhook.url holds spaces or letters beyond ASCII; percent-encode them")
    secure = parts.scheme == "https"
    if not (secure or cleartext or _names_this_machine(parts.hostname)):
        raise UsageError(
            f"sinks.webhook.url: messages would travel in clear to {parts.hostname}; give https://, or "
            "sinks.webhook.cleartext=true on a network you trust"
        )
    return Destination(secure, parts.hostname, port or (443 if secure else 80), target)


def connect(destination: Destination, timeout_s: float) -> socket.socket:
    """A connection to an address that may be talked to.

    The name is resolved on every call, and what is connected to is the address that was checked, so that a name
    cannot mean one address at the check and another at the connection. Raises OSError.
    """
    found = socket.getaddrinfo(destination.host, destination.port, type=socket.SOCK_STREAM)
    allowed = [one for one in found if may_be_told(str(one[4][0]), destination.host)]
    if not allowed:
        raise OSError(
            f"{destination.host} is {found[0][4][0]}, an address that messages never go to "
            "(link-local, multicast, or this machine under another name)"
        )
    failure: OSError | None = None
    for family, kind, protocol, _, address in allowed:
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(timeout_s)
        try:
            connection.connect(address)
        except OSError as error:
            connection.close()
            failure = error
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
    raise failure or OSError(f"{destination.host} has no address")


def may_be_told(address: str, host: str) -> bool:
    """Whether a message may go to an address that a name stands for.

    Factory networks are private, so private addresses are fine. Link-local ones (where clouds keep their
    machines' secrets), multicast and unspecified ones are not; this machine only where it was named as such.
    """
    ip: _Ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or str(ip) == "255.255.255.255":
        return False
    return not ip.is_loopback or _names_this_machine(host)


def _names_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
