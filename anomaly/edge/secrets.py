"""Secrets by reference: settings hold `${env:NAME}` or `${file:/path}`, never the secret itself.

The text is filled in at the moment of connecting and kept no longer, so that nothing that is logged, shown,
stored or raised can hold it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from anomaly.errors import UsageError

_REFERENCE = re.compile(r"\$\{(env|file):([^{}]+)\}")


def resolve(text: str) -> str:
    """A text with its references to secrets filled in.

    Args:
        text: may hold `${env:NAME}` and `${file:/path}`; a file's last line break does not count.

    Raises:
        UsageError: a variable is not set, a file cannot be read; names the reference, never a value.
    """
    return _REFERENCE.sub(_filled, text)


def named_secret(text: str, what: str, least: int) -> str:
    """A secret that a setting must name; written out, everybody who lists the processes would read it.

    Args:
        text: one reference.
        what: the setting, for the error.
        least: characters that it must have, so that it cannot be guessed.

    Raises:
        UsageError: it is written out, cannot be read, or is shorter.
    """
    if _REFERENCE.fullmatch(text) is None:
        raise UsageError(f"{what} is written out; name where it is kept, as ${{env:NAME}} or ${{file:/path}}")
    value = resolve(text)
    if len(value) < least:
        raise UsageError(f"{what} {text} has {len(value)} characters; take {least} or more, by chance")
    return value


def _filled(found: re.Match[str]) -> str:
    kind, name = found.groups()
    if kind == "env":
        value = os.environ.get(name)
        if value is None:
            raise UsageError(f"${{env:{name}}} is not set; set the variable {name} where the program starts")
        return value
    try:
        return Path(name).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(
            f"${{file:{name}}} cannot be read ({reason}); write the secret there, readable by this user"
        ) from None
