"""`anomaly users`: who may sign in at the page and use the API; for whoever may sit at this machine's keyboard."""

from __future__ import annotations

import getpass
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from anomaly.commands import console
from anomaly.edge.audit import Audit
from anomaly.edge.server.accounts import ROLES, SCOPES, Accounts
from anomaly.edge.server.door import open_vault
from anomaly.edge.server.sessions import Sessions
from anomaly.edge.vault import ACCOUNTS
from anomaly.errors import UsageError

if TYPE_CHECKING:
    from anomaly.config import UsersConfig
    from anomaly.edge.vault import Vault

_ACTIONS = ("list", "add", "passwd", "role", "remove", "token", "revoke")


def run(config: UsersConfig) -> None:
    """Do what ACTION says; whoever can write the store's folder may."""
    if config.action not in _ACTIONS:
        raise UsageError(f"users {config.action!r} is not an action; choose {', '.join(_ACTIONS)}")
    folder = Path(config.store)
    # A mistyped folder must not look like one without accounts.
    if config.action != "add" and not (folder / ACCOUNTS).is_file():
        raise UsageError(
            f"{config.store} holds no accounts; `python -m anomaly users add NAME --role admin --store {config.store}` "
            "makes the first one, or give the folder that `run` writes to"
        )
    with closing(open_vault(folder)) as vault:
        _Users(config, vault).act()


class _Users:
    """One call of the command."""

    def __init__(self, config: UsersConfig, vault: Vault) -> None:
        self._config = config
        self._vault = vault
        self._accounts = Accounts(vault)
        self._audit = Audit(vault)
        # Only to end sessions: how long they last is the server's matter.
        self._sessions = Sessions(vault, idle_s=0, absolute_s=0)

    def act(self) -> None:
        """Do it, and write it to the audit: both, or neither."""
        getattr(self, f"_{self._config.action}")()

    def _list(self) -> None:
        table = Table(title=f"Accounts in {self._vault.path}", title_justify="left", box=None)
        for column in ("name", "role", "since"):
            table.add_column(column)
        for account in self._accounts.all():
            table.add_row(escape(account.name), account.role, _day(account.created_utc_s))
        console.show(table)
        tokens = self._accounts.tokens()
        if tokens:
            table = Table(title="Tokens", title_justify="left", box=None)
            for column in ("id", "of", "for", "role", "scopes", "until"):
                table.add_column(column, overflow="fold")
            for token in tokens:
                until = "no end" if token.expires_utc_s is None else _day(token.expires_utc_s)
                table.add_row(
                    token.id,
                    escape(token.owner),
                    escape(token.label),
                    token.role,
                    " ".join(token.scopes),
                    until,
                )
            console.show(table)

    def _add(self) -> None:
        role, password = self._role_given(), self._password()
        with self._vault.writing():
            account = self._accounts.add(self._name(), role, password)
            self._note("user added", account.name, role=role)
        console.say(f"{account.name} can sign in as {role}")

    def _passwd(self) -> None:
        # Asked for before the password is: a mistyped name should not cost typing it twice.
        if self._accounts.named(self._name()) is None:
            raise UsageError(f"user {self._name()!r} does not exist; `users list` shows those that do")
        password = self._password()
        with self._vault.writing():
            account = self._accounts.change(self._name(), password=password)
            self._sessions.end_all(account)
            self._note("password", account.name)
        console.say(f"{account.name} has a new password; all sessions of that account have ended")
        # Who resets a password that somebody else knew would take what they made with it for closed.
        kept = [token.id for token in self._accounts.tokens() if token.owner == account.name]
        if kept:
            console.say(
                f"Its tokens still open the API ({', '.join(kept)}); `users revoke ID` ends one, `users list` tells what each is for"
            )

    def _remove(self) -> None:
        with self._vault.writing():
            account = self._accounts.remove(self._name())
            self._note("user removed", account.name)
        console.say(f"{account.name} is removed, with all tokens and sessions")

    def _role(self) -> None:
        with self._vault.writing():
            account = self._accounts.change(self._name(), role=self._role_given())
            self._sessions.end_all(account)
            self._note("role", account.name, role=account.role)
        console.say(f"{account.name} is {account.role} now")

    def _token(self) -> None:
        config = self._config
        if config.label is None or not config.scopes:
            raise UsageError(
                f"users token needs --label (what it is for) and --scopes (of {', '.join(SCOPES)}); "
                "such as `users token NAME --role viewer --scopes metrics --label prometheus`"
            )
        with self._vault.writing():
            token, text = self._accounts.add_token(
                self._name(), config.label, self._role_given(), config.scopes, config.days
            )
            self._note(
                "token added",
                token.owner,
                id=token.id,
                label=token.label,
                role=token.role,
                scopes=list(token.scopes),
            )
        console.out.print(text, markup=False)
        console.say("this is shown only now; a program sends it as `Authorization: Bearer TOKEN`")

    def _revoke(self) -> None:
        if self._config.name is None:
            raise UsageError("users revoke needs a token's id; `users list` shows them")
        with self._vault.writing():
            token = self._accounts.remove_token(self._config.name)
            self._note("token removed", token.owner, id=token.id, label=token.label)
        console.say(f"token {token.id} of {token.owner} opens nothing any more")

    def _note(self, action: str, subject: str, **detail: object) -> None:
        self._audit.add(f"command line of {getpass.getuser()}", action, subject, detail=detail)

    def _name(self) -> str:
        if self._config.name is None:
            raise UsageError(f"users {self._config.action} needs a name; `users {self._config.action} NAME`")
        return self._config.name

    def _role_given(self) -> str:
        if self._config.role is None:
            raise UsageError(f"users {self._config.action} needs --role; choose one of {', '.join(ROLES)}")
        return self._config.role

    def _password(self) -> str:
        """From a file or the terminal, never from the command line, which others can see."""
        if self._config.password_file is not None:
            path = Path(self._config.password_file)
            return path.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask for the password; give --password-file FILE")
        password = getpass.getpass(f"password of {self._name()}: ")
        if getpass.getpass("once more: ") != password:
            raise UsageError("the two passwords differ; nothing was changed")
        return password


def _day(utc_s: float) -> str:
    return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%d")
