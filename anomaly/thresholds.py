"""What calibration leaves in the model folder: the threshold, its certificate, and the scores behind it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.artifact import read_signed, write_file, write_json
from anomaly.calibration import Calibration, Certificate, Series
from anomaly.decider import DeciderConfig
from anomaly.errors import CorruptModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anomaly.model import Model

RUNTIME = "torch-fp32"


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
    """

    value: float | None
    decider: DeciderConfig
    certificate: Certificate | None
    fps: float | None
    doubt: str
    document: Mapping[str, Any]

    def headline(self) -> str:
        """One line for the person who starts something with it."""
        if self.value is None:
            return f"NOT CALIBRATED: scores only, no alarms; {self.doubt}"
        if self.doubt:
            return f"UNCERTIFIED: {self.doubt}"
        if self.certificate is None:
            return f"UNCERTIFIED: {self.document.get('withheld') or 'the calibration gave no certificate'}"
        return self.certificate.text().splitlines()[0]

    @property
    def certified(self) -> bool:
        """Whether the certificate holds for what runs now."""
        return self.value is not None and self.certificate is not None and not self.doubt


def save_calibration(
    model: Model,
    calibration: Calibration,
    labeled: Sequence[Series],
    *,
    fps: float | None,
    settings: Mapping[str, Any],
    labels_digest: str,
    target: Path | None = None,
) -> Path:
    """Write `scores.npz` and `thresholds/<runtime>.json` into the model folder; returns the latter's path.

    The scores are written first, the threshold that refers to them last: cut off between the two,
    the model is as good as before. With a `target` only the threshold is written, there, and the
    model stays as it is.
    """
    path = model.folder / "scores.npz"
    arrays = {} if target else _read_scores(path)
    arrays = {name: value for name, value in arrays.items() if not name.startswith("labeled/")}
    arrays["labeled/sources"] = np.array([one.source for one in labeled], dtype=np.str_)
    for index, one in enumerate(labeled):
        arrays[f"labeled/{index}/times"] = one.times
        arrays[f"labeled/{index}/scores"] = one.scores
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    if target is None:
        write_file(path, buffer.getvalue())
    document = {
        "runtime": RUNTIME,
        **calibration.to_json(),
        "decider": asdict(calibration.config),
        "fps": fps,
        "settings": dict(settings),
        "hangs_on": {
            "scoring": model.scoring_digest,
            "labels": labels_digest,
            "scores": hashlib.sha256(buffer.getvalue()).hexdigest(),
        },
    }
    place = target or model.folder / "thresholds" / f"{RUNTIME}.json"
    write_json(place, document)
    return place


def load_threshold(model: Model, *, fps: float | None) -> Threshold:
    """The model's threshold, and whether its certificate holds for what runs now.

    Args:
        model: the loaded model.
        fps: the sampling rate that will be used.
    """
    path = model.folder / "thresholds" / f"{RUNTIME}.json"
    if not path.is_file():
        remedy = f"run `python -m anomaly calibrate --model {model.folder} --labeled LABELS`"
        return Threshold(None, model.detector.decider.config, None, fps, remedy, {})
    document = read_signed(path)
    certificate = Certificate.from_json(document["certificate"]) if document["certificate"] else None
    doubt = ""
    if document["hangs_on"]["scoring"] != model.scoring_digest:
        doubt = "the bank, backbone or regions are not the ones it was calibrated with; calibrate again"
    elif document["fps"] != fps:
        doubt = f"it was calibrated at footage.fps={document['fps']}, this runs at {fps}; use the same or calibrate again"
    return Threshold(
        document["threshold"],
        DeciderConfig(**document["decider"]),
        certificate,
        document["fps"],
        doubt,
        document,
    )


def holdout_series(model: Model) -> list[Series]:
    """Scores of the normal footage that `fit` held out."""
    arrays = _read_scores(model.folder / "scores.npz")
    names = arrays.get("holdout/sources", np.array([], dtype=np.str_))
    return [
        Series(str(name), arrays[f"holdout/{index}/times"], arrays[f"holdout/{index}/scores"])
        for index, name in enumerate(names)
    ]


def _read_scores(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptModelError(
            f"{str(path)!r} cannot be read ({error}); restore it from a copy or fit again"
        ) from error
