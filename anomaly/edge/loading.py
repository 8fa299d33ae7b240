"""The models of a site: loaded and verified before anything changes over to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from anomaly.edge.loaded import Loaded
from anomaly.errors import ModelError, UsageError

if TYPE_CHECKING:
    from anomaly.edge.site import CameraSite, Site

#: Gives a model folder and the sampling rate of its cameras to the model, verified.
Load: TypeAlias = Callable[[Path, float | None], Loaded]
#: What was loaded, by that folder and rate.
Models: TypeAlias = dict[tuple[Path, float | None], Loaded]


class Loader:
    """Loads what looks at cameras, with all recipes: a switch then takes no time.

    Args:
        load: loads a model; raises AnomalyError where it cannot be verified.
        require_certificate: refuse a camera that one of its models would watch uncertified.

    Attributes:
        reading: the folder that is being loaded; None = none is.

    Raises:
        AnomalyError: by its methods; a model cannot be loaded, or watch its camera.
    """

    def __init__(self, load: Load, *, require_certificate: bool = False) -> None:
        self._load = load
        self._require_certificate = require_certificate
        self.reading: Path | None = None

    def site(self, site: Site) -> Models:
        """All models of a site, loaded anew."""
        models: Models = {}
        for camera in site.cameras:
            self.camera(camera, models)
        return models

    def camera(self, camera: CameraSite, models: Models) -> None:
        """Add to `models` those of a camera that are not in it."""
        for path in (camera.model, *camera.recipes.values()):
            if (path, camera.fps) not in models:
                self.reading = path
                try:
                    models[path, camera.fps] = self._load(path, camera.fps)
                finally:
                    self.reading = None
            self._check(camera, path, models[path, camera.fps])

    def _check(self, camera: CameraSite, path: Path, loaded: Loaded) -> None:
        """Refuse what cannot watch a camera before anything changes over to it."""
        try:
            threshold = loaded.within(camera.regions).under(camera.black).threshold_of(camera.name)
        except UsageError as error:
            raise UsageError(f"camera {camera.name}: {path}: {error}") from None
        if self._require_certificate and not threshold.certified:
            raise ModelError(
                f"camera {camera.name}: {path}: {threshold.headline()}; "
                "run.require_certificate=true does not run what is not certified"
            )
