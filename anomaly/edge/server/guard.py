"""What every request passes before anything else sees it: who asks, under which name, from which page.

Each rule is a function of its own, so that a test can take out just that one and show what it kept off.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

from anomaly.edge.server.settings import is_address, is_loopback, plain_address

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from anomaly.edge.server.connections import Connections
    from anomaly.edge.server.settings import ServeSettings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# The page is files of this server alone: no inline script or style, nothing from elsewhere, no frame around it.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
#: Where this server itself speaks TLS, browsers that once came by it do not come without, for so long.
STRICT_TRANSPORT = "max-age=2592000"
_LARGEST_BODY = 256 * 1024


class Guard:
    """ASGI middleware: peers, Host, Origin, the size of what is sent, and the headers of every answer.

    Args:
        app: what it stands in front of.
        settings: of the server.
        connections: is told whose turn it is, the client's or ours.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, connections: Connections) -> None:
        self._app = app
        self._settings = settings
        self._connections = connections
        self._names = settings.names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 400, 403, 413 or 421."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        client = (scope["client"][0], scope["client"][1]) if scope.get("client") else None
        self._connections.began(client)
        # IPv4 over a socket for both kinds: rules and bounds are about the addresses that people name.
        for side in ("client", "server"):
            if scope.get(side):
                scope[side] = (plain_address(scope[side][0]), *scope[side][1:])
        try:
            await self._answer(scope, receive, send, client)
        finally:
            self._connections.ended(client)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, client: tuple[str, int] | None
    ) -> None:
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal, tls=self._settings.tls)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return

        body = _Bounded(receive, self._connections, client)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                add_headers(answer, tls=self._settings.tls)
                if body.too_long:
                    # Otherwise the server would go on to take and throw away what still comes.
                    answer["connection"] = "close"
            self._connections.sending(client)
            await send(message)
            self._connections.answering(client)

        await self._app(scope, body, with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        peer = scope["client"][0] if scope.get("client") else ""
        if not peer_allowed(peer, self._settings):
            return 403, f"this server answers its proxy only, and {peer} is not what door.trusted_proxy names"
        hosts = headers.getlist("host")
        local = scope["server"][0] if scope.get("server") else ""
        if len(hosts) != 1 or not host_allowed(hosts[0], self._names, local):
            told = f"{host_name(hosts[0])[:100]!r}" if len(hosts) == 1 else "none, or two names"
            return 421, f"this server is not known by that name ({told}); add it to door.allowed_hosts"
        origins = headers.getlist("origin")
        own = f"{self._settings.scheme}://{hosts[0]}"
        if len(origins) > 1 or not origin_allowed(origins[0] if origins else None, own, scope, headers):
            return 403, _another_page(", ".join(origins), own)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > _LARGEST_BODY:
            return 413, f"more than {_LARGEST_BODY} bytes were sent"
        return None


def _another_page(origin: str, own: str) -> str:
    if not origin:
        return "the request names no page; a browser sends its Origin, a program a token"
    return (
        f"the request comes from a page at {origin[:100]}, and this server's own is at {own[:100]}; where a proxy "
        "stands between, it must pass on the browser's Host, and door.trusted_proxy must name it"
    )


def peer_allowed(peer: str, settings: ServeSettings) -> bool:
    """Whether a machine may talk to the server at all: behind a trusted proxy only that one and this machine."""
    if settings.trusted_proxy is None or settings.tls or settings.insecure:
        return True
    return peer == settings.trusted_proxy or is_loopback(peer)


def host_allowed(host: str, names: frozenset[str], local: str) -> bool:
    """Whether the server may be asked for by a Host header's name.

    A page elsewhere can point its own name at this machine (DNS rebinding) and would then count as the same
    origin; it cannot make the browser send another Host than its own.

    Args:
        host: the header.
        names: allowed, in lower case.
        local: the address this connection came in at; an address cannot be rebound.
    """
    name = host_name(host)
    return name in names or (name == local and is_address(name))


def host_name(host: str) -> str:
    """A Host header's name in lower case, without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def origin_allowed(origin: str | None, own: str, scope: Scope, headers: Headers) -> bool:
    """Whether a request comes from the server's own page, or from a program.

    Browsers name the page with everything that changes something and with every WebSocket. Without a name only
    programs are left, which sign in with a token; a cookie then counts for nothing.

    Args:
        origin: the header, None where it is missing.
        own: the only origin allowed.
        scope, headers: of the request.
    """
    if origin is not None:
        return origin.lower() == own.lower()
    reads = scope["type"] == "http" and scope["method"] in SAFE_METHODS
    return reads or "authorization" in headers


def add_headers(headers: MutableHeaders, *, tls: bool) -> None:
    """Put the security headers on an answer; what it says itself about caching stands."""
    for name, value in SECURITY_HEADERS.items():
        headers[name] = value
    if tls:
        headers["strict-transport-security"] = STRICT_TRANSPORT
    headers.setdefault("cache-control", "no-store")


def client_address(scope: Scope, settings: ServeSettings) -> str:
    """Where a request comes from: the peer, or what the trusted proxy says of it."""
    peer = str(scope["client"][0]) if scope.get("client") else ""
    if settings.trusted_proxy is not None and peer == settings.trusted_proxy:
        # Each proxy adds what it saw at the end, to the client's header or as one of its own (HAProxy); what stands
        # before what the outermost saw the client may have made up.
        told = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
        for one in map(plain_address, map(str.strip, reversed(told))):
            if not is_address(one):
                break
            peer = one
            if one not in settings.outer_proxies:
                break
    return peer


class _Bounded:
    """What a client sends, cut off where it is longer than is allowed, whatever length it told."""

    def __init__(self, receive: Receive, connections: Connections, client: tuple[str, int] | None) -> None:
        self.too_long = False
        self._receive = receive
        self._connections = connections
        self._client = client
        self._begun = time.monotonic()
        self._whole = False
        self._seen = 0

    async def __call__(self) -> Message:
        if self._whole:
            # Nothing more is to come; who asks waits for the client to leave.
            return await self._receive()
        self._connections.awaiting(self._client, self._begun)
        message = await self._receive()
        self._connections.answering(self._client)
        self._whole = not message.get("more_body", False)
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            self.too_long = self._seen > _LARGEST_BODY
        return {"type": "http.disconnect"} if self.too_long else message


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, why: str, *, tls: bool) -> None:
    if scope["type"] == "websocket":
        await receive()
        # Before it is accepted, a close is an answer of 403 to the browser.
        await send({"type": "websocket.close", "code": 1008, "reason": why})
        return
    headers = MutableHeaders({"content-type": "application/json"})
    add_headers(headers, tls=tls)
    await send({"type": "http.response.start", "status": status, "headers": headers.raw})
    await send({"type": "http.response.body", "body": json.dumps({"detail": why}).encode()})
