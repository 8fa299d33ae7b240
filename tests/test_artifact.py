"""The model folder: whole or not at all, and nothing in it is used unverified."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_model import FPS, SmallModel, environment, invoke, put_scores

from anomaly.artifact import (
    archive_bytes,
    read_description,
    read_signed,
    recover,
    replace_subfolder,
    save_folder,
    scoring_digest,
    write_json,
)
from anomaly.errors import CorruptModelError, ModelError, SchemaError
from anomaly.failures import describe

FACTS: dict[str, object] = {
    "branches": [], "regions": {}, "decider": {}, "name": "x", "seed": 0, "sampling": {}, "fitted_on": [],
    "fit": {"holdout_sources": [], "coverage": None},
}  # fmt: skip


def saved(folder: Path, content: bytes = b"rows", name: str = "x") -> Path:
    files = {
        "banks/a.safetensors": content,
        "projection.safetensors": b"map",
        "scores.npz": archive_bytes({"a": np.arange(3)}),
    }
    save_folder(folder, files, {**FACTS, "name": name})
    return folder


def test_what_is_saved_is_read_back_and_nothing_else_is_left(tmp_path: Path):
    (tmp_path / "models").mkdir()
    folder = saved(tmp_path / "models" / "line1")
    assert read_description(folder)["name"] == "x"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["line1"]
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "banks/a.safetensors", "model.json", "projection.safetensors", "scores.npz",
    }  # fmt: skip


def test_a_model_is_replaced_whole(tmp_path: Path):
    folder = saved(tmp_path / "model", b"old", "old")
    (folder / "thresholds").mkdir()
    write_json(folder / "thresholds" / "torch-fp32.json", {"threshold": 1.0})
    saved(folder, b"new", "new")
    assert read_description(folder)["name"] == "new"
    assert not (folder / "thresholds").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_a_killed_save_left_is_removed_by_the_next_one(tmp_path: Path):
    """Not what a process that lives is writing, nor what is of another model."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    left, others, ours = (
        tmp_path / f".{name}.partial"
        for name in (f"model.{child.pid}", f"model.b.{child.pid}", f"model.{os.getppid()}")
    )
    for folder in (left, others, ours):
        (folder / "banks").mkdir(parents=True)
    saved(tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"model", others.name, ours.name}


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"precious")
    (tmp_path / "file").write_bytes(b"precious")
    for name in ("photos", "file"):
        with pytest.raises(ModelError, match="no model folder"):
            saved(tmp_path / name)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"precious"
    assert (tmp_path / "file").read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photos"]
    (tmp_path / "empty").mkdir()
    assert read_description(saved(tmp_path / "empty"))["name"] == "x"


def test_a_replacement_cut_off_between_its_renames_is_finished(tmp_path: Path):
    folder = saved(tmp_path / "model", name="old")
    folder.rename(tmp_path / ".model.replaced")
    assert read_description(folder)["name"] == "old"
    recover(folder)
    assert read_description(folder)["name"] == "old"


def test_a_replacement_inside_a_model_cut_off_between_its_renames_is_finished(tmp_path: Path):
    """As of an export killed there: the one of before was gone, and its runner did not start any more."""
    folder = saved(tmp_path / "model")
    for name in ("graph/onnxruntime-fp32", "evidence"):
        place = folder / name
        replace_subfolder(place, {"a.json": b"old"}, "index.json", {})
        old = place.with_name(f".{place.name}.replaced")
        place.rename(old)
        read_description(folder)
        assert (place / "a.json").read_bytes() == b"old"
        shutil.copytree(place, old)
        read_description(folder)
        assert not old.exists()
        shutil.rmtree(place)
        read_description(folder)
        assert not place.exists(), "who removed it does not want the one of before"


def test_what_a_cut_off_removal_left_is_in_nobodys_way(tmp_path: Path):
    folder = saved(tmp_path / "model", b"old", "old")
    left = tmp_path / ".model.replaced"
    left.mkdir()
    (left / "model.json").write_text("{}")
    saved(folder, b"new", "new")
    assert read_description(folder)["name"] == "new"
    assert not left.exists()


def test_a_signed_document_shows_a_changed_value(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"threshold": 1.5})
    assert read_signed(path)["threshold"] == 1.5
    path.write_text(path.read_text().replace("1.5", "9.5"))
    with pytest.raises(CorruptModelError, match="was changed"):
        read_signed(path)
    for text in ("[]", "1", "{}", "{", "\xff"):
        path.write_bytes(text.encode("latin1"))
        with pytest.raises(CorruptModelError, match="restore it"):
            read_signed(path)


def test_the_scoring_digest_hangs_on_what_scores_and_on_nothing_else(tmp_path: Path):
    def digest(**changes: object) -> str:
        base = {
            "branches": [{"scale": 1.0}],
            "regions": {},
            "files": {"banks/a.safetensors": "1"},
            "name": "n",
        }
        return scoring_digest({**base, **changes})

    assert digest() == digest(name="other", fit={"seconds": 3})
    different = {
        digest(), digest(branches=[{"scale": 2.0}]), digest(regions={"look": []}), digest(files={"banks/a.safetensors": "2"}),
    }  # fmt: skip
    assert len(different) == 4


# The real folder, through the command line.


@pytest.fixture
def copy(small_model: SmallModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_model.folder, tmp_path / "model"))


def refused(model: Path, footage: Path) -> str:
    """The one line with which `score` refuses a model."""
    done = invoke("score", "--model", model, "--source", footage, "--out", model.parent / "s.csv")
    assert done.status == 1
    assert len(done.err.splitlines()) == 1
    assert "unexpected" not in done.message
    assert not (model.parent / "s.csv").exists()
    return done.message


FILES = [
    "model.json", "projection.safetensors", "banks/appearance.safetensors", "scores.npz", "thresholds/torch-fp32.json",
]  # fmt: skip


def test_the_list_of_files_is_the_whole_model(small_model: SmallModel):
    folder = small_model.folder
    assert sorted(
        name
        for path in folder.rglob("*")
        if path.is_file()
        and not (name := path.relative_to(folder).as_posix()).startswith(("evidence/", "exemplars/"))
    ) == sorted([*FILES, "looks.json"])


@pytest.mark.parametrize("name", FILES[:4])
def test_a_missing_file_is_named(name: str, copy: Path, small_model: SmallModel):
    (copy / name).unlink()
    message = refused(copy, small_model.footage.test)
    assert Path(name).name in message


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found_in_every_file(name: str, share: float, copy: Path, small_model: SmallModel):
    data = bytearray((copy / name).read_bytes())
    data[int(len(data) * share)] ^= 0x15
    (copy / name).write_bytes(data)
    message = refused(copy, small_model.footage.test)
    assert str(copy) in message


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_found(name: str, copy: Path, small_model: SmallModel):
    for size in (0, (copy / name).stat().st_size // 2):
        os.truncate(copy / name, size)
        refused(copy, small_model.footage.test)


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_planted_pickle_is_refused_and_not_run(copy: Path, small_model: SmallModel, tmp_path: Path):
    sign = tmp_path / "it ran"
    bomb = pickle.dumps(_Bomb(sign))
    for name in ("banks/extra.pkl", "model.pkl", "banks/appearance.safetensors", "scores.npz"):
        shutil.rmtree(copy)
        shutil.copytree(small_model.folder, copy)
        (copy / name).write_bytes(bomb)
        assert Path(name).name in refused(copy, small_model.footage.test)
    # As an array of objects, in an archive that is whole:
    planted = archive_bytes({"holdout/sources": np.array([_Bomb(sign)], dtype=object)})
    (copy / "scores.npz").write_bytes(planted)
    footage = small_model.footage
    done = invoke(
        "calibrate", "--model", copy, "--labeled", footage.labeled_csv, "--videos", footage.labeled, FPS
    )
    assert done.status == 1
    assert "scores.npz" in done.message
    assert not sign.exists()


@pytest.mark.parametrize(
    ("path", "value"),
    [("files", None), ("branches[0].scale", None), ("branches[0].grid[1]", "9"), ("fitted_on[0].sha256", None), ("sampling", 5)],
)  # fmt: skip
def test_a_signed_description_that_lacks_what_it_must_say_is_told(
    path: str, value: object, copy: Path, small_model: SmallModel
):
    document = read_signed(copy / "model.json")
    *above, last = re.findall(r"[a-z_0-9]+", path)
    place: Any = document
    for key in above:
        place = place[int(key) if key.isdigit() else key]
    if value is None:
        del place[last]
    else:
        place[int(last) if last.isdigit() else last] = value
    write_json(copy / "model.json", document)
    assert f"does not say {path}, " in refused(copy, small_model.footage.test)


@pytest.mark.parametrize("name", ["model.json", "thresholds/torch-fp32.json"])
def test_json_nested_beyond_what_can_be_read_is_told(name: str, copy: Path, small_model: SmallModel):
    deep = 100_000
    (copy / name).write_text('{"schema": 1, "digest": "x", "a": ' + "[" * deep + "]" * deep + "}")
    assert "is not the JSON it was written as" in refused(copy, small_model.footage.test)


def test_a_signed_threshold_that_lacks_what_it_must_say_is_told(copy: Path, small_model: SmallModel):
    path = copy / "thresholds" / "torch-fp32.json"
    write_json(path, {key: one for key, one in read_signed(path).items() if key != "hangs_on"})
    message = refused(copy, small_model.footage.test)
    assert "does not say hangs_on" in message
    assert "calibrate again" in message


def test_hold_out_scores_of_another_model_are_refused(copy: Path, small_model: SmallModel, tmp_path: Path):
    """Believed, they would tell the false alarms of the other one. Those of a model that has no digest of them yet are."""
    other = Path(shutil.copytree(small_model.folder, tmp_path / "other"))
    with np.load(other / "scores.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    # The other one's calibration is told by nothing but the labelled part: that stays free to change.
    put_scores(other, {**arrays, "labeled/0/scores": arrays["labeled/0/scores"] / 2})
    shutil.copy(other / "scores.npz", copy / "scores.npz")
    read_description(copy)
    put_scores(other, {**arrays, "holdout/0/scores": arrays["holdout/0/scores"] / 2})
    shutil.copy(other / "scores.npz", copy / "scores.npz")
    assert "holds other hold-out scores than the model was written with" in refused(
        copy, small_model.footage.test
    )
    document = read_signed(copy / "model.json")
    write_json(copy / "model.json", {key: one for key, one in document.items() if key != "holdout_digest"})
    read_description(copy)


@pytest.mark.parametrize(
    "name", ["notes.txt", "banks/more.safetensors", "thresholds/x.py", "__init__.py", "a/b/c"]
)
def test_what_the_model_was_not_written_with_is_refused(name: str, copy: Path, small_model: SmallModel):
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).write_text("x")
    assert Path(name).name in refused(copy, small_model.footage.test)


def test_a_link_out_of_the_folder_is_refused(copy: Path, small_model: SmallModel, tmp_path: Path):
    (copy / "projection.safetensors").rename(tmp_path / "elsewhere")
    (copy / "projection.safetensors").symlink_to(tmp_path / "elsewhere")
    assert "link" in refused(copy, small_model.footage.test)


@pytest.mark.parametrize("schema", [2, 99, None, "1"])
def test_another_schema_is_told_before_anything_else(schema: object, copy: Path, small_model: SmallModel):
    document = json.loads((copy / "model.json").read_text())
    write_json(copy / "model.json", {**document, "schema": schema, "unheard of": {}})
    message = refused(copy, small_model.footage.test)
    assert f"schema {schema!r}" in message
    with pytest.raises(SchemaError):
        read_description(copy)


@pytest.mark.parametrize("folder", ["none", "empty"])
def test_no_model_says_how_to_make_one(folder: str, small_model: SmallModel, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert "python -m anomaly fit" in refused(tmp_path / folder, small_model.footage.test)


SAVE = """
import sys
from pathlib import Path
import resource
from anomaly.artifact import save_folder, read_description
limit = int(sys.argv[2])
if limit:
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    save_folder(Path(sys.argv[1]), {"banks/a.safetensors": bytes(2_000_000)}, {"branches": [], "regions": {}})
except OSError as error:
    print(error.strerror)
"""


def test_a_full_disk_is_told_with_the_file_that_was_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_json(tmp_path / "a.json", {"threshold": 1.5})
    monkeypatch.setattr("anomaly.artifact.os.fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_json(tmp_path / "a.json", {"threshold": 9.5})
    assert str(tmp_path / "a.json") in describe(caught.value)[0]
    assert read_signed(tmp_path / "a.json")["threshold"] == 1.5
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    # As of a graph or a picture of the evidence: these are not synced one by one.
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space") as caught:
        replace_subfolder(tmp_path / "graph", {"a.onnx": b"graph"}, "export.json", {})
    assert str(tmp_path / "graph" / "a.onnx") in describe(caught.value)[0]


def test_a_write_that_fails_leaves_the_old_model(tmp_path: Path):
    folder = saved(tmp_path / "model", name="old")
    done = subprocess.run(
        [sys.executable, "-c", SAVE, str(folder), "100000"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "File too large\n"
    assert read_description(folder)["name"] == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
