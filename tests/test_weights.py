"""Where weights come from, that they are the ones expected, and that reading them runs nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_model import invoke, process, succeed

from anomaly.errors import WeightsError
from anomaly.weights import SOURCES, load_weights, read_file, store_folder, tensor_digest

NAME = "efficientnet_lite0"


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_weights(NAME, offline=True)[0]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of weights, and no hub's cache."""
    monkeypatch.setenv("ANOMALY_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "store"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of the right names and shapes for mobilenetv3, as its authors might publish it."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model(SOURCES["mobilenetv3"].architecture, pretrained=False, num_classes=10)
    path = tmp_path_factory.mktemp("published") / "mobilenetv3.safetensors"
    save_file(network.state_dict(), path)
    return path


def failed(*arguments: object, status: int = 1) -> str:
    done = invoke("weights", *arguments)
    assert done.status == status
    assert len(done.err.splitlines()) == 1
    return done.message


def test_the_digest_is_of_the_tensors_not_of_the_container(tensors, tmp_path: Path):
    save_file(tensors, tmp_path / "a.safetensors", metadata={"made": "today"})
    torch.save({"state_dict": dict(reversed(tensors.items()))}, tmp_path / "a.pth")
    digests = {tensor_digest(read_file(tmp_path / name)) for name in ("a.safetensors", "a.pth")}
    assert digests == {SOURCES[NAME].digest}
    changed = dict(tensors)
    changed["conv_stem.weight"] = changed["conv_stem.weight"].contiguous().clone()
    changed["conv_stem.weight"][0, 0, 0, 0] += 1e-6
    assert tensor_digest(changed) != SOURCES[NAME].digest
    assert tensor_digest({"x": torch.zeros(2, 3)}) != tensor_digest({"x": torch.zeros(3, 2)})


def test_the_packages_weights_are_kept_for_the_next_start(store: Path, tensors):
    assert store_folder() == store
    loaded, known = load_weights(NAME, offline=True)
    assert known.origin.startswith("package")
    assert known.digest == SOURCES[NAME].digest == tensor_digest(loaded)
    assert tensor_digest(dict(load_file(store / f"{NAME}.safetensors"))) == known.digest
    assert load_weights(NAME, offline=True)[1] == known
    assert sorted(path.name for path in store.iterdir()) == [f"{NAME}.json", f"{NAME}.safetensors"]


def test_a_store_that_cannot_be_written_is_no_reason_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ANOMALY_WEIGHTS", str(tmp_path / "file"))
    assert load_weights(NAME, offline=True)[1].digest == SOURCES[NAME].digest


def test_damaged_weights_in_the_store_are_refused(store: Path):
    load_weights(NAME, offline=True)
    path = store / f"{NAME}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    assert "damaged" in failed("verify")
    assert "damaged" in failed("verify", NAME)
    path.write_bytes(bytes(data[:5000]))
    assert str(path) in failed("verify")


def test_other_weights_than_the_model_was_fitted_with_are_refused(store: Path):
    with pytest.raises(WeightsError, match="expected 0123"):
        load_weights(NAME, digest="0123" * 16, offline=True)


def test_list_shows_licences_and_what_is_kept(store: Path, tmp_path: Path):
    load_weights(NAME, offline=True)
    # In a process of its own: how wide the table is belongs to the process.
    done = process("weights", "list", cwd=tmp_path, COLUMNS="160")
    assert done.status == 0, done.err
    shown = done.out
    for name, source in SOURCES.items():
        (row,) = [line for line in shown.splitlines() if line.split()[:1] == [name]]
        assert source.license in row
        assert ("yes, " in row) == (name == NAME)
    assert "CC-BY-NC-4.0" in shown


def test_pull_takes_from_the_package_and_verify_checks(store: Path):
    assert SOURCES[NAME].digest[:12] in succeed("weights", "pull", NAME, "weights.offline=true")
    assert "is whole and fits" in succeed("weights", "verify")


def test_pull_without_a_network_says_what_was_tried(store: Path):
    message = failed("pull", "dinov2_vits14", "weights.offline=true")
    assert "no weights for backbone 'dinov2_vits14'" in message
    assert str(store) in message
    assert "weights import dinov2_vits14 FILE" in message
    assert "backbone=efficientnet_lite0" in message
    assert not store.exists()


class _Hub(BaseHTTPRequestHandler):
    """A hub with one repository, as the hub's own client asks for its file."""

    published: Path
    asked: list[str]
    #: What a proxy is asked for in front of a path.
    before_path = ""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        type(self).asked.append(f"{self.command} {self.path}")
        hub = SOURCES["mobilenetv3"].hub
        if self.path != f"{self.before_path}/{hub}/resolve/main/model.safetensors":
            self.send_error(404)
            return
        data = self.published.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0123456789" * 4)
        self.end_headers()
        if with_body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(**attributes: Any) -> Iterator[tuple[str, list[str]]]:
    """A server that answers as a hub does: where, and what it was asked."""
    handler = type("Handler", (_Hub,), {"asked": [], **attributes})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
    finally:
        server.shutdown()
        server.server_close()


def hub_folders(tmp_path: Path) -> dict[str, str]:
    """Where the hub's client and the store keep what they get."""
    return {
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "0",
        "ANOMALY_WEIGHTS": str(tmp_path / "store"),
    }


def test_weights_come_from_a_hub_once_and_then_from_its_cache(wide: Path, tmp_path: Path):
    """The hub's own client, and a server that answers as a hub does."""
    with serving(published=wide) as (url, asked):
        around = {"HF_ENDPOINT": url, **hub_folders(tmp_path)}
        done = process("weights", "pull", "mobilenetv3", cwd=tmp_path, **around)
    assert done.status == 0, done.err
    assert any(line.startswith("GET ") for line in asked)
    assert load_file(tmp_path / "store" / "mobilenetv3.safetensors").keys() == load_file(wide).keys()
    # No server any more, and another store: the hub's cache has them.
    around["ANOMALY_WEIGHTS"] = str(tmp_path / "other")
    done = process("weights", "pull", "mobilenetv3", cwd=tmp_path, **around)
    assert done.status == 0, done.err
    assert (tmp_path / "other" / "mobilenetv3.safetensors").is_file()
    done = process("weights", "pull", "wide_resnet50_2", cwd=tmp_path, **around)
    assert done.status == 1
    assert "tried store" in done.err
    assert "hub timm/wide_resnet50_2.tv_in1k (" in done.err


def test_behind_a_proxy_the_hub_is_asked_though_its_name_is_not_known_here(wide: Path, tmp_path: Path):
    with serving(published=wide, before_path="http://hub.invalid") as (proxy, asked):
        around = {
            "HF_ENDPOINT": "http://hub.invalid",
            "HTTP_PROXY": proxy,
            "NO_PROXY": "",
            **hub_folders(tmp_path),
        }
        done = process("weights", "pull", "mobilenetv3", cwd=tmp_path, **around)
    assert done.status == 0, done.err
    assert any(line.startswith("GET http://hub.invalid/") for line in asked)


def test_the_gpu_profile_without_weights_names_both_remedies(store: Path, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"")
    done = invoke(
        "fit", "--normal-videos", tmp_path, "--model", tmp_path / "m", "profile=gpu", "weights.offline=true"
    )
    assert done.status == 1
    assert "weights pull dinov2_vits14" in done.message
    assert "backbone=efficientnet_lite0" in done.message


@pytest.mark.parametrize("form", ["safetensors", "pth"])
def test_import_reads_a_file_once_and_keeps_it_as_safetensors(
    form: str, wide: Path, store: Path, tmp_path: Path
):
    path = wide
    if form == "pth":
        path = tmp_path / "published.pth"
        torch.save({"model": load_file(wide)}, path)
    assert "imported" in succeed("weights", "import", "mobilenetv3", path)
    assert tensor_digest(load_weights("mobilenetv3", offline=True)[0]) == tensor_digest(dict(load_file(wide)))
    assert sorted(one.name for one in store.iterdir()) == ["mobilenetv3.json", "mobilenetv3.safetensors"]
    assert json.loads((store / "mobilenetv3.json").read_text())["origin"] == f"file {path.name}"
    assert "fits mobilenetv3_large_100" in succeed("weights", "verify", "mobilenetv3")


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_that_wants_to_run_code_is_refused(store: Path, tmp_path: Path):
    sign = tmp_path / "it ran"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": _Bomb(sign)}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(_Bomb(sign)))
    torch.save(_Bomb(sign), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("zip.pth", "plain.pth", "old.pth"):
        assert name in failed("import", "mobilenetv3", tmp_path / name)
    done = invoke(
        "fit",
        "--normal-videos",
        tmp_path,
        "--model",
        tmp_path / "m",
        "profile=cpu",
        f"backbone.file={tmp_path / 'zip.pth'}",
    )
    assert done.status != 0
    assert not sign.exists()
    assert not store.exists()


def test_what_is_no_state_dict_is_refused(store: Path, tmp_path: Path):
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "empty.pth").touch()
    torch.save([1, 2, 3], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    for name in ("text.pth", "text.safetensors", "empty.pth", "list.pth", "epoch.pth", "none.pth"):
        assert name in failed("import", "mobilenetv3", tmp_path / name)
    assert "is no PyTorch checkpoint" in failed("import", "mobilenetv3", tmp_path / "text.pth")
    assert "is no safetensors file" in failed("import", "mobilenetv3", tmp_path / "text.safetensors")
    assert not store.exists()


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("not a number", "holds numbers that are not finite, in tensor 'conv_stem.weight'"),
        ("whole numbers", "tensor 'conv_stem.weight' holds int8, not floating-point numbers"),
        ("sparse", "holds no table of tensors"),
        ("numbered", "holds no table of tensors"),
    ],
)
def test_tensors_that_nothing_can_be_scored_with_are_refused(
    named: str, said: str, wide: Path, store: Path, tmp_path: Path
):
    stem = load_file(wide)["conv_stem.weight"]
    changed = {
        "not a number": {"conv_stem.weight": stem * float("nan")},
        "whole numbers": {"conv_stem.weight": stem.to(torch.int8)},
        "sparse": {"conv_stem.weight": stem.to_sparse()},
        "numbered": {3: stem},
    }[named]
    torch.save({**load_file(wide), **changed}, tmp_path / "changed.pth")
    done = invoke("weights", "import", "mobilenetv3", tmp_path / "changed.pth")
    assert done.status == 1
    assert said in done.message
    assert not store.exists()


def test_weights_in_bfloat16_are_kept_as_float32_of_the_same_values(wide: Path, store: Path, tmp_path: Path):
    halved = {key: value.bfloat16() for key, value in load_file(wide).items() if value.is_floating_point()}
    save_file({**load_file(wide), **halved}, tmp_path / "half.safetensors")
    succeed("weights", "import", "mobilenetv3", tmp_path / "half.safetensors")
    kept = load_weights("mobilenetv3", offline=True)[0]
    assert all(torch.equal(kept[key], value.float()) for key, value in halved.items())


def test_a_full_disk_is_told_and_leaves_the_weights_that_were_there(
    wide: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    succeed("weights", "import", "mobilenetv3", wide)
    other = {key: value + 1 for key, value in load_file(wide).items()}
    save_file(other, tmp_path / "other.safetensors")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("anomaly.artifact.os.fsync", full)
    assert "cannot be written" in failed("import", "mobilenetv3", tmp_path / "other.safetensors")
    monkeypatch.undo()
    monkeypatch.setenv("ANOMALY_WEIGHTS", str(store))
    assert sorted(one.name for one in store.iterdir()) == ["mobilenetv3.json", "mobilenetv3.safetensors"]
    assert "is whole and fits" in succeed("weights", "verify", "mobilenetv3")


def test_others_may_read_what_is_kept_as_far_as_the_umask_lets_them(wide: Path, store: Path):
    before = os.umask(0o022)
    try:
        succeed("weights", "import", "mobilenetv3", wide)
    finally:
        os.umask(before)
    assert {one.stat().st_mode & 0o777 for one in store.iterdir()} == {0o644}


def test_weights_of_another_network_are_not_kept(wide: Path, store: Path, tmp_path: Path):
    message = failed("import", "wide_resnet50_2", wide)
    assert "conv1.weight" in message
    cut = load_file(wide)
    key = next(key for key, value in cut.items() if value.ndim == 4)
    cut[key] = cut[key][:1].contiguous()
    save_file(cut, tmp_path / "cut.safetensors")
    assert "has shape" in failed("import", "mobilenetv3", tmp_path / "cut.safetensors")
    # The right network, other values: what was pinned is not replaced by what could never be used.
    other = {key: (value + 1).contiguous() for key, value in load_weights(NAME, offline=True)[0].items()}
    shutil.rmtree(store)
    save_file(other, tmp_path / "other.safetensors")
    assert "expected" in failed("import", NAME, tmp_path / "other.safetensors")
    assert not store.exists()


def test_weights_that_are_not_free_for_every_use_must_be_accepted(store: Path, tmp_path: Path):
    for arguments in (["pull", "mae_vitb16"], ["import", "mae_vitb16", tmp_path / "mae.pth"]):
        message = failed(*arguments)
        assert "CC-BY-NC-4.0" in message
        assert "weights.accept_license=mae_vitb16" in message
        assert "CC-BY-NC-4.0" in failed(*arguments, "weights.accept_license=yes")
    accepted = failed("pull", "mae_vitb16", "weights.accept_license=mae_vitb16", "weights.offline=true")
    assert "no weights for backbone" in accepted


def test_fit_asks_for_the_licence_too(store: Path, tmp_path: Path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 32, 3), np.uint8))
    done = invoke(
        "fit", "--normal-videos", tmp_path / "a.png", "--model", tmp_path / "m", "backbone=mae_vitb16"
    )
    assert (done.status, "weights.accept_license=mae_vitb16" in done.message) == (1, True)


def test_an_unknown_network_lists_the_known_ones(store: Path):
    assert "efficientnet_lite0" in failed("pull", "dinov3")
    assert "network is empty; give NAME" in failed("pull", "", status=2)
