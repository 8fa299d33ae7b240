"""The services behind an address of people, through Apprise: one message at a time, to each recipient once."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anomaly.edge.secrets import resolve
from anomaly.errors import AnomalyError

#: An exchange with a service takes no longer for a recipient; one that hangs is left alone, and so many of them at most.
_LONGEST_S = 60.0
_MOST_HANGING = 3
_LOOK_S = 0.25
_GRACE_S = 3.0
#: Of so many messages it is known who has them already.
_MOST_KEPT = 8


class PartlyTakenError(OSError):
    """Some of an address's recipients have the message, and others do not take it."""


class _Exchange(threading.Thread):
    """One message to a service. Its time-outs start anew with each byte that comes, hence a thread that can be left.

    Attributes:
        ids: of the messages.
        taken: whether the service took it; False before that.
    """

    def __init__(self, send: Callable[[], bool], ids: tuple[str, ...]) -> None:
        super().__init__(name="people", daemon=True)
        self.ids = ids
        self.taken = False
        self._send = send
        self._error: Exception | None = None

    def run(self) -> None:
        """Called by the thread."""
        try:
            self.taken = self._send()
        except Exception as error:
            self._error = error

    def outcome(self) -> bool:
        """Whether it was taken, once it is over; raises what sending raised."""
        if self._error is not None:
            raise self._error
        return self.taken


class Service:
    """One address.

    Args:
        name: of its sink, for errors.
        address: as Apprise writes it; may name secrets.
    """

    def __init__(self, name: str, address: str) -> None:
        self._name = name
        self._address = address
        #: Exchanges that took too long and may be going on still.
        self._left: list[_Exchange] = []
        #: Of messages that not all recipients took, by their ids: who has them, as places in the address.
        self._have: dict[tuple[str, ...], set[int]] = {}

    def tell(
        self,
        ids: tuple[str, ...],
        title: str,
        body: str,
        picture: Path | None,
        *,
        meanwhile: Callable[[], None],
        stopping: Callable[[], bool],
    ) -> None:
        """Send a message; returns once all recipients have it.

        Args:
            ids: of the messages that it tells; told again, it goes to those who have it not yet.
            title, body: text.
            picture: a file; None = none.
            meanwhile: called several times a second while the service answers.
            stopping: whether all is to end.

        Raises:
            PartlyTakenError: some recipients have it, others did not take it, or not in time.
            OSError: nobody took it, or there was no answer in time.
            AnomalyError: the address cannot be used.
        """
        late = [one for one in self._left if one.ids == ids and one.taken]
        self._left = [one for one in self._left if one.is_alive()]
        if late:
            # It was taken after all.
            return
        if len(self._left) >= _MOST_HANGING:
            raise OSError(f"the service has not ended {len(self._left)} exchanges; it hangs")
        have = self._have.setdefault(ids, set())
        exchange = _Exchange(lambda: self._send(title, body, picture, have), ids)
        exchange.start()
        until, known = time.monotonic() + _LONGEST_S, len(have)
        while exchange.is_alive() and time.monotonic() < until and not stopping():
            exchange.join(_LOOK_S)
            if len(have) > known:
                # One that goes on to the next of many recipients does not hang; left alone, the next try would tell them twice.
                until, known = time.monotonic() + _LONGEST_S, len(have)
            meanwhile()
        # One that is given up at the end is sent again by the next start: mostly it is about to be taken.
        exchange.join(_GRACE_S if stopping() else 0.0)
        if exchange.is_alive():
            self._left.append(exchange)
            kind = PartlyTakenError if have else OSError
            raise kind(f"the service did not answer within {_LONGEST_S:g} s")
        if exchange.outcome():
            del self._have[ids]
            return
        # Of others that are tried meanwhile it is kept too, of few.
        for oldest in list(self._have)[:-_MOST_KEPT]:
            del self._have[oldest]
        if have:
            raise PartlyTakenError("the service did not take the message for all recipients of the address")
        raise OSError("the service did not take the message")

    def _send(self, title: str, body: str, picture: Path | None, have: set[int]) -> bool:
        """Send to the recipients that are not in `have`, which those join who took it; whether all have it then."""
        try:
            import apprise
        except ImportError:
            raise AnomalyError(
                "messages to people need Apprise, which is not installed; pip install 'anomaly[live]'"
            ) from None
        # Their log lines hold addresses, and addresses hold passwords.
        for name in ("apprise", "requests", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        asset = apprise.AppriseAsset(app_id="anomaly", async_mode=False)
        address = apprise.Apprise(asset=asset)
        if not address.add(resolve(self._address)):
            raise AnomalyError(
                f"sinks.people.{self._name}: Apprise cannot read the address; see its list of services"
            )
        recipients = _recipients(address)
        for place, recipient in enumerate(recipients):
            if place in have:
                continue
            sender = apprise.Apprise(recipient, asset=asset)
            if sender.notify(
                body=body,
                title=title,
                notify_type=apprise.NotifyType.WARNING,
                body_format=apprise.NotifyFormat.TEXT,
                attach=None if picture is None else str(picture),
            ):
                have.add(place)
        return len(have) >= len(recipients)


def _recipients(address: Any) -> list[Any]:
    """Each recipient of an Apprise address by itself, as far as its services tell them apart (mail, most of SMS and chat).

    A service only says whether all of its recipients took a message.
    """
    found: list[Any] = []
    for service in address:
        targets = getattr(service, "targets", None)
        if isinstance(targets, list) and len(service) == len(targets) > 1:
            for target in targets:
                found.append(copy.copy(service))
                found[-1].targets = [target]
        else:
            found.append(service)
    return found
