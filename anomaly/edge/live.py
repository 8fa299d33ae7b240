"""One live camera in the runner's hands: its frames decided, its events stored before they are told, its health."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.detector import Recent
from anomaly.edge.blind import Coverage, operational_recall
from anomaly.edge.capture import Report
from anomaly.edge.health import CameraHealth, Steadily
from anomaly.edge.incidents import Incidents
from anomaly.edge.pictures import Shot
from anomaly.edge.segment_name import mask_mark
from anomaly.edge.state import StateKeeper

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.decider import Alarm
    from anomaly.detector import Look
    from anomaly.edge.capture import Capture
    from anomaly.edge.health import Trouble
    from anomaly.edge.incidents import Event, Step
    from anomaly.edge.ledger import Ledger
    from anomaly.edge.loaded import Loaded
    from anomaly.edge.site import CameraSite
    from anomaly.edge.store import StoredEvent
    from anomaly.thresholds import Threshold
    from anomaly.types import Frame, ImageArray

_LOG = logging.getLogger(__name__)
RUNNING = "running"
#: An event that is on is told anew at most so often, when it rises.
_UPDATE_S = 1.0
#: A frame that waited for so long is not decided: whatever it shows is no news.
_OLDEST_S = 5.0
#: A camera that gives no frame for so long is stalled, and an event of it over.
_STALLED_S, _SILENCE_S = 5.0, 10.0
#: Gaps that are written down, and shown; and while trouble is told that may make one every other second, for months.
_LEAST_GAP_S, _LEAST_GAP_IN_TROUBLE_S = 1.0, 10.0
#: What was looked at is kept so often for a later run; a crash counts as blind what came after.
_KEEP_S = 60.0
#: Frames over which rate and latency are told.
_RECENT_FRAMES = 300
#: A camera that is looked at every few seconds, or once a minute, is not silent before it has missed so many frames.
_FRAMES_MISSED = 3
#: Scores that wait for a store that cannot write now, about ten minutes of them.
_MOST_SCORES = 6000


@dataclass(frozen=True, eq=False)
class LiveView:
    """The last scored frame of a camera.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        heatmap: (gh, gw) float32, in units of the score; exact for the largest patches, which the score is the mean
            of, and an upper bound for the others.
        score, decision_score, threshold: raw, as decided on, and where the alarm starts (None = not calibrated).
        alarm: whether an event is on.
        utc_s: when the frame arrived.
        sequence: number of the frame among those scored.
    """

    image: ImageArray
    heatmap: NDArray[np.float32]
    score: float
    decision_score: float
    threshold: float | None
    alarm: bool
    utc_s: float
    sequence: int


class LiveCamera:
    """What the runner keeps of one camera. All of it belongs to the runner's thread, but `view` and `status`.

    Args:
        site: its entry of the site.
        loaded: what looks.
        capture: where its frames come from; started by the runner.
        ledger: where events, health and scores are written, and who is told.
    """

    def __init__(
        self, site: CameraSite, recipe: str, loaded: Loaded, capture: Capture, ledger: Ledger
    ) -> None:
        self.site = site
        self.recipe = recipe
        self.loaded = loaded.within(site.regions).under(site.black)
        self.capture = capture
        #: Held by whoever starts or stops the capture.
        self.switching = threading.Lock()
        self._began = self._left = False
        self.recent = Recent()
        self.over = False
        self.view: LiveView | None = None
        self.state = StateKeeper(site.schedule)
        before, now = ledger.last_state(site.name), time.time()
        if before is not None:
            self.state.restore(*before, now, ledger.plan(site.name))
        ledger.keep_plan(site.name, self.state.kept(now))
        self._ledger = ledger
        self._incidents = Incidents(self.loaded.threshold_of(site.name))
        interval_s = loaded.interval_of(site.name)
        self._health = CameraHealth(
            site.name, interval_s=interval_s, stalled_after_s=self._silent_after_s(_STALLED_S)
        )
        self._steadily = Steadily()
        self._coverage = Coverage(interval_s, ledger.coverage(site.name))
        self._kept_ns = self._since_ns = time.monotonic_ns()
        self._open: StoredEvent | None = None
        # What looked at the highest frame of the event that is on: its rows are that model's.
        self._peak_loaded = self.loaded
        self._updated_s = 0.0
        self._scores: deque[tuple[float, float, float, float]] = deque(maxlen=_MOST_SCORES)
        self._scores_full = False
        self._arrivals: deque[float] = deque(maxlen=_RECENT_FRAMES)
        self._latencies: deque[float] = deque(maxlen=_RECENT_FRAMES)
        self._last_ns = self._asked_ns = time.monotonic_ns()
        # From the stream's time to this machine's clock, by the last frame.
        self._offset_s = 0.0
        self.scored = 0
        self.late = 0
        self.events = 0
        self._stood: dict[str, Any] = {}
        ledger.was_away(site.name, time.time())
        ledger.masked(site.name, site.black)
        ledger.watches(site.name, loaded.digest, recipe, self.threshold.value)

    @property
    def threshold(self) -> Threshold:
        """What decides."""
        return self._incidents.threshold

    @property
    def due(self) -> bool:
        """Whether frames of it should be looked at now."""
        return not self.over and self._state() == RUNNING

    @property
    def away(self) -> bool:
        """Whether the camera is not to be had."""
        return bool({"disconnected", "held"} & set(self._health.present))

    def take_site(self, site: CameraSite) -> None:
        """Go on as another site file says, read in the same way; `use` follows."""
        now = time.time()
        self.site = site
        self.state.plan(site.schedule, now)
        self._ledger.keep_plan(site.name, self.state.kept(now))
        if not site.record:
            self._tell(self._health.not_recorded(now))

    def use(self, loaded: Loaded, recipe: str) -> None:
        """Look with another model from the next frame on."""
        self.loaded = loaded.within(self.site.regions).under(self.site.black)
        self.recipe, self.recent = recipe, Recent()
        for event in self._incidents.change(self.loaded.threshold_of(self.site.name)):
            self._end(event, event.end_s + self._offset_s)
        self._health.interval_s = self._coverage.interval_s = loaded.interval_of(self.site.name)
        self._ledger.watches(self.site.name, loaded.digest, recipe, self.threshold.value)

    def start(self) -> None:
        """Start the capture if it was not yet. Where the machine cannot, that is trouble, and the next call tries again."""
        with self.switching:
            if self._began or self._left:
                return
            try:
                self.capture.start()
            except (OSError, RuntimeError) as error:
                reason = f"its process could not be started ({error})"
                now = time.monotonic_ns(), time.time()
                self.hear(Report(self.site.name, "crashed", *now, {"reason": reason}))
                return
            self._began = True

    def leave(self) -> None:
        """Stop the capture for good; from any thread, waits until its process has ended."""
        with self.switching:
            self._left = True
            if not self.capture.stop():
                _LOG.warning(
                    "%s: the process that read it was killed and does not end yet, as where a disk hangs; nobody waits for it",
                    self.site.name,
                )

    def set_state(self, state: str, who: str) -> None:
        """Set the state by hand; it holds until the schedule next changes its mind."""
        now = time.time()
        self.state.set(state, now)
        self._ledger.state(self.site.name, state, who, now)

    def hear(self, report: Report) -> None:
        """Take note of what the capture tells."""
        if report.kind == "recording_stopped" and not self.site.record:
            # The process had not heard yet that it is not to record; no segment would ever end that trouble.
            return
        self._tell(self._health.on_report(report))
        if report.kind == "segment":
            self._ledger.segment(self.site.name, report.detail)
        elif report.kind == "ended":
            self.over = True

    def hear_last(self) -> None:
        """After `leave`: the last segments, and what could not be recorded, are told when the process ends; all else is
        nobody's trouble now.
        """
        for report in self.capture.reports():
            if report.kind in ("segment", "recording_stopped"):
                self.hear(report)
        self.forget_trouble()

    def newest(self) -> Frame | None:
        """Its newest frame that was not taken yet; None if there is none."""
        self._asked_ns = time.monotonic_ns()
        return self.capture.newest()

    def fresh(self, frame: Frame) -> bool:
        """Whether a frame is new enough to be decided; one that waited too long counts as dropped.

        The newest frame is old where everything stood still and the camera gives no other. An alarm now would
        tell of something long past as if it were there: that time is blind instead.
        """
        waited_s = (time.monotonic_ns() - frame.received_ns) / 1e9
        if waited_s <= _OLDEST_S:
            return True
        self.late += 1
        _LOG.warning("camera %s: a frame of %.1f s ago is not looked at", self.site.name, waited_s)
        return False

    def before(self, frame: Frame) -> None:
        """Look at a frame's health, apart from what it shows."""
        self._tell(self._health.on_frame(frame.image, frame.received_ns, frame.utc_s))

    def see(self, frame: Frame, look: Look) -> None:
        """Decide a frame that was looked at."""
        state = self._state()
        step = self._incidents.step(frame, look)
        self._follow(step, frame, state)
        if state == RUNNING and self._open is not None and not self._open.announced:
            self._announce_rest(frame, look)
        now_ns = time.monotonic_ns()
        decision_score = step.decision.decision_score
        if not np.isfinite(decision_score):
            decision_score = 0.0
        self.scored += 1
        self._scores.append((frame.utc_s, frame.pts_s, look.score, decision_score))
        self._arrivals.append(now_ns / 1e9)
        self._latencies.append((now_ns - frame.received_ns) / 1e9)
        self._last_ns = now_ns
        self._offset_s = frame.utc_s - frame.pts_s
        self._coverage.state(state == RUNNING, frame.utc_s, frame.received_ns)
        mistrusted_ns = self._health.mistrusted_since_ns
        if mistrusted_ns is None:
            self._coverage.scored(frame.utc_s, frame.received_ns)
        else:
            self._coverage.mistrusted(mistrusted_ns, frame.utc_s, frame.received_ns)
        self._tell(self._health.on_scored(frame.received_ns, frame.utc_s, now_ns))
        self.view = LiveView(
            frame.image,
            look.bounds.reshape(look.grid),
            look.score,
            step.decision.score,
            self.threshold.value,
            step.decision.alarm,
            frame.utc_s,
            self.scored,
        )

    def tick(self, now_ns: int, utc_s: float) -> None:
        """About once a second: what time itself changes."""
        state = self._state()
        self._tell(self._health.tick(self._asked_ns, utc_s))
        self._ledger.trouble(self.site.name, state, self._steadily.tick(now_ns))
        # By hand, by schedule or by a reload: whoever watches from outside is told of the change.
        stands = {"state": state, "recipe": self.recipe, "certified": self.threshold.certified}
        if stands != self._stood:
            self._stood = stands
            self._ledger.stands(self.site.name, stands)
        self._coverage.state(state == RUNNING, utc_s, now_ns)
        self._coverage.tick(now_ns, utc_s)
        # A single outage is told by its row, however short.
        troubled = "overloaded" in self._health.present or self._steadily.comes_and_goes
        for gap in self._coverage.gaps_done():
            # Shorter ones count in the blind share; a row each would fill the store with jitter.
            least_s = _LEAST_GAP_IN_TROUBLE_S if troubled and gap.reason == "blind" else _LEAST_GAP_S
            if gap.end_utc_s - gap.start_utc_s < least_s:
                continue
            self._ledger.gap(self.site.name, gap.start_utc_s, gap.end_utc_s, gap.reason)
        if now_ns - self._kept_ns > _KEEP_S * 1e9:
            self._kept_ns = now_ns
            self._ledger.keep_coverage(self.site.name, self._coverage.kept(utc_s))
        if self._open is not None and now_ns - self._last_ns > self._silent_after_s(_SILENCE_S) * 1e9:
            self.finish()
        self.flush()

    def flush(self) -> None:
        """Hand the scores that were gathered to the store."""
        if not self._scores:
            return
        if self._ledger.scores(self.site.name, list(self._scores)):
            self._scores.clear()
            self._scores_full = False
        elif len(self._scores) == _MOST_SCORES and not self._scores_full:
            self._scores_full = True
            _LOG.error(
                "%s: %d scores wait for the store; from now on the oldest are lost",
                self.site.name,
                _MOST_SCORES,
            )

    @property
    def unsaved_scores(self) -> int:
        """How many scores the store has not taken yet."""
        return len(self._scores)

    def scored_within(self, seconds: float) -> bool:
        """Whether a frame was scored in that time, or in that of three frames; by the monotonic clock, from any thread."""
        return self.scored > 0 and self._within(seconds, self._last_ns)

    def keeps_up(self, seconds: float) -> bool:
        """Whether a frame was scored in that time, or none could be yet: it was taken up no longer ago."""
        return self.scored_within(seconds) or self._within(seconds, self._since_ns)

    def _within(self, seconds: float, since_ns: int) -> bool:
        return time.monotonic_ns() - since_ns <= self._silent_after_s(seconds) * 1e9

    def _silent_after_s(self, seconds: float) -> float:
        """After how long without a frame it is silent: so many seconds, or the time of three frames."""
        return seconds if self.site.fps is None else max(seconds, _FRAMES_MISSED / self.site.fps)

    def finish(self) -> None:
        """End the event that is on: no frame follows."""
        for event in self._incidents.finish():
            self._end(event, event.end_s + self._offset_s)
        self._ledger.keep_coverage(self.site.name, self._coverage.kept(time.time()))

    def forget_trouble(self) -> None:
        """It is not looked at any more: what was wrong with it is nobody's trouble now."""
        self._tell(self._health.all_over(time.time()))
        self.settle()

    def settle(self) -> None:
        """Tell the ends of trouble that came and went: nobody waits any longer whether it comes again."""
        self._ledger.trouble(self.site.name, self._state(), self._steadily.settle())

    def status(self) -> dict[str, Any]:
        """How it stands, plain values."""
        # Asked by other threads: what the scoring thread may set meanwhile is read once.
        view, threshold, event, counts = self.view, self.threshold, self._open, self.capture.counts()
        latencies = sorted(self._latencies)
        arrivals = list(self._arrivals)
        span = arrivals[-1] - arrivals[0] if len(arrivals) > 1 else 0.0
        blind = self._coverage.blind_share_upper(self.loaded.shortest_s)
        recall = threshold.certificate.recall if threshold.certified and threshold.certificate else None
        return {
            "address": self.site.address.shown,
            "masked": bool(self.site.black),
            "mask": mask_mark(self.site.black),
            "state": self._state(),
            "health": list(self._health.present),
            "connected": self.scored > 0 and not {"disconnected", "held"} & set(self._health.present),
            "alarm": bool(view and view.alarm),
            "event": event.id if event else None,
            "score": view.score if view else None,
            "decision_score": view.decision_score if view else None,
            "threshold": threshold.value,
            "last_utc_s": view.utc_s if view else None,
            "fps": (len(arrivals) - 1) / span if span > 0 else 0.0,
            "fps_asked": self.site.fps,
            "latency_p50_s": latencies[len(latencies) // 2] if latencies else None,
            "latency_p99_s": latencies[int(0.99 * (len(latencies) - 1))] if latencies else None,
            "counts": {
                "decoded": counts.decoded,
                "captured": counts.captured,
                "scored": counts.taken - self.late,
                "dropped": counts.dropped + self.late,
            },
            "events": self.events,
            "model": self.loaded.model.folder.name,
            "model_digest": self.loaded.digest,
            "runtime": self.loaded.model.runtime,
            "recipe": self.recipe,
            "recipes": sorted(self.site.recipes),
            "certified": threshold.certified,
            "doubt": "" if threshold.certified else threshold.headline(),
            "certificate": threshold.headline(),
            "certified_recall": recall,
            "blind_share": blind,
            "blind_since_utc_s": self._coverage.since_utc_s,
            "operational_recall": None if recall is None else operational_recall(recall, blind),
        }

    def _tell(self, troubles: list[Trouble]) -> None:
        told = self._steadily.pass_on(troubles, time.monotonic_ns())
        self._ledger.trouble(self.site.name, self._state(), told)

    # -- events -----------------------------------------------------------------------------------------------

    def _state(self) -> str:
        return self.state.now(time.time())

    def _follow(self, step: Step, frame: Frame, state: str) -> None:
        for event in step.ended:
            self._end(event, frame.utc_s - (frame.pts_s - event.end_s))
        if step.peaked:
            self._peak_loaded = self.loaded
        if step.started is not None:
            self._begin(step.started, frame, state)
        elif step.peaked and self._open is not None:
            score = step.decision.score
            self._open = replace(self._open, score=score, peak_utc_s=frame.utc_s, peak_pts_s=frame.pts_s)
            now = time.monotonic()
            if now - self._updated_s >= _UPDATE_S:
                self._updated_s = now
                self._ledger.rises(self._open)

    def _announce_rest(self, frame: Frame, look: Look) -> None:
        """What began while nobody was to be told is still on, and now somebody is: of the rest of it."""
        found = self._incidents.split(frame, look)
        if found is None:
            return
        event, rest = found
        self._end(event, frame.utc_s)
        self._peak_loaded = self.loaded
        self._begin(rest, frame, RUNNING)

    def _begin(self, alarm: Alarm, frame: Frame, state: str) -> None:
        threshold = self.threshold
        self.events += 1
        self._updated_s = time.monotonic()
        self._open = self._ledger.begins(
            camera=self.site.name,
            model=self.loaded.digest,
            recipe=self.recipe,
            state=state,
            announced=state == RUNNING,
            certified=threshold.certified,
            doubt="" if threshold.certified else threshold.headline(),
            start_utc_s=frame.utc_s,
            start_pts_s=alarm.start_s,
            score=alarm.peak_score,
            threshold=threshold.value,
            continued=alarm.continued,
            frame_size=frame.image.shape[:2],
            # Where the recording only stands still, for want of room, there is some of before, and may be of what follows.
            clip_state="pending" if self.site.record else "none",
        )
        self._show(told=True)

    def _end(self, event: Event, end_utc_s: float) -> None:
        if self._open is None:
            return
        self._ledger.ends(self._open, end_utc_s, event.end_s, event.score)
        if event.frame.pts_s > self._open.start_pts_s:
            self._picture(event.frame, event.look, event.start_s, event.end_s, event.score, told=False)
        self._open = None

    def _show(self, *, told: bool) -> None:
        if self._incidents.peak is not None:
            score, frame, look = self._incidents.peak
            self._picture(frame, look, frame.pts_s, frame.pts_s, score, told=told)

    def _picture(
        self, frame: Frame, look: Look, start_s: float, end_s: float, score: float, *, told: bool
    ) -> None:
        if self._open is not None:
            self._ledger.picture(
                Shot(
                    self._open.id,
                    self.site.name,
                    frame,
                    look,
                    start_s,
                    end_s,
                    score,
                    # Not that of now: the event may end because another model looks from here on.
                    float(self._peak_loaded.threshold_of(self.site.name).value or 0.0),
                    self._peak_loaded,
                    told,
                )
            )
