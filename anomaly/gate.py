"""The gate that every export passes: the same frames through torch and through the graph.

Compared are the score, the distance of every patch, and, of a graph with the search inside, the heatmap's pixels and
the rows that it calls nearest. A score may be off by the tolerance, relative to torch's, a patch or pixel by
`export.MAP_FACTOR` (5) times as much, relative to the largest one of its frame.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.errors import ModelError
from anomaly.resize import resize
from anomaly.thresholds import load_threshold
from export import (
    MAP_FACTOR,
    bank_inputs,
    check_room,
    compare,
    map_difference,
    open_graph,
    parting,
    search_bytes,
)
from memory_bank.distance import exact_distances, to_metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from anomaly.backbone import Backbone
    from anomaly.detector import Branch, Look
    from anomaly.evidence import Stretch
    from anomaly.model import Model
    from anomaly.types import ImageArray
    from export import Graph, Parity
    from export.onnx import BranchParts


def _looks(model: Model, branch: Branch, pictures: Sequence[ImageArray]) -> list[Look]:
    alone = model.detector.with_branches([branch])
    return [look for picture in pictures for look in alone.look([picture])]


def raw_thresholds(model: Model, frames: Sequence[Stretch | None]) -> NDArray[np.float64] | None:
    """The raw score from which on each of some frames is anomalous: cameras may have scales and thresholds of their own.

    Args:
        model: what scores.
        frames: the stretch that each is of, or None where it is of no camera: then the threshold that is reached soonest.

    Returns:
        (n,), or None where the model is not calibrated.
    """
    every = load_threshold(model, fps=None)
    if every.value is None:
        return None

    def raw(source: str, camera: str | None) -> float:
        own = every.of(source, camera)
        value = own.value or 0.0
        return value if own.scale is None else own.scale.raw(value)

    soonest = min(raw("", camera) for camera in every.document.get("cameras", [None]))
    return np.array([soonest if one is None else raw(one.source, one.camera) for one in frames], np.float64)


def gate(
    model: Model,
    branch: Branch,
    own: Branch,
    pictures: Sequence[ImageArray],
    thresholds: NDArray[np.float64] | None,
    limit: float,
    margin: float,
    made: tuple[str, str],
    parts: BranchParts,
) -> Parity:
    """Compare a branch with its export, each searched beside the graph.

    Args:
        model: what the branch belongs to.
        branch, own: with torch, and with the graph.
        pictures: (H, W, 3) uint8 RGB.
        thresholds: of each picture (`raw_thresholds`).
        limit: allowed difference of a score, relative to torch's; inf = none is refused.
        margin: as in `export.Parity`.
        made: (runtime, precision).
        parts: of the branch, to find the step at which they part.

    Raises:
        ModelError: they differ by more; the step is named.
    """
    ours, theirs = _looks(model, branch, pictures), _looks(model, own, pictures)
    found = compare(
        [look.score for look in ours],
        [look.score for look in theirs],
        np.stack([look.distances for look in ours]),
        np.stack([look.distances for look in theirs]),
        tolerance=limit,
        threshold=thresholds,
        margin=margin,
    )
    if not found.holds:
        where = _where_they_part(branch, parts, pictures[found.worst], made, limit)
        raise ModelError(
            f"{'-'.join(made)} does not answer as torch does: {found.text()}; {where}; "
            "it is not kept: use another precision or runtime"
        )
    return found


def _where_they_part(
    branch: Branch, parts: BranchParts, picture: ImageArray, made: tuple[str, str], limit: float
) -> str:
    """The first step whose result is off by more than the tolerance, in words."""
    import torch

    from export.onnx import features_graph, stage_names

    runtime, precision = made
    resized = resize(picture, parts.input_size)[None]
    backbone: Backbone = branch.backbone  # type: ignore[assignment]
    with torch.inference_mode():
        stages = backbone.module.stages(torch.from_numpy(resized).to(backbone.device))
        wanted = {key: value.float().cpu().numpy() for key, value in stages.items()}
    wanted["patches"] = branch.projection.apply(wanted["features"])
    typed: Any = precision if runtime == "tensorrt" or precision == "fp16" else "fp32"
    with TemporaryDirectory(prefix="anomaly-stages-") as place:
        data = features_graph(parts, typed, stages=True)
        if runtime == "openvino":
            from export.openvino import convert

            path = convert(data, Path(place), "stages")[0]
        else:
            path = Path(place) / "stages.onnx"
            path.write_bytes(data)
        outputs = open_graph(runtime, path, precision).run({"pictures": resized})
    found: dict[str, Any] = dict(zip(stage_names(parts), outputs.values(), strict=True))
    parted = parting(wanted, found, limit)
    if parted is None:
        return "no single step is off by more than that, they part in the distances"
    return f"they part at {parted[0]!r} (off by {parted[1]:.2g})"


def gate_whole(
    model: Model,
    branch: Branch,
    graph: Graph,
    pictures: Sequence[ImageArray],
    thresholds: NDArray[np.float64] | None,
    size: tuple[int, int],
    limit: float,
    margin: float | None = None,
) -> Parity:
    """Compare a branch with its whole graph on frames of the graph's source size.

    Raises:
        ModelError: they differ by more than `limit`, or `MAP_FACTOR` times that; the outputs that do are named.
    """
    ours: list[Look] = []
    scores: list[float] = []
    found_distances: list[NDArray[Any]] = []
    off = dict.fromkeys(("distances", "nearest", "heatmap"), 0.0)
    # One after the other: heatmaps of all together would take gigabytes of frames of a large camera.
    for one in pictures:
        frame = (
            one if one.shape[:2] == size else np.clip(np.round(resize(one, size)), 0, 255).astype(np.uint8)
        )
        (look,) = _looks(model, branch, [frame])
        answers = graph.run(whole_inputs(branch, frame[None]))
        to_nearest = np.where(look.counts, _distances_to(branch, frame, answers["nearest"][0]), np.float32(0))
        for name, wanted, answer in (
            ("distances", look.distances, answers["distances"]),
            ("nearest", look.distances, to_nearest),
            ("heatmap", look.heatmap(size), answers["heatmap"]),
        ):
            differs = map_difference(wanted.reshape(1, -1), answer.astype(np.float32).reshape(1, -1))
            off[name] = max(off[name], differs)
        ours.append(look)
        scores.append(float(answers["score"][0]))
        found_distances.append(answers["distances"][0].astype(np.float32))
    compared = compare(
        [look.score for look in ours],
        scores,
        np.stack([look.distances for look in ours]),
        np.stack(found_distances),
        tolerance=limit,
        threshold=thresholds,
        margin=margin,
    )
    found = replace(compared, heatmap=max(off.values()))
    if not found.holds:
        wrong = [f"{name} by {value:.2g}" for name, value in off.items() if not value <= MAP_FACTOR * limit]
        if not found.score <= limit:
            wrong.insert(0, f"score by {found.score:.2g}")
        raise ModelError(
            f"the graph with the search inside does not answer as torch does: {found.text()}"
            f"{'; off are ' if wrong else ''}{', '.join(wrong)}; it is not kept: use another precision or runtime"
        )
    return found


def _distances_to(branch: Branch, frame: ImageArray, rows: NDArray[Any]) -> NDArray[np.float32]:
    """(gh * gw,) float32: scaled distance of each patch of a frame to the row given for it; inf where there is none."""
    bank = branch.bank
    queries = bank.queries(branch.patches([frame])[0], **branch.places(np.arange(len(rows))))
    there = (rows >= 0) & (rows < len(bank.working))
    apart = exact_distances(queries, bank.working[np.where(there, rows, 0)])
    return np.where(there, to_metric(apart, bank.metric) / np.float32(branch.scale), np.float32(np.inf))


def whole_inputs(branch: Branch, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """What a whole graph is fed with: frames (N, H, W, 3) uint8 and the bank.

    Raises:
        MemoryShortError: the search of so many frames does not fit into memory.
    """
    rows = branch.bank.working
    patches = branch.backbone.grid[0] * branch.backbone.grid[1]
    check_room(
        search_bytes(len(frames), patches, len(rows)),
        f"the search of {len(frames)} frames of {patches} patches against {len(rows)} rows in the graph",
    )
    return {"frames": frames, **bank_inputs(rows)}
