"""A decoded frame to its score, through a whole model in each of the CPU's runtimes; called by memory_bank.py."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from real_features import labels_of
from report import DATA, Figures, anomaly, out, workplace
from rich.table import Table

RUNTIMES = ("torch-fp32", "openvino-fp32")


def frame(quick: bool) -> Figures:
    """Milliseconds of a frame at 480x720 from picture to score, and the AUROC of these scores, on Ped2."""
    from sklearn.metrics import roc_auc_score

    figures: Figures = {}
    table = Table(title="decoded frame to score, Ped2's test clips at 480x720, default model")
    for heading in ("runtime", "median ms", "99 of 100", "frame AUROC, unsmoothed"):
        table.add_column(heading)
    with workplace() as work:
        model = work / "model"
        learned = DATA / "ped2" / "train"
        fewer = ("bank.size=1000", "fit.fps=1", "projection.sample_frames=20") if quick else ()
        anomaly(
            "fit", "--normal-videos", learned / "train_01.mp4" if quick else learned, "--model", model,
            "fit.review=0", "exemplars.max_mb=0", *fewer,
        )  # fmt: skip
        anomaly("export", "--model", model, "--runtime", "openvino")
        for runtime in RUNTIMES:
            # Its own process: at the edge there is no torch whose threads could be in the way.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                spent, scores, truth = pool.submit(followed, model, runtime, 10 if quick else 1).result()
            middle, slow = (float(np.percentile(spent, share)) for share in (50, 99))
            value = float(roc_auc_score(truth, scores))
            table.add_row(runtime, f"{middle:.1f}", f"{slow:.1f}", f"{value:.4f}")
            key = f"frame_{runtime.replace('-', '_')}"
            figures |= {f"{key}_ms": middle, f"{key}_p99_ms": slow, f"{key}_auroc": value}
    out.print(table)
    return figures


def followed(model: Path, runtime: str, every: int) -> tuple[list[float], list[float], list[bool]]:
    """Milliseconds, score and truth of the test clips' frames, each clip watched as a camera is."""
    from anomaly.detector import Recent
    from anomaly.footage.source import find_sources, read_frames
    from anomaly.model import load_model

    detector = load_model(model, device="cpu", offline=True, runtime=runtime).detector
    spent: list[float] = []
    scores: list[float] = []
    truth: list[bool] = []
    for source in find_sources([DATA / "ped2" / "test"]):
        recent, times = Recent(), []
        for shot in read_frames(source):
            if shot.index % every:
                continue
            start = time.perf_counter()
            look = detector.look([shot.image], recent)[0]
            spent.append(1e3 * (time.perf_counter() - start))
            scores.append(look.score)
            times.append(shot.pts_s)
        truth += labels_of(Path(source.name).stem, np.array(times)).tolist()
    return spent[3:], scores, truth
