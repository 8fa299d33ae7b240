"""Compiled engines: kept for one user and one machine, and never trusted beyond what they were built under."""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from export.engine_cache import (
    EngineFacts,
    cache_folder,
    read_engine,
    read_timings,
    write_engine,
    write_timings,
)
from export.errors import EngineError

FACTS = EngineFacts("NVIDIA L4, 8.9", "580.65", "10.13.0", "fp16", "ab" * 32, 16)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("ANOMALY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_an_engine_comes_back_under_the_same_facts():
    assert read_engine(FACTS) is None
    path = write_engine(FACTS, b"plan")
    assert read_engine(FACTS) == b"plan"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache_folder().stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "change",
    [
        {"gpu": "NVIDIA H200, 9.0"}, {"driver": "575.1"}, {"libraries": "11.0"}, {"precision": "fp32"},
        {"graph": "cd" * 32}, {"batch": 8}, {"most_rows": 20_000},
    ],
)  # fmt: skip
def test_an_engine_of_another_machine_version_or_graph_is_not_used(change: dict[str, str]):
    path = write_engine(FACTS, b"plan")
    other = replace(FACTS, **change)
    assert other.key != FACTS.key
    assert read_engine(other) is None
    # Not even under a name that was made to fit.
    for suffix in (".plan", ".json"):
        path.with_suffix(suffix).rename(path.with_name(f"{other.key}{suffix}"))
    assert read_engine(other) is None


def test_a_changed_or_half_written_engine_is_built_anew():
    path = write_engine(FACTS, b"plan")
    path.write_bytes(b"plam")
    assert read_engine(FACTS) is None
    write_engine(FACTS, b"plan")
    path.with_suffix(".json").write_text("{")
    assert read_engine(FACTS) is None


def test_a_cache_that_others_may_write_to_is_refused():
    folder = cache_folder()
    folder.chmod(0o777)
    with pytest.raises(EngineError, match="open to other users"):
        read_engine(FACTS)
    folder.chmod(0o700)
    folder.rmdir()
    folder.symlink_to("/tmp")
    with pytest.raises(EngineError, match="open to other users"):
        write_engine(FACTS, b"plan")


def test_the_cache_is_where_the_service_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANOMALY_CACHE", str(tmp_path / "var"))
    assert cache_folder() == tmp_path / "var" / "engines"


def test_a_cache_that_others_may_put_another_in_place_of_is_refused(home: Path):
    cache_folder()
    (home / "anomaly").chmod(0o777)
    with pytest.raises(
        EngineError, match=r"anomaly' above the engine cache is open to other users \(mode 777"
    ):
        read_engine(FACTS)
    # As /tmp is: others may write there, and not rename what is not theirs.
    (home / "anomaly").chmod(0o1777)
    assert read_engine(FACTS) is None


def test_an_engine_in_a_cache_that_may_only_be_read_is_used(monkeypatch: pytest.MonkeyPatch):
    """As in an image of a container: each start built it anew, for minutes, for want of a time of its last use."""
    write_engine(FACTS, b"plan")

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("os.utime", read_only)
    assert read_engine(FACTS) == b"plan"


def test_engines_of_dozens_of_recipes_are_kept():
    """Each changeover rebuilt one for minutes where more than sixteen were in use."""
    for batch in range(60):
        write_engine(replace(FACTS, batch=batch), b"plan")
    assert all(read_engine(replace(FACTS, batch=batch)) == b"plan" for batch in range(60))


def test_engines_that_were_not_used_for_longest_make_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("export.engine_cache._KEPT_BYTES", 10)
    first, used, long_ago = (replace(FACTS, batch=batch) for batch in (100, 101, 102))
    write_engine(first, b"plan")
    for days, facts in ((3, first), (40, used)):
        path = write_engine(facts, b"plan")
        os.utime(path, (time.time() - 86_400 * days,) * 2)
    read_engine(used)
    write_engine(FACTS, b"plan")
    assert read_engine(first) is None
    assert read_engine(used) == b"plan"
    assert "an engine that was last used 3 days ago was removed, and is built anew" in caplog.text
    path = write_engine(long_ago, b"pl")
    os.utime(path, (time.time() - 86_400 * 400,) * 2)
    left = path.with_name(f".{path.name}.77.partial")
    left.write_bytes(b"pla")
    os.utime(left, (time.time() - 86_400 * 2,) * 2)
    caplog.clear()
    write_engine(FACTS, b"plan")
    assert sorted(one.suffix for one in cache_folder().iterdir()) == [".json", ".json", ".plan", ".plan"]
    assert read_engine(used) == b"plan"
    assert not caplog.text, "nobody misses it"


def test_engines_leave_the_disk_half_of_its_room(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=4))
    for batch in range(4):
        path = write_engine(replace(FACTS, batch=batch), b"plan")
        os.utime(path, (time.time() - 100 + batch,) * 2)
    assert [read_engine(replace(FACTS, batch=batch)) for batch in range(4)] == [None, None, None, b"plan"]
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    write_engine(FACTS, b"a plan for which there is no room")
    assert read_engine(FACTS), "the one that is needed now stays"


def test_damaged_timings_are_measured_again():
    write_timings(FACTS, b"timings")
    (path,) = cache_folder().glob("*.timings")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert read_timings(FACTS) == b""


def test_timings_are_shared_by_all_graphs_of_one_machine():
    assert read_timings(FACTS) == b""
    write_timings(FACTS, b"timings")
    assert read_timings(replace(FACTS, graph="cd" * 32, precision="fp32")) == b"timings"
    assert read_timings(replace(FACTS, libraries="11.0")) == b""
