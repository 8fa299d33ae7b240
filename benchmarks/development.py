"""The split on which defaults are chosen: footage that no other benchmark reports on, with anomalies planted.

    street    Ped2's training clips: learned from the first twelve, strangers planted in the last four
    tile      magnetic tile's training pictures: learned from most of them, damage planted in the rest
    conveyor  generated with a seed of its own

Street and tile come twice: with plants drawn by hand, and with plants made of real pictures (`plants`). For each it
prints the frame AUROC of every combination of layers and projection.
Planted anomalies are easier or harder than real ones; only differences between the rows of a table mean anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from plants import ImageArray, altered, damaged, passer, people, planted, stranger
from real_features import spec_of
from report import DATA, Figures, err, machine, options_parser, out, workplace, write_json
from rich.table import Table

from anomaly.backbone import Backbone, choose_input_size
from anomaly.conveyor import KINDS, MOTION_KINDS, SceneConfig, write_footage
from anomaly.decider import DeciderConfig, smooth
from anomaly.footage.labels import load_labels
from anomaly.footage.source import find_sources, read_frames
from anomaly.heatmap import frame_score
from anomaly.metrics import auroc
from anomaly.projection import Projection, fit_projection
from anomaly.weights import load_weights
from memory_bank import MemoryBank, StreamingCoreset

TOP_SHARES = (0.005, 0.01, 0.02)
LAYERS = ((2, 3), (2, 3, 4))
#: By name: dimensions, how far layers are brought to one variance, and the shrinkage; None = features as they are.
PROJECTIONS: dict[str, tuple[int, float, float] | None] = {
    "plain": None,
    "100": (100, 0.0, 1.0),
    "100, half level": (100, 0.5, 1.0),
    "100, level": (100, 1.0, 1.0),
    "150": (150, 0.0, 1.0),
    "150, half level": (150, 0.5, 1.0),
    "100, white .5": (100, 0.0, 0.5),
    "100, half level, white .9": (100, 0.5, 0.9),
    "100, level, white .8": (100, 1.0, 0.8),
}


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


def compressed(image: ImageArray) -> ImageArray:
    """As a camera would send it: what is planted carries the same compression as what is not."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def streets(work: Path, quick: bool, natural: bool) -> Split:
    clips = find_sources([DATA / "ped2" / "train"])
    learned, judged = (clips[:2], clips[-1:]) if quick else (clips[:12], clips[12:])
    step = 8 if quick else 4

    def learn() -> Iterator[Shot]:
        for clip in learned:
            for frame in read_frames(clip):
                if frame.index % step == 0:
                    yield Shot(clip.name, frame.pts_s, compressed(frame.image))

    def judge() -> Iterator[Shot]:
        foreign = textures() if natural else []
        for number, clip in enumerate(judged):
            rng = np.random.default_rng(number)
            frames = list(read_frames(clip))
            cutouts = people([frame.image[..., 0] for frame in frames]) if natural else []
            # One stranger after the other, each crossing for its part of the clip.
            turns, crossings = 12 if natural else 6, []
            for turn in range(turns):
                cutout = passer(rng, turn % 6, cutouts, foreign) if natural else stranger(rng, turn % 4)
                speed = rng.uniform(1.0, 4.0) * rng.choice([-1, 1])
                place = rng.uniform(60, 200), rng.uniform(100, 260)
                crossings.append((*cutout, (turn + 0.5) * len(frames) / turns, speed, place))
            for frame in frames[::step]:
                grey, opacity, middle, speed, (top, left) = crossings[frame.index * turns // len(frames)]
                left += speed * (frame.index - middle)
                image = planted(frame.image, grey, opacity, round(top), round(left))
                # Every frame with and without: a crowded moment cannot pass for a planted one.
                yield Shot(clip.name, frame.pts_s, compressed(frame.image))
                yield Shot(f"{clip.name} planted", frame.pts_s, compressed(image), True)

    return Split(learn, judge, moving=True)


def tiles(work: Path, quick: bool, natural: bool) -> Split:
    pictures = find_sources([DATA / "magnetic_tile" / "train" / "good"])
    # Pictures of one tile stand together: the judged ones are a block, not every so-manyth.
    learned, judged = (pictures[:60:3], pictures[-40::4]) if quick else (pictures[:600:3], pictures[600::2])

    def learn() -> Iterator[Shot]:
        for source in learned:
            yield Shot(source.name, 0.0, next(iter(read_frames(source))).image)

    def judge() -> Iterator[Shot]:
        rng = np.random.default_rng(5)
        foreign = textures() if natural else []
        images = [next(iter(read_frames(source))).image for source in judged]
        for number, (source, image) in enumerate(zip(judged, images, strict=True)):
            yield Shot(source.name, 0.0, image)
            changed = altered(image, number % 5, images, foreign, rng) if natural else damaged(image, rng)
            yield Shot(f"{source.name} planted", 0.0, changed, True)

    return Split(learn, judge, moving=False)


def textures() -> list[ImageArray]:
    """(H, W) grey pictures of something that is neither street nor tile."""
    return [
        cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
        for source in find_sources([DATA / "bottles" / "test"])
        for frame in read_frames(source)
        if frame.index % 100 == 0
    ]


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


SPLITS: dict[str, Callable[[Path, bool], Split]] = {
    "street": partial(streets, natural=False),
    "street_natural": partial(streets, natural=True),
    "tile": partial(tiles, natural=False),
    "tile_natural": partial(tiles, natural=True),
    "conveyor": conveyor,
}


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


def filled(patches: np.ndarray, clips: np.ndarray, rows: int) -> MemoryBank:
    """Rows of a streamed bank over (F, P, d) patches."""
    place = np.arange(patches.shape[1], dtype=np.int32)
    zeros = np.zeros(len(place), np.float32)
    coreset = StreamingCoreset(dim=patches.shape[2], size=rows)
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
    for heading in ("layers", "projection", *(f"top {top:g}" for top in TOP_SHARES)):
        table.add_column(heading)
    figures: Figures = {}
    spec = replace(spec_of("efficientnet_lite0"), layers=LAYERS[-1])
    backbone = Backbone(spec, load_weights("efficientnet_lite0")[0], choose_input_size(spec, first.shape[:2]))
    learn, judge = extract(backbone, split.learn()), extract(backbone, split.judge())
    sample = learn.features[:: max(1, len(learn.features) // 60)].reshape(-1, backbone.dim).astype(np.float32)
    for layers in LAYERS:
        widths = backbone.widths[: len(layers)]
        width = sum(widths)
        for label, how in PROJECTIONS.items():
            started = time.perf_counter()
            fitted = how and fit_projection(sample[:, :width], how[0], how[2], widths, how[1])
            patches, wanted = (projected(one.features[..., :width], fitted) for one in (learn, judge))
            bank = filled(patches, learn.clips, rows)
            distances = np.stack([bank.search(one)[0][:, 0] for one in wanted])
            found = [judged(judge, distances, top, split.moving) for top in TOP_SHARES]
            name_of = "+".join(str(layer) for layer in layers)
            table.add_row(name_of, label, *(f"{value:.4f}" for value in found))
            err.print(f"{name} {name_of} {label} {found} {time.perf_counter() - started:.0f} s")
            for top, value in zip(TOP_SHARES, found, strict=True):
                figures[f"{name}_{name_of}_{label}_{top:g}".replace(" ", "")] = value
    out.print(table)
    return figures


def projected(features: np.ndarray, projection: Projection | None) -> np.ndarray:
    """(F, P, d) float32."""
    return np.stack(
        [
            one.astype(np.float32) if projection is None else projection.apply(one.astype(np.float32))
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
