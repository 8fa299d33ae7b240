"""Who a request comes from, and whether that is enough for what it asks."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException
from starlette.requests import HTTPConnection

from anomaly.edge.server.accounts import Accounts, rank
from anomaly.edge.server.door import Door, door_of
from anomaly.edge.server.guard import SAFE_METHODS, client_address
from anomaly.edge.server.sessions import Session
from anomaly.edge.server.settings import ServeSettings


@dataclass(frozen=True)
class Visitor:
    """Who a request comes from.

    Attributes:
        name: the account's.
        who: as the audit tells it.
        role: what they may do.
        scopes: where a token may be used; None = everywhere (a signed-in person).
        address: where the request comes from.
        session: of a browser; None for a token.
    """

    name: str
    who: str
    role: str
    scopes: tuple[str, ...] | None
    address: str
    session: Session | None


def cookie_name(settings: ServeSettings) -> str:
    """Name of the session's cookie; with TLS the browser itself then insists on Secure, this host and path /."""
    return "__Host-anomaly" if settings.scheme == "https" else "anomaly_session"


def visitor(connection: HTTPConnection) -> Visitor | None:
    """Who a request comes from, or None; a token goes before a cookie, which then counts for nothing."""
    door = door_of(connection)
    address = client_address(connection.scope, door.settings)
    authorization = connection.headers.get("authorization")
    if authorization is not None:
        return program(door.accounts, authorization, address)
    identity = connection.cookies.get(cookie_name(door.settings))
    session = door.sessions.find(identity, used=_by_hand(connection)) if identity else None
    if session is None:
        return None
    account = session.account
    return Visitor(account.name, account.name, account.role, None, address, session)


def program(accounts: Accounts, authorization: str, address: str) -> Visitor | None:
    """The program that sends an API token in its header `Authorization`, or None where that is none or no longer."""
    found = accounts.bearer(_bearer(authorization))
    if found is None:
        return None
    token, owner = found
    role = min(token.role, owner.role, key=rank)
    return Visitor(owner.name, f"token {token.label} of {owner.name}", role, token.scopes, address, None)


def right_token(authorization: str, token: str | None) -> bool:
    """Whether a header `Authorization` brings the one token that is set; there may be none."""
    return bool(token) and hmac.compare_digest(_bearer(authorization).encode(), str(token).encode())


def enough(role: str, scope: str | None, who: Visitor) -> bool:
    """Whether a visitor's role, and the token's scopes if it is one, cover what is asked."""
    return rank(who.role) >= rank(role) and (scope is None or who.scopes is None or scope in who.scopes)


def forged(connection: HTTPConnection, who: Visitor) -> bool:
    """Whether a change asked for with a cookie lacks the token that only the server's own page can read."""
    if (
        who.session is None
        or connection.scope["type"] != "http"
        or connection.scope["method"] in SAFE_METHODS
    ):
        return False
    return not hmac.compare_digest(
        connection.headers.get("x-csrf-token", "").encode(), who.session.csrf.encode()
    )


def check(connection: HTTPConnection, role: str, scope: str | None) -> Visitor:
    """The visitor, if they may.

    Raises:
        HTTPException: 401 where nobody is signed in; 403 where the role, the scope or the CSRF token is not enough.
    """
    who = visitor(connection)
    if who is None:
        raise HTTPException(401, "sign in first", headers={"WWW-Authenticate": "Bearer"})
    if forged(connection, who):
        raise HTTPException(403, "the header X-CSRF-Token is missing or not this session's; reload the page")
    if not enough(role, scope, who):
        raise HTTPException(403, f"this takes the role {role} (and of a token the scope {scope})")
    connection.state.known = True
    return who


def allow(role: str, scope: str | None) -> Callable[[HTTPConnection], Visitor]:
    """A dependency of a route: the visitor, who has at least this role, and whose token has this scope (None: any)."""

    def allowed(connection: HTTPConnection) -> Visitor:
        return check(connection, role, scope)

    # For the API's description.
    allowed.__dict__["asks"] = (role, scope)
    return allowed


def _by_hand(connection: HTTPConnection) -> bool:
    """Whether a person has done something: a change, or a request that the page says followed keys, pointer or touch.

    What an open page asks for by itself, streams and pictures among it, keeps no session alive.
    """
    if connection.scope["type"] != "http":
        return False
    return connection.scope["method"] not in SAFE_METHODS or connection.headers.get("x-by-hand") == "1"


def _bearer(authorization: str) -> str:
    """The token in a header `Authorization`; "" where there is none."""
    scheme, _, text = authorization.partition(" ")
    return text.strip() if scheme.lower() == "bearer" else ""


WhoIsIn = Annotated[Visitor, Depends(allow("viewer", None))]
WhoWatches = Annotated[Visitor, Depends(allow("viewer", "live"))]
WhoReads = Annotated[Visitor, Depends(allow("viewer", "events"))]
WhoReviews = Annotated[Visitor, Depends(allow("operator", "review"))]
WhoOperates = Annotated[Visitor, Depends(allow("operator", "control"))]
WhoEngineers = Annotated[Visitor, Depends(allow("engineer", "control"))]
WhoAdministers = Annotated[Visitor, Depends(allow("admin", "admin"))]
TheDoor = Annotated[Door, Depends(door_of)]
