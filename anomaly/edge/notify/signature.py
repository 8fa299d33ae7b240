"""How a webhook's receiver knows that a message is ours, whole, and of now: HMAC-SHA256 over id, time and body.

The headers are those of the Standard Webhooks specification (https://www.standardwebhooks.com), for which there are
libraries in most languages: `webhook-id`, `webhook-timestamp` (POSIX seconds), `webhook-signature` (`v1,<base64>`,
several with spaces between while a key is being replaced).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence

from anomaly.errors import AnomalyError, UsageError

#: A receiver should not take messages that are older: who records one cannot send it again for ever.
TOLERANCE_S = 300.0
_PREFIX = "whsec_"
_SHORTEST_KEY = 16


def key_of(secret: str) -> bytes:
    """The key that a secret stands for: base64 after `whsec_`, else its bytes; raises UsageError for a short one."""
    try:
        key = (
            base64.b64decode(secret[len(_PREFIX) :], validate=True)
            if secret.startswith(_PREFIX)
            else secret.encode()
        )
    except (binascii.Error, ValueError):
        raise UsageError(
            "a webhook secret begins with whsec_ but is not base64 after it; make a new one"
        ) from None
    if len(key) < _SHORTEST_KEY:
        raise UsageError(
            f"a webhook secret has {len(key)} bytes; give {_SHORTEST_KEY} or more, such as `openssl rand -hex 32` prints"
        )
    return key


def sign(keys: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The headers of a message."""
    signatures = [
        f"v1,{base64.b64encode(_digest(key, message_id, timestamp_s, body)).decode()}" for key in keys
    ]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(signatures),
    }


def verify(headers: Mapping[str, str], body: bytes, key: bytes, *, now_s: float) -> str:
    """What a receiver does; a double for tests, and an example.

    Args:
        headers: names in lower case.

    Returns:
        The message's id.

    Raises:
        AnomalyError: not signed with this key, changed, or not of now.
    """
    message_id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not stamp.isdigit() or abs(now_s - int(stamp)) > TOLERANCE_S:
        raise AnomalyError(f"webhook-timestamp={stamp!r} is not of now; compare the clocks")
    expected = _digest(key, message_id, int(stamp), body)
    for one in headers.get("webhook-signature", "").split(" "):
        version, _, text = one.partition(",")
        if version == "v1" and hmac.compare_digest(base64.b64encode(expected).decode(), text):
            return message_id
    raise AnomalyError("webhook-signature does not fit id, time and body; compare the keys")


def _digest(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> bytes:
    return hmac.digest(key, f"{message_id}.{timestamp_s}.".encode() + body, hashlib.sha256)
