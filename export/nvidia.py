"""What the system tells of its NVIDIA GPUs, without any library of NVIDIA's."""

from __future__ import annotations

import os
import re
from importlib.metadata import distributions
from pathlib import Path

#: Libraries that compute, or choose how; others come and go while a process runs.
_LIBRARIES = re.compile(r"lib(cuda|cudart|cublas|cublasLt|cudnn|nvinfer)\.so[\d.]*")
_PACKAGES = re.compile(r"(nvidia|tensorrt|onnxruntime)([-_].*)?", re.IGNORECASE)


def driver_version(root: Path = Path("/")) -> str:
    """As the driver tells it: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06 ..."; "" where it does not (containers, Jetson)."""
    lines = _lines(root / "proc/driver/nvidia/version")
    return lines[0] if lines else ""


def nvidia_facts(root: Path = Path("/")) -> list[str]:
    """What answers of a GPU may hang on, as far as it can be known: GPUs, driver, libraries, packages.

    Args:
        root: of the file system.
    """
    gpus = sorted(
        line.partition(":")[2].strip()
        for told in root.glob("proc/driver/nvidia/gpus/*/information")
        for line in _lines(told)
        if line.startswith("Model:")
    )
    board = _lines(root / "proc/device-tree/model")[:1] + _lines(root / "etc/nv_tegra_release")[:1]
    # With the version in their names, as far as the files have it: "libcuda.so.580.65.06".
    loaded = {Path(line.split()[-1]).name for line in _lines(root / "proc/self/maps") if "/" in line}
    libraries = sorted(name for name in loaded if _LIBRARIES.fullmatch(name))
    packages = sorted(
        f"{one.name} {one.version}" for one in distributions() if _PACKAGES.fullmatch(one.name or "")
    )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    driver = driver_version(root)
    return [*gpus, *board, *([driver] if driver else []), *libraries, *packages, f"visible: {visible}"]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").replace("\0", "").splitlines()
    except OSError:
        return []
