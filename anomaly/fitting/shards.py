"""A fit cut into shards of footage, one after another on this machine or as tasks on a Ray cluster.

How the footage is cut, how many threads work on a shard and in which tree the shards' banks merge are fixed by the
settings. The number of workers is not among them: one worker or thirty make the same bank, byte for byte, on
machines of one kind.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from anomaly.backbone import Backbone, BackboneSpec
from anomaly.errors import AnomalyError, FootageError
from anomaly.fitting.filling import Tally, fill, new_coreset, nothing_left
from anomaly.fitting.reading import Reader
from anomaly.splits import Span
from memory_bank import PartMerger, part_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from anomaly.fitting.finished import FinishedShards
    from anomaly.fitting.options import FitOptions
    from anomaly.projection import Projection
    from anomaly.weights import Tensors
    from memory_bank import Coverage, MemoryBank, Part

#: Products of more threads add up in another order; one a shard, and the bank does not hang on the machine's count.
_THREADS = 1
_TASK_RETRIES = 3
#: Seconds in which a cluster must take a connection.
_ANSWER_S = 10.0
#: Where every frame is learned, cuts fall on milliseconds.
_FINEST_GRID = 1000.0


@dataclass(frozen=True, eq=False)
class Plan:
    """What every shard needs.

    Attributes:
        spec, weights, input_size, device: of the backbone.
        projection: learned beforehand, the same for all.
        counts: (gh * gw,) bool, patches that are learned.
        reader: reads the footage; its list of damage is not shared between shards.
        options: of the fit.
    """

    spec: BackboneSpec
    weights: Tensors
    input_size: tuple[int, int]
    device: str
    projection: Projection
    counts: NDArray[np.bool_]
    reader: Reader
    options: FitOptions


def cut_into_shards(
    spans: Sequence[Span], reader: Reader, shard_s: float, fps: float | None
) -> list[list[Span]]:
    """Spans in order, long ones cut, short ones together, about `shard_s` seconds of footage in each shard.

    Cuts fall between the frames that are learned at `fps`; where the footage has no whole number of frames between
    two of those (29.97 at 5), a cut may shift which is learned by one.
    """
    grid = fps or _FINEST_GRID
    shards: list[list[Span]] = []
    room = 0.0
    for span in spans:
        length = 1.0 if span.source.kind == "image" else reader.length(span)
        count = max(1, round(length / shard_s))
        cuts = [span.start_s + round(part * length / count * grid) / grid for part in range(count)]
        for start, end in zip(cuts, [*cuts[1:], span.end_s], strict=True):
            if not shards or room < length / count / 2:
                shards.append([])
                room = shard_s
            shards[-1].append(Span(span.source, start, end))
            room -= length / count
    return shards


def fill_shard(plan: Plan, spans: Sequence[Span]) -> tuple[Part | None, Tally]:
    """The bank of one shard; None where nothing of it is learned.

    Raises:
        FootageError: a clip that is not there, by name: another machine may not see what the first one saw.
    """
    for span in spans:
        if not span.source.path.is_file():
            raise FootageError(
                f"{span.source.name!r} is not at {str(span.source.path)!r} on {socket.gethostname()}; put the "
                "footage on a path that every worker sees"
            )
    tally = Tally()
    coreset = new_coreset(plan.projection, plan.options)
    reader = replace(plan.reader, damaged=[])
    with _fixed_threads():
        backbone = Backbone(plan.spec, plan.weights, plan.input_size, plan.device)
        fill(
            coreset, tally, backbone, plan.projection, plan.counts, spans, reader, plan.options.fps, lambda: None
        )  # fmt: skip
        return (part_of(coreset) if tally.frames else None), tally


def fill_in_shards(
    backbone: Backbone,
    weights: Tensors,
    projection: Projection,
    counts: NDArray[np.bool_],
    spans: Sequence[Span],
    reader: Reader,
    options: FitOptions,
    finished: FinishedShards | None,
    tell: Callable[[str, float, float | None], None],
) -> tuple[MemoryBank, Coverage, Tally]:
    """The bank of all spans, shard by shard (`options.compute`, `options.shard_s`).

    Shards that are among the `finished` ones are taken from there, and each new one is kept with them. Banks merge
    as they come in; of one that has to wait for those before it only the file is kept, where there is one.
    """
    plan = Plan(
        backbone.spec,
        weights,
        backbone.input_size,
        backbone.device.type,
        projection,
        counts,
        reader,
        replace(options, radius=options.part_radius),
    )
    shards = cut_into_shards(spans, reader, options.shard_length_s or math.inf, options.fps)
    run = _on_ray if options.compute == "ray" else _here
    # Shards that wait for those before them: as they are, or None where `finished` holds them.
    waiting: dict[int, tuple[Part | None, Tally] | None] = {
        number: None for number in range(len(shards)) if finished and finished.holds(number)
    }
    left = {number: own for number, own in enumerate(shards) if number not in waiting}
    before = len(waiting)
    if finished:
        finished.tell(before)
    tell("filling the bank, shard by shard", before, len(shards))
    merger, total, merged = PartMerger(), Tally(), 0
    with closing(run(plan, left)) as results:
        for done, (number, result) in enumerate(chain([(-1, None)], results), before):
            if result is not None:
                part, tally = result
                on_disk = (
                    finished is not None and part is not None and finished.keep_shard(number, part, tally)
                )
                waiting[number] = None if on_disk and number > merged else result
            while merged in waiting:
                held = waiting.pop(merged)
                if held is None:
                    assert finished is not None
                    held = finished.shard(merged)
                part, tally = held
                total.take_in(tally)
                if part is not None:
                    with _fixed_threads():
                        merger.add(part)
                merged += 1
            tell("filling the bank, shard by shard", done, len(shards))
    if not total.frames:
        raise nothing_left()
    with _fixed_threads():
        bank, coverage = merger.finish()
    return bank, coverage, total


def _here(
    plan: Plan, shards: Mapping[int, Sequence[Span]]
) -> Generator[tuple[int, tuple[Part | None, Tally]], None, None]:
    for number, spans in shards.items():
        yield number, fill_shard(plan, spans)


def _on_ray(
    plan: Plan, shards: Mapping[int, Sequence[Span]]
) -> Generator[tuple[int, tuple[Part | None, Tally]], None, None]:
    """As tasks: on the cluster that $RAY_ADDRESS names, or one on this machine. A lost task is done again."""
    import ray

    waiting: dict[Any, int] = {}
    started = not ray.is_initialized()
    if started:
        _start(ray)
    try:
        work = ray.remote(num_cpus=1, num_gpus=1 if plan.device == "cuda" else 0, max_retries=_TASK_RETRIES)(
            fill_shard
        )
        shared = ray.put(plan)
        waiting |= {work.remote(shared, list(spans)): number for number, spans in shards.items()}
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(ready), ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, AnomalyError):
            raise cause from None
        raise AnomalyError(f"a shard failed on its worker: {' '.join(str(cause).split())}") from error
    except ray.exceptions.RayError as error:
        raise AnomalyError(
            f"Ray could not run the shards ({' '.join(str(error).split())[:300]}); see that its workers have memory "
            "and this program, or fit with fit.compute=local"
        ) from error
    finally:
        for task in waiting:  # of a fit that failed, or was stopped
            ray.cancel(task)
        if started:
            ray.shutdown()


def _start(ray: Any) -> None:
    """Join the cluster that $RAY_ADDRESS names, or start one on this machine.

    Raises:
        AnomalyError: nothing answers there, or Ray does not start.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    remedy = "start it, or unset RAY_ADDRESS to use this machine alone, or fit with fit.compute=local"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        # Ray itself asks for many minutes before it gives up.
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise AnomalyError(
                f"no Ray cluster answers at RAY_ADDRESS={address} ({why}); {remedy}"
            ) from error
    try:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except Exception as error:  # of no family: ConnectionError, ValueError, RuntimeError and bare ones
        ray.shutdown()
        where = (
            f"the Ray cluster at RAY_ADDRESS={address} cannot be joined" if address else "Ray does not start"
        )
        why = " ".join(str(error).split())[:300]
        raise AnomalyError(
            f"{where} ({why}); {remedy if address else 'fit with fit.compute=local'}"
        ) from error


@contextmanager
def _fixed_threads() -> Iterator[None]:
    """One thread for torch, and for the products of numpy, while a shard is worked on."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        with threadpool_limits(_THREADS):
            yield
    finally:
        torch.set_num_threads(before)
