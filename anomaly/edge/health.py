"""Health of a camera, apart from anomalies: gone, stalled, frozen, black, changed, overloaded; and the machine's clock.

Pure bookkeeping: times and frames are given, troubles come back. A trouble begins once and ends once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.edge.view import ViewWatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomaly.edge.capture import Report
    from anomaly.types import ImageArray

#: Pixels of a frame are compared on a grid of about so many columns.
_COLUMNS = 80
#: A black picture: mean of all channels, and the level that 99 % of the values stay under (of 255).
_BLACK_MEAN, _BLACK_LEVEL, _BRIGHT_SHARE = 12.0, 24, 0.01
#: Pairs of differing frames from which the noise floor is learned, and how many are needed.
_FLOOR_PAIRS, _FLOOR_NEEDED, _FLOOR_QUANTILE = 300, 20, 0.05
#: Noise changes pixels all over the picture. A camera whose frames differ in less than this has none to learn from.
_LEAST_FLOOR = 0.05
#: A pair that changes less than this part of the floor shows no noise.
_STILL_PART = 0.1
#: Codecs repeat frames of a still scene up to a keyframe; so many times the longest such stretch is waited for.
_PATIENCE = 3.0
#: Scored frames in a row that are too far apart, or near enough again.
_SLOW_FRAMES, _WELL_FRAMES = 5, 20
_SLACK = 1.5
#: Kinds that may come and go by the second, and how long one that did must be over before that is told.
_LASTING = ("disconnected", "stalled", "frozen", "black", "overloaded", "recording")
_STEADY_S = 60.0
#: Troubles of the picture, which nobody knows of once the camera is gone.
_OF_THE_PICTURE = ("stalled", "frozen", "black", "overloaded")


@dataclass(frozen=True)
class Trouble:
    """Something that is wrong, or that is over.

    Attributes:
        kind: disconnected, held, stalled, frozen, black, changed, timing, recording, overloaded, clock, ...
        begins: False = it is over.
        utc_s: POSIX seconds of this machine.
        detail: plain values.
    """

    kind: str
    begins: bool
    utc_s: float
    detail: dict[str, Any] = field(default_factory=dict)


class CameraHealth:
    """What is wrong with one camera now.

    Args:
        camera: its name.
        interval_s: the calibrated sampling interval; None = unknown, nothing is called overloaded. May be set anew.
        stalled_after_s: connected, but without a frame for so long.
        frozen_after_s: no noise for so long (longer where still stretches were seen to be ordinary).
        black_after_s: dark for so long.
    """

    def __init__(
        self,
        camera: str,
        *,
        interval_s: float | None,
        stalled_after_s: float = 5.0,
        frozen_after_s: float = 10.0,
        black_after_s: float = 2.0,
    ) -> None:
        self.camera = camera
        self.interval_s = interval_s
        self._stalled_after_s = stalled_after_s
        self._black_after_s = black_after_s
        self._present: dict[str, None] = {}
        self._connected = False
        self._frame_ns = 0
        self._scored_ns: int | None = None
        self._slow = self._well = 0
        self._dark_since_ns: int | None = None
        self._stillness = _Stillness(frozen_after_s)
        self._view = ViewWatch()

    @property
    def present(self) -> tuple[str, ...]:
        """Kinds that are on now, in the order in which they began."""
        return tuple(self._present)

    @property
    def mistrusted_since_ns(self) -> int | None:
        """Monotonic clock from which on the picture shows nothing (it is frozen, or black); None = it does."""
        since = []
        if "frozen" in self._present:
            since.append(self._stillness.since_ns)
        if "black" in self._present and self._dark_since_ns is not None:
            since.append(self._dark_since_ns)
        return min(since, default=None)

    def on_report(self, report: Report) -> list[Trouble]:
        """What the capture told."""
        utc_s, detail = report.utc_s, dict(report.detail)
        if report.kind == "connected":
            self._connected = True
            self._frame_ns = report.at_ns
            self._resume()
            self._view.pause()
            return self._over(("disconnected", "held"), utc_s)
        if report.kind in ("disconnected", "refused", "crashed", "held"):
            self._connected = False
            kind = "held" if report.kind == "held" else "disconnected"
            if report.kind in ("refused", "crashed"):
                detail.setdefault("reason", report.kind)
            return self._over(_OF_THE_PICTURE, utc_s) + self._begin(kind, utc_s, detail)
        if report.kind == "ended":
            self._connected = False
            return self._over(_OF_THE_PICTURE, utc_s)
        if report.kind in ("changed", "timing"):
            if report.kind == "changed":
                self._resume()
                self._stillness.begin_anew()
                self._view.begin_anew()
            return [Trouble(report.kind, True, utc_s, detail), Trouble(report.kind, False, utc_s)]
        if report.kind == "recording_stopped":
            return self._begin("recording", utc_s, detail)
        if report.kind == "recording_resumed":
            return self._over(("recording",), utc_s)
        return []

    def on_frame(self, image: ImageArray, received_ns: int, utc_s: float) -> list[Trouble]:
        """Look at a frame before it is scored.

        Args:
            image: (H, W, 3) uint8 RGB.
            received_ns: monotonic clock at its arrival.
            utc_s: POSIX seconds at its arrival.
        """
        if {"disconnected", "held"} & self._present.keys():
            # The last frame of a camera that is gone may be taken after the report.
            return []
        self._frame_ns = max(self._frame_ns, received_ns)
        told = self._over(("stalled",), utc_s)
        step = max(1, image.shape[1] // _COLUMNS)
        small = np.ascontiguousarray(image[::step, ::step])
        told += self._black(small, received_ns, utc_s)
        still_s = self._stillness.frozen_for_s(small, received_ns)
        if still_s is None:
            told += self._over(("frozen",), utc_s)
        else:
            told += self._begin("frozen", utc_s, {"still_s": round(still_s, 3)})
        other = None if "black" in self._present else self._view.look(small)
        if other is not None:
            told += [Trouble("changed", True, utc_s, {"view": other}), Trouble("changed", False, utc_s)]
        return told

    def on_scored(self, received_ns: int, utc_s: float, now_ns: int) -> list[Trouble]:
        """A frame was scored; frames that are further apart than was certified mean overload.

        Args:
            received_ns: monotonic clock at the frame's arrival.
            utc_s: POSIX seconds at its arrival.
            now_ns: monotonic clock after it was scored.
        """
        last, self._scored_ns = self._scored_ns, received_ns
        if last is None or not self.interval_s:
            return []
        gap_s, behind_s = (received_ns - last) / 1e9, (now_ns - received_ns) / 1e9
        if gap_s >= self._stalled_after_s and behind_s < gap_s / 2:
            # No frames came, and one that came was scored at once: that is no overload.
            self._slow = self._well = 0
            return []
        if gap_s > _SLACK * self.interval_s:
            self._slow, self._well = self._slow + 1, 0
        else:
            self._slow, self._well = 0, self._well + 1
        if self._slow >= _SLOW_FRAMES:
            return self._begin(
                "overloaded",
                utc_s,
                {
                    "gap_s": round(gap_s, 3),
                    "certified_s": round(self.interval_s, 3),
                    "behind_s": round(behind_s, 3),
                },
            )
        return self._over(("overloaded",), utc_s) if self._well >= _WELL_FRAMES else []

    def tick(self, asked_ns: int, utc_s: float) -> list[Trouble]:
        """Called about once a second: what is told by time alone.

        Args:
            asked_ns: monotonic clock when the camera was last asked for a frame. What came since is not known yet, and the
                scoring of what came before may have taken long.
            utc_s: POSIX seconds now.
        """
        silent_s = (asked_ns - self._frame_ns) / 1e9
        if self._connected and silent_s > self._stalled_after_s:
            return self._begin("stalled", utc_s, {"silent_s": round(silent_s, 3)})
        return []

    def _black(self, small: ImageArray, received_ns: int, utc_s: float) -> list[Trouble]:
        dark = (
            float(small.mean()) < _BLACK_MEAN
            and np.count_nonzero(small >= _BLACK_LEVEL) < _BRIGHT_SHARE * small.size
        )
        if not dark:
            self._dark_since_ns = None
            return self._over(("black",), utc_s)
        if self._dark_since_ns is None:
            self._dark_since_ns = received_ns
        dark_s = (received_ns - self._dark_since_ns) / 1e9
        return self._begin("black", utc_s, {}) if dark_s >= self._black_after_s else []

    def _resume(self) -> None:
        """After a pause; what a frame may be compared with lies before it."""
        self._scored_ns = self._dark_since_ns = None
        self._slow = self._well = 0
        self._stillness.pause()

    def not_recorded(self, utc_s: float) -> list[Trouble]:
        """It is not to be recorded any more: that nothing is recorded is no trouble."""
        return self._over(("recording",), utc_s)

    def all_over(self, utc_s: float) -> list[Trouble]:
        """The end of all that is on."""
        return self._over(self.present, utc_s)

    def _begin(self, kind: str, utc_s: float, detail: dict[str, Any]) -> list[Trouble]:
        if kind in self._present:
            return []
        self._present[kind] = None
        return [Trouble(kind, True, utc_s, detail)]

    def _over(self, kinds: tuple[str, ...], utc_s: float) -> list[Trouble]:
        over = [kind for kind in kinds if kind in self._present]
        for kind in over:
            del self._present[kind]
        return [Trouble(kind, False, utc_s) for kind in over]


class Steadily:
    """What is told of a camera's trouble that comes and goes: each word of it is a row for a year, and messages.

    Where a kind begins again within a minute of its end, that is told, and then nothing more of that kind until it has been
    over for a minute: then that it is over, since when, and how often it came.
    """

    def __init__(self) -> None:
        self._ended_ns: dict[str, int] = {}
        # Of kinds that come and go: how often they came, and ends that are not told yet.
        self._times: dict[str, int] = {}
        self._held: dict[str, Trouble] = {}

    @property
    def comes_and_goes(self) -> bool:
        """Whether there is trouble that ends and begins again, and is told as one."""
        return bool(self._times)

    def pass_on(self, troubles: Sequence[Trouble], now_ns: int) -> list[Trouble]:
        """Of what was found now, what is to be told."""
        return [one for one in troubles if self._is_told(one, now_ns)]

    def tick(self, now_ns: int) -> list[Trouble]:
        """Called about once a second: ends of what has been over for long enough."""
        return self._let_go([kind for kind in self._held if now_ns - self._ended_ns[kind] >= _STEADY_S * 1e9])

    def settle(self) -> list[Trouble]:
        """All ends that were held back; nobody looks any more."""
        return self._let_go(list(self._held))

    def _is_told(self, one: Trouble, now_ns: int) -> bool:
        kind = one.kind
        if kind not in _LASTING:
            return True
        if not one.begins:
            self._ended_ns[kind] = now_ns
            if kind in self._times:
                self._held[kind] = one
            return kind not in self._times
        if kind in self._held:
            del self._held[kind]
            self._times[kind] += 1
            return False
        ended_ns = self._ended_ns.get(kind)
        if ended_ns is not None and now_ns - ended_ns < _STEADY_S * 1e9:
            self._times[kind] = 1
        return True

    def _let_go(self, kinds: list[str]) -> list[Trouble]:
        over = [(self._held.pop(kind), self._times.pop(kind)) for kind in kinds]
        return [replace(one, detail={**one.detail, "times": times}) for one, times in over]


class _Stillness:
    """Whether frames still carry the noise that they used to carry.

    The change of a pair is the share of its pixels that differ at all. A sensor's noise changes many of them in
    every pair, however still the scene; where that was learned, a picture without it is frozen. Where it was not (a
    drawn scene, a camera that takes all noise away) nothing is ever called frozen.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._changes: deque[float] = deque(maxlen=_FLOOR_PAIRS)
        self._pairs = 0
        self._floor = 0.0
        self._longest_s = 0.0
        self._last: ImageArray | None = None
        self._since_ns = 0
        self._called = False

    def begin_anew(self) -> None:
        """Another stream: its noise is its own."""
        self._changes.clear()
        self._pairs = 0
        self._floor = self._longest_s = 0.0
        self._last = None
        self._called = False

    def pause(self) -> None:
        """The same stream was away for a while; the camera's noise is what it was."""
        self._last = None
        self._called = False

    @property
    def since_ns(self) -> int:
        """Monotonic clock at the last frame that had noise."""
        return self._since_ns

    def frozen_for_s(self, small: ImageArray, now_ns: int) -> float | None:
        """Seconds without noise, if they are too many; else None."""
        last, self._last = self._last, small
        if last is None or last.shape != small.shape:
            self._since_ns = now_ns
            return None
        change = float(np.count_nonzero((small != last).any(axis=2))) / (small.shape[0] * small.shape[1])
        still_s = (now_ns - self._since_ns) / 1e9
        if change > _STILL_PART * self._floor:
            if not self._called:
                # A stretch that ended by itself is how this camera is.
                self._longest_s = max(self._longest_s, still_s)
            self._called = False
            self._since_ns = now_ns
            self._changes.append(change)
            self._pairs += 1
            if self._pairs % _FLOOR_NEEDED == 0:
                floor = float(np.quantile(self._changes, _FLOOR_QUANTILE))
                self._floor = floor if floor >= _LEAST_FLOOR else 0.0
            return None
        if self._floor > 0 and still_s >= max(self._after_s, _PATIENCE * self._longest_s):
            self._called = True
        return still_s if self._called else None


class ClockWatch:
    """Notices when the machine's clock is set: it is compared with the monotonic clock.

    Args:
        step_s: smaller steps are how a clock is disciplined.
    """

    def __init__(self, step_s: float = 1.0) -> None:
        self._step_s = step_s
        self._last: tuple[int, float] | None = None

    def tick(self, now_ns: int, utc_s: float) -> Trouble | None:
        """A step since the last call, with how many seconds the clock went forward (or back) in `step_s`."""
        last, self._last = self._last, (now_ns, utc_s)
        if last is None:
            return None
        step_s = (utc_s - last[1]) - (now_ns - last[0]) / 1e9
        if abs(step_s) <= self._step_s:
            return None
        return Trouble("clock", True, utc_s, {"step_s": round(step_s, 3)})


class StandstillWatch:
    """Notices when the thread that scores was held up, by a disk that hangs for one: no camera was looked at meanwhile.

    Where that goes on, as on a machine that is far too slow, it is told once a minute: each word is a row for a year.

    Args:
        least_s: seconds between two ticks; shorter ones are told as overload where they last.
    """

    def __init__(self, least_s: float = 5.0) -> None:
        self._least_s = least_s
        self._last: tuple[int, float] | None = None
        self._not_before_ns = 0

    def tick(self, now_ns: int, utc_s: float, model_s: float) -> list[Trouble]:
        """A standstill since the last call, begun and over, with its `seconds` and those in which the model computed.

        Args:
            now_ns, utc_s: monotonic clock, and POSIX seconds.
            model_s: for which the model has computed so far. A first look may take long, and holds nothing up.
        """
        last, self._last = self._last, (now_ns, model_s)
        if last is None or not last[1]:
            return []
        seconds = (now_ns - last[0]) / 1e9
        if seconds < self._least_s or now_ns < self._not_before_ns:
            return []
        self._not_before_ns = now_ns + round(_STEADY_S * 1e9)
        detail = {"seconds": round(seconds, 1), "model_seconds": round(model_s - last[1], 1)}
        return [
            Trouble("standstill", True, utc_s - seconds, detail),
            Trouble("standstill", False, utc_s),
        ]
