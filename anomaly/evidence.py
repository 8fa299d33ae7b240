"""The evidence in a model folder: pictures, and what the model saw in them when it was calibrated.

    evidence/index.json      signed: what follows, and the sha256 of every other file
    evidence/frames/*.png    decoded frames, lossless
    evidence/arrays.npz      times, reference scores and distances; patch features of normal frames (float16)

A **stretch** is a run of consecutive sampled frames of one source. An event has one, which ends at the frame of
its highest decision score and begins as far before as that score needs: `min_duration_s`, and `SETTLED` time
constants of the smoothing. The smoothed score of the frame before is kept beside it, so the reference comes out
to the last bit, and what another runtime gives rests to 99 % (1 - exp(-SETTLED)) on frames it looked at itself.
Normal frames are stretches of one frame, from labelled footage outside every event; nothing was learned from them.

Reading needs numpy and OpenCV, no torch. A model loads without its evidence: the folder may be removed.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from anomaly.artifact import archive_bytes, file_digest, read_signed, replace_subfolder
from anomaly.calibration import Event, ScoreScale
from anomaly.decider import Decider, DeciderConfig, DeciderState
from anomaly.errors import CorruptModelError, ModelError, SchemaError
from anomaly.heatmap import anomaly_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly.types import ImageArray

FOLDER = "evidence"
#: Time constants of the smoothing that lie before an event's highest score: exp(-4.6) = 1 % is not re-scored.
SETTLED = 4.6
_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Stretch:
    """Consecutive frames of one source, and what the reference saw in them.

    Attributes:
        source: name of the video or image.
        camera: the camera it belongs to.
        still: whether it is a single picture, which is decided without smoothing.
        event: the labelled event whose score these frames give; None for a normal frame.
        files: (n,) pictures, below `evidence/`.
        times: (n,) float64 seconds, increasing.
        scores: (n,) float64 raw scores.
        distances: (n, gh * gw) float32, scaled patch distances; 0 where a patch does not count.
        threshold: of its camera.
        scale: where cameras have scales of their own, that of this one; decisions are made on it.
        before: (time, smoothed score) of the frame before the first; None where the footage begins there.
        excess: what the decider's score of these frames is above the event's own: an event that begins with its clip
            is calibrated as if ordinary footage had gone before (`anomaly.calibration.event_scores`).
    """

    source: str
    camera: str
    still: bool
    event: Event | None
    files: tuple[str, ...]
    times: NDArray[np.float64]
    scores: NDArray[np.float64]
    distances: NDArray[np.float32]
    threshold: float
    scale: ScoreScale | None = None
    before: tuple[float, float] | None = None
    excess: float = 0.0

    def caught(self, config: DeciderConfig) -> bool:
        """Whether it is an event that the reference catches."""
        return self.event is not None and self.decision_score(config) >= self.threshold

    def on_scale(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw scores as the decider takes them."""
        return scores if self.scale is None else self.scale.of(scores)

    def decision_score(
        self, config: DeciderConfig, scores: Sequence[float] | NDArray[np.float64] | None = None
    ) -> float:
        """Decision score of the last frame, smoothed as in the whole footage: that of the event.

        Args:
            config: the decider of the calibration (`Evidence.decider`).
            scores: (n,) raw scores of these frames under another runtime; None = the reference's.
        """
        decider = Decider(config.for_images() if self.still else config, None)
        state = decider.start()
        if self.before is not None:
            state = DeciderState(*self.before, held=(self.before,))
        reached = 0.0
        raw = self.scores if scores is None else np.asarray(scores, np.float64)
        for time_s, score in zip(self.times, self.on_scale(raw), strict=True):
            decision, state = decider.step(state, float(time_s), float(score))
            reached = decision.decision_score
        return reached - self.excess


@dataclass(frozen=True, eq=False)
class Evidence:
    """What `save_evidence` wrote.

    Attributes:
        folder: `<model>/evidence`.
        runtime: what the reference was made with, such as "torch-fp32".
        scoring_digest: of the model that made it.
        decider, threshold, fps: of the calibration; cameras may have thresholds of their own (`Stretch`).
        grid: (gh, gw).
        counts: (gh * gw,) bool, patches inside the regions.
        top_share: share of the patches that count whose mean is the score.
        stretches: events first, those that score lowest before the others, then normal frames.
        features: (m, gh * gw, d) float16, projected patch features of the first m normal frames.
        left_out: events for which the allowed bytes did not suffice.
        digests: sha256 of every file, by its name below `evidence/`.
        software: versions that it was made with.
        calibration: the one that it is of, as its threshold's document names it; None = of before it was told.
    """

    folder: Path
    runtime: str
    scoring_digest: str
    decider: DeciderConfig
    threshold: float
    fps: float | None
    grid: tuple[int, int]
    counts: NDArray[np.bool_]
    top_share: float
    stretches: tuple[Stretch, ...]
    features: NDArray[np.float16]
    left_out: int
    digests: Mapping[str, str]
    software: Mapping[str, str]
    calibration: str | None = None

    @property
    def events(self) -> tuple[Stretch, ...]:
        """Stretches of labelled events."""
        return tuple(one for one in self.stretches if one.event is not None)

    @property
    def normal(self) -> tuple[Stretch, ...]:
        """Normal frames, a stretch of one frame each."""
        return tuple(one for one in self.stretches if one.event is None)

    def image(self, file: str) -> ImageArray:
        """A picture of a stretch, (H, W, 3) uint8 RGB, as it was decoded.

        Raises:
            CorruptModelError: changed since it was written, or missing.
        """
        path = self.folder / file
        _verify(path, self.digests.get(file))
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if pixels is None:
            raise CorruptModelError(f"{str(path)!r} is no picture; calibrate again")
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def heatmap(self, stretch: Stretch, frame: int, size: tuple[int, int]) -> NDArray[np.float32]:
        """The reference heatmap (H, W) float32 of one frame of a stretch, for a frame of that size."""
        return anomaly_map(stretch.distances[frame], self.grid, size, self.counts)


def save_evidence(evidence: Evidence, images: Mapping[str, bytes]) -> None:
    """Write evidence as `evidence.folder`, in place of what is there.

    Args:
        evidence: what to write; `digests` are worked out here.
        images: name below `evidence/` to the bytes of the PNG (`png`).
    """
    arrays: dict[str, NDArray[Any]] = {"counts": evidence.counts, "features": evidence.features}
    for index, one in enumerate(evidence.stretches):
        arrays[f"{index}/times"] = one.times
        arrays[f"{index}/scores"] = one.scores
        arrays[f"{index}/distances"] = one.distances
    document = {
        "schema": _SCHEMA,
        "runtime": evidence.runtime,
        "scoring_digest": evidence.scoring_digest,
        "decider": asdict(evidence.decider),
        "threshold": evidence.threshold,
        "fps": evidence.fps,
        "grid": list(evidence.grid),
        "top_share": evidence.top_share,
        "stretches": [_described(one) for one in evidence.stretches],
        "left_out": evidence.left_out,
        "software": dict(evidence.software),
        "calibration": evidence.calibration,
    }
    replace_subfolder(
        evidence.folder, {**images, "arrays.npz": archive_bytes(arrays)}, "index.json", document
    )


def has_evidence(folder: Path) -> bool:
    """Whether a model folder holds evidence."""
    return (folder / FOLDER / "index.json").is_file()


def load_evidence(folder: Path) -> Evidence:
    """Read the evidence of a model folder; pictures are read, and verified, when they are asked for.

    Args:
        folder: the model folder.

    Raises:
        ModelError: it holds none.
        CorruptModelError: a file missing or changed.
        SchemaError: written by another version.
    """
    place = folder / FOLDER
    if not has_evidence(folder):
        raise ModelError(
            f"{str(folder)!r} holds no evidence; `python -m anomaly calibrate` writes it, "
            "unless evidence.max_mb=0"
        )
    document = read_signed(place / "index.json", "calibrate again")
    if document.get("schema") != _SCHEMA:
        raise SchemaError(
            f"{str(place)!r} has schema {document.get('schema')!r}, this version reads {_SCHEMA}; calibrate again"
        )
    digests: dict[str, str] = document["files"]
    _verify(place / "arrays.npz", digests.get("arrays.npz"))
    try:
        with np.load(place / "arrays.npz", allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptModelError(f"{str(place)!r} cannot be read ({error}); calibrate again") from error
    stretches = tuple(_stretch(entry, index, arrays) for index, entry in enumerate(document["stretches"]))
    return Evidence(
        folder=place,
        runtime=document["runtime"],
        scoring_digest=document["scoring_digest"],
        decider=DeciderConfig(**document["decider"]),
        threshold=document["threshold"],
        fps=document["fps"],
        grid=(document["grid"][0], document["grid"][1]),
        counts=arrays["counts"],
        top_share=document["top_share"],
        stretches=stretches,
        features=arrays["features"],
        left_out=document["left_out"],
        digests=digests,
        software=document["software"],
        calibration=document.get("calibration"),
    )


def png(image: ImageArray) -> bytes:
    """An (H, W, 3) uint8 RGB picture as the bytes of a PNG."""
    return bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1])


def _described(one: Stretch) -> dict[str, Any]:
    return {
        "source": one.source,
        "camera": one.camera,
        "still": one.still,
        "event": None if one.event is None else one.event.to_json(),
        "files": list(one.files),
        "threshold": one.threshold,
        "scale": None if one.scale is None else [one.scale.ordinary, one.scale.rare],
        "before": list(one.before) if one.before else None,
        "excess": one.excess,
    }


def _stretch(entry: Mapping[str, Any], index: int, arrays: Mapping[str, NDArray[Any]]) -> Stretch:
    before = entry["before"]
    return Stretch(
        source=entry["source"],
        camera=entry["camera"],
        still=entry["still"],
        event=None if entry["event"] is None else Event.from_json(entry["event"]),
        files=tuple(entry["files"]),
        times=arrays[f"{index}/times"],
        scores=arrays[f"{index}/scores"],
        distances=arrays[f"{index}/distances"],
        threshold=entry["threshold"],
        scale=None if entry["scale"] is None else ScoreScale(entry["scale"][0], entry["scale"][1]),
        before=None if before is None else (before[0], before[1]),
        excess=entry.get("excess", 0.0),
    )


def _verify(path: Path, digest: str | None) -> None:
    if digest is None or not path.is_file() or file_digest(path) != digest:
        raise CorruptModelError(
            f"{str(path)!r} is missing, or was changed after it was written; restore it from a copy or calibrate again"
        )
