"""Export of a model: graphs written, held against torch at once, and certified again on the evidence.

Only what passes comes into the model folder. What decides is compared as it decides: scores, heatmaps, and
labels at the threshold.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.artifact import replace_subfolder, write_file
from anomaly.detector import Detector
from anomaly.errors import ModelError
from anomaly.evidence import has_evidence, load_evidence
from anomaly.exported import FOLDER, INDEX, TORCH, GraphBackbone, runtime_version
from anomaly.extractor import patch_places
from anomaly.gate import gate, gate_whole, raw_thresholds
from anomaly.model import software
from anomaly.reissue import MOST_LOWERED, Rescored, reissue, rescore, withdraw
from anomaly.resize import resize, resize_matrix
from export import (
    ENDINGS,
    PRECISIONS,
    QUANTISED,
    TOLERANCE,
    MemoryShortError,
    check_room,
    check_runtime,
    frame_bytes,
    open_graph,
)
from memory_bank import EXACT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from anomaly.backbone import Backbone
    from anomaly.detector import Branch
    from anomaly.evidence import Evidence, Stretch
    from anomaly.model import Model
    from anomaly.recertification import Recheck
    from anomaly.types import ImageArray
    from export import Graph, Parity
    from export.onnx import BranchParts

    Tell = Callable[[str, float, float | None], None]

#: Begins the name of the folder that an export works in.
_PLACE = "anomaly-export-"
#: No export takes so long: what is older was left by one that was killed.
_LEFT_S = 86_400.0
#: Frames of the evidence that an export is compared on before its certificate is checked on all of them.
_FRAMES = 16
#: Pictures that int8 and fp8 need to learn their scales.
_LEAST_NORMAL = 8
#: Share of the judged normal frames that may reach the threshold in int8 or fp8 and did not before: those are frames apart,
#: not smoothed, and the evidence holds the ones that score highest; one that just crosses it is told, not refused.
_MOST_NEW_ALARMS = 0.1
#: A score may move by this much (1 = an ordinary frame) without a word about the certificate.
_LEAST_TOLERANCE = 0.01


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    Attributes:
        name: "<runtime>-<precision>".
        folder: where its graphs lie.
        parity: against torch on the same frames; the whole graph's too, where there is one.
        pictures: what it was compared on, in words.
        rescored: all evidence scored again, or None without evidence.
        certificate: what became of the certificate, in words.
        before: what `before_ms` was measured with: torch, or for int8 and fp8 the same runtime's first precision.
        before_ms, graph_ms: a frame's patch features, median.
        megabytes: of the graphs.
        left_out: why a search in the graph was not compared, and so not kept; each frame is then searched beside it.
        scaled_on: normal frames that int8 or fp8 learned its scales on.
        judged_on: others that told whether it alarms on what is normal; 0 = they were too few to be kept apart.
    """

    name: str
    folder: Path
    parity: Mapping[str, Parity]
    pictures: str
    rescored: Rescored | None
    certificate: str
    before: str
    before_ms: float
    graph_ms: float
    megabytes: float
    left_out: tuple[str, ...] = ()
    scaled_on: int = 0
    judged_on: int = 0


def export_model(
    model: Model,
    runtime: str,
    precision: str,
    *,
    tolerance: float | None = None,
    source_size: tuple[int, int] | None = None,
    tell: Tell = lambda _stage, _done, _total: None,
) -> Exported:
    """Export a model for one runtime and precision into its own folder.

    Args:
        model: loaded with torch on the processor.
        runtime, precision: see `export.PRECISIONS`.
        tolerance: allowed relative difference; None = `export.TOLERANCE`, beyond which an export is kept but never
            certified. int8 and fp8 have none: they are judged by their recall.
        source_size: (H, W) of the frames that the whole graph takes; None = as the evidence's, else the
            network's input size. Other sizes are resized on the host by the same matrices.
        tell: progress, called with (stage, done, total).

    Raises:
        ModelError: the graph does not answer as torch does (the step at which they part is named), or int8
            or fp8 without evidence of every event, or one that loses an event or alarms on what is normal.
        ExportError: the runtime is not installed, or cannot run the graph, or frames of `source_size` do not fit into memory.
    """
    check_runtime(runtime, precision)
    name = f"{runtime}-{precision}"
    evidence = load_evidence(model.folder) if has_evidence(model.folder) else None
    pictures, frames, described = _pictures(model, evidence)
    thresholds = raw_thresholds(model, frames)
    size = source_size or pictures[0].shape[:2]
    if source_size is not None:
        check_room(
            frame_bytes(size[0], size[1]),
            f"a graph for frames of source_size=[{size[0]},{size[1]}]",
            "give that of the camera's frames, or a smaller one: frames of other sizes are resized beside the graph",
        )
    # Its pictures are as good as any; what was seen in them is not what this model should see.
    seen = evidence if evidence is not None and evidence.scoring_digest == model.scoring_digest else None
    scaled_on: list[Stretch] = []
    judged_on: list[Stretch] = []
    normal: list[ImageArray] = []
    if precision in QUANTISED:
        seen = _check_quantised(model, seen, precision)
        scaled_on, judged_on = _apart(seen.normal)
        normal = [seen.image(one.files[0]) for one in scaled_on]
        seen = replace(seen, stretches=(*seen.events, *judged_on))
    usual = TOLERANCE.get(precision, float("inf"))
    limit = usual if tolerance is None else tolerance
    # int8 and fp8 have no difference that is too small to count: every label that changes is told.
    margin = min(limit, TOLERANCE.get(precision, 0.0))
    folder = model.folder / FOLDER / name
    _remove_left_over()
    with TemporaryDirectory(prefix=_PLACE) as place, _earlier_is_told(folder):
        branches, operations, left_out = [], 0, []
        parity: dict[str, Parity] = {}
        for index, branch in enumerate(model.detector.branches):
            tell(f"exporting {branch.name}", index, len(model.detector.branches))
            parts = parts_of(model.detector, branch)
            operations += operations_of(branch)
            _write_graphs(Path(place), parts, branch, runtime, precision, (size[0], size[1]), normal)
            tell(f"comparing {branch.name}", 0, len(pictures))
            graph = open_graph(
                runtime, Path(place) / f"{branch.name}.features{ENDINGS[runtime][0]}", precision
            )
            own = _through(branch, graph)
            branches.append(own)
            parity[branch.name] = gate(
                model, branch, own, pictures, thresholds, limit, margin, (runtime, precision), parts
            )
            whole = Path(place) / f"{branch.name}.whole{ENDINGS[runtime][0]}"
            if whole.is_file():
                rows = (max(2, parts.neighbours), len(branch.bank))
                try:
                    parity[f"{branch.name}, search in the graph"] = gate_whole(
                        model,
                        branch,
                        open_graph(runtime, whole, precision, rows=rows),
                        pictures,
                        thresholds,
                        (size[0], size[1]),
                        limit,
                        margin,
                    )
                except MemoryShortError as error:
                    # What decides needs no more than the features: a machine with more memory can add the rest.
                    left_out.append(str(error))
                    for path in Path(place).glob(f"{branch.name}.whole.*"):
                        path.unlink()
        detector = model.detector.with_branches(branches)
        found = None
        if seen is not None and seen.stretches:
            total = sum(len(one.files) for one in seen.stretches)
            done = 0

            def advance(frames: int) -> None:
                nonlocal done
                done += frames
                tell("scoring the evidence", done, total)

            # What is relative to the score above is told here in scores of ordinary frames, 1.
            found = rescore(
                seen,
                detector,
                name,
                tolerance=max(min(limit, usual), _LEAST_TOLERANCE),
                lowering=min(limit, usual, MOST_LOWERED),
                progress=advance,
            )
        if precision in QUANTISED and found is not None and found.recheck.lost:
            lost = found.recheck.lost
            raise ModelError(
                f"{precision} loses {len(lost)} of {found.recheck.n_events} calibrated events, the first is {lost[0]}; "
                "it is not kept: use another precision"
            )
        if precision in QUANTISED and found is not None:
            _check_alarms(found.recheck, precision)
        before, reference = TORCH, model.detector.branches[0]
        if precision in QUANTISED:
            unquantised = PRECISIONS[runtime][0]
            before = f"{runtime}-{unquantised}"
            reference = _first_branch(model, Path(place), runtime, unquantised)
        before_ms, graph_ms = (_milliseconds(one, pictures) for one in (reference, branches[0]))
        files = {path.name: path.read_bytes() for path in sorted(Path(place).iterdir()) if path.is_file()}
        document = {
            "runtime": runtime,
            "precision": precision,
            "scoring": model.scoring_digest,
            "source_size": list(size),
            "tolerance": None if np.isinf(limit) else limit,
            "compared_on": described,
            "operations": operations,
            "parity": {key: _finite(vars(one)) for key, one in parity.items()},
            "software": {**software(), runtime: runtime_version(runtime)},
        }
        replace_subfolder(folder, files, INDEX, document)
    return Exported(
        name,
        folder,
        parity,
        described,
        found,
        _certificate(model, name, found, parity, usual),
        before,
        before_ms,
        graph_ms,
        sum(map(len, files.values())) / 1e6,
        tuple(left_out),
        len(scaled_on),
        len(judged_on) if judged_on != scaled_on else 0,
    )


def _remove_left_over() -> None:
    """Remove what exports left that were killed: graphs of hundreds of megabytes."""
    for left in Path(gettempdir()).glob(f"{_PLACE}*"):
        with contextlib.suppress(FileNotFoundError):  # by another process that has just finished
            if left.stat().st_mtime < time() - _LEFT_S:
                shutil.rmtree(left, ignore_errors=True)


def _check_quantised(model: Model, evidence: Evidence | None, precision: str) -> Evidence:
    """The evidence; refuse int8 and fp8 where their scales, or whether they still catch every event, cannot be known."""
    normal = 0 if evidence is None else len(evidence.normal)
    again = f"run `python -m anomaly calibrate --model {model.folder} --labeled LABELS"
    if evidence is None or normal < _LEAST_NORMAL:
        raise ModelError(
            f"{precision} learns its scales on the evidence's normal frames, at least {_LEAST_NORMAL}; {str(model.folder)!r} "
            f"holds {normal} of its own: {again}` first"
        )
    if not any(one.caught(evidence.decider) for one in evidence.stretches):
        raise ModelError(
            f"{precision} is kept only where it still catches the calibrated events; the evidence of "
            f"{str(model.folder)!r} holds 0 that were caught: {again}` with labelled events first"
        )
    if evidence.left_out:
        raise ModelError(
            f"{precision} is kept only where it still catches the calibrated events; the evidence of "
            f"{str(model.folder)!r} has no pictures of {evidence.left_out}: {again} evidence.max_mb=MORE` first"
        )
    return evidence


def _check_alarms(found: Recheck, precision: str) -> None:
    """Refuse int8 or fp8 that keeps the events because it alarms on much of what is normal, too."""
    if found.new_alarms > max(1.0, _MOST_NEW_ALARMS * found.n_normal):
        raise ModelError(
            f"{precision} alarms on {found.new_alarms} of {found.n_normal} normal frames that did not alarm with "
            f"{found.reference}, where {found.alarmed} did; it is not kept: use another precision, or calibrate with more "
            "normal footage for its scales"
        )


def _apart(normal: Sequence[Stretch]) -> tuple[list[Stretch], list[Stretch]]:
    """Normal frames to learn the scales of int8 or fp8 on, and others to tell whether those alarm on what is normal.

    Every camera gives about half of its own to each: whole clips, or where it has no two, the earlier and the later
    time. All serve both where they are too few: scales learned on a handful fit nothing else.
    """
    scaled_on: list[Stretch] = []
    judged_on: list[Stretch] = []
    for camera in dict.fromkeys(one.camera for one in normal):
        own = sorted(
            (one for one in normal if one.camera == camera), key=lambda one: (one.source, one.times[0])
        )
        half = (len(own) + 1) // 2
        between = [at for at in range(1, len(own)) if own[at - 1].source != own[at].source]
        cut = min(between, key=lambda at: abs(at - half), default=half)
        if abs(cut - half) > len(own) // 4:
            cut = half
        scaled_on += own[:cut]
        judged_on += own[cut:]
    if len(scaled_on) < _LEAST_NORMAL or not judged_on:
        return list(normal), list(normal)
    return scaled_on, judged_on


@contextlib.contextmanager
def _earlier_is_told(folder: Path) -> Iterator[None]:
    """Say of a refused export that an earlier one of its name is still there: it may have passed a looser tolerance."""
    try:
        yield
    except ModelError as error:
        if not (folder / INDEX).is_file():
            raise
        raise ModelError(
            f"{error}; the earlier export in {str(folder)!r} stays, remove that folder if it is not to run"
        ) from error


def _certificate(
    model: Model, name: str, found: Rescored | None, parity: Mapping[str, Parity], usual: float
) -> str:
    """Re-issue the certificate, in words; never for what passed only because a tolerance beyond the usual was given."""
    for what, one in parity.items():
        if one.tolerance > usual and not replace(one, tolerance=usual).holds:
            withdraw(model.folder, name)
            return (
                f"UNCERTIFIED: {what} answers as torch only within the tolerance={one.tolerance:g} that was given, a "
                f"certificate takes {usual:g} ({one.text()}); use another precision or runtime for one"
            )
    return reissue(model, name, found)


def parts_of(detector: Detector, branch: Branch) -> BranchParts:
    """A torch branch as `export.onnx` takes it."""
    from export.onnx import BranchParts

    backbone: Backbone = branch.backbone  # type: ignore[assignment]  # a model loaded with torch has no other
    return BranchParts(
        backbone.module,
        branch.projection.mean,
        branch.projection.components,
        branch.bank.metric,
        branch.scale,
        branch.top_share,
        detector.regions.patch_mask(*backbone.grid).ravel(),
        backbone.grid,
        backbone.input_size,
        _places(branch),
        min(branch.reweight, len(branch.bank)),
    )


def _places(branch: Branch) -> NDArray[np.float32] | None:
    """The dimensions by which the bank counts place, of every patch; None where it does not."""
    weight = branch.bank.place_weight
    if not weight:
        return None
    return np.stack(patch_places(branch.backbone.grid), axis=1) * np.float32(weight)


def operations_of(branch: Branch) -> int:
    """Multiplications and additions of one frame's patch features in a torch branch."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    backbone: Backbone = branch.backbone  # type: ignore[assignment]
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        backbone.module(torch.zeros(1, *backbone.input_size, 3, device=backbone.device))
    projection = 2 * backbone.grid[0] * backbone.grid[1] * branch.projection.components.size
    return int(counter.get_total_flops()) + projection


def _pictures(model: Model, evidence: Evidence | None) -> tuple[list[ImageArray], list[Stretch | None], str]:
    """Frames to compare on, what they are of, and in words: of the evidence, its highest event frames first; else made up."""
    if evidence is not None and evidence.stretches:
        of = list(evidence.stretches)
        chosen = of[: _FRAMES // 2] + of[-_FRAMES // 2 :] if len(of) > _FRAMES else of
        images = [evidence.image(one.files[-1]) for one in chosen]
        return images, list(chosen), f"{len(chosen)} frames of the evidence"
    height, width = model.detector.branches[0].backbone.input_size
    generator = np.random.default_rng(0)
    made = []
    for cells in (2, 4, 8, 16):
        coarse = generator.uniform(0, 255, (cells, cells, 3)).astype(np.float32)
        made.append(np.round(resize(coarse, (height, width))).astype(np.uint8))
    return made, [None] * len(made), f"{len(made)} generated pictures (the model holds no evidence)"


def _write_graphs(
    place: Path,
    parts: BranchParts,
    branch: Branch,
    runtime: str,
    precision: str,
    size: tuple[int, int],
    normal: Sequence[ImageArray],
) -> None:
    from export.onnx import ResizeMatrices, features_graph, whole_graph
    from export.quantise import quantised_for

    models: dict[str, bytes] = {}
    # OpenVINO's bf16 is chosen when the graph is loaded; int8 and fp8 are made from what a runtime is exported in first.
    typed: Any = precision if runtime == "tensorrt" or precision == "fp16" else "fp32"
    if precision in QUANTISED:
        typed = PRECISIONS[runtime][0]
    models["features"] = features_graph(parts, typed)
    if precision in QUANTISED:
        learned_on = [resize(one, parts.input_size) for one in normal]
        models["features"] = quantised_for(runtime, models["features"], learned_on, precision)
    elif typed == precision and branch.index in EXACT:
        # Elsewhere the distance would be measured in half precision too, or rows be found that the index passes
        # over: there the search stays beside the graph.
        matrices = ResizeMatrices(
            resize_matrix(size[0], parts.input_size[0]),
            resize_matrix(size[1], parts.input_size[1]),
            resize_matrix(parts.grid[0], size[0]),
            resize_matrix(parts.grid[1], size[1]),
        )
        models["whole"] = whole_graph(parts, matrices, typed)
    for kind, data in models.items():
        if runtime == "openvino":
            from export.openvino import convert

            convert(data, place, f"{branch.name}.{kind}")
        else:
            write_file(place / f"{branch.name}.{kind}.onnx", data)


def _first_branch(model: Model, place: Path, runtime: str, precision: str) -> Branch:
    """The first branch with its features graph in another precision, to tell what int8 and fp8 gain."""
    branch = model.detector.branches[0]
    folder = place / precision
    folder.mkdir()
    parts = parts_of(model.detector, branch)
    _write_graphs(folder, parts, branch, runtime, precision, parts.input_size, ())
    graph = open_graph(runtime, folder / f"{branch.name}.features{ENDINGS[runtime][0]}", precision)
    return _through(branch, graph)


def _through(branch: Branch, graph: Graph) -> Branch:
    """The branch with a graph in its network's place."""
    backbone = branch.backbone
    return replace(branch, backbone=GraphBackbone(graph, backbone.spec, backbone.input_size, backbone.grid))


def _milliseconds(branch: Branch, pictures: Sequence[ImageArray]) -> float:
    """Median time of a frame's patch features, over at least five."""
    backbone = branch.backbone
    times = []
    for number in range(max(5, len(pictures))):
        began = perf_counter()
        backbone.extract([pictures[number % len(pictures)]])
        times.append((perf_counter() - began) * 1e3)
    return float(np.median(times))


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in values.items()
    }
