"""Sinks and models: how messages leave, what a receiver refused, and loading models anew."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path

from anomaly.edge.server.access import TheDoor, WhoEngineers
from anomaly.edge.server.answers import plain
from anomaly.edge.server.schemas import Done, SentAgain, Sinks

router = APIRouter(prefix="/api", tags=["control"])


@router.get("/sinks")
def sinks(door: TheDoor, who: WhoEngineers) -> Sinks:
    """How each sink stands: what waits, what was sent, refused and given up on."""
    told = door.controls.sinks.status() if door.controls.sinks is not None else {}
    return Sinks(sinks=[{**plain(status), "name": name} for name, status in told.items()])


@router.post("/sinks/{sink}/again")
def send_again(sink: Annotated[str, Path(max_length=200)], door: TheDoor, who: WhoEngineers) -> SentAgain:
    """Send again what the receiver refused (it was set aside), now that the receiver is repaired."""
    try:
        count = door.controls.sinks.send_again(sink) if door.controls.sinks is not None else None
    except KeyError:
        count = None
    if count is None:
        raise HTTPException(404, "there is no such sink; GET /api/sinks names them")
    door.audit.add(who.who, "sent again", sink, address=who.address, detail={"count": count})
    return SentAgain(count=count)


@router.post("/models/reload")
def reload_models(door: TheDoor, who: WhoEngineers) -> Done:
    """Read the site file and all models anew, as SIGHUP does; where one fails its verification, all stay.

    It is going on when this is answered; a health event of kind `model` says how it ended.
    """
    door.audit.add(who.who, "reload", address=who.address)
    door.controls.reload()
    return Done()
