"""The edge runner: all cameras of a site, one thread that scores, everything that may wait beside it.

Each camera is read by a process of its own (`capture`). The thread here takes the newest frame of each camera that
has one, looks at those that share a model together, decides, and writes an event before anyone is told (`ledger`).
Models are loaded and verified in a thread of their own and take over between two frames; whatever fails to load
leaves the one that runs in place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from anomaly.edge.health import ClockWatch, StandstillWatch, Trouble
from anomaly.edge.loading import Loader
from anomaly.edge.roster import Roster
from anomaly.edge.state import known_state
from anomaly.edge.systemd import is_started_again
from anomaly.errors import AnomalyError, StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anomaly.detector import Look
    from anomaly.edge.ledger import Ledger
    from anomaly.edge.live import LiveCamera, LiveView
    from anomaly.edge.loaded import Loaded
    from anomaly.edge.loading import Load, Models
    from anomaly.edge.site import CameraSite, Site
    from anomaly.types import Frame

_LOG = logging.getLogger(__name__)
_WAIT_S = 0.25
_TICK_S = 1.0
#: At the end the processes of all cameras together have so long. With what else is waited for it is well under the
#: unit's TimeoutStopSec, after which nothing more would be written down.
_LEAVE_S = 10.0
#: A reload that takes longer is told. An engine may have to be built; or what is read lies on a share that is away, and never comes.
_LONG_RELOAD_S = 300.0
#: A damaged database is repaired by a start only, so the program ends for whoever starts it again; not sooner than this, lest
#: it do nothing but start where that does not help.
_BEFORE_DAMAGE_ENDS_S = 600.0


class Runner:
    """Scores the cameras of a site until it is stopped.

    Args:
        site: cameras and what looks at them.
        ledger: writes and tells.
        load: loads a model; raises AnomalyError where it cannot be verified.
        recording: folder of the rolling recording; None = cameras are not recorded.
        segment_s: length of a recorded file.
        require_certificate: take up no camera that one of its models would watch uncertified.
        alive: called about once a second while the cameras that are there are scored.

    Raises:
        AnomalyError: a model of the site cannot be loaded, or watch its camera.
    """

    def __init__(
        self,
        site: Site,
        ledger: Ledger,
        load: Load,
        *,
        recording: Path | None = None,
        segment_s: float = 10.0,
        require_certificate: bool = False,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._loader = Loader(load, require_certificate=require_certificate)
        self._alive = alive
        models = self._loader.site(site)
        # Simple, for a signal's handler may put into it while the thread that it interrupts takes out of it.
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake_read, self._wake_write = Pipe(duplex=False)
        self._stopping = threading.Event()
        self._new = threading.Condition()
        self._clock = ClockWatch()
        self._standstill = StandstillWatch()
        self._loading: threading.Thread | None = None
        # A signal may ask for a reload while this is held by the thread that it interrupts.
        self._reloading = threading.RLock()
        self._asked: Callable[[], Site] | None = None
        self._at_it = False
        # Since when the reload that is being done is (monotonic); None = there is none, or it was told that it takes long.
        self._reload_since: float | None = None
        self.started_utc_s = time.time()
        self._began_s = time.monotonic()
        self.model_s = 0.0
        self.busy_s = 0.0
        self._ledger.take_over()
        self._roster = Roster(site, models, ledger, recording, segment_s, self._do)
        self._cameras = self._roster.cameras

    @property
    def site(self) -> Site:
        """The cameras that there should be, and what looks at them."""
        return self._roster.site

    # -- the loop ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Score until `stop`, or until every camera was a file and is over. Then everything is written down.

        Raises:
            AnomalyError: the device fails, or the database is damaged and somebody starts the program again.
        """
        self._roster.start()
        ticked = 0.0
        try:
            while not self._stopping.is_set():
                cameras = list(self._cameras.values())
                handles: list[Any] = [camera.capture.wait_handle for camera in cameras]
                wait([*handles, self._wake_read], timeout=_WAIT_S)
                began = time.perf_counter()
                self._obey()
                self._pass(list(self._cameras.values()))
                if time.monotonic() - ticked >= _TICK_S:
                    ticked = time.monotonic()
                    self._tick()
                self.busy_s += time.perf_counter() - began
                if self._cameras and all(camera.over for camera in self._cameras.values()):
                    break
        finally:
            self._close()

    def _pass(self, cameras: list[LiveCamera]) -> None:
        """The newest frame of each camera that has one; cameras with one model are looked at together."""
        groups: dict[int, tuple[Loaded, list[tuple[LiveCamera, Frame]]]] = {}
        for camera in cameras:
            for report in camera.capture.reports():
                camera.hear(report)
            frame = camera.newest()
            if frame is not None and camera.fresh(frame):
                camera.before(frame)
                # Cameras with regions of their own share the network all the same.
                network = id(camera.loaded.lock)
                groups.setdefault(network, (camera.loaded, []))[1].append((camera, frame))
        for loaded, items in groups.values():
            began = time.perf_counter()
            looks = self._look(loaded, items)
            self.model_s += time.perf_counter() - began
            for (camera, frame), look in zip(items, looks, strict=True):
                camera.see(frame, look)
        if groups:
            with self._new:
                self._new.notify_all()

    def _look(self, loaded: Loaded, items: list[tuple[LiveCamera, Frame]]) -> list[Look]:
        """Raises AnomalyError where the device fails; whoever started the runner starts it again."""
        try:
            return loaded.look(
                [frame.image for _, frame in items],
                [camera.recent for camera, _ in items],
                [camera.loaded.model.detector for camera, _ in items],
            )
        except Exception as error:
            # A GPU that is gone raises whatever its runtime raises; nothing can be scored with it any more.
            reason = " ".join(str(error).split())[:300]
            self._ledger.trouble("", "", [Trouble("device", True, time.time(), {"reason": reason})])
            raise AnomalyError(
                f"{loaded.model.device} cannot compute any more ({reason}); see to the device, then start again"
            ) from error

    def _tick(self) -> None:
        now_ns, utc_s = time.monotonic_ns(), time.time()
        step = self._clock.tick(now_ns, utc_s)
        if step is not None:
            # It is over as soon as it is seen; the row says when and by how much.
            self._ledger.trouble("", "", [step, Trouble(step.kind, False, utc_s, {})])
        self._ledger.trouble("", "", self._standstill.tick(now_ns, utc_s, self.model_s))
        for camera in self._cameras.values():
            camera.tick(now_ns, utc_s)
        self._roster.tick()
        self._tell_of_a_long_reload()
        self._ledger.tick()
        if self.keeps_up(30.0):
            self._alive()
        old_enough = time.monotonic() - self._began_s > _BEFORE_DAMAGE_ENDS_S
        # Where nobody starts it again, alarms that are told and not stored are better than none.
        if self._ledger.damage is not None and old_enough and is_started_again():
            raise StoreError(self._ledger.damage)

    def scored_since(self, seconds: float) -> bool:
        """Whether a frame was really scored in that time: of each camera that is there and had the time, and of one at least.

        Where no camera should be looked at (files that are over, states other than running) nothing is missed. A
        program that has just started has scored nothing, nor has one whose cameras are all gone.
        """
        due = [camera for camera in list(self._cameras.values()) if camera.due]
        well = all(camera.away or camera.keeps_up(seconds) for camera in due)
        return well and (not due or any(camera.scored_within(seconds) for camera in due))

    def keeps_up(self, seconds: float) -> bool:
        """Whether each camera that is there and should be looked at had a frame scored in that time, or had no time yet.

        One that was added or is read in another way has it as all have at the start. For whoever would start the program anew: that brings no camera back.
        """
        cameras = list(self._cameras.values())
        return all(not camera.due or camera.away or camera.keeps_up(seconds) for camera in cameras)

    def _close(self) -> None:
        for camera in self._cameras.values():
            camera.finish()
        stopping = []
        for camera in [*self._cameras.values(), *self._roster.leaving]:
            thread = threading.Thread(target=camera.leave, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # No thread is to be had: one after the other, so that each last segment is written down all the same.
                camera.leave()
            else:
                stopping.append(thread)
        until = time.monotonic() + _LEAVE_S
        for thread in stopping:
            thread.join(max(0.0, until - time.monotonic()))
        for camera in self._cameras.values():
            # The last segment of each is reported when its process ends.
            for report in camera.capture.reports():
                camera.hear(report)
            camera.settle()
            camera.flush()
        for camera in self._roster.leaving:
            camera.hear_last()
        self._ledger.tick()
        self._ledger.end(sum(camera.unsaved_scores for camera in self._cameras.values()))

    def stop(self) -> None:
        """End the loop soon; may be called from a signal handler."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            os.write(self._wake_write.fileno(), b"s")

    # -- what others may ask ----------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """How everything stands; `cameras` holds a dict a camera, `trouble` the kinds of the machine's own that is on."""
        return {
            "site": self.site.site,
            "line": self.site.line,
            "started_utc_s": self.started_utc_s,
            "events_in_memory": self._ledger.waiting,
            "trouble": self._ledger.machine_trouble,
            "not_stored": self._ledger.unwritable,
            "model_seconds": self.model_s,
            "busy_seconds": self.busy_s,
            "cameras": {name: camera.status() for name, camera in list(self._cameras.items())},
        }

    def live(self, camera: str) -> LiveView | None:
        """The last scored frame of a camera; KeyError where there is no such camera."""
        return self._cameras[camera].view

    def wait_for(self, camera: str, after_sequence: int, timeout_s: float) -> LiveView | None:
        """The next scored frame after one; None if none came in time; KeyError where there is no such camera."""
        until = time.monotonic() + timeout_s
        with self._new:
            while True:
                view = self._cameras[camera].view
                if view is not None and view.sequence > after_sequence:
                    return view
                rest = until - time.monotonic()
                if rest <= 0 or not self._new.wait(rest):
                    return None

    def set_state(self, camera: str, state: str, who: str) -> None:
        """Set a camera's state by hand.

        Raises:
            UsageError: there is no such camera, or no such state.
        """
        live = self._known(camera)
        known_state(state)
        self._do(lambda: live.set_state(state, who))

    def trouble(self, trouble: Trouble) -> None:
        """Write down and tell trouble of this machine that another thread found."""
        self._do(lambda: self._ledger.trouble("", "", [trouble]))

    def switch_recipe(self, camera: str, code: str) -> None:
        """Look at a camera with the model of another recipe, loaded already, from the next frame on.

        Raises:
            UsageError: there is no such camera, or it has no such recipe.
        """
        live = self._known(camera)
        if code not in live.site.recipes:
            known = ", ".join(sorted(live.site.recipes)) or "none"
            raise UsageError(f"camera {camera} has no recipe {code!r}; it has {known}")

        def switch() -> None:
            # A reload may have come between: what is loaded now is meant.
            if code in live.site.recipes:
                live.use(self._roster.models[live.site.recipes[code], live.site.fps], code)
                self._ledger.chose(camera, code, live.site.recipe)

        self._do(switch)

    def add_camera(self, camera: CameraSite) -> None:
        """Take up another camera while the others go on.

        Raises:
            UsageError: there is one of that name.
            AnomalyError: its model cannot be loaded, or watch it.
        """
        if camera.name in self._cameras:
            raise UsageError(f"there is a camera {camera.name} already; give another name")
        fresh = dict(self._roster.models)
        self._loader.camera(camera, fresh)

        def take_up() -> None:
            site = self._roster.site
            self._roster.models.update(fresh)
            others = tuple(one for one in site.cameras if one.name != camera.name)
            self._roster.site = replace(site, cameras=(*others, camera))
            self._roster.follow_camera(camera.name)

        self._do(take_up)

    def remove_camera(self, name: str) -> None:
        """Leave a camera; what it raised stays."""
        self._known(name)

        def leave() -> None:
            site = self._roster.site
            self._roster.site = replace(site, cameras=tuple(one for one in site.cameras if one.name != name))
            self._roster.remove(name)

        self._do(leave)

    def record(self, on: bool) -> None:
        """Stop the rolling recording of all cameras, or take it up again (the disk is full, or is not any more)."""
        self._roster.record(on)

    def reload(self, read: Callable[[], Site] | None = None) -> None:
        """Load all models anew, and take up the cameras of another site; returns at once.

        Between two frames everything changes over, or, where a model fails its verification, nothing does. What is
        asked for during a reload comes after it: the files may have changed since it read them.

        Args:
            read: gives the site; None = the one that runs.
        """
        with self._reloading:
            self._asked = read or (lambda: self.site)
            if self._at_it:
                return
            # Before the thread starts: a signal that comes between the two would start another one.
            self._at_it = True
            self._loading = threading.Thread(target=self._reload_all, name="reload", daemon=True)
            try:
                self._loading.start()
            except RuntimeError as error:
                # Not raised: who asks by a signal has nobody to catch it.
                self._at_it, self._asked = False, None
                self._stay(str(error))

    def _reload_all(self) -> None:
        while True:
            with self._reloading:
                read, self._asked = self._asked, None
                self._reload_since = None if read is None else time.monotonic()
                if read is None:
                    self._at_it = False
                    return
            self._reload(read)

    def _reload(self, read: Callable[[], Site]) -> None:
        try:
            site = read()
            fresh = self._loader.site(site)
        except Exception as error:
            # Whatever a file holds: who asked for the reload must learn that it was not done.
            known = isinstance(error, AnomalyError)
            self._stay(str(error) if known else " ".join(f"{type(error).__name__}: {error}".split())[:300])
            return
        self._do(lambda: self._change_over(site, fresh))

    def _tell_of_a_long_reload(self) -> None:
        since = self._reload_since
        if since is None or time.monotonic() - since < _LONG_RELOAD_S:
            return
        self._reload_since = None
        reason = (
            f"a reload has read {self._loader.reading or 'the site file'} for over {_LONG_RELOAD_S / 60:g} min; the models "
            "that run stay, and what is asked for meanwhile waits. Where that lies on a share that is away, start `run` again"
        )
        self._ledger.trouble(
            "", "", [Trouble("model", True, time.time(), {"kept": True, "loading": True, "reason": reason})]
        )

    def _stay(self, problem: str) -> None:
        """Tell that a reload was not done."""
        _LOG.error("the models that run stay: %s", problem)
        self.trouble(Trouble("model", True, time.time(), {"kept": True, "reason": problem}))

    def _change_over(self, site: Site, models: Models) -> None:
        self._roster.follow(site, models)
        digests = sorted({loaded.digest[:12] for loaded in models.values()})
        _LOG.info("reloaded: %d cameras, models %s", len(site.cameras), ", ".join(digests))
        now = time.time()
        self._ledger.trouble(
            "", "", [Trouble("model", True, now, {"kept": False}), Trouble("model", False, now, {})]
        )

    # -- inside -----------------------------------------------------------------------------------------------

    def _known(self, camera: str) -> LiveCamera:
        if camera not in self._cameras:
            raise UsageError(f"there is no camera {camera!r}; there are {', '.join(self._cameras) or 'none'}")
        return self._cameras[camera]

    def _do(self, command: Callable[[], None]) -> None:
        """Have the loop do something between two frames."""
        self._commands.put(command)
        with contextlib.suppress(OSError):
            os.write(self._wake_write.fileno(), b"c")

    def _obey(self) -> None:
        while self._wake_read.poll():
            os.read(self._wake_read.fileno(), 4096)
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            try:
                command()
            except Exception as error:
                # Whoever asks for something must not end the watch over all cameras.
                _LOG.error("what was asked for could not be done: %s", error, exc_info=True)
