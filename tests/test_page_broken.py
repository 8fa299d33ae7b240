"""The page when things go wrong: the link is gone, answers are late or refused, others work at the same time."""

from __future__ import annotations

import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from clips import write_clip
from page_case import DESK, add_event, browser, fill_in, go, opening, until
from server_case import PASSWORD, Case, running

from anomaly.edge.server import session_routes
from anomaly.regions import Regions


class Link:
    """A TCP proxy before a server; while `lost`, it passes nothing on and tells neither end."""

    def __init__(self, url: str) -> None:
        self.lost = threading.Event()
        self._port = int(url.rsplit(":", 1)[1])
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._door.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._door.accept()
                threading.Thread(target=self._pipe, args=(near,), daemon=True).start()

    def _pipe(self, near: socket.socket) -> None:
        with suppress(OSError), near, socket.create_connection(("127.0.0.1", self._port)) as far:
            while True:
                if self.lost.is_set():
                    time.sleep(0.02)
                    continue
                ready, _, _ = select.select([near, far], [], [], 0.05)
                for one in ready:
                    data = one.recv(65536)
                    if not data:
                        return
                    (far if one is near else near).sendall(data)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with running(tmp_path_factory.mktemp("broken"), cameras=("cam", "other"), live_fps=20) as one:
        for role in ("operator", "engineer", "admin"):
            one.account(role)
        yield one


@pytest.fixture
def open_page(chromium: Any, case: Case) -> Iterator[Callable[..., Any]]:
    with opening(chromium, case, console=False) as one:
        yield one


@contextmanager
def moving(case: Case) -> Iterator[threading.Event]:
    """Frames come from both cameras, for as long as the event that is given is not set."""
    still, over = threading.Event(), threading.Event()

    def move() -> None:
        while not over.wait(0.1):
            if not still.is_set():
                case.runner.show("cam")
                case.runner.show("other")

    mover = threading.Thread(target=move, daemon=True)
    mover.start()
    try:
        yield still
    finally:
        over.set()
        mover.join()


def slowly(page: Any, path: str, seconds: float) -> None:
    """Ask for it that much later; a handler of Playwright's would hold up the test too."""
    page.evaluate(
        """([path, ms]) => {
            const right = window.fetch;
            window.fetch = async (...given) => {
                if (given[0] === path) await new Promise((done) => setTimeout(done, ms));
                return right(...given);
            };
        }""",
        [path, 1000 * seconds],
    )


def test_a_link_that_went_dead_is_told_and_nothing_is_set_over_it(open_page: Any, case: Case):
    link = Link(case.url)
    with moving(case):
        page = open_page(at=SimpleNamespace(url=link.url))
        card = page.get_by_role("article", name="cam")
        card.get_by_text("● looking").wait_for()
        link.lost.set()
        page.get_by_text("The server has not answered since").wait_for()
        card.get_by_text(re.compile("○ no new picture for [5-9] s")).wait_for()
        assert "grayscale" in card.locator(".picture").evaluate("one => getComputedStyle(one).filter")
        card.get_by_text("not known since").wait_for()
        card.get_by_label("State of cam").select_option("stopped")
        assert card.get_by_role("button", name="Set").is_disabled()
        assert card.get_by_text("now running").is_visible()
        link.lost.clear()
        page.get_by_text("The server has not answered since").wait_for(state="hidden")
        card.get_by_text("● looking").wait_for()
        assert case.runner.states["cam"] == "running"
    link.close()


def test_what_the_store_does_not_take_is_told_on_every_view(open_page: Any, case: Case):
    """It cannot stand among what was wrong, which the store keeps: the page said that nothing was."""
    page = open_page()
    told = page.get_by_role("alert").get_by_text("Nothing can be stored: the disk cannot be written.")
    case.runner.not_stored = "the disk cannot be written"
    told.wait_for()
    for view in ("Review", "Events", "Timeline"):
        go(page, view)
        page.get_by_role("heading", name=view, exact=True).wait_for()
        assert "events (2 so far) are missing in all lists" in told.inner_text()
    page.get_by_role("button", name="Sign out").click()
    told.wait_for(state="hidden")
    fill_in(page, "the-operator")
    told.wait_for()
    case.runner.not_stored = None
    told.wait_for(state="hidden")


def test_a_cameras_name_is_in_one_line_beside_all_that_is_said_of_it(open_page: Any, case: Case):
    def ill(route: Any) -> None:
        told = route.fetch().json()
        route.fulfill(json=told | {"cameras": [one | {"health": ["overloaded"]} for one in told["cameras"]]})

    page = open_page(viewport={"width": 390, "height": 844})
    page.route("**/api/cameras", ill)
    case.runner.show("other")
    card = page.get_by_role("article", name="other")
    card.locator(".lamp").get_by_text("overloaded: frames too far apart").wait_for()
    assert card.get_by_text("UNCERTIFIED").is_visible()
    assert card.get_by_role("heading").bounding_box()["height"] < 40
    page.unroute_all(behavior="wait")


def test_a_picture_that_stands_still_is_not_looked_at(open_page: Any, case: Case):
    with moving(case) as still:
        page = open_page()
        card = page.get_by_role("article", name="cam")
        card.get_by_text("● looking").wait_for()
        still.set()
        card.locator(".lamp").get_by_text("○ no new picture for 6 s").wait_for()
        assert page.locator("#away").is_hidden()
        assert "nothing wrong" not in card.inner_text()
        # A page that is opened now gets that frame once more; it is as old there.
        page.reload()
        card.locator(".lamp").get_by_text("○ no new picture for").wait_for()
        still.clear()
        card.get_by_text("● looking").wait_for()


def test_what_is_still_wrong_stands_above_what_came_again_and_again(open_page: Any, case: Case):
    now = time.time()
    with case.store.transaction():
        on = [
            case.store.add_health("", kind, now - 7000, detail)
            for kind, detail in (
                ("sink mes", {"reason": "connection refused"}),
                ("disk", {"stopped": "recording", "free_bytes": 1}),
                ("disk", {"stopped": "clips", "free_bytes": 1}),
            )
        ]
        on.append(case.store.add_health("cam", "recording", now - 500, {"reason": "no room"}))
        for i in range(12):
            one = case.store.add_health("cam", "disconnected", now - 400 + 30 * i, {"reason": "timed out"})
            case.store.end_health(one, now - 395 + 30 * i)
    page = open_page()
    health = page.get_by_label("Health", exact=True)
    health.get_by_text("in 5 min 35 s").wait_for()
    told = health.get_by_role("listitem").all_inner_texts()
    assert ["still so" in one for one in told] == [True] * 4 + [False]
    for words in (
        "recording has stopped",
        "mes is not reached: messages wait",
        "the disk is full: recording has stopped",
        "the disk is full: no clips are made",
    ):
        assert any(words in one for one in told[:4]), words
    for one in on:
        case.store.end_health(one, now)


def test_newest_events_come_where_health_fails_and_keep_who_stands_on_them(open_page: Any, case: Case):
    first = add_event(case, time.time() - 60, camera="cam")
    page = open_page()
    page.route("**/api/health*", lambda route: route.fulfill(status=503, json={"detail": "store busy"}))
    link = page.locator(f"a.brief[href='#/events/{first}']")
    link.evaluate("one => { one.focus(); one.kept = true; }")
    second = add_event(case, time.time(), camera="cam")
    page.locator(f"a.brief[href='#/events/{second}']").wait_for()
    assert link.evaluate("one => one.kept && one === document.activeElement")


def test_a_state_that_is_refused_is_not_shown_as_set(open_page: Any, case: Case):
    page = open_page()
    state = page.get_by_label("State of cam")
    page.route("**/state", lambda route: route.fulfill(status=507, json={"detail": "the disk is full"}))
    state.select_option("stopped")
    page.get_by_role("article", name="cam").get_by_role("button", name="Set").click()
    page.locator(".notice").get_by_text("the disk is full").wait_for()
    until(lambda: state.input_value() == "running")
    # Somebody else sets it while this one stands on it.
    state.focus()
    case.runner.states["cam"] = "maintenance"
    until(lambda: state.input_value() == "maintenance")
    case.runner.states["cam"] = "running"


def test_a_slow_view_does_not_paint_over_the_next(open_page: Any, case: Case):
    page = open_page()
    slowly(page, "/api/cameras", 0.6)
    page.locator("main").press("t")
    page.wait_for_timeout(60)
    page.keyboard.press("e")
    page.get_by_role("heading", name="Events", exact=True).wait_for()
    page.wait_for_timeout(1500)
    assert page.locator("h1").all_inner_texts() == ["Events"]
    # Its keys neither: "]" and "m" would mark a miss.
    page.evaluate("location.hash = '#/timeline'")
    page.wait_for_timeout(50)
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign in").wait_for()
    page.wait_for_timeout(800)
    assert page.locator("canvas.timeline").count() == 0


def test_a_view_opened_while_the_server_is_away_comes_when_it_is_back(open_page: Any, case: Case):
    page = open_page()
    page.context.set_offline(True)
    go(page, "Timeline")
    page.get_by_text("The server does not answer.").wait_for()
    assert page.get_by_role("button", name="Try again").is_visible()
    page.context.set_offline(False)
    page.locator("canvas.timeline").wait_for()
    page.evaluate("location.hash = '#/timeline/%'")
    page.locator("canvas.timeline[data-span]").wait_for()


def test_the_log_in_form_says_why_one_is_signed_out(open_page: Any, case: Case):
    page = open_page()
    page.context.clear_cookies()
    page.get_by_role("button", name="Sign in").wait_for()
    assert "Your session has ended" in page.locator("form").inner_text()


def test_the_hottest_stands_out_on_a_white_part(open_page: Any, case: Case):
    page = open_page()
    view = case.runner.show("cam", image=np.full((360, 640, 3), 250, np.uint8))
    heat = page.get_by_role("article", name="cam").locator("canvas.heat")
    # Not the smaller frame before it, whose line is thinner than a pixel.
    page.locator(f'.picture[data-sequence="{view.sequence}"]').first.wait_for()
    # Over white at the strength that is set; luminance as WCAG has it.
    seen = heat.evaluate(
        """canvas => {
            const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            const found = [];
            for (let i = 0; i < data.length; i += 4) {
                const a = (data[i + 3] / 255) * 0.8;
                const [r, g, b] = [0, 1, 2].map((c) => linear((data[i + c] / 255) * a + 1 - a));
                found.push(1.05 / (0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05));
            }
            const at = (y, x) => found[y * canvas.width + x];
            return { centre: at(Math.round(4.5 * canvas.height / 9), Math.round(8.5 * canvas.width / 16)), most: found.reduce((a, b) => Math.max(a, b)) };
        }"""
    )
    assert seen["centre"] > 2
    # The line around it.
    assert seen["most"] > 4.5


def test_no_minute_has_sixty_seconds(open_page: Any, case: Case):
    told = open_page().evaluate(
        "async (all) => { const { lasting } = await import('/static/format.js'); return all.map(lasting); }",
        [59.94, 59.97, 119.7, 3599.8],
    )
    assert told == ["59.9 s", "1 min 0 s", "2 min 0 s", "1.0 h"]


def test_events_that_came_while_the_link_was_gone_are_all_there(open_page: Any, case: Case):
    add_event(case, time.time() - 400, camera="cam")
    page = open_page()
    go(page, "Events")
    page.locator("[role=option]").first.wait_for()
    page.context.set_offline(True)
    with case.store.transaction():
        for i in range(130):
            case.event(start_utc_s=time.time() - 200 + i, camera="cam", clip_state="none")
    page.context.set_offline(False)
    page.get_by_text(f"{len(case.store.events(limit=500))} events").wait_for()


def test_the_queue_loses_what_colleagues_judge_and_says_when_it_is_empty(open_page: Any, case: Case):
    with case.store.transaction():
        made = [case.event(start_utc_s=time.time() - 90 + i, camera="other").id for i in range(70)]
    page = open_page()
    go(page, "Review")
    page.get_by_label("Camera").select_option("other")
    page.get_by_text("70 to review").wait_for()
    for event in made[10:]:
        case.store.add_verdict(event, "real", "somebody else", "")
    # The one that is looked at stays, with what was said of it.
    page.get_by_text("10 to review").wait_for()
    page.get_by_label("Event", exact=True).get_by_text("somebody else").wait_for()
    assert page.locator("[role=option]:visible").count() == 11
    for event in made[:10]:
        case.store.add_verdict(event, "real", "somebody else", "")
    page.get_by_text("0 to review").wait_for()
    page.get_by_label("Camera").select_option("cam")
    page.get_by_label("Camera").select_option("other")
    page.get_by_text("Nothing to review: every event has a verdict.").wait_for()


def test_no_event_of_another_camera_stays_where_the_list_cannot_be_had(open_page: Any, case: Case):
    for camera in ("cam", "other"):
        add_event(case, time.time() - 700, camera=camera)
    page = open_page()
    go(page, "Events")
    chooser, rows = page.get_by_label("Camera"), page.locator("[role=option]:visible")
    chooser.select_option("cam")
    rows.first.wait_for()
    page.route(
        "**/api/events?camera=other*",
        lambda route: route.fulfill(status=503, json={"detail": "the store is busy"}),
    )
    chooser.select_option("other")
    pane = page.get_by_label("Event", exact=True)
    pane.get_by_text("the store is busy").wait_for()
    assert rows.count() == 0
    assert pane.get_by_role("button").count() == 0
    # What cannot be had is said on a phone too, where the list hides the pane.
    page.set_viewport_size({"width": 390, "height": 844})
    assert pane.get_by_text("the store is busy").is_visible()
    page.set_viewport_size(DESK)
    page.unroute("**/api/events?camera=other*")
    pane.get_by_role("heading", name="other").wait_for()
    until(lambda: set(rows.locator("strong").all_inner_texts()) == {"other"})


def test_a_list_that_comes_late_does_not_choose_another_event(open_page: Any, case: Case):
    for i in range(3):
        add_event(case, time.time() - 800 + i, camera="late")
    page = open_page()
    slowly(page, "/api/events?limit=500", 2.5)
    go(page, "Events")
    page.get_by_label("Camera").select_option("late")
    page.get_by_text("3 events").wait_for()
    chosen = page.locator("[role=option][aria-selected=true]")
    chosen.wait_for()
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(3000)
    assert chosen.get_attribute("aria-posinset") == "2", (
        "a verdict would go to the event that nobody looks at"
    )


def test_the_timeline_shows_nothing_of_another_camera_and_asks_again(open_page: Any, case: Case):
    start = time.time() - 300
    (case.store.folder / "recording" / "cam").mkdir(parents=True)
    clip = case.store.folder / "recording" / "cam" / "0.mp4"
    write_clip(clip, (np.full((90, 160, 3), 40 + i, np.uint8) for i in range(20)), fps=10)
    case.store.add_segment("cam", "cam/0.mp4", start, start + 2, 0.0, clip.stat().st_size, "h264")
    case.store.mark_miss("cam", start, start + 1, "of the first", "mara")
    page = open_page()
    page.goto(f"{case.url}/#/timeline/cam/{start + 1}")
    page.locator("video[src]").wait_for()
    page.get_by_text("of the first").wait_for()
    page.route(
        "**/api/cameras/other/scores*", lambda route: route.fulfill(status=503, json={"detail": "busy"})
    )
    page.get_by_label("Camera").select_option("other")
    page.get_by_text("busy").first.wait_for()
    assert page.locator("video[src]").count() == 0
    assert page.get_by_text("of the first").count() == 0
    page.unroute("**/api/cameras/other/scores*")
    page.locator(".misses").get_by_text("None.").wait_for()


def test_the_timeline_shows_what_was_compared_with_the_threshold(open_page: Any, case: Case):
    # Before all that other tests have left on these cameras.
    start = time.time() - 80_000
    times = start + np.arange(0, 60, 0.5)
    for camera, raw in (("cam", 1.0), ("other", 4.0)):
        case.store.add_scores(camera, [(float(at), float(at - start), raw, 1.0) for at in times])
    page = open_page()
    chart, drawn = page.locator("canvas.timeline[data-span]"), []
    for camera in ("cam", "other"):
        page.goto(f"{case.url}/#/timeline/{camera}/{start + 30}")
        page.wait_for_function("camera => document.querySelector('select')?.value === camera", arg=camera)
        chart.wait_for()
        drawn.append(chart.evaluate("canvas => canvas.toDataURL()"))
    assert drawn[0] == drawn[1]


def test_a_colleagues_verdict_comes_to_the_rows_on_the_screen(open_page: Any, case: Case):
    with case.store.transaction():
        made = [case.event(start_utc_s=time.time() - 900 + i, camera="other").id for i in range(120)]
    page = open_page()
    go(page, "Events")
    page.get_by_label("Camera").select_option("other")
    page.locator("[role=option]").first.wait_for()
    page.locator(".list").evaluate("list => { list.scrollTop = 110 * 62; }")
    row = page.locator("[role=option][aria-posinset='115']")
    row.get_by_text("going on").wait_for()
    case.store.add_verdict(made[-115], "false alarm", "somebody else", "")
    row.get_by_text("false alarm").wait_for()


def test_a_role_is_only_changed_when_it_is_set(open_page: Any, case: Case):
    page = open_page("admin")
    go(page, "Accounts")
    role = page.get_by_label("Role of the-engineer")
    role.focus()
    page.keyboard.press("ArrowDown")
    assert role.input_value() == "admin"
    named = case.server.door.accounts.named
    page.wait_for_timeout(300)
    assert named("the-engineer").role == "engineer"
    page.get_by_role("button", name="Set for the-engineer").click()
    page.get_by_text("the-engineer is admin").wait_for()
    assert named("the-engineer").role == "admin"
    case.server.door.accounts.change("the-engineer", role="engineer")


def test_regions_that_are_not_saved_are_not_lost_in_silence(open_page: Any, case: Case):
    case.runner.show("cam")
    page = open_page("engineer")
    go(page, "Regions")
    page.locator("svg.sheet").wait_for()
    page.keyboard.press("i")
    page.get_by_role("button", name="Add a rectangle").click()
    page.get_by_text("Not saved yet.").wait_for()
    assert page.get_by_role("button", name="▨ Ignore").get_attribute("aria-pressed") == "false"
    page.get_by_label("Camera").select_option("other")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.wait_for_function("document.querySelector('select').value === 'cam'")
    go(page, "Live")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert page.url.endswith("#/regions")
    assert page.get_by_role("button", name="Delete region").count() == 1
    go(page, "Live")
    page.get_by_role("dialog").get_by_role("button", name="Leave").click()
    page.get_by_role("heading", name="Live", exact=True).wait_for()


def test_regions_that_a_colleague_saved_meanwhile_are_asked_about(open_page: Any, case: Case):
    case.runner.show("cam")
    page = open_page("engineer")
    go(page, "Regions")
    page.get_by_role("button", name="Add a rectangle").click()
    url, colleague = "/api/regions/cam", case.signed_in("admin")
    theirs = colleague.put(url, json={"ignore": [[[0, 0], [0.5, 0], [0.5, 0.5]]]}).json()["ignore"]
    page.keyboard.press("s")
    page.get_by_role("dialog").get_by_text("the-admin has saved other regions of cam meanwhile").wait_for()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.get_by_text("Not saved yet.").wait_for()
    assert colleague.get(url).json()["ignore"] == theirs
    page.keyboard.press("s")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    page.get_by_text("The regions are saved.").wait_for()
    kept = colleague.get(url).json()
    assert (len(kept["look"]), kept["ignore"]) == (1, [])
    colleague.put(url, json={})


def test_over_a_slow_link_regions_are_saved_once_and_what_is_drawn_meanwhile_is_not_saved(
    open_page: Any, case: Case
):
    case.runner.show("cam")
    page = open_page("engineer")
    go(page, "Regions")
    page.get_by_role("button", name="Add a rectangle").click()
    page.get_by_text("Not saved yet.").wait_for()
    slowly(page, "/api/regions/cam", 1.0)
    page.get_by_role("button", name="Save").dblclick()
    page.get_by_role("button", name="Add a rectangle").click()
    page.get_by_text("The regions are saved.").wait_for()
    page.wait_for_timeout(1500)
    assert page.get_by_role("dialog").count() == 0, "nobody else has saved any"
    assert page.get_by_text("Not saved yet.").is_visible()
    engineer = case.signed_in("engineer")
    assert len(engineer.get("/api/regions/cam").json()["look"]) == 1
    page.keyboard.press("s")
    until(lambda: len(engineer.get("/api/regions/cam").json()["look"]) == 2)
    engineer.put("/api/regions/cam", json={})


def test_late_regions_of_another_camera_are_not_shown(open_page: Any, case: Case):
    engineer = case.signed_in("engineer")
    for camera in ("cam", "other"):
        case.runner.show(camera)
    engineer.put("/api/regions/cam", json={"ignore": [[[0, 0], [0.5, 0], [0.5, 0.5]]]})
    page = open_page("engineer")
    go(page, "Regions")
    drawn = page.locator(".regions")
    drawn.get_by_text("ignore").wait_for()
    chosen = page.get_by_label("Camera", exact=True)
    chosen.select_option("other")
    drawn.get_by_text("Nothing").wait_for()
    slowly(page, "/api/regions/cam", 1.0)
    slowly(page, "/api/regions/other", 0.5)
    chosen.select_option("cam")
    # What is drawn now would be lost when the others come.
    assert page.get_by_role("button", name="Add a rectangle").is_disabled()
    assert drawn.get_by_text("Not known yet.").is_visible()
    chosen.select_option("other")
    page.wait_for_timeout(1500)
    assert drawn.get_by_text("Nothing").is_visible()
    engineer.put("/api/regions/cam", json={})


def test_a_region_that_crosses_itself_is_shown_as_it_counts(open_page: Any, case: Case):
    case.runner.show("cam")
    page = open_page("engineer")
    go(page, "Regions")
    sheet = page.locator("svg.sheet")
    until(lambda: sheet.bounding_box()["height"] > 200)
    box = sheet.bounding_box()
    star = [(0.5 + 0.3 * np.sin(turn), 0.5 - 0.4 * np.cos(turn)) for turn in np.arange(5) * 4 * np.pi / 5]
    page.keyboard.press("i")
    for x, y in star:
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.keyboard.press("Enter")
    shown = sheet.locator("polygon").evaluate(
        """(drawn) => {
            const { x, y, width, height } = drawn.ownerSVGElement.viewBox.baseVal;
            return [[0.5, 0.5], [0.5, 0.2]].map(([a, b]) => drawn.isPointInFill(new DOMPoint(x + a * width, y + b * height)));
        }"""
    )
    counts = Regions(ignore=(tuple(star),)).frame_mask(200, 200)
    assert shown == [not counts[100, 100], not counts[40, 100]] == [False, True]


def cut_off(case: Case, page: Any, role: str, act: Callable[[], None]) -> None:
    """The session ends, which `act` finds out; then the same person signs in again."""
    account = case.server.door.accounts.named(case.account(role))
    assert account is not None
    case.server.door.sessions.end_all(account)
    act()
    fill_in(page, f"the-{role}")


def test_what_was_drawn_is_still_there_after_signing_in_again(open_page: Any, case: Case):
    case.runner.show("other")
    page = open_page("engineer")
    go(page, "Regions")
    page.get_by_label("Camera").select_option("other")
    page.get_by_role("button", name="Add a rectangle").click()
    cut_off(case, page, "engineer", lambda: page.keyboard.press("s"))
    page.get_by_text("Not saved yet.").wait_for()
    assert page.get_by_label("Camera").input_value() == "other"
    page.get_by_role("button", name="Save").click()
    page.get_by_text("The regions are saved.").wait_for()
    # Somebody else finds nothing of it.
    page.get_by_role("button", name="Add a rectangle").click()
    page.get_by_text("Not saved yet.").wait_for()
    page.context.clear_cookies()
    page.keyboard.press("s")
    fill_in(page, "the-admin")
    page.get_by_text("Nothing drawn = the whole picture counts.").wait_for()


def test_a_note_and_a_miss_are_still_there_after_signing_in_again(open_page: Any, case: Case):
    now = time.time()
    events = [add_event(case, now - 60 + i, camera="cam") for i in range(2)]
    page = open_page()
    go(page, "Events")
    page.locator("[role=option]").nth(1).click()
    note = page.get_by_label("Note to the verdict")
    note.fill("the belt tore")
    note.press("Enter")
    cut_off(case, page, "operator", lambda: page.keyboard.press("1"))
    until(lambda: note.input_value() == "the belt tore")
    page.get_by_role("button", name="Real").click()
    until(lambda: case.store.verdicts(events[0]))
    assert [one.note for one in case.store.verdicts(events[0])] == ["the belt tore"]
    go(page, "Timeline")
    chart = page.locator("canvas.timeline")
    chart.press("ArrowLeft")
    chart.press("[")
    chart.press("ArrowRight")
    chart.press("]")
    page.get_by_label("What was missed").fill("a jam")
    before = page.locator(".mark strong").inner_text()
    cut_off(case, page, "operator", lambda: page.get_by_role("button", name="Mark a miss").click())
    page.get_by_role("button", name="Mark a miss").wait_for()
    assert page.locator(".mark strong").inner_text() == before
    assert page.get_by_label("What was missed").input_value() == "a jam"


def test_a_note_and_a_miss_that_were_begun_are_not_lost_in_silence(open_page: Any, case: Case):
    now = time.time()
    case.runner.show("cam")
    events = [add_event(case, now - 60 + i, camera="cam") for i in range(2)]
    page = open_page()
    go(page, "Events")
    page.locator("[role=option]").nth(1).click()
    note = page.get_by_label("Note to the verdict")
    note.fill("the belt tore")
    page.locator("[role=option]").nth(0).click()
    assert note.input_value() == ""
    page.get_by_role("link", name="Show on the timeline").click()
    page.locator("canvas.timeline").wait_for()
    go(page, "Events")
    page.locator("[role=option]").nth(1).click()
    assert note.input_value() == "the belt tore"
    page.get_by_role("button", name="Real").click()
    until(lambda: case.store.verdicts(events[0]))
    assert [one.note for one in case.store.verdicts(events[0])] == ["the belt tore"]
    go(page, "Timeline")
    chart = page.locator("canvas.timeline")
    for key in ("ArrowLeft", "[", "ArrowRight", "]"):
        chart.press(key)
    label = page.get_by_label("What was missed")
    label.fill("a jam")
    go(page, "Live")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert (page.url.endswith("#/timeline"), label.input_value()) == (True, "a jam")
    page.get_by_label("Camera").select_option("other")
    page.get_by_role("dialog").get_by_role("button", name="Leave").click()
    page.wait_for_function("document.querySelector('.mark').hidden")
    for key in ("ArrowLeft", "[", "ArrowRight", "]"):
        chart.press(key)
    assert label.input_value() == "", "what was told of one camera is not marked for another"
    go(page, "Live")
    page.get_by_role("heading", name="Live", exact=True).wait_for()


def test_who_takes_a_new_password_stays_signed_in(
    open_page: Any, case: Case, monkeypatch: pytest.MonkeyPatch
):
    """What the page asks for by itself meanwhile would come with the session that has just ended."""
    case.server.door.accounts.add("ines", "viewer", PASSWORD)
    page = open_page()
    page.get_by_role("button", name="Sign out").click()
    fill_in(page, "ines")
    page.locator("main").press("p")
    right = session_routes.set_cookie

    def slow(*given: Any) -> None:
        time.sleep(6.0)
        right(*given)

    monkeypatch.setattr(session_routes, "set_cookie", slow)
    page.get_by_label("Password now").fill(PASSWORD)
    page.get_by_label("New password", exact=True).fill("another long phrase")
    page.get_by_label("New password again").fill("another long phrase")
    page.keyboard.press("Enter")
    page.get_by_text("The password is changed").wait_for()
    page.wait_for_timeout(1000)
    page.get_by_role("button", name="Sign out").click()
    page.get_by_text("You are signed out.").first.wait_for()


def test_no_dialog_stands_before_the_log_in_form(open_page: Any, case: Case):
    page = open_page()
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()
    page.context.clear_cookies()
    page.get_by_role("button", name="Sign in").wait_for()
    assert page.get_by_role("dialog").count() == 0


def test_signing_out_asks_about_what_is_not_saved_and_says_when_it_failed(open_page: Any, case: Case):
    case.runner.show("cam")
    page = open_page("engineer")
    go(page, "Regions")
    page.get_by_role("button", name="Add a rectangle").click()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert page.get_by_text("Not saved yet.").is_visible()
    page.context.set_offline(True)
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("dialog").get_by_role("button", name="Sign out").click()
    page.get_by_text("You are still signed in").wait_for()
    page.context.set_offline(False)


def test_a_key_that_is_held_down_gives_one_verdict(open_page: Any, case: Case):
    now = time.time()
    events = [add_event(case, now - 60 + i, camera="held") for i in range(3)]
    page = open_page()
    go(page, "Review")
    page.get_by_label("Camera").select_option("held")
    page.get_by_text("3 to review").wait_for()
    for key in ("2", "Enter"):
        if key == "Enter":
            page.get_by_role("button", name="False alarm").focus()
        for _ in range(25):
            page.keyboard.down(key)
            page.wait_for_timeout(50)
        page.keyboard.up(key)
    page.wait_for_timeout(600)
    assert [len(case.store.verdicts(one)) for one in events] == [0, 1, 1]
    page.keyboard.down("ArrowUp")
    page.keyboard.down("ArrowUp")
    page.keyboard.up("ArrowUp")
    assert page.locator("[role=option][aria-selected=true]").get_attribute("aria-posinset") == "1"


def test_what_is_about_to_be_deleted_is_told_in_utc_too(open_page: Any, case: Case):
    add_event(case, 1_792_900_800.0, camera="cam")  # 2026-10-25T04:00Z, which is midnight in New York
    page = open_page("admin", timezone_id="America/New_York", locale="en")
    go(page, "Accounts")
    page.get_by_label("camera", exact=True).select_option("cam")
    page.get_by_label("from", exact=True).fill("2026-10-25T00:00:00")
    page.get_by_label("to", exact=True).fill("2026-10-25T01:00:00")
    page.locator("button.danger", has_text="Delete").click()
    asked = page.get_by_role("dialog")
    assert "2026-10-25 04:00:00.000 UTC to 2026-10-25 05:00:00.000 UTC" in asked.inner_text()
    asked.get_by_role("button", name="Delete").click()
    page.get_by_text("1 events and 0 misses with all of theirs").wait_for()


def test_a_token_that_is_made_on_the_page_can_end(open_page: Any, case: Case):
    page = open_page("admin")
    go(page, "Accounts")
    for label, days in (("for a week", "7"), ("for ever", "")):
        page.get_by_label("label", exact=True).fill(label)
        page.get_by_label("days", exact=True).fill(days)
        page.get_by_role("button", name="Make").click()
        page.get_by_role("cell", name=label, exact=True).wait_for()
    ends = {one.label: one.expires_utc_s for one in case.server.door.accounts.tokens()}
    assert ends["for ever"] is None
    assert ends["for a week"] == pytest.approx(time.time() + 7 * 86_400, abs=60)


def test_what_is_written_from_right_to_left_turns_nothing_else_round(open_page: Any, case: Case):
    """An override in a note or a label goes as far as the note or the label."""
    turned, now = "\u202eabc", time.time()
    event = add_event(case, now - 40, camera="cam")
    case.store.add_verdict(event, "real", "the-operator", turned)
    case.store.mark_miss("cam", now - 30, now - 20, turned, "the-operator", "a" * 64)
    page = open_page()
    page.goto(f"{case.url}/#/events/{event}")
    page.locator(".said bdi", has_text="abc").wait_for()
    go(page, "Timeline")
    page.get_by_label("Camera").select_option("cam")
    page.locator(".misses bdi", has_text="abc").wait_for()


def test_over_a_slow_link_a_verdict_is_given_once_and_the_last_one_counts(open_page: Any, case: Case):
    event = add_event(case, time.time() - 30, camera="cam")
    page = open_page()
    page.goto(f"{case.url}/#/events/{event}")
    page.get_by_role("button", name="Real").wait_for()
    slowly(page, f"/api/events/{event}/verdict", 0.6)
    for key in ("1", "1", "2"):
        page.keyboard.press(key)
    until(lambda: len(case.store.verdicts(event)) > 1)
    page.wait_for_timeout(1500)
    assert [one.verdict for one in case.store.verdicts(event)] == ["real", "false alarm"]


def test_who_judges_what_a_colleague_has_just_judged_otherwise_is_told(open_page: Any, case: Case):
    event = add_event(case, time.time() - 20, camera="cam")
    page = open_page()
    page.goto(f"{case.url}/#/events/{event}")
    page.get_by_role("button", name="Real").wait_for()
    page.route("**/api/events?*", lambda route: route.abort())
    colleague = case.signed_in("engineer")
    colleague.post(f"/api/events/{event}/verdict", json={"verdict": "real", "note": "scratch, seen myself"})
    page.keyboard.press("2")
    page.get_by_text("the-engineer had just said “real”; yours, “false alarm”, counts now").wait_for()
    page.get_by_label("Event", exact=True).get_by_text("scratch, seen myself").wait_for()
    # Known by now: it is not told again.
    page.keyboard.press("3")
    page.get_by_text("cam: unsure").wait_for()
    page.wait_for_timeout(500)
    assert page.get_by_text("had just said").count() == 1
    page.unroute_all(behavior="wait")


@pytest.mark.parametrize("view", ["Events", "Review"])
def test_an_event_that_somebody_else_deletes_leaves_no_other_in_its_place(
    open_page: Any, case: Case, view: str
):
    events = [add_event(case, time.time() - 60 + i, camera=f"in {view}") for i in range(3)]
    page = open_page()
    go(page, view)
    page.get_by_label("Camera").select_option(f"in {view}")
    # The events of all cameras stood there until now.
    page.get_by_text("3 to review" if view == "Review" else "3 events").wait_for()
    page.locator("[role=option][aria-selected=true]").wait_for()
    page.keyboard.press("ArrowDown")
    case.store.delete_event(events[1])
    page.get_by_label("Event", exact=True).get_by_text("has been deleted").wait_for()
    page.locator("[role=option][aria-selected=true]").get_by_text("deleted").wait_for()
    page.get_by_text("2 to review" if view == "Review" else "2 events").wait_for()
    page.keyboard.press("1")
    page.keyboard.press("k")
    page.wait_for_timeout(500)
    assert all(case.store.verdicts(one) == [] and not case.store.event(one).held for one in events[::2])
    page.keyboard.press("ArrowDown")
    page.get_by_role("button", name="Unsure").wait_for()
    page.keyboard.press("3")
    until(lambda: case.store.verdicts(events[0]))
    assert page.locator("[role=option]:visible").count() == 2
    assert case.store.verdicts(events[2]) == []


def test_a_verdict_that_comes_too_late_says_that_the_event_is_gone(open_page: Any, case: Case):
    event = add_event(case, time.time() - 30, camera="cam")
    page = open_page()
    page.goto(f"{case.url}/#/events/{event}")
    page.get_by_role("button", name="Real").wait_for()
    page.route("**/api/events?*", lambda route: route.abort())
    case.store.delete_event(event)
    page.keyboard.press("1")
    page.get_by_label("Event", exact=True).get_by_text("has been deleted").wait_for()
    assert page.get_by_role("button", name="Real").count() == 0


def test_an_alarm_is_told_once_to_who_does_not_see_it(open_page: Any, case: Case):
    case.runner.show("cam")
    page = open_page()
    page.evaluate(
        """() => {
            window.heard = [];
            const look = () => {
                const place = document.querySelector('.aloud[role=alert]');
                if (!place) { setTimeout(look, 20); return; }
                new MutationObserver(() => window.heard.push(place.textContent)).observe(place, { childList: true });
            };
            look();
        }"""
    )
    lamp = page.get_by_role("article", name="cam").locator(".lamp")
    for score, sign in ((1.0, "looking"), (2.0, "alarm"), (1.0, "looking"), (2.0, "alarm")):
        for _ in range(3):
            case.runner.show("cam", score)
            page.wait_for_timeout(100)
        lamp.get_by_text(sign).wait_for()
    assert len(page.evaluate("window.heard")) == 1
    assert page.evaluate("window.heard[0]").startswith("Alarm: cam, ")


def test_a_clock_that_was_set_back_leaves_nothing_of_the_time_ahead_in_the_chart(open_page: Any, case: Case):
    page = open_page()
    page.evaluate(
        """() => {
            const right = Path2D.prototype.lineTo;
            window.ahead = 0;
            Path2D.prototype.lineTo = function (x, y) { if (x > 3000) window.ahead += 1; right.call(this, x, y); };
        }"""
    )
    for number in range(5):
        case.runner.show("cam", utc_s=time.time() + 3600 + number)
        page.wait_for_timeout(100)
    until(lambda: page.evaluate("window.ahead") > 0)
    for _ in range(2):
        case.runner.show("cam")
        page.wait_for_timeout(200)
    page.evaluate("window.ahead = 0")
    page.wait_for_timeout(2500)
    assert page.evaluate("window.ahead") == 0


def test_nothing_is_asked_of_a_camera_that_left_the_site(open_page: Any, tmp_path: Path):
    with running(tmp_path, cameras=("stays", "leaves")) as case:
        case.account("operator")
        page = open_page(at=case)
        page.get_by_role("article", name="leaves").wait_for()
        case.runner.remove("leaves")
        page.get_by_role("article", name="leaves").wait_for(state="detached")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        # As after the tab was hidden for a while, when all that is asked now and then is asked at once.
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        until(lambda: any("/stays/scores" in url for url in asked))
        page.wait_for_timeout(300)
        assert not [url for url in asked if "/leaves/" in url]


def test_the_timeline_goes_on_with_time_but_not_under_who_marks_a_miss(open_page: Any, case: Case):
    asked: list[str] = []
    page = open_page()
    page.on("request", lambda request: asked.append(request.url) if "/cam/scores" in request.url else None)
    page.goto(f"{case.url}/#/timeline/cam")
    chart = page.locator("canvas.timeline[data-span]")
    chart.wait_for()
    before = len(asked)
    with page.expect_request("**/cam/scores*"):
        pass
    ends = [float(one.split("until=")[1].split("&")[0]) for one in (asked[before - 1], asked[-1])]
    assert 3.0 < ends[1] - ends[0] < 10.0
    chart.focus()
    page.keyboard.press("[")
    page.wait_for_timeout(300)
    still = len(asked)
    page.wait_for_timeout(5000)
    assert len(asked) == still
    page.keyboard.press("Escape")
    with page.expect_request("**/cam/scores*"):
        pass
    page.get_by_role("button", name="Earlier").click()
    page.wait_for_timeout(300)
    still = len(asked)
    page.wait_for_timeout(5000)
    assert len(asked) == still


def test_a_page_whose_scripts_do_not_come_says_what_a_proxy_must_do(chromium: Any, case: Case):
    """Chromium asks for them under the page's own Origin: through a proxy that sends another Host all are refused."""
    page = chromium.new_page()
    page.route("**/static/*.js", lambda route: route.fulfill(status=403))
    page.goto(case.url)
    said = page.get_by_text("door.trusted_proxy")
    assert not said.is_visible()
    said.wait_for(timeout=10_000)
    page.close()


def test_live_pictures_that_a_proxy_keeps_off_say_so(open_page: Any, case: Case):
    def keep_off(page: Any) -> None:
        # What a proxy without its lines for WebSockets does: it asks for them as for any page.
        page.add_init_script(
            "window.WebSocket = class extends WebSocket { constructor(at) { super(at.replace('/live?', '/none?')); } }"
        )

    page = open_page()
    keep_off(page)
    page.reload()
    card = page.get_by_role("article").first
    card.get_by_text("no live picture; trying again").wait_for()
    card.get_by_text("a proxy in between must let WebSockets through").wait_for(timeout=15_000)
