"""Events, misses and recordings: what was found, what people say of it, and the files that show it."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query
from fastapi.responses import FileResponse, Response

from anomaly.edge.server import media
from anomaly.edge.server.access import TheDoor, Visitor, WhoEngineers, WhoReads, WhoReviews
from anomaly.edge.server.answers import event_out, miss_out, verdict_out
from anomaly.edge.server.camera_routes import interval, made_under_masks, shown
from anomaly.edge.server.door import Door
from anomaly.edge.server.schemas import (
    Done,
    EventDetail,
    EventOut,
    Events,
    Hold,
    MediaKind,
    Misses,
    MissOut,
    NewMiss,
    NewVerdict,
    UtcS,
    VerdictOut,
)
from anomaly.edge.store import Miss, StoredEvent, timeline
from anomaly.edge.store.deletion import RECORDING

router = APIRouter(prefix="/api/events", tags=["events"])
misses_router = APIRouter(prefix="/api/misses", tags=["events"])
recordings_router = APIRouter(prefix="/api/recordings", tags=["events"])

Id = Annotated[str, Path(pattern=r"^[0-9A-Z]{26}$")]
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {}, "image/png": {}, "video/mp4": {}, "video/x-matroska": {}}}
}


@router.get("")
def events(
    door: TheDoor,
    who: WhoReads,
    camera: Annotated[str | None, Query(max_length=200)] = None,
    since: UtcS | None = None,
    until: UtcS | None = None,
    before_id: Annotated[str | None, Query(pattern=r"^[0-9A-Z]{26}$")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    unreviewed: bool = False,
    announced: bool | None = None,
) -> Events:
    """Events, newest first: of a camera, that overlap since <= time < until, without a verdict, announced or not."""
    found = door.store.events(
        camera=camera,
        since=since,
        until=until,
        before_id=before_id,
        limit=limit + 1,
        unreviewed=unreviewed,
        announced=announced,
    )
    page = found[:limit]
    out = [event_out(event, door.store.verdicts(event.id)) for event in page]
    return Events(
        events=[EventOut.model_validate(one.model_dump(exclude={"verdicts"})) for one in out],
        next_before_id=page[-1].id if len(found) > limit else None,
    )


@router.get("/{event_id}")
def event(event_id: Id, door: TheDoor, who: WhoReads) -> EventDetail:
    """One event with everything said of it."""
    return event_out(_event(door, event_id), door.store.verdicts(event_id))


@router.get("/{event_id}/{kind}", response_class=FileResponse, responses=_FILE)
def event_media(
    event_id: Id, kind: MediaKind, door: TheDoor, who: WhoReads, download: bool = False
) -> Response:
    """A file of an event; `download` saves it instead of showing it.

    The audit tells of what is saved, and of all that a token takes.
    """
    found = _event(door, event_id)
    _behind_masks(door, found, kind)
    if _leaves(who, download):
        _exported(door, who, event_id, kind)
    return media.send(
        door.store.folder, getattr(found, kind), kind, download=f"{event_id}-{kind}" if download else None
    )


@router.post("/{event_id}/verdict")
def give_verdict(event_id: Id, given: NewVerdict, door: TheDoor, who: WhoReviews) -> VerdictOut:
    """Say what an event was; a later verdict stands beside it and counts."""
    _event(door, event_id)
    # Here and below: written first, for what nobody can be asked about must not happen.
    door.audit.add(who.who, "verdict", event_id, address=who.address, detail={"verdict": given.verdict})
    return verdict_out(door.store.add_verdict(event_id, given.verdict, who.who, given.note))


@router.post("/{event_id}/hold")
def hold(event_id: Id, given: Hold, door: TheDoor, who: WhoReviews) -> Done:
    """Keep an event from retention, or let it go again."""
    _event(door, event_id)
    door.audit.add(who.who, "hold", event_id, address=who.address, detail={"held": given.held})
    door.store.hold(event_id, given.held)
    return Done()


@router.delete("/{event_id}")
def delete(event_id: Id, door: TheDoor, who: WhoEngineers) -> Done:
    """Delete an event with its verdicts and files, held or not."""
    found = _event(door, event_id)
    door.audit.add(
        who.who,
        "deletion",
        event_id,
        address=who.address,
        detail={"camera": found.camera, "start_utc_s": found.start_utc_s},
    )
    door.store.delete_event(event_id)
    return Done()


@misses_router.get("")
def misses(
    door: TheDoor, who: WhoReads, camera: Annotated[str | None, Query(max_length=200)] = None
) -> Misses:
    """Marked misses, newest first."""
    return Misses(misses=[miss_out(miss) for miss in door.store.misses(camera)])


@misses_router.post("")
def mark_miss(given: NewMiss, door: TheDoor, who: WhoReviews) -> MissOut:
    """Mark an anomaly in the recording that raised no event: ten minutes at most; its footage becomes a clip."""
    interval(given.start_utc_s, given.end_utc_s, most_s=600.0)
    now = time.time()
    if given.end_utc_s > now:
        raise HTTPException(
            422,
            f"end_utc_s {given.end_utc_s} is {given.end_utc_s - now:.0f} s ahead; mark what has been recorded",
        )
    # A camera that was taken away may still have footage.
    known = given.camera in door.cameras() or door.store.segments(
        given.camera, given.start_utc_s, given.end_utc_s
    )
    if not known:
        raise HTTPException(404, "there is no such camera; GET /api/cameras names them")
    door.audit.add(
        who.who,
        "miss",
        given.camera,
        address=who.address,
        detail={"start_utc_s": given.start_utc_s, "end_utc_s": given.end_utc_s},
    )
    return miss_out(
        door.store.mark_miss(given.camera, given.start_utc_s, given.end_utc_s, given.label, who.who)
    )


@misses_router.delete("/{miss_id}")
def take_miss_back(miss_id: Id, door: TheDoor, who: WhoReviews) -> Done:
    """Take back a miss that was marked by mistake; its clip goes too."""
    found = _miss(door, miss_id)
    door.audit.add(
        who.who,
        "miss taken back",
        found.camera,
        address=who.address,
        detail={"start_utc_s": found.start_utc_s, "end_utc_s": found.end_utc_s, "label": found.label},
    )
    door.store.delete_miss(miss_id)
    return Done()


@misses_router.get("/{miss_id}/{kind}", response_class=FileResponse, responses=_FILE)
def miss_media(
    miss_id: Id,
    kind: Annotated[str, Path(pattern="^(clip|preview)$")],
    door: TheDoor,
    who: WhoReads,
    download: bool = False,
) -> Response:
    """The clip of a miss, or its preview."""
    found = _miss(door, miss_id)
    _behind_masks(door, found, kind)
    if _leaves(who, download):
        _exported(door, who, miss_id, kind)
    return media.send(
        door.store.folder, getattr(found, kind), kind, download=f"{miss_id}-{kind}" if download else None
    )


@recordings_router.get("/{segment_id}", response_class=FileResponse, responses=_FILE)
def segment(
    segment_id: Annotated[int, Path(ge=1, le=2**62)], door: TheDoor, who: WhoReads, download: bool = False
) -> Response:
    """A piece of the rolling recording."""
    recording = door.store.folder / RECORDING
    found = timeline.segments(door.store.connection(), recording, "id = ?", (segment_id,))
    if not found:
        raise HTTPException(404, "there is no such piece of a recording; it may be older than what is kept")
    if not shown(door, found[0].camera, found):
        raise _unmasked("recorded")
    if _leaves(who, download):
        _exported(door, who, f"recording {segment_id}", found[0].camera)
    # Both may be relative to where the server was started.
    name = found[0].path.relative_to(recording)
    return media.send(recording, name, "recording", download=f"recording-{segment_id}" if download else None)


def _event(door: Door, event_id: str) -> StoredEvent:
    found = door.store.event(event_id)
    if found is None:
        raise HTTPException(404, "there is no such event; it may have been deleted")
    return found


def _miss(door: Door, miss_id: str) -> Miss:
    for miss in door.store.misses():
        if miss.id == miss_id:
            return miss
    raise HTTPException(404, "there is no such miss; it may have been taken back")


def _behind_masks(door: Door, item: StoredEvent | Miss, kind: str) -> None:
    """Refuse (403) what was made under other masks than the camera has now, as its recording is."""
    mark = door.store.media_mark(item.id, "clip" if kind in ("clip", "preview") else "pictures")
    if not made_under_masks(door, item.camera, mark):
        raise _unmasked("made")


def _unmasked(how: str) -> HTTPException:
    return HTTPException(403, f"this was {how} before the camera's privacy masks were set as they are now")


def _leaves(who: Visitor, download: bool) -> bool:
    """Whether footage leaves this installation; a program has no page to show it on."""
    return download or who.session is None


def _exported(door: Door, who: Visitor, subject: str, what: str) -> None:
    door.audit.add(who.who, "export", subject, address=who.address, detail={"what": what})
