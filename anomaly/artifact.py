"""The model folder: written whole or not at all, verified before anything in it is used.

    model.json                      what the model is, and the sha256 of every other file
    banks/<branch>.safetensors      rows and where each came from
    projection.safetensors          the frozen projection
    scores.npz                      hold-out scores, and calibration scores once there are any
    thresholds/<runtime>-<precision>.json    threshold and certificate
    exemplars/                      crops behind the bank's rows (`anomaly.exemplars`)
    graph/                          exported graphs (`anomaly.exported`); removable
    evidence/                       pictures that a certificate is checked on (`anomaly.evidence`); removable
    looks.json                      which settings were tried on which labelled clips (`anomaly.looks`)

Nothing is unpickled and no class is looked up by a name that a folder gives.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import json
import math
import os
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly.errors import CorruptModelError, ModelError, SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

SCHEMA = 1
_SCORES = "scores.npz"
#: Files that calibration writes anew; they carry their own checksum (`archive_bytes`).
_REWRITTEN = (_SCORES,)
#: What no calibration changes in it: the scores of what `fit` held out, tied to the model by `_HOLDOUT_DIGEST`.
_HOLDOUT, _HOLDOUT_DIGEST = "holdout/", "holdout_digest"
#: What `save_folder` adds to a description.
ADDED_KEYS = frozenset({"files", "schema", "digest", _HOLDOUT_DIGEST})
#: A file that is added once a model was looked at with labels; it carries its own digest.
LOOKS = "looks.json"
_NOTHING = object()
#: Folders that are added after the model was written, and what they may hold; they carry their own digests.
_ADDED_FOLDERS = {
    "thresholds": (".json",),
    "evidence": (".json", ".npz", ".png"),
    "graph": (".json", ".onnx", ".xml", ".bin"),
}

#: What every `model.json` says, of whatever version; of lists, what each of their items says.
_DESCRIPTION: Mapping[str, Any] = {
    "name": str,
    "seed": int,
    "sampling": dict,
    "fitted_on": [{"source": str, "sha256": str, "frames": int}],
    "fit": {"holdout_sources": list, "coverage": object},
    "files": dict,
    "regions": dict,
    "decider": dict,
    "branches": [
        {
            "name": str,
            "backbone": {"name": str},
            "weights": {"digest": str},
            "input_size": [int],
            "grid": [int],
            "projection": {"explained": float},
            "bank": {"metric": str, "sources": list, "cameras": list, "place_weight": float},
            "scale": float,
            "top_share": float,
        }
    ],
}


def check_says(
    path: Path, document: Mapping[str, Any], shape: Mapping[str, Any], otherwise: str = "fit again"
) -> None:
    """Whether a signed document says what is read of it: who can sign can leave out.

    Args:
        path: where it was read from.
        document: what it says.
        shape: what its keys must hold: a type; a dict of more keys; or a list of one, which all items must have. A float may
            be an int.
        otherwise: what makes it anew where there is no copy.

    Raises:
        CorruptModelError: it lacks something.
    """
    lacks = _lacking(document, shape)
    if lacks:
        raise CorruptModelError(
            f"{str(path)!r} does not say {lacks}, or not as this version reads it; restore it from a copy or {otherwise}"
        )


def _lacking(value: Any, shape: Any, at: str = "") -> str:
    """What a value that stands there lacks, as "branches[0].scale"; "" = nothing."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return at
        within = [(value.get(key, _NOTHING), one, f"{at}.{key}".lstrip(".")) for key, one in shape.items()]
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return at
        within = [(one, shape[0], f"{at}[{index}]") for index, one in enumerate(value)]
    else:
        kinds = (int, float) if shape is float else shape
        return "" if value is not _NOTHING and isinstance(value, kinds) else at
    return next((found for one in within if (found := _lacking(*one))), "")


def canonical(value: Any) -> bytes:
    """JSON with one spelling for one value, for digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def finite(value: float | None) -> float | None:
    """A number as JSON can hold it: None for what is not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def digest_of(value: Any) -> str:
    """sha256 of a JSON-able value."""
    return hashlib.sha256(canonical(value)).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sign(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with a digest of itself, so that a changed byte shows."""
    body = {key: value for key, value in document.items() if key != "digest"}
    return {**body, "digest": digest_of(body)}


def read_signed(path: Path, otherwise: str = "fit again") -> dict[str, Any]:
    """Read a JSON document and check its own digest.

    Args:
        path: of the document.
        otherwise: what makes it anew where there is no copy.

    Raises:
        CorruptModelError: not JSON, or changed since it was written.
    """
    try:
        document: object = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(document, dict) and sign(document).get("digest") == document.get("digest")
    except (ValueError, RecursionError) as error:
        raise CorruptModelError(
            f"{str(path)!r} is not the JSON it was written as; restore it from a copy or {otherwise}"
        ) from error
    if not isinstance(document, dict) or not whole:
        raise CorruptModelError(
            f"{str(path)!r} was changed after it was written; restore it from a copy or {otherwise}"
        )
    return document


def archive_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as the bytes of a compressed .npz that carries its own sha256, as the comment of the zip archive.

    The checksums of a zip archive cover what is in its files and not what is between them.
    """
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = digest.encode()
    return buffer.getvalue()


def write_file(path: Path, data: bytes) -> None:
    """Replace a file whole: a reader, or a power cut, sees the old bytes or the new ones."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        name_file(error, path)
        raise
    _sync_folder(path.parent)


def name_file(error: BaseException, path: Path) -> None:
    """Have an error of the disk name the file that was being written: one that is full names none."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(path)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a signed JSON document, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(sign(document), indent=1, allow_nan=False).encode() + b"\n")


def check_place(folder: Path) -> None:
    """Whether a model may be written there: nothing is there, an empty folder, or a model that it replaces.

    Raises:
        ModelError: the place is taken by something that is not a model folder.
    """
    recover(folder)
    if folder.exists() and not (
        folder.is_dir() and ((folder / "model.json").is_file() or not any(folder.iterdir()))
    ):
        raise ModelError(
            f"{str(folder)!r} exists and is no model folder; give another --model, or move it away"
        )


def save_folder(
    folder: Path,
    files: Mapping[str, bytes],
    description: Mapping[str, Any],
    added: Mapping[str, bytes] | None = None,
) -> None:
    """Write a model folder under a temporary name and rename it into place.

    An existing model is replaced only once the new one is complete and on the disk.

    Args:
        folder: where the model goes.
        files: every file but `model.json`: relative path to contents.
        description: what goes into `model.json`; schema and digests are added.
        added: files that are added to a model later (`added_files` reads them), kept as they are.

    Raises:
        ModelError: the place is taken by something that is not a model folder.
        OSError: the disk is full, or may not be written; what was there before is untouched.
    """
    check_place(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _in_place_of(folder) as partial:
        partial.mkdir()
        for name, data in {**files, **(added or {})}.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, data)
        listed = {
            name: hashlib.sha256(data).hexdigest()
            for name, data in sorted(files.items())
            if name not in _REWRITTEN
        }
        held = _holdout_digest(files.get(_SCORES, b""))
        added_keys = {_HOLDOUT_DIGEST: held, "schema": SCHEMA, "files": listed}
        write_json(partial / "model.json", {**description, **added_keys})
        _sync_folder(partial)


def added_files(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Some of the files and folders that were added to a model, by relative path; none of what is not there."""
    recover(folder)
    kept = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    return kept | {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for name in names
        for file in sorted((folder / name).rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    }


def replace_subfolder(
    folder: Path, files: Mapping[str, bytes], index: str, document: Mapping[str, Any]
) -> None:
    """Write a folder inside a model folder whole, in place of the one that is there.

    Args:
        folder: `<model>/<one of the folders that may be added>`.
        files: relative path to contents.
        index: name of the signed JSON that lists them.
        document: what it says besides; `files`, their sha256, is added.
    """
    with _in_place_of(folder) as partial:
        for name, data in files.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not synced one by one, there may be thousands: what a power cut takes, the digests show.
            try:
                path.write_bytes(data)
            except OSError as error:
                name_file(error, folder / name)
                raise
        listed = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
        write_json(partial / index, {**document, "files": listed})


def recover(folder: Path) -> None:
    """Finish replacements of a model folder, or of folders inside it, that were cut off between or after their two renames."""
    _put_back(folder)
    for old in [*folder.glob(".*.replaced"), *folder.glob("*/.*.replaced")]:
        inside = old.with_name(old.name.removeprefix(".").removesuffix(".replaced"))
        with contextlib.suppress(OSError):  # a disk that may only be read: the model is as good without
            _put_back(inside)
        # Who removes an export, or the pictures in the evidence, does not want those of before.
        if inside.exists():
            shutil.rmtree(old, ignore_errors=True)


def _put_back(folder: Path) -> None:
    old = _old_name(folder)
    if old.is_dir() and not folder.exists():
        os.replace(old, folder)


def read_description(folder: Path) -> dict[str, Any]:
    """Verify a model folder and return its `model.json`.

    Raises:
        ModelError: there is no model.
        SchemaError: written by a newer (or unknown) version.
        CorruptModelError: a file missing, changed, or not one of the model's.
    """
    recover(folder)
    path = folder / "model.json"
    if not path.is_file():
        what = "holds no model.json" if folder.is_dir() else "is not there"
        raise ModelError(
            f"model folder {str(folder)!r} {what}; make one with `python -m anomaly fit --model {folder}`"
        )
    try:
        schema = json.loads(path.read_text(encoding="utf-8")).get("schema")
    except (ValueError, RecursionError, AttributeError):
        schema = SCHEMA  # not JSON: read_signed says so
    if schema != SCHEMA:
        raise SchemaError(
            f"model folder {str(folder)!r} has schema {schema!r}, this version reads {SCHEMA}; "
            "update the program, or fit the model again with this one"
        )
    description = read_signed(path)
    check_says(path, description, _DESCRIPTION)
    listed: dict[str, str] = description["files"]
    for name, digest in listed.items():
        file = folder / name
        if not file.is_file():
            raise CorruptModelError(
                f"model file {str(file)!r} is missing; restore it from a copy or fit again"
            )
        if file_digest(file) != digest:
            raise _changed(file)
    for name in _REWRITTEN:
        if not (folder / name).is_file():
            raise CorruptModelError(
                f"model file {str(folder / name)!r} is missing; restore it from a copy or fit again"
            )
        data = (folder / name).read_bytes()
        if not _archive_is_whole(data):
            raise _changed(folder / name)
        # Models of before it was kept have none.
        if description.get(_HOLDOUT_DIGEST) not in (None, _holdout_digest(data)):
            raise CorruptModelError(
                f"model file {str(folder / name)!r} holds other hold-out scores than the model was written with, such as those "
                "of another model; restore it from a copy or fit again"
            )
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_symlink():
            raise CorruptModelError(
                f"model folder holds a link, {str(file)!r}; remove it, a model holds only its own files"
            )
        if file.is_dir() or name in listed or name in ("model.json", LOOKS, *_REWRITTEN):
            continue
        if file.suffix in _ADDED_FOLDERS.get(name.split("/")[0], ()):
            continue
        if any(part.startswith(".") and part.endswith((".partial", ".replaced")) for part in name.split("/")):
            continue  # left by a write that was cut off; never read
        raise CorruptModelError(
            f"{str(file)!r} is not one of the model's files; remove it, a model holds only what it was written with"
        )
    return description


def scoring_digest(description: Mapping[str, Any]) -> str:
    """Identity of all that a frame's raw score hangs on: bank, backbone, preprocessing, regions, scale."""
    return digest_of(
        {
            "branches": description["branches"],
            "regions": description["regions"],
            "files": {
                name: digest for name, digest in description["files"].items() if name.endswith(".safetensors")
            },
        }
    )


def _changed(file: Path) -> CorruptModelError:
    return CorruptModelError(
        f"model file {str(file)!r} was changed after it was written; restore it from a copy or fit again"
    )


def _archive_is_whole(data: bytes) -> bool:
    """Whether the bytes of a file are as `archive_bytes` made them."""
    end = len(data) - 64
    # Without its comment an archive ends with the comment's length, which is none.
    return hashlib.sha256(data[: max(end - 2, 0)] + b"\0\0").hexdigest().encode() == data[max(end, 0) :]


def _holdout_digest(data: bytes) -> str | None:
    """sha256 of the hold-out scores in an archive, names and types with them; None = it cannot be read."""
    import numpy as np

    found = hashlib.sha256()
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            for name in sorted(stored.files):
                if name.startswith(_HOLDOUT):
                    array = stored[name]
                    found.update(canonical([name, array.dtype.str, list(array.shape)]) + array.tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return found.hexdigest()


@contextlib.contextmanager
def _in_place_of(folder: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of `folder` once it is full; on an error nothing has changed."""
    partial, old = folder.with_name(f".{folder.name}.{os.getpid()}.partial"), _old_name(folder)
    shutil.rmtree(partial, ignore_errors=True)
    _remove_left_over(folder)
    try:
        yield partial
        if folder.exists():
            # Left where removing it was cut off; a rename needs the place empty.
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(partial, folder)
        _sync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _remove_left_over(folder: Path) -> None:
    """Remove what writes of this folder left that were killed; those of processes that live go on."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"):
        process = left.name.removesuffix(".partial").rpartition(".")[2]
        if (
            process.isdecimal()
            and left.name == f".{folder.name}.{process}.partial"
            and not _lives(int(process))
        ):
            shutil.rmtree(left, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # another user's, or no number of a process: not ours to judge
    return True


def _old_name(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def _sync_folder(folder: Path) -> None:
    # Windows cannot open a folder; the rename itself is still whole there.
    with contextlib.suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
