"""The API over a real store: who may ask what, pages, media with ranges, verdicts, misses, regions, deletion."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_case import PASSWORD, Case, running

from anomaly.edge.segment_name import mask_mark
from anomaly.edge.server.accounts import ROLES, SCOPES
from anomaly.edge.server.region_routes import regions_file
from anomaly.errors import StoreError, StoreFullError
from anomaly.regions import Regions

EVENT = "0" * 26
#: Every operation of the API: what it asks of its visitor, and something to send.
ROUTES: dict[tuple[str, str], tuple[str | None, str | None, Any]] = {
    ("GET", "/api/session"): (None, None, None),
    ("POST", "/api/session"): (None, None, {"name": "the-viewer", "password": PASSWORD}),
    ("DELETE", "/api/session"): ("viewer", None, None),
    ("PUT", "/api/session/password"): ("viewer", None, {"old": "x", "new": PASSWORD}),
    ("GET", "/api/cameras"): ("viewer", "live", None),
    ("POST", "/api/cameras/cam/state"): ("operator", "control", {"state": "running"}),
    ("POST", "/api/cameras/cam/recipe"): ("operator", "control", {"recipe": "A5"}),
    ("GET", "/api/sinks"): ("engineer", "control", None),
    ("POST", "/api/sinks/none/again"): ("engineer", "control", None),
    ("POST", "/api/models/reload"): ("engineer", "control", None),
    ("GET", "/api/cameras/known"): ("viewer", "events", None),
    ("GET", "/api/cameras/cam/live.jpg"): ("viewer", "live", None),
    ("GET", "/api/cameras/none/live.mjpeg"): ("viewer", "live", None),
    ("GET", "/api/cameras/cam/scores?since=0&until=1"): ("viewer", "events", None),
    ("GET", "/api/cameras/cam/recording?since=0&until=1"): ("viewer", "events", None),
    ("GET", "/api/health"): ("viewer", "events", None),
    ("GET", "/api/events"): ("viewer", "events", None),
    ("GET", f"/api/events/{EVENT}"): ("viewer", "events", None),
    ("GET", f"/api/events/{EVENT}/clip"): ("viewer", "events", None),
    ("POST", f"/api/events/{EVENT}/verdict"): ("operator", "review", {"verdict": "real"}),
    ("POST", f"/api/events/{EVENT}/hold"): ("operator", "review", {"held": True}),
    ("DELETE", f"/api/events/{EVENT}"): ("engineer", "control", None),
    ("GET", "/api/misses"): ("viewer", "events", None),
    ("POST", "/api/misses"): ("operator", "review", {"camera": "cam", "start_utc_s": 1, "end_utc_s": 2}),
    ("DELETE", f"/api/misses/{EVENT}"): ("operator", "review", None),
    ("GET", f"/api/misses/{EVENT}/clip"): ("viewer", "events", None),
    ("GET", "/api/recordings/1"): ("viewer", "events", None),
    ("GET", "/api/regions/cam"): ("viewer", "events", None),
    ("PUT", "/api/regions/cam"): ("engineer", "control", {}),
    ("GET", "/api/users"): ("admin", "admin", None),
    ("POST", "/api/users"): ("admin", "admin", {"name": "!", "role": "viewer", "password": PASSWORD}),
    ("PATCH", "/api/users/nobody"): ("admin", "admin", {}),
    ("DELETE", "/api/users/nobody"): ("admin", "admin", None),
    ("GET", "/api/tokens"): ("admin", "admin", None),
    ("POST", "/api/tokens"): (
        "admin",
        "admin",
        {"owner": "nobody", "label": "x", "role": "viewer", "scopes": ["live"]},
    ),
    ("DELETE", "/api/tokens/none"): ("admin", "admin", None),
    ("GET", "/api/audit"): ("admin", "admin", None),
    ("POST", "/api/retention/delete"): (
        "admin",
        "admin",
        {"camera": "cam", "start_utc_s": 1, "end_utc_s": 2},
    ),
}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with running(tmp_path_factory.mktemp("api"), cameras=("cam", "cam two")) as running_case:
        yield running_case


@pytest.fixture(scope="module")
def admin(case: Case) -> httpx.Client:
    return case.signed_in("admin")


def send(client: httpx.Client, route: tuple[str, str]) -> int:
    return client.request(route[0], route[1], json=ROUTES[route][2]).status_code


def test_the_table_names_every_operation_and_what_it_asks(admin: httpx.Client):
    paths = admin.get("/api/openapi.json").json()["paths"]
    described = {
        (method.upper(), len(path.split("/")), operation["x-role"], operation["x-scope"])
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    table = {
        (method, len(path.split("?")[0].split("/")), role, scope)
        for (method, path), (role, scope, _) in ROUTES.items()
    }
    assert described == table
    assert sum(len(operations) for operations in paths.values()) == len(ROUTES)


@pytest.mark.parametrize("route", [route for route, asks in ROUTES.items() if asks[0]], ids=" ".join)
def test_nobody_less_than_the_least_role_may(case: Case, route: tuple[str, str]):
    role, scope, _ = ROUTES[route]
    assert role is not None
    assert send(case.client(), route) == 401
    everything_else = [one for one in SCOPES if one != scope]
    if ROLES.index(role) > 0:
        assert send(case.token(ROLES[ROLES.index(role) - 1], *SCOPES), route) == 403
    if scope is not None:
        assert send(case.token("admin", *everything_else), route) == 403
        assert send(case.token(role, scope), route) not in {401, 403}


def test_other_doors_ask_too(case: Case):
    nobody, viewer = case.client(), case.signed_in("viewer")
    assert nobody.get("/api/openapi.json").status_code == 401
    assert nobody.get("/metrics").status_code == 401
    assert "anomaly" in viewer.get("/api/openapi.json").text
    assert viewer.get("/metrics").status_code == 200
    assert [nobody.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")] == [404] * 3
    assert nobody.get("/healthz").text == "ok\n"
    assert nobody.get("/readyz").status_code == 503


def test_ready_once_every_camera_is_scored(tmp_path: Path):
    with running(tmp_path) as case:
        assert case.client().get("/readyz").status_code == 503
        case.runner.show("cam")
        assert case.client().get("/readyz").text == "ready\n"


def test_alive_as_long_as_the_cameras_are_scored(tmp_path: Path):
    with running(tmp_path) as case:
        nobody = case.client()
        assert nobody.get("/healthz").text == "ok\n"
        case.runner.scores = False
        assert (nobody.get("/healthz").status_code, nobody.get("/api/session").status_code) == (503, 200)


def test_signing_in_and_out(case: Case):
    browser = case.client()
    assert browser.get("/api/session").json()["signed_in"] is False
    wrong = browser.post("/api/session", json={"name": case.account("viewer"), "password": "not this one"})
    unknown = browser.post("/api/session", json={"name": "nobody-here", "password": "not this one"})
    assert (wrong.status_code, wrong.json()) == (unknown.status_code, unknown.json())
    assert wrong.status_code == 401
    assert "set-cookie" not in wrong.headers
    told = browser.post("/api/session", json={"name": "the-viewer", "password": PASSWORD}).json()
    assert told == browser.get("/api/session").json()
    browser.headers["X-CSRF-Token"] = told["csrf"]
    assert (told["name"], told["role"], told["setup"]) == ("the-viewer", "viewer", None)
    stolen = case.client()
    stolen.cookies.set("anomaly_session", browser.cookies["anomaly_session"])
    assert browser.delete("/api/session").status_code == 200
    assert "anomaly_session" not in browser.cookies
    assert stolen.get("/api/cameras").status_code == 401


def test_without_an_account_the_page_tells_the_command_that_makes_one(tmp_path: Path):
    with running(tmp_path) as case:
        told = case.client().get("/api/session").json()
        assert told["setup"].startswith("python -m anomaly users add NAME --role admin")
        case.account("admin")
        assert case.client().get("/api/session").json()["setup"] is None


def test_changing_ones_password_ends_the_other_sessions(case: Case):
    case.server.door.accounts.add("changer", "viewer", PASSWORD)

    def log_in(password: str) -> httpx.Client:
        client = case.client()
        answer = client.post("/api/session", json={"name": "changer", "password": password})
        client.headers["X-CSRF-Token"] = answer.json().get("csrf") or ""
        return client

    here, elsewhere = log_in(PASSWORD), log_in(PASSWORD)
    new = "another long password"
    assert here.put("/api/session/password", json={"old": "wrong password", "new": new}).status_code == 403
    assert here.put("/api/session/password", json={"old": PASSWORD, "new": "short"}).status_code == 422
    changed = here.put("/api/session/password", json={"old": PASSWORD, "new": new})
    assert changed.status_code == 200
    assert here.get("/api/cameras").status_code == 200
    assert elsewhere.get("/api/cameras").status_code == 401
    assert log_in(PASSWORD).get("/api/cameras").status_code == 401
    assert log_in(new).get("/api/cameras").status_code == 200


def test_cameras_are_told_as_json_can_hold_them(case: Case, admin: httpx.Client):
    told = admin.get("/api/cameras").json()
    assert told["site"] == {"site": "works", "events_in_memory": 0, "not_stored": None}
    assert [camera["name"] for camera in told["cameras"]] == ["cam", "cam two"]
    assert told["cameras"][0]["last_score"] is None


def test_a_state_is_set_by_name_and_audited(case: Case):
    operator = case.signed_in("operator")
    answer = operator.post("/api/cameras/cam%20two/state", json={"state": "changeover"})
    assert answer.json() == {"done": True}
    assert case.runner.set_by[-1] == ("cam two", "changeover", "the-operator")
    assert operator.post("/api/cameras/none/state", json={"state": "running"}).status_code == 404
    assert operator.post("/api/cameras/cam/state", json={"state": "asleep"}).status_code == 422
    assert operator.post("/api/cameras/cam/state", json={"state": "running", "x": 1}).status_code == 422
    line = case.server.door.audit.lines(action="state")[0]
    assert (line.who, line.subject, line.detail) == ("the-operator", "cam two", {"state": "changeover"})


def test_a_recipe_is_switched_and_audited(case: Case):
    operator = case.signed_in("operator")
    assert operator.post("/api/cameras/cam/recipe", json={"recipe": "A5"}).json() == {"done": True}
    assert case.runner.recipes["cam"] == "A5"
    answer = operator.post("/api/cameras/cam/recipe", json={"recipe": "B1"})
    assert (answer.status_code, "it has A4, A5" in answer.text) == (422, True)
    assert operator.post("/api/cameras/none/recipe", json={"recipe": "A5"}).status_code == 404
    (line,) = case.server.door.audit.lines(action="recipe", limit=1)
    assert (line.who, line.subject, line.detail) == ("the-operator", "cam", {"recipe": "A5"})


def test_models_are_loaded_anew_and_refused_messages_sent_again(case: Case):
    engineer = case.signed_in("engineer")
    assert engineer.post("/api/models/reload").status_code == 200
    assert case.runner.reloads >= 1
    assert case.server.door.audit.lines(action="reload")[0].who == "the-engineer"
    (sink,) = engineer.get("/api/sinks").json()["sinks"]
    assert (sink["name"], sink["set_aside"]) == ("mes", 3)
    assert engineer.post("/api/sinks/mes/again").json() == {"count": 3}
    assert engineer.get("/api/sinks").json()["sinks"][0]["set_aside"] == 0
    assert engineer.post("/api/sinks/none/again").status_code == 404
    line = case.server.door.audit.lines(action="sent again")[0]
    assert (line.who, line.subject, line.detail) == ("the-engineer", "mes", {"count": 3})


def test_everything_that_must_be_answered_for_is_audited(tmp_path: Path):
    """Log-ins, verdicts, mutes, thresholds, exports, deletions: who, what, and of what."""
    with running(tmp_path) as case:
        event = case.event().id
        clip = case.store.folder / "clips" / "one.mp4"
        clip.parent.mkdir(exist_ok=True)
        clip.write_bytes(b"\0" * 64)
        case.store.set_clip(event, clip="clips/one.mp4", clip_state="ready")
        audit, admin = case.server.door.audit, case.signed_in("admin")
        case.client().post("/api/session", json={"name": "the-admin", "password": "wrong"})
        case.client().post("/api/session", json={"name": "the-admin", "password": PASSWORD})
        admin.post(f"/api/events/{event}/verdict", json={"verdict": "real"})
        admin.post("/api/cameras/cam/state", json={"state": "maintenance"})
        admin.get(f"/api/events/{event}/clip?download=true")
        # Shown on the page it stays here; a program takes it away.
        admin.get(f"/api/events/{event}/clip")
        case.token("viewer", "events").get(f"/api/events/{event}/clip")
        admin.delete(f"/api/events/{event}")
        admin.post("/api/retention/delete", json={"camera": "cam", "start_utc_s": 1, "end_utc_s": 2})
        for threshold in (1.5, 1.5, 1.4):
            audit.threshold("cam", "a" * 64, "", threshold)
        lines = [(line.who, line.action, line.subject) for line in reversed(audit.lines())]
        assert lines == [
            ("", "log-in refused", "the-admin"),
            ("the-admin", "log-in", "the-admin"),
            ("the-admin", "verdict", event),
            ("the-admin", "state", "cam"),
            ("the-admin", "export", event),
            ("token a program of the-viewer", "export", event),
            ("the-admin", "deletion", event),
            ("the-admin", "deletion", "cam"),
            # The same threshold, loaded again, is no change.
            ("", "threshold", "cam"),
            ("", "threshold", "cam"),
        ]
        assert audit.lines()[0].detail == {"threshold": 1.4, "model": "a" * 12, "recipe": ""}


def test_what_cannot_be_audited_is_not_done_but_nothing_stays_muted(
    case: Case, monkeypatch: pytest.MonkeyPatch
):
    """A full disk under the audit alone."""
    operator, event = case.signed_in("operator"), case.event().id
    before = list(case.runner.set_by)

    def full(*_: object, **__: object) -> None:
        raise StoreFullError("the disk is full; make room")

    monkeypatch.setattr(case.server.door.audit, "add", full)
    assert operator.post("/api/cameras/cam/state", json={"state": "maintenance"}).status_code == 507
    assert operator.post(f"/api/events/{event}/verdict", json={"verdict": "false alarm"}).status_code == 507
    assert operator.post(f"/api/events/{event}/hold", json={"held": True}).status_code == 507
    assert case.runner.set_by == before
    assert case.store.verdicts(event) == []
    assert case.store.event(event).held is False
    assert operator.post("/api/cameras/cam/state", json={"state": "running"}).status_code == 200
    assert case.runner.set_by == [*before, ("cam", "running", "the-operator")]


def test_accounts_and_tokens_change_with_their_line_in_the_audit_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with running(tmp_path) as case:
        admin, door = case.signed_in("admin"), case.server.door
        token, _ = door.accounts.add_token(case.account("viewer"), "kept", "viewer", ["live"])
        before = door.accounts.all(), door.accounts.tokens()

        def full(*_: object, **__: object) -> None:
            raise StoreFullError("the disk is full; make room")

        monkeypatch.setattr(door.audit, "add", full)
        new = {"name": "eve", "role": "admin", "password": PASSWORD}
        for answer in (
            admin.post("/api/users", json=new),
            admin.patch("/api/users/the-viewer", json={"role": "admin", "password": "another good one"}),
            admin.delete("/api/users/the-viewer"),
            admin.post(
                "/api/tokens",
                json={"owner": "the-admin", "label": "x", "role": "admin", "scopes": ["admin"]},
            ),
            admin.delete(f"/api/tokens/{token.id}"),
            admin.put("/api/session/password", json={"old": PASSWORD, "new": "another good one"}),
        ):
            assert answer.status_code == 507
        assert (door.accounts.all(), door.accounts.tokens()) == before
        signed_in = case.client().post("/api/session", json={"name": "the-viewer", "password": PASSWORD})
        assert (signed_in.status_code, signed_in.cookies.get("anomaly_session")) == (507, None)
        with door.vault.reading() as connection:
            assert connection.execute("SELECT count(*) FROM sessions").fetchone() == (1,)
        assert admin.get("/api/users").status_code == 200


@pytest.mark.parametrize(("error", "status"), [(StoreFullError, 507), (StoreError, 503)])
def test_who_is_not_signed_in_learns_no_path_from_a_disk_that_fails(
    case: Case, monkeypatch: pytest.MonkeyPatch, error: type[StoreError], status: int
):
    operator = case.signed_in("operator")

    def fails(*_: object, **__: object) -> None:
        raise error("/srv/line 3/accounts.db: it cannot be written")

    monkeypatch.setattr(case.server.door.audit, "add", fails)
    given = {"name": "the-operator", "password": PASSWORD}
    for password in (PASSWORD, "another one, wrong"):
        answer = case.client().post("/api/session", json={**given, "password": password})
        assert (answer.status_code, "/srv" in answer.text) == (status, False)
    told = operator.post("/api/cameras/cam/state", json={"state": "maintenance"})
    assert (told.status_code, "/srv/line 3/accounts.db" in told.text) == (status, True)


def test_an_open_page_that_nobody_touches_is_signed_out(tmp_path: Path):
    with running(tmp_path, idle_s=2.0) as case:
        alone, used = case.signed_in("viewer"), case.signed_in("viewer")
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            alone.get("/api/cameras")
            assert used.get("/api/cameras", headers={"X-By-Hand": "1"}).status_code == 200
            time.sleep(0.2)
        assert alone.get("/api/cameras", headers={"X-By-Hand": "1"}).status_code == 401


def test_events_come_in_pages_and_by_filter(tmp_path: Path):
    with running(tmp_path) as case:
        viewer = case.signed_in("viewer")
        ids = [
            case.event(
                camera=f"cam{n % 2}",
                start_utc_s=100.0 * n,
                end_utc_s=100.0 * n + 5,
                end_pts_s=1.0,
                announced=n != 3,
            ).id
            for n in range(7)
        ]
        newest = ids[::-1]
        seen, before = [], None
        while True:
            page = viewer.get(
                "/api/events", params={"limit": 3} | ({"before_id": before} if before else {})
            ).json()
            seen += [one["id"] for one in page["events"]]
            before = page["next_before_id"]
            if before is None:
                break
        assert seen == newest

        def found(**params: Any) -> list[str]:
            return [one["id"] for one in viewer.get("/api/events", params=params).json()["events"]]

        assert found(camera="cam1") == [ids[5], ids[3], ids[1]]
        assert found(since=306, until=501) == [ids[5], ids[4]]
        assert found(announced=False) == [ids[3]]
        case.store.add_verdict(ids[6], "real", "somebody")
        assert found(unreviewed=True) == newest[1:]
        assert found(limit=7) == newest
        assert viewer.get("/api/events", params={"limit": 7}).json()["next_before_id"] is None
        assert viewer.get("/api/events", params={"limit": 0}).status_code == 422
        assert viewer.get("/api/events", params={"since": "nan"}).status_code == 422


def test_an_event_shows_addresses_instead_of_paths(case: Case, admin: httpx.Client):
    event = case.event(
        snapshot="snapshots/a.jpg",
        box=(1, 2, 3, 4),
        frame_size=(90, 160),
        explanation={"time_s": float("inf")},
    )
    told = admin.get(f"/api/events/{event.id}").json()
    assert told["media"] == {
        "snapshot": f"/api/events/{event.id}/snapshot",
        "heatmap": None,
        "normal": None,
        "clip": None,
        "preview": None,
    }
    assert (told["box"], told["frame_size"]) == ([1, 2, 3, 4], [90, 160])
    assert told["explanation"] == {"time_s": None}
    assert "snapshots/a.jpg" not in str(told)
    assert admin.get(f"/api/events/{EVENT}").status_code == 404


def test_verdict_and_hold(case: Case):
    operator = case.signed_in("operator")
    event = case.event()
    url = f"/api/events/{event.id}"
    said = operator.post(f"{url}/verdict", json={"verdict": "false alarm", "note": "<b>a fly</b>"}).json()
    assert (said["verdict"], said["who"], said["note"], said["model"]) == (
        "false alarm",
        "the-operator",
        "<b>a fly</b>",
        "a" * 64,
    )
    operator.post(f"{url}/verdict", json={"verdict": "real"})
    told = operator.get(url).json()
    assert told["verdict"]["verdict"] == "real"
    assert [one["verdict"] for one in told["verdicts"]] == ["false alarm", "real"]
    assert operator.post(f"{url}/verdict", json={"verdict": "maybe"}).status_code == 422
    operator.post(f"{url}/hold", json={"held": True})
    assert operator.get(url).json()["held"] is True
    assert [line.action for line in case.server.door.audit.lines(limit=3)] == ["hold", "verdict", "verdict"]


@pytest.mark.parametrize(("what", "body"), [("verdict", {"verdict": "real"}), ("hold", {"held": True})])
def test_what_is_said_of_an_event_while_it_is_deleted_is_told_to_be_too_late(
    case: Case, monkeypatch: pytest.MonkeyPatch, what: str, body: dict[str, Any]
):
    event, audit = case.event(), case.server.door.audit
    operator, right = case.signed_in("operator"), audit.add
    monkeypatch.setattr(
        audit, "add", lambda *given, **more: (case.store.delete_event(event.id), right(*given, **more))
    )
    answer = operator.post(f"/api/events/{event.id}/{what}", json=body)
    assert answer.status_code == 404
    assert "deleted" in answer.json()["detail"]


def test_a_clip_is_sent_in_ranges(case: Case, admin: httpx.Client):
    data = os.urandom(300_000)
    (case.store.folder / "clips" / "a.mp4").write_bytes(data)
    url = f"/api/events/{case.event(clip='clips/a.mp4', clip_state='ready').id}/clip"
    whole = admin.get(url)
    assert (whole.status_code, whole.content == data) == (200, True)
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["cache-control"] == "no-store"
    part = admin.get(url, headers={"Range": "bytes=1000-1999"})
    assert (part.status_code, part.content == data[1000:2000]) == (206, True)
    assert part.headers["content-range"] == "bytes 1000-1999/300000"
    assert admin.get(url, headers={"Range": "bytes=-5"}).content == data[-5:]
    assert admin.get(url, headers={"Range": "bytes=300000-"}).status_code == 416
    stale = admin.get(url, headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (stale.status_code, len(stale.content)) == (200, 300_000)
    saved = admin.get(url, params={"download": True})
    assert "attachment" in saved.headers["content-disposition"]
    line = case.server.door.audit.lines(action="export")[0]
    assert line.detail == {"what": "clip"}
    (case.store.folder / "clips" / "a.mp4").unlink()
    assert admin.get(url).status_code == 404


def test_what_is_no_picture_or_video_is_not_sent(case: Case, admin: httpx.Client):
    event = case.event(clip="accounts.db", snapshot="snapshots", heatmap="clips/none.jpg")
    kinds = ("clip", "snapshot", "heatmap", "normal", "preview")
    answers = [admin.get(f"/api/events/{event.id}/{kind}") for kind in kinds]
    assert [one.status_code for one in answers] == [404] * 5
    assert admin.get(f"/api/events/{event.id}/model").status_code == 422


def test_scores_and_gaps_over_time(case: Case, admin: httpx.Client):
    case.store.add_scores("cam", [(float(t), float(t), t % 7 + 0.5, float("-inf")) for t in range(1, 101)])
    case.store.add_gap("cam", 20.0, 30.0, "blind")
    told = admin.get("/api/cameras/cam/scores", params={"since": 0, "until": 101, "at_most": 10}).json()
    assert len(told["utc_s"]) == len(told["score"]) == 10
    assert max(told["score"]) == 6.5
    assert told["decision_score"] == [None] * 10
    assert told["gaps"] == [{"start_utc_s": 20.0, "end_utc_s": 30.0, "reason": "blind"}]
    assert admin.get("/api/cameras/cam/scores", params={"since": 5, "until": 5}).status_code == 422


def test_the_recording_is_listed_and_played(case: Case, admin: httpx.Client):
    piece = case.store.folder / "recording" / "cam" / "20260101" / "120000.000.mp4"
    piece.parent.mkdir(parents=True)
    piece.write_bytes(b"piece of video")
    name = piece.relative_to(case.store.folder / "recording")
    case.store.add_segment("cam", name, 5000.0, 5010.0, 0.0, 14, "h264")
    told = admin.get("/api/cameras/cam/recording", params={"since": 5001, "until": 5002}).json()
    [segment] = told["segments"]
    assert (segment["start_utc_s"], segment["codec"]) == (5000.0, "h264")
    assert str(name) not in str(told)
    assert admin.get(segment["url"], headers={"Range": "bytes=0-4"}).content == b"piece"
    # Of a camera with masks only what was painted with just these is shown.
    case.runner.masks["cam"] = mark = mask_mark([[(0, 0), (1, 0), (1, 1)]])
    refused = admin.get(segment["url"])
    assert (refused.status_code, b"piece" in refused.content) == (403, False)
    painted = piece.with_name(f"120010.000.{mark}.mp4")
    painted.write_bytes(b"painted")
    case.store.add_segment("cam", name.with_name(painted.name), 5010.0, 5020.0, 10.0, 7, "h264")
    told = admin.get("/api/cameras/cam/recording", params={"since": 5000, "until": 5020}).json()
    [segment] = told["segments"]
    assert admin.get(segment["url"]).content == b"painted"
    case.runner.masks["cam"] = mask_mark([[(0, 0), (1, 0), (0, 1)]])
    assert admin.get(segment["url"]).status_code == 403
    case.runner.masks.clear()
    assert admin.get("/api/recordings/999").status_code == 404
    days = {"since": 0, "until": 90_000}
    assert admin.get("/api/cameras/cam/recording", params=days).status_code == 422


def test_masks_outlive_their_camera(tmp_path: Path):
    black = (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)),)
    with running(tmp_path) as case:
        case.store.set_masks("cam", black)
        case.runner.masks["cam"] = mask_mark(black)
        day = case.store.folder / "recording" / "cam" / "20260101"
        day.mkdir(parents=True)
        for number, name in enumerate(("120000.000.mp4", f"120010.000.{mask_mark(black)}.mp4")):
            (day / name).write_bytes(b"piece of video")
            start = 5000.0 + 10 * number
            case.store.add_segment("cam", f"cam/20260101/{name}", start, start + 10, 0.0, 14, "h264")
        admin = case.signed_in("admin")
        for _ in ("there", "gone"):
            told = admin.get("/api/cameras/cam/recording", params={"since": 5000, "until": 5020}).json()
            assert [one["start_utc_s"] for one in told["segments"]] == [5010.0]
            assert admin.get(told["segments"][0]["url"]).status_code == 200
            assert admin.get("/api/recordings/1").status_code == 403
            case.runner.masks.clear()
            if case.server.door.cameras():
                case.runner.remove("cam")


def test_pictures_and_clips_from_before_a_mask_are_not_shown(tmp_path: Path):
    black = (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)),)

    def seen(client: httpx.Client, case: Case) -> dict[str, int]:
        names = [f"/api/events/{one.id}" for one in reversed(case.store.events())]
        urls = [f"{name}/{kind}" for name in names for kind in ("snapshot", "clip")]
        urls += [f"/api/misses/{one.id}/clip" for one in case.store.misses()]
        return {url: client.get(url).status_code for url in urls}

    def shown(case: Case, name: str) -> str:
        """An event with its pictures, as the runner makes them; its clip comes later."""
        for path in (f"snapshots/{name}.jpg", f"clips/{name}.mp4"):
            (case.store.folder / path).write_bytes(b"what is seen")
        return case.event(snapshot=f"snapshots/{name}.jpg").id

    with running(tmp_path) as case:
        viewer = case.signed_in("viewer")
        before = shown(case, "a")
        case.store.set_clip(before, clip="clips/a.mp4", clip_state="ready")
        late = shown(case, "b")
        miss = case.store.mark_miss("cam", 1000.0, 1001.0, "", "who").id
        case.store.set_clip(miss, miss=True, clip="clips/a.mp4", clip_state="ready")
        case.store.set_masks("cam", black)
        # Its clip is painted with the masks of the time at which it is made.
        case.store.set_clip(late, mark=mask_mark(black), clip="clips/b.mp4", clip_state="ready")
        after = shown(case, "c")
        case.store.set_clip(after, mark=mask_mark(black), clip="clips/c.mp4", clip_state="ready")
        assert set(seen(viewer, case).values()) == {200}
        case.runner.masks["cam"] = mask_mark(black)
        for gone in (False, True):
            if gone:
                # Behind the masks that it had last.
                case.runner.remove("cam")
            assert list(seen(viewer, case).values()) == [403, 403, 403, 200, 200, 200, 403]
        assert "privacy masks" in viewer.get(f"/api/events/{before}/clip").json()["detail"]
        case.store.set_masks("cam", ())
        assert set(seen(viewer, case).values()) == {200}
        case.store.delete_event(before)
        left = case.store.connection().execute(
            "SELECT count(*) FROM media_masks WHERE item_id = ?", (before,)
        )
        assert left.fetchone() == (0,)


def test_a_miss_is_marked_with_who_and_the_model(case: Case):
    operator = case.signed_in("operator")
    case.store.set_model("cam", "b" * 64, "", 0.0)
    given = {"camera": "cam", "start_utc_s": 6000, "end_utc_s": 6003.5, "label": "scratch"}
    told = operator.post("/api/misses", json=given).json()
    assert (told["who"], told["model"], told["label"]) == ("the-operator", "b" * 64, "scratch")
    assert told["clip_state"] == "pending"
    assert operator.get("/api/misses").json()["misses"][0] == told
    assert operator.post("/api/misses", json=given | {"camera": "none"}).status_code == 404
    assert operator.post("/api/misses", json=given | {"end_utc_s": 6000}).status_code == 422
    assert operator.post("/api/misses", json=given | {"end_utc_s": 7000}).status_code == 422
    case.store.set_clip(told["id"], miss=True, clip="clips/miss.mp4", clip_state="ready")
    (case.store.folder / "clips" / "miss.mp4").write_bytes(b"missed")
    assert operator.get(f"/api/misses/{told['id']}/clip").content == b"missed"
    assert operator.get(f"/api/misses/{told['id']}/preview").status_code == 404
    soon = {"start_utc_s": time.time() - 5, "end_utc_s": time.time() + 60}
    assert operator.post("/api/misses", json=given | soon).status_code == 422


def test_a_miss_is_taken_back_with_its_clip(case: Case):
    operator = case.signed_in("operator")
    given = {"camera": "cam", "start_utc_s": 6000, "end_utc_s": 6003.5, "label": "by mistake"}
    address = f"/api/misses/{operator.post('/api/misses', json=given).json()['id']}"
    clip = case.store.folder / "clips" / "mistake.mp4"
    clip.write_bytes(b"missed")
    case.store.set_clip(address[-26:], miss=True, clip="clips/mistake.mp4", clip_state="ready")
    assert case.signed_in("viewer").delete(address).status_code == 403
    assert operator.delete(address).json() == {"done": True}
    assert operator.delete(address).status_code == 404
    assert address[-26:] not in [one["id"] for one in operator.get("/api/misses").json()["misses"]]
    assert not clip.exists()
    [line, *_] = case.server.door.audit.lines(action="miss taken back")
    assert (line.who, line.subject, line.detail["label"]) == ("the-operator", "cam", "by mistake")


def test_health(case: Case, admin: httpx.Client):
    health = case.store.add_health("cam", "stalled", 100.0, {"for_s": float("nan")})
    case.store.end_health(health, 110.0)
    [told] = admin.get("/api/health", params={"camera": "cam"}).json()["health"]
    assert (told["kind"], told["end_utc_s"], told["detail"]) == ("stalled", 110.0, {"for_s": None})


def test_what_is_still_wrong_is_told_whenever_it_began(tmp_path: Path):
    with running(tmp_path, cameras=("cam", "cam two")) as case:
        first = case.store.add_health("cam two", "frozen", 90.0)
        for number in range(120):
            case.store.end_health(case.store.add_health("cam", "black", 100.0 + number), 101.0 + number)
        last = case.store.add_health("", "clock", 300.0)
        viewer = case.signed_in("viewer")

        def told(**asked: object) -> list[int]:
            return [one["id"] for one in viewer.get("/api/health", params=asked).json()["health"]]

        assert first not in told()
        assert told(open=True) == [last, first]
        assert told(open=True, limit=1, since=200.0) == [last, first]
        assert told(open=True, camera="cam two") == [first]


def test_footage_of_a_camera_that_left_can_be_found_and_deleted(tmp_path: Path):
    with running(tmp_path, cameras=("cam", "old")) as case:
        case.event(camera="old", end_utc_s=1001.0, end_pts_s=2.0)
        case.runner.remove("old")
        known = case.signed_in("viewer").get("/api/cameras/known").json()
        assert known == {"cameras": ["cam"], "former": ["old"]}
        admin, span = case.signed_in("admin"), {"start_utc_s": 1, "end_utc_s": 2000}
        misspelt = admin.post("/api/retention/delete", json={"camera": "odl", **span})
        assert (misspelt.status_code, "known" in misspelt.json()["detail"]) == (404, True)
        assert case.server.door.audit.lines(action="deletion") == []
        assert admin.post("/api/retention/delete", json={"camera": "old", **span}).json()["events"] == 1
        # A folder is enough: what lies there may be what no row knows.
        assert admin.post("/api/retention/delete", json={"camera": "older.1", **span}).status_code == 404
        (case.store.folder / "orphans" / "clips" / "older%2E1").mkdir(parents=True)
        assert admin.post("/api/retention/delete", json={"camera": "older.1", **span}).status_code == 200


def test_a_recording_is_sent_from_a_store_that_is_named_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with running(Path()) as case:
        piece = case.store.folder / "recording" / "cam" / "0.mp4"
        piece.parent.mkdir(parents=True)
        piece.write_bytes(b"footage")
        case.store.add_segment("cam", "cam/0.mp4", 1000.0, 1005.0, 0.0, 7, "h264")
        viewer = case.signed_in("viewer")
        told = viewer.get("/api/cameras/cam/recording", params={"since": 1, "until": 2000}).json()
        assert viewer.get(told["segments"][0]["url"]).content == b"footage"


def test_regions_are_kept_for_the_next_fit(case: Case):
    engineer = case.signed_in("engineer")
    url = "/api/regions/cam%20two"
    assert engineer.get(url).json()["overrides"] == ""
    look = [[[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]]]
    told = engineer.put(url, json={"look": look, "ignore": []}).json()
    assert told == engineer.get(url).json()
    assert (told["who"], told["look"]) == ("the-engineer", look)
    assert told["overrides"] == "'regions.look=[[[0.1,0.1],[0.9,0.1],[0.9,0.9]]]'"
    assert Regions(look=told["look"]).digest()
    everything = [[[0, 0], [1, 0], [1, 1], [0, 1]]]
    nothing_left = engineer.put(url, json={"look": [], "ignore": everything})
    assert nothing_left.status_code == 422
    assert "nothing to look at" in nothing_left.json()["detail"]
    for bad in ([[[0, 0], [1, 1]]], [[[0, 0], [1, 0], [1, 2]]], [[[0, 0], [1, 0], [1]]], "x"):
        assert engineer.put(url, json={"look": bad}).status_code == 422
    assert engineer.get(url).json()["look"] == look


def test_regions_that_somebody_else_saved_meanwhile_are_not_replaced_unseen(case: Case):
    case.runner.show("cam")
    one, other = case.signed_in("engineer"), case.signed_in("admin")
    triangle = [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]]
    seen = [client.get("/api/regions/cam").json()["utc_s"] or 0 for client in (one, other)]
    first = other.put("/api/regions/cam", json={"ignore": [triangle], "replaces_utc_s": seen[1]})
    assert first.status_code == 200
    late = one.put("/api/regions/cam", json={"look": [triangle], "replaces_utc_s": seen[0]})
    assert late.status_code == 409
    assert late.json()["detail"] == "the-admin has saved other regions of cam meanwhile"
    assert one.get("/api/regions/cam").json()["ignore"] == [triangle]
    given = {"look": [triangle], "replaces_utc_s": first.json()["utc_s"]}
    assert one.put("/api/regions/cam", json=given).status_code == 200
    # Over a bad link it is sent again without an answer to the first.
    assert one.put("/api/regions/cam", json=given).status_code == 200
    assert one.put("/api/regions/cam", json={}).status_code == 200


@pytest.mark.parametrize("camera", ["..", "../../x", "a/b", "\x00", "C:\\x", "é"])
def test_any_cameras_name_makes_a_file_name_in_its_folder(tmp_path: Path, camera: str):
    path = regions_file(tmp_path, camera)
    assert path.resolve().parent == tmp_path / "regions"
    assert path.name.isascii()


def test_deleting_an_event_and_an_interval(tmp_path: Path):
    with running(tmp_path) as case:
        admin = case.signed_in("admin")
        clip = case.store.folder / "clips" / "a.mp4"
        clip.write_bytes(b"x")
        one = case.event(clip="clips/a.mp4", held=True)
        case.event(start_utc_s=2000.0, end_utc_s=2001.0, end_pts_s=1.0)
        case.event(start_utc_s=9000.0)
        assert admin.delete(f"/api/events/{one.id}").json() == {"done": True}
        assert not clip.exists()
        assert admin.delete(f"/api/events/{one.id}").status_code == 404
        given = {"camera": "cam", "start_utc_s": 1990, "end_utc_s": 2100}
        assert admin.post("/api/retention/delete", json=given).json()["events"] == 1
        assert len(admin.get("/api/events").json()["events"]) == 1
        lines = case.server.door.audit.lines(action="deletion")
        assert [line.subject for line in lines] == ["cam", one.id]


def test_accounts_and_tokens(case: Case, admin: httpx.Client):
    made = admin.post("/api/users", json={"name": "anna", "role": "operator", "password": PASSWORD})
    assert made.json()["role"] == "operator"
    again = admin.post("/api/users", json={"name": "ANNA", "role": "operator", "password": PASSWORD})
    assert again.status_code == 422
    anna = case.client()
    csrf = anna.post("/api/session", json={"name": "anna", "password": PASSWORD}).json()["csrf"]
    anna.headers["X-CSRF-Token"] = csrf
    assert admin.patch("/api/users/anna", json={"role": "viewer"}).json()["role"] == "viewer"
    assert anna.get("/api/cameras").status_code == 401
    asked = {"owner": "anna", "label": "wall", "scopes": ["live", "metrics"], "days": 1}
    assert admin.post("/api/tokens", json=asked | {"role": "operator"}).status_code == 422
    made = admin.post("/api/tokens", json=asked | {"role": "viewer"}).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert httpx.get(f"{case.url}/api/cameras", headers=headers).status_code == 200
    listed = admin.get("/api/tokens").json()["tokens"]
    assert made["id"] in [one["id"] for one in listed]
    assert made["token"] not in str(listed)
    assert admin.delete(f"/api/tokens/{made['id']}").status_code == 200
    assert httpx.get(f"{case.url}/api/cameras", headers=headers).status_code == 401
    assert admin.delete("/api/users/anna").status_code == 200
    assert "anna" not in [one["name"] for one in admin.get("/api/users").json()["users"]]
    only = [one["name"] for one in admin.get("/api/users").json()["users"] if one["role"] == "admin"]
    assert only == ["the-admin"]
    assert admin.delete("/api/users/the-admin").status_code == 422
    assert admin.patch("/api/users/the-admin", json={"role": "viewer"}).status_code == 422


def test_the_audit_is_read_in_pages(case: Case, admin: httpx.Client):
    for n in range(5):
        case.server.door.audit.add("somebody", "paging", str(n))
    page = admin.get("/api/audit", params={"action": "paging", "limit": 3}).json()
    assert [line["subject"] for line in page["lines"]] == ["4", "3", "2"]
    rest = admin.get(
        "/api/audit", params={"action": "paging", "limit": 3, "before_id": page["next_before_id"]}
    ).json()
    assert [line["subject"] for line in rest["lines"]] == ["1", "0"]
    assert rest["next_before_id"] is None
