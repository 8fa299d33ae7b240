"""Accounts, sessions and the audit in their file; the terminal's command; what the server refuses to listen on."""

from __future__ import annotations

import os
import pty
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from server_case import PASSWORD, SmallRunner, running
from small_model import environment, invoke, succeed

from anomaly.edge.audit import Audit
from anomaly.edge.server import ServeSettings, serve, sessions
from anomaly.edge.server.accounts import Accounts
from anomaly.edge.server.door import open_vault
from anomaly.edge.server.sessions import Sessions
from anomaly.edge.server.settings import check_binding
from anomaly.edge.store import Store
from anomaly.edge.vault import Vault
from anomaly.errors import UsageError


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    opened = open_vault(tmp_path)
    yield opened
    opened.close()


def test_the_file_is_for_its_user_alone_and_holds_no_secret(vault: Vault):
    accounts = Accounts(vault)
    account = accounts.add("anna", "admin", PASSWORD)
    _, token = accounts.add_token("anna", "script", "viewer", ["live"])
    session = Sessions(vault, idle_s=60, absolute_s=60).start(account, None)
    files = list(vault.path.parent.glob("accounts.db*"))
    assert len(files) == 3
    for file in files:
        assert file.stat().st_mode & 0o777 == 0o600
        data = file.read_bytes()
        for secret in (PASSWORD, session, token, token.split("_", 2)[2]):
            assert secret.encode() not in data
    with vault.reading() as connection:
        [(kept,)] = connection.execute("SELECT password FROM accounts").fetchall()
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path):
    open_vault(tmp_path).close()
    (tmp_path / "accounts.db").chmod(0o644)
    open_vault(tmp_path).close()
    assert (tmp_path / "accounts.db").stat().st_mode & 0o777 == 0o600


def test_names_and_passwords(vault: Vault):
    accounts = Accounts(vault)
    accounts.add("Anna", "viewer", PASSWORD)
    assert accounts.signed_in("anna", PASSWORD) == accounts.named("ANNA")
    assert accounts.signed_in("anna", PASSWORD + "x") is None
    assert accounts.signed_in("nobody", PASSWORD) is None
    assert accounts.signed_in("anna", "x" * 100_000) is None
    for name in ("", "a b", "-a", "a/b", "<b>", "x" * 65, "anna"):
        with pytest.raises(UsageError):
            accounts.add(name, "viewer", PASSWORD)
    for name, password in (("bert", "short"), ("bert", "x" * 1001), ("bert-is-my-name", "Bert-is-my-name")):
        with pytest.raises(UsageError, match="password"):
            accounts.add(name, "viewer", password)
    assert [account.name for account in accounts.all()] == ["Anna"]


def test_an_unknown_name_takes_as_long_as_a_wrong_password(vault: Vault):
    accounts = Accounts(vault)
    accounts.add("anna", "viewer", PASSWORD)

    def seconds(name: str) -> float:
        times = []
        for _ in range(3):
            began = time.perf_counter()
            accounts.signed_in(name, "a wrong password")
            times.append(time.perf_counter() - began)
        return min(times)

    # A look-up without a hash is a thousand times faster.
    assert 0.3 < seconds("nobody") / seconds("anna") < 3


def test_the_last_admin_stays(vault: Vault):
    accounts = Accounts(vault)
    accounts.add("one", "admin", PASSWORD)
    for change in (lambda: accounts.remove("one"), lambda: accounts.change("one", role="viewer")):
        with pytest.raises(UsageError, match="only admin"):
            change()
    accounts.add("two", "admin", PASSWORD)
    accounts.remove("one")
    assert [account.name for account in accounts.all()] == ["two"]


def test_a_token_expires_and_needs_its_whole_secret(vault: Vault, monkeypatch: pytest.MonkeyPatch):
    accounts = Accounts(vault)
    accounts.add("anna", "operator", PASSWORD)
    token, text = accounts.add_token("anna", "script", "viewer", ["live", "events"], days=1)
    assert accounts.bearer(text) == (token, accounts.named("anna"))
    for wrong in (text[:-1], text + "x", text.replace("anomaly_", ""), f"anomaly_{token.id}_", "", "a_b_c"):
        assert accounts.bearer(wrong) is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_500)
    assert accounts.bearer(text) is None


def test_a_session_ends_by_idleness_and_by_age(vault: Vault, monkeypatch: pytest.MonkeyPatch):
    account = Accounts(vault).add("anna", "viewer", PASSWORD)
    held = Sessions(vault, idle_s=100, absolute_s=1000)
    start, clock = time.time(), [0.0]
    monkeypatch.setattr(sessions.time, "time", lambda: start + clock[0])
    idle, used = held.start(account, None), held.start(account, None)
    for clock[0] in range(0, 991, 90):
        assert held.find(used, used=True) is not None
    assert held.find(idle, used=True) is None
    clock[0] = 1001
    assert held.find(used, used=True) is None
    assert held.find("made up", used=True) is None
    # A clock that was set back must not lengthen a session.
    clock[0] = 2000
    late = held.start(account, None)
    clock[0] = 0
    assert held.find(late, used=True) is None


def test_what_an_open_page_asks_by_itself_keeps_no_session_alive(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
):
    account = Accounts(vault).add("anna", "viewer", PASSWORD)
    held = Sessions(vault, idle_s=100, absolute_s=1000)
    start, clock = time.time(), [0.0]
    monkeypatch.setattr(sessions.time, "time", lambda: start + clock[0])
    identity = held.start(account, None)
    for clock[0] in range(0, 100, 9):
        assert held.find(identity, used=False) is not None
    clock[0] = 101
    assert held.find(identity, used=False) is None


def test_a_role_and_a_password_change_together_or_not_at_all(vault: Vault):
    accounts = Accounts(vault)
    accounts.add("anna", "operator", PASSWORD)
    with pytest.raises(UsageError, match="characters"):
        accounts.change("anna", role="viewer", password="short")
    with pytest.raises(UsageError, match="not known"):
        accounts.change("anna", role="king", password="another good password")
    assert accounts.signed_in("anna", PASSWORD) == accounts.named("anna")
    assert accounts.change("anna", role="viewer", password="another good password").role == "viewer"
    assert accounts.signed_in("anna", PASSWORD) is None
    assert accounts.signed_in("anna", "another good password") is not None


def test_looking_at_a_session_seldom_writes(vault: Vault):
    account = Accounts(vault).add("anna", "viewer", PASSWORD)
    held = Sessions(vault, idle_s=3600, absolute_s=3600)
    identity = held.start(account, None)
    with vault.reading() as connection:
        before = connection.total_changes
        for _ in range(50):
            assert held.find(identity, used=True) is not None
        assert connection.total_changes == before


@pytest.mark.parametrize(
    "attempt",
    [
        "UPDATE audit SET who = 'nobody'",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE id = 1",
        "INSERT OR REPLACE INTO audit VALUES (1, 0, 'nobody', '', '', '', '{}')",
        "REPLACE INTO audit VALUES (1, 0, 'nobody', '', '', '', '{}')",
        "INSERT INTO audit VALUES (1, 0, 'x', '', '', '', '{}') ON CONFLICT DO UPDATE SET who = 'nobody'",
    ],
)
@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "guard taken out"])
def test_the_audit_cannot_be_changed(vault: Vault, attempt: str, guarded: bool):
    audit = Audit(vault)
    audit.add("anna", "deletion", "cam", detail={"start_utc_s": 1.0})
    before = audit.lines()
    other = sqlite3.connect(vault.path, isolation_level=None)
    if not guarded:
        for trigger in ("audit_no_update", "audit_no_delete", "audit_no_replace"):
            other.execute(f"DROP TRIGGER {trigger}")
        other.execute(attempt)
        assert audit.lines() != before
    else:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            other.execute(attempt)
        assert audit.lines() == before
    other.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "line1.example", ""])
def test_off_loopback_without_tls_is_refused(host: str, tmp_path: Path):
    with pytest.raises(UsageError, match="in the clear"):
        check_binding(ServeSettings(host=host))
    check_binding(ServeSettings(host=host, insecure=True))
    check_binding(ServeSettings(host=host, trusted_proxy="192.0.2.7"))
    pem = tmp_path / "x.pem"
    pem.touch()
    check_binding(ServeSettings(host=host, tls_cert=pem, tls_key=pem))
    for loopback in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        check_binding(ServeSettings(host=loopback))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tls_cert": Path("none.pem")}, "go together"),
        ({"trusted_proxy": "proxy.example"}, "not an IP address"),
        ({"trusted_proxy": "192.0.2.7", "outer_proxies": ("proxy.example",)}, "not an IP address"),
        ({"outer_proxies": ("192.0.2.8",)}, "in front of"),
        ({"allowed_hosts": ("*",)}, "allowed host"),
        ({"allowed_hosts": ("https://x",)}, "allowed host"),
        ({"port": 70_000}, "70000"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], told: str):
    with pytest.raises(UsageError, match=told):
        check_binding(ServeSettings(**settings))  # type: ignore[arg-type]


def test_a_port_in_use_and_a_bad_certificate_are_one_line(tmp_path: Path):
    pem = tmp_path / "bad.pem"
    pem.write_text("no certificate")
    with running(tmp_path / "one") as case, Store(tmp_path / "two") as store:
        port = int(case.url.rpartition(":")[2])
        for settings, told in (
            (ServeSettings(port=port), "choose another port"),
            (ServeSettings(port=0, tls_cert=pem, tls_key=pem), "certificate"),
        ):
            server = serve(SmallRunner(), store, settings)
            with pytest.raises(UsageError, match=told):
                server.start()
            server.stop()


def test_an_encrypted_key_is_refused_and_nothing_asks_for_its_passphrase(tmp_path: Path):
    command = "openssl req -x509 -newkey rsa:2048 -passout pass:canary -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    with Store(tmp_path / "store") as store:
        settings = ServeSettings(port=0, tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")
        server = serve(SmallRunner(), store, settings)
        with pytest.raises(UsageError, match=f"key {tmp_path}/key.pem is encrypted.*openssl pkey"):
            server.start()
        server.stop()


def users(folder: Path, *arguments: object, password: str | None = None) -> list[object]:
    """Arguments of `anomaly users` on a folder."""
    if password is not None:
        (folder / "password").write_text(password + "\n")
        arguments = (*arguments, "--password-file", folder / "password")
    return ["users", *arguments, "--store", folder / "store"]


def test_accounts_from_the_terminal_open_the_running_server(tmp_path: Path):
    with running(tmp_path) as case:
        browser = case.client()
        setup = browser.get("/api/session").json()["setup"]
        assert "/" not in setup, "who is not signed in learns no path"
        command = setup.replace("FOLDER", str(case.store.folder)).split()
        assert command[:3] == ["python", "-m", "anomaly"]
        (tmp_path / "password").write_text(PASSWORD + "\n")
        line = ["anna" if word == "NAME" else word for word in command[3:]]
        assert "anna" in succeed(*line, "--password-file", tmp_path / "password")
        assert "admin" in succeed(*users(tmp_path, "list"))
        signed_in = browser.post("/api/session", json={"name": "anna", "password": PASSWORD})
        assert signed_in.json()["role"] == "admin"
        succeed(*users(tmp_path, "passwd", "anna", password="a new long password"))
        assert browser.get("/api/cameras").status_code == 401
        succeed(*users(tmp_path, "add", "bert", "--role", "operator", password=PASSWORD))
        told = succeed(
            *users(tmp_path, "token", "bert", "--role", "viewer", "--scopes", "live", "metrics"),
            "--label=wall 3",
            "--days=30",
        )
        token = told.split()[0]
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{case.url}/api/cameras", headers=headers).status_code == 200
        assert httpx.get(f"{case.url}/api/events", headers=headers).status_code == 403
        told = succeed(*users(tmp_path, "passwd", "bert", password="a new long password"))
        assert f"tokens still open the API ({token.split('_')[1]})" in " ".join(told.split())
        assert httpx.get(f"{case.url}/api/cameras", headers=headers).status_code == 200
        listed = succeed(*users(tmp_path, "list"))
        assert "wall 3" in listed
        assert token not in listed
        succeed(*users(tmp_path, "revoke", token.split("_")[1]))
        assert httpx.get(f"{case.url}/api/cameras", headers=headers).status_code == 401
        succeed(*users(tmp_path, "role", "bert", "--role", "engineer"))
        succeed(*users(tmp_path, "remove", "bert"))
        lines = case.server.door.audit.lines()
        assert [line.action for line in lines] == [
            "user removed", "role", "token removed", "password", "token added", "user added", "password", "log-in",
            "user added",
        ]  # fmt: skip
        assert lines[0].who.startswith("command line of ")
        assert PASSWORD not in str(lines)


def test_what_the_audit_cannot_take_is_not_done(tmp_path: Path):
    (tmp_path / "store").mkdir()
    succeed(*users(tmp_path, "add", "anna", "--role", "admin", password=PASSWORD))
    succeed(*users(tmp_path, "add", "bert", "--role", "operator", password=PASSWORD))
    token = [*users(tmp_path, "token", "bert", "--role", "viewer", "--scopes", "live"), "--label=wall"]
    held = succeed(*token).split()[0].split("_")[1]
    other = sqlite3.connect(tmp_path / "store" / "accounts.db", isolation_level=None)
    rows = lambda: [other.execute(f"SELECT * FROM {name}").fetchall() for name in ("accounts", "tokens")]  # noqa: E731
    before = rows()
    other.execute("CREATE TRIGGER no_room BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no room'); END")
    for line in (
        users(tmp_path, "add", "carl", "--role", "admin", password=PASSWORD),
        users(tmp_path, "passwd", "bert", password="a new long password"),
        users(tmp_path, "role", "bert", "--role", "admin"),
        users(tmp_path, "remove", "bert"),
        token,
        users(tmp_path, "revoke", held),
    ):
        done = invoke(*line)
        assert (done.status != 0, done.out) == (True, "")
        assert "no room" in done.message
        assert rows() == before
    other.close()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["dance"], ["'dance'", "passwd"]),
        (["add"], ["needs --role"]),
        (["add", "anna"], ["needs --role", "viewer, operator, engineer, admin"]),
        (["add", "a b", "--role", "admin"], ["'a b'"]),
        (["add", "anna", "--role", "king"], ["'king'"]),
        (["list"], ["holds no accounts", "users add NAME --role admin"]),
    ],
)
def test_misuse_of_the_command_is_one_line(tmp_path: Path, arguments: list[str], told: list[str]):
    password = PASSWORD if arguments[0] == "add" else None
    done = invoke(*users(tmp_path, *arguments, password=password))
    assert done.status == 2
    for part in told:
        assert part in done.message


def test_the_password_is_asked_for_at_the_terminal_and_not_shown(tmp_path: Path):
    """On a real terminal: `getpass` reads the terminal, not standard input."""

    def typed(*lines: str) -> tuple[int, bytes]:
        main, other = pty.openpty()
        command = [sys.executable, "-m", "anomaly"]
        command += [str(word) for word in users(tmp_path, "add", "anna", "--role", "admin")]
        process = subprocess.Popen(
            command,
            stdin=other,
            stdout=other,
            stderr=other,
            cwd=tmp_path,
            env=environment(),
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )
        os.close(other)
        seen = b""
        for line in lines:
            wanted = seen.count(b": ") + 1
            while seen.count(b": ") < wanted:
                seen += os.read(main, 1000)
            os.write(main, line.encode() + b"\n")
        while True:
            try:
                chunk = os.read(main, 1000)
            except OSError:
                break
            if not chunk:
                break
            seen += chunk
        os.close(main)
        return process.wait(30), seen

    status, seen = typed(PASSWORD, "something else")
    assert status == 2
    assert b"differ" in seen
    status, seen = typed(PASSWORD, PASSWORD)
    assert status == 0, seen
    assert PASSWORD.encode() not in seen
    with running(tmp_path) as case:
        answer = case.client().post("/api/session", json={"name": "anna", "password": PASSWORD})
        assert answer.status_code == 200


def test_without_a_terminal_a_file_is_asked_for(tmp_path: Path):
    command = [str(word) for word in users(tmp_path, "add", "anna", "--role", "admin")]
    done = subprocess.run(
        [sys.executable, "-m", "anomaly", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
    )
    assert done.returncode == 2
    assert "--password-file" in done.stderr
    assert len(done.stderr.splitlines()) == 1
