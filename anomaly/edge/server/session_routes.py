"""Signing in and out."""

from __future__ import annotations

import math

from fastapi import APIRouter, HTTPException, Request, Response

from anomaly.edge.server.access import TheDoor, WhoIsIn, cookie_name, visitor
from anomaly.edge.server.door import Door
from anomaly.edge.server.guard import client_address
from anomaly.edge.server.schemas import Done, LogIn, NewPassword, SignedIn
from anomaly.edge.server.sessions import Session

router = APIRouter(prefix="/api/session", tags=["session"])


@router.get("")
def who_is_signed_in(request: Request, door: TheDoor) -> SignedIn:
    """Who is signed in; where there is no account yet, the command that makes the first one."""
    who = visitor(request)
    if who is None:
        return SignedIn(signed_in=False, setup=None if door.accounts.count() else door.setup)
    session = who.session
    return SignedIn(
        signed_in=True,
        name=who.name,
        role=who.role,  # type: ignore[arg-type]  # a word of ROLES, which the table checks
        csrf=None if session is None else session.csrf,
        ends_utc_s=None if session is None else session.ends_utc_s,
    )


@router.post("")
def sign_in(given: LogIn, request: Request, response: Response, door: TheDoor) -> SignedIn:
    """Sign in: sets the session's cookie, always a new one, and ends the session the browser came with.

    401 for a wrong name or password, which are not told apart; 429 with Retry-After after too many of them.
    """
    address = client_address(request.scope, door.settings)
    limit(door, address, given.name)
    account = door.accounts.signed_in(given.name, given.password)
    if account is None:
        door.audit.add("", "log-in refused", _subject(door, given.name), address=address)
        raise HTTPException(401, "name and password do not belong together")
    door.attempts.forgive(address, given.name)
    presented = request.cookies.get(cookie_name(door.settings))
    # With its line of the audit, or not at all.
    with door.vault.writing():
        identity = door.sessions.start(account, presented)
        door.audit.add(account.name, "log-in", account.name, address=address)
    set_cookie(response, identity, door)
    session = door.sessions.find(identity, used=True)
    assert session is not None
    return _signed_in(session)


@router.delete("")
def sign_out(request: Request, response: Response, door: TheDoor, who: WhoIsIn) -> Done:
    """Sign out: the session ends here and in the browser."""
    identity = request.cookies.get(cookie_name(door.settings))
    if who.session is not None and identity:
        door.sessions.end(identity)
        door.audit.add(who.who, "log-out", who.name, address=who.address)
    response.delete_cookie(
        cookie_name(door.settings),
        path="/",
        secure=door.settings.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return Done()


@router.put("/password")
def change_own_password(
    given: NewPassword, request: Request, response: Response, door: TheDoor, who: WhoIsIn
) -> SignedIn:
    """Change one's own password: all of one's sessions end, and this browser gets a new one."""
    if who.session is None:
        raise HTTPException(403, "a token cannot change a password; sign in")
    limit(door, who.address, who.name)
    account = door.accounts.signed_in(who.name, given.old)
    if account is None:
        door.audit.add(who.who, "log-in refused", who.name, address=who.address)
        raise HTTPException(403, "the old password is not right")
    door.attempts.forgive(who.address, who.name)
    with door.vault.writing():
        door.accounts.change(who.name, password=given.new)
        door.sessions.end_all(account)
        identity = door.sessions.start(account, request.cookies.get(cookie_name(door.settings)))
        door.audit.add(who.who, "password", who.name, address=who.address)
    set_cookie(response, identity, door)
    session = door.sessions.find(identity, used=True)
    assert session is not None
    return _signed_in(session)


def limit(door: Door, address: str, name: str) -> None:
    """Count an attempt to prove a password; 429 after too many."""
    wait_s = door.attempts.take(address, name)
    if wait_s > 0:
        if door.attempts.is_news(address, name):
            detail = {"wait_s": math.ceil(wait_s)}
            door.audit.add("", "log-in locked", _subject(door, name), address=address, detail=detail)
        told = f"too many log-ins failed; try again in {math.ceil(wait_s)} s"
        if address in (door.settings.trusted_proxy, *door.settings.outer_proxies):
            told += f". All who come through the proxy {address} count as one unless it names them in X-Forwarded-For"
        raise HTTPException(
            429,
            told,
            headers={"Retry-After": str(math.ceil(wait_s))},
        )


def _subject(door: Door, name: str) -> str:
    """A name as the audit tells it: what is no account's may be a password typed into the wrong field."""
    known = door.accounts.named(name)
    return known.name if known else "an unknown name"


def set_cookie(response: Response, identity: str, door: Door) -> None:
    """Give the browser its session: no script reads it, no other site sends it, with TLS it never goes without."""
    response.set_cookie(
        cookie_name(door.settings),
        identity,
        max_age=int(door.settings.absolute_s),
        path="/",
        secure=door.settings.scheme == "https",
        httponly=True,
        samesite="strict",
    )


def _signed_in(session: Session) -> SignedIn:
    return SignedIn(
        signed_in=True,
        name=session.account.name,
        role=session.account.role,  # type: ignore[arg-type]  # a word of ROLES, which the table checks
        csrf=session.csrf,
        ends_utc_s=session.ends_utc_s,
    )
