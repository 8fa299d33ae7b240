"""What a model costs on this machine, for each runtime that it can run in: stage by stage, and against the floor.

Each runtime is measured in a process of its own, so that its memory is its own and none warms another's caches.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from anomaly.detector import Recent
from anomaly.errors import FootageError, ModelError
from anomaly.evidence import has_evidence, load_evidence
from anomaly.exporting import operations_of
from anomaly.footage.source import find_sources, read_frames
from anomaly.model import load_model
from anomaly.resize import resize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anomaly.model import Model
    from anomaly.types import ImageArray

T = TypeVar("T")
BATCHES = (1, 2, 4, 8)
STAGES = ("decode", "resize", "backbone", "search", "heatmap")
_WARM_UP = 3


@dataclass(frozen=True)
class Cost:
    """What one runtime costs on this machine, frames one after another unless said otherwise.

    Attributes:
        runtime: "<runtime>-<precision>".
        device: what it ran on.
        frames: measured.
        score_p50_ms, score_p99_ms: from decoded frame to score, as consecutive frames are searched: what deciding
            takes.
        p50_ms, p99_ms: to the heatmap as well, for which every patch is measured exactly.
        stages_ms: median of each of `STAGES`; decode is missing where the frames came from the evidence.
        exact_search_ms: of every patch against every row, for comparison with the search that is used.
        throughput: frames a second, by how many were given together.
        memory_mb: largest resident memory of its process.
        load_s: until the model was ready.
        operations: additions and multiplications a frame: network, projection and exact search.
        on_processor: whether it ran there, where `matmul_rate` is measured.
    """

    runtime: str
    device: str
    frames: int
    score_p50_ms: float
    score_p99_ms: float
    p50_ms: float
    p99_ms: float
    stages_ms: dict[str, float]
    exact_search_ms: float
    throughput: dict[int, float]
    memory_mb: float
    load_s: float
    operations: int
    on_processor: bool

    def floor_ms(self, rate: float) -> float | None:
        """Milliseconds that a frame's operations take at `rate` a second; None = it ran where that was not measured."""
        return self.operations / rate * 1e3 if self.on_processor else None


def measure_apart(folder: Path, runtime: str, device: str, source: str | None, frames: int) -> Cost:
    """`measure` in a process of its own; raises what it raises, and ModelError where that process died."""
    spawned = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=spawned) as pool:
            return pool.submit(measure, folder, runtime, device, source, frames).result()
    except BrokenProcessPool as error:
        raise ModelError(
            f"the process that measured {runtime} was killed, for want of memory as a rule; free some, or measure one "
            "that needs less with runtime=RUNTIME"
        ) from error


def measure(folder: Path, runtime: str, device: str, source: str | None, frames: int) -> Cost:
    """Measure a model under one runtime.

    Args:
        folder: the model folder.
        runtime: see `anomaly.exported.choose`.
        device: see `anomaly.model.load_model`.
        source: footage to decode; None = the evidence's pictures, or noise where there is none.
        frames: how many, repeated where the footage is shorter.
    """
    began = perf_counter()
    model = load_model(folder, device=device, offline=True, runtime=runtime)
    load_s = perf_counter() - began
    images, decode_ms = _images(model, source, frames)
    detector, branch = model.detector, model.detector.branches[0]
    size, grid = branch.backbone.input_size, branch.backbone.grid
    counts = detector.regions.patch_mask(*grid).ravel()
    recent = Recent()
    deciding, whole = [], []
    for number in range(-_WARM_UP, frames):
        image = images[number % len(images)]
        start = perf_counter()
        look = detector.look([image], recent)[0]
        scored = perf_counter()
        look.heatmap((image.shape[0], image.shape[1]))
        if number >= 0:
            deciding.append(scored - start)
            whole.append(perf_counter() - start)
    few = images[: min(len(images), 32)]
    patches = [branch.patches([image])[0] for image in few]
    stages = {} if decode_ms is None else {"decode": decode_ms}
    stages["resize"] = _median(few, lambda image: resize(image, size))
    # Extraction resizes too: what is left of it is the network and the projection.
    stages["backbone"] = max(0.0, _median(few, lambda image: branch.patches([image])) - stages["resize"])
    search = Recent().search_of(branch, int(counts.sum()))
    places = branch.places(counts)
    stages["search"] = _median(patches, lambda one: search.search(one[counts], **places))
    exact = _median(patches, lambda one: branch.bank.search(one[counts], **places))
    # Of the patches that the score did not need, and the picture.
    stages["heatmap"] = float(np.median(np.subtract(whole, deciding))) * 1e3
    export = model.choice.export
    network = operations_of(branch) if export is None else int(export.document["operations"])
    searched = 2 * int(counts.sum()) * branch.bank.working.size
    on_processor = model.device == "cpu"
    if export is not None:
        on_processor = export.runtime != "tensorrt" and device in ("auto", "cpu")
    return Cost(
        model.runtime,
        model.device,
        frames,
        float(np.percentile(deciding, 50)) * 1e3,
        float(np.percentile(deciding, 99)) * 1e3,
        float(np.percentile(whole, 50)) * 1e3,
        float(np.percentile(whole, 99)) * 1e3,
        stages,
        exact,
        {batch: _throughput(model, images, batch) for batch in BATCHES},
        _largest_memory_mb(),
        load_s,
        network + searched,
        on_processor,
    )


def matmul_rate(side: int = 1024, seconds: float = 0.5) -> float:
    """Measured peak of this machine's processor: additions and multiplications a second of a float32 matrix product."""
    generator = np.random.default_rng(0)
    left, right = (generator.standard_normal((side, side)).astype(np.float32) for _ in range(2))
    best, until = float("inf"), perf_counter() + seconds
    while perf_counter() < until:
        began = perf_counter()
        left @ right
        best = min(best, perf_counter() - began)
    return 2 * side**3 / best


def _largest_memory_mb() -> float:
    """Largest resident memory of this process, without what its parent weighed when it was forked."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def _images(model: Model, source: str | None, frames: int) -> tuple[list[ImageArray], float | None]:
    """Decoded pictures, and the median milliseconds that one took to decode."""
    if source is not None:
        images, times, began = [], [], perf_counter()
        for frame in islice(read_frames(find_sources([source])[0], on_damage=lambda _: None), frames):
            times.append(perf_counter() - began)
            images.append(frame.image)
            began = perf_counter()
        if not images:
            raise FootageError(f"{source} holds no frame that can be read; give other footage")
        return images, float(np.median(times)) * 1e3
    if has_evidence(model.folder):
        evidence = load_evidence(model.folder)
        files = [file for one in evidence.stretches for file in one.files][:frames]
        if files:
            return [evidence.image(file) for file in files], None
    generator = np.random.default_rng(0)
    size = model.detector.branches[0].backbone.input_size
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(8)], None


def _median(items: Sequence[T], work: Callable[[T], object]) -> float:
    """Milliseconds that the work takes for one item, after a warm-up."""
    for item in items[:_WARM_UP]:
        work(item)
    times = []
    for item in items:
        began = perf_counter()
        work(item)
        times.append(perf_counter() - began)
    return float(np.median(times)) * 1e3


def _throughput(model: Model, images: Sequence[ImageArray], batch: int) -> float:
    """Frames a second from decoded frame to score, `batch` of them together."""
    frames = [images[number % len(images)] for number in range(max(16, batch))]
    recent = Recent()
    model.detector.look(frames[:batch], recent)
    began = perf_counter()
    for start in range(0, len(frames), batch):
        model.detector.look(frames[start : start + batch], recent)
    return len(frames) / (perf_counter() - began)
