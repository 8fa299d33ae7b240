"""Who may do what: named accounts with a role, and tokens for programs.

Passwords are kept as argon2id hashes. A token's secret is random and long, so a plain SHA-256 of it is as good
as a slow hash, and costs a request nothing; it is shown once and never kept.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from anomaly.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from sqlite3 import Row
    from typing import Any

    from anomaly.edge.vault import Vault

ROLES = ("viewer", "operator", "engineer", "admin")
SCOPES = ("live", "events", "review", "control", "metrics", "admin")
SHORTEST_PASSWORD = 10
_LONGEST_PASSWORD = 1000
_NAME = re.compile(r"[^\W_][\w.@-]{0,63}")

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    role TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'engineer', 'admin')),
    password TEXT NOT NULL,
    created_utc_s REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS tokens (
    id TEXT PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES accounts(id) ON DELETE CASCADE,
    label TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'engineer', 'admin')),
    scopes TEXT NOT NULL,
    secret_sha256 TEXT NOT NULL,
    created_utc_s REAL NOT NULL,
    expires_utc_s REAL
);
"""


@dataclass(frozen=True)
class Account:
    """A person: `name` as signed in with, `role` of ROLES."""

    id: int
    name: str
    role: str
    created_utc_s: float


@dataclass(frozen=True)
class Token:
    """What a program signs in with.

    Attributes:
        id: the part of the token that may be shown.
        owner: name of the account it belongs to and ends with.
        label: what it is for.
        role: at most this; never more than its owner has now.
        scopes: the areas (SCOPES) it may be used for.
        expires_utc_s: None = never.
    """

    id: str
    owner: str
    label: str
    role: str
    scopes: tuple[str, ...]
    created_utc_s: float
    expires_utc_s: float | None


def rank(role: str) -> int:
    """Place of a role: viewer 0, operator 1, engineer 2, admin 3."""
    return ROLES.index(role)


class Accounts:
    """Accounts and tokens of one installation.

    Args:
        vault: the open database; holds `SCHEMA`.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._hasher = PasswordHasher()
        # A hash takes 64 MiB and most of a core: one at a time, so that log-ins cannot starve the scoring.
        self._hashing = threading.Lock()
        self._nobody = self._hasher.hash(secrets.token_urlsafe())

    def count(self) -> int:
        """How many accounts there are; with none, nobody can sign in."""
        with self._vault.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM accounts").fetchone()[0])

    def all(self) -> list[Account]:
        """All accounts, by name."""
        with self._vault.reading() as connection:
            rows = connection.execute(f"SELECT {_ACCOUNT} FROM accounts ORDER BY name").fetchall()
        return [Account(*row) for row in rows]

    def named(self, name: str) -> Account | None:
        """The account of that name (upper and lower case are one), or None."""
        with self._vault.reading() as connection:
            row = connection.execute(f"SELECT {_ACCOUNT} FROM accounts WHERE name = ?", (name,)).fetchone()
        return None if row is None else Account(*row)

    def add(self, name: str, role: str, password: str) -> Account:
        """Make an account.

        Raises:
            UsageError: the name is taken or malformed, the role unknown, the password too short.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"user name {name!r} cannot be used; take letters, digits, and . _ @ -, 64 characters at most"
            )
        check_role(role)
        check_password(password, name)
        hashed = self._hash(password)
        with self._vault.writing() as connection:
            if self.named(name) is not None:
                raise UsageError(f"user {name!r} exists; `users passwd {name}` sets a new password")
            connection.execute(
                "INSERT INTO accounts (name, role, password, created_utc_s) VALUES (?, ?, ?, ?)",
                (name, role, hashed, time.time()),
            )
            return self._existing(name)

    def change(self, name: str, *, role: str | None = None, password: str | None = None) -> Account:
        """Give another role, a new password, or both: all of it or nothing. The last admin keeps their role.

        Raises:
            UsageError: no such account or role, no admin would be left, or the password is too short.
        """
        account = self._existing(name)
        if role is not None:
            check_role(role)
        hashed = None
        if password is not None:
            check_password(password, account.name)
            hashed = self._hash(password)
        with self._vault.writing() as connection:
            account = self._existing(name)
            if role is not None and role != "admin":
                self._keep_an_admin(account)
            connection.execute(
                "UPDATE accounts SET role = coalesce(?, role), password = coalesce(?, password) WHERE id = ?",
                (role, hashed, account.id),
            )
            return self._existing(name)

    def remove(self, name: str) -> Account:
        """Remove an account with its tokens; the last admin stays.

        Raises:
            UsageError: no such account, or no admin would be left.
        """
        with self._vault.writing() as connection:
            account = self._existing(name)
            self._keep_an_admin(account)
            connection.execute("DELETE FROM tokens WHERE account = ?", (account.id,))
            connection.execute("DELETE FROM accounts WHERE id = ?", (account.id,))
        return account

    def signed_in(self, name: str, password: str) -> Account | None:
        """The account if name and password belong together, else None; takes as long in either case."""
        with self._vault.reading() as connection:
            row = connection.execute(
                f"SELECT {_ACCOUNT}, password FROM accounts WHERE name = ?", (name,)
            ).fetchone()
        kept = self._nobody if row is None else str(row[4])
        if not self._verify(kept, password) or row is None:
            return None
        if self._hasher.check_needs_rehash(kept):
            hashed = self._hash(password)
            with self._vault.writing() as connection:
                connection.execute("UPDATE accounts SET password = ? WHERE id = ?", (hashed, row[0]))
        return Account(*row[:4])

    def add_token(
        self, owner: str, label: str, role: str, scopes: Sequence[str], days: float | None = None
    ) -> tuple[Token, str]:
        """Make a token.

        Args:
            owner: the account it belongs to.
            label: what it is for, shown in lists and in the audit.
            role: at most the owner's.
            scopes: areas of SCOPES.
            days: until it expires; None = never.

        Returns:
            The token, and the text to hand to the program; the text is kept nowhere.

        Raises:
            UsageError: an unknown owner, role or scope, or more than the owner may do.
        """
        check_role(role)
        unknown = sorted(set(scopes) - set(SCOPES))
        if unknown or not scopes:
            raise UsageError(
                f"scopes {list(scopes)} cannot be used; choose one or more of {', '.join(SCOPES)}"
            )
        if not label or len(label) > 100:
            raise UsageError(
                f"label {label[:100]!r} cannot be used; say in up to 100 characters what the token is for"
            )
        if days is not None and not 0 < days <= 3660:
            raise UsageError(f"{days} days cannot be used; give more than 0 and at most 3660, or none")
        identity, secret, now = secrets.token_hex(8), secrets.token_urlsafe(32), time.time()
        with self._vault.writing() as connection:
            account = self._existing(owner)
            if rank(role) > rank(account.role):
                raise UsageError(
                    f"role {role} is more than {account.name} has ({account.role}); give the token {account.role} or less"
                )
            connection.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    identity,
                    account.id,
                    label,
                    role,
                    " ".join(scope for scope in SCOPES if scope in scopes),
                    _sha256(secret),
                    now,
                    None if days is None else now + days * 86_400,
                ),
            )
        [token] = [one for one in self.tokens() if one.id == identity]
        return token, f"anomaly_{identity}_{secret}"

    def tokens(self) -> list[Token]:
        """All tokens, oldest first, expired ones too; without their secrets."""
        with self._vault.reading() as connection:
            rows = connection.execute(f"SELECT {_TOKEN} ORDER BY tokens.created_utc_s, tokens.id").fetchall()
        return [_token(row) for row in rows]

    def remove_token(self, identity: str) -> Token:
        """Remove a token.

        Raises:
            UsageError: there is none of that id.
        """
        with self._vault.writing() as connection:
            for token in self.tokens():
                if token.id == identity:
                    connection.execute("DELETE FROM tokens WHERE id = ?", (identity,))
                    return token
        raise UsageError(f"token {identity!r} does not exist; `users list` shows those that do")

    def bearer(self, text: str) -> tuple[Token, Account] | None:
        """The token and its owner for what a program sent, or None where it is not (or no longer) good."""
        prefix, _, rest = text.partition("_")
        identity, _, secret = rest.partition("_")
        if prefix != "anomaly" or not secret:
            return None
        with self._vault.reading() as connection:
            row = connection.execute(f"SELECT {_TOKEN} WHERE tokens.id = ?", (identity,)).fetchone()
            kept = connection.execute("SELECT secret_sha256 FROM tokens WHERE id = ?", (identity,)).fetchone()
        if row is None or kept is None or not hmac.compare_digest(str(kept[0]), _sha256(secret)):
            return None
        token = _token(row)
        if token.expires_utc_s is not None and token.expires_utc_s <= time.time():
            return None
        owner = self.named(token.owner)
        return None if owner is None else (token, owner)

    def _hash(self, password: str) -> str:
        with self._hashing:
            return self._hasher.hash(password)

    def _verify(self, kept: str, password: str) -> bool:
        # Longer ones were never accepted; hashing them would only cost time.
        if len(password) > _LONGEST_PASSWORD:
            return False
        try:
            with self._hashing:
                return self._hasher.verify(kept, password)
        except (VerificationError, InvalidHashError):
            return False

    def _existing(self, name: str) -> Account:
        account = self.named(name)
        if account is None:
            raise UsageError(f"user {name!r} does not exist; `users list` shows those that do")
        return account

    def _keep_an_admin(self, leaving: Account) -> None:
        if leaving.role == "admin" and sum(one.role == "admin" for one in self.all()) == 1:
            raise UsageError(f"{leaving.name} is the only admin; make another one first")


_ACCOUNT = "id, name, role, created_utc_s"
_TOKEN = (
    "tokens.id, accounts.name, tokens.label, tokens.role, tokens.scopes, tokens.created_utc_s, "
    "tokens.expires_utc_s FROM tokens JOIN accounts ON accounts.id = tokens.account"
)


def check_role(role: str) -> None:
    """Refuse (UsageError) what is no role."""
    if role not in ROLES:
        raise UsageError(f"role {role!r} is not known; choose {', '.join(ROLES[:-1])} or {ROLES[-1]}")


def check_password(password: str, name: str) -> None:
    """Refuse (UsageError) a password that is too short, too long, or the name itself."""
    if not SHORTEST_PASSWORD <= len(password) <= _LONGEST_PASSWORD:
        raise UsageError(
            f"the password has {len(password)} characters; take {SHORTEST_PASSWORD} to {_LONGEST_PASSWORD}"
        )
    if password.casefold() == name.casefold():
        raise UsageError("the password is the user's name; take another one")


def _token(row: Row | tuple[Any, ...]) -> Token:
    identity, owner, label, role, scopes, created, expires = row
    return Token(identity, owner, label, role, tuple(scopes.split()), created, expires)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
