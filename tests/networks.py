"""Networks as their configurations describe them, with weights that need no download."""

from __future__ import annotations

import timm
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from anomaly.backbone import BackboneSpec
from anomaly.commands.fit import backbone_spec
from anomaly.config import register
from anomaly.weights import SOURCES, load_weights


def spec_of(name: str) -> BackboneSpec:
    """As `configs/backbone/NAME.yaml` describes it."""
    register()
    with initialize_config_module("configs", version_base="1.3"):
        config = compose("fit", [f"backbone={name}"])
    chosen = OmegaConf.to_object(OmegaConf.merge(config.backbone))
    return backbone_spec(chosen)  # type: ignore[arg-type]


def network_weights(name: str) -> dict[str, torch.Tensor]:
    """Our own weights where a package has them, else fresh ones: shapes do not depend on values."""
    if SOURCES[name].package:
        return load_weights(name, offline=True)[0]
    torch.manual_seed(0)
    return dict(timm.create_model(SOURCES[name].architecture, pretrained=False, num_classes=0).state_dict())
