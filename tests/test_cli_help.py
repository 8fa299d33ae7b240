"""The command line before anything heavy: help, speed, and which arguments are overrides."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from small_model import environment, invoke, process

from anomaly.cli import split_overrides
from anomaly.config import quoted, register
from anomaly.verbs import COMMANDS

HEAVY = ("numpy", "hydra", "omegaconf", "torch", "cv2", "av", "scipy", "rich")


def test_help_answers_in_half_a_second(tmp_path: Path):
    times = []
    for _ in range(3):
        began = time.perf_counter()
        done = process("--help", cwd=tmp_path)
        times.append(time.perf_counter() - began)
        assert done.status == 0
        assert all(command in done.out for command in COMMANDS)
    assert min(times) < 0.5


# A flag that there is not is compared with the settings, whose names omegaconf's schemas hold.
@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [(["--help"], []), (["fit", "--help"], []), ([], []), (["fit", "--nonsense"], ["omegaconf"])],
)
def test_help_and_bad_flags_import_nothing_heavy(arguments: list[str], loaded: list[str], tmp_path: Path):
    code = (
        "import sys, anomaly.cli\n"
        "try: anomaly.cli.run(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        f"print('loaded', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == f"loaded {loaded}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_flags(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        invoke(command, "--help")
    assert left.value.code == 0


def test_a_command_explains_itself_with_an_example(tmp_path: Path):
    done = process("calibrate", "--help", cwd=tmp_path)
    assert done.status == 0
    for flag in COMMANDS["calibrate"].flags:
        assert flag.name in done.out
    assert "python -m anomaly calibrate --model" in done.out


def test_without_a_command_the_help_is_shown():
    done = invoke()
    assert done.status == 0
    assert "COMMAND" in done.out
    assert invoke("bank.size=3").status == 2


def test_overrides_are_found_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    line = [
        "fit",
        "bank.size=3",
        "--normal-videos",
        "a.mp4",
        "fit.fps=2",
        "b.mp4",
        "+new=1",
        "~fit.drop",
        "++x=2",
    ]
    flags, overrides = split_overrides(line)
    assert flags == ["fit", "--normal-videos", "a.mp4", "b.mp4"]
    assert overrides == ["bank.size=3", "fit.fps=2", "+new=1", "~fit.drop", "++x=2"]


def test_a_path_that_exists_is_a_path_even_with_an_equals_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert split_overrides(["day=1.mp4"])[1] == ["day=1.mp4"]
    Path("day=1.mp4").touch()
    assert split_overrides(["day=1.mp4"])[0] == ["day=1.mp4"]
    assert split_overrides(["~new.mp4"])[1] == ["~new.mp4"]
    Path("~new.mp4").touch()
    assert split_overrides(["~new.mp4"])[0] == ["~new.mp4"]
    assert split_overrides(["./none=1", "/tmp/x=1", "~/x=2"])[0] == ["./none=1", "/tmp/x=1", "~/x=2"]


def through_hydra(*texts: str) -> list[str]:
    """What a command receives for texts given with a flag that takes many."""
    register()
    with initialize_config_module("configs", version_base="1.3"):
        config = compose("score", ["source=[" + ",".join(map(quoted, texts)) + "]"])
    return list(OmegaConf.to_container(config.source, resolve=True))


@pytest.mark.parametrize(
    "text",
    [
        "two words", "a,b", "it's", 'a "b"', "[x]", "{x}", "a=b", "a:b", "$HOME", "${fit.fps}", "a\\b", "end\\",
        "\\'", "\\\\'", "C:\\new\\", "\\${x}", "\\\\${x}", "null", "true", "1e5", "", " ", "# no", "?*", "é日本",
        "???", "$", "$$", "\\", "\\\\", "${", "$\\{x}", "'", "''", "a\tb", "day${x", "${oc.env:HOME}",
    ],
)  # fmt: skip
def test_any_text_reaches_the_command_as_it_was_typed(text: str):
    assert through_hydra(text) == [text]
    assert through_hydra("plain.mp4", text, "other one.mp4") == ["plain.mp4", text, "other one.mp4"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["${", *"a'\"\\$[{}],=: ~+#?.é"]), max_size=8).map("".join))
def test_any_mix_of_special_characters_survives(text: str):
    assert through_hydra(text) == [text]


def test_the_version_is_the_packages_own(tmp_path: Path):
    done = process("--version", cwd=tmp_path)
    assert (done.status, done.out.strip()) == (0, version("anomaly"))
