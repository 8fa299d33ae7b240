"""The store: events, recordings, scores and health in one SQLite file beside the folders of their pictures."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anomaly.edge.segment_name import mask_mark
from anomaly.edge.store import deletion, erased, event, leftovers, review, timeline
from anomaly.edge.store.opening import OpenFolder
from anomaly.errors import EventGoneError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anomaly.edge.store.deletion import Deleted
    from anomaly.edge.store.event import StoredEvent
    from anomaly.edge.store.review import Miss, Verdict
    from anomaly.edge.store.timeline import CameraState, Gap, Health, Masks, ScorePoint, Segment

#: Names of facts: the recipe that was chosen for a camera.
_RECIPE = "recipe."
#: Shorter times off are those of a camera's process that starts anew.
_LEAST_OFF_S = 1.0


class Store(OpenFolder):
    """A folder with `anomaly.db`, `snapshots/`, `clips/` and `recording/`; for many threads and processes.

    The runner owns it: one owner at a time, who repairs at the start what a kill or a fault left behind
    (`notices` says what). Other processes open it with `owner=False`, beside the owner or without one.

    Every method that writes has committed, synced to the disk, when it returns. All raise StoreError, and
    StoreFullError where the disk is full: nothing was written then.

    Args:
        folder: made where there is none (by an owner).
        on_event: called inside the transaction that writes an event, with the connection, the event and
            "start", "update" or "end": what they write is committed with it, or not at all.
        on_delete: called likewise with the connection and each event that is deleted.
        schemas: more tables, of those who share the database.
        owner: see above.

    Attributes:
        folder: as given.
        notices: what was repaired when it was opened, one line each.
    """

    # Events

    def start_event(self, **values: Any) -> StoredEvent:
        """Store a new event; it may be announced once this has returned.

        Args:
            values: fields of `StoredEvent` but the id; `event.REQUIRED` at least. The peak is the start
                where it is not given.

        Raises:
            StoreFullError: not even the room kept for events (the ballast) was enough.
        """

        def write(connection: sqlite3.Connection) -> StoredEvent:
            stored = event.insert(connection, values, time.time())
            # An event ends with the masks under which it began.
            mark = mask_mark(timeline.masks(connection).get(stored.camera, ()))
            timeline.mark_media(connection, stored.id, "pictures", mark)
            self.tell(connection, stored, "start")
            return stored

        return self.write(write)

    def update_event(self, event_id: str, **changes: Any) -> StoredEvent:
        """Change fields of an event, which is told as its "update".

        Raises:
            EventGoneError: there is no such event; as of all that change one.
        """
        return self._change(event_id, changes, "update")

    def end_event(self, event_id: str, end_utc_s: float, end_pts_s: float, **changes: Any) -> StoredEvent:
        """Write the end of an event (and other fields), which is told as its "end"."""
        ended = {"status": "ended", **changes, "end_utc_s": end_utc_s, "end_pts_s": end_pts_s}
        return self._change(event_id, ended, "end")

    def describe_event(self, event_id: str, **changes: Any) -> StoredEvent:
        """Change fields of an event (its pictures) and tell nobody."""
        return self._change(event_id, changes, None)

    def set_clip(
        self,
        item_id: str,
        used: Sequence[int] = (),
        *,
        miss: bool = False,
        mark: str = "",
        **changes: Any,
    ) -> bool:
        """Write clip, clip_state, preview and what the clip covers, of an event or a miss; tells nobody.

        Args:
            item_id: id of the event or the miss.
            used: ids of the segments that the clip shows.
            miss: whether it is a miss.
            mark: of the privacy masks that the clip was painted with, which may not be those of now
                (`anomaly.edge.segment_name`).
            changes: the columns.

        Returns:
            False where the item or one of the segments was deleted meanwhile: nothing was written then, and
            the files must go.
        """

        def write(connection: sqlite3.Connection) -> bool:
            marks = ", ".join("?" for _ in used)
            there = connection.execute(f"SELECT count(*) FROM segments WHERE id IN ({marks})", tuple(used))
            if there.fetchone()[0] < len(used):
                return False
            assigned = ", ".join(f"{name} = ?" for name in changes)
            table = "misses" if miss else "events"
            done = connection.execute(
                f"UPDATE {table} SET {assigned} WHERE id = ? RETURNING id", (*changes.values(), item_id)
            ).fetchall()
            if done and changes.get("clip"):
                timeline.mark_media(connection, item_id, "clip", mark)
            return len(done) == 1

        return self.write(write)

    def events(
        self,
        *,
        camera: str | None = None,
        since: float | None = None,
        until: float | None = None,
        before_id: str | None = None,
        limit: int = 100,
        unreviewed: bool = False,
        announced: bool | None = None,
        clip_state: str | None = None,
    ) -> list[StoredEvent]:
        """Events that meet all that is given, newest first.

        Args:
            camera: of this camera.
            since, until: that overlap since <= time < until, in POSIX seconds.
            before_id: stored before this one (the last of the page before).
            limit: so many at most.
            unreviewed: without a verdict.
            announced: announced, or only stored.
            clip_state: with this state of their clip.
        """
        conditions = {
            "camera = ?": camera,
            "(end_utc_s IS NULL OR end_utc_s >= ?)": since,
            "start_utc_s < ?": until,
            "id < ?": before_id,
            "announced = ?": announced,
            "clip_state = ?": clip_state,
        }
        given = {where: value for where, value in conditions.items() if value is not None}
        where = [*given, *(["id NOT IN (SELECT event_id FROM verdicts)"] if unreviewed else [])]
        with self.reading() as connection:
            return event.select(connection, where, tuple(given.values()), limit)

    def event(self, event_id: str) -> StoredEvent | None:
        """One event; None where there is none."""
        with self.reading() as connection:
            return event.get(connection, event_id)

    def hold(self, event_id: str, held: bool = True) -> StoredEvent:
        """Keep an event from retention, or let it go again."""
        return self._change(event_id, {"held": held}, None)

    def delete_event(self, event_id: str) -> bool:
        """Delete an event, its verdicts and its files, held or not; False where there was none."""

        def write(connection: sqlite3.Connection) -> bool:
            stored = event.get(connection, event_id)
            if stored is None:
                return False
            deletion.delete_event(connection, stored)
            self.forget(connection, stored)
            return True

        done = self.write(write)
        self._wipe()
        return done

    def delete(self, camera: str, start_utc_s: float, end_utc_s: float) -> Deleted:
        """Delete all that shows a camera in an interval, as `deletion` and `leftovers` say.

        What comes of the time before now afterwards (a segment that is being written) is not taken in. Cut off in the
        middle, by a kill or a full disk, it is gone on with at the next start.
        """
        span = (camera, start_utc_s, end_utc_s)
        self.write(lambda connection: erased.begin(connection, *span, time.time()))
        return self.delete_begun(*span)

    def is_erased(self, camera: str, start_utc_s: float, end_utc_s: float) -> bool:
        """Whether a camera's time from start to end reaches into what was deleted."""
        with self.reading() as connection:
            return erased.is_erased(connection, camera, start_utc_s, end_utc_s, time.time())

    # What people say

    def add_verdict(self, event_id: str, verdict: str, who: str, note: str = "") -> Verdict:
        """Write what somebody says of an event: "real", "false alarm" or "unsure"; the last verdict counts."""
        return self.write(
            lambda connection: review.add_verdict(connection, event_id, verdict, who, note, time.time())
        )

    def verdicts(self, event_id: str | None = None) -> list[Verdict]:
        """Verdicts of an event (or of all), oldest first."""
        with self.reading() as connection:
            return review.verdicts(connection, event_id)

    def mark_miss(
        self,
        camera: str,
        start_utc_s: float,
        end_utc_s: float,
        label: str,
        who: str,
        model: str | None = None,
    ) -> Miss:
        """Write an anomaly that raised no event; `model` is the one that watched then, where not given."""
        return self.write(
            lambda connection: review.mark_miss(
                connection, camera, start_utc_s, end_utc_s, label, who, model, time.time()
            )
        )

    def misses(self, camera: str | None = None, *, clip_state: str | None = None) -> list[Miss]:
        """Marked misses, newest first."""
        where = "(? IS NULL OR camera = ?) AND (? IS NULL OR clip_state = ?)"
        with self.reading() as connection:
            return review.misses(connection, where, (camera, camera, clip_state, clip_state))

    def delete_miss(self, miss_id: str) -> bool:
        """Take a miss back, with its clip; False where there was none."""

        def write(connection: sqlite3.Connection) -> bool:
            found = review.misses(connection, "id = ?", (miss_id,))
            for miss in found:
                deletion.delete_miss(connection, miss)
            return bool(found)

        done = self.write(write)
        self._wipe()
        return done

    # What fills a camera's time

    def add_segment(
        self,
        camera: str,
        path: str | Path,
        start_utc_s: float,
        end_utc_s: float,
        start_pts_s: float,
        bytes: int,
        codec: str,
    ) -> int:
        """Index a recorded file; `path` is relative to `recording/`. Returns its id.

        One that reaches into a deleted interval is removed, and has none: 0.
        """
        segment = timeline.Segment(camera, Path(path), start_utc_s, end_utc_s, start_pts_s, bytes, codec)

        def write(connection: sqlite3.Connection) -> int:
            if not erased.is_erased(connection, camera, start_utc_s, end_utc_s, time.time()):
                return timeline.add_segment(connection, segment)
            deletion.doom(connection, [f"{deletion.RECORDING}/{segment.path.as_posix()}"])
            return 0

        added = self.write(write)
        if not added:
            self.remove_doomed()
        return added

    def segments(self, camera: str, start_utc_s: float, end_utc_s: float) -> list[Segment]:
        """Segments that overlap start <= time < end, in the order in which they were recorded."""
        where = "camera = ? AND start_utc_s < ? AND end_utc_s > ? ORDER BY id"
        with self.reading() as connection:
            return timeline.segments(
                connection, self.folder / deletion.RECORDING, where, (camera, end_utc_s, start_utc_s)
            )

    def add_scores(self, camera: str, scores: Sequence[tuple[float, float, float, float]]) -> None:
        """Store a batch of (utc_s, pts_s, score, decision_score), about a second of it; none of a deleted time."""
        self.write(
            lambda connection: timeline.add_scores(
                connection, camera, erased.kept(connection, camera, scores, time.time())
            )
        )

    def scores(self, camera: str, since: float, until: float, at_most: int = 2000) -> list[ScorePoint]:
        """Scores of since <= time < until, thinned to the maxima of `at_most` stretches of time."""
        with self.reading() as connection:
            return timeline.scores(connection, camera, since, until, at_most)

    def add_health(
        self, camera: str, kind: str, utc_s: float, detail: Mapping[str, Any] | None = None
    ) -> int:
        """Write the beginning of a health event; returns its id for `end_health`. Camera "" is the machine."""
        return self.write(
            lambda connection: timeline.add_health(connection, camera, kind, utc_s, detail or {})
        )

    def end_health(self, health_id: int, utc_s: float) -> None:
        """Write the end of a health event."""
        self.write(lambda connection: timeline.end_health(connection, health_id, utc_s))

    def end_open_health(self, on_end: Callable[[sqlite3.Connection, Health], None]) -> None:
        """End the health events that have no end, at the last time known of their camera.

        Args:
            on_end: called with each, inside the transaction.
        """

        def write(connection: sqlite3.Connection) -> None:
            for one in timeline.open_health(connection):
                known_s = timeline.last_known(connection, one.camera)
                timeline.end_health(connection, one.id, max(one.utc_s, known_s or 0.0))
                on_end(connection, one)

        self.write(write)

    def health(self, camera: str | None = None, since: float | None = None, limit: int = 100) -> list[Health]:
        """Health events that were on since then, newest first."""
        with self.reading() as connection:
            return timeline.health(connection, camera, since, limit)

    def open_health(self, camera: str | None = None) -> list[Health]:
        """Health events that are still on, newest first."""
        with self.reading() as connection:
            found = timeline.open_health(connection)
        return [one for one in reversed(found) if camera in (None, one.camera)]

    def add_gap(self, camera: str, start_utc_s: float, end_utc_s: float, reason: str) -> None:
        """Write time in which a camera was blind ("blind"), not monitored ("state") or not taken up ("off")."""
        self.write(lambda connection: timeline.add_gap(connection, camera, start_utc_s, end_utc_s, reason))

    def add_time_off(self, camera: str, utc_s: float) -> None:
        """Write the time from the last score or gap of a camera until now as a gap, "off", if over a second."""

        def write(connection: sqlite3.Connection) -> None:
            known_s = timeline.last_known(connection, camera)
            if known_s is not None and known_s + _LEAST_OFF_S < utc_s:
                timeline.add_gap(connection, camera, known_s, utc_s, "off")

        self.write(write)

    def gaps(self, camera: str, since: float, until: float) -> list[Gap]:
        """Gaps that overlap since <= time < until, oldest first."""
        with self.reading() as connection:
            return timeline.gaps(connection, camera, since, until)

    def set_state(self, camera: str, state: str, who: str, since_utc_s: float) -> None:
        """Write the state that somebody set a camera to."""
        self.write(
            lambda connection: connection.execute(
                "INSERT INTO states (camera, state, who, since_utc_s) VALUES (?, ?, ?, ?)",
                (camera, state, who, since_utc_s),
            )
        )

    def states(self) -> dict[str, CameraState]:
        """The last state set, by camera."""
        with self.reading() as connection:
            return timeline.states(connection)

    def cameras(self) -> list[str]:
        """Names of all cameras that anything is kept of, also of those that left the site."""
        with self.reading() as connection:
            known = timeline.cameras(connection)
        return sorted({*known, *leftovers.cameras(self.folder)})

    def set_masks(self, camera: str, black: Masks) -> None:
        """Keep the privacy masks that a camera has now; they hide what was recorded of it when it is gone, too."""
        self.write(lambda connection: timeline.set_masks(connection, camera, black))

    def masks(self) -> dict[str, Masks]:
        """The privacy masks that each camera had last, whether it is still there or not; none of cameras without."""
        with self.reading() as connection:
            return timeline.masks(connection)

    def media_mark(self, item_id: str, kind: Literal["pictures", "clip"]) -> str:
        """The mark of the masks that an event's pictures, or the clip of an event or a miss, were made under.

        "" where there were none, or where they were made before this was noted.
        """
        with self.reading() as connection:
            return timeline.media_mark(connection, item_id, kind)

    def set_model(self, camera: str, model: str, recipe: str, since_utc_s: float) -> None:
        """Write which model (sha256) and recipe watch a camera from now on; misses are put down to them."""
        self.write(
            lambda connection: connection.execute(
                "INSERT INTO models (camera, model, recipe, since_utc_s) VALUES (?, ?, ?, ?)",
                (camera, model, recipe, since_utc_s),
            )
        )

    def set_recipe(self, camera: str, recipe: str, instead_of: str) -> None:
        """Keep the recipe that somebody chose, and what the site file says of that camera."""
        self.set_fact(_RECIPE + camera, json.dumps([recipe, instead_of]))

    def recipe(self, camera: str) -> tuple[str, str] | None:
        """The recipe that somebody chose last for a camera, and what the site file said then."""
        kept = self.fact(_RECIPE + camera)
        if kept is None:
            return None
        recipe, instead_of = json.loads(kept)
        return recipe, instead_of

    # Upkeep

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database, as far as readers allow; no writer waits for it."""
        with self.reading() as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def fact(self, name: str) -> str | None:
        """A small value kept under a name; None where there is none."""
        with self.reading() as connection:
            row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
            return None if row is None else str(row[0])

    def set_fact(self, name: str, value: str) -> None:
        """Keep a small value under a name."""
        self.write(
            lambda connection: connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
        )

    def _change(self, event_id: str, changes: Mapping[str, Any], what: str | None) -> StoredEvent:
        def write(connection: sqlite3.Connection) -> StoredEvent:
            stored = event.change(connection, event_id, changes)
            if stored is None:
                raise EventGoneError(f"there is no event {event_id}; it may have been deleted")
            if what is not None:
                self.tell(connection, stored, what)
            return stored

        return self.write(write)
