"""Names as levels of MQTT topics, and back."""

from __future__ import annotations

from urllib.parse import unquote


def topic_level(name: str) -> str:
    """A name as one level of a topic: `/ + # %` and control characters are percent-encoded; "" becomes "-"."""
    return (
        "".join(
            f"%{ord(letter):02X}" if letter in "/+#%" or ord(letter) < 0x20 or letter == "\x7f" else letter
            for letter in name
        )
        or "-"
    )


def from_topic_level(level: str) -> str:
    """The name that `topic_level` made this of."""
    return unquote(level)
