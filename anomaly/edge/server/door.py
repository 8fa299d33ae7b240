"""All that a request needs: the runner, the store, and who may come in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from starlette.requests import HTTPConnection

from anomaly.edge import audit
from anomaly.edge.audit import Audit
from anomaly.edge.server import accounts, sessions
from anomaly.edge.server.accounts import Accounts
from anomaly.edge.server.attempts import Attempts
from anomaly.edge.server.live import Broadcast
from anomaly.edge.server.sessions import Sessions
from anomaly.edge.vault import ACCOUNTS, Vault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anomaly.edge.server.live import Runner
    from anomaly.edge.server.settings import ServeSettings
    from anomaly.edge.store import Store


class Sinks(Protocol):
    """What the server needs of the sinks; `anomaly.edge.notify.Delivery` is one."""

    def status(self) -> dict[str, dict[str, Any]]:
        """How each sink stands, plain values."""

    def send_again(self, sink: str) -> int:
        """Put what a receiver refused back into the queue; how many. KeyError where there is no such sink."""


@dataclass(frozen=True, eq=False)
class Controls:
    """What an engineer may set going besides the runner.

    Attributes:
        sinks: None = nobody is told of anything.
        reload: load all models anew; returns at once.
        models: gives the folders of the models that look at the cameras.
    """

    sinks: Sinks | None = None
    reload: Callable[[], None] = lambda: None
    models: Callable[[], Sequence[Path]] = lambda: ()


@dataclass(frozen=True, eq=False)
class Door:
    """What stands behind the routes; one a server.

    `taken`: when the audit was last told that a program takes live pictures, by who, address and camera (monotonic).
    """

    runner: Runner
    store: Store
    settings: ServeSettings
    vault: Vault
    accounts: Accounts
    sessions: Sessions
    audit: Audit
    attempts: Attempts
    broadcast: Broadcast
    controls: Controls
    taken: dict[tuple[str, str, str], float] = field(default_factory=dict)

    @property
    def setup(self) -> str:
        """The command that makes the first account; told to who is not signed in, so it names no path."""
        return "python -m anomaly users add NAME --role admin --store FOLDER"

    def cameras(self) -> list[str]:
        """Names of the cameras there are now."""
        return list(self.runner.status()["cameras"])


def open_vault(folder: Path) -> Vault:
    """The accounts' database of a store's folder, with all of its tables.

    Raises:
        StoreError: it cannot be opened or is damaged.
    """
    return Vault(folder / ACCOUNTS, (accounts.SCHEMA, sessions.SCHEMA, audit.SCHEMA))


def open_door(runner: Runner, store: Store, settings: ServeSettings, controls: Controls) -> Door:
    """Everything behind the routes, opened."""
    vault = open_vault(store.folder)
    return Door(
        runner=runner,
        store=store,
        settings=settings,
        vault=vault,
        accounts=Accounts(vault),
        sessions=Sessions(vault, idle_s=settings.idle_s, absolute_s=settings.absolute_s),
        audit=Audit(vault),
        attempts=Attempts(),
        broadcast=Broadcast(runner, settings),
        controls=controls,
    )


def door_of(connection: HTTPConnection) -> Door:
    """The door that a request came through."""
    return cast("Door", connection.app.state.door)
