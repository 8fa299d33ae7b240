"""The site file: cameras of a line, what looks at each, and when. Plain YAML; secrets by reference only.

See `configs/sites/example.yaml` for all that can be written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import yaml

from anomaly.edge.address import Address, parse_address
from anomaly.edge.state import Schedule, parse_schedule
from anomaly.errors import SourceError, UsageError
from anomaly.regions import Regions

Polygon: TypeAlias = tuple[tuple[float, float], ...]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NAMES = "letters, digits, - _ . and at most 64 of them, the first a letter or digit"
_KEYS = ("site", "line", "page", "timezone", "model", "fps", "cameras", "sinks")
_CAMERA_KEYS = (
    "name", "source", "model", "recipes", "recipe", "fps", "regions", "black", "schedule", "record", "loop",
)  # fmt: skip
_REGION_KEYS = "look", "ignore", "mask"
_FPS = 10.0


@dataclass(frozen=True)
class CameraSite:
    """One camera.

    Attributes:
        name: unique; also the name of its folders.
        address: where its frames come from.
        model: folder of the model that looks, where no recipe is chosen.
        recipes: model folders by recipe code.
        recipe: the one at the start; "" = `model`.
        fps: frames a second that are looked at; None = every frame.
        black: privacy masks, polygons of (x, y) in 0..1.
        schedule: when it is not to announce.
        record: whether a rolling recording is kept.
        loop: a file is played again and again.
        regions: what of the picture counts, of that which counts for the model.
    """

    name: str
    address: Address
    model: Path
    recipes: Mapping[str, Path]
    recipe: str
    fps: float | None
    black: tuple[Polygon, ...]
    schedule: Schedule
    record: bool
    loop: bool
    regions: Regions = field(default_factory=Regions)


@dataclass(frozen=True)
class Site:
    """A site file, read.

    Attributes:
        site, line: names, as people on the spot use them.
        cameras: one or more.
        document: all of the file, for the reader of its sinks; empty where flags made the site.
    """

    site: str
    line: str
    cameras: tuple[CameraSite, ...]
    document: Mapping[str, Any] = field(repr=False)


def load_site(path: Path) -> Site:
    """Read a site file; paths in it are relative to it.

    Raises:
        UsageError: it cannot be read, or something in it cannot be used; names camera and key, and never quotes
            what may hold an address or a password.
    """
    document = _document(path)
    where = f"site file {path}"
    _known(document, _KEYS, where)
    entries = document.get("cameras")
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{where}: cameras is missing or no list; give at least one with name and source")
    cameras = tuple(
        _camera(entry, position, document, path.parent, where) for position, entry in enumerate(entries)
    )
    _unique([camera.name for camera in cameras], where)
    sinks = document.get("sinks")
    if sinks is not None and not isinstance(sinks, Mapping):
        raise UsageError(f"{where}: sinks is no mapping; give mqtt, webhooks or people in it")
    title = {key: _text(document.get(key, key), f"{where}: {key}") for key in ("site", "line")}
    return Site(title["site"], title["line"], cameras, document)


def site_of(
    sources: Sequence[str],
    model: Path,
    *,
    fps: float | None,
    record: bool,
    names: Sequence[str] | None = None,
) -> Site:
    """A site from flags alone: one camera a source, all with one model.

    Args:
        sources: addresses.
        model: folder of the model.
        fps: frames a second that are looked at; None = every frame.
        record: whether the rolling recording is on.
        names: one a source; None = files by their name, others camera1, camera2, ...

    Raises:
        UsageError: names that are bad, double, or not as many as sources.
        SourceError: a source that may not be opened.
    """
    if not sources:
        raise UsageError("there is no source; give one with --source")
    addresses = [parse_address(source) for source in sources]
    if names is None:
        names = _made_up(addresses)
    elif len(names) != len(sources):
        raise UsageError(f"there are {len(sources)} sources and {len(names)} names; give one name a source")
    for name in names:
        _name(name, "camera")
    _unique(names, "cameras")
    cameras = tuple(
        CameraSite(name, address, model, {}, "", fps, (), Schedule(), record, loop=False)
        for name, address in zip(names, addresses, strict=True)
    )
    return Site("site", "line", cameras, {})


def _document(path: Path) -> Mapping[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"site file {path} cannot be read ({error.strerror}); give the path of one"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"site file {path} is not UTF-8 text; write it anew as UTF-8") from None
    except yaml.YAMLError as error:
        # The library's own words quote the file, over several lines.
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"site file {path} is no YAML{line}; see configs/sites/example.yaml") from None
    except (ValueError, RecursionError):
        # A date that no calendar has; lists in lists without end.
        raise UsageError(
            f"site file {path} holds a value that cannot be read; put dates and times in quotes, "
            "see configs/sites/example.yaml"
        ) from None
    if not isinstance(document, Mapping):
        raise UsageError(f"site file {path} holds no settings; see configs/sites/example.yaml")
    return document


def _camera(entry: object, position: int, document: Mapping[str, Any], folder: Path, file: str) -> CameraSite:
    if not isinstance(entry, Mapping):
        raise UsageError(f"{file}: cameras[{position}] is no mapping; give name and source in it")
    name = _name(entry.get("name"), f"{file}: cameras[{position}].name")
    where = f"{file}: camera {name}"
    _known(entry, _CAMERA_KEYS, where)
    source = _text(entry.get("source"), f"{where}: source")
    try:
        address = parse_address(source)
    except SourceError as error:
        raise UsageError(f"{where}: source: {error}") from None
    if address.kind == "file" and "://" not in source:
        address = parse_address(str(folder / source))
    recipes = entry.get("recipes") or {}
    if not isinstance(recipes, Mapping):
        raise UsageError(f"{where}: recipes={recipes!r} is no mapping; give `code: model folder`")
    models = {
        _name(str(code), f"{where}: recipes"): _model(given, folder, f"{where}: recipes.{code}")
        for code, given in recipes.items()
    }
    recipe = str(entry.get("recipe") or "")
    if recipe and recipe not in models:
        known = ", ".join(models) or "none"
        raise UsageError(f"{where}: recipe={recipe!r} is not among its recipes; it has {known}")
    fps = entry.get("fps", document.get("fps", _FPS))
    zone = document.get("timezone")
    try:
        schedule = parse_schedule(entry.get("schedule") or [], zone)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return CameraSite(
        name=name,
        address=address,
        model=_model(entry.get("model", document.get("model")), folder, f"{where}: model"),
        recipes=models,
        recipe=recipe,
        fps=None if fps is None else _number(fps, f"{where}: fps"),
        black=polygons(entry.get("black") or [], f"{where}: black"),
        schedule=schedule,
        record=_switch(entry.get("record", True), f"{where}: record"),
        loop=_switch(entry.get("loop", False), f"{where}: loop"),
        regions=_regions(entry.get("regions") or {}, folder, where),
    )


def _made_up(addresses: Sequence[Address]) -> list[str]:
    names: list[str] = []
    for position, address in enumerate(addresses, 1):
        name = f"camera{position}"
        if address.kind == "file":
            path = urlsplit(address.path).path if "://" in address.path else address.path
            stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(path).stem).strip("-_.")[:48]
            name = stem or name
        first, number = name, 2
        while name in names:
            name, number = f"{first}-{number}", number + 1
        names.append(name)
    return names


def _known(given: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in given:
        if key not in keys:
            raise UsageError(f"{where}: {key} is not known; give {', '.join(keys)}")


def _unique(names: Sequence[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{where}: there are two cameras of the name {name}; give each its own")


def _name(value: object, where: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UsageError(f"{where}={value!r} is no name; give {_NAMES}")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise UsageError(f"{where} is missing or no text of one line; give one")
    return value.strip()


def _model(value: object, folder: Path, where: str) -> Path:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where}={value!r} names no model; give the folder of one")
    path = folder / value
    if not path.is_dir():
        raise UsageError(
            f"{where}={value} is no folder ({path}); give the folder of a model, as `fit` writes it"
        )
    return path


def _regions(given: object, folder: Path, where: str) -> Regions:
    if not isinstance(given, Mapping):
        raise UsageError(f"{where}: regions={given!r} is no mapping; give look, ignore or mask in it")
    _known(given, _REGION_KEYS, f"{where}: regions")
    mask = given.get("mask")
    path = None if mask is None else folder / _text(mask, f"{where}: regions.mask")
    try:
        return Regions(given.get("look") or (), given.get("ignore") or (), path)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(f"{where}={value!r} is no number above 0; give one")
    return float(value)


def _switch(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{where}={value!r} is neither true nor false; give one of them")
    return value


def polygons(value: object, where: str) -> tuple[Polygon, ...]:
    """Privacy masks as they are written down.

    Args:
        value: a list of lists of [x, y] in 0..1.
        where: what an error names.

    Raises:
        UsageError: it is something else.
    """
    wanted = f"{where} is no list of polygons; give three or more corners [x, y] in 0..1 for each"
    if not isinstance(value, list):
        raise UsageError(wanted)
    read = []
    for polygon in value:
        if not isinstance(polygon, list) or len(polygon) < 3:
            raise UsageError(wanted)
        corners = []
        for corner in polygon:
            if not isinstance(corner, list) or len(corner) != 2:
                raise UsageError(wanted)
            for one in corner:
                if isinstance(one, bool) or not isinstance(one, int | float) or not 0 <= one <= 1:
                    raise UsageError(wanted)
            corners.append((float(corner[0]), float(corner[1])))
        read.append(tuple(corners))
    return tuple(read)
