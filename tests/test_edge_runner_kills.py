"""`kill -9` of `anomaly run` on a live stream, at random moments: what was announced is stored, and its clip plays."""

from __future__ import annotations

import os
import random
import select
import time
from pathlib import Path

import av
import pytest
from rtsp_server import RtspServer
from small_model import SmallModel, start
from test_edge_runner import FPS, announced, until

from anomaly.edge.clips import ClipMaker
from anomaly.edge.store import Store

# Short events, and files that are finished often: a kill falls into every stage of both.
QUICK = (
    "run.metrics=null", "run.log=text", FPS, "keep.before_s=1", "keep.after_s=1", "keep.segment_s=2",
    "weights.offline=true",
)  # fmt: skip


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_what_was_announced_outlives_kills_of_the_runner(kills: int, small_model: SmallModel, tmp_path: Path):
    store, chance, seen = tmp_path / "store", random.Random(kills), set()
    with RtspServer(size=(160, 96), fps=5, keyframe_every=5, b_frames=0, slices=2) as server:
        for _ in range(kills):
            seen |= _killed(small_model, server, store, chance)
            _whole(store, seen)
    assert len(seen) >= kills


def _killed(small: SmallModel, server: RtspServer, store: Path, chance: random.Random) -> set[str]:
    """Run until some time after an alarm, then kill; what was announced meanwhile."""
    child = start(
        "run", "--model", small.folder, "--source", server.url, "--out", store, *QUICK, cwd=store.parent
    )
    assert child.stderr is not None
    log, kill_at, pipe = b"", float("inf"), child.stderr.fileno()
    deadline = time.monotonic() + 60
    while time.monotonic() < min(kill_at, deadline):
        if select.select([pipe], [], [], 0.02)[0]:
            log += os.read(pipe, 65536)
        if kill_at == float("inf") and b"ALARM" in log:
            kill_at = time.monotonic() + chance.uniform(0.0, 3.0)
    child.kill()
    child.wait(30)
    # The camera's process notices, closes what it wrote, and with it the last end of the pipe.
    while more := os.read(pipe, 65536):
        log += more
    for stream in (child.stdout, child.stderr):
        assert stream is not None
        stream.close()
    assert b"ALARM" in log, log
    # A line that was cut off by the kill announced nothing.
    return set(announced(log.rpartition(b"\n")[0].decode()))


def _whole(folder: Path, seen: set[str]) -> None:
    """Open the store as the next start does, and look at each clip."""
    with Store(folder) as store, ClipMaker(store, 1.0, 1.0, wait_s=0.5):
        events = {one.id: one for one in store.events(limit=10_000)}
        assert seen <= set(events)
        assert all(one.status in ("ended", "cut off") for one in events.values())
        until(lambda: not store.events(clip_state="pending"))
        for one in store.events(limit=10_000):
            assert one.clip_state == "ready", one
            with av.open(str(store.path(one.clip))) as clip:
                assert sum(1 for _ in clip.decode(video=0)) >= 1
