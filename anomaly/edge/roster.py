"""Which cameras are watched: taken up, changed over and left as the site says, each on its own."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from anomaly.edge.capture import Capture, CaptureSettings, Report
from anomaly.edge.health import Trouble
from anomaly.edge.live import LiveCamera

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anomaly.edge.ledger import Ledger
    from anomaly.edge.loading import Models
    from anomaly.edge.site import CameraSite, Site

_LOG = logging.getLogger(__name__)


class Roster:
    """The cameras of a site; all of it belongs to the runner's thread, but `cameras` may be read by any.

    Args:
        site: which cameras there should be.
        models: what looks at them, all of their recipes included.
        ledger: writes and tells.
        recording: folder of the rolling recording; None = cameras are not recorded.
        segment_s: length of a recorded file.
        later: has the runner's thread do something, from any other.

    Attributes:
        site, models: as given last.
        cameras: those that are watched, by name.
        leaving: those whose processes are still to end, and to tell of their last segments.
    """

    def __init__(
        self,
        site: Site,
        models: Models,
        ledger: Ledger,
        recording: Path | None,
        segment_s: float,
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        self.site = site
        self.models = models
        self.cameras: dict[str, LiveCamera] = {}
        self.leaving: list[LiveCamera] = []
        # Those of them for whose end nobody waits yet, and the names of cameras that are not yet as the site says.
        self._lingering: list[LiveCamera] = []
        self._behind: set[str] = set()
        self._ledger = ledger
        self._recording = recording
        self._segment_s = segment_s
        self._later = later
        self._may_record = True
        self._started = False
        for camera in site.cameras:
            self._add(camera, self._capture(camera))

    def start(self) -> None:
        """Start the captures, and from now on those of whoever is taken up."""
        self._started = True
        self.start_waiting()

    def tick(self) -> None:
        """About once a second: try again what failed."""
        for name in sorted(self._behind):
            self.follow_camera(name)
        lingering, self._lingering = self._lingering, []
        for camera in lingering:
            self._see_off(camera)
        self.start_waiting()

    def record(self, on: bool) -> None:
        """Record the cameras that the site records, or none; from any thread."""
        self._may_record = on
        for live in list(self.cameras.values()):
            live.capture.record_to(self._folder(live.site))

    def follow(self, site: Site, models: Models) -> None:
        """Have all cameras be as another site says."""
        self.models, self.site = models, site
        for name in dict.fromkeys([*self.cameras, *(camera.name for camera in site.cameras)]):
            self.follow_camera(name)

    def follow_camera(self, name: str) -> None:
        """Have one camera be as the site says. What fails is told and tried again, and no other camera waits for it."""
        now = time.time()
        try:
            self._take_from_site(name)
        except Exception as error:
            # No descriptor or memory to be had for now, as a rule.
            if name not in self._behind:
                _LOG.error("%s cannot be changed over", name, exc_info=True)
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                self._ledger.trouble(name, "", [Trouble("reload", True, now, {"reason": reason})])
            self._behind.add(name)
            return
        if name in self._behind:
            self._behind.discard(name)
            self._ledger.trouble(name, "", [Trouble("reload", False, now)])

    def _take_from_site(self, name: str) -> None:
        live = self.cameras.get(name)
        camera = next((one for one in self.site.cameras if one.name == name), None)
        if camera is None:
            if live is not None:
                self.remove(name)
            return
        if live is None or _read_otherwise(live.site, camera):
            # Where this fails, the camera goes on as it was read before.
            capture = self._capture(camera)
            if live is not None:
                self.remove(name)
            self._add(camera, capture)
            return
        # What somebody chose holds until the site file itself says something else.
        kept = live.recipe in camera.recipes and camera.recipe == live.site.recipe
        recipe = live.recipe if kept else camera.recipe
        live.take_site(camera)
        live.capture.record_to(self._folder(camera))
        live.use(self.models[camera.recipes.get(recipe, camera.model), camera.fps], recipe)

    def _capture(self, camera: CameraSite) -> Capture:
        return Capture(
            CaptureSettings(
                camera.name,
                camera.address,
                fps=camera.fps,
                recording=self._folder(camera),
                segment_s=self._segment_s,
                loop=camera.loop,
                black=camera.black,
            )
        )

    def _add(self, camera: CameraSite, capture: Capture) -> None:
        recipe = self._recipe_of(camera)
        path = camera.recipes.get(recipe, camera.model)
        live = LiveCamera(camera, recipe, self.models[path, camera.fps], capture, self._ledger)
        self.cameras[camera.name] = live
        self.start_waiting()

    def start_waiting(self) -> None:
        """Start the captures that were not yet, but for those whose forerunner of the same name still writes."""
        if not self._started:
            return
        busy = {live.site.name for live in self.leaving}
        for name, live in self.cameras.items():
            if name not in busy:
                live.start()

    def _recipe_of(self, camera: CameraSite) -> str:
        """The recipe to begin with: a power cut must not exchange the model for that of another product.

        Somebody's choice holds until the site file says something else than it did then.
        """
        chosen = self._ledger.chosen(camera.name)
        if chosen is None or chosen[1] != camera.recipe:
            return camera.recipe
        if chosen[0] not in camera.recipes:
            _LOG.warning("%s has no recipe %s any more, which was chosen", camera.name, chosen[0])
            return camera.recipe
        return chosen[0]

    def _folder(self, camera: CameraSite) -> Path | None:
        """Where a camera is recorded now."""
        return self._recording if camera.record and self._may_record else None

    def remove(self, name: str) -> None:
        """Leave a camera at once; its process ends on its own, and what it raised stays."""
        live = self.cameras.pop(name)
        self.leaving.append(live)
        self._see_off(live)
        live.finish()
        live.flush()
        live.forget_trouble()

    def _see_off(self, live: LiveCamera) -> None:
        """Have a camera's process end. Waiting for that is nobody's business here: a thread of its own does."""

        def leave() -> None:
            try:
                live.leave()
            finally:
                self._later(lambda: self._gone(live))

        name = live.site.name
        try:
            threading.Thread(target=leave, name=f"stop {name}", daemon=True).start()
        except RuntimeError as error:
            # No thread to be had now. Until there is one, a camera of the same name waits for it.
            self._lingering.append(live)
            successor = self.cameras.get(name)
            if successor is not None:
                now = time.monotonic_ns(), time.time()
                reason = f"the process that reads it otherwise could not be ended ({error})"
                successor.hear(Report(name, "crashed", *now, {"reason": reason}))

    def _gone(self, live: LiveCamera) -> None:
        """A camera's process has ended: its last segments are indexed, and its name is free."""
        live.hear_last()
        self.leaving.remove(live)
        self.start_waiting()


def _read_otherwise(before: CameraSite, now: CameraSite) -> bool:
    """Whether another site reads a camera in another way, so that its process must start anew."""
    names = "address", "fps", "black", "loop"
    return any(getattr(before, name) != getattr(now, name) for name in names)
