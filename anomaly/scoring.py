"""Raw scores of footage, computed once: cached by what the file holds, what the model is, and the versions that score it.

The cache lets a thousand labelled videos be a normal size: an interrupted run goes on where it
stopped, and a threshold can be studied without the network.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anomaly.artifact import digest_of, write_file
from anomaly.calibration import Series, camera_of
from anomaly.detector import Recent
from anomaly.errors import FootageError
from anomaly.footage.batching import batches, read_ahead
from anomaly.footage.source import fingerprint, read_frames
from anomaly.model import software

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from anomaly.detector import Look
    from anomaly.footage.source import Source
    from anomaly.model import Model
    from anomaly.types import Frame


@dataclass(frozen=True, eq=False)
class Scored:
    """Raw scores of one source.

    Attributes:
        source: what was scored.
        frames: (n,) int64, positions among the decoded frames.
        times: (n,) float64, seconds.
        scores: (n,) float64, raw (no smoothing), 1 = an ordinary normal frame.
        grids: (n, gh * gw) float32 patch distances, where they were asked for.
        size: (H, W) of the source's first frame, in pixels.
        damage: what was wrong with the file, or "".
        camera: that it is of, where something else than its folder tells; or "".
        digest: `fingerprint` of the file.
    """

    source: Source
    frames: NDArray[np.int64]
    times: NDArray[np.float64]
    scores: NDArray[np.float64]
    grids: NDArray[np.float32] | None
    size: tuple[int, int]
    damage: str
    camera: str = ""
    digest: str = ""

    @property
    def series(self) -> Series:
        """Times and raw scores, as the decider and the calibration take them."""
        name = self.source.name
        return Series(name, self.times, self.scores, self.camera or camera_of(name))


def cache_folder() -> Path:
    """Where scores are cached: $ANOMALY_CACHE, or a cache folder of the user's."""
    chosen = os.environ.get("ANOMALY_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "anomaly" / "scores"


def look_at(model: Model, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Look]]:
    """Consecutive frames of one camera and what the model saw in each; decoding runs beside the network."""
    size = model.detector.branches[0].backbone.batch
    recent = Recent()
    for batch in read_ahead(batches(frames, size)):
        yield from zip(batch, model.detector.look([frame.image for frame in batch], recent), strict=True)


def score_source(
    model: Model,
    source: Source,
    *,
    fps: float | None,
    grids: bool = False,
    refuse_damage: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Scored:
    """Raw scores of one source, from the cache where they are there.

    Args:
        model: what scores.
        source: what is scored.
        fps: frames a second; None = every frame.
        grids: keep every frame's patch distances too (for pixel figures and pictures).
        refuse_damage: raise on a damaged file instead of scoring its readable part.
        progress: called with the number of frames done since the last call.

    Raises:
        FootageError: the source cannot be read at all, or is damaged and that is refused.
    """
    try:
        digest = fingerprint(source.path)
    except OSError as error:
        raise FootageError(
            f"{source.name} cannot be read ({error.strerror}); check that it exists and may be read"
        ) from None
    path = _cache_path(model, digest, fps)
    cached = _read_cache(path, source, digest, grids)
    if cached is not None and not (cached.damage and refuse_damage):
        if progress:
            progress(len(cached.times))
        return cached
    damage: list[str] = []
    rows: list[tuple[int, float, float]] = []
    kept: list[NDArray[np.float32]] = []
    size = (0, 0)
    frames = read_frames(source, fps=fps, on_damage=None if refuse_damage else damage.append)
    for frame, look in look_at(model, frames):
        if not rows:
            size = frame.image.shape[0], frame.image.shape[1]
        rows.append((frame.index, frame.pts_s, look.score))
        if grids:
            kept.append(look.distances)
        if progress:
            progress(1)
    if not rows:
        raise FootageError(
            damage[0] if damage else f"{source.name!r} holds no frame; leave it out or record it again"
        )
    index, times, scores = zip(*rows, strict=True)
    series = Scored(
        source,
        np.array(index, np.int64),
        np.array(times, np.float64),
        np.array(scores, np.float64),
        np.stack(kept) if grids else None,
        size,
        "; ".join(damage),
        digest=digest,
    )
    _write_cache(path, series)
    return series


def score_sources(
    model: Model,
    sources: Sequence[Source],
    *,
    fps: float | None,
    grids: Callable[[Source], bool] | bool = False,
    refuse_damage: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Scored], list[str]]:
    """Raw scores of many sources; one that cannot be read stops nothing.

    Returns:
        (the series of those that could be read, what was wrong with the others and with damaged ones).
    """
    found: list[Scored] = []
    problems: list[str] = []
    for source in sources:
        wanted = grids(source) if callable(grids) else grids
        try:
            series = score_source(
                model, source, fps=fps, grids=wanted, refuse_damage=refuse_damage, progress=progress
            )
        except FootageError as error:
            if refuse_damage:
                raise
            problems.append(str(error))
            continue
        if series.damage:
            problems.append(series.damage)
        found.append(series)
    return found, problems


def _cache_path(model: Model, digest: str, fps: float | None) -> Path:
    export = model.choice.export
    # Another export of that name is another graph, and another version of what decodes, scores or searches may answer otherwise.
    graph = "" if export is None else f" {export.document['digest']} {export.installed_version()}"
    key = f"{model.scoring_digest} {model.runtime} {model.device} {fps!r} {digest}{graph} {digest_of(software())}"
    name = hashlib.sha256(key.encode()).hexdigest()
    return cache_folder() / model.scoring_digest[:16] / f"{name}.npz"


def _read_cache(path: Path, source: Source, digest: str, grids: bool) -> Scored | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            if grids and "grids" not in stored:
                return None
            return Scored(
                source,
                stored["frames"],
                stored["times"],
                stored["scores"],
                stored["grids"] if grids else None,
                (int(stored["size"][0]), int(stored["size"][1])),
                # Of a file that was scored under another name, or a copy of it.
                str(stored["damage"]).replace(str(stored["name"]), source.name),
                digest=digest,
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None  # cut off while it was written, or not ours: score again


def _write_cache(path: Path, series: Scored) -> None:
    arrays: dict[str, NDArray[np.generic]] = {
        "frames": series.frames,
        "times": series.times,
        "scores": series.scores,
        "size": np.array(series.size),
        "damage": np.array(series.damage),
        "name": np.array(series.source.name),
    }
    if series.grids is not None:
        arrays["grids"] = series.grids
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, buffer.getvalue())
    except OSError:
        return  # a full or read-only cache costs time, not the result
