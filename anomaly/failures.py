"""What the command line says of an error: one line, and the exit status."""

from __future__ import annotations

from anomaly.errors import AnomalyError, UsageError


def describe(error: BaseException) -> tuple[str, int]:
    """One line for an error, and the exit status."""
    if isinstance(error, AnomalyError):
        return _one_line(str(error)), error.exit_status
    module = type(error).__module__.split(".")[0]
    if module in {"hydra", "omegaconf", "antlr4"}:
        return _one_line(_configuration_message(error)), UsageError.exit_status
    if module in {"memory_bank", "export"}:
        return _one_line(str(error)), 1
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get((error.name or "").split(".")[0])
        if extra:
            return f"{error.name} is not installed; pip install 'anomaly[{extra}]'", 1
    if isinstance(error, OSError) and error.strerror:
        where = f" {error.filename!r}" if error.filename else ""
        return (
            f"{error.strerror.lower()}{where}; free the space or fix the path, then run the command again",
            1,
        )
    return _one_line(
        f"unexpected {type(error).__name__}: {error}; run with --debug to see where, and report it"
    ), 1


_EXTRAS = {
    "torch": "train",
    "timm": "train",
    "torchvision": "train",
    "sklearn": "train",
    "matplotlib": "train",
    "faiss": "train",
    "onnxruntime": "edge",
    "openvino": "edge",
    "onnx": "export",
    "onnxscript": "export",
    "fastapi": "live",
    "uvicorn": "live",
    "argon2": "live",
    "ray": "cluster",
    "tensorrt": "tensorrt",
    "cuda": "tensorrt",
}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _configuration_message(error: BaseException) -> str:
    """Hydra's message without its chain of causes, with what to do next."""
    cause: BaseException = error
    while cause.__cause__ is not None and type(cause.__cause__).__module__.split(".")[0] in {
        "hydra",
        "omegaconf",
    }:
        cause = cause.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    detail = [line.strip() for line in str(cause).splitlines() if line.strip()]
    kept = [
        line
        for line in dict.fromkeys(lines[:2] + detail[:1])
        if not line.startswith(("full_key", "object_type"))
    ]
    if any(line.startswith("Available options") for line in kept):
        kept = [kept[0], f"choose one of {', '.join(lines[lines.index(kept[1]) + 1 :])}"]
    full_key = getattr(cause, "full_key", None)
    where = f" (key {full_key})" if full_key and not any(str(full_key) in line for line in kept) else ""
    return f"configuration: {'; '.join(kept)}{where}; `--cfg job` prints the keys and their values"
