from __future__ import annotations

from pathlib import Path

import pytest

from anomaly.edge.address import parse_address, redact
from anomaly.errors import SourceError


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("rtsp://camera/live", "rtsp", "rtsp://camera/live"),
        ("RTSPS://10.0.0.5:322/live", "rtsp", "rtsps://10.0.0.5:322/live"),
        ("rtsp://user:${env:CAM}@camera:554/live?channel=abc", "rtsp", "rtsp://camera:554/live?***"),
        ("rtsp://${file:/run/secrets/login}@camera/live", "rtsp", "rtsp://camera/live"),
        ("rtsp://${env:U}:${env:CAM}@camera/live", "rtsp", "rtsp://camera/live"),
        ("http://camera/video?user=u&password=${env:CAM}&size=1", "http", "http://camera/video?***"),
        (
            "rtsp://ip/user=u&password=${file:/run/CAM}&channel=1",
            "rtsp",
            "rtsp://ip/user=***&password=***&channel=1",
        ),
        ("rtsp://ip/user=u_password=${env:CAM}_channel=1.sdp", "rtsp", "rtsp://ip/user=***"),
        (
            "rtsp://ip/compass=north/keyframes?monkey=2&password=",
            "rtsp",
            "rtsp://ip/compass=north/keyframes?***",
        ),
        ("http://[fe80::1]:8080/video", "http", "http://[fe80::1]:8080/video"),
        ("rtsps://camera/live?a=b#unverified", "rtsp", "rtsps://camera/live?***"),
        ("https://camera/video#ca=/etc/ca.pem", "http", "https://camera/video"),
        ("/dev/video0", "v4l2", "/dev/video0"),
        ("v4l2:///dev/video12", "v4l2", "/dev/video12"),
        ("file:///data/a.mp4", "file", "/data/a.mp4"),
        ("clips/a b.mp4", "file", "clips/a b.mp4"),
        ("concat:a.mp4", "file", "concat:a.mp4"),
    ],
)
def test_what_may_be_opened(text: str, kind: str, shown: str):
    address = parse_address(text)
    assert (address.kind, address.shown) == (kind, shown)
    assert "CAM" not in repr(address)
    assert "abc" not in repr(address)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rtsp://",
        "rtsp://user@/live",
        "rtsp://camera/a\nb",
        "udp://239.0.0.1:1234",
        "rtmp://camera/live",
        "ftp://host/a.mp4",
        "concat://a|b",
        "tcp://host:80",
        "v4l2:///etc/passwd",
        "file://host/a.mp4",
        "http://-$(id)/x",
        "rtsp://user:${env:A@camera/live",
        "rtsp://camera/live#unverified",
        "https://camera/live#ca=relative.pem",
        "https://camera/live#nonsense",
    ],
)
def test_nothing_else_is_opened(text: str):
    with pytest.raises(SourceError) as caught:
        parse_address(text)
    assert "\n" not in str(caught.value)


def test_what_follows_the_number_sign_is_not_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAM", "a#b")
    plain = parse_address("https://u:${env:CAM}@camera/live?token=${env:CAM}")
    assert (plain.resolve(), plain.verified, plain.authority) == (
        "https://u:a%23b@camera/live?token=a#b",
        True,
        None,
    )
    trusting = parse_address("https://camera/live#ca=/etc/ca.pem")
    assert (trusting.resolve(), trusting.verified, trusting.authority) == (
        "https://camera/live",
        True,
        "/etc/ca.pem",
    )
    blind = parse_address("rtsps://camera/live#unverified")
    assert (blind.resolve(), blind.verified, blind.authority) == ("rtsps://camera/live", False, None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rtsp://admin:canary-7431@camera/live", r"write rtsp://user:\$\{env:NAME\}@camera/"),
        ("rtsp://${env:U}:canary-7431@camera/live", r"write rtsp://user:\$\{env:NAME\}@camera/"),
        ("rtsp://$u:canary-7431@camera/live", r"write rtsp://user:\$\{env:NAME\}@camera/"),
        ("rtsp://u:${env:P}canary-7431@camera/live", r"write rtsp://user:\$\{env:NAME\}@camera/"),
        ("http://camera/live?user=admin&password=canary-7431", r"after password=; .* write password=\$\{env:NAME\}"),
        ("http://camera/live?access_token=canary-7431", r"after token=;"),
        ("http://camera/live?PWD=canary-7431", r"after PWD=;"),
        ("http://camera/live?%70wd=canary-7431", r"after pwd=;"),
        ("rtsp://ip/user=admin&password=canary-7431&channel=1", r"after password=;"),
        ("rtsp://ip/user=admin_password=canary-7431_channel=1.sdp", r"after password=;"),
        ("rtsp://ip/live?password=${env:A}canary-7431", r"after password=;"),
    ],
)  # fmt: skip
def test_a_password_written_out_is_refused_without_being_repeated(text: str, told: str):
    with pytest.raises(SourceError, match=told) as caught:
        parse_address(text)
    assert "canary" not in str(caught.value)


def test_secrets_are_filled_in_and_encoded_where_they_have_signs_of_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CAM_PASSWORD", "p@ss/w:rd")
    (tmp_path / "key").write_text("key7\n")
    address = parse_address(f"rtsp://u:${{env:CAM_PASSWORD}}@camera/live?k=${{file:{tmp_path / 'key'}}}")
    assert address.resolve() == "rtsp://u:p%40ss%2Fw%3Ard@camera/live?k=key7"
    assert address.shown == "rtsp://camera/live?***"
    told = f"failed '{address.resolve()}' p@ss/w:rd p%40ss%2Fw%3Ard rtsp://x:y@other/z\nkey7"
    cleaned = redact(told, address)
    for secret in ("p@ss", "p%40", "key7", "x:y", "\n"):
        assert secret not in cleaned
    assert "rtsp://camera/live" in cleaned


def test_a_secret_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAM_PASSWORD", raising=False)
    with pytest.raises(SourceError, match="CAM_PASSWORD"):
        parse_address("rtsp://u:${env:CAM_PASSWORD}@camera/live").resolve()
