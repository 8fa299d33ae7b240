"""A real RTSP server for tests: GStreamer's, as a child under the system's Python, on a free port of this machine.

    with RtspServer(codec="h264", size=(640, 360), fps=10, keyframe_every=10, b_frames=0, password=None) as server:
        server.url

Frames carry their number in their pixels (`number_in`). It can be killed, paused, restarted and resized.
"""

from __future__ import annotations

import json
import select
import signal
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

SYSTEM_PYTHON = "/usr/bin/python3"
APT = (
    "apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base "
    "gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
)
_SCRIPT = Path(__file__).with_name("rtsp_script.py")
_BITS = 16


class RtspServer:
    """One stream at `url`; all clients see the same frames.

    Args:
        codec: "h264", "h265" or "mjpeg".
        size: (width, height).
        fps: whole frames a second.
        keyframe_every: frames from keyframe to keyframe.
        b_frames: frames between two that others refer to (h264 only).
        slices: slices of a picture (h264 only).
        password: the server asks for it, by the user `user`; None asks for nothing.
        audio: a sound track beside the pictures.
        rtp_start: first RTP timestamp (32 bits, 90 kHz); a random one by default.
    """

    def __init__(
        self,
        *,
        codec: str = "h264",
        size: tuple[int, int] = (640, 360),
        fps: int = 10,
        keyframe_every: int = 10,
        b_frames: int = 0,
        slices: int = 1,
        user: str = "user",
        password: str | None = None,
        audio: bool = False,
        rtp_start: int | None = None,
        port: int = 0,
    ) -> None:
        _skip_where_absent()
        self.options: dict[str, Any] = {
            "codec": codec,
            "size": size,
            "fps": fps,
            "keyframe_every": keyframe_every,
            "b_frames": b_frames,
            "slices": slices,
            "user": user,
            "password": password,
            "audio": audio,
            "rtp_start": rtp_start,
            "port": port,
        }
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> RtspServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def port(self) -> int:
        """Where it listens; the same after a restart."""
        return int(self.options["port"])

    @property
    def url(self) -> str:
        """Address without user and password."""
        return f"rtsp://127.0.0.1:{self.port}/live"

    @property
    def url_with_password(self) -> str:
        """Address with user and password in it."""
        return f"rtsp://{self.options['user']}:{self.options['password']}@127.0.0.1:{self.port}/live"

    def start(self, **changes: Any) -> None:
        """Start, at the same port as before if there was one; `changes` are options of the constructor."""
        assert self._process is None, "it runs already"
        self.options.update(changes)
        process = subprocess.Popen(
            [SYSTEM_PYTHON, str(_SCRIPT), json.dumps(self.options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._process = process
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 20)
        line = process.stdout.readline() if ready else ""
        if not line.startswith("port "):
            self.kill()
            raise RuntimeError("the RTSP server did not start; run tests/rtsp_script.py by hand to see why")
        self.options["port"] = int(line.split()[1])

    def stop(self) -> None:
        """End it as an operator would (clients see the connection close)."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; a paused one too."""
        self._end(signal.SIGKILL)

    def restart(self, **changes: Any) -> None:
        """Kill and start again, with other options where given."""
        self.kill()
        self.start(**changes)

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing comes."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def change_size(self, width: int, height: int) -> None:
        """Send another size from the next frame on, in the same connection."""
        self._tell(f"size {width} {height}")
        self.options["size"] = (width, height)

    def show_noise(self, on: bool = True) -> None:
        """Noise in place of the texture; the number stays."""
        self._tell(f"noise {int(on)}")

    def show_black(self, on: bool = True) -> None:
        """Nothing but black; no number."""
        self._tell(f"black {int(on)}")

    def _tell(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _end(self, how: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.wait(10)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def number_in(image: NDArray[np.uint8]) -> int:
    """The number that a frame of the server carries, 0 to 65535: 16 blocks in the upper quarter, lowest bit first."""
    height, width = image.shape[:2]
    block = width // _BITS
    band = image[height // 32 : height // 4 - height // 32].mean(axis=(0, 2))
    margin = block // 4
    return sum(
        1 << bit
        for bit in range(_BITS)
        if band[bit * block + margin : (bit + 1) * block - margin].mean() > 128
    )


@lru_cache
def _missing() -> bool:
    code = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer, Gst; "
    code += (
        "Gst.init(None); assert all(Gst.ElementFactory.find(n) for n in ('x264enc', 'x265enc', 'jpegenc'))"
    )
    try:
        return subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True, timeout=60).returncode != 0
    except OSError:
        return True


def _skip_where_absent() -> None:
    if _missing():
        pytest.skip(f"no GStreamer RTSP server on this machine; {APT}")
