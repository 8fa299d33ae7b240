"""From what was seen of a source to findings: a value, how grave it is, and what to do."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from anomaly.edge.inspect.picture import find_flicker, longest_still_s
from anomaly.edge.inspect.stream import (
    Keyframes,
    Pace,
    arrival_jitter,
    measure_keyframes,
    measure_pace,
    needed_sampling,
)

if TYPE_CHECKING:
    from anomaly.edge.inspect.observation import Observation

Level: TypeAlias = Literal["good", "note", "bad"]
_CODECS = {"h264", "hevc", "mjpeg"}
_KEYFRAME_S = 2.0
_BLURRED, _SOFT = 1.9, 3.5
_CLIPPED = 0.05
_DIM = 80.0
_STILL_S = 3.0
_REACHED = 0.5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what, in a word or two.
        level: "good", "note" (worth setting right), "bad" (anomalies will be missed).
        value: what was found, with its unit.
        advice: what to do; empty where all is well.
    """

    name: str
    level: Level
    value: str
    advice: str = ""


@dataclass(frozen=True)
class Inspection:
    """All findings, the figures behind them, and the verdict."""

    findings: tuple[Finding, ...]
    figures: dict[str, Any]

    @property
    def verdict(self) -> str:
        """One line."""
        bad = [one.name for one in self.findings if one.level == "bad"]
        notes = [one.name for one in self.findings if one.level == "note"]
        if bad:
            return f"not fit yet: set right {', '.join(bad + notes)}"
        if notes:
            return f"usable; better with {', '.join(notes)} set right"
        return "fit to be watched"

    def as_json(self) -> dict[str, Any]:
        """Plain values; what is not a finite number is null."""
        figures = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in self.figures.items()
        }
        return {"verdict": self.verdict, **figures, "findings": [asdict(one) for one in self.findings]}


def judge(
    seen: Observation,
    *,
    smoothing_s: float = 0.5,
    min_duration_s: float = 0.0,
    shortest_s: float | None = None,
    scored_rate: float | None = 10.0,
) -> Inspection:
    """Findings about a source.

    Args:
        seen: what `observe` returned, with pictures.
        smoothing_s, min_duration_s: of the decider.
        shortest_s: length of the shortest anomaly that matters; None leaves the sampling rate out.
        scored_rate: frames a second that will be scored; None scores all.
    """
    pace = measure_pace(seen.pts_s)
    keys = measure_keyframes(seen.pts_s, seen.keyframe)
    pictures = seen.pictures
    findings = [_codec(seen), _reordering(seen, pace), _keyframes(keys, seen), *_rate(seen, pace)]
    findings += [_sharpness(seen), _exposure(seen), _stillness(seen)]
    rate = pace.rate if pace else 0.0
    flicker = find_flicker(pictures.bands, rate)
    if flicker is None:
        findings.append(Finding("flicker", "good", "none seen"))
    else:
        findings.append(
            Finding(
                "flicker", "note" if flicker.depth < 0.05 else "bad",
                f"{flicker.depth:.1%} of the brightness, {flicker.seen_hz:.1f} Hz: lamps on the mains, {flicker.light_hz:g} Hz",
                f"set the camera to {flicker.light_hz / 2:g} Hz mains (exposure in steps of 1/{flicker.light_hz:g} s), "
                "or use lamps that do not pulse",
            )
        )  # fmt: skip
    figures: dict[str, Any] = {
        "source": seen.shown,
        "live": seen.live,
        "codec": seen.codec,
        "profile": seen.profile,
        "width": seen.width,
        "height": seen.height,
        "seconds": seen.seconds,
        "packets": len(seen.pts_s),
        "bits_per_s": seen.bits_per_s,
        "b_frames": seen.reorder > 0,
        "reorder_frames": seen.reorder,
        "keyframe_spacing_s": keys.spacing_s,
        "keyframes": keys.count,
        "declared_rate": seen.declared_rate,
        "rate": rate or None,
        "jitter_s": pace.jitter_s if pace else None,
        "holes": pace.holes if pace else None,
        "longest_step_s": pace.longest_s if pace else None,
        "arrival_jitter_s": arrival_jitter(seen.pts_s, seen.arrival_s) if seen.live else None,
        "sharpness": _median(pictures.sharpness),
        "over_exposed_share": _median(pictures.white),
        "under_exposed_share": _median(pictures.black),
        "brightest": _median(pictures.brightest),
        "identical_share": float((pictures.change == 0).mean()) if len(pictures.change) else None,
        "longest_still_s": longest_still_s(pictures.pts_s, pictures.change),
        "flicker_depth": flicker.depth if flicker else 0.0,
        "flicker_hz": flicker.seen_hz if flicker else None,
        "flicker_light_hz": flicker.light_hz if flicker else None,
    }
    if shortest_s is not None:
        wanted = needed_sampling(shortest_s, smoothing_s, min_duration_s)
        findings.append(_sampling(shortest_s, smoothing_s, min_duration_s, rate, scored_rate))
        figures["needed_rate"], figures["smoothing_reached"] = wanted.rate, wanted.reached
    return Inspection(tuple(findings), figures)


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def _codec(seen: Observation) -> Finding:
    profile = f", {seen.profile}" if seen.profile else ""
    value = f"{seen.codec}{profile}, {seen.width} x {seen.height}, {seen.bits_per_s / 1e6:.2f} Mbit/s"
    if seen.codec not in _CODECS:
        return Finding(
            "codec", "note", value, "set the camera to H.264: clips are then cut without re-encoding"
        )
    if seen.codec != "h264":
        return Finding("codec", "good", value, "clips keep this codec; a browser sees an H.264 preview")
    return Finding("codec", "good", value)


def _reordering(seen: Observation, pace: Pace | None) -> Finding:
    if seen.reorder == 0:
        return Finding("B-frames", "good", "none")
    delay = seen.reorder * (pace.step_s if pace else 0.0)
    return Finding(
        "B-frames", "note" if seen.live else "good", f"up to {seen.reorder} in a row held back, {delay:.2f} s",
        f"alarms come {delay:.2f} s later; set B-frames to 0 in the camera (profile baseline or main)" if seen.live else "",
    )  # fmt: skip


def _keyframes(keys: Keyframes, seen: Observation) -> Finding:
    if keys.spacing_s is None:
        spacing, value = keys.at_least_s, f"fewer than two in {keys.at_least_s:.1f} s"
        if spacing <= _KEYFRAME_S:
            return Finding("keyframes", "note", value, "look for longer: check.seconds=30")
    else:
        spacing, value = keys.spacing_s, f"every {keys.spacing_s:.2f} s"
    if spacing <= _KEYFRAME_S or not seen.live:
        return Finding("keyframes", "good", value)
    return Finding(
        "keyframes", "note", value,
        f"clips start up to {spacing:.0f} s early and reconnects take as long; set the camera's I-frame interval to 1 s",
    )  # fmt: skip


def _rate(seen: Observation, pace: Pace | None) -> list[Finding]:
    if pace is None:
        return [
            Finding(
                "rate",
                "bad",
                "too few pictures to tell",
                "check the stream; look for longer: check.seconds=30",
            )
        ]
    declared = f", declared {seen.declared_rate:.2f}" if seen.declared_rate else ", none declared"
    value = f"{pace.rate:.2f} pictures a second{declared}, jitter {1e3 * pace.jitter_s:.1f} ms"
    found = []
    off = seen.declared_rate is not None and abs(pace.rate / seen.declared_rate - 1) > 0.1
    if pace.holes:
        found.append(
            Finding(
                "rate", "note", f"{value}, {pace.holes} holes, the longest {pace.longest_s:.2f} s",
                "pictures are missing: lower the camera's bit rate or look for a bad cable; in poor light fix the exposure time",
            )
        )  # fmt: skip
    elif off:
        advice = (
            "the camera does not keep its own rate: fix its exposure time, or set the rate that it reaches"
        )
        found.append(Finding("rate", "note", value, advice))
    else:
        found.append(Finding("rate", "good", value))
    late = arrival_jitter(seen.pts_s, seen.arrival_s) if seen.live else None
    if late is not None:
        uneven = late > max(0.25, 2 * pace.step_s)
        advice = "the network holds pictures back; alarms come as much later. Use a cable, or a network of their own"
        found.append(
            Finding(
                "arrival",
                "note" if uneven else "good",
                f"uneven by {1e3 * late:.0f} ms",
                advice if uneven else "",
            )
        )
    return found


def _sharpness(seen: Observation) -> Finding:
    value = _median(seen.pictures.sharpness)
    if value is None:
        return Finding(
            "sharpness", "note", "the picture is too plain to tell", "point the camera at the process"
        )
    if value < _BLURRED:
        return Finding(
            "sharpness",
            "bad",
            f"{value:.1f}, out of focus or nothing fine in view (sharp is over 4)",
            "focus and clean the lens",
        )
    if value < _SOFT:
        return Finding(
            "sharpness", "note", f"{value:.1f}, soft (sharp is over 4)",
            "focus the lens; a higher bit rate or shorter exposure helps too",
        )  # fmt: skip
    return Finding("sharpness", "good", f"{value:.1f}")


def _exposure(seen: Observation) -> Finding:
    white, black = _median(seen.pictures.white) or 0.0, _median(seen.pictures.black) or 0.0
    brightest = _median(seen.pictures.brightest) or 0.0
    value = f"{white:.1%} white, {black:.1%} black, brightest parts {brightest:.0f} of 255"
    if brightest < _DIM:
        return Finding("exposure", "bad", value, "too dark: add light, or lengthen the exposure")
    if white > _CLIPPED:
        return Finding("exposure", "note", value, "white parts hide what is in them: shorten the exposure")
    return Finding("exposure", "good", value)


def _stillness(seen: Observation) -> Finding:
    change, pts_s = seen.pictures.change, seen.pictures.pts_s
    if not len(change):
        return Finding("frozen", "note", "one picture only", "look for longer: check.seconds=30")
    still = longest_still_s(pts_s, change)
    share = float((change == 0).mean())
    if still >= _STILL_S:
        return Finding(
            "frozen", "bad", f"not one pixel changed for {still:.1f} s",
            "the camera may repeat an old picture: move something before it and check again, then restart it",
        )  # fmt: skip
    if share > 0.2:
        return Finding(
            "frozen", "note", f"{share:.0%} of the pictures repeat the one before",
            "the camera fills up its rate with copies: set the rate that its sensor gives",
        )  # fmt: skip
    return Finding("frozen", "good", "no")


def _sampling(
    shortest_s: float, smoothing_s: float, min_duration_s: float, rate: float, scored_rate: float | None
) -> Finding:
    wanted = needed_sampling(shortest_s, smoothing_s, min_duration_s)
    name = "sampling"
    if not math.isfinite(wanted.rate):
        return Finding(
            name, "bad", f"no rate catches {shortest_s:g} s: a score must hold for {min_duration_s:g} s first",
            f"set decider.min_duration_s below {shortest_s:g} and calibrate again",
        )  # fmt: skip
    value = f"{wanted.rate:.1f} frames a second for anomalies of {shortest_s:g} s"
    if rate < wanted.rate:
        return Finding(
            name, "bad", value, f"the camera sends {rate:.1f}: set it to {math.ceil(wanted.rate)} or more"
        )
    if scored_rate is not None and scored_rate < wanted.rate:
        return Finding(
            name, "bad", value, f"set footage.fps={math.ceil(wanted.rate)} for calibrate and run alike"
        )
    if wanted.reached < _REACHED:
        return Finding(
            name, "note", f"{value}; smoothing lets {wanted.reached:.0%} of their score through",
            f"set decider.smoothing_s={wanted.room_s / 2:.2g} or less and calibrate again",
        )  # fmt: skip
    return Finding(name, "good", value)
