"""What machines ask: is it alive, is it ready, and its figures."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from anomaly.edge.server.access import TheDoor, check, right_token
from anomaly.edge.server.door import Door
from anomaly.edge.server.settings import is_loopback

#: A camera that was not scored for longer than this is not watched.
ALIVE_S = 30.0

router = APIRouter(tags=["probes"], include_in_schema=False)


@router.get("/healthz")
def alive(door: TheDoor) -> PlainTextResponse:
    """200 while every camera that is there is scored, else 503; tells nothing else, so it asks nobody who they are."""
    if door.runner.keeps_up(ALIVE_S):
        return PlainTextResponse("ok\n")
    return PlainTextResponse("a camera that is there has not been scored lately\n", 503)


@router.get("/readyz")
def ready(door: TheDoor) -> PlainTextResponse:
    """200 once a frame of every camera has been scored, else 503; tells nothing else."""
    if all(door.broadcast.picture(camera) is not None for camera in door.cameras()):
        return PlainTextResponse("ready\n")
    return PlainTextResponse("not ready\n", 503)


@router.get("/metrics")
def metrics(request: Request, door: TheDoor) -> Response:
    """Prometheus figures: for a viewer, a token of scope `metrics`, or the scrape token on this machine."""
    if not may_scrape(request, door):
        check(request, "viewer", "metrics")
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def may_scrape(request: Request, door: Door) -> bool:
    """Whether a request comes from this machine, not through a proxy, with the scrape token."""
    peer = request.client.host if request.client else ""
    return (
        is_loopback(peer)
        and "x-forwarded-for" not in request.headers
        and right_token(request.headers.get("authorization", ""), door.settings.scrape_token)
    )
