"""What is told of NVIDIA GPUs by the system alone: none is at hand, so the files are as the driver writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from export import nvidia_facts


def test_what_decides_on_a_gpus_answers_is_told_by_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    for number, name in enumerate(("NVIDIA L4", "NVIDIA H200")):
        gpu = tmp_path / f"proc/driver/nvidia/gpus/0000:0{number}:00.0"
        gpu.mkdir(parents=True)
        (gpu / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 24\n")
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:14:51 UTC 2025"
    (tmp_path / "proc/driver/nvidia/version").write_text(f"{version}\nGCC version:  gcc 13.3.0\n")
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/maps").write_text(
        "7f00-7f01 r-xp 00000000 08:01 12 /usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06\n"
        "7f01-7f02 r-xp 00000000 08:01 13 /opt/nvidia/libcudnn.so.9.5.1\n"
        "7f02-7f03 r-xp 00000000 08:01 14 /opt/nvidia/libcudnn_engines_runtime.so.9.5.1\n"
        "7f03-7f04 rw-p 00000000 00:00 0 \n"
    )
    found = nvidia_facts(tmp_path)
    assert found[:5] == [
        "NVIDIA H200", "NVIDIA L4", version, "libcuda.so.580.65.06", "libcudnn.so.9.5.1"
    ]  # fmt: skip
    assert any(one.startswith("onnxruntime ") for one in found), "packages, too"
    assert found[-1] == "visible: 1"


def test_a_board_tells_its_name_and_release(tmp_path: Path):
    for name, text in (
        ("proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0"),
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert nvidia_facts(tmp_path)[:2] == [
        "NVIDIA Jetson Orin Nano Developer Kit",
        "# R36 (release), REVISION: 4.3",
    ]
