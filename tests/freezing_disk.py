"""A disk that hangs as a broken one does, for tests: not even a kill ends who writes to it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def freezing_disk(tmp_path: Path):
    """The folder of a small disk of its own, for `freeze`."""
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(16 * 2**20)
    for command in (["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(folder)]):
        if shutil.which(command[0]) is None:
            pytest.skip(f"no {command[0]} on this machine; apt-get install e2fsprogs mount")
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a disk cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["fsfreeze", "-u", str(folder)], capture_output=True)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def freeze(folder: Path) -> None:
    """From now on whoever writes there waits."""
    subprocess.run(["fsfreeze", "-f", str(folder)], check=True)


def thaw(folder: Path) -> None:
    """Let them go on."""
    subprocess.run(["fsfreeze", "-u", str(folder)], check=True)
