"""Accounts, tokens, the audit, and deletion of footage: for admins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query

from anomaly.edge.server.access import TheDoor, WhoAdministers
from anomaly.edge.server.accounts import Account
from anomaly.edge.server.answers import token_out
from anomaly.edge.server.camera_routes import interval
from anomaly.edge.server.door import Door
from anomaly.edge.server.remains import remains
from anomaly.edge.server.schemas import (
    AuditLine,
    AuditPage,
    ChangedUser,
    DeletedOut,
    Done,
    Interval,
    MadeToken,
    NewToken,
    NewUser,
    TokenOut,
    Tokens,
    UserOut,
    Users,
)

router = APIRouter(prefix="/api", tags=["administration"])

Name = Annotated[str, Path(max_length=64)]


@router.get("/users")
def users(door: TheDoor, who: WhoAdministers) -> Users:
    """All accounts."""
    return Users(users=[_user(account) for account in door.accounts.all()])


@router.post("/users")
def add_user(given: NewUser, door: TheDoor, who: WhoAdministers) -> UserOut:
    """Make an account."""
    # Here and below with its line of the audit, or not at all.
    with door.vault.writing():
        account = door.accounts.add(given.name, given.role, given.password)
        door.audit.add(
            who.who, "user added", account.name, address=who.address, detail={"role": account.role}
        )
    return _user(account)


@router.patch("/users/{name}")
def change_user(name: Name, given: ChangedUser, door: TheDoor, who: WhoAdministers) -> UserOut:
    """Give an account another role or password; its sessions end."""
    account = _account(door, name)
    with door.vault.writing():
        account = door.accounts.change(account.name, role=given.role, password=given.password)
        door.sessions.end_all(account)
        if given.role is not None:
            door.audit.add(who.who, "role", account.name, address=who.address, detail={"role": given.role})
        if given.password is not None:
            door.audit.add(who.who, "password", account.name, address=who.address)
    return _user(account)


@router.delete("/users/{name}")
def remove_user(name: Name, door: TheDoor, who: WhoAdministers) -> Done:
    """Remove an account with its tokens and sessions."""
    with door.vault.writing():
        account = door.accounts.remove(_account(door, name).name)
        door.audit.add(who.who, "user removed", account.name, address=who.address)
    return Done()


@router.get("/tokens")
def tokens(door: TheDoor, who: WhoAdministers) -> Tokens:
    """All tokens, without their secrets."""
    return Tokens(tokens=[TokenOut.model_validate(token_out(token)) for token in door.accounts.tokens()])


@router.post("/tokens")
def add_token(given: NewToken, door: TheDoor, who: WhoAdministers) -> MadeToken:
    """Make a token; its text is in this answer and nowhere else."""
    _account(door, given.owner)
    with door.vault.writing():
        token, text = door.accounts.add_token(given.owner, given.label, given.role, given.scopes, given.days)
        door.audit.add(
            who.who,
            "token added",
            token.owner,
            address=who.address,
            detail={"id": token.id, "label": token.label, "role": token.role, "scopes": list(token.scopes)},
        )
    return MadeToken.model_validate({**token_out(token), "token": text})


@router.delete("/tokens/{token_id}")
def remove_token(token_id: Annotated[str, Path(max_length=64)], door: TheDoor, who: WhoAdministers) -> Done:
    """Remove a token; it opens nothing from now on."""
    if token_id not in {token.id for token in door.accounts.tokens()}:
        raise HTTPException(404, "there is no such token")
    with door.vault.writing():
        token = door.accounts.remove_token(token_id)
        door.audit.add(
            who.who,
            "token removed",
            token.owner,
            address=who.address,
            detail={"id": token.id, "label": token.label},
        )
    return Done()


@router.get("/audit")
def audit(
    door: TheDoor,
    who: WhoAdministers,
    before_id: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    action: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> AuditPage:
    """Who did what, newest first."""
    found = door.audit.lines(before_id=before_id, action=action, limit=limit + 1)
    page = found[:limit]
    return AuditPage(
        lines=[
            AuditLine(
                id=line.id,
                utc_s=line.utc_s,
                who=line.who,
                address=line.address,
                action=line.action,
                subject=line.subject,
                detail=line.detail,
            )
            for line in page
        ],
        next_before_id=page[-1].id if len(found) > limit else None,
    )


@router.post("/retention/delete")
def delete_interval(given: Interval, door: TheDoor, who: WhoAdministers) -> DeletedOut:
    """Delete all that shows a camera at start <= time < end: events, clips, misses, recording, scores; held too.

    Files that no event knows, and databases that were set aside as damaged, go where they may hold some of it. Models
    are left as they are; the answer names those that still hold crops or evidence of that time.
    """
    interval(given.start_utc_s, given.end_utc_s)
    # Else a misspelt name would be answered as if its footage were gone.
    if given.camera not in door.cameras() and given.camera not in door.store.cameras():
        raise HTTPException(404, "nothing is kept of such a camera; GET /api/cameras/known names them")
    # Written first: a deletion that nobody can be asked about must not happen.
    door.audit.add(
        who.who,
        "deletion",
        given.camera,
        address=who.address,
        detail={"start_utc_s": given.start_utc_s, "end_utc_s": given.end_utc_s},
    )
    deleted = door.store.delete(given.camera, given.start_utc_s, given.end_utc_s)
    return DeletedOut(
        events=deleted.events,
        clips=deleted.clips,
        misses=deleted.misses,
        segments=deleted.segments,
        scores=deleted.scores,
        leftovers=deleted.leftovers,
        models=remains(door.controls.models(), given.camera, given.start_utc_s, given.end_utc_s),
    )


def _account(door: Door, name: str) -> Account:
    found = door.accounts.named(name)
    if found is None:
        raise HTTPException(404, "there is no such user")
    return found


def _user(account: Account) -> UserOut:
    return UserOut.model_validate(
        {"name": account.name, "role": account.role, "created_utc_s": account.created_utc_s}
    )
