"""Live pictures over real sockets: every frame once, newest first, shared by all who watch, ended with the session."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import websockets
from server_case import Case, running

from anomaly.edge.server import camera_routes


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with running(tmp_path_factory.mktemp("live"), cameras=("cam", "wide", "dark"), live_fps=100) as one:
        yield one


def watch(case: Case, camera: str = "cam", role: str = "viewer", query: str = "", **settings: Any) -> Any:
    """A browser's WebSocket, signed in."""
    cookie = f"anomaly_session={case.signed_in(role).cookies['anomaly_session']}"
    return websockets.connect(
        f"{case.url.replace('http', 'ws', 1)}/api/cameras/{camera}/live{query}",
        origin=case.url,
        additional_headers={"Cookie": cookie},
        max_size=2**24,
        **settings,
    )


def parts(message: bytes) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Header, grid (h, w) uint8 and picture (H, W, 3) of a message."""
    length = int.from_bytes(message[:4], "big")
    header = json.loads(message[4 : 4 + length])
    height, width = header["grid"]
    grid = np.frombuffer(message, np.uint8, height * width, 4 + length).reshape(height, width)
    jpeg = message[4 + length + height * width :]
    assert len(jpeg) == header["jpeg_bytes"]
    return header, grid, cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def live_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("live ")]


def test_a_message_holds_the_picture_its_heat_and_its_score(case: Case):
    async def main() -> None:
        async with watch(case) as socket:
            for score in (1.2, 1.6):
                view = case.runner.show("cam", score)
                header, grid, picture = parts(await socket.recv())
                assert header["sequence"] == view.sequence
                assert (header["score"], header["threshold"], header["alarm"]) == (score, 1.5, score >= 1.5)
                assert header["utc_s"] == pytest.approx(view.utc_s)
                assert header["utc"].endswith("+00:00")
                assert header["size"] == [90, 160]
                assert picture.shape == (90, 160, 3)
                assert abs(int(picture[0, 0, 0]) - int(view.image[0, 0, 0])) <= 3
                assert header["grid_range"] == [1.0, 2.0]
                assert grid.shape == (9, 16)
                assert grid[4, 8] == 255
                assert np.delete(grid.ravel(), 4 * 16 + 8).max() == 0

    asyncio.run(main())


def test_a_wide_frame_and_a_fine_heatmap_are_sent_smaller(case: Case):
    view = case.runner.show("wide", size=(1080, 1920))
    object.__setattr__(view, "heatmap", np.full((1080, 1920), 1.5, np.float32))

    async def main() -> None:
        async with watch(case, "wide") as socket:
            header, grid, picture = parts(await socket.recv())
            assert picture.shape == (540, 960, 3)
            assert header["size"] == [1080, 1920]
            assert grid.shape == (54, 96)
            assert np.all(np.abs(grid.astype(int) - 128) <= 1)

    asyncio.run(main())


def test_many_watchers_cost_one_encoding(case: Case):
    until(lambda: not live_threads())

    async def main() -> None:
        async with asyncio.timeout(30), watching(case, 4) as watchers:
            asked = case.runner.asked
            for _ in range(20):
                sequence = case.runner.show("cam").sequence
                for socket in watchers:
                    assert parts(await socket.recv())[0]["sequence"] == sequence
            # One thread waits for all of them: a few calls a frame, not one a frame and watcher.
            assert case.runner.asked - asked < 60
            assert live_threads() == ["live cam"]

    asyncio.run(main())
    until(lambda: not live_threads())


def test_a_slow_watcher_misses_frames_and_holds_nobody_up(case: Case):
    noise = np.random.default_rng(0).integers(0, 256, (540, 960, 3), np.uint8)

    async def main() -> None:
        async with asyncio.timeout(60), watch(case, "wide") as quick:
            slow = await watch(case, "wide", max_queue=1)
            shown = []
            for _ in range(40):
                view = case.runner.show("wide")
                object.__setattr__(view, "image", noise)
                shown.append(view.sequence)
                while parts(await quick.recv())[0]["sequence"] < view.sequence:
                    pass
            seen = []
            while not seen or seen[-1] < shown[-1]:
                seen.append(parts(await slow.recv())[0]["sequence"])
            assert seen == sorted(set(seen))
            assert len(seen) < len(shown)
            await slow.close()

    asyncio.run(main())


def test_a_paced_watcher_gets_the_newest_frame_once_it_has_answered(case: Case):
    """However much the way to it takes: what queues up on a slow link is old when it arrives."""

    async def main() -> None:
        case.runner.show("cam")
        async with asyncio.timeout(30), watch(case, query="?paced=true") as paced, watch(case) as other:
            for answer in ("", b"", "more"):
                await paced.recv()
                for _ in range(5):
                    last = case.runner.show("cam").sequence
                    while parts(await other.recv())[0]["sequence"] < last:
                        pass
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(paced.recv(), 0.3)
                await paced.send(answer)
                assert parts(await paced.recv())[0]["sequence"] == last
                await paced.send("")
                case.runner.show("cam")

    asyncio.run(main())


def test_a_paced_watcher_that_does_not_answer_leaves_with_its_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(camera_routes, "_RECHECK_S", 0.05)
    monkeypatch.setattr(camera_routes, "WAKE_S", 0.1)
    with running(tmp_path) as case:

        async def main() -> None:
            case.runner.show("cam")
            async with asyncio.timeout(30), watch(case, query="?paced=true") as socket:
                await socket.recv()
                case.server.door.sessions.end_all(case.server.door.accounts.named(case.account("viewer")))
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await socket.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 4401

        asyncio.run(main())


@asynccontextmanager
async def watching(case: Case, count: int) -> Any:
    case.runner.show("cam")
    sockets = [await watch(case) for _ in range(count)]
    try:
        for socket in sockets:
            await socket.recv()
        yield sockets
    finally:
        for socket in sockets:
            await socket.close()


def test_motion_jpeg_for_other_programs(case: Case):
    program = case.token("viewer", "live")
    pictures = {}
    for view in ("picture", "overlay", "heatmap"):
        case.runner.show("cam")
        with program.stream("GET", f"/api/cameras/cam/live.mjpeg?view={view}") as answer:
            kind = answer.headers["content-type"]
            assert kind == "multipart/x-mixed-replace; boundary=frame"
            assert answer.headers["x-accel-buffering"] == "no"
            chunks = answer.iter_raw()
            first = next(chunks)
            case.runner.show("cam")
            second = next(chunks)
        head, _, body = first.partition(b"\r\n\r\n")
        assert head.startswith(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: ")
        assert view == "heatmap" or first != second
        pictures[view] = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert pictures["heatmap"][5, 5].max() <= 8
    hot = pictures["heatmap"][45, 85].astype(int)
    assert hot.max() > 100
    assert np.abs(pictures["overlay"][45, 85].astype(int) - pictures["picture"][45, 85]).max() > 20
    until(lambda: not live_threads())


def test_little_motion_jpeg_is_on_its_way_to_who_takes_it_slowly(case: Case):
    """What the system would keep for a slow link (megabytes) is old when it arrives."""
    token = case.token("viewer", "live").headers["Authorization"]
    noise = np.random.default_rng(0)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        slow.connect(("127.0.0.1", int(case.url.rpartition(":")[2])))
        slow.settimeout(20)
        slow.sendall(
            f"GET /api/cameras/cam/live.mjpeg?view=picture HTTP/1.1\r\nHost: {case.url.rpartition('/')[2]}\r\n"
            f"Authorization: {token}\r\n\r\n".encode()
        )
        for _ in range(60):
            case.runner.show("cam", image=noise.integers(0, 255, (360, 640, 3), np.uint8))
            slow.recv(4096)
            time.sleep(0.05)
        case.runner.show("cam", image=np.zeros((360, 640, 3), np.uint8))
        taken = b""
        # The black one has few bytes.
        while not re.search(rb"Content-Length: \d{1,4}\r\n", taken):
            taken += slow.recv(65_536)
    assert len(taken) < 1_000_000
    until(lambda: not live_threads())


def test_what_is_above_the_threshold_has_a_line_around_it(case: Case):
    """Dark and light, as on the live page: the colours alone do not tell it."""
    program = case.token("viewer", "live")
    case.runner.show("cam", image=np.full((360, 640, 3), 120, np.uint8))
    across = {}
    for view in ("picture", "overlay"):
        answer = program.get("/api/cameras/cam/live.jpg", params={"view": view})
        across[view] = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)[180, 250:430]
    assert across["overlay"].max(axis=1).min() < 60
    assert across["overlay"].min(axis=1).max() > 190
    assert np.abs(across["picture"].astype(int) - 120).max() < 10


def test_one_picture(case: Case):
    viewer = case.signed_in("viewer")
    case.runner.show("cam")
    answer = viewer.get("/api/cameras/cam/live.jpg", params={"view": "picture"})
    assert answer.headers["content-type"] == "image/jpeg"
    assert cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR).shape == (90, 160, 3)
    # Shown on the page it stays here; what a program takes is told, not for each picture.
    audit, program = case.server.door.audit, case.token("operator", "live")
    before = len(audit.lines(action="export"))
    for _ in range(3):
        assert program.get("/api/cameras/cam/live.jpg").status_code == 200
    [line, *others] = audit.lines(action="export")
    assert (line.subject, line.detail, len(others)) == ("cam", {"what": "live"}, before)
    assert viewer.get("/api/cameras/dark/live.jpg").status_code == 404
    assert viewer.get("/api/cameras/none/live.jpg").status_code == 404


@pytest.mark.parametrize("camera", ["none", "%2e%2e"])
def test_a_camera_that_is_not_there(case: Case, camera: str):
    async def main() -> int:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await watch(case, camera)
        return refused.value.response.status_code

    assert asyncio.run(main()) == 404


def test_without_a_session_no_stream(case: Case):
    async def main() -> int:
        url = f"{case.url.replace('http', 'ws', 1)}/api/cameras/cam/live"
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url, origin=case.url)
        return refused.value.response.status_code

    assert asyncio.run(main()) == 401


def test_a_program_watches_with_a_token_and_without_an_origin(case: Case):
    headers = {"Authorization": case.token("viewer", "live").headers["Authorization"]}
    case.runner.show("cam")

    async def main() -> None:
        url = f"{case.url.replace('http', 'ws', 1)}/api/cameras/cam/live"
        async with websockets.connect(url, additional_headers=headers) as socket:
            assert parts(await socket.recv())[0]["camera"] == "cam"

    lines = len(case.server.door.audit.lines(action="export"))
    asyncio.run(main())
    assert len(case.server.door.audit.lines(action="export")) == lines + 1


def test_a_stream_ends_with_its_session_and_with_its_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(camera_routes, "_RECHECK_S", 0.05)
    with running(tmp_path, cameras=("cam", "gone")) as case:

        async def drain(socket: Any, camera: str) -> int:
            try:
                while True:
                    if camera in case.runner.states:
                        case.runner.show(camera)
                    await asyncio.wait_for(socket.recv(), 10)
            except websockets.ConnectionClosed as closed:
                return 0 if closed.rcvd is None else closed.rcvd.code

        async def main() -> None:
            case.runner.show("cam")
            async with watch(case) as socket:
                await socket.recv()
                account = case.server.door.accounts.named("the-viewer")
                assert account is not None
                case.server.door.sessions.end_all(account)
                assert await drain(socket, "cam") == 4401
            case.runner.show("gone")
            async with watch(case, "gone") as socket:
                await socket.recv()
                del case.runner.states["gone"]
                case.runner.remove("gone")
                assert await drain(socket, "gone") == 4404

        asyncio.run(main())


def test_no_more_streams_than_may_be(tmp_path: Path):
    with running(tmp_path, max_streams=4) as case:
        case.runner.show("cam")

        async def main() -> None:
            async with watch(case) as one, watch(case) as two:
                await one.recv()
                await two.recv()
                # One account has half of them at most, the others have the rest.
                for role in ("viewer", "operator"):
                    if role == "operator":
                        beside = [await watch(case, role="operator"), await watch(case, role="engineer")]
                        for socket in beside:
                            await socket.recv()
                    with pytest.raises(websockets.ConnectionClosed) as closed:
                        await (await watch(case, role=role)).recv()
                    assert closed.value.rcvd is not None
                    assert closed.value.rcvd.code == 4429
                over = await asyncio.to_thread(
                    case.token("viewer", "live").get, "/api/cameras/cam/live.mjpeg"
                )
                assert over.status_code == 503
                for socket in beside:
                    await socket.close()
            deadline = time.monotonic() + 10
            while True:
                async with watch(case) as again:
                    try:
                        await again.recv()
                        return
                    except websockets.ConnectionClosed:
                        assert time.monotonic() < deadline

        asyncio.run(main())


def test_the_server_stops_while_someone_watches(tmp_path: Path):
    async def main() -> None:
        case.runner.show("cam")
        async with watch(case) as socket:
            await socket.recv()
            began = time.monotonic()
            await asyncio.to_thread(case.server.stop)
            assert time.monotonic() - began < 8
            with pytest.raises(websockets.ConnectionClosed):
                await asyncio.wait_for(socket.recv(), 10)

    before = {thread.name for thread in threading.enumerate()} - {"live cam"}
    with running(tmp_path) as case:
        asyncio.run(main())
    assert {thread.name for thread in threading.enumerate()} <= before
