"""Messages to people: only with consent, never a flood. Apprise's own JSON service stands for mail and chat."""

from __future__ import annotations

import base64
import json
import re
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from broker import Receiver, until
from told_site import QUICK, Site, told_site

from anomaly.edge.notify import Bounds, Origin, PeopleSettings
from anomaly.edge.notify.flood import Plan, Told, plan
from anomaly.edge.notify.message import health_message, summary_message
from anomaly.edge.notify.people import words
from anomaly.edge.notify.settings import Backoff


def people(receiver: Receiver, **more) -> PeopleSettings:
    return PeopleSettings(f"json://127.0.0.1:{receiver.port}/", **{"enabled": True, "backoff": QUICK, **more})


def test_nobody_is_told_without_consent(tmp_path: Path):
    with Receiver() as receiver, told_site(tmp_path, [people(receiver, enabled=False)]) as site:
        site.start()
        assert site.delivery.status() == {}
        assert site.store.connection().execute("SELECT count(*) FROM outbox").fetchone()[0] == 0
        assert receiver.requests == []


def test_people_read_where_and_since_when(tmp_path: Path):
    with Receiver() as receiver, told_site(tmp_path, [people(receiver)]) as site:
        event = site.start("cam <1>", certified=False, doubt="another runtime")
        site.end(event)
        until(receiver.requests.__len__)
        until(lambda: site.status("people")["sent"] == 1)
        (told,) = receiver.contents()
    assert told["title"] == "plant north · line 3 · cam <1>: something is not normal"
    assert "UNCERTIFIED: another runtime" in told["message"]
    assert told["attachments"] == []
    # What every message carries.
    assert f"camera running, event {event.id}." in told["message"]
    assert re.search(r"Told \d{4}-\d\d-\d\dT[\d:.]+Z by this machine's clock", told["message"])


def test_past_the_bound_people_get_one_summary_and_the_store_keeps_all(tmp_path: Path):
    with Receiver() as receiver:
        settings = people(receiver, most=3, window_s=2.0)
        with told_site(tmp_path, [settings]) as site:
            for number in range(2):
                site.start(f"cam {number}")
                until(lambda number=number: len(receiver.requests) == number + 1)
            # A burst while one message is left, and one more when none is.
            with site.store.transaction():
                for _ in range(20):
                    site.start("cam 0")
            until(lambda: len(receiver.requests) == 3)
            assert "20 messages came at once" in receiver.contents()[2]["title"]
            begin = time.monotonic()
            for _ in range(4):
                site.start("cam 1")
            until(lambda: len(receiver.requests) == 4)
            assert time.monotonic() - begin > 0.5, "people got more than three messages in the window"
            assert len(site.store.events()) == 26
            until(lambda: site.status("people")["pending"] == 0)
        assert "cam 1: 4" in receiver.contents()[3]["message"]


def told(*utc_s: float, camera: str = "cam") -> list[Told]:
    return [Told(one, [camera]) for one in utc_s]


@pytest.mark.parametrize(
    ("waiting", "before", "expected"),
    [
        (["cam"], told(900, 910, 920, 930), Plan(singles=1)),
        (["cam"] * 2, told(900, 910, 920, 930), Plan(summary=True)),
        (["cam"], told(900, 910, 920, 930, 940), Plan(wait_s=500.0)),
        (["cam"] * 5, told(300), Plan(singles=5)),
        (["cam"] * 500, told(300), Plan(summary=True)),
        # Each place is free when its own time is over, not all at once.
        (["cam"], told(401, 997, 998, 999, 1000), Plan(wait_s=1.0)),
        (["cam"], told(400, 997, 998, 999, 1000), Plan(singles=1)),
        (["cam"], told(401, 402, 997, 998, 999, 1000), Plan(wait_s=2.0)),
        # What was never told of a camera does not wait for what is known of another.
        (["new"], told(900, 910, 920, 930, 940), Plan(singles=1)),
        (["cam", "new"], told(900, 910, 920, 930, 940), Plan(summary=True)),
        # The clock was set back: no window may hold people off for a day.
        (["cam"], told(*[90000.0] * 5), Plan(singles=1)),
    ],
)
def test_how_messages_are_put_together(waiting: list[str], before: list[Told], expected: Plan):
    assert plan(waiting, before, 1000.0, most=5, window_s=600.0) == expected


def flap(site: Site, camera: str, over: bool) -> None:
    with site.store.transaction():
        connection = site.store.connection()
        site.delivery.on_health(connection, camera, "running", "disconnected", {}, over=over)


def test_a_camera_that_comes_and_goes_holds_back_no_alarm(tmp_path: Path):
    with Receiver() as receiver, told_site(tmp_path, [people(receiver)]) as site:
        for number in range(5):
            flap(site, "top", bool(number % 2))
            until(lambda number=number: len(receiver.requests) == number + 1)
        flap(site, "top", True)
        for camera in ("top", "press"):
            begun = time.monotonic()
            site.start(camera)
            until(lambda camera=camera: f"{camera}: something" in receiver.contents()[-1]["title"])
            assert time.monotonic() - begun < 3
        # A request is seen before its row knows that it was taken.
        until(lambda: site.status("people")["sent"] == 7)
        assert site.status("people")["pending"] == 1
        # The first of another camera waits for nothing, and takes along what came and went.
        flap(site, "press", False)
        until(lambda: site.status("people")["pending"] == 0)
        assert "press: 1\ntop: 1" in receiver.contents()[-1]["message"]


def test_what_came_and_went_meanwhile_is_one_message(tmp_path: Path):
    with Receiver() as receiver, told_site(tmp_path, [people(receiver, most=1, window_s=1.0)]) as site:
        flap(site, "top", False)
        until(receiver.requests.__len__)
        for number in range(7):
            flap(site, "top", not number % 2)
        until(lambda: site.status("people")["pending"] == 0)
        _, last = receiver.contents()
    assert last["title"] == "plant north · line 3 · top: disconnected is over"
    assert "7 messages" in last["message"]


def test_what_waits_for_the_next_window_is_not_late(tmp_path: Path):
    with Receiver() as receiver:
        settings = people(receiver, most=1, window_s=60.0, bounds=Bounds(late_s=0.3))
        with told_site(tmp_path, [settings], tend_every_s=0.1) as site:
            site.start()
            until(lambda: site.status("people")["sent"] == 1)
            site.start()
            time.sleep(1.5)
            assert site.status("people")["pending"] == 1
            assert site.status("people")["draining"]


def test_one_message_that_is_not_taken_blocks_no_others(tmp_path: Path):
    with Receiver() as receiver:
        receiver.answer = lambda content: 500 if "cam bad" in content["title"] else 200
        with told_site(tmp_path, [people(receiver, most=50)]) as site:
            site.start("cam bad")
            until(lambda: len(receiver.requests) > 6)
            # Alone, it may be the service: it is tried again.
            assert site.status("people")["set_aside"] == 0
            for number in range(3):
                site.start(f"cam {number}")
            until(lambda: site.status("people")["sent"] == 3)
            until(lambda: site.status("people")["set_aside"] == 1)
            assert site.status("people")["pending"] == 0
            receiver.answer = lambda content: 200
            assert site.delivery.send_again("people") == 1
            until(lambda: site.status("people")["sent"] == 4)


def test_a_service_that_never_ends_its_answer_is_left_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("anomaly.edge.notify.service._LONGEST_S", 1.0)
    over, hangs, given = threading.Event(), [True], []

    class Trickle(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            given.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["title"])
            self.send_response(200)
            slow = hangs[0]
            self.send_header("Content-Length", "1000" if slow else "0")
            self.end_headers()
            while slow and not over.wait(0.3):
                self.wfile.write(b"x")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Trickle)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = PeopleSettings(
        f"json://127.0.0.1:{server.server_port}/", enabled=True, backoff=QUICK, bounds=Bounds(late_s=0.8)
    )
    trouble = []
    with told_site(
        tmp_path, [settings], tend_every_s=0.1, on_trouble=lambda *told: trouble.append(told)
    ) as site:
        site.start()
        # That its messages wait is told while it hangs.
        until(lambda: [told[:2] for told in trouble] == [("people", "down")])
        until(lambda: "did not answer within 1 s" in site.status("people")["last_error"])
        until(lambda: "hangs" in site.status("people")["last_error"])
        assert len(given) == 3
        hangs[0] = False
        over.set()
        until(lambda: site.status("people")["sent"] == 1)
    server.shutdown()
    server.server_close()


class Mails(socketserver.StreamRequestHandler):
    """A mail server that knows not everybody."""

    unknown: ClassVar[set[str]] = set()
    # Once this one has a mail, everybody is known.
    knows_all_after: ClassVar[str] = ""
    slow_s: ClassVar[float] = 0.0
    got: ClassVar[list[str]] = []

    def handle(self) -> None:
        def say(line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

        say("220 mail")
        whom = ""
        while line := self.rfile.readline().decode().strip():
            word = line.split()[0].upper()
            if word == "RCPT":
                whom = line.partition("<")[2].partition(">")[0]
                say("550 unknown" if whom in self.unknown else "250 ok")
            elif word == "DATA":
                say("354 go on")
                while self.rfile.readline().strip() != b".":
                    pass
                time.sleep(self.slow_s)
                self.got.append(whom)
                if whom == self.knows_all_after:
                    Mails.unknown = set()
                say("250 taken")
            elif word == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")


@contextmanager
def mail_server() -> Iterator[str]:
    """The address of `Mails`, without recipients."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mails) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"mailto://127.0.0.1:{server.server_address[1]}/?from=box@plant.org&mode=insecure"
        server.shutdown()


def test_who_has_a_message_does_not_hear_it_again_because_of_another_recipient(tmp_path: Path):
    Mails.unknown, Mails.got = {"left@plant.org"}, []
    with mail_server() as address:
        settings = PeopleSettings(
            f"{address}&to=ann@plant.org,left@plant.org,bob@plant.org", enabled=True, backoff=QUICK
        )
        with told_site(tmp_path, [settings]) as site:
            for _ in range(2):
                site.start()
            until(lambda: site.status("people")["set_aside"] == 2, 60)
            assert sorted(Mails.got) == ["ann@plant.org"] * 2 + ["bob@plant.org"] * 2
            assert "all recipients" in site.status("people")["last_error"]
            # While nobody takes it all wait.
            Mails.unknown = {"ann@plant.org", "bob@plant.org", "left@plant.org"}
            site.start()
            time.sleep(2.0)
            assert site.status("people")["pending"] == 1
            # Then it comes back, to one after the other: what failed for all of them does not count against the rest.
            Mails.got, Mails.knows_all_after = [], "bob@plant.org"
            Mails.unknown = {"ann@plant.org", "left@plant.org"}
            until(lambda: site.status("people")["sent"] == 1, 60)
            assert sorted(Mails.got) == ["ann@plant.org", "bob@plant.org", "left@plant.org"]
            assert site.status("people")["set_aside"] == 2


def test_who_has_a_summary_does_not_hear_it_again_though_more_comes_meanwhile(tmp_path: Path):
    """It told all that waited, which was another message at each try."""
    Mails.unknown, Mails.got = {"left@plant.org"}, []
    with mail_server() as address:
        settings = PeopleSettings(
            f"{address}&to=ann@plant.org,left@plant.org", enabled=True, most=1, backoff=Backoff(0.5, 0.5)
        )
        with told_site(tmp_path, [settings], running=False) as site:
            for _ in range(5):
                site.start()
            site.delivery.start()
            until(lambda: len(Mails.got) == 1)
            # More between any two tries.
            for number in range(600):
                if site.status("people")["set_aside"] >= 5:
                    break
                site.start("top")
                flap(site, "press", bool(number % 2))
                time.sleep(0.1)
            assert site.status("people")["set_aside"] >= 5
            # Of events and of health, once each.
            assert len(Mails.got) <= 2


def test_who_has_a_summary_does_not_hear_it_again_where_another_recipient_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("anomaly.edge.notify.service._LONGEST_S", 0.5)

    def hang(content: dict) -> int:
        time.sleep(1.0)
        return 500

    with Receiver() as ann, Receiver() as bob:
        bob.answer = hang
        both = f"json://127.0.0.1:{ann.port}/,json://127.0.0.1:{bob.port}/"
        settings = PeopleSettings(both, enabled=True, most=1, backoff=QUICK)
        with told_site(tmp_path, [settings], running=False) as site:
            for _ in range(4):
                site.start()
            site.delivery.start()
            for _ in range(200):
                if site.status("people")["set_aside"]:
                    break
                site.start()
                time.sleep(0.1)
            assert site.status("people")["set_aside"] == 4
        assert len(ann.requests) == 1


def test_many_recipients_of_a_slow_service_hear_each_message_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """All of them together may take longer than one that hangs."""
    monkeypatch.setattr("anomaly.edge.notify.service._LONGEST_S", 1.0)
    monkeypatch.setattr(Mails, "slow_s", 0.5)
    Mails.unknown, Mails.got = set(), []
    everybody = [f"{name}@plant.org" for name in ("ann", "bob", "cem", "dee", "eva", "fay")]
    with mail_server() as address:
        settings = PeopleSettings(f"{address}&to={','.join(everybody)}", enabled=True, backoff=QUICK)
        with told_site(tmp_path, [settings]) as site:
            site.start()
            until(lambda: site.status("people")["sent"] == 1, 30)
            time.sleep(1.0)
            assert sorted(Mails.got) == everybody


def test_after_an_outage_nothing_is_set_aside(tmp_path: Path):
    with Receiver() as receiver:
        receiver.answer = lambda content: 500 if len(receiver.requests) < 9 else 200
        with told_site(tmp_path, [people(receiver, most=50)]) as site:
            for number in range(3):
                site.start(f"cam {number}")
            until(lambda: site.status("people")["sent"] == 3)
            assert site.status("people")["set_aside"] == 0


def test_a_restart_opens_no_new_window(tmp_path: Path):
    with Receiver() as receiver:
        settings = people(receiver, most=1, window_s=60.0)
        with told_site(tmp_path, [settings]) as site:
            site.start()
            until(lambda: site.status("people")["sent"] == 1)
        with told_site(tmp_path, [settings]) as site:
            site.start()
            time.sleep(0.5)
            assert len(receiver.requests) == 1
            assert site.status("people")["pending"] == 1


@pytest.mark.parametrize("pictures", [False, True])
def test_pictures_leave_with_a_second_consent_only(tmp_path: Path, pictures: bool):
    picture = tmp_path / "picture of it.jpg"
    asked = time.monotonic()

    def find(event_id: str) -> Path | None:
        # Drawn a moment after the event.
        if time.monotonic() - asked < 0.3:
            return None
        picture.write_bytes(b"\xff\xd8 a picture")
        return picture

    with Receiver() as receiver:
        settings = people(receiver, pictures=pictures)
        with told_site(tmp_path / "site", [settings], picture=find) as site:
            site.start()
            until(receiver.requests.__len__)
        (told,) = receiver.contents()
    sent = [base64.b64decode(one["base64"]) for one in told["attachments"]]
    assert sent == ([b"\xff\xd8 a picture"] if pictures else [])


def test_a_service_that_fails_is_asked_again_and_its_address_is_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("DEBUG")
    with Receiver() as receiver:
        receiver.answer = lambda content: 500 if len(receiver.requests) < 3 else 200
        monkeypatch.setenv("CHAT", f"json://user:canary-password@127.0.0.1:{receiver.port}/canary-token")
        settings = PeopleSettings("${env:CHAT}", enabled=True, backoff=QUICK)
        with told_site(tmp_path, [settings]) as site:
            site.start()
            until(lambda: site.status("people")["sent"] == 1)
            monkeypatch.setenv("CHAT", "nonsense://canary")
            site.start()
            until(lambda: "cannot read the address" in site.status("people")["last_error"])
            shown = repr(settings) + repr(site.delivery.status()) + caplog.text
        assert "canary" not in shown


def test_words_of_every_kind():
    origin = Origin("plant", "line")
    for over, title in ((False, "plant · line · top: frozen"), (True, "plant · line · top: frozen is over")):
        message = health_message(
            origin, "top", "running", "frozen", {}, over=over, utc_s=0.0, clock_offset_s=None
        )
        assert words(json.loads(message.body))[0] == title
    for offset_s, told in (
        (None, "its offset is not known"),
        (0.0125, "off by +0.013 s"),
        (-2.0, "off by -2.000 s"),
    ):
        message = health_message(
            origin, "top", "stopped", "frozen", {}, over=False, utc_s=0.0, clock_offset_s=offset_s
        )
        last = words(json.loads(message.body))[1].splitlines()[-1]
        assert last == f"Told 1970-01-01T00:00:00.000Z by this machine's clock ({told}), camera stopped."
    summary = summary_message(origin, "flood", {"top": 7}, 0.0, 1.0, utc_s=2.0, clock_offset_s=None)
    assert "Told 1970-01-01T00:00:02.000Z" in words(json.loads(summary.body))[1]
