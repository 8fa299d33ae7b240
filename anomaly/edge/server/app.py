"""The application: routes over the runner and the store, the page's files, and what is said when it goes wrong."""

from __future__ import annotations

import logging
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from starlette.staticfiles import StaticFiles

from anomaly.edge.server import (
    admin_routes,
    camera_routes,
    control_routes,
    event_routes,
    probes,
    region_routes,
    session_routes,
)
from anomaly.edge.server.access import WhoIsIn
from anomaly.edge.server.schemas import Problem
from anomaly.errors import AnomalyError, EventGoneError, StoreError, StoreFullError, UsageError

if TYPE_CHECKING:
    from anomaly.edge.server.door import Door

UI = Path(__file__).resolve().parent.parent / "ui"
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": what}
    for status, what in {
        400: "the request cannot be read",
        401: "nobody is signed in",
        403: "role, scope, origin or CSRF token is not enough",
        404: "there is no such thing",
        409: "somebody else has changed it meanwhile",
        413: "too much was sent",
        421: "the server is not known by that name",
        422: "a value cannot be used",
        429: "too many log-ins failed",
        503: "the store or the streams are not to be had now",
        507: "the disk is full",
    }.items()
}


_LOG = logging.getLogger(__name__)
_DESCRIPTION = """Sign in with `POST /api/session` (a cookie; changes then need `X-CSRF-Token` and the page's own `Origin`),
or send a token as `Authorization: Bearer ...`. `x-role` is the least role that may, `x-scope` the scope that a token
needs. Times ending in `_utc_s` are POSIX seconds.

Live frames also come over the WebSocket `/api/cameras/{camera}/live` (viewer, scope live), one binary message each:
4 bytes with the length of the header, unsigned, big-endian; the header, JSON in UTF-8 (`camera sequence utc_s utc score
decision_score threshold alarm size grid grid_range jpeg_bytes`); the heatmap as `grid` = [rows, columns] of one byte a
cell (0 = `grid_range[0]`, 255 = `grid_range[1]`); the picture as JPEG. It closes with 4401 when the session ends, 4404
when the camera is gone, 4429 when too many streams are open. With `?paced=true` the next one comes once the one before
was answered, by any message: over a slow link the newest frame then, and none that has become old on the way."""
_ROUTERS = (
    session_routes.router,
    camera_routes.router,
    camera_routes.health_router,
    event_routes.router,
    event_routes.misses_router,
    event_routes.recordings_router,
    region_routes.router,
    control_routes.router,
    admin_routes.router,
    probes.router,
)


def build_app(door: Door) -> FastAPI:
    """The application behind the guard (`guard.Guard`), which `serve` puts in front of it."""
    app = FastAPI(
        title="anomaly",
        version=version("anomaly"),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses=_PROBLEMS,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.door = door
    for router in _ROUTERS:
        app.include_router(router)
    app.add_api_route("/api/openapi.json", _openapi, methods=["GET"], include_in_schema=False)
    app.add_api_route("/", _page, methods=["GET"], include_in_schema=False)
    if UI.is_dir():
        app.mount("/static", _PageFiles(directory=UI), name="static")
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(AnomalyError, _failed)
    app.add_exception_handler(Exception, _unexpected)
    return app


class _PageFiles(StaticFiles):
    """The page's files: kept by browsers, but asked about each time, so that an update shows at once."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


async def _page() -> Response:
    """The page. It holds no data: those it asks the API for."""
    index = UI / "index.html"
    if not index.is_file():
        return PlainTextResponse("The page is not installed; the API is at /api/openapi.json.\n")
    return FileResponse(index, media_type="text/html; charset=utf-8", headers={"cache-control": "no-cache"})


def _openapi(request: Request, who: WhoIsIn) -> JSONResponse:
    """The API's description."""
    app: FastAPI = request.app
    if app.openapi_schema is None:
        schema = get_openapi(
            title="anomaly",
            version=app.version,
            routes=app.routes,
            description=_DESCRIPTION,
        )
        _tell_roles(schema)
        schema["components"]["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"},
            "session": {"type": "apiKey", "in": "cookie", "name": "anomaly_session"},
        }
        schema["security"] = [{"token": []}, {"session": []}]
        app.openapi_schema = schema
    return JSONResponse(app.openapi_schema)


def _tell_roles(schema: dict[str, Any]) -> None:
    """Write into the description what each route asks of its visitor."""
    routes = [route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    asked = {
        route.name: dependency.call.__dict__["asks"]
        for route in routes
        for dependency in route.dependant.dependencies
        if dependency.call is not None and "asks" in dependency.call.__dict__
    }
    for operations in schema["paths"].values():
        for operation in operations.values():
            role, scope = asked.get(operation["operationId"], (None, None))
            operation |= {"x-role": role, "x-scope": scope}


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """One line that says what cannot be used; what was sent is not sent back, it may be a password."""
    assert isinstance(error, RequestValidationError)
    told = [
        f"{'.'.join(str(part) for part in one['loc'][1:]) or 'the body'}: {one['msg']}"
        for one in error.errors()[:5]
    ]
    return JSONResponse({"detail": "; ".join(told)[:1000]}, 422)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """Our own errors are one line for people already."""
    status = 500
    if isinstance(error, UsageError):
        status = 422
    elif isinstance(error, EventGoneError):
        # Deleted between the look at whether it is there and the write: trying again does not bring it back.
        status = 404
    elif isinstance(error, StoreError):
        status = 507 if isinstance(error, StoreFullError) else 503
    detail = str(error)
    if isinstance(error, StoreError) and not getattr(request.state, "known", False):
        # It names a file: of those, who is not signed in learns nothing.
        _LOG.error("%s %s: %s", request.method, request.url.path, detail)
        why = "the disk is full" if status == 507 else "the accounts cannot be read or written now"
        detail = f"nobody can sign in: {why}; the program's log says which file"
    return JSONResponse({"detail": detail}, status)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "something went wrong in the server; its log says what"}, 500)
