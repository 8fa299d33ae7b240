"""Who started the program: a word to systemd (`Type=notify`), and whether somebody starts it again when it ends."""

from __future__ import annotations

import contextlib
import os
import socket


def is_started_again() -> bool:
    """Whether a run that ends is begun anew: under systemd's unit, or in the image, which is run with `--restart`."""
    return bool(os.environ.get("NOTIFY_SOCKET") or os.environ.get("ANOMALY_STARTED_AGAIN"))


def tell(state: str) -> bool:
    """Send a state such as "READY=1" or "WATCHDOG=1"; False where nobody asked for it (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    # A leading @ stands for the zero byte of an abstract socket.
    name = "\0" + address[1:] if address.startswith("@") else address
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to,
    ):
        to.connect(name)
        to.send(state.encode())
        return True
    return False
