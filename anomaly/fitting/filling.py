"""From frames to the memory bank, in one pass that can be left and gone on with."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly.errors import NoFootageError
from anomaly.extractor import patch_places
from anomaly.footage.batching import batches, read_ahead
from anomaly.projection import Projection, fit_projection
from memory_bank import StreamingCoreset
from memory_bank.features import refuse_unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from anomaly.backbone import Backbone
    from anomaly.extractor import Extractor
    from anomaly.fitting.options import FitOptions
    from anomaly.fitting.reading import Reader
    from anomaly.splits import Span
    from anomaly.types import Frame
    from memory_bank import Additions


_LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass
class Tally:
    """How far a pass over the footage has come.

    Attributes:
        span, frame: the span being read and the last frame of it that was learned, by its index.
        frames, patches: learned.
        sources: frames and the time of the last one, for each source.
        damaged: what was wrong with the footage.
    """

    span: int = 0
    frame: int = -1
    frames: int = 0
    patches: int = 0
    sources: dict[str, dict[str, float | int | str]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As `Tally(**value)` takes it back."""
        return asdict(self)

    def count(self, number: int, frame: Frame, patches: int) -> None:
        """One more frame, of span `number`, is learned."""
        self.span, self.frame = number, frame.index
        self.frames += 1
        self.patches += patches
        learned = self.sources.setdefault(frame.source, {"frames": 0, "last_s": 0.0})
        learned["frames"] = int(learned["frames"]) + 1
        learned["last_s"] = frame.pts_s

    def take_in(self, other: Tally) -> None:
        """What was learned apart from this."""
        self.frames += other.frames
        self.patches += other.patches
        self.damaged += [message for message in other.damaged if message not in self.damaged]
        for name, facts in other.sources.items():
            known = self.sources.setdefault(name, {"frames": 0, "last_s": 0.0})
            known["frames"] = int(known["frames"]) + int(facts["frames"])
            known["last_s"] = max(float(known["last_s"]), float(facts["last_s"]))


def learn_projection(
    backbone: Backbone,
    frames: Iterable[Frame],
    counts: NDArray[np.bool_],
    options: FitOptions,
    tell: Callable[[str, float, float | None], None],
) -> Projection:
    """The projection of a sample of frames.

    Raises:
        NoFootageError: there is none.
        MemoryBankError: a feature that is NaN or infinite; names source and frame.
    """
    sample = []
    done = 0
    for batch in read_ahead(batches(frames, backbone.batch)):
        features = backbone.extract([frame.image for frame in batch])[:, counts]
        for frame, rows in zip(batch, features, strict=True):
            refuse_unusable(rows, "euclidean", frame.source, np.full(len(rows), frame.index))
        # Half the room; what half precision cannot hold turns no direction.
        held = np.clip(features, -_LARGEST_HALF, _LARGEST_HALF)
        sample.append(held.reshape(-1, features.shape[-1]).astype(np.float16))
        done += len(batch)
        tell("learning the projection", done, options.sample_frames)
    if not sample:
        raise nothing_left()
    return fit_projection(
        np.concatenate(sample).astype(np.float32),
        options.dims,
        options.shrinkage,
        backbone.widths,
        options.level,
    )


def new_coreset(projection: Projection, options: FitOptions) -> StreamingCoreset:
    """An empty coreset as configured."""
    return StreamingCoreset(
        size=options.bank_size,
        radius=options.radius,
        gather_mib=options.gather_mib,
        dim=projection.dim,
        metric="euclidean",
        seed=options.seed,
        place_weight=options.place_weight,
    )


def learner(
    coreset: StreamingCoreset | Additions, grid: tuple[int, int], counts: NDArray[np.bool_]
) -> Callable[[Frame, NDArray[np.float32]], int]:
    """What adds the patches of one frame, projected, (gh * gw, d), to a coreset and says how many: those that count."""
    patch = np.flatnonzero(counts).astype(np.int32)
    y, x = (place[counts] for place in patch_places(grid))

    def learn(frame: Frame, patches: NDArray[np.float32]) -> int:
        coreset.add(
            patches[counts], source=frame.source, frame=frame.index, time_s=frame.pts_s, y=y, x=x, patch=patch,
            camera=frame.camera,
        )  # fmt: skip
        return len(patch)

    return learn


def fill(
    coreset: StreamingCoreset | Additions,
    tally: Tally,
    backbone: Extractor,
    projection: Projection,
    counts: NDArray[np.bool_],
    spans: Sequence[Span],
    reader: Reader,
    fps: float | None,
    after_batch: Callable[[], None],
) -> None:
    """Add the patches of all frames of spans to a coreset, from where the tally says it stopped.

    Args:
        coreset, tally: both are changed in step: after each batch one tells exactly what is in the other.
        backbone, projection: frames to patches.
        counts: (gh * gw,) bool, patches that are learned.
        spans: the footage, in order.
        reader: reads it.
        fps: frames a second that are learned; None = all.
        after_batch: called after every batch.
    """
    learn = learner(coreset, backbone.grid, counts)
    for batch in read_ahead(batches(_numbered(spans, reader, fps, tally.span, tally.frame), backbone.batch)):
        features = projection.apply(backbone.extract([frame.image for _, frame in batch]))
        for (number, frame), patches in zip(batch, features, strict=True):
            tally.count(number, frame, learn(frame, patches))
        tally.damaged = list(reader.damaged)
        after_batch()
    tally.damaged = list(reader.damaged)


def _numbered(
    spans: Sequence[Span], reader: Reader, fps: float | None, span: int, frame: int
) -> Iterator[tuple[int, Frame]]:
    """Frames after one that is known, each with the number of its span.

    A span that was left half-way is decoded from its start, so that the same frames are taken; decoding alone
    costs a small part of learning.
    """
    here = ((span, one) for one in reader.frames(spans[span], fps) if one.index > frame)
    later = (
        (number, one) for number in range(span + 1, len(spans)) for one in reader.frames(spans[number], fps)
    )
    return chain(here, later)


def nothing_left() -> NoFootageError:
    """The error for footage that is excluded as a whole."""
    return NoFootageError(
        "no frame is left to learn from; the exclusions (--except, fit.drop) cover all of it"
    )
