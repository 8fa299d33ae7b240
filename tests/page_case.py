"""A filled store behind a real server, with a camera whose picture moves, for a real browser to look at."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from clips import write_clip
from server_case import PASSWORD, Case, running

CHROMIUM = Path("/usr/bin/chromium")
DESK = {"width": 1366, "height": 850}
#: Names as an intruder would choose them.
HOSTILE = '<img src=x onerror="window.hacked=1">'


def scene(step: int, *, odd: bool = False) -> np.ndarray:
    """A belt with parts that move on, (360, 640, 3) uint8; one part is odd."""
    image = np.full((360, 640, 3), 96, np.uint8)
    image[120:260] = 62
    for part in range(-1, 6):
        x = part * 130 + (step * 6) % 130
        colour = (205, 205, 198) if not (odd and part == 2) else (70, 60, 55)
        cv2.rectangle(image, (x, 150), (x + 80, 230), colour, -1)
        cv2.circle(image, (x + 40, 190), 18, (120, 130, 140), -1)
    return image


def add_event(case: Case, start_utc_s: float, *, clip: Path | None = None, **fields: Any) -> str:
    """An ended event, with pictures and a clip where one is given; its id."""
    event = case.event(start_utc_s=start_utc_s, **fields)
    changes: dict[str, Any] = {"clip_state": "none"}
    if clip is not None:
        folder = case.store.folder
        hot = scene(4, odd=True)
        cv2.circle(hot, (330, 190), 60, (249, 142, 9), -1)
        pictures = {
            "snapshot": scene(4, odd=True),
            "heatmap": hot,
            "normal": np.hstack([scene(4, odd=True), scene(4)]),
        }
        for kind, image in pictures.items():
            name = f"snapshots/{event.id}.{kind}.jpg"
            (folder / name).parent.mkdir(exist_ok=True)
            cv2.imwrite(str(folder / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            changes[kind] = name
        name = f"clips/{event.id}.mp4"
        (folder / name).parent.mkdir(exist_ok=True)
        os.link(clip, folder / name)
        changes |= {
            "clip": name,
            "clip_state": "ready",
            "certified": True,
            "explanation": {"text": "the most similar normal moment is morning.mp4, 00:12"},
        }
    case.store.end_event(event.id, start_utc_s + 3.0, 4.0, **changes)
    return event.id


@contextmanager
def filled(folder: Path) -> Iterator[Case]:
    """A server with two cameras (one with a hostile name), events with clips, scores and a recording of a minute."""
    clip = write_clip(folder / "clip.mp4", (scene(i, odd=True) for i in range(50)), fps=10)
    with running(folder, cameras=("belt 1", HOSTILE), live_fps=20) as case:
        now = time.time()
        recording = case.store.folder / "recording" / "belt 1"
        recording.mkdir(parents=True, exist_ok=True)
        for piece in range(6):
            os.link(clip, recording / f"{piece}.mp4")
            start = now - 60 + piece * 10
            case.store.add_segment(
                "belt 1", f"belt 1/{piece}.mp4", start, start + 5.0, piece * 10.0, clip.stat().st_size, "h264"
            )
        times = now - 120 + np.arange(0, 120, 0.5)
        values = 1.0 + 0.12 * np.sin(times) + 0.9 * np.exp(-(((times - now + 40) / 2) ** 2))
        case.store.add_scores(
            "belt 1",
            [(float(t), float(t - now), float(s), float(s)) for t, s in zip(times, values, strict=True)],
        )
        for i in range(4):
            add_event(case, now - 300 + i * 60, camera="belt 1", clip=clip, score=1.7 + 0.1 * i)
        for role in ("viewer", "operator", "engineer", "admin"):
            case.account(role)
        over = threading.Event()
        mover = threading.Thread(target=_move, args=(case, over), daemon=True)
        mover.start()
        try:
            yield case
        finally:
            over.set()
            mover.join()


def _move(case: Case, over: threading.Event) -> None:
    step = 0
    while not over.wait(0.1):
        step += 1
        score = 1.1 + 0.1 * np.sin(step / 7) + (0.8 if step % 80 > 65 else 0.0)
        hot = (4, 3 + step // 3 % 10)
        case.runner.show("belt 1", float(score), image=scene(step, odd=True), hot=hot)
        case.runner.show(HOSTILE, 1.0, image=scene(step))


@contextmanager
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a head."""
    if not CHROMIUM.exists():
        pytest.skip("apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def opening(chromium: Any, case: Case, *, console: bool) -> Iterator[Callable[..., Any]]:
    """Opens pages somebody is signed in at; at the end no script may have failed in any.

    With `console` nothing may have been said there either, by CSP neither.
    """
    contexts, problems = [], []

    def opened(role: str = "operator", at: Any = case, **settings: Any) -> Any:
        context = chromium.new_context(**{"viewport": DESK, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        if console:
            page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        sign_in(page, at, role)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == [], problems


def until(true: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for something to come true; it fails where it does not in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def go(page: Any, view: str) -> None:
    """Choose a view, as a person does."""
    page.get_by_label("Views").get_by_role("link", name=view, exact=True).click()


def sign_in(page: Any, case: Case, role: str = "operator") -> None:
    """Through the form, as a person does."""
    page.goto(case.url)
    fill_in(page, f"the-{role}")


def fill_in(page: Any, name: str) -> None:
    """The form, and wait for the page."""
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Live", exact=True).wait_for()
