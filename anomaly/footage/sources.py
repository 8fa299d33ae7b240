"""Which footage there is: files, folders and globs, each as a `Source` with a name of its own."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from anomaly.errors import FootageError, NoFootageError

Polygon: TypeAlias = tuple[tuple[float, float], ...]

VIDEO_SUFFIXES = frozenset(
    (
        ".mp4",
        ".m4v",
        ".mov",
        ".qt",
        ".3gp",
        ".3g2",
        ".mkv",
        ".webm",
        ".avi",
        ".divx",
        ".ts",
        ".m2ts",
        ".mts",
        ".mpg",
        ".mpeg",
        ".vob",
        ".m2v",
        ".flv",
        ".f4v",
        ".wmv",
        ".asf",
        ".ogv",
        ".ogg",
        ".gif",
        ".mjpeg",
        ".mjpg",
        ".h264",
        ".264",
        ".avc",
        ".h265",
        ".265",
        ".hevc",
        ".mxf",
        ".dv",
        ".nut",
        ".ivf",
        ".y4m",
    )
)
IMAGE_SUFFIXES = frozenset(
    (
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".webp",
        ".pgm",
        ".ppm",
        ".pnm",
        ".pbm",
    )
)

#: Marks a folder of heatmaps, which show anomalies and are no footage.
HEATMAPS = ".heatmaps"

# What `run` writes beside `events.jsonl`.
_RUN_FOLDERS = frozenset(("annotated", "snapshots", "earlier"))


@dataclass(frozen=True, slots=True)
class Source:
    """One video or one image.

    Attributes:
        path: the file.
        name: posix path relative to the root it was found under; unique within one `find_sources`. Bytes that are
            no UTF-8, in names from older systems, are spelt out in hex.
        kind: an image is a source of one frame, shown at 0 s.
        black: privacy masks, polygons of (x, y) in 0..1 that are black in every frame that is read.
    """

    path: Path
    name: str
    kind: Literal["video", "image"]
    black: tuple[Polygon, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What a source says about itself.

    Attributes:
        width, height: pixels, after rotation.
        fps: average frames a second; None for an image.
        duration_s: seconds; None for an image.
        frames: number of frames; None where the container does not say.
        codec: name of the video codec, or of the image format.
        rotation: degrees clockwise that were applied to show it upright: 0, 90, 180 or 270.
    """

    width: int
    height: int
    fps: float | None
    duration_s: float | None
    frames: int | None
    codec: str
    rotation: int


def find_sources(paths: Sequence[str | Path], black: Sequence[Polygon] = ()) -> list[Source]:
    """Videos and images under `paths`, in the order given and naturally sorted (clip_2 before clip_10).

    Each path is a video, an image, a folder (searched with its subfolders) or a glob. In a folder
    or a glob, hidden files and files of other kinds are passed over, and so are the pictures of a model folder and of
    what `run` and `score` wrote: they show anomalies. A file named outright is taken
    whatever its extension, and tried as a video. A file reached twice is taken once. Names that would
    collide are told apart by the folders above their roots. `black` are the privacy masks of all of them.

    Raises:
        NoFootageError: a path that does not exist, a glob without a match, a folder without footage.
    """
    found: list[tuple[Path, Source]] = []
    seen: set[str] = set()
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        for root, source in _expand(path):
            key = os.path.abspath(source.path)
            if key not in seen:
                seen.add(key)
                found.append((root, source))
    if not found:
        raise NoFootageError("no path was given; name a video, an image, a folder of either, or a glob")
    return under_masks(_with_unique_names(found), black)


def under_masks(sources: Sequence[Source], black: Sequence[Polygon]) -> list[Source]:
    """The same sources under these privacy masks."""
    return [replace(source, black=tuple(black)) for source in sources]


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which `clip_2` comes before `clip_10`; ties fall back to the plain text."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text.casefold())
    key = tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
    return (*key, (2, 0, text))


def fingerprint(path: str | Path) -> str:
    """SHA-256 of the file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _expand(path: str | Path) -> Iterator[tuple[Path, Source]]:
    """Yield (root, source) for everything one path stands for; the name is relative to the root."""
    text = str(path)
    # A file may be called `~a.mp4`; of a user whom nobody knows `Path.expanduser` makes an error.
    plain = Path(path) if Path(path).exists() else Path(os.path.expanduser(path))
    if plain.is_dir():
        yield from _in_folder(plain)
    elif plain.is_file():
        kind: Literal["video", "image"] = "image" if plain.suffix.lower() in IMAGE_SUFFIXES else "video"
        yield plain.parent, Source(plain, plain.name, kind)
    elif plain.exists():
        raise NoFootageError(f"{text} is neither a file nor a folder; footage is read from regular files")
    elif re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", text):
        raise NoFootageError(f"{text} is an address, not a file; only `run --source` reads live streams")
    elif glob.has_magic(text):
        yield from _in_glob(text)
    else:
        raise NoFootageError(f"{text} does not exist; give a video, an image, a folder of either, or a glob")


def _in_folder(folder: Path) -> list[tuple[Path, Source]]:
    files = list(_walk(folder, set()))
    found = [(folder, source) for source in _known(folder, files)]
    if not found:
        held = f"{len(files)} other file{'' if len(files) == 1 else 's'}" if files else "no files at all"
        raise NoFootageError(
            f"{folder} holds no video or image ({held}); videos end in .mp4, .mkv, .avi and the like, "
            "images in .png, .jpg, .bmp, .tif, .webp"
        )
    return sorted(found, key=lambda pair: natural_key(pair[1].name))


def _in_glob(pattern: str) -> list[tuple[Path, Source]]:
    pattern = os.path.expanduser(pattern)
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed]) if fixed else Path()
    files: list[Path] = []
    for match in map(Path, glob.glob(pattern, recursive=True)):
        below = [path for path in (match, *match.parents) if path != root and path.is_relative_to(root)]
        if any(map(_is_no_footage, below)):
            continue
        files.extend(_walk(match, set()) if match.is_dir() else [match] if match.is_file() else [])
    found = {source.name: source for source in _known(root, files)}
    if not found:
        raise NoFootageError(
            f"{pattern} matches no video or image; check the pattern (quoted, so that the shell leaves it "
            "alone) and the folder it starts in"
        )
    return [(root, found[name]) for name in sorted(found, key=natural_key)]


def _known(root: Path, paths: Iterable[Path]) -> Iterator[Source]:
    """Sources among `paths` by their extension, named relative to `root`."""
    for path in paths:
        suffix = path.suffix.lower()
        if suffix in VIDEO_SUFFIXES:
            yield Source(path, path.relative_to(root).as_posix(), "video")
        elif suffix in IMAGE_SUFFIXES:
            yield Source(path, path.relative_to(root).as_posix(), "image")


def _walk(folder: Path, visited: set[str]) -> Iterator[Path]:
    """Regular files below `folder` but hidden ones; each real folder once, so that links cannot loop."""
    real = os.path.realpath(folder)
    if real in visited:
        return
    visited.add(real)
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise FootageError(
            f"{folder} cannot be listed ({error.strerror}); give this user the right to read it"
        ) from None
    # Real folders before linked ones: footage keeps the name of the place where it really lies.
    entries.sort(key=lambda entry: (entry.is_symlink(), natural_key(entry.name)))
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir():
            if _is_no_footage(path):
                continue
            yield from _walk(path, visited)
        elif entry.is_file():
            yield path


def _is_no_footage(folder: Path) -> bool:
    """Whether a folder is a model, or what `run` or `score` wrote beside footage or into its folder."""
    if (folder / HEATMAPS).is_file():
        return True
    if folder.name in _RUN_FOLDERS and (folder.parent / "events.jsonl").is_file():
        return True
    return (folder / "explanations.json").is_file() or (
        (folder / "model.json").is_file() and (folder / "banks").is_dir()
    )


def _readable(name: str) -> str:
    """A name that can be written to any file: bytes that are no UTF-8, which a path holds as surrogates, spelt out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _with_unique_names(found: list[tuple[Path, Source]]) -> list[Source]:
    """Prefix names that occur under several roots with as many folders above the root as it takes."""
    roots = [Path(os.path.abspath(root)).parts[1:] for root, _ in found]
    names = [_readable(source.name) for _, source in found]
    for depth in range(1, max(map(len, roots)) + 1):
        counts: dict[str, int] = {}
        for name in names:
            counts[name] = counts.get(name, 0) + 1
        if len(counts) == len(names):
            break
        for i, (_, source) in enumerate(found):
            if counts[names[i]] > 1:
                names[i] = _readable("/".join((*roots[i][-depth:], source.name)))
    return [replace(source, name=name) for (_, source), name in zip(found, names, strict=True)]
