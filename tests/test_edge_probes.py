"""The port for machines on loopback: who asks for what, and under which name."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from small_model import FPS, SmallModel, start
from test_edge_runner import until

from anomaly.edge import metrics
from anomaly.edge.health import Trouble
from anomaly.edge.ledger import Ledger
from anomaly.edge.loaded import Loaded
from anomaly.edge.metrics import Figures, Probes
from anomaly.edge.pictures import Pictures
from anomaly.edge.runner import Runner
from anomaly.edge.server import guard
from anomaly.edge.server.accounts import Accounts
from anomaly.edge.server.door import open_vault
from anomaly.edge.site import site_of
from anomaly.edge.store import Store
from anomaly.errors import UsageError
from anomaly.model import load_model
from anomaly.thresholds import load_threshold

TOKEN = "a-long-token-of-the-scraper"


@pytest.fixture(scope="module")
def runner(small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """One that runs, and whose one camera is away."""
    model = load_model(small_model.folder, offline=True)
    loaded = Loaded.of(model, load_threshold(model, fps=5.0))
    site = site_of(["rtsp://127.0.0.1:9/away"], small_model.folder, fps=5.0, record=False)
    with Store(tmp_path_factory.mktemp("store")) as store:
        pictures = Pictures(store)
        runner = Runner(site, Ledger(store, pictures, None), lambda path, fps: loaded)
        thread = threading.Thread(target=runner.run)
        thread.start()
        yield runner
        runner.stop()
        thread.join(30)
        pictures.close()


@pytest.fixture(scope="module")
def asked(
    runner: Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, Accounts]]:
    """Its probes, and the accounts whose tokens they know."""
    vault = open_vault(tmp_path_factory.mktemp("accounts"))
    accounts = Accounts(vault)
    accounts.add("mara", "viewer", "correct horse battery")
    with (
        pytest.MonkeyPatch.context() as patch,
        Figures(runner),
        Probes(runner, "127.0.0.1:0", TOKEN, accounts) as probes,
        httpx.Client(base_url=probes.url) as client,
    ):
        patch.setattr(probes._handler, "timeout", 1.0)  # not the five seconds that a silent connection has
        yield client, accounts
    vault.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "guard taken out"])
@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/healthz"])
def test_a_name_pointed_at_this_machine_is_not_answered(
    asked: tuple[httpx.Client, Accounts], monkeypatch: pytest.MonkeyPatch, path: str, guarded: bool
):
    """DNS rebinding: a page on evil.example whose name leads here may read what its own origin answers."""
    client, _ = asked
    if not guarded:
        monkeypatch.setattr(guard, "host_allowed", lambda *_: True)
    answer = client.get(path, headers={"Host": f"evil.example:{client.base_url.port}", **bearer(TOKEN)})
    assert (answer.status_code == 421) is guarded
    assert ("camera1" in answer.text) is (not guarded and path != "/healthz")


def test_the_figures_are_for_who_brings_a_token(asked: tuple[httpx.Client, Accounts]):
    client, accounts = asked
    told = client.get("/metrics")
    assert (told.status_code, told.headers["www-authenticate"]) == (401, "Bearer")
    assert "camera1" not in told.text
    assert "nosniff" in told.headers["x-content-type-options"]
    _, scraper = accounts.add_token("mara", "prometheus", "viewer", ("metrics",))
    _, other = accounts.add_token("mara", "wall", "viewer", ("live",))
    for token, opens in ((TOKEN, True), (scraper, True), (other, False), (TOKEN[:-1], False), ("x", False)):
        answer = client.get("/metrics", headers=bearer(token))
        assert (answer.status_code == 200) is opens
        assert ('camera="camera1"' in answer.text) is opens
    accounts.remove_token(accounts.tokens()[0].id)
    assert client.get("/metrics", headers=bearer(scraper)).status_code == 401


def test_who_is_not_known_learns_yes_or_no_and_no_name(asked: tuple[httpx.Client, Accounts]):
    client, _ = asked
    assert client.get("/healthz").text == "ok\n"
    nobody, known = client.get("/readyz"), client.get("/readyz", headers=bearer(TOKEN))
    assert (nobody.status_code, known.status_code) == (503, 503)
    assert "camera1" not in nobody.text
    assert "camera1" in known.text


def test_trouble_of_the_machine_is_among_the_figures_while_it_is_on(
    asked: tuple[httpx.Client, Accounts], runner: Runner
):
    client, _ = asked

    def told() -> bool:
        figures = client.get("/metrics", headers=bearer(TOKEN)).text
        return 'anomaly_trouble{camera="",kind="clips"} 1.0' in figures

    assert not told()
    runner.trouble(Trouble("clips", True, time.time(), {"reason": "a test"}))
    until(told)
    runner.trouble(Trouble("clips", False, time.time()))
    until(lambda: not told())


def test_the_scrape_token_of_the_command_line_opens_both_ports(small_model: SmallModel, tmp_path: Path):
    (tmp_path / "scrape").write_text(TOKEN + "\n")
    child = start(
        "run", "--model", small_model.folder, "--source", "rtsp://127.0.0.1:9/away", "--out", tmp_path / "store",
        "--serve", "127.0.0.1:0", "--scrape-token", f"${{file:{tmp_path / 'scrape'}}}", "run.metrics=127.0.0.1:0", FPS,
        cwd=tmp_path,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        urls = []
        for line in child.stdout:
            if "The page: " in line or "Probes and metrics: " in line:
                urls.append(line.partition(": ")[2].partition("/healthz")[0].strip())
            if len(urls) == 2:
                break
        for url in urls:
            assert httpx.get(f"{url}/metrics").status_code == 401
            assert "anomaly_connected" in httpx.get(f"{url}/metrics", headers=bearer(TOKEN)).text
    finally:
        child.terminate()
        _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err


def test_silent_connections_do_not_pile_up(asked: tuple[httpx.Client, Accounts]):
    client, _ = asked
    where = (client.base_url.host, client.base_url.port)
    silent = [socket.create_connection(where, 5) for _ in range(100)]
    time.sleep(1.0)
    assert sum(thread.name.endswith("(process_request_thread)") for thread in threading.enumerate()) <= 32
    until = time.monotonic() + 20.0
    while True:
        with contextlib.suppress(httpx.TransportError):
            assert client.get("/healthz").status_code == 200
            break
        assert time.monotonic() < until
        time.sleep(0.5)
    for one in silent:
        one.close()


class _Troubles:
    """A runner to which trouble is told."""

    def __init__(self) -> None:
        self.told: list[Trouble] = []

    def trouble(self, trouble: Trouble) -> None:
        self.told.append(trouble)

    def keeps_up(self, seconds: float) -> bool:
        return True


def test_a_port_that_another_program_has_is_told_and_taken_once_it_is_free(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics, "_TRY_AGAIN_S", 0.05)
    runner: Any = _Troubles()
    with socket.create_server(("127.0.0.1", 0)) as other:
        probes = Probes(runner, f"127.0.0.1:{other.getsockname()[1]}")
        assert probes.url is None
        with Probes(runner, f"127.0.0.1:{other.getsockname()[1]}"):
            time.sleep(0.2)
        probes.__enter__()
        time.sleep(0.2)
    # Once each, however often it is tried.
    assert [(one.kind, one.begins) for one in runner.told] == [("metrics", True)] * 2
    assert "Address already in use" in runner.told[0].detail["reason"]
    until(lambda: len(runner.told) == 3)
    assert not runner.told[2].begins
    assert httpx.get(f"{probes.url}/healthz").status_code == 200
    probes.__exit__(None, None, None)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{probes.url}/healthz")


@pytest.mark.parametrize("where", ["0.0.0.0:9188", "127.0.0.1:x", "127.0.0.1:70000", "9188"])
def test_an_address_that_is_none_of_loopback_is_refused(where: str):
    with pytest.raises(UsageError, match="loopback"):
        Probes(_Troubles(), where)  # type: ignore[arg-type]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_loopback_of_ipv6_is_loopback():
    with Probes(_Troubles(), "[::1]:0") as probes:  # type: ignore[arg-type]
        assert httpx.get(f"{probes.url}/healthz").status_code == 200


def test_taken_ports_and_damaged_accounts_keep_no_camera_unwatched(small_model: SmallModel, tmp_path: Path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "accounts.db").write_bytes(b"none of SQLite's" * 512)
    with socket.create_server(("127.0.0.1", 0)) as other:
        child = start(
            "run", "--model", small_model.folder, "--source", small_model.footage.test / "test_03.mp4",
            "--out", tmp_path / "store", "run.live=true", f"run.metrics=127.0.0.1:{other.getsockname()[1]}", FPS,
            "--serve", f"127.0.0.1:{other.getsockname()[1]}", cwd=tmp_path,
        )  # fmt: skip
        out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert "No probes and metrics yet" in out + err
    assert "move it away and make the accounts anew" in out + err
    with Store(tmp_path / "store", owner=False) as store:
        assert (
            "Address already in use"
            in next(one for one in store.health() if one.kind == "metrics").detail["reason"]
        )
        reason = next(one for one in store.health() if one.kind == "page").detail["reason"]
    assert "accounts.db is damaged" in reason
