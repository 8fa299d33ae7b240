"""Messages to a webhook, with a real receiver that times out, refuses, redirects and goes away."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from broker import Receiver, free_port, until
from told_site import QUICK, SECRET, told_site

from anomaly.edge.notify import Bounds, WebhookSettings
from anomaly.edge.notify.destination import may_be_told, parse_destination
from anomaly.edge.notify.signature import key_of, sign, verify
from anomaly.errors import AnomalyError, UsageError

HERE = Path(__file__).resolve().parent


def hook(url: str, **more) -> WebhookSettings:
    return WebhookSettings(url, (SECRET,), **{"name": "hook", "timeout_s": 0.5, "backoff": QUICK, **more})


def first_only(answer):
    """Answer the first request so, and take over all others."""
    asked = []

    def answers(content):
        asked.append(content)
        return answer if len(asked) == 1 else 204

    return answers


def test_a_message_is_signed_over_id_time_and_body(tmp_path: Path):
    with Receiver() as receiver, told_site(tmp_path, [hook(receiver.url + "?token=1")]) as site:
        event = site.start()
        until(receiver.requests.__len__)
        until(lambda: site.status("hook")["sent"] == 1)
        path, headers, body = receiver.requests[0]
    assert path == "/hook?token=1"
    key = key_of(SECRET)
    now = time.time()
    assert verify(headers, body, key, now_s=now) == f"{event.id}-start"
    assert receiver.contents()[0]["event_id"] == event.id
    for changed, content, with_key, at in (
        ({}, body + b" ", key, now),
        ({"webhook-id": "another"}, body, key, now),
        ({"webhook-timestamp": str(int(now) - 5)}, body, key, now),
        ({}, body, key_of("another key of 16 bytes"), now),
        ({}, body, key, now + 600),
    ):
        with pytest.raises(AnomalyError):
            verify({**headers, **changed}, content, with_key, now_s=at)


def test_the_signature_is_that_of_the_specification():
    # The example of https://www.standardwebhooks.com's reference libraries.
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = sign([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_key_being_replaced_signs_beside_the_old_one(tmp_path: Path):
    with Receiver() as receiver:
        settings = WebhookSettings(receiver.url, ("new key, 16 bytes!", SECRET), name="hook", backoff=QUICK)
        with told_site(tmp_path, [settings]) as site:
            site.start()
            until(receiver.requests.__len__)
        _, headers, body = receiver.requests[0]
    for secret in settings.secrets:
        assert verify(headers, body, key_of(secret), now_s=time.time())


@pytest.mark.parametrize("status", [500, 503, 408, 429, 302, 307])
def test_what_may_pass_is_tried_again_with_the_same_id(tmp_path: Path, status: int):
    with Receiver() as elsewhere, Receiver() as receiver:
        receiver.answer = first_only((status, {"Location": elsewhere.url}))
        with told_site(tmp_path, [hook(receiver.url)]) as site:
            events = [site.start().id for _ in range(2)]
            until(lambda: site.status("hook")["sent"] == 2)
        assert receiver.ids() == [f"{events[0]}-start", f"{events[0]}-start", f"{events[1]}-start"]
        assert elsewhere.requests == [], "a redirect was followed"


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
def test_what_is_refused_is_set_aside_and_blocks_nothing(tmp_path: Path, status: int):
    with Receiver() as receiver:
        receiver.answer = first_only(status)
        with told_site(tmp_path, [hook(receiver.url)]) as site:
            events = [site.start().id for _ in range(3)]
            until(lambda: site.status("hook")["sent"] == 2)
            assert site.status("hook")["set_aside"] == 1
            assert receiver.ids() == [f"{one}-start" for one in events]
            assert site.delivery.send_again("hook") == 1
            until(lambda: site.status("hook")["sent"] == 3)
            assert site.status("hook")["set_aside"] == 0


def test_trouble_that_is_told_to_who_refuses_everything_does_not_breed(tmp_path: Path):
    troubles = []

    def note(sink: str, kind: str, detail) -> None:
        troubles.append(kind)
        with sites[0].store.transaction() as connection:
            sites[0].delivery.on_health(connection, "", "", kind, detail)

    with Receiver() as receiver:
        receiver.answer = lambda content: 410
        with told_site(tmp_path, [hook(receiver.url)], on_trouble=note) as site:
            sites = [site]
            for _ in range(4):
                site.start()
            until(lambda: site.status("hook")["set_aside"] == 5)
            until(lambda: site.status("hook")["pending"] == 0)
        assert troubles == ["set aside"]
        assert [one["kind"] for one in receiver.contents()].count("health") == 1


def test_a_receiver_that_never_answers_is_left_in_time_and_asked_again(tmp_path: Path):
    released = threading.Event()

    def hangs(content):
        if len(receiver.requests) == 1:
            released.wait(10)
        return 204

    with Receiver() as receiver:
        receiver.answer = hangs
        with told_site(tmp_path, [hook(receiver.url, timeout_s=0.3)]) as site:
            site.start()
            until(lambda: site.status("hook")["sent"] == 1)
            released.set()
        assert len(set(receiver.ids())) == 1
        assert len(receiver.ids()) == 2


def test_a_receiver_that_answers_a_byte_at_a_time_holds_nobody(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                while not done.wait(0.05):
                    try:
                        connection.send(b"H")
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        with told_site(
            tmp_path, [hook(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout_s=0.4)]
        ) as site:
            site.start()
            until(lambda: site.status("hook")["last_error"], 5)
            assert "no whole answer" in site.status("hook")["last_error"]
        done.set()
        thread.join(5)


def test_a_receiver_that_goes_away_gets_everything_in_order_when_it_is_back(tmp_path: Path):
    port = free_port()
    with told_site(tmp_path, [hook(f"http://127.0.0.1:{port}/hook")]) as site:
        expected: dict[str, list[str]] = {"left": [], "right": []}
        for turn in range(30):
            camera = "left" if turn % 3 else "right"
            expected[camera].append(site.start(camera).id)
        until(lambda: "connection refused" in site.status("hook")["last_error"])
        with Receiver(port) as receiver:
            until(lambda: site.status("hook")["sent"] == 30)
            for camera, ids in expected.items():
                told = [one["event_id"] for one in receiver.contents() if one["camera"] == camera]
                assert told == ids


def test_one_camera_s_trouble_is_not_another_s(tmp_path: Path):
    with Receiver() as receiver:
        receiver.answer = lambda content: 500 if content["camera"] == "bad" else 204
        with told_site(tmp_path, [hook(receiver.url)]) as site:
            # All at once, so that they are taken in one go.
            with site.store.transaction():
                for _ in range(3):
                    site.start("bad")
                    site.start("good")
            until(lambda: site.status("hook")["sent"] == 3)
            assert site.status("hook")["pending"] == 3
            # Order is kept: the camera's second message waits for its first.
            assert len({one["id"] for one in receiver.contents() if one["camera"] == "bad"}) == 1
            receiver.answer = lambda content: 204
            until(lambda: site.status("hook")["sent"] == 6)


@pytest.mark.parametrize("how", [500, 503, "crashes", "hangs"])
def test_a_message_that_the_receiver_fails_on_blocks_no_camera_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: int | str
):
    monkeypatch.setattr("anomaly.edge.notify.webhook._PATIENCE_S", 2.0)
    released = threading.Event()

    def answers(content):
        if content["camera"] != "bad" or content["event_id"] not in poison:
            return 204
        if how == "hangs":
            released.wait(20)
        return None if isinstance(how, str) else how

    troubles: list[str] = []
    with Receiver() as receiver:
        poison: list[str] = []
        receiver.answer = answers
        settings = hook(receiver.url, timeout_s=0.2)
        with told_site(
            tmp_path,
            [settings],
            on_trouble=lambda sink, kind, detail: troubles.append(kind),
            tend_every_s=0.1,
        ) as site:
            with site.store.transaction():
                bad = [site.start("bad")]
                poison.append(bad[0].id)
            # Alone, it may be the receiver: it is tried again.
            until(lambda: receiver.ids().count(f"{bad[0].id}-start") > 7)
            time.sleep(0.5)
            assert (site.status("hook")["sent"], site.status("hook")["set_aside"]) == (0, 0)
            begin = time.monotonic()
            while time.monotonic() - begin < 1.5:
                event = site.start("good")
                until(lambda event=event: f"{event.id}-start" in receiver.ids())
            assert site.status("hook")["set_aside"] == 0

            def good_and_set_aside() -> bool:
                site.start("good")
                time.sleep(0.1)
                return site.status("hook")["set_aside"] == 1

            until(good_and_set_aside)
            bad += [site.start("bad") for _ in range(2)]
            until(lambda: site.status("hook")["pending"] == 0)
            assert troubles == ["set aside"]
            told = [one["event_id"] for one in receiver.contents() if one["camera"] == "bad"]
            assert list(dict.fromkeys(told)) == [one.id for one in bad]
            poison.clear()
            assert site.delivery.send_again("hook") == 1
            until(lambda: site.status("hook")["pending"] == 0)
        released.set()


@pytest.mark.parametrize("how", [500, 503, "crashes", "hangs"])
def test_a_message_that_the_receiver_fails_on_does_not_silence_the_only_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: int | str
):
    """While nothing at all is taken it may be the receiver, and all wait in their order."""
    monkeypatch.setattr("anomaly.edge.notify.webhook._PATIENCE_S", 2.0)
    released, away = threading.Event(), threading.Event()
    poison: set[str] = set()
    troubles: list[str] = []
    away.set()

    def answers(content):
        if not away.is_set() and content["event_id"] not in poison:
            return 204
        if how == "hangs":
            released.wait(20)
        return None if isinstance(how, str) else how

    with Receiver() as receiver:
        receiver.answer = answers
        with told_site(
            tmp_path,
            [hook(receiver.url, timeout_s=0.2)],
            on_trouble=lambda sink, kind, detail: troubles.append(kind),
        ) as site:
            with site.store.transaction():
                events = [site.start("only") for _ in range(4)]
                # Its end is what the receiver fails on, too: one incident has several messages.
                site.end(events[0])
                later = [site.start("only") for _ in range(2)]
                poison |= {events[0].id, events[1].id} if how != "hangs" else {events[0].id}
            ids = (
                [f"{one.id}-start" for one in events]
                + [f"{events[0].id}-end"]
                + [f"{one.id}-start" for one in later]
            )
            # Those behind are tried now and then; as the receiver takes none, none is set aside.
            until(lambda: receiver.ids().count(ids[1]) >= 2, 20)
            time.sleep(0.7)
            assert (site.status("hook")["sent"], site.status("hook")["set_aside"]) == (0, 0)
            before = len(receiver.ids())
            away.clear()
            until(lambda: site.status("hook")["pending"] == 0, 30)
            bad = [one for one in ids if one.split("-")[0] in poison]
            assert site.status("hook")["set_aside"] == len(bad)
            assert troubles[0] == "set aside"
            told = list(dict.fromkeys(one for one in receiver.ids()[before:] if one not in bad))
            assert told == [one for one in ids if one not in bad]
            poison.clear()
            assert site.delivery.send_again("hook") == len(bad)
            until(lambda: site.status("hook")["pending"] == 0)
        released.set()


def test_a_receiver_that_hangs_holds_up_no_other_sink_and_no_event(tmp_path: Path):
    released = threading.Event()
    with Receiver() as hanging, Receiver() as receiver:
        hanging.answer = lambda content: released.wait(20) and 204
        sinks = [hook(hanging.url, name="hanging", timeout_s=20), hook(receiver.url)]
        with told_site(tmp_path, sinks) as site:
            begin = time.monotonic()
            for _ in range(20):
                site.start()
            until(lambda: site.status("hook")["sent"] == 20)
            assert time.monotonic() - begin < 10
            assert site.status("hanging")["sent"] == 0
            begin = time.monotonic()
            assert site.delivery.stop(5)
            assert time.monotonic() - begin < 3
        released.set()


def test_killed_between_sending_and_marking_it_sends_the_same_id_again(tmp_path: Path):
    arrived, released = threading.Event(), threading.Event()

    def hold_the_third(content):
        if len(receiver.requests) == 3:
            arrived.set()
            released.wait(20)
        return 204

    with Receiver() as receiver:
        receiver.answer = hold_the_third
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
        command = [
            sys.executable,
            str(HERE / "told_site.py"),
            str(tmp_path),
            "webhook",
            str(receiver.port),
            "5",
        ]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        assert child.stdout is not None
        ids = [child.stdout.readline().strip() for _ in range(5)]
        assert arrived.wait(20)
        child.kill()
        child.wait(10)
        child.stdout.close()
        released.set()
        with told_site(tmp_path, [hook(receiver.url, name="webhook")]) as site:
            # The store ends the events that were on when the program died, and that is told too.
            until(lambda: site.status("webhook")["sent"] == 10)
        told = [one for one in receiver.ids() if one.endswith("-start")]
    assert told.count(f"{ids[2]}-start") == 2
    # In order, each once when ids are looked at.
    assert list(dict.fromkeys(told)) == [f"{one}-start" for one in ids]


def test_a_heartbeat_stops_with_the_scoring(tmp_path: Path):
    scored = [True]
    with Receiver() as receiver:
        settings = hook(receiver.url, heartbeat_s=0.1)
        with told_site(tmp_path, [settings], scored_since=lambda seconds: scored[0]):
            until(lambda: len(receiver.requests) >= 3)
            scored[0] = False
            time.sleep(0.3)
            before = len(receiver.requests)
            time.sleep(0.4)
            assert len(receiver.requests) == before
        assert {one["kind"] for one in receiver.contents()} == {"heartbeat"}


def test_a_heartbeat_stops_while_messages_wait_too_long(tmp_path: Path):
    def beats() -> int:
        return sum(content["kind"] == "heartbeat" for content in receiver.contents())

    with Receiver() as receiver:
        receiver.answer = lambda content: 204 if content["kind"] == "heartbeat" else 500
        settings = hook(receiver.url, heartbeat_s=0.05, bounds=Bounds(late_s=0.3))
        with told_site(tmp_path, [settings], tend_every_s=0.05) as site:
            until(lambda: beats() >= 2)
            site.start()
            until(lambda: not site.status("hook")["draining"])
            time.sleep(0.1)
            before = beats()
            time.sleep(0.4)
            assert beats() == before
            receiver.answer = lambda content: 204
            until(lambda: beats() > before)


def test_secrets_in_the_address_are_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("DEBUG")
    key = tmp_path / "key"
    key.write_text("canary-key-of-some-length\n")
    with Receiver() as receiver:
        receiver.answer = first_only(410)
        monkeypatch.setenv("HOOK_TOKEN", "canary-token")
        settings = WebhookSettings(
            receiver.url + "/${env:HOOK_TOKEN}", (f"${{file:{key}}}",), name="hook", backoff=QUICK
        )
        with told_site(tmp_path / "site", [settings]) as site:
            site.start()
            site.start()
            until(lambda: site.status("hook")["sent"] == 1)
            shown = repr(settings) + repr(site.delivery.status()) + caplog.text
        path, headers, body = receiver.requests[1]
    assert path == "/hook/canary-token"
    assert verify(headers, body, key_of("canary-key-of-some-length"), now_s=time.time())
    assert "answered 410" in shown
    assert "canary" not in shown
    assert b"canary" not in b"".join(
        one.read_bytes() for one in (tmp_path / "site").rglob("*") if one.is_file()
    )


@pytest.mark.parametrize(
    ("address", "host", "allowed"),
    [
        ("10.1.2.3", "mes.plant", True),
        ("93.184.216.34", "example.org", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "rebinding.example", False),
        ("::ffff:127.0.0.1", "rebinding.example", False),
        ("169.254.169.254", "169.254.169.254", False),
        ("::ffff:169.254.169.254", "metadata.example", False),
        ("fe80::1%eth0", "printer.local", False),
        ("0.0.0.0", "0.0.0.0", False),
        ("::", "::", False),
        ("224.0.0.1", "all.example", False),
    ],
)
def test_where_a_message_may_go(address: str, host: str, allowed: bool):
    assert may_be_told(address, host) is allowed


def test_a_forbidden_address_is_never_connected_to(tmp_path: Path):
    with told_site(tmp_path, [hook("http://169.254.169.254/latest", cleartext=True)]) as site:
        site.start()
        until(lambda: "never go to" in site.status("hook")["last_error"])
        assert site.status("hook")["pending"] == 1


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("ftp://host/", "ftp"),
        ("file:///etc/passwd", "file"),
        ("https://user:pw-canary@host/", "user or a password"),
        ("host/path", "nothing"),
        ("http://host:99999/", "cannot be read"),
        ("http://host/a b\r\nX: y", "percent-encode"),
    ],
)
def test_addresses_that_are_none_are_refused(url: str, named: str):
    with pytest.raises(UsageError, match=named) as error:
        parse_destination(url, cleartext=True)
    assert "canary" not in str(error.value)


def test_off_this_machine_messages_go_in_clear_with_consent_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(UsageError, match=r"in clear to mes\.plant"):
        hook("http://mes.plant/hook")
    for url in ("http://127.0.0.1:1/", "http://localhost:1/", "http://[::1]:1/", "https://mes.plant/"):
        hook(url)
    hook("http://mes.plant/hook", cleartext=True)
    # An address that is a secret is known when it is connected to.
    monkeypatch.setenv("MES", "http://mes.plant/canary")
    with told_site(tmp_path, [hook("${env:MES}")]) as site:
        site.start()
        until(lambda: "in clear to mes.plant" in site.status("hook")["last_error"])
        assert (site.status("hook")["pending"], "canary" in repr(site.status("hook"))) == (1, False)


@pytest.mark.parametrize("secret", ["short", "whsec_not base64!", "whsec_c2hvcnQ="])
def test_keys_that_protect_nothing_are_refused(secret: str):
    with pytest.raises(UsageError):
        key_of(secret)
    with pytest.raises(UsageError, match="secrets is empty"):
        WebhookSettings("https://host/", ())
