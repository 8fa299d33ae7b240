"""The split on which defaults are chosen: footage that no other benchmark reports on, with anomalies planted.

    street    Ped2's training clips: learned from the first twelve, strangers planted in the last four
    tile      magnetic tile's training pictures: learned from most of them, damage planted in the rest
    conveyor  generated with a seed of its own

For each it prints the frame AUROC of every combination of neighbourhood, projection and share of random rows.
Planted anomalies are easier or harder than real ones; only differences between the rows of a table mean anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from omegaconf import OmegaConf
from report import ROOT, Figures, err, machine, options_parser, out, workplace, write_json
from rich.table import Table

from anomaly.backbone import Backbone, BackboneSpec, choose_input_size
from anomaly.conveyor import KINDS, MOTION_KINDS, SceneConfig, write_footage
from anomaly.decider import DeciderConfig, smooth
from anomaly.footage.labels import load_labels
from anomaly.footage.source import find_sources, read_frames
from anomaly.heatmap import frame_score
from anomaly.metrics import auroc
from anomaly.projection import Projection, fit_projection
from anomaly.weights import SOURCES, load_weights
from memory_bank import MemoryBank, StreamingCoreset

DATA = Path(os.environ.get("ANOMALY_DATA") or ROOT.parent / "shared" / "data")
NEIGHBOURHOODS = (1, 3)
RANDOM_SHARES = (0.0, 0.25)
TOP_SHARES = (0.005, 0.01, 0.02)
PROJECTIONS = {"plain": None, "white .1": 0.1, "white .5": 0.5, "white .9": 0.9}


ImageArray: TypeAlias = np.ndarray


@dataclass(frozen=True)
class Shot:
    """A frame to learn from, or to judge: clip, seconds, picture, and whether something is planted in it."""

    clip: str
    time_s: float
    image: ImageArray
    planted: bool = False


@dataclass(frozen=True)
class Split:
    """What to learn from and what to judge, read anew for each pass."""

    learn: Callable[[], Iterator[Shot]]
    judge: Callable[[], Iterator[Shot]]
    moving: bool


def stranger(rng: np.random.Generator, kind: int) -> tuple[ImageArray, np.ndarray]:
    """Something that walks nowhere: (h, w) uint8 grey and its (h, w) opacity in 0..1."""
    height, width = int(rng.integers(18, 34)), int(rng.integers(12, 34))
    y, x = np.mgrid[0:height, 0:width]
    shade = rng.uniform(40, 200)
    if kind == 0:  # two wheels and a bar
        opacity = np.zeros((height, width), np.float32)
        radius = max(3, width // 4)
        for centre in (radius, width - radius - 1):
            cv2.circle(opacity, (centre, height - radius - 1), radius, 1.0, 1)
        cv2.line(opacity, (radius, height - radius - 1), (width - radius, height - 2 * radius), 1.0, 1)
        grey = np.full((height, width), shade)
    elif kind == 1:  # a box with a window
        opacity = np.ones((height, width), np.float32)
        grey = np.full((height, width), shade)
        grey[height // 5 : height // 2, width // 6 : -max(width // 6, 1)] += rng.choice([-50, 50])
    elif kind == 2:  # a leaning oval
        opacity = (
            ((y / height - 0.5) ** 2 * 4 + (x / width - 0.5 + 0.3 * (y / height - 0.5)) ** 2 * 6) < 1
        ).astype(np.float32)
        grey = shade + 40 * np.sin(y / 2.5)
    else:  # texture of something else
        opacity = np.ones((height, width), np.float32)
        noise = rng.normal(0, 1, (height, width)).astype(np.float32)
        grey = shade + 60 * cv2.GaussianBlur(noise, (0, 0), 1.5)
    soft = cv2.GaussianBlur(cv2.copyMakeBorder(opacity, 4, 4, 4, 4, cv2.BORDER_CONSTANT), (0, 0), 0.8)
    grey = cv2.copyMakeBorder(np.clip(grey, 0, 255).astype(np.uint8), 4, 4, 4, 4, cv2.BORDER_REPLICATE)
    return grey, soft * rng.uniform(0.5, 0.9)


def planted(image: ImageArray, grey: ImageArray, opacity: np.ndarray, top: int, left: int) -> ImageArray:
    """The picture with the stranger blended in at that place, as far as it lies inside."""
    result = image.astype(np.float32)
    height, width = grey.shape
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + height, image.shape[0]), min(left + width, image.shape[1])
    if y0 < y1 and x0 < x1:
        cut = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        share = opacity[cut][..., None]
        result[y0:y1, x0:x1] = result[y0:y1, x0:x1] * (1 - share) + grey[cut][..., None] * share
    return np.clip(result, 0, 255).astype(np.uint8)


def compressed(image: ImageArray) -> ImageArray:
    """As a camera would send it: what is planted carries the same compression as what is not."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def street(work: Path, quick: bool) -> Split:
    clips = find_sources([DATA / "ped2" / "train"])
    learned, judged = (clips[:2], clips[-1:]) if quick else (clips[:12], clips[12:])
    step = 8 if quick else 4

    def learn() -> Iterator[Shot]:
        for clip in learned:
            for frame in read_frames(clip):
                if frame.index % step == 0:
                    yield Shot(clip.name, frame.pts_s, compressed(frame.image))

    def judge() -> Iterator[Shot]:
        for number, clip in enumerate(judged):
            rng = np.random.default_rng(number)
            length = sum(1 for _ in read_frames(clip))
            # One stranger after the other, each crossing for a sixth of the clip.
            crossings = []
            for turn in range(6):
                grey, opacity = stranger(rng, turn % 4)
                speed = rng.uniform(1.0, 4.0) * rng.choice([-1, 1])
                place = rng.uniform(60, 200), rng.uniform(100, 260)
                crossings.append((grey, opacity, (turn + 0.5) * length / 6, speed, place))
            for frame in read_frames(clip):
                if frame.index % step:
                    continue
                grey, opacity, middle, speed, (top, left) = crossings[frame.index * 6 // length]
                left += speed * (frame.index - middle)
                image = planted(frame.image, grey, opacity, round(top), round(left))
                # Every frame with and without: a crowded moment cannot pass for a planted one.
                yield Shot(clip.name, frame.pts_s, compressed(frame.image))
                yield Shot(f"{clip.name} planted", frame.pts_s, compressed(image), True)

    return Split(learn, judge, moving=True)


def damaged(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """A picture with a crack, a hole, a frayed spot or an uneven stretch drawn in, in proportion to its size."""
    height, width = image.shape[:2]
    unit = np.sqrt(height * width) / 20
    opacity = np.zeros((height, width), np.float32)
    kind = int(rng.integers(4))
    y, x = rng.uniform(0.2, 0.8, 2) * (height, width)
    if kind == 0:
        points = [(x, y)]
        heading = rng.uniform(0, 2 * np.pi)
        for _ in range(int(rng.integers(6, 14))):
            heading += rng.normal(0, 0.5)
            x, y = x + 0.7 * unit * np.cos(heading), y + 0.7 * unit * np.sin(heading)
            points.append((x, y))
        cv2.polylines(opacity, [np.array(points, np.int32)], False, 1.0, max(1, round(unit / 6)))
    else:
        size = rng.uniform(0.4, 1.5, 2) if kind == 1 else rng.uniform(1.5, 5, 2)
        cv2.ellipse(opacity, ((x, y), tuple(size * unit), rng.uniform(0, 180)), 1.0, -1)
        if kind == 2:
            opacity *= (rng.random((height, width)) < 0.5).astype(np.float32)
    soft = cv2.GaussianBlur(opacity, (0, 0), unit / (2 if kind == 3 else 10))[..., None]
    change = (-1 if kind < 2 else rng.choice([-1, 1])) * rng.uniform(40, 90)
    return np.clip(image + soft * change, 0, 255).astype(np.uint8)


def tile(work: Path, quick: bool) -> Split:
    pictures = find_sources([DATA / "magnetic_tile" / "train" / "good"])
    # Pictures of one tile stand together: the judged ones are a block, not every so-manyth.
    learned, judged = (pictures[:60:3], pictures[-40::4]) if quick else (pictures[:600:3], pictures[600::2])

    def read(sources: list, plant: bool) -> Iterator[Shot]:
        rng = np.random.default_rng(5)
        for source in sources:
            image = next(iter(read_frames(source))).image
            yield Shot(source.name, 0.0, image)
            if plant:
                yield Shot(f"{source.name} planted", 0.0, damaged(image, rng), True)

    return Split(lambda: read(learned, False), lambda: read(judged, True), moving=False)


def conveyor(work: Path, quick: bool) -> Split:
    kinds = [kind for kind in KINDS if kind not in MOTION_KINDS]
    footage = write_footage(
        work, seed=100, normal_clips=2 if quick else 6, normal_s=10.0 if quick else 30.0,
        labeled_clips=len(kinds) * (1 if quick else 4), test_clips=0, clean_clips=0, kinds=kinds,
        config=SceneConfig(128, 80, 3.0) if quick else SceneConfig(fps=5.0),
    )  # fmt: skip
    labels = load_labels(footage.labeled_csv, footage.labeled)

    def learn() -> Iterator[Shot]:
        for clip in find_sources([footage.normal]):
            for frame in read_frames(clip, fps=2.5):
                yield Shot(clip.name, frame.pts_s, frame.image)

    def judge() -> Iterator[Shot]:
        for clip in labels.sources:
            spans = [one for one in labels.intervals if one.video == clip.name]
            for frame in read_frames(clip, fps=2.5):
                inside = any(one.start_s <= frame.pts_s < one.end_s for one in spans)
                yield Shot(clip.name, frame.pts_s, frame.image, inside)

    return Split(learn, judge, moving=True)


SPLITS: dict[str, Callable[[Path, bool], Split]] = {"street": street, "tile": tile, "conveyor": conveyor}


def default_spec() -> BackboneSpec:
    """The CPU profile's backbone, as configured."""
    settings = OmegaConf.to_container(
        OmegaConf.load(ROOT / "configs" / "backbone" / "efficientnet_lite0.yaml")
    )
    known = {name: value for name, value in settings.items() if name in BackboneSpec.__dataclass_fields__}
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    return BackboneSpec(**known, architecture=SOURCES["efficientnet_lite0"].architecture)


@dataclass(frozen=True)
class Extracted:
    """Patch features (F, P, D) float16 of some frames, and what is known of each."""

    features: np.ndarray
    clips: np.ndarray
    times: np.ndarray
    planted: np.ndarray


def extract(backbone: Backbone, shots: Iterator[Shot]) -> Extracted:
    features, clips, times, truth = [], [], [], []
    for shot in shots:
        features.append(backbone.extract([shot.image])[0].astype(np.float16))
        clips.append(shot.clip)
        times.append(shot.time_s)
        truth.append(shot.planted)
    return Extracted(np.stack(features), np.array(clips), np.array(times), np.array(truth))


def filled(patches: np.ndarray, clips: np.ndarray, rows: int, share: float) -> MemoryBank:
    """Rows of a streamed bank over (F, P, d) patches."""
    place = np.arange(patches.shape[1], dtype=np.int32)
    zeros = np.zeros(len(place), np.float32)
    coreset = StreamingCoreset(dim=patches.shape[2], size=rows, random_share=share)
    for index, frame in enumerate(patches):
        coreset.add(frame, source=str(clips[index]), frame=index, time_s=0.0, y=zeros, x=zeros, patch=place)
    return coreset.finish()


def judged(judge: Extracted, distances: np.ndarray, top: float, moving: bool) -> float:
    """Frame AUROC from (F, P) distances, smoothed as the decider does where frames follow each other."""
    scores = np.array([frame_score(one, top) for one in distances])
    if moving:
        config = DeciderConfig()
        for clip in np.unique(judge.clips):
            inside = judge.clips == clip
            scores[inside] = smooth(judge.times[inside], scores[inside], config)
    return auroc(judge.planted, scores)


def compare(name: str, split: Split, rows: int, quick: bool) -> Figures:
    """Every combination's AUROC, as a table."""
    first = next(split.learn()).image
    table = Table(title=f"{name}: frame AUROC by share of the patches in the mean")
    for heading in ("neighbourhood", "projection", "random rows", *(f"top {top:g}" for top in TOP_SHARES)):
        table.add_column(heading)
    figures: Figures = {}
    weights = load_weights("efficientnet_lite0")[0]
    for side in NEIGHBOURHOODS:
        spec = replace(default_spec(), neighbourhood=side)
        backbone = Backbone(spec, weights, choose_input_size(spec, first.shape[:2]))
        learn, judge = extract(backbone, split.learn()), extract(backbone, split.judge())
        width = learn.features.shape[2]
        sample = learn.features[:: max(1, len(learn.features) // 60)].reshape(-1, width).astype(np.float32)
        for label, shrinkage in PROJECTIONS.items():
            whitening = None if shrinkage is None else fit_projection(sample, 100, shrinkage)
            patches, wanted = (projected(one.features, whitening) for one in (learn, judge))
            for share in RANDOM_SHARES:
                started = time.perf_counter()
                bank = filled(patches, learn.clips, rows, share)
                distances = np.stack([bank.search(one)[0][:, 0] for one in wanted])
                found = [judged(judge, distances, top, split.moving) for top in TOP_SHARES]
                table.add_row(str(side), label, f"{share:g}", *(f"{value:.4f}" for value in found))
                err.print(f"{name} {side} {label} {share:g} {found} {time.perf_counter() - started:.0f} s")
                for top, value in zip(TOP_SHARES, found, strict=True):
                    figures[f"{name}_{side}x{side}_{label}_{share:g}_{top:g}".replace(" ", "")] = value
    out.print(table)
    return figures


def projected(features: np.ndarray, whitening: Projection | None) -> np.ndarray:
    """(F, P, d) float32."""
    return np.stack(
        [
            one.astype(np.float32) if whitening is None else whitening.apply(one.astype(np.float32))
            for one in features
        ]
    )


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--only", choices=tuple(SPLITS), help="this split alone")
    options = parser.parse_args()
    figures: Figures = {"quick": int(options.quick), **machine()}
    for name in [options.only] if options.only else SPLITS:
        if name != "conveyor" and not (DATA / "README.md").is_file():
            out.print(
                f"{name} left out: no real footage at {DATA}; set ANOMALY_DATA to its folder.", soft_wrap=True
            )
            continue
        with workplace() as work:
            split = SPLITS[name](work, options.quick)
            figures |= compare(name, split, 500 if options.quick else 8_000, options.quick)
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
