"""Whether the certificate holds, what it costs, and how fast a threshold study is.

Coverage goes through the program: score series are drawn from a population whose true recall at any
threshold is known exactly, `calibrate` sets a threshold and certifies a recall, and we count how
often the truth is lower. The series are autocorrelated, clips hold one to four events that share their
clip's luck, scores are rounded so that they tie, and the decider smooths, holds and joins.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from populations import (
    FPS,
    TOLERANCE_S,
    Population,
    holdout_series,
    model_population,
    noise,
    simulated_population,
)
from report import DATA, Figures, anomaly, err, machine, options_parser, out, workplace, write_json
from rich.progress import track
from rich.table import Table
from scipy.stats import binomtest, norm
from thinned import thin_images

from anomaly.calibration import (
    Event,
    Series,
    calibrate,
    certify,
    split_events,
    study,
    threshold_grid,
    threshold_rank,
)
from anomaly.decider import DeciderConfig

CONFIDENCE = 0.95
#: False alarms an hour that lower the threshold where the clips are too few for the target, as by default.
BUDGET = 6.0
CONFIG = DeciderConfig(
    smoothing_s=0.3, min_duration_s=0.2, max_duration_s=30, leave_ratio=0.9, join_gap_s=0.5
)
CELLS = [(n, target) for n in (5, 20, 59, 100, 300) for target in (0.8, 0.9, 0.95, 0.99)]


def coverage(
    population: Population, holdout: list[Series], chance: np.random.Generator, repeats: int, title: str
) -> Figures:
    """How often the true recall is under the certified one, by number of clips and target."""
    table = Table(
        "clips", "target", "certified", "true recall, mean", "truth below", "95 % interval", title=title
    )
    all_broken = 0
    figures: Figures = {}
    for n, target in track(CELLS, description=title, console=err):
        broken, certified, truth = 0, 0.0, 0.0
        for _ in range(repeats):
            series, events = population.draw(chance, n)
            result = calibrate(
                series,
                events,
                holdout,
                CONFIG,
                target_recall=target,
                confidence=CONFIDENCE,
                budget_per_hour=BUDGET,
                tolerance_s=TOLERANCE_S,
                max_chance_hit=1.0,
            )
            recall = population.recall(_used(series, CONFIG), result.threshold)
            broken += recall < result.certificate.recall
            certified += result.certificate.recall / repeats
            truth += recall / repeats
        interval = binomtest(broken, repeats).proportion_ci(method="exact")
        table.add_row(
            str(n), f"{target}", f"{certified:.4f}", f"{truth:.4f}", f"{broken / repeats:.3f}",
            f"{interval.low:.3f} ... {interval.high:.3f}",
        )  # fmt: skip
        figures[f"n{n}_target{target}"] = broken / repeats
        all_broken += broken
    total = repeats * len(CELLS)
    interval = binomtest(all_broken, total).proportion_ci(method="exact")
    table.add_row(
        "all", "", "", "", f"{all_broken / total:.4f}", f"{interval.low:.4f} ... {interval.high:.4f}"
    )
    out.print(table)
    return {"calibrations": total, "broken": all_broken / total, "broken_low": interval.low, **figures}


def _used(series: list[Series], config: DeciderConfig) -> DeciderConfig:
    return config.for_images() if len(series[0].times) == 1 else config


def settings_grid() -> list[DeciderConfig]:
    """100 decider settings."""
    return [
        DeciderConfig(smoothing, hold, 30, leave, 0.5)
        for smoothing in (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
        for hold in (0.0, 0.1, 0.2, 0.3, 0.4)
        for leave in (0.8, 0.95)
    ]


def after_a_study(chance: np.random.Generator, repeats: int, size: int) -> dict[str, float]:
    """Coverage when the decider is the best of 100 on a study: uncorrected, corrected, and split by clip."""
    population, settings, n, target = simulated_population(chance, size), settings_grid(), 60, 0.9
    broken = dict.fromkeys(("same events, uncorrected", "same events, corrected", "split by clip"), 0)
    recalls = dict.fromkeys(broken, 0.0)

    def best(series: list[Series], events: list[Event], holdout: list[Series]) -> DeciderConfig:
        grid = threshold_grid(holdout + series, 100)
        table = study(series, events, holdout, settings, grid, tolerance_s=TOLERANCE_S, confidence=CONFIDENCE)
        return settings[table.best(target)]

    for _ in track(range(repeats), description="after a study", console=err):
        series, events = population.draw(chance, n)
        holdout = holdout_series(chance, 5)
        choose, prove = split_events(events, seed=int(chance.integers(1 << 30)))
        on_all, on_some = best(series, events, holdout), best(series, choose, holdout)
        for way, config, counted, tried in (
            ("same events, uncorrected", on_all, events, 1),
            ("same events, corrected", on_all, events, len(settings)),
            ("split by clip", on_some, prove, 1),
        ):
            result = calibrate(
                series,
                counted,
                holdout,
                config,
                target_recall=target,
                confidence=CONFIDENCE,
                settings_tried=tried,
                tolerance_s=TOLERANCE_S,
                max_chance_hit=1.0,
            )
            recall = population.recall(config, result.threshold)
            broken[way] += recall < result.certificate.recall
            recalls[way] += result.certificate.recall / repeats
    table = Table(
        "how", "certified, mean", "truth below", title=f"Best of {len(settings)} settings on {n} clips"
    )
    for way in broken:
        table.add_row(way, f"{recalls[way]:.3f}", f"{broken[way] / repeats:.3f}")
    out.print(table)
    return {
        "uncorrected_broken": broken["same events, uncorrected"] / repeats,
        "corrected_broken": broken["same events, corrected"] / repeats,
        "split_broken": broken["split by clip"] / repeats,
    }


def after_luck(chance: np.random.Generator, repeats: int) -> dict[str, float]:
    """The worst case of a look: 100 settings equally good, their event scores correlated at 0.8."""
    n, tried, target = 60, 100, 0.9
    broken = {1: 0, tried: 0}
    for _ in range(repeats):
        scores = np.sqrt(0.8) * chance.normal(size=n) + np.sqrt(0.2) * chance.normal(size=(tried, n))
        scores.sort(axis=1)
        for corrected in broken:
            rank = max(threshold_rank(n, target, CONFIDENCE, corrected), 1)
            # The false alarms of all are alike, so the highest threshold is the cheapest setting.
            threshold = scores[:, rank - 1].max()
            certificate = certify(n, target, CONFIDENCE, settings_tried=corrected)
            broken[corrected] += norm.sf(threshold) < certificate.recall
    shares = [float(count / repeats) for count in broken.values()]
    out.print(
        f"Best of {tried} settings that differ by luck only, {n} events: truth below in {shares[0]:.3f} "
        f"uncorrected, {shares[1]:.3f} corrected"
    )
    return {"luck_uncorrected_broken": shares[0], "luck_corrected_broken": shares[1]}


def while_adding(chance: np.random.Generator, repeats: int) -> dict[str, float]:
    """Labels are added ten at a time and certified after each: how often at least one of the certificates is broken.

    That is the worst that choosing when to stop can do. Corrected, the sixth look pays for six, as the program counts them.
    """
    looks, target = range(10, 61, 10), 0.95
    shares = []
    for corrected in (False, True):
        broken = np.zeros(repeats, bool)
        # A threshold at the quantile q of the events' scores catches a share 1 - q of them.
        scores = chance.random((repeats, looks[-1]))
        for number, n in enumerate(looks, 1):
            tried = number if corrected else 1
            rank = max(threshold_rank(n, target, CONFIDENCE, tried), 1)
            threshold = np.partition(scores[:, :n], rank - 1, axis=1)[:, rank - 1]
            broken |= 1 - threshold < certify(n, target, CONFIDENCE, settings_tried=tried).recall
        shares.append(float(broken.mean()))
    out.print(
        f"Looks after 10, 20 ... 60 events: truth below one or more certificates in {shares[0]:.3f} where each counts as "
        f"the only one, {shares[1]:.3f} where each pays for those before it"
    )
    return {"adding_uncorrected_broken": shares[0], "adding_corrected_broken": shares[1]}


def power(chance: np.random.Generator, repeats: int) -> dict[str, float]:
    """How much recall beyond the target each rule's threshold keeps: less is better."""
    from mapie.risk_control import BinaryClassificationController, recall

    def mapie(procedure: str) -> Callable[[np.ndarray, float], float]:
        def threshold(scores: np.ndarray, target: float) -> float:
            normal = chance.beta(2, 5, len(scores))
            truth = np.r_[np.ones(len(scores)), np.zeros(len(scores))].astype(int)
            controller = BinaryClassificationController(
                lambda x: np.c_[1 - x[:, 0], x[:, 0]],
                recall,
                target_level=target,
                confidence_level=CONFIDENCE,
                list_predict_params=np.unique(np.r_[0.0, scores]),
                fwer_method=procedure,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that no threshold is valid: counted as threshold 0
                controller.calibrate(np.r_[scores, normal][:, None], truth)
            valid = np.asarray(controller.valid_predict_params, dtype=float)
            return float(valid.max()) if len(valid) else 0.0

        return threshold

    rules: dict[str, Callable[[np.ndarray, float], float]] = {
        "ours": lambda scores, target: float(
            np.sort(scores)[max(threshold_rank(len(scores), target, CONFIDENCE), 1) - 1]
        ),
        "plain minimum": lambda scores, target: float(scores.min()),
        "mapie, fixed sequence": mapie("fixed_sequence"),
        "mapie, bonferroni-holm": mapie("bonferroni_holm"),
    }
    table = Table("events", "target", "rule", "recall beyond the target", "truth below", title="Power")
    figures = {}
    for n, target in ((60, 0.9), (300, 0.9), (300, 0.95)):
        draws = chance.beta(5, 2, (repeats, n))
        population = np.sort(chance.beta(5, 2, 1_000_000))
        for rule, threshold in rules.items():
            levels = np.array([threshold(scores, target) for scores in draws])
            recalls = 1 - np.searchsorted(population, levels) / len(population)
            excess, below = float(recalls.mean() - target), float((recalls < target).mean())
            table.add_row(str(n), f"{target}", rule, f"{excess:.4f}", f"{below:.3f}")
            figures[f"excess_{rule.replace(', ', '_').replace(' ', '_')}_n{n}_{target}"] = excess
    out.print(table)
    return figures


def study_speed(chance: np.random.Generator, frames: int) -> dict[str, float]:
    """Seconds of a study of 100 settings x 100 thresholds."""
    n = frames // 50
    series = [Series(f"n{i}", np.arange(n) / FPS, np.maximum(0, noise(chance, (n,)))) for i in range(50)]
    labeled, events = simulated_population(chance, 60).draw(chance, 60)
    settings, grid = settings_grid(), threshold_grid(series, 100)
    begin, begin_cpu = time.perf_counter(), time.process_time()
    study(labeled, events, series, settings, grid)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    out.print(
        f"Study of {len(settings)} settings x {len(grid)} thresholds over {frames:,} frames: {seconds:.1f} s "
        f"({cpu:.1f} s of processor time)"
    )
    return {"study_seconds": seconds, "study_cpu_seconds": cpu, "study_frames": frames}


def tile_model(work: Path, data: Path, quick: bool) -> Path:
    """Magnetic tile, learned and calibrated by the program as a user would; the folder with its scores."""
    folder, model = data / "magnetic_tile", work / "model"
    if quick:
        folder = thin_images(folder, work / "tile", train=24, test=4)
    anomaly("fit", "--normal-videos", folder / "train", "--model", model, "profile=cpu", "fit.review=0")
    anomaly("calibrate", "--model", model, "--labeled", folder / "test", "evidence.max_mb=0")
    return model


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="resample the labelled scores of this calibrated model"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = np.random.default_rng(options.seed)
    repeats, size = (25, 2000) if options.quick else (500, 20000)
    figures: Figures = {**machine()}
    six = certify(6, 0.95, CONFIDENCE)
    out.print(f"Six events, none missed: {six.recall:.3f} at {CONFIDENCE:.0%}")
    figures["six_events_recall"] = six.recall
    figures |= study_speed(chance, 1_000_000)
    figures |= coverage(
        simulated_population(chance, size), holdout_series(chance, 4), chance, repeats, "Coverage"
    )
    figures |= after_a_study(chance, 20 if options.quick else 400, 500 if options.quick else 4000)
    figures |= after_luck(chance, 400 if options.quick else 4000)
    figures |= while_adding(chance, 2000 if options.quick else 20000)
    figures |= power(chance, 40 if options.quick else 500)
    with workplace() as work:
        model: Path | None = options.model
        if model is None and (DATA / "magnetic_tile").is_dir():
            model = tile_model(work, DATA, options.quick)
        if model is None:
            out.print(
                f"Real scores left out: no footage at {DATA}; set ANOMALY_DATA to its folder.", soft_wrap=True
            )
            figures["real_left_out"] = "no real footage"
        else:
            pictures, good = model_population(model)
            real = coverage(
                pictures, good, chance, repeats, f"Coverage, resampled from {len(pictures.series)} real ones"
            )
            figures |= {f"real_{name}": value for name, value in real.items()}
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
