"""How the server listens, and what it refuses to listen on."""

from __future__ import annotations

import ipaddress
import math
import socket
from dataclasses import dataclass
from pathlib import Path

from anomaly.errors import UsageError

#: Names by which a machine asks for itself; no page elsewhere can be served under one of them.
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class ServeSettings:
    """How and where the page and the API are served.

    Attributes:
        host, port: what to listen on; port 0 = any free one.
        allowed_hosts: further names (without port) under which the page may be asked for. The loopback names,
            this machine's name and `host` itself always may; everything else is refused.
        tls_cert, tls_key: PEM files; both or neither.
        insecure: listen off loopback without TLS all the same: passwords and pictures go over the network in the
            clear.
        trusted_proxy: address of a reverse proxy that speaks TLS to the browsers. Off loopback nobody but it is
            answered, and its `X-Forwarded-For` is believed.
        outer_proxies: addresses of those in front of it, which it names there as its clients: theirs are named before them.
        scrape_token: opens /metrics to a scraper on this machine without an account; None = it does not.
        idle_s, absolute_s: a session ends so long after somebody last used it, and so long after its log-in, in
            seconds.
        max_streams: live streams open at once; one account may have half of them.
        live_width: pixels; live pictures are not sent wider.
        live_fps: pictures a second and stream at most.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    allowed_hosts: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False
    trusted_proxy: str | None = None
    outer_proxies: tuple[str, ...] = ()
    scrape_token: str | None = None
    idle_s: float = 3600.0
    absolute_s: float = 43_200.0
    max_streams: int = 64
    live_width: int = 960
    live_fps: float = 10.0

    @property
    def tls(self) -> bool:
        """Whether this server itself speaks TLS."""
        return self.tls_cert is not None

    @property
    def scheme(self) -> str:
        """What browsers see: "https", also behind a trusted proxy, or "http"."""
        return "https" if self.tls or self.trusted_proxy else "http"

    @property
    def names(self) -> frozenset[str]:
        """Names, in lower case and without port, that a Host header may hold."""
        own = {*LOOPBACK, socket.gethostname().lower()}
        if not _wildcard(self.host):
            own.add(self.host.lower().strip("[]"))
        return frozenset(own | {name.lower().strip("[]") for name in self.allowed_hosts})


def check_binding(settings: ServeSettings) -> None:
    """Refuse (UsageError) what would send passwords and pictures over a network in the clear.

    Raises:
        UsageError: off loopback without TLS, `insecure` or a trusted proxy; or settings that contradict.
    """
    for name, value in (
        ("idle_minutes", settings.idle_s),
        ("session_hours", settings.absolute_s),
        ("streams", settings.max_streams),
    ):
        if not 0 < value < math.inf:
            raise UsageError(f"door.{name} must be more than 0")
    if not 0 <= settings.port <= 65_535:
        raise UsageError(f"port {settings.port} does not exist; choose 1 to 65535")
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise UsageError("a TLS certificate and its key go together; give both or neither")
    for proxy in (settings.trusted_proxy, *settings.outer_proxies):
        if proxy is not None and not is_address(proxy):
            raise UsageError(f"trusted proxy {proxy!r} is not an IP address; give the one it connects from")
    if settings.outer_proxies and settings.trusted_proxy is None:
        raise UsageError("door.outer_proxies are those in front of door.trusted_proxy; give that one, too")
    for name in settings.allowed_hosts:
        if not name or "*" in name or "/" in name or (":" in name and not is_address(name)):
            raise UsageError(f"allowed host {name!r} cannot be used; give a name without scheme, port or *")
    if is_loopback(settings.host) or settings.tls or settings.insecure or settings.trusted_proxy:
        return
    raise UsageError(
        f"{settings.host} can be reached from other machines, and without TLS passwords and pictures would cross the "
        "network in the clear; give a certificate and its key, or the address of a proxy that speaks TLS, or "
        "--insecure"
    )


def plain_address(address: str) -> str:
    """An address as everybody writes it: IPv4 that came in by a socket for both kinds (::ffff:192.0.2.1) as 192.0.2.1."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(getattr(parsed, "ipv4_mapped", None) or address)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host's name or address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_address(host: str) -> bool:
    """Whether it is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _wildcard(host: str) -> bool:
    return host in {"", "0.0.0.0", "::", "[::]"}
