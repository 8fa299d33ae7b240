"""`sinks` of a site file: plain values, as YAML gives them, to settings. A word that means nothing is an error.

    sinks:
      mqtt: {host: broker.plant, user: line3, password: "${file:/etc/anomaly/mqtt}", tls: {ca: /etc/anomaly/ca.pem}}
      webhooks:
        - {name: mes, url: "https://mes.plant/anomaly", secrets: ["${file:/etc/anomaly/mes.key}"]}
      people:
        - {name: shift, address: "${env:SHIFT_MAIL}", enabled: true, pictures: false}

`mqtt`, `webhooks` and `people` each hold one mapping or a list of them; the keys are the fields of `MqttSettings`,
`WebhookSettings` and `PeopleSettings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from anomaly.edge.notify.message import Kind
from anomaly.edge.notify.settings import Backoff, Bounds, MqttSettings, PeopleSettings, Tls, WebhookSettings
from anomaly.errors import UsageError

_SINKS: Mapping[str, type[MqttSettings] | type[WebhookSettings] | type[PeopleSettings]] = {
    "mqtt": MqttSettings,
    "webhooks": WebhookSettings,
    "people": PeopleSettings,
}
_PARTS: Mapping[str, type[Tls] | type[Bounds] | type[Backoff]] = {
    "tls": Tls,
    "bounds": Bounds,
    "backoff": Backoff,
}
#: What a value must be, by how the field is declared.
_PLAIN: Mapping[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"),
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "Path": ((str, Path), "a path"),
}


def sinks_of(given: Mapping[str, Any]) -> list[MqttSettings | WebhookSettings | PeopleSettings]:
    """Settings of all sinks; raises UsageError that names the key."""
    made: list[MqttSettings | WebhookSettings | PeopleSettings] = []
    for kind, value in given.items():
        if kind not in _SINKS:
            raise UsageError(f"sinks.{kind} is not known; give {', '.join(_SINKS)}")
        entries = value if isinstance(value, list | tuple) else [value]
        for position, entry in enumerate(entries):
            where = f"sinks.{kind}" if len(entries) == 1 else f"sinks.{kind}[{position}]"
            made.append(_made(_SINKS[kind], entry, where))
    return made


def _made(settings: type[Any], given: Any, where: str) -> Any:
    if not isinstance(given, Mapping):
        raise UsageError(f"{where}={given!r} is no mapping; give its settings as `name: value`")
    declared = {field.name: str(field.type) for field in fields(settings)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in declared:
            raise UsageError(f"{where}.{name} is not known; give {', '.join(declared)}")
        values[name] = _value(name, declared[name], value, f"{where}.{name}")
    try:
        return settings(**values)
    except TypeError:
        missing = [
            name for name in ("host", "url", "secrets", "address") if name in declared and name not in values
        ]
        raise UsageError(f"{where} lacks {', '.join(missing)}; give it") from None


def _value(name: str, declared: str, value: Any, where: str) -> Any:
    if name in _PARTS:
        return None if value is None else _made(_PARTS[name], value, where)
    if name in ("secrets", "kinds"):
        # One text is not a list of its letters.
        if (
            not isinstance(value, Sequence)
            or isinstance(value, str)
            or not all(isinstance(one, str) for one in value)
        ):
            raise UsageError(f"{where} is no list of texts; give [...]")
        unknown = [one for one in value if name == "kinds" and one not in get_args(Kind)]
        if unknown:
            raise UsageError(
                f"{where}: {unknown[0]!r} is not known; give some of {', '.join(get_args(Kind))}"
            )
        return tuple(value)
    plain = declared.split(" | ")
    if value is None and "None" in plain:
        return None
    # `protocol` is declared by its values; YAML reads 5 as a number.
    types, words = _PLAIN.get(plain[0], ((str, int), "a text"))
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise UsageError(f"{where} is not {words}; give {words}")
    if plain[0] == "Path":
        return Path(str(value))
    return value if plain[0] in _PLAIN else str(value)
