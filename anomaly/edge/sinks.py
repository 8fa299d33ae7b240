"""Where frames and events go. A sink is a context manager; `write` takes what was watched."""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly.footage.clips import VideoWriter
from anomaly.heatmap import draw_box, heat_range, laid_over
from anomaly.locks import alone_in

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from anomaly.edge.incidents import Event
    from anomaly.edge.watch import Watched
    from anomaly.thresholds import Threshold
    from anomaly.types import ImageArray

_ALARM = (230, 60, 40)
_CALM = (70, 160, 90)


class EventLog:
    """`events.jsonl`: one line an event, with a snapshot of its worst frame beside it.

    A line is on the disk before the next frame is looked at, so that a kill loses nothing that was told.
    Events of an earlier run into the same folder are kept: they move, with their snapshots and what was annotated,
    to a folder below `earlier/`.

    Attributes:
        count: events written.
        earlier: where the events of the run before went, None where there were none.

    Raises:
        UsageError: on entering, where another run is still writing into the folder.
    """

    def __init__(self, folder: Path, threshold: Threshold) -> None:
        self._folder = folder
        self._threshold = threshold
        self.count = 0
        self.earlier: Path | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            # A second run would carry off what the first is writing.
            opened.enter_context(
                alone_in(
                    self._folder,
                    f"--out {str(self._folder)!r} is being written by another run; wait until it has ended, or give another "
                    "folder",
                )
            )
            self.earlier = _set_aside(self._folder)
            self._file = opened.enter_context((self._folder / "events.jsonl").open("x", encoding="utf-8"))
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def write(self, event: Event) -> None:
        """Write one event and its snapshot."""
        self.count += 1
        image = event.frame.image
        size = image.shape[0], image.shape[1]
        box = event.look.box(size)
        snapshot = f"snapshots/event_{self.count:04d}.jpg"
        path = self._folder / snapshot
        path.parent.mkdir(exist_ok=True)
        hot = laid_over(image, event.look.heatmap(size), self._threshold.value)
        write_jpeg(path, draw_box(hot, box))
        line = {
            "event": self.count,
            "source": event.source,
            "camera": event.camera,
            "start_s": round(event.start_s, 6),
            "peak_s": round(event.peak_s, 6),
            "end_s": round(event.end_s, 6),
            "score": event.score,
            "threshold": self._threshold.value,
            "certified": self._threshold.certified,
            "continued": event.continued,
            "box": [box.x0, box.y0, box.x1, box.y1],
            "snapshot": snapshot,
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def _set_aside(folder: Path) -> Path | None:
    """Move the events and pictures of the run before to a folder of their own, named by when it ended."""
    log = folder / "events.jsonl"
    if not log.exists():
        return None
    ended = datetime.fromtimestamp(log.stat().st_mtime, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = folder / "earlier" / ended
    aside.mkdir(parents=True, exist_ok=True)
    # The log last: as long as it lies in its old place, a move that was cut off is not mistaken for a done one.
    for pictures in ("snapshots", "annotated"):
        if (folder / pictures).is_dir():
            (folder / pictures).rename(aside / pictures)
    log.rename(aside / log.name)
    return aside


class AnnotatedVideo:
    """The footage with its heatmap laid over, the score, and a red frame while an alarm is on.

    A stream whose pictures change their size in the middle is shown in the first one's.
    """

    def __init__(self, path: Path, threshold: Threshold, fps: float, opacity: float) -> None:
        self._writer = VideoWriter(path, fps=fps)
        self._size: tuple[int, int] | None = None
        self._threshold = threshold
        self._opacity = opacity

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def write(self, watched: Watched) -> None:
        """Write one frame."""
        drawn = annotate(watched, self._threshold, self._opacity)
        self._size = self._size or (drawn.shape[0], drawn.shape[1])
        self._writer.write(_fitted(drawn, *self._size), watched.frame.pts_s)


def _fitted(image: ImageArray, height: int, width: int) -> ImageArray:
    """The picture in another size, in its own shape, with black bars where the shapes differ."""
    if image.shape[:2] == (height, width):
        return image
    scale = min(height / image.shape[0], width / image.shape[1])
    inner = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    top, left = (height - inner[1]) // 2, (width - inner[0]) // 2
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(
        image, inner, interpolation=cv2.INTER_AREA
    )
    return canvas


def annotate(watched: Watched, threshold: Threshold, opacity: float) -> ImageArray:
    """One frame as the operator sees it: heatmap, score bar, and whether an alarm is on."""
    image = watched.frame.image
    height, width = image.shape[:2]
    low, high = heat_range(threshold.value)
    drawn = laid_over(image, watched.look.heatmap((height, width)), threshold.value, opacity)
    colour = _ALARM if watched.decision.alarm else _CALM
    if watched.decision.alarm:
        cv2.rectangle(drawn, (0, 0), (width - 1, height - 1), _ALARM, max(2, height // 80))
    # The bar's middle is the threshold: left of it is calm, right of it alarms.
    bar = max(4, height // 40)
    share = (watched.decision.score - low) / max(2 * ((threshold.value or high) - low), 1e-9)
    cv2.rectangle(drawn, (0, height - bar), (int(min(max(share, 0.0), 1.0) * width), height - 1), colour, -1)
    cv2.line(drawn, (width // 2, height - 2 * bar), (width // 2, height - 1), (255, 255, 255), 1)
    text = f"{watched.decision.score:.2f}" + (f" / {threshold.value:.2f}" if threshold.value else "")
    if not threshold.certified:
        text += " UNCERTIFIED"
    scale = max(0.42, height / 700)
    x, y = 6, int(26 * scale) + 4
    # The edge is the same text, shifted: a thicker one is wider too, and would stand beside it.
    for place, ink in (((x - 1, y), 0), ((x + 1, y), 0), ((x, y - 1), 0), ((x, y + 1), 0), ((x, y), 255)):
        cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (ink, ink, ink), 1, cv2.LINE_AA)
    return drawn


def write_jpeg(path: Path, image: ImageArray) -> None:
    """Write a picture (H, W, 3) uint8 RGB as JPEG; raises OSError where it cannot be written."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        path.unlink(missing_ok=True)
        # A disk that is full names no file.
        raise OSError(error.errno, error.strerror, str(path)) from None
