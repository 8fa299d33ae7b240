"""Every number of every configuration is refused where it is out of its bounds, before anything is read."""

from __future__ import annotations

import math
import re
import typing
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest
from small_model import invoke

from anomaly.config import SCHEMAS
from anomaly.config.bounds import check_bounds
from anomaly.errors import UsageError

#: What each command cannot do without, so that nothing but the number is wrong.
_NEEDED = {
    "fit": ("normal_videos=[none.mp4]", "model=m"),
    "calibrate": ("model=m", "labeled=none.csv"),
    "evaluate": ("model=m", "labeled=none.csv"),
    "score": ("model=m", "source=[none.mp4]", "out=s.csv"),
    "run": ("model=m", "source=[none.mp4]"),
    "bank": ("action=info", "model=m"),
    "record": ("source=none.mp4", "out=o"),
}


def numbers(schema: type, prefix: str = "") -> list[tuple[str, bool, bool]]:
    """(key, whether it is a float, whether it is a list) of every number, groups and all."""
    found = []
    hints = typing.get_type_hints(schema)
    for one in fields(schema):
        kind = hints[one.name]
        if is_dataclass(kind):
            assert one.default_factory is not MISSING
            found += numbers(typing.cast(type, kind), f"{prefix}{one.name}.")
            continue
        parts = {kind, *typing.get_args(kind)}
        lists = [part for part in parts if typing.get_origin(part) is list]
        parts |= {part for each in lists for part in typing.get_args(each)}
        if parts & {int, float}:
            found.append((prefix + one.name, float in parts, bool(lists)))
    return found


@pytest.mark.parametrize("command", SCHEMAS)
def test_no_command_takes_a_number_that_is_none(command: str):
    for key, is_float, is_list in numbers(SCHEMAS[command]):
        for value in (math.nan, math.inf, -math.inf, -1.0) if is_float else (-1,):
            if key == "backbone.mean" and value == -1:
                continue  # the one number that may be below 0
            config = SCHEMAS[command]()
            *groups, name = key.split(".")
            group = config
            for one in groups:
                group = getattr(group, one)
            setattr(group, name, [value] * 3 if is_list else value)
            with pytest.raises(UsageError, match=f"^{re.escape(key)}=.* give "):
                check_bounds(config)


@pytest.mark.parametrize(
    ("command", "override"),
    [
        ("fit", "fit.guard_s=inf"),
        ("evaluate", "footage.fps=nan"),
        ("calibrate", "--confidence=nan"),
        ("score", "explain_most=0"),
        ("run", "run.opacity=7"),
        ("bank", "size=0"),
        ("record", "hours=inf"),
    ],
)
def test_a_command_refuses_before_it_reads_anything(
    command: str, override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done = invoke(command, *_NEEDED[command], override)
    assert done.status == 2
    assert f"{override.removeprefix('--').split('=')[0]}=" in done.message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("backbone.layers=[]", "backbone.layers=[] has 0 entries; give 1 or more"),
        ("backbone.mean=[1]", "backbone.mean=[1.0] has 1 entries; give 3"),
        ("backbone.std=[0,0,0]", "give numbers above 0"),
        ("backbone.stride=0", "give a number 1 or more"),
        ("backbone.input_pixels=0", "give a number 1 or more"),
        ("projection.level=1.5", "give a number 0 or more and 1 at most"),
        ("fit.holdout=1", "give a number 0 or more and below 1"),
        ("exemplars.max_mb=1e300", "1e+06 at most"),
    ],
)
def test_the_bounds_are_told(override: str, told: str):
    done = invoke("fit", *_NEEDED["fit"], override)
    assert done.status == 2
    assert told in done.message


def test_numbers_within_their_bounds_pass():
    done = invoke("fit", *_NEEDED["fit"], "backbone.mean=[-1,0,2]", "fit.fps=null", "exemplars.max_mb=0")
    assert done.status == 1  # there is no such footage
    assert "none.mp4" in done.message
