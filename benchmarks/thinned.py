"""Smaller copies of real footage for `--quick`: fewer and smaller pictures.

The program's settings stay as they are; only what it is given shrinks. Copies go into the run's own folder.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomaly.footage.clips import VideoWriter
from anomaly.footage.images import read_image
from anomaly.footage.source import find_sources, natural_key, read_frames


def thin_video(video: Path, target: Path, *, every: int, shrink: int) -> None:
    """Copy every n-th frame, each at its own time and `shrink` times smaller along each side."""
    (source,) = find_sources([video])
    target.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(target, fps=1.0, crf=14) as writer:
        for frame in read_frames(source):
            if frame.index % every == 0:
                writer.write(_smaller(frame.image, shrink), frame.pts_s)


def thin_masks(masks: Path, target: Path, *, every: int, shrink: int) -> None:
    """Copy the masks of the frames that `thin_video` copies."""
    with np.load(masks, allow_pickle=False) as stored:
        shape = stored["shape"]
        kept = np.unpackbits(stored["mask"])[: np.prod(shape)].reshape(shape)[::every, ::shrink, ::shrink]
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, mask=np.packbits(kept), shape=np.array(kept.shape))


def thin_ped2(folder: Path, target: Path, *, train: int, test: int) -> Path:
    """A copy of Ped2 with `train` clips, `test` clips that hold normal frames too, and their labels."""
    how = {"every": 10, "shrink": 2}
    for video in sorted((folder / "train").glob("*.mp4"))[:train]:
        thin_video(video, target / "train" / video.name, **how)
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    # A clip that is anomalous from its first frame on has next to no normal frames to be told from.
    chosen = [row for row in rows if float(row[1]) > 1.0][:test]
    for row in chosen:
        thin_video(folder / "test" / row[0], target / "test" / row[0], **how)
        mask = Path(row[0]).with_suffix(".npz")
        thin_masks(folder / "masks" / mask, target / "masks" / mask, **how)
    with (target / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *chosen])
    return target


def thin_bottles(folder: Path, target: Path) -> Path:
    """A copy of the bottles at one frame a second."""
    for name in ("train/normal.mp4", "test/handling.mp4"):
        thin_video(folder / name, target / name, every=30, shrink=3)
    shutil.copy(folder / "labels.csv", target / "labels.csv")
    return target


def thin_images(folder: Path, target: Path, *, train: int, test: int) -> Path:
    """A copy of a folder in MVTec AD's layout: that many images to learn from, and of each test folder."""
    _thin_folder(folder / "train" / "good", target / "train" / "good", train)
    for kind in sorted(entry for entry in (folder / "test").iterdir() if entry.is_dir()):
        for image in _thin_folder(kind, target / "test" / kind.name, test):
            mask = folder / "ground_truth" / kind.name / f"{image.stem}.png"
            if mask.is_file():
                shrunk = np.ascontiguousarray(read_image(mask)[::2, ::2])
                _write(target / "ground_truth" / kind.name / mask.name, shrunk)
    return target


def _thin_folder(folder: Path, target: Path, count: int) -> list[Path]:
    """Copy `count` images at half their size, evenly spread over the folder's natural order."""
    files = sorted(
        (path for path in folder.iterdir() if path.is_file()), key=lambda one: natural_key(one.name)
    )
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, count).astype(int))]
    for path in chosen:
        _write((target / path.name).with_suffix(".png"), _smaller(read_image(path), 2))
    return chosen


def _smaller(image: Any, shrink: int) -> Any:
    size = image.shape[1] // shrink, image.shape[0] // shrink
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _write(path: Path, image: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
