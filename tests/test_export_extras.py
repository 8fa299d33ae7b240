"""What the extras of a recipe bring together: one FAISS and one ONNX Runtime, and all that `run` needs."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from small_model import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]


def brought(extras: tuple[str, ...], machine: str) -> set[str]:
    """Packages that a Linux machine of that kind gets."""
    found: set[str] = set()
    for line in (line for extra in extras for line in EXTRAS[extra]):
        one = Requirement(line)
        if one.name == "anomaly":
            found |= brought(tuple(one.extras), machine)
        elif one.marker is None or one.marker.evaluate(
            {"sys_platform": "linux", "platform_machine": machine}
        ):
            found.add(one.name)
    return found


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(
    "recipe",
    [
        ("train", "export", "tensorrt"), ("train", "export", "live"), ("edge",), ("edge-gpu",), ("edge-tensorrt",),
        ("edge", "tensorrt-rtx"),
    ],
)  # fmt: skip
def test_a_recipe_brings_no_two_packages_that_overwrite_each_other(recipe: tuple[str, ...], machine: str):
    packages = brought(recipe, machine)
    for pair in ("faiss-(cpu|gpu)", "onnxruntime(-gpu)?"):
        assert len([one for one in packages if re.fullmatch(pair, one)]) <= 1, packages
    assert "fastapi" in packages
    assert packages & {"faiss-cpu", "faiss-gpu"}
