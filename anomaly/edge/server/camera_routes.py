"""Cameras: how they are, their state, and what they see now."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, WebSocket
from fastapi.responses import Response, StreamingResponse
from starlette.requests import HTTPConnection, Request
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect, WebSocketState

from anomaly.edge.segment_name import mark_of, mask_mark
from anomaly.edge.server.access import TheDoor, Visitor, WhoOperates, WhoReads, WhoWatches, check
from anomaly.edge.server.answers import plain, scores_out, segment_out
from anomaly.edge.server.door import Door, door_of
from anomaly.edge.server.live import WAKE_S, TooManyStreams
from anomaly.edge.server.picture import Picture
from anomaly.edge.server.schemas import (
    Cameras,
    Done,
    GapOut,
    HealthList,
    HealthOut,
    KnownCameras,
    NewRecipe,
    NewState,
    Recording,
    Scores,
    UtcS,
)
from anomaly.edge.store.timeline import Segment

router = APIRouter(prefix="/api/cameras", tags=["cameras"])
health_router = APIRouter(prefix="/api/health", tags=["cameras"])

View = Literal["picture", "overlay", "heatmap"]
_BOUNDARY = "frame"
_RECHECK_S = 5.0
# A watcher that takes nothing for so long is gone, whatever its connection says.
_SEND_S = 15.0
# A program that asks for single pictures all day has one line of the audit in so long.
_TAKEN_EVERY_S = 3600.0


@router.get("")
def cameras(door: TheDoor, who: WhoWatches) -> Cameras:
    """All cameras as the runner tells them."""
    status = plain(door.runner.status())
    told = status.pop("cameras")
    return Cameras(
        utc_s=time.time(),
        cameras=[{**camera, "name": name} for name, camera in told.items()],
        site=status,
    )


@router.get("/known")
def known_cameras(door: TheDoor, who: WhoReads) -> KnownCameras:
    """Names of the cameras there are now, and of those that left and that something is still kept of."""
    here = door.cameras()
    return KnownCameras(cameras=here, former=[name for name in door.store.cameras() if name not in here])


@router.post("/{camera}/state")
def set_state(camera: str, given: NewState, door: TheDoor, who: WhoOperates) -> Done:
    """Set a camera's state; outside `running` events are stored and not announced."""
    existing(door, camera)
    door.audit.state(who.who, camera, given.state, address=who.address)
    door.runner.set_state(camera, given.state, who.who)
    return Done()


@router.post("/{camera}/recipe")
def switch_recipe(camera: str, given: NewRecipe, door: TheDoor, who: WhoOperates) -> Done:
    """Look at a camera with the model of another recipe, from the next frame on."""
    existing(door, camera)
    if given.recipe in door.runner.status()["cameras"].get(camera, {}).get("recipes", ()):
        door.audit.add(who.who, "recipe", camera, address=who.address, detail={"recipe": given.recipe})
    # Refuses what it does not know.
    door.runner.switch_recipe(camera, given.recipe)
    return Done()


@router.get("/{camera}/live.jpg", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
def live_picture(camera: str, door: TheDoor, who: WhoWatches, view: View = "overlay") -> Response:
    """The last scored frame: as it is, with the heatmap over it, or the heatmap alone."""
    existing(door, camera)
    picture = door.broadcast.picture(camera)
    if picture is None:
        raise HTTPException(404, f"no frame of {camera} has been scored yet")
    _tell_taken(door, who, camera, every_s=_TAKEN_EVERY_S)
    return Response(picture.jpeg(view), media_type="image/jpeg")


@router.get(
    "/{camera}/live.mjpeg",
    response_class=Response,
    responses={200: {"content": {f"multipart/x-mixed-replace; boundary={_BOUNDARY}": {}}}},
)
async def live_mjpeg(
    camera: str, request: Request, door: TheDoor, who: WhoWatches, view: View = "overlay"
) -> Response:
    """The scored frames as they come, as Motion JPEG; ends when the session or the camera does."""
    existing(door, camera)
    await asyncio.to_thread(_tell_taken, door, who, camera)
    stack = contextlib.AsyncExitStack()
    pictures = await _enter(stack, door, camera, who)

    async def parts() -> AsyncIterator[bytes]:
        checked = time.monotonic()
        async with stack:
            async for picture in pictures:
                if time.monotonic() - checked > _RECHECK_S:
                    checked = time.monotonic()
                    if not await asyncio.to_thread(_still_welcome, request, camera):
                        return
                if picture is not None:
                    # The first watcher has it made, beside the loop; for the others it is there.
                    jpeg = picture.made(view)
                    if jpeg is None:
                        jpeg = await asyncio.to_thread(picture.jpeg, view)
                    yield (
                        f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
                        + jpeg
                        + b"\r\n"
                    )

    return _Stream(parts(), stack)


class _Stream(StreamingResponse):
    """Motion JPEG; leaves the stream even if the client went before the first picture."""

    def __init__(self, parts: AsyncIterator[bytes], stack: contextlib.AsyncExitStack) -> None:
        super().__init__(
            parts,
            media_type=f"multipart/x-mixed-replace; boundary={_BOUNDARY}",
            # Otherwise nginx takes what a slow watcher does not, up to 1 GiB of it, and shows him what is long past.
            headers={"x-accel-buffering": "no"},
        )
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it for as long as the client takes it, then leave."""

        async def within_time(message: Message) -> None:
            await asyncio.wait_for(send(message), _SEND_S)

        try:
            await super().__call__(scope, receive, within_time)
        except TimeoutError:
            return
        finally:
            await self._stack.aclose()


@router.websocket("/{camera}/live")
async def live_socket(
    camera: str, websocket: WebSocket, door: TheDoor, who: WhoWatches, paced: bool = False
) -> None:
    """The scored frames as they come, one binary message each (`live.Picture.message`).

    Where it is `paced`, the client answers each message with one of its own, whatever is in it, and gets no other before:
    what lies on the way of a slow link, however much of it takes, would be old when it arrives. Otherwise nothing is
    read from the client. Closed with 4401 when the session ends, 4404 when the camera is gone, 4429 when too many
    streams are open.
    """
    existing(door, camera)
    await asyncio.to_thread(_tell_taken, door, who, camera)
    await websocket.accept()
    async with contextlib.AsyncExitStack() as stack:
        try:
            pictures = await _enter(stack, door, camera, who)
        except HTTPException:
            await websocket.close(4429, "too many live streams are open")
            return
        answered = asyncio.Event()
        sending = asyncio.create_task(
            _send_pictures(websocket, camera, pictures, answered if paced else None)
        )
        gone = asyncio.create_task(_until_gone(websocket, answered))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)


async def _send_pictures(
    websocket: WebSocket,
    camera: str,
    pictures: AsyncIterator[Picture | None],
    answered: asyncio.Event | None,
) -> None:
    """Send them until the watcher may not watch any more; with `answered` each once the one before was answered."""
    checked = time.monotonic()

    async def turned_away() -> bool:
        nonlocal checked
        if time.monotonic() - checked <= _RECHECK_S:
            return False
        checked = time.monotonic()
        if await asyncio.to_thread(_still_welcome, websocket, camera):
            return False
        here = camera in door_of(websocket).cameras()
        await websocket.close(4401 if here else 4404, "signed out" if here else "camera gone")
        return True

    async for picture in pictures:
        if await turned_away():
            return
        if picture is None:
            continue
        message = picture.made("message")
        if message is None:
            message = await asyncio.to_thread(picture.message)
        if answered is not None:
            answered.clear()
        await asyncio.wait_for(websocket.send_bytes(message), _SEND_S)
        while answered is not None and not answered.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(answered.wait(), WAKE_S)
            if await turned_away():
                return
    await websocket.close(1001, "the server stops")


async def _enter(
    stack: contextlib.AsyncExitStack, door: Door, camera: str, who: Visitor
) -> AsyncIterator[Picture | None]:
    try:
        return await stack.enter_async_context(door.broadcast.watching(camera, who.name))
    except TooManyStreams:
        most = door.settings.max_streams
        raise HTTPException(
            503,
            f"too many live streams are open ({most} at most, half of them of one account); close one first, or "
            "raise door.streams",
        ) from None


def _tell_taken(door: Door, who: Visitor, camera: str, every_s: float = 0.0) -> None:
    """Tell the audit that a program takes live pictures: footage leaves this installation, as by a download.

    Each stream is told; of who asks for picture after picture only the first in `every_s` seconds.
    """
    if who.session is not None:
        return
    key, now = (who.who, who.address, camera), time.monotonic()
    for old in [one for one, told in list(door.taken.items()) if now - told >= _TAKEN_EVERY_S]:
        door.taken.pop(old, None)
    if now - door.taken.get(key, -every_s) >= every_s:
        door.audit.add(who.who, "export", camera, address=who.address, detail={"what": "live"})
        door.taken[key] = now


async def _until_gone(websocket: WebSocket, answered: asyncio.Event) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while websocket.client_state is WebSocketState.CONNECTED:
            await websocket.receive()
            answered.set()


def _still_welcome(connection: HTTPConnection, camera: str) -> bool:
    try:
        check(connection, "viewer", "live")
    except HTTPException:
        return False
    return camera in door_of(connection).cameras()


@router.get("/{camera}/scores")
def scores(
    camera: str,
    door: TheDoor,
    who: WhoReads,
    since: UtcS,
    until: UtcS,
    at_most: Annotated[int, Query(ge=1, le=5000)] = 1000,
) -> Scores:
    """Scores of since <= time < until, of each of `at_most` equal stretches the highest, and the gaps."""
    interval(since, until)
    gaps = [
        GapOut(start_utc_s=gap.start_utc_s, end_utc_s=gap.end_utc_s, reason=gap.reason)
        for gap in door.store.gaps(camera, since, until)
    ]
    return scores_out(camera, door.store.scores(camera, since, until, at_most), gaps)


@router.get("/{camera}/recording")
def recording(camera: str, door: TheDoor, who: WhoReads, since: UtcS, until: UtcS) -> Recording:
    """The pieces of the rolling recording that overlap since <= time < until; a day at most.

    Of a camera with privacy masks, those that were recorded under the masks that it has now, or had when it was
    taken away.
    """
    interval(since, until, most_s=86_400.0)
    return Recording(
        camera=camera,
        segments=[
            segment_out(segment, f"/api/recordings/{segment.id}")
            for segment in shown(door, camera, door.store.segments(camera, since, until))
        ],
    )


def shown(door: Door, camera: str, segments: Sequence[Segment]) -> list[Segment]:
    """Those pieces of a camera's recording that may be seen: nothing is in them that its masks hide.

    Of a camera that was taken away, the masks that it had last.
    """
    return [one for one in segments if made_under_masks(door, camera, mark_of(one.path))]


def made_under_masks(door: Door, camera: str, mark: str) -> bool:
    """Whether what bears this mark was made under the masks that a camera has now; where it has none, all was."""
    told = door.runner.status()["cameras"].get(camera)
    now = mask_mark(door.store.masks().get(camera, ())) if told is None else told["mask"]
    return not now or mark == now


@health_router.get("")
def health(
    door: TheDoor,
    who: WhoReads,
    camera: Annotated[str | None, Query(max_length=200)] = None,
    since: UtcS | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    open: bool = False,
) -> HealthList:
    """What was wrong with cameras or the machine since then, newest first.

    With `open` all that is still wrong, whenever it began and however much it is.
    """
    found = door.store.open_health(camera) if open else door.store.health(camera, since, limit)
    return HealthList(
        health=[
            HealthOut(
                id=one.id,
                camera=one.camera,
                kind=one.kind,
                utc_s=one.utc_s,
                end_utc_s=one.end_utc_s,
                detail=plain(one.detail),
            )
            for one in found
        ]
    )


def existing(door: Door, camera: str) -> None:
    """Refuse (404) a camera that is not there."""
    if camera not in door.cameras():
        raise HTTPException(404, "there is no such camera; GET /api/cameras names them")


def interval(since: float, until: float, most_s: float | None = None) -> None:
    """Refuse (422) an interval that does not end after it starts, or is too long."""
    if not since < until:
        raise HTTPException(422, f"since {since} is not before until {until}")
    if most_s is not None and until - since > most_s:
        raise HTTPException(422, f"{until - since:g} s are more than {most_s:g}; ask for less at a time")
