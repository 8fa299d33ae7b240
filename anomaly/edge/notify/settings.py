"""What can be set about sinks. Texts that hold secrets name them (`${env:NAME}`, `${file:/path}`); see `secrets`."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from anomaly.edge.notify.destination import parse_destination
from anomaly.edge.notify.message import Kind
from anomaly.errors import UsageError

DAY_S = 86400.0
_EVERYTHING: tuple[Kind, ...] = ("start", "update", "end", "summary", "health")


@dataclass(frozen=True)
class Bounds:
    """How much may wait for a sink.

    Attributes:
        max_age_s: a message that has waited so long, while the program ran, is given up on.
        max_bytes: of all messages that wait or were set aside; beyond it the oldest are given up on.
        late_s: a queue whose oldest message has waited longer does not drain: heartbeats stop.
    """

    max_age_s: float = 7 * DAY_S
    max_bytes: int = 64 * 1024 * 1024
    late_s: float = 60.0

    def __post_init__(self) -> None:
        _positive("max_age_s", self.max_age_s)
        _positive("max_bytes", self.max_bytes)
        _positive("late_s", self.late_s)


@dataclass(frozen=True)
class Backoff:
    """How long to wait after a failure: doubled each time, and spread so that many clients do not come at once."""

    first_s: float = 1.0
    longest_s: float = 60.0

    def __post_init__(self) -> None:
        _positive("first_s", self.first_s)
        if not self.first_s <= self.longest_s <= 3600:
            raise UsageError(f"longest_s={self.longest_s} is outside {self.first_s}..3600; give seconds")

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (1 or more)."""
        whole = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return whole * random.uniform(0.5, 1.0)


@dataclass(frozen=True)
class Tls:
    """Whom to trust, and who we are. Host names are always verified.

    Attributes:
        ca: PEM file of the authority; None = the machine's own list.
        certificate, key: PEM files of this client; None = it shows none.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class MqttSettings:
    """A broker.

    Attributes:
        host, port: where; port None = 8883 with TLS, else 1883.
        name: of the sink, unique.
        prefix: topics are `<prefix>/<site>/<line>/...`.
        client_id: stable, so that the broker knows us again and an old last will cannot follow us; "" = from the names.
        user, password: may name secrets.
        tls: None = in clear.
        cleartext: a password may travel in clear off this machine.
        protocol: "5", whose broker can refuse a message, or "3.1.1".
        commands: listen on `.../cameras/<camera>/state/set`. Who may publish there is the broker's to say.
        keepalive_s: the broker sends the last will after one and a half times this without a sign.
        heartbeat_s: seconds between heartbeats.
        ack_s: a message not acknowledged for so long means the connection is dead.
    """

    host: str
    port: int | None = None
    name: str = "mqtt"
    prefix: str = "anomaly"
    client_id: str = ""
    user: str = ""
    password: str = ""
    tls: Tls | None = None
    cleartext: bool = False
    protocol: Literal["5", "3.1.1"] = "5"
    commands: bool = False
    keepalive_s: int = 15
    heartbeat_s: float = 10.0
    ack_s: float = 20.0
    kinds: tuple[Kind, ...] = _EVERYTHING
    bounds: Bounds = field(default_factory=Bounds)
    backoff: Backoff = field(default_factory=lambda: Backoff(0.5, 10.0))

    def __post_init__(self) -> None:
        if not self.host or any(letter in self.host for letter in "/@ "):
            raise UsageError(f"sinks.mqtt.host={self.host!r} is no host name; give the name or address alone")
        if self.protocol not in ("5", "3.1.1"):
            raise UsageError(f"sinks.mqtt.protocol={self.protocol!r} is not known; give 5 or 3.1.1")
        if any(letter in self.prefix for letter in "+#\0") or not self.prefix.strip("/"):
            raise UsageError(f"sinks.mqtt.prefix={self.prefix!r} is no topic; leave out + and #")
        local = self.host in ("localhost", "127.0.0.1", "::1")
        if self.password and self.tls is None and not (local or self.cleartext):
            raise UsageError(
                f"sinks.mqtt.password would travel in clear to {self.host}; set sinks.mqtt.tls, "
                "or sinks.mqtt.cleartext=true on a network you trust"
            )
        _positive("sinks.mqtt.heartbeat_s", self.heartbeat_s)
        _positive("sinks.mqtt.keepalive_s", self.keepalive_s)
        _positive("sinks.mqtt.ack_s", self.ack_s)


@dataclass(frozen=True)
class WebhookSettings:
    """A receiver of HTTP POST.

    Attributes:
        url: http(s)://host[:port]/path; may name secrets (a token in the path), never user:password.
        secrets: keys of the signature; the first is today's, others are still accepted by receivers that lag.
        name: of the sink, unique.
        tls: authority and client certificate for https; None = the machine's own list.
        cleartext: messages may travel in clear (http://) off this machine; their signature does not hide them.
        timeout_s: of a whole exchange, seconds.
        heartbeat_s: seconds between heartbeats; None = none are sent.
    """

    url: str
    secrets: tuple[str, ...]
    name: str = "webhook"
    tls: Tls | None = None
    cleartext: bool = False
    timeout_s: float = 10.0
    heartbeat_s: float | None = None
    kinds: tuple[Kind, ...] = _EVERYTHING
    bounds: Bounds = field(default_factory=Bounds)
    backoff: Backoff = field(default_factory=lambda: Backoff(1.0, 300.0))

    def __post_init__(self) -> None:
        if not self.secrets:
            raise UsageError(
                "sinks.webhook.secrets is empty; give a key such as ${file:/etc/anomaly/webhook.key}, so that the "
                "receiver can tell our messages from anybody's"
            )
        # An address that is a secret is looked at when it is connected to.
        if "${" not in self.url and "://" in self.url:
            parse_destination(self.url, cleartext=self.cleartext)
        _positive("sinks.webhook.timeout_s", self.timeout_s)
        if self.heartbeat_s is not None:
            _positive("sinks.webhook.heartbeat_s", self.heartbeat_s)


@dataclass(frozen=True)
class PeopleSettings:
    """Mail, chat or SMS through one Apprise address; each address is a sink of its own.

    Attributes:
        address: as Apprise writes it (`mailto://...`); holds secrets, so name them.
        name: of the sink, unique.
        enabled: the first consent: what is told leaves the site, through other people's services.
        pictures: the second consent: pictures leave too.
        most, window_s: people get at most so many messages of events, and as many of health, in so many seconds; past
            that, one summary.
        picture_wait_s: how long a message waits for its picture.
    """

    address: str
    name: str = "people"
    enabled: bool = False
    pictures: bool = False
    most: int = 5
    window_s: float = 600.0
    picture_wait_s: float = 3.0
    kinds: tuple[Kind, ...] = ("start", "summary", "health")
    bounds: Bounds = field(default_factory=lambda: Bounds(max_age_s=DAY_S))
    backoff: Backoff = field(default_factory=lambda: Backoff(2.0, 300.0))

    def __post_init__(self) -> None:
        _positive("sinks.people.most", self.most)
        _positive("sinks.people.window_s", self.window_s)


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise UsageError(f"{name}={value} is not above 0; give a number above 0")
