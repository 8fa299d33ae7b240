"""What calibration leaves in the model folder: the threshold, its certificate, and what both hang on."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.artifact import check_says, digest_of, read_signed, write_json
from anomaly.calibration import (
    Calibration,
    CameraCalibrations,
    Certificate,
    Event,
    ScoreScale,
    Series,
    camera_of,
    just_below,
)
from anomaly.calibration.certificate import percent
from anomaly.decider import DeciderConfig
from anomaly.errors import CorruptModelError, SchemaError
from anomaly.evidence import FOLDER as EVIDENCE
from anomaly.evidence import has_evidence
from anomaly.exported import TORCH
from anomaly.scores import replace_labeled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly.model import Model


#: Frames so many times as far apart as those that were calibrated on are other footage.
COARSER = 1.5


#: Of `thresholds/*.json`: raised where a document lacks what is read here, or an older one promises more than it may.
_SCHEMA = 2
#: What such a document says, of whatever version.
_SAYS: Mapping[str, Any] = {
    "runtime": str,
    "threshold": float,
    "decider": dict,
    "fps": object,
    "hangs_on": dict,
}


@dataclass(frozen=True)
class Threshold:
    """A threshold as `run` uses it.

    Attributes:
        value: alarm where the decision score reaches it; None = the model is not calibrated.
        decider: the settings it was calibrated with.
        certificate: the recall it stands for, or None.
        fps: the sampling rate it was calibrated at.
        doubt: why the certificate does not hold for what runs now, or "".
        document: all of `thresholds/<runtime>.json`, or {}.
        scale: where cameras have scales of their own, that of the camera in question (`of`).
    """

    value: float | None
    decider: DeciderConfig
    certificate: Certificate | None
    fps: float | None
    doubt: str
    document: Mapping[str, Any]
    scale: ScoreScale | None = None

    def headline(self) -> str:
        """One line for the person who starts something with it."""
        if self.value is None:
            return f"NOT CALIBRATED: scores only, no alarms; {self.doubt}"
        if self.doubt:
            return f"UNCERTIFIED: {self.doubt}"
        if self.certificate is None:
            return f"UNCERTIFIED: {self.document.get('withheld') or 'the calibration gave no certificate'}"
        first = self.certificate.text().splitlines()[0].removesuffix(".")
        return f"{first} ({percent(self.certificate.confidence)} sure)."

    def promises(self, cameras: Mapping[str, str]) -> list[str]:
        """The headline of each camera, given one of its sources by its name; the one of all where they have one threshold."""
        if not self.document.get("cameras") or self.value is None:
            return [self.headline()]
        return [
            f"Camera {camera}: {self.of(source, camera).headline()}"
            for camera, source in sorted(cameras.items())
        ]

    def of(self, source: str, camera: str | None = None) -> Threshold:
        """The threshold of the camera that a source belongs to, with its scale; itself where all have one.

        Args:
            source: its name.
            camera: that it is of, where something else than the first folder of its name tells.
        """
        cameras = self.document.get("cameras")
        if not cameras or self.value is None:
            return self
        own, doubt = cameras.get(camera or camera_of(source)), self.doubt
        if own is None:
            # The one that alarms soonest.
            own = min(cameras.values(), key=lambda one: _scale(one).raw(one["threshold"]))
            doubt = doubt or (
                f"{source} is of no camera that was calibrated ({', '.join(sorted(cameras))}); give the folder above "
                "the cameras' folders, or calibrate with its footage"
            )
        certificate = _certificate(self.document, own)
        document = {
            **self.document,
            "withheld": own.get("withheld", ""),
            "spent": own.get("spent", self.document.get("spent", ())),
            "ordinary": own.get("ordinary_scaled"),
        }
        steps_s, name = self.document.get("steps_s", {}), camera or camera_of(source)
        if name in steps_s:
            document["steps_s"] = {name: steps_s[name]}
        return replace(
            self,
            value=own["threshold"],
            certificate=certificate,
            doubt=doubt,
            document=document,
            scale=_scale(own),
        )

    def on_video(self) -> Threshold:
        """The threshold for video, in doubt where single pictures proved it: on video scores are smoothed."""
        smooths = self.decider.smoothing_s > 0 or self.decider.min_duration_s > 0
        if self.doubt or not smooths or not self.document.get("stills"):
            return self
        doubt = "it was calibrated on single pictures, and scores of video are smoothed; calibrate on labelled video"
        return replace(self, doubt=doubt)

    def on(self, kinds: Collection[str]) -> Threshold:
        """The threshold for footage of these kinds, "video" and "image", in doubt where it was proven on another."""
        own = self.on_video() if "video" in kinds else self
        if own.doubt or "image" not in kinds or not own.document.get("videos"):
            return own
        doubt = (
            "it was calibrated on video, where an anomaly is seen in many frames, and single pictures show it once; calibrate on "
            "labelled pictures"
        )
        return replace(own, doubt=doubt)

    def sampled(self, step_s: float, source: str, camera: str | None = None) -> Threshold:
        """The threshold for footage with a source that has a frame every `step_s` seconds, in doubt where it was calibrated on more.

        Args:
            step_s: of the frames that are looked at; 0 for a single picture.
            source, camera: as for `of`.
        """
        known = self.of(source, camera).step_s
        if self.doubt or not known or step_s <= COARSER * known:
            return self
        doubt = (
            f"{source} has a frame every {step_s:.3g} s, and it was calibrated on one every {known:.3g} s; record more frames "
            "a second, or calibrate on footage that has as few"
        )
        return replace(self, doubt=doubt)

    @property
    def step_s(self) -> float | None:
        """Usual seconds between the frames that it was calibrated on, at most; None = not known, or single pictures."""
        told = max(self.document.get("steps_s", {}).values(), default=0.0)
        return told or (1.0 / self.fps if self.fps else None)

    def lowered(self, factor: float) -> Threshold:
        """The same at `factor`, at most 1, of its value; those of cameras, too."""
        if self.value is None or not 0 < factor < 1:
            return self
        document = dict(self.document)
        if "cameras" in document:
            document["cameras"] = {
                camera: {**own, "threshold": just_below(own["threshold"] * factor)}
                for camera, own in document["cameras"].items()
            }
        return replace(self, value=just_below(self.value * factor), document=document)

    def scaled(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw scores as the decider takes them: on the camera's scale, where it has one."""
        return scores if self.scale is None else self.scale.of(scores)

    @property
    def issued(self) -> bool:
        """Whether a certificate was issued: of all, or of one camera (`of`)."""
        cameras = self.document.get("cameras", {}).values()
        return self.certificate is not None or any(own.get("certificate") for own in cameras)

    @property
    def certifies(self) -> bool:
        """Whether such a certificate holds for what runs now."""
        return self.value is not None and self.issued and not self.doubt

    @property
    def certified(self) -> bool:
        """Whether the certificate holds for what runs now."""
        return self.value is not None and self.certificate is not None and not self.doubt


def calibration_document(
    model: Model,
    calibration: Calibration,
    *,
    fps: float | None,
    settings: Mapping[str, Any],
    labels_digest: str,
    chosen: str = "as configured",
    cameras: CameraCalibrations | None = None,
    setting: str = "",
    clips: Mapping[str, str] | None = None,
    familiar: Collection[str] = (),
    stills: bool = False,
    videos: bool = False,
    steps_s: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What `thresholds/<runtime>.json` says of a calibration, for `save_calibration`.

    Args:
        model: what was calibrated.
        calibration: its result.
        fps: the sampling rate.
        settings: of the calibration, as configured.
        labels_digest: identity of the labels.
        chosen: how the decider's settings came about, in words.
        cameras: where each has its own scale; then `calibration` is that of all together.
        setting: its identity among all that was tried (`anomaly.looks`).
        clips: sha256 of each labelled file, by the name of its source.
        familiar: labelled sources whose normal time is not new to the model.
        stills, videos: whether single pictures, and whether videos are among the labelled anomalies.
        steps_s: usual mean time between frames of the videos that certify, in seconds, by camera.
    """
    export = model.choice.export
    document: dict[str, Any] = {
        "schema": _SCHEMA,
        "runtime": model.runtime,
        "export": None if export is None else export.document["digest"],
        **calibration.to_json(),
        "decider": asdict(calibration.config),
        "fps": fps,
        "settings": dict(settings),
        "chosen": chosen,
        "setting": setting,
        "clips": dict(clips or {}),
        "familiar": sorted(familiar),
        "stills": stills,
        "videos": videos,
        "steps_s": dict(steps_s or {}),
        "hangs_on": {
            **identities(model, calibration.config, fps),
            "scoring": model.scoring_digest,
            "labels": labels_digest,
        },
    }
    if cameras is not None:
        document["cameras"] = {camera: _camera(cameras, camera) for camera in cameras.scales}
        document["assumption"] = cameras.assumption
    # Of all that is said: what the evidence of this calibration refers to.
    return {**document, "calibration": digest_of(document)}


def save_calibration(
    model: Model,
    document: Mapping[str, Any],
    labeled: Sequence[Series] | None = None,
    evidence: Callable[[], None] | None = None,
) -> Path:
    """Put a calibration into the model folder, in place of the one before; returns the threshold's path.

    Cut off anywhere, the model has the calibration of before, or this one, or is UNCERTIFIED: its evidence then is of another
    calibration than its threshold. Thresholds that were issued for other runtimes from an earlier calibration are removed: export again.

    Args:
        model: what was calibrated.
        document: `calibration_document`.
        labeled: scores to keep; None = those that are there already (a study).
        evidence: writes the evidence of this calibration; None = the model has none any more.
    """
    # First, so that what follows is told apart from what was there before.
    if evidence is not None:
        evidence()
    if labeled is not None:
        replace_labeled(model.folder, labeled)
    place = model.folder / "thresholds" / f"{model.runtime}.json"
    # Before others go: without any, nothing would alarm.
    write_json(place, document)
    for path in place.parent.glob("*.json"):
        if path != place:
            path.unlink()
    if evidence is None:
        shutil.rmtree(model.folder / EVIDENCE, ignore_errors=True)
    return place


def calibration_path(folder: Path) -> Path | None:
    """The threshold that a model was calibrated with, under torch or an export; None = it is not calibrated.

    Those of other runtimes were issued from it (`anomaly.reissue`).

    Raises:
        CorruptModelError: a threshold was changed since it was written.
    """
    place = folder / "thresholds"
    if (place / f"{TORCH}.json").is_file():
        return place / f"{TORCH}.json"
    there = sorted(place.glob("[!.]*.json"))
    for path in there:
        issued = read_signed(path, "calibrate again").get("recertified")
        if issued is None or issued["reference"] == path.stem:
            return path
    # The one that they were issued from was removed: any alarms, none would not.
    return there[0] if there else None


def evidence_is_of_another(folder: Path, document: Mapping[str, Any]) -> bool:
    """Whether a model's evidence was kept for another calibration of it than this threshold is of."""
    if not has_evidence(folder):
        return False
    try:
        index = read_signed(folder / EVIDENCE / "index.json")
    except CorruptModelError:
        return False  # whoever needs it is told
    of_this_model = index.get("scoring_digest") == document["hangs_on"].get("scoring")
    return of_this_model and index.get("calibration") != document.get("calibration")


def _camera(cameras: CameraCalibrations, camera: str) -> dict[str, Any]:
    """What decides on the scores of one camera."""
    certificate, withheld = cameras.proven(camera)
    return {
        "threshold": cameras.threshold(camera),
        **asdict(cameras.scales[camera]),
        "by_itself": camera in cameras.own,
        # On the shared scale; among cameras that share a threshold it lies a little beside 1.
        "ordinary_scaled": cameras.deciding(camera).ordinary,
        "certificate": None if certificate is None else certificate.to_json(),
        "withheld": withheld,
        "spent": [list(one) for one in cameras.deciding(camera).spent],
        "false_alarms": cameras.own[camera].false_alarms.text() if camera in cameras.own else "",
    }


def _scale(camera: Mapping[str, Any]) -> ScoreScale:
    return ScoreScale(camera["ordinary"], camera["rare"])


def identities(model: Model, decider: DeciderConfig, fps: float | None) -> dict[str, str]:
    """A digest for each thing that a decision hangs on, by the name a person knows it by."""
    branches, files = model.description["branches"], model.description["files"]

    def of(*keys: str, file: str = "none") -> str:
        own = {name: digest for name, digest in files.items() if name.startswith(file)}
        # A key that a model of before does not have must not make another model of it.
        told = [{key: branch[key] for key in keys if key in branch} for branch in branches]
        return digest_of([own, *told])

    return {
        "bank": of("name", "bank", "scale", "top_share", "reweight", "index", file="banks/"),
        "backbone": of("backbone", "weights"),
        "preprocessing": of("input_size", "grid", "projection", file="projection"),
        "regions": digest_of(model.description["regions"]),
        "decider": digest_of(asdict(decider)),
        "sampling rate": digest_of(fps),
    }


def threshold_of(model: Model, document: Mapping[str, Any], fps: float | None) -> Threshold:
    """The threshold that a document of this version, just written or to be written, sets for a model."""
    certificate = _certificate(document, document)
    decider = DeciderConfig(**document["decider"])
    return Threshold(document["threshold"], decider, certificate, fps, "", document)


def load_threshold(model: Model, *, fps: float | None) -> Threshold:
    """The model's threshold, and whether its certificate holds for what runs now.

    Where the runtime has no threshold of its own, that of the calibration is used: it still alarms, without a certificate.

    Args:
        model: the loaded model.
        fps: the sampling rate that will be used.
    """
    of_its_own = model.folder / "thresholds" / f"{model.runtime}.json"
    own = of_its_own.is_file()
    path = of_its_own if own else calibration_path(model.folder)
    if path is None:
        remedy = f"run `python -m anomaly calibrate --model {model.folder} --labeled LABELS`"
        return Threshold(None, model.detector.decider.config, None, fps, remedy, {})
    document = read_signed(path, "calibrate again")
    check_says(path, document, _SAYS, "calibrate again")
    certificate = _certificate(document, document)
    decider, certified = _decider(path, document), document["hangs_on"]
    if fps == document["fps"]:
        fps = document["fps"]  # 5 and 5.0 are one rate, and have two digests
    now = {**identities(model, decider, fps), "scoring": model.scoring_digest}
    changed = [name for name, digest in now.items() if certified.get(name) != digest]
    doubt, export = "", model.choice.export
    if not of_this_version(document):
        doubt = (
            "it was calibrated by another version of this program, which counted otherwise; "
            f"calibrate again with `python -m anomaly calibrate --model {model.folder} --labeled LABELS`"
        )
    elif changed == ["sampling rate"]:
        doubt = f"it was calibrated at footage.fps={document['fps']}, this runs at {fps}; use the same or calibrate again"
    elif changed:
        named = [name for name in changed if name != "scoring"] or ["model"]
        doubt = (
            f"not what it was calibrated with: {', '.join(named)}; "
            f"calibrate again with `python -m anomaly calibrate --model {model.folder} --labeled LABELS`"
        )
    elif evidence_is_of_another(model.folder, document):
        doubt = (
            "the model's evidence is of another calibration than its threshold, one was cut off or copied in part; "
            f"calibrate again with `python -m anomaly calibrate --model {model.folder} --labeled LABELS`"
        )
    elif export is None and not own:
        doubt = (
            f"it was calibrated with {document['runtime']}, this runs {model.runtime}; give runtime={document['runtime']}, or "
            "calibrate again with what shall run"
        )
    elif export is not None and not own:
        doubt = (
            f"it was calibrated with {document['runtime']}, this runs {model.runtime}; "
            f"`python -m anomaly export --model {model.folder} --runtime {export.runtime} --precision {export.precision}` "
            "certifies it where the model holds evidence"
        )
    elif export is not None and document.get("export") != export.document["digest"]:
        doubt = (
            f"it was certified for another export than the {model.runtime} that runs; "
            f"`python -m anomaly export --model {model.folder} --runtime {export.runtime} --precision {export.precision}` "
            "certifies it where the model holds evidence"
        )
    return Threshold(document["threshold"], decider, certificate, document["fps"], doubt, document)


def _certificate(document: Mapping[str, Any], own: Mapping[str, Any]) -> Certificate | None:
    """The certificate of all or of one camera; that of another version, which may have other fields, is none."""
    told = own.get("certificate") if of_this_version(document) else None
    return Certificate.from_json(told) if told else None


def _decider(path: Path, document: Mapping[str, Any]) -> DeciderConfig:
    """The decider that a threshold was calibrated with.

    Raises:
        SchemaError: it has settings that this version does not know, so that nobody could decide as it did.
    """
    unknown = sorted(document["decider"].keys() - {field.name for field in fields(DeciderConfig)})
    if unknown:
        raise SchemaError(
            f"{str(path)!r} has decider settings that this version does not know ({', '.join(unknown)}); calibrate again, or use the "
            "version that wrote it"
        )
    return DeciderConfig(**document["decider"])


def of_this_version(document: Mapping[str, Any]) -> bool:
    """Whether what a threshold's document promises was worked out, and is told, as this version does."""
    return document.get("schema") == _SCHEMA


def camera_scales(document: Mapping[str, Any]) -> dict[str, ScoreScale]:
    """The scale of each camera that a threshold's document tells; none where all have one."""
    return {camera: _scale(own) for camera, own in document.get("cameras", {}).items()}


def calibrated_events(document: Mapping[str, Any]) -> list[Event]:
    """The labelled events that a threshold's document was calibrated on."""
    return [Event.from_json(one["event"]) for one in document["events"]]
