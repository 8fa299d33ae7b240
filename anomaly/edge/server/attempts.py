"""How often a log-in may fail: few times an address, more an account, then a wait."""

from __future__ import annotations

import ipaddress
import threading
import time

from anomaly.edge.server.settings import plain_address

PER_ADDRESS = 10
PER_NAME = 40
WINDOW_S = 300.0
#: From where somebody signed in to an account within this, others' failures do not keep them out.
KNOWN_S = 30 * 86_400.0
_MOST_KEYS = 20_000
#: Of one account.
_MOST_KNOWN = 100


class Attempts:
    """Counts log-ins that have not succeeded, in memory.

    An account takes more failures than an address, so that one machine cannot lock an operator out; and from where
    its owner signed in lately only that address's own failures count, so that many cannot either.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[str, list[tuple[float, str]]] = {}
        # Of each account the networks it was signed in to from, and when; of each lock when it was last told.
        self._known: dict[str, dict[str, float]] = {}
        self._told: dict[str, float] = {}

    def take(self, address: str, name: str) -> float:
        """Ask for one attempt, before the password is looked at: many at once count as many.

        Returns:
            0.0 where it may go ahead (and is counted), else the seconds to wait.
        """
        now = time.monotonic()
        account = _account(name)
        with self._lock:
            self._forget(now)
            waits = self._waits(network(address), account, now)
            if waits:
                return max(waits.values())
            for key in (network(address), account):
                self._times.setdefault(key, []).append((now, account))
        return 0.0

    def is_news(self, address: str, name: str) -> bool:
        """Whether a refused attempt is to be told: the first one of a lock, however many follow."""
        now = time.monotonic()
        with self._lock:
            locks = self._waits(network(address), _account(name), now)
            news = [key for key in locks if now - self._told.get(key, -WINDOW_S) >= WINDOW_S]
            self._told.update(dict.fromkeys(news, now))
        return bool(news)

    def _waits(self, where: str, account: str, now: float) -> dict[str, float]:
        """What is locked, and for how many seconds."""
        limits = {where: PER_ADDRESS}
        if now - self._known.get(account, {}).get(where, -KNOWN_S) >= KNOWN_S:
            limits[account] = PER_NAME
        return {
            key: self._times[key][-limit][0] + WINDOW_S - now
            for key, limit in limits.items()
            if len(self._times.get(key, ())) >= limit
        }

    def forgive(self, address: str, name: str) -> None:
        """The attempt succeeded: it does not count, and neither do those from that address at the same account.

        Those at other accounts do: who has an account must not get more guesses at the others'.
        """
        account = _account(name)
        with self._lock:
            known = self._known.setdefault(account, {})
            known.pop(network(address), None)
            known[network(address)] = time.monotonic()
            for oldest in list(known)[:-_MOST_KNOWN]:
                del known[oldest]
            here = [one for one in self._times.pop(network(address), []) if one[1] != account]
            if here:
                self._times[network(address)] = here
            times = self._times.get(account)
            if times:
                times.pop()

    def _forget(self, now: float) -> None:
        for key in [key for key, times in self._times.items() if not times or times[-1][0] <= now - WINDOW_S]:
            del self._times[key]
        for times in self._times.values():
            while times[0][0] <= now - WINDOW_S:
                times.pop(0)
        for key in [key for key, told in self._told.items() if told <= now - WINDOW_S]:
            del self._told[key]
        # Many addresses at once are an attack: the oldest are dropped, the accounts' own counts hold it.
        for key in list(self._times)[: max(0, len(self._times) - _MOST_KEYS)]:
            del self._times[key]


def _account(name: str) -> str:
    return "name " + name.casefold()[:100]


def network(address: str) -> str:
    """An IPv4 address, or the /64 that one customer of IPv6 can choose freely from."""
    try:
        parsed = ipaddress.ip_address(plain_address(address))
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network(f"{address}/64", strict=False))
