"""Folders in MVTec AD's layout: the folder's name is the label.

    test/good/…  test/<kind>/…  ground_truth/<kind>/<name>[_mask].png     (Bergmann et al., CVPR 2019)

A folder may be the one that holds `good/` and the kinds, or a root with `test/` (and `train/`, which is left
alone). Folders called `ok` or `normal` beside `good/` hold normal images, too. `ground_truth/` stands beside `good/`
or beside `test/`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from anomaly.errors import LabelsError, NoFootageError
from anomaly.footage.label_csv import NORMAL_LABELS
from anomaly.footage.sources import IMAGE_SUFFIXES, Source, find_sources, natural_key

NORMAL_FOLDER = "good"
MASKS_FOLDER = "ground_truth"


@dataclass(frozen=True, slots=True)
class ImageFolders:
    """Images sorted into folders by what is wrong with them.

    Attributes:
        sources: all images, `good/` first, then kind by kind; names relative to the folder of `good/`.
        kinds: name of each anomalous source to its kind; normal ones are absent.
        masks: name of an anomalous source to its mask image.
        notes: what the user should be told.
    """

    sources: tuple[Source, ...]
    kinds: dict[str, str]
    masks: dict[str, Path]
    notes: tuple[str, ...]


def read_image_folders(folder: Path) -> ImageFolders:
    """List a folder in MVTec AD's layout.

    Raises:
        LabelsError: no `good/`, a folder with videos, or one without images.
    """
    root = folder if (folder / NORMAL_FOLDER).is_dir() else folder / "test"
    if not (root / NORMAL_FOLDER).is_dir():
        raise LabelsError(
            f"{folder} holds no folder `{NORMAL_FOLDER}`, nor `test/{NORMAL_FOLDER}`; put normal images "
            "there and each kind of anomaly in a folder beside it, or give a CSV of labels"
        )
    truth = root / MASKS_FOLDER if (root / MASKS_FOLDER).is_dir() else root.parent / MASKS_FOLDER
    kinds = sorted(
        (
            entry.name
            for entry in root.iterdir()
            if entry.is_dir()
            and entry.name not in (NORMAL_FOLDER, MASKS_FOLDER)
            and not entry.name.startswith(".")
        ),
        key=natural_key,
    )
    sources = _images(root, NORMAL_FOLDER)
    labels: dict[str, str] = {}
    masks: dict[str, Path] = {}
    for kind in kinds:
        known = _masks(truth / kind)
        for source in _images(root, kind):
            sources.append(source)
            if kind.casefold() in NORMAL_LABELS:
                continue
            labels[source.name] = kind
            within = Path(source.name).relative_to(kind).with_suffix("").as_posix()
            mask = known.get(within) or known.get(f"{within}_mask")
            if mask is not None:
                masks[source.name] = mask
    notes = []
    if masks and len(masks) < len(labels):
        notes.append(f"{len(labels) - len(masks)} of {len(labels)} anomalous images have no mask in {truth}")
    return ImageFolders(tuple(sources), labels, masks, tuple(notes))


def _images(root: Path, name: str) -> list[Source]:
    try:
        sources = find_sources([root / name])
    except NoFootageError:
        raise LabelsError(f"{root / name} holds no image; fill it, or remove the folder") from None
    video = next((source for source in sources if source.kind == "video"), None)
    if video is not None:
        raise LabelsError(f"{video.path} is a video; folders label images, label videos with a CSV")
    return [replace(source, name=f"{name}/{source.name}") for source in sources]


def _masks(folder: Path) -> dict[str, Path]:
    """Masks of one kind by their path below its folder, without extension."""
    if not folder.is_dir():
        return {}
    files = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}
