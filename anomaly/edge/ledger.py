"""What the runner writes down and whom it tells: the row first, then the word.

A store that cannot write (a full disk) loses no alarm: the event is told all the same, kept in memory under the
id it was told by (and in a file, where the disk takes one), and written when there is room again; health likewise. Scoring goes on whatever happens here. An event that was
deleted while it was on stays deleted: no more is written of it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from anomaly.edge.health import Trouble
from anomaly.edge.store.database import is_corrupt
from anomaly.edge.store.event import StoredEvent, blank, next_id
from anomaly.edge.waiting import Waiting
from anomaly.errors import EventGoneError, StoreError, StoreReplacedError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

    from anomaly.edge.clips import ClipMaker
    from anomaly.edge.pictures import Pictures, Shot
    from anomaly.edge.store import Store
    from anomaly.edge.store.timeline import Health, Masks

_LOG = logging.getLogger(__name__)
#: Names of facts: what of a camera's time was looked at, and by which schedule it runs.
_COVERAGE, _PLAN = "coverage.", "plan."

#: So much trouble, begun and over while the store could not be written, is kept to be written later.
_MOST_UNWRITTEN = 1000
#: And so many recorded files and gaps, hours of them; at most so many are then written at once, for the thread that scores waits.
_MOST_LATER, _LATER_AT_ONCE = 20_000, 50
#: Events that wait, beside the database.
UNSTORED = "unstored.json"
#: A store that cannot be written for so long is told as trouble, and its end where no write has failed for so long.
_STORE_FAILS_S, _STORE_WELL_S = 10.0, 60.0
#: Frames arrive late by a time that varies: a short event may seem to end so much before it began. More is a clock that was set.
_LATE_S = 10.0


class Told(Protocol):
    """Who is told besides the log; `anomaly.edge.notify.Delivery` is one."""

    def on_event_not_stored(self, event: StoredEvent, what: str) -> None:
        """Tell an event that the store could not take."""

    def on_health(
        self,
        connection: sqlite3.Connection,
        camera: str,
        state: str,
        what: str,
        detail: Mapping[str, Any],
        *,
        over: bool = False,
    ) -> None:
        """Tell of trouble, inside a transaction."""

    def on_health_not_stored(
        self, camera: str, state: str, what: str, detail: Mapping[str, Any], *, over: bool = False
    ) -> None:
        """Tell of trouble that the store could not take."""

    def set_camera_state(self, camera: str, state: Mapping[str, Any]) -> None:
        """Tell how a camera stands now."""


class Ledger:
    """Writes for all cameras, in the runner's thread.

    Args:
        store: open, as owner. Its hooks tell events that were stored.
        pictures, clips: make what is shown of an event.
        told: who else is told; None = nobody.
        on_watches: called with camera, model, recipe and threshold when a camera is watched by another model.
    """

    def __init__(
        self,
        store: Store,
        pictures: Pictures,
        clips: ClipMaker | None,
        told: Told | None = None,
        *,
        on_watches: Callable[[str, str, str, float | None], None] = lambda *_: None,
    ) -> None:
        self._on_watches = on_watches
        self._store = store
        self._pictures = pictures
        self._clips = clips
        self._told = told
        # Not in the store yet, and in the store without their end.
        self._unstored: dict[str, StoredEvent] = {}
        self._unended: dict[str, StoredEvent] = {}
        self._waiting = Waiting(store.folder / UNSTORED)
        self._health: dict[tuple[str, str], int] = {}
        # Kinds of this machine's trouble that is on, stored or not.
        self._on: set[str] = set()
        # Recorded files and gaps that are still to be written.
        self._later: deque[Callable[[], object]] = deque(maxlen=_MOST_LATER)
        # Trouble that is still to be written, in its order; what began in it without a row, by camera and kind.
        self._unwritten: deque[Callable[[], object]] = deque()
        self._begun: set[tuple[str, str]] = set()
        self._failing = False
        # Since when writes fail, now and then at least; when the last one did, by the monotonic clock; and why.
        self._fails_since_s: float | None = None
        self._failed_s = 0.0
        self._reason = ""
        self._damaged = self._replaced = False
        self._store_told = False

    # -- events -----------------------------------------------------------------------------------------------

    def begins(self, **values: Any) -> StoredEvent:
        """Store a new event and tell of it; never fails."""
        try:
            event = self._store.start_event(**values)
        except StoreError as error:
            self._say(error)
            event = blank({**values, "id": next_id(max(self._unstored, default=None), time.time())})
            self._unstored[event.id] = event
            self._keep_waiting()
            if self._told is not None and event.announced:
                self._told.on_event_not_stored(event, "start")
        if event.announced:
            _LOG.warning(
                "ALARM %s: score %.3g reaches %.3g%s (event %s)",
                event.camera,
                event.score,
                event.threshold,
                "" if event.certified else " UNCERTIFIED",
                event.id,
            )
        else:
            _LOG.info("%s is %s: event %s is stored, nobody is told", event.camera, event.state, event.id)
        return event

    def rises(self, event: StoredEvent) -> None:
        """An event that is on has a new highest frame."""
        if event.id in self._unstored:
            self._unstored[event.id] = event
            return
        with contextlib.suppress(EventGoneError):
            self._try(
                lambda: self._store.update_event(
                    event.id, score=event.score, peak_utc_s=event.peak_utc_s, peak_pts_s=event.peak_pts_s
                )
            )

    def ends(self, event: StoredEvent, end_utc_s: float, end_pts_s: float, score: float) -> None:
        """An event is over."""
        if event.start_utc_s - _LATE_S < end_utc_s < event.start_utc_s:
            end_utc_s = event.start_utc_s
        ended = replace(event, score=score, end_utc_s=end_utc_s, end_pts_s=end_pts_s, status="ended")
        _LOG.info(
            "%s: event %s over after %.1f s, highest score %.3g",
            event.camera,
            event.id,
            end_utc_s - event.start_utc_s,
            score,
        )
        if event.id in self._unstored:
            self._unstored[event.id] = ended
            self._keep_waiting()
        else:
            try:
                if self._try(lambda: self._write_end(ended)):
                    if self._clips is not None:
                        self._clips.offer(event.id)
                    return
                self._unended[event.id] = ended
                self._keep_waiting()
            except EventGoneError:
                _LOG.info("event %s was deleted while it was on; its end is told, not stored", event.id)
        # Whoever was told that it began waits to be told that it is over, deleted or not.
        if self._told is not None and event.announced:
            self._told.on_event_not_stored(ended, "end")

    def _write_end(self, event: StoredEvent) -> None:
        assert event.end_utc_s is not None
        assert event.end_pts_s is not None
        self._store.end_event(
            event.id,
            event.end_utc_s,
            event.end_pts_s,
            score=event.score,
            peak_utc_s=event.peak_utc_s,
            peak_pts_s=event.peak_pts_s,
        )

    def picture(self, shot: Shot) -> None:
        """Have a frame of an event shown."""
        if shot.event_id not in self._unstored:
            self._pictures.offer(shot)

    def tick(self) -> None:
        """Write what could not be written before, oldest first."""
        waiting = self.waiting
        self._write_waiting()
        if self.waiting != waiting or not waiting:
            self._keep_waiting()
        self._tell_of_the_store()

    def end(self, unsaved_scores: int = 0) -> None:
        """The run is over, and this was the last try: say what is lost with it.

        Args:
            unsaved_scores: of all cameras, that `scores` could not write.
        """
        events = {**self._unstored, **self._unended}
        if events and self._waiting.keep(events):
            _LOG.warning(
                "%d events that could not be stored wait in %s for the next start", len(events), UNSTORED
            )
        elif events:
            for event_id in sorted(events):
                one = events[event_id]
                _LOG.error(
                    "event %s %s: %s, %s, score %.3g",
                    event_id,
                    "is lost, it could not be stored"
                    if event_id in self._unstored
                    else "is stored, but not that it is over",
                    one.camera,
                    datetime.fromtimestamp(one.start_utc_s, UTC).isoformat(timespec="seconds"),
                    one.score,
                )
        lost = {
            "health events": len(self._unwritten),
            "rows of recorded files and gaps": len(self._later),
            "scores": unsaved_scores,
        }
        if any(lost.values()):
            told = ", ".join(f"{count} {what}" for what, count in lost.items() if count)
            _LOG.error("what could not be stored is lost: %s", told)

    def _tell_of_the_store(self) -> None:
        """What is in memory only is lost with the program: whoever can help must hear of it elsewhere than in the log."""
        now_s = time.monotonic()
        if self._fails_since_s is None:
            return
        if now_s - self._failed_s >= _STORE_WELL_S:
            self._fails_since_s = None
            if self._store_told:
                self._store_told = False
                self.trouble("", "", [Trouble("store", False, time.time())])
        elif not self._store_told and now_s - self._fails_since_s >= _STORE_FAILS_S:
            self._store_told = True
            self.trouble("", "", [Trouble("store", True, time.time(), {"reason": self._reason})])

    def _write_waiting(self) -> None:
        for event_id in sorted({**self._unstored, **self._unended}):
            event = self._unstored.get(event_id)
            if event is not None:
                if not self._try(lambda event=event: self._write_start(event)):  # type: ignore[misc]
                    return
                del self._unstored[event_id]
                if event.end_utc_s is not None:
                    self._unended[event_id] = event
            if event_id in self._unended:
                with contextlib.suppress(EventGoneError):
                    if not self._try(lambda event_id=event_id: self._write_end(self._unended[event_id])):  # type: ignore[misc]
                        return
                del self._unended[event_id]
        while self._unwritten and self._try(self._unwritten[0]):
            self._unwritten.popleft()
        for _ in range(min(_LATER_AT_ONCE, len(self._later))):
            if not self._try(self._later[0]):
                return
            self._later.popleft()

    def _keep_waiting(self) -> None:
        self._waiting.keep({**self._unstored, **self._unended})

    def _write_start(self, event: StoredEvent) -> None:
        last_utc_s = event.start_utc_s if event.end_utc_s is None else event.end_utc_s
        if self._store.is_erased(event.camera, event.start_utc_s, last_utc_s):
            # Deleted before it was ever written: nothing is stored of it, its end neither.
            return
        if self._store.event(event.id) is None:
            values = asdict(event)
            # What the store says of an event that is on; its end is written as one.
            self._store.start_event(**{**values, "status": "open", "end_utc_s": None, "end_pts_s": None})

    @property
    def damage(self) -> str | None:
        """Why the database will take nothing more until it is opened anew; None = it is whole, or that is not told yet."""
        return self.unwritable if self._damaged or self._replaced else None

    @property
    def unwritable(self) -> str | None:
        """Why nothing can be stored, once that has been told as trouble; None = it can."""
        return self._reason if self._store_told else None

    @property
    def waiting(self) -> int:
        """Events that are, as a whole or with their end, in memory only."""
        return len(self._unstored) + len(self._unended)

    # -- the rest ---------------------------------------------------------------------------------------------

    @property
    def machine_trouble(self) -> list[str]:
        """Kinds of trouble of this machine, not of a camera, that are on."""
        return sorted(self._on)

    def trouble(self, camera: str, state: str, troubles: Sequence[Trouble]) -> None:
        """Write down health events; "" is the machine."""
        for one in troubles:
            words = "; ".join(f"{key}: {value}" for key, value in one.detail.items())
            _LOG.log(
                logging.WARNING if one.begins else logging.INFO,
                "%s %s%s%s",
                camera or "this machine",
                one.kind,
                "" if one.begins else " is over",
                f" ({words})" if words else "",
            )
            if not camera:
                (self._on.add if one.begins else self._on.discard)(one.kind)
            # What was not written before comes first: an end must find its beginning.
            if self._unwritten or not self._try(lambda one=one: self._write_trouble(camera, one, state)):  # type: ignore[misc]
                self._keep_trouble(camera, state, one)

    def _keep_trouble(self, camera: str, state: str, one: Trouble) -> None:
        """Tell of trouble that could not be written, and keep it to be written."""
        if self._told is not None:
            self._told.on_health_not_stored(camera, state, one.kind, one.detail, over=not one.begins)
        key = camera, one.kind
        if one.begins and len(self._unwritten) >= _MOST_UNWRITTEN:
            _LOG.error(
                "%s %s: too much that cannot be stored; it will not be", camera or "this machine", one.kind
            )
        elif one.begins or key in self._begun or key in self._health:
            (self._begun.add if one.begins else self._begun.discard)(key)
            self._unwritten.append(lambda: self._write_trouble(camera, one))

    def _write_trouble(self, camera: str, one: Trouble, state: str | None = None) -> None:
        """Write the beginning or the end of trouble and tell of it; without a camera's state it has been told."""
        key = camera, one.kind

        def write(connection: sqlite3.Connection) -> int | None:
            if key in self._health:
                # Also where it begins anew: a second reload that fails.
                self._store.end_health(self._health[key], one.utc_s)
            begun = self._store.add_health(camera, one.kind, one.utc_s, one.detail) if one.begins else None
            if self._told is not None and state is not None:
                self._told.on_health(connection, camera, state, one.kind, one.detail, over=not one.begins)
            return begun

        begun = self._store.write(write)
        self._health.pop(key, None)
        if begun is not None:
            self._health[key] = begun

    def take_over(self) -> None:
        """End the trouble that was on when the run before ended, and take its events that it could not store.

        Whoever was told of trouble waits for its end. What is still on is told anew as soon as it is found.
        """

        def told(connection: sqlite3.Connection, one: Health) -> None:
            if self._told is not None:
                detail = {"reason": "the program was started anew"}
                self._told.on_health(connection, one.camera, "", one.kind, detail, over=True)

        self._unstored.update({event.id: event for event in self._waiting.left()})
        if not self._try(lambda: self._store.end_open_health(told)):
            self._unwritten.append(lambda: self._store.end_open_health(told))

    def segment(self, camera: str, detail: Mapping[str, Any]) -> None:
        """Index a recorded file: without a row it would be in no clip, count to no cap, and never be deleted."""
        self._surely(
            lambda: self._store.add_segment(
                camera,
                detail["path"],
                detail["start_utc_s"],
                detail["end_utc_s"],
                detail["start_pts_s"],
                detail["bytes"],
                detail["codec"],
            )
        )

    def gap(self, camera: str, start_utc_s: float, end_utc_s: float, reason: str) -> None:
        """Write time that was not looked at."""
        self._surely(lambda: self._store.add_gap(camera, start_utc_s, end_utc_s, reason))

    def was_away(self, camera: str, utc_s: float) -> None:
        """A camera is taken up: the time since anything was last known of it was not looked at."""
        self._try(lambda: self._store.add_time_off(camera, utc_s))

    def scores(self, camera: str, scores: Sequence[tuple[float, float, float, float]]) -> bool:
        """Write (utc_s, pts_s, score, decision_score); False where the store could not."""
        return self._try(lambda: self._store.add_scores(camera, scores))

    def watches(self, camera: str, model: str, recipe: str, threshold: float | None) -> None:
        """A camera is watched by this model, at this threshold, from now on."""
        self._try(lambda: self._store.set_model(camera, model, recipe, time.time()))
        self._try(lambda: self._on_watches(camera, model, recipe, threshold))

    def masked(self, camera: str, black: Masks) -> None:
        """A camera is painted with these privacy masks from now on."""
        self._try(lambda: self._store.set_masks(camera, black))

    def stands(self, camera: str, state: Mapping[str, Any]) -> None:
        """Tell others how a camera stands now; nothing is stored."""
        if self._told is not None:
            self._told.set_camera_state(camera, state)

    def last_state(self, camera: str) -> tuple[str, float] | None:
        """The state that somebody set a camera to before this run, and when (POSIX seconds)."""
        try:
            found = self._store.states().get(camera)
        except StoreError as error:
            self._say(error)
            return None
        return None if found is None else (found.state, found.since_utc_s)

    def keep_plan(self, camera: str, kept: str) -> None:
        """Keep the schedule that may overrule what is set by hand (`anomaly.edge.state`) for a later run."""
        self._try(lambda: self._store.set_fact(_PLAN + camera, kept))

    def plan(self, camera: str) -> str | None:
        """What `keep_plan` kept last of a camera; None = nothing."""
        return self._fact(_PLAN + camera)

    def coverage(self, camera: str) -> str | None:
        """What `keep_coverage` kept last of a camera; None = nothing."""
        return self._fact(_COVERAGE + camera)

    def keep_coverage(self, camera: str, kept: str) -> None:
        """Keep what of a camera's time was looked at (`anomaly.edge.blind`) for a later run."""
        self._try(lambda: self._store.set_fact(_COVERAGE + camera, kept))

    def chose(self, camera: str, recipe: str, instead_of: str) -> None:
        """Somebody chose a recipe for a camera; the site file starts it with `instead_of`."""
        _LOG.info("%s is looked at with recipe %s", camera, recipe)
        self._try(lambda: self._store.set_recipe(camera, recipe, instead_of))

    def chosen(self, camera: str) -> tuple[str, str] | None:
        """The recipe that somebody chose last, and what the site file said then; None = nobody did."""
        try:
            return self._store.recipe(camera)
        except StoreError as error:
            self._say(error)
            return None

    def state(self, camera: str, state: str, who: str, utc_s: float) -> None:
        """Somebody set a camera's state."""
        _LOG.info("%s is %s, set by %s", camera, state, who)
        self._try(lambda: self._store.set_state(camera, state, who, utc_s))

    def _surely(self, write: Callable[[], object]) -> None:
        """Write now, or keep it to be written later."""
        if self._later or not self._try(write):
            # Where it is too much, the oldest goes: it would be deleted first. The next start finds files without a row.
            self._later.append(write)

    def _fact(self, name: str) -> str | None:
        try:
            return self._store.fact(name)
        except StoreError as error:
            self._say(error)
            return None

    def _try(self, write: Callable[[], object]) -> bool:
        """Whether a write was done; EventGoneError is raised, for it says nothing against the store."""
        try:
            write()
        except EventGoneError:
            raise
        except StoreError as error:
            self._say(error)
            return False
        if self._failing:
            _LOG.warning("the store can be written again")
        self._failing = self._replaced = False
        return True

    def _say(self, error: StoreError) -> None:
        # A full disk fails every write; the log is on the same disk.
        if not self._failing:
            _LOG.error("the store cannot be written, scoring and alarms go on: %s", error)
        self._failing = True
        self._failed_s, self._reason = time.monotonic(), str(error)
        # A file that was taken away may be put back.
        self._damaged = self._damaged or is_corrupt(error)
        self._replaced = isinstance(error, StoreReplacedError)
        if self._fails_since_s is None:
            self._fails_since_s = self._failed_s
