"""The classic attacks, each against a real server: kept off, and let in once its one guard is taken out."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from broker import until
from server_case import PASSWORD, Case, SmallRunner, running
from starlette.responses import Response

from anomaly.edge.health import Trouble
from anomaly.edge.server import (
    ServeSettings,
    access,
    app,
    attempts,
    guard,
    media,
    serve,
    session_routes,
    sessions,
)
from anomaly.edge.store import Store

EVIL = "http://evil.example"
BOTH = pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "guard taken out"])


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("attacks")
    (folder / "ui").mkdir()
    (folder / "ui" / "index.html").write_text("<!doctype html><title>page</title>")
    (folder / "beside.txt").write_text("SQLite format of something beside the page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "UI", folder / "ui")
        with running(folder) as running_case:
            yield running_case


@pytest.fixture
def take_out(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str, Any], None]:
    """Replace one guard by one that lets everything through."""
    return lambda owner, name, open_door: monkeypatch.setattr(owner, name, open_door)


@BOTH
def test_session_fixation(case: Case, take_out: Callable[..., None], guarded: bool):
    if not guarded:
        take_out(sessions, "renewed_id", lambda presented: presented)
    planted = f"known-to-the-attacker-{guarded}"
    victim = case.client()
    victim.cookies.set("anomaly_session", planted)
    victim.post("/api/session", json={"name": case.account("admin"), "password": PASSWORD})
    attacker = case.client()
    attacker.cookies.set("anomaly_session", planted)
    assert (attacker.get("/api/users").status_code == 200) is not guarded


def test_the_session_before_a_log_in_ends_with_it(case: Case):
    browser = case.signed_in("viewer")
    before = browser.cookies["anomaly_session"]
    answer = browser.post("/api/session", json={"name": case.account("admin"), "password": PASSWORD})
    assert answer.json()["role"] == "admin"
    old = case.client()
    old.cookies.set("anomaly_session", before)
    assert old.get("/api/cameras").status_code == 401


@BOTH
def test_dns_rebinding(case: Case, take_out: Callable[..., None], guarded: bool):
    """A page on evil.example whose name was pointed here: the browser holds it for the same origin."""
    if not guarded:
        take_out(guard, "host_allowed", lambda *_: True)
    port = httpx.URL(case.url).port
    headers = {"Host": f"evil.example:{port}", "Origin": f"{EVIL}:{port}"}
    answers = [
        case.client().get("/api/session", headers=headers),
        case.client().post(
            "/api/session", headers=headers, json={"name": case.account("viewer"), "password": PASSWORD}
        ),
    ]
    assert [one.status_code for one in answers] == ([421, 421] if guarded else [200, 200])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:1", "[::1]:80", "LOCALHOST"])
def test_the_servers_own_names_are_answered(case: Case, host: str):
    assert httpx.get(f"{case.url}/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["", "localhost.evil.example", "evil@localhost", "127.0.0.1.evil.example", "[", "0"]
)
def test_names_that_only_look_like_its_own_are_not(case: Case, host: str):
    assert httpx.get(f"{case.url}/healthz", headers={"Host": host}).status_code in {400, 421}


@pytest.mark.parametrize("name", ["Host", "Origin"])
def test_a_refusal_that_names_what_came_is_no_page(case: Case, name: str):
    markup = "<script>alert(1)</script>"
    answer = httpx.get(f"{case.url}/healthz", headers={name: markup, "Accept": "text/html"})
    if name == "Host":
        # The HTTP server refuses some before they come to us.
        assert answer.status_code in {400, 421}
    else:
        assert answer.status_code == 403
        assert markup in answer.json()["detail"]
    assert answer.headers["content-type"].partition(";")[0] in {"application/json", "text/plain"}
    if answer.status_code != 400:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


@BOTH
@pytest.mark.parametrize("origin", [EVIL, "null", "http://127.0.0.1:1", None], ids=str)
def test_cross_site_websocket(case: Case, take_out: Callable[..., None], guarded: bool, origin: str | None):
    """The browser sends the cookie along, and a page may open a WebSocket to anywhere."""
    if not guarded:
        take_out(guard, "origin_allowed", lambda *_: True)
    cookie = f"anomaly_session={case.signed_in('viewer').cookies['anomaly_session']}"
    case.runner.show("cam")

    async def attack() -> bool:
        url = case.url.replace("http", "ws", 1) + "/api/cameras/cam/live"
        try:
            async with websockets.connect(
                url, origin=origin, additional_headers={"Cookie": cookie}
            ) as stream:
                return len(await stream.recv()) > 0
        except websockets.InvalidStatus:
            return False

    assert asyncio.run(attack()) is not guarded


@BOTH
def test_forged_request_from_another_page(case: Case, take_out: Callable[..., None], guarded: bool):
    """A form of another page: the cookie comes along, and even the token, had it leaked."""
    if not guarded:
        take_out(guard, "origin_allowed", lambda *_: True)
    victim = case.signed_in("operator")
    answer = victim.post("/api/cameras/cam/state", json={"state": "stopped"}, headers={"Origin": EVIL})
    assert (answer.status_code == 200) is not guarded


@BOTH
def test_forged_request_without_the_sessions_token(case: Case, take_out: Callable[..., None], guarded: bool):
    """Something that can send with the page's own origin, yet cannot read what the API answered the page."""
    if not guarded:
        take_out(access, "forged", lambda *_: False)
    victim = case.signed_in("operator")
    del victim.headers["X-CSRF-Token"]
    answer = victim.post("/api/cameras/cam/state", json={"state": "stopped"})
    assert (answer.status_code == 200) is not guarded
    wrong = victim.post(
        "/api/cameras/cam/state",
        json={"state": "stopped"},
        headers={"X-CSRF-Token": case.signed_in("operator").headers["X-CSRF-Token"]},
    )
    assert (wrong.status_code == 200) is not guarded


def test_a_change_without_an_origin_needs_a_token_not_a_cookie(case: Case):
    victim = case.signed_in("operator")
    del victim.headers["Origin"]
    assert victim.post("/api/cameras/cam/state", json={"state": "running"}).status_code == 403
    program = case.token("operator", "control")
    assert program.post("/api/cameras/cam/state", json={"state": "running"}).status_code == 200


def test_a_cookie_beside_a_bad_token_counts_for_nothing(case: Case):
    victim = case.signed_in("admin")
    assert victim.get("/api/users").status_code == 200
    assert victim.get("/api/users", headers={"Authorization": "Bearer anomaly_0_0"}).status_code == 401
    del victim.headers["Origin"]
    answer = victim.post(
        "/api/cameras/cam/state", json={"state": "stopped"}, headers={"Authorization": "Basic YTpi"}
    )
    assert answer.status_code == 401


@BOTH
@pytest.mark.parametrize("how", ["dots", "absolute", "link"])
def test_traversal_in_a_clips_name(case: Case, take_out: Callable[..., None], guarded: bool, how: str):
    """A row of the store that names a file outside of its folder, as a restored or tampered store may."""
    if not guarded:
        take_out(media, "inside", lambda folder, name: folder / name)
    secret = case.store.folder.parent / "secret.mp4"
    secret.write_bytes(b"secret")
    link = case.store.folder / "clips" / "link.mp4"
    if not link.is_symlink():
        link.symlink_to(secret)
    name = {"dots": "clips/../../secret.mp4", "absolute": str(secret), "link": "clips/link.mp4"}[how]
    event = case.event(clip=name, clip_state="ready")
    answer = case.signed_in("viewer").get(f"/api/events/{event.id}/clip")
    assert (answer.content == b"secret") is not guarded
    assert (answer.status_code == 404) is guarded


@pytest.mark.parametrize(
    "path",
    [
        "/static/../beside.txt",
        "/static/..%2fbeside.txt",
        "/static/%2e%2e/beside.txt",
        "/static//etc/passwd",
        "/static/..%5cbeside.txt",
        "/api/events/..%2f..%2faccounts.db/clip",
        "/api/events/01M83BTHJYYRB34VMPWRGZQQ40/..%2faccounts.db",
        "/api/recordings/..%2f..%2faccounts.db",
    ],
)
def test_traversal_in_an_address(case: Case, path: str):
    """Sent over a plain connection: clients tidy such addresses up before they send them."""
    viewer = case.signed_in("viewer")
    url = httpx.URL(case.url)
    with socket.create_connection((url.host, url.port or 0), timeout=10) as raw:
        raw.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\nConnection: close\r\n"
            f"Cookie: anomaly_session={viewer.cookies['anomaly_session']}\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: raw.recv(65_536), b""))
    assert answer.split()[1] in {b"404", b"422", b"400"}
    assert b"SQLite format" not in answer


@BOTH
def test_token_of_a_lower_role(case: Case, take_out: Callable[..., None], guarded: bool):
    if not guarded:
        take_out(access, "enough", lambda *_: True)
    viewer = case.token("viewer", "live", "events", "review", "control", "admin")
    assert (
        viewer.post("/api/cameras/cam/state", json={"state": "running"}).status_code == 200
    ) is not guarded
    assert (viewer.get("/api/users").status_code == 200) is not guarded
    narrow = case.token("admin", "metrics")
    assert (narrow.get("/api/events").status_code == 200) is not guarded
    assert narrow.get("/metrics").status_code == 200


def test_a_token_falls_with_its_owners_role(case: Case):
    accounts = case.server.door.accounts
    accounts.add("demoted", "engineer", PASSWORD)
    _, text = accounts.add_token("demoted", "script", "engineer", ["control"])
    program = case.client(Authorization=f"Bearer {text}")
    event = case.event()
    accounts.change("demoted", role="viewer")
    assert program.delete(f"/api/events/{event.id}").status_code == 403
    accounts.remove("demoted")
    assert program.get("/api/cameras").status_code == 401


@BOTH
def test_guessing_a_password(tmp_path: Path, take_out: Callable[..., None], guarded: bool):
    if not guarded:
        take_out(attempts.Attempts, "take", lambda *_: 0.0)
    with running(tmp_path) as case:
        name = case.account("admin")
        attacker = case.client()

        def guess(password: str, **headers: str) -> httpx.Response:
            return attacker.post("/api/session", json={"name": name, "password": password}, headers=headers)

        statuses = [guess(f"wrong password {n}").status_code for n in range(attempts.PER_ADDRESS)]
        assert set(statuses) == {401}
        # An address that the attacker makes up does not help without a trusted proxy.
        lucky = guess(PASSWORD, **{"X-Forwarded-For": "203.0.113.9"})
        assert (lucky.status_code == 200) is not guarded
        if guarded:
            assert lucky.status_code == 429
            assert 1 <= int(lucky.headers["Retry-After"]) <= attempts.WINDOW_S
            # Tried on and on, it is told once that it is locked.
            assert {guess("more of them").status_code for _ in range(4)} == {429}
        audit = case.server.door.audit
        assert len(audit.lines(action="log-in refused")) == attempts.PER_ADDRESS
        assert [line.subject for line in audit.lines(action="log-in locked")] == [name] * guarded


def test_ones_own_log_in_buys_no_guesses_at_others():
    limiter = attempts.Attempts()
    for _ in range(attempts.PER_ADDRESS - 1):
        assert limiter.take("198.51.100.7", "admin") == 0
    # Mistyping one's own name's password is forgiven, the guesses at another's are not.
    assert limiter.take("198.51.100.7", "mallory") == 0
    limiter.forgive("198.51.100.7", "Mallory")
    assert limiter.take("198.51.100.7", "admin") == 0
    assert limiter.take("198.51.100.7", "admin") > 0


def test_guesses_from_everywhere_keep_nobody_out_where_they_signed_in_before():
    limiter = attempts.Attempts()
    assert limiter.take("198.51.100.200", "admin") == 0
    limiter.forgive("198.51.100.200", "admin")
    for n in range(attempts.PER_NAME):
        assert limiter.take(f"198.51.100.{n}", "Admin") == 0
    assert limiter.take("203.0.113.1", "admin") > 0
    waits = [limiter.take("198.51.100.200", "admin") for _ in range(attempts.PER_ADDRESS + 1)]
    # Guessing from there is bounded as from any address.
    assert [wait == 0 for wait in waits] == [True] * attempts.PER_ADDRESS + [False]
    assert limiter.is_news("203.0.113.1", "admin")
    assert not limiter.is_news("203.0.113.2", "admin")


def test_many_guesses_at_once_count_as_many():
    limiter = attempts.Attempts()
    waits = [limiter.take(f"2001:db8::{n:x}", "admin") for n in range(1, 15)]
    # One customer's /64 is one address; and nothing was forgiven in between.
    assert [wait == 0 for wait in waits] == [True] * attempts.PER_ADDRESS + [False] * 4
    assert limiter.take("198.51.100.7", "ADMIN") == 0
    for n in range(attempts.PER_NAME):
        limiter.take(f"198.51.100.{n}", "Admin")
    assert limiter.take("203.0.113.1", "admin") > 0
    assert limiter.take("203.0.113.1", "other") == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certified(tmp_path_factory.mktemp("tls"))


def certified(folder: Path) -> tuple[Path, Path]:
    """A new certificate for localhost, and its key."""
    folder.mkdir(exist_ok=True)
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    )
    command += " -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_cookie_flags_with_tls(tmp_path: Path, certificate: tuple[Path, Path]):
    with running(tmp_path, tls_cert=certificate[0], tls_key=certificate[1]) as case:
        case.account("viewer")
        assert case.url.startswith("https://")
        with httpx.Client(base_url=case.url, verify=trusting(certificate[0])) as client:
            answer = client.post(
                "/api/session",
                json={"name": "the-viewer", "password": PASSWORD},
                headers={"Origin": case.url},
            )
            flags = answer.headers["set-cookie"].lower().split("; ")
            assert flags[0].startswith("__host-anomaly=")
            assert {"httponly", "secure", "samesite=strict", "path=/"} <= set(flags)
            assert not any(flag.startswith("domain") for flag in flags)
            seen = client.get("/api/cameras")
            assert (seen.status_code, seen.headers["strict-transport-security"]) == (200, "max-age=2592000")


def test_a_renewed_certificate_needs_no_restart(
    tmp_path: Path,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr("anomaly.edge.server.serving._RENEW_S", 0.05)
    caplog.set_level("INFO")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(certificate[0], cert)
    shutil.copy(certificate[1], key)
    fresh = certified(tmp_path / "fresh")
    with running(tmp_path, tls_cert=cert, tls_key=key) as case:
        before = httpx.Client(base_url=case.url, verify=trusting(certificate[0]))
        case.clients.append(before)
        assert before.get("/healthz").status_code == 200
        # One file after the other: until both are there they do not belong together.
        fresh[0].replace(cert)
        until(lambda: "one from before stays in use" in caplog.text)
        with httpx.Client(base_url=case.url, verify=trusting(certificate[0])) as client:
            assert client.get("/healthz").status_code == 200
        fresh[1].replace(key)
        until(lambda: "new connections get the new one" in caplog.text)
        with httpx.Client(base_url=case.url, verify=trusting(cert)) as client:
            assert client.get("/healthz").status_code == 200
        # Also to who gives no name.
        host, _, port = case.url.removeprefix("https://").rpartition(":")
        assert ssl.get_server_certificate((host, int(port))) == cert.read_text()
        assert before.get("/healthz").status_code == 200, "a connection that is open stays"
        caplog.clear()
        served = cert.read_text()
        cert.unlink()
        until(lambda: "one from before stays in use" in caplog.text)
        assert ssl.get_server_certificate((host, int(port))) == served
        key.write_text("no key")
        time.sleep(0.3)
        assert ssl.get_server_certificate((host, int(port))) == served
        shutil.copy(certificate[0], cert)
        openssl = ["openssl", "pkey", "-aes256", "-passout", "pass:canary", "-in"]
        subprocess.run([*openssl, str(certificate[1]), "-out", str(key)], check=True)
        until(lambda: "is encrypted" in caplog.text)
        assert ssl.get_server_certificate((host, int(port))) == served


def test_a_certificate_that_cannot_be_used_costs_the_page_alone_and_until_it_can(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    """After a power cut, with a key that was renewed in between and that its user may not read, no camera was watched."""
    monkeypatch.setattr("anomaly.edge.server.serving._TRY_AGAIN_S", 0.05)
    told: list[Trouble] = []
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(certificate[0], cert)
    with Store(tmp_path / "store") as store:
        server = serve(SmallRunner(), store, ServeSettings(port=0, tls_cert=cert, tls_key=key))
        try:
            assert not server.start_when_free(told.append)
            assert server.problem.startswith(f"the TLS file {key} cannot be read (No such file")
            assert [(one.kind, one.begins, one.detail["reason"]) for one in told] == [
                ("page", True, server.problem)
            ]
            shutil.copy(certificate[1], key)
            until(lambda: len(told) == 2)
            assert not told[1].begins
            with httpx.Client(base_url=server.url, verify=trusting(cert)) as client:
                assert client.get("/healthz").status_code == 200
        finally:
            server.stop()


def trusting(cert: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(cert))


def test_cookie_flags_on_loopback(case: Case):
    assert "strict-transport-security" not in case.client().get("/").headers
    answer = case.client().post("/api/session", json={"name": case.account("viewer"), "password": PASSWORD})
    flags = set(answer.headers["set-cookie"].lower().split("; ")[1:])
    assert {"httponly", "samesite=strict", "path=/"} <= flags
    # Chromium takes Secure cookies from http://localhost, other browsers do not: they could not sign in.
    assert "secure" not in flags


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if not Path("/usr/bin/chromium").exists():
        pytest.skip("apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


CARELESS_PAGE = (
    "<!doctype html><title>calm</title><div id=out></div><script src=/static/careless.js></script>"
)
CARELESS_SCRIPT = """
fetch('/api/cameras').then(answer => answer.json()).then(told => {
  document.getElementById('out').innerHTML = told.cameras.map(camera => camera.name).join();
  setTimeout(() => { document.body.dataset.done = document.cookie || 'no cookie'; }, 300);
});
"""


@BOTH
def test_stored_script_in_a_cameras_name(
    tmp_path: Path, take_out: Callable[..., None], chromium: Any, guarded: bool
):
    """Even a page that forgot to escape runs nothing of it, and no script reads the session's cookie.

    Two guards, the policy of the headers and the cookie's flag, taken out together.
    """
    page_folder = tmp_path / "ui"
    page_folder.mkdir()
    (page_folder / "index.html").write_text(CARELESS_PAGE)
    (page_folder / "careless.js").write_text(CARELESS_SCRIPT)
    take_out(app, "UI", page_folder)
    if not guarded:

        def careless(response: Response, identity: str, door: Any) -> None:
            response.set_cookie("anomaly_session", identity)

        take_out(guard, "add_headers", lambda headers, **kinds: None)
        take_out(session_routes, "set_cookie", careless)
    name = "<img src=/none onerror=\"document.title='stolen'\"><script>document.title='stolen'</script>"
    with running(tmp_path, cameras=(name,)) as case:
        case.account("viewer")
        context = chromium.new_context()
        try:
            page = context.new_page()
            page.goto(case.url)
            page.evaluate(
                "([name, password]) => fetch('/api/session', {method: 'POST', headers: "
                "{'Content-Type': 'application/json'}, body: JSON.stringify({name, password})})",
                ["the-viewer", PASSWORD],
            )
            page.goto(case.url)
            page.wait_for_selector("body[data-done]")
            assert name.startswith("<img")
            assert page.locator("#out img").count() == 1
            assert (page.title() == "stolen") is not guarded
            assert ("anomaly_session" in page.evaluate("document.cookie")) is not guarded
            # Asked for directly, what the API says is text, whatever stands in it.
            page.goto(f"{case.url}/api/cameras")
            assert page.evaluate("document.contentType") == "application/json"
            assert page.title() != "stolen"
        finally:
            context.close()


def test_every_answer_carries_the_headers(case: Case):
    anonymous, viewer = case.client(), case.signed_in("viewer")
    answers = [
        anonymous.get("/"),
        anonymous.get("/nothing"),
        anonymous.get("/api/cameras"),
        anonymous.get("/healthz", headers={"Host": "evil.example"}),
        anonymous.post("/api/session", content=b"{"),
        viewer.get("/api/cameras"),
        viewer.get("/api/openapi.json"),
        viewer.put("/api/cameras"),
        viewer.post("/api/misses", content=b"x" * 300_000),
    ]
    assert [one.status_code for one in answers] == [200, 404, 401, 421, 422, 200, 200, 405, 413]
    for answer in answers:
        for name, value in guard.SECURITY_HEADERS.items():
            assert answer.headers[name] == value
        assert "server" not in answer.headers
    policy = answers[0].headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert all(one.headers["cache-control"] == "no-store" for one in answers[1:])


def test_what_was_typed_is_not_sent_back(case: Case):
    answer = case.client().post("/api/session", json={"name": "x", "password": "canary" * 400})
    assert answer.status_code == 422
    assert "canary" not in answer.text
    assert list(answer.json()) == ["detail"]


def test_a_body_without_end_is_cut_off(case: Case):
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 64 * 2**20:
            sent += 65_536
            yield b" " * 65_536

    try:
        status = case.client().post("/api/session", content=endless()).status_code
    except httpx.TransportError:
        status = 0
    assert status != 200
    assert sent < 32 * 2**20


def own_address() -> str | None:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            address = str(probe.getsockname()[0])
        except OSError:
            return None
    return None if address.startswith("127.") else address


@BOTH
def test_going_round_the_proxy(tmp_path: Path, take_out: Callable[..., None], guarded: bool):
    """Off loopback without TLS the proxy alone is answered: a password sent past it would go in the clear."""
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    if not guarded:
        take_out(guard, "peer_allowed", lambda *_: True)
    with running(tmp_path, host="0.0.0.0", trusted_proxy="192.0.2.1") as case:
        port = httpx.URL(case.url).port
        answer = httpx.get(f"http://{address}:{port}/healthz")
        assert (answer.status_code == 200) is not guarded
        assert not guarded or f"{address} is not what door.trusted_proxy names" in answer.json()["detail"]
        assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200


@pytest.mark.parametrize("told", [["198.51.100.1, 203.0.113.5"], ["198.51.100.1", "203.0.113.5"]])
def test_the_proxys_word_counts_and_nobody_elses(tmp_path: Path, told: list[str]):
    with running(tmp_path, trusted_proxy="127.0.0.1", allowed_hosts=("line.example",)) as case:
        case.account("viewer")
        client = case.client()
        answer = client.post(
            "/api/session",
            json={"name": "the-viewer", "password": PASSWORD},
            headers=[
                ("Host", "line.example"),
                ("Origin", "https://line.example"),
                *(("X-Forwarded-For", one) for one in told),
            ],
        )
        assert answer.status_code == 200
        assert "secure" in answer.headers["set-cookie"].lower()
        assert case.server.door.audit.lines()[0].address == "203.0.113.5"


@pytest.mark.parametrize(
    ("told", "address"),
    [
        # The outer proxy saw the client, the inner one the outer one.
        ("198.51.100.1, 203.0.113.5, 192.0.2.8", "203.0.113.5"),
        # Who comes by the inner proxy alone has made up all before.
        ("203.0.113.5, 192.0.2.8, 198.51.100.1", "198.51.100.1"),
        ("192.0.2.8", "192.0.2.8"),
        ("nonsense, 192.0.2.8", "192.0.2.8"),
        ("", "127.0.0.1"),
    ],
)
def test_two_proxies_one_before_the_other(tmp_path: Path, told: str, address: str):
    with running(tmp_path, trusted_proxy="127.0.0.1", outer_proxies=("192.0.2.8",)) as case:
        origin = case.url.replace("http:", "https:")
        headers = {"Origin": origin, "X-Forwarded-For": told}
        answer = httpx.post(f"{case.url}/api/session", json={"name": "a", "password": "b"}, headers=headers)
        assert answer.status_code == 401
        assert case.server.door.audit.lines()[0].address == address


@pytest.mark.parametrize("told", ["203.0.113.5", None])
def test_who_is_locked_out_is_told_where_the_proxy_names_nobody(tmp_path: Path, told: str | None):
    with running(tmp_path, trusted_proxy="127.0.0.1") as case:
        headers = {"Origin": case.url.replace("http:", "https:")}
        if told:
            headers["X-Forwarded-For"] = told
        for _ in range(10):
            case.server.door.attempts.take(told or "127.0.0.1", "a")
        answer = httpx.post(f"{case.url}/api/session", json={"name": "a", "password": "b"}, headers=headers)
        assert answer.status_code == 429
        assert ("proxy 127.0.0.1 count as one" in answer.json()["detail"]) is (told is None)


def test_a_proxy_that_is_set_up_wrong_is_told_what_to_set_right(case: Case):
    given = {"name": "a", "password": "b"}
    page = {"Origin": "https://line.example"}
    # The proxy did not pass on the browser's Host, or this server was not told of it.
    answer = httpx.post(f"{case.url}/api/session", json=given, headers=page)
    assert answer.status_code == 403
    for word in ("https://line.example", case.url, "Host", "door.trusted_proxy"):
        assert word in answer.json()["detail"]
    # It passed it on, and this server does not know the name.
    answer = httpx.post(f"{case.url}/api/session", json=given, headers={**page, "Host": "line.example"})
    assert answer.status_code == 421
    assert "'line.example'" in answer.json()["detail"]
    assert "door.allowed_hosts" in answer.json()["detail"]


def test_ipv4_by_a_socket_for_both_kinds(tmp_path: Path):
    """All of IPv4 is one /64 there: it must not count as one client, nor be a stranger to its own names."""
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    try:
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True).close()
    except (OSError, ValueError):
        pytest.skip("this machine has no IPv6")

    def log_in(at: str) -> int:
        given = {"name": "the-viewer", "password": PASSWORD if at.startswith("http://127.") else "wrong"}
        return httpx.post(f"{at}/api/session", json=given, headers={"Origin": at}, timeout=20).status_code

    with running(tmp_path, host="::", insecure=True, scrape_token="a-long-scrape-token") as case:
        case.account("viewer")
        here, away = (f"http://{one}:{httpx.URL(case.url).port}" for one in ("127.0.0.1", address))
        assert [log_in(away) for _ in range(11)] == [401] * 10 + [429]
        assert log_in(here) == 200
        assert [line.address for line in case.server.door.audit.lines()[:2]] == ["127.0.0.1", address]
        scraped = httpx.get(f"{here}/metrics", headers={"Authorization": "Bearer a-long-scrape-token"})
        assert scraped.status_code == 200
    with running(tmp_path / "proxy", host="::", trusted_proxy=address) as case:
        port = httpx.URL(case.url).port
        assert httpx.get(f"http://{address}:{port}/healthz").status_code == 200
    with running(tmp_path / "other", host="::", trusted_proxy="192.0.2.77") as case:
        port = httpx.URL(case.url).port
        assert httpx.get(f"http://{address}:{port}/healthz").status_code == 403


@pytest.mark.parametrize(
    ("take", "opens"),
    [("right", True), ("wrong", False), ("forwarded", False), ("none", False)],
)
def test_the_scrape_token_is_for_this_machine(tmp_path: Path, take: str, opens: bool):
    with running(tmp_path, scrape_token="a-long-scrape-token") as case:
        headers = {
            "right": {"Authorization": "Bearer a-long-scrape-token"},
            "wrong": {"Authorization": "Bearer another"},
            "forwarded": {"Authorization": "Bearer a-long-scrape-token", "X-Forwarded-For": "203.0.113.5"},
            "none": {},
        }[take]
        answer = httpx.get(f"{case.url}/metrics", headers=headers)
        assert (answer.status_code == 200) is opens
        assert httpx.get(f"{case.url}/api/cameras", headers=headers).status_code == 401
