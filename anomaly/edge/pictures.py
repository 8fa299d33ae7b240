"""Pictures of an event (snapshot, heatmap, the most similar normal moment), made beside the loop.

An event is stored and told before any of them exists; a picture that cannot be written costs the picture only.
"""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2

from anomaly.edge.durable import write_bytes
from anomaly.edge.helper import Helper
from anomaly.errors import AnomalyError, EventGoneError, StoreError
from anomaly.explanation import Moment, draw, headline, match
from anomaly.heatmap import draw_box, laid_over

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from anomaly.detector import Look
    from anomaly.edge.health import Trouble
    from anomaly.edge.loaded import Loaded
    from anomaly.edge.store import Store
    from anomaly.types import Frame, ImageArray

_LOG = logging.getLogger(__name__)
#: Frames that wait for their pictures are whole frames in memory.
_MOST_WAITING = 32
_QUALITY = 90


@dataclass(frozen=True, eq=False)
class Shot:
    """A frame of an event that is to be shown.

    Attributes:
        event_id, camera: of the event.
        frame, look: its highest frame so far, and what was seen in it.
        start_s, end_s: of the event, in the stream's time.
        score, threshold: of the event.
        loaded: what looked.
        told: whether sinks are told of the pictures (those of a start), or they only replace earlier ones.
    """

    event_id: str
    camera: str
    frame: Frame
    look: Look
    start_s: float
    end_s: float
    score: float
    threshold: float
    loaded: Loaded
    told: bool


class Pictures:
    """A thread that writes the pictures of events.

    Args:
        store: whose `snapshots/` they go to.
        on_trouble: called, in the thread, where its work fails for a reason that nobody foresaw, and when it is done again.
    """

    def __init__(self, store: Store, on_trouble: Callable[[Trouble], None] = lambda _: None) -> None:
        self._helper = Helper("pictures", on_trouble)
        self._store = store
        self._waiting: queue.Queue[Shot | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="pictures", daemon=True)
        self._thread.start()

    def offer(self, shot: Shot) -> None:
        """Have a frame shown; returns at once. Behind a disk that hangs the newest are left out."""
        if self._waiting.qsize() < _MOST_WAITING:
            self._waiting.put(shot)
        else:
            _LOG.warning("event %s: no picture, too many wait", shot.event_id)

    def close(self, timeout_s: float = 10.0) -> None:
        """Write those that wait, then end."""
        self._waiting.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (shot := self._waiting.get()) is not None:
            try:
                self._write(shot)
            except (AnomalyError, OSError) as error:
                _LOG.warning("event %s: no picture: %s", shot.event_id, error)
            except Exception as error:
                # A library may raise anything; where this thread ends, no event has a picture any more.
                self._helper.failed(error)
            else:
                self._helper.worked()

    def _write(self, shot: Shot) -> None:
        image = shot.frame.image
        size = image.shape[0], image.shape[1]
        heatmap, box = shot.look.heatmap(size), shot.look.box(size)
        hot = laid_over(image, heatmap, shot.threshold)
        moment = Moment(shot.frame, shot.look, shot.start_s, shot.end_s, shot.score)
        # One question to the network; the loop waits for it at most once an event.
        with shot.loaded.lock:
            matches = match(shot.loaded.model, shot.loaded.exemplars, moment)
        line = headline(matches)
        drawn = draw(moment, matches, shot.loaded.exemplars, line, shot.threshold)
        names = {kind: f"snapshots/{shot.event_id}.{kind}.jpg" for kind in ("snapshot", "heatmap", "normal")}
        for kind, picture in (("snapshot", image), ("heatmap", draw_box(hot, box)), ("normal", drawn)):
            self._save(self._store.path(names[kind]), picture)
        found: dict[str, Any] = {
            **names,
            "box": (box.x0, box.y0, box.x1, box.y1),
            "frame_size": size,
            "explanation": {
                "text": line,
                **({"source": matches[0].source, "time_s": matches[0].time_s} if matches else {}),
            },
        }
        try:
            if shot.told:
                self._store.update_event(shot.event_id, **found)
            else:
                self._store.describe_event(shot.event_id, **found)
        except StoreError as error:
            # Deleted while they were drawn, they must not show what is to be gone; nor be left where no row names them.
            if shot.told or isinstance(error, EventGoneError):
                for name in names.values():
                    self._store.path(name).unlink(missing_ok=True)
            raise

    def _save(self, path: Path, image: ImageArray) -> None:
        done, data = cv2.imencode(
            ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        )
        if not done:
            raise OSError(f"{path.name} could not be encoded")
        write_bytes(path, data.tobytes())
