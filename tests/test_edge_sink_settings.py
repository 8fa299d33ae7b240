"""Sinks as a site file names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomaly.edge.notify import Bounds, MqttSettings, PeopleSettings, Tls, WebhookSettings
from anomaly.edge.notify.site_file import sinks_of
from anomaly.edge.secrets import resolve
from anomaly.errors import UsageError


def test_a_site_s_sinks_are_read():
    made = sinks_of(
        {
            "mqtt": {
                "host": "broker.plant",
                "protocol": 5,
                "heartbeat_s": 5,
                "tls": {"ca": "/etc/ca.pem"},
                "bounds": {"max_age_s": 60},
                "kinds": ["start", "end"],
            },
            "webhooks": [
                {"name": "mes", "url": "https://mes.plant/", "secrets": ["${env:KEY}"]},
                {
                    "name": "scada",
                    "url": "https://scada.plant/",
                    "secrets": ["${env:KEY}"],
                    "heartbeat_s": None,
                },
            ],
            "people": {"address": "${env:MAIL}", "enabled": True},
        }
    )
    assert made == [
        MqttSettings(
            "broker.plant",
            heartbeat_s=5,
            tls=Tls(Path("/etc/ca.pem")),
            bounds=Bounds(max_age_s=60),
            kinds=("start", "end"),
        ),
        WebhookSettings("https://mes.plant/", ("${env:KEY}",), name="mes"),
        WebhookSettings("https://scada.plant/", ("${env:KEY}",), name="scada"),
        PeopleSettings("${env:MAIL}", enabled=True),
    ]
    assert sinks_of({}) == []


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"mail": {}}, "sinks.mail is not known"),
        ({"mqtt": "broker"}, "no mapping"),
        ({"mqtt": {}}, "sinks.mqtt lacks host"),
        ({"mqtt": {"host": "b", "hots": 1}}, "sinks.mqtt.hots is not known"),
        ({"mqtt": {"host": "b", "port": "1883"}}, "sinks.mqtt.port is not a whole number"),
        ({"mqtt": {"host": "b", "port": True}}, "sinks.mqtt.port is not a whole number"),
        ({"mqtt": {"host": "b", "tls": {"cafile": "x"}}}, "sinks.mqtt.tls.cafile is not known"),
        ({"mqtt": {"host": "b", "kinds": "start"}}, "no list of texts"),
        ({"mqtt": {"host": "b", "kinds": ["begin"]}}, "'begin' is not known"),
        ({"webhooks": [{"url": "u", "secrets": ["s"]}, {"url": "u"}]}, r"sinks.webhooks\[1\] lacks secrets"),
        ({"people": {"address": "a", "enabled": "yes"}}, "true or false"),
    ],
)
def test_what_cannot_be_meant_is_named(given: dict, named: str):
    with pytest.raises(UsageError, match=named):
        sinks_of(given)


def test_secrets_are_filled_in_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ONE", "first")
    (tmp_path / "two").write_text("second\n")
    assert resolve(f"a ${{env:ONE}} b ${{file:{tmp_path}/two}} c") == "a first b second c"
    # What a secret holds is not looked at again.
    monkeypatch.setenv("ONE", "${env:TWO}")
    assert resolve("${env:ONE}") == "${env:TWO}"
    monkeypatch.delenv("ONE")
    with pytest.raises(UsageError, match="ONE"):
        resolve("${env:ONE}")
    with pytest.raises(UsageError, match="nothing here"):
        resolve(f"${{file:{tmp_path}/nothing here}}")
