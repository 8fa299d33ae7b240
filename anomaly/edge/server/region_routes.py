"""Regions drawn on the page: kept for the next fit, which is where they take effect."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, HTTPException

from anomaly.edge import durable
from anomaly.edge.server.access import TheDoor, WhoEngineers, WhoReads
from anomaly.edge.server.camera_routes import existing
from anomaly.edge.server.schemas import RegionsIn, RegionsOut
from anomaly.regions import Regions

router = APIRouter(prefix="/api/regions", tags=["regions"])


@router.get("/{camera}")
def regions(camera: str, door: TheDoor, who: WhoReads) -> RegionsOut:
    """What was drawn for a camera; nothing drawn = all of the picture counts."""
    existing(door, camera)
    return _out(camera, _kept(regions_file(door.store.folder, camera)))


@router.put("/{camera}")
def draw_regions(camera: str, given: RegionsIn, door: TheDoor, who: WhoEngineers) -> RegionsOut:
    """Keep polygons for a camera's next fit; what now runs stays as it was certified."""
    existing(door, camera)
    # UsageError, told as 422, where nothing would be left to look at.
    Regions(look=tuple(given.look), ignore=tuple(given.ignore))  # type: ignore[arg-type]
    path = regions_file(door.store.folder, camera)
    before = _kept(path)
    # Who saves the same again has not heard that it was saved.
    same = (before.get("look"), before.get("ignore")) == (given.look, given.ignore)
    if not same and given.replaces_utc_s is not None and given.replaces_utc_s != before.get("utc_s", 0.0):
        raise HTTPException(
            409, f"{before.get('who', 'somebody')} has saved other regions of {camera} meanwhile"
        )
    kept = {"look": given.look, "ignore": given.ignore, "who": who.who, "utc_s": time.time()}
    door.audit.add(
        who.who,
        "regions",
        camera,
        address=who.address,
        detail={"look": len(given.look), "ignore": len(given.ignore)},
    )
    durable.write_bytes(path, json.dumps(kept).encode())
    return _out(camera, kept)


def regions_file(folder: Path, camera: str) -> Path:
    """Where a camera's polygons lie in a store's folder; any name makes a safe file name."""
    return folder / "regions" / f"{quote(camera, safe='')}.json"


def _kept(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _out(camera: str, kept: dict[str, Any]) -> RegionsOut:
    look, ignore = kept.get("look", []), kept.get("ignore", [])
    overrides = [
        f"'regions.{name}={json.dumps(polygons, separators=(',', ':'))}'"
        for name, polygons in (("look", look), ("ignore", ignore))
        if polygons
    ]
    return RegionsOut(
        camera=camera,
        look=look,
        ignore=ignore,
        who=kept.get("who"),
        utc_s=kept.get("utc_s"),
        overrides=" ".join(overrides),
    )
