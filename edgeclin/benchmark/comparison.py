"""`Runtime.predict` and the bare engine on the same sample, in turn, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeclin.backends.base import quantised
from edgeclin.benchmark.bare_engine import BARE
from edgeclin.benchmark.percentiles import LEVEL, Distribution, distribution
from edgeclin.benchmark.taking import Limit
from edgeclin.errors import EngineUnavailable
from edgeclin.executable import executable
from edgeclin.records import Record
from edgeclin.runtime import Runtime

BLOCK = 8
"""Runs of one side before the other's turn."""
LEAST_BLOCKS = 8
_RESAMPLES = 2000
_SEED = 1


class Interval(Record, frozen=True):
    """A figure with its two-sided 99 % percentile interval over resampled blocks."""

    value: float
    low: float
    high: float


class Comparison(Record, frozen=True):
    """How much longer edgeclin takes than the bare engine, in medians.

    Attributes:
        ratio: of the medians; None with fewer than 8 blocks of both.
        above_us: their difference, in microseconds.
        method: how it was measured.
    """

    edgeclin: Distribution
    bare: Distribution
    ratio: Interval | None
    above_us: Interval | None
    blocks: int
    method: str


@dataclass(slots=True)
class Sides:
    """Latencies of both sides in milliseconds, by block."""

    ours: list[list[float]] = field(default_factory=list)
    bare: list[list[float]] = field(default_factory=list)


def bare_call(runtime: Runtime, sample: np.ndarray, threads: int) -> Callable[[], Any]:
    """The bare engine on a raw sample, prepared and quantised beforehand.

    Raises:
        EngineUnavailable: how to call this backend's engine barely is not known.
    """
    chosen = executable(runtime.bundle)
    name = chosen.engine.backend
    if name not in BARE:
        raise EngineUnavailable(
            f"{runtime.bundle.path}: no bare call of the backend {name} is known (of "
            f"{', '.join(BARE)} it is)"
        )
    return BARE[name](chosen.model, engine_input(runtime, sample), threads)


def engine_input(runtime: Runtime, sample: np.ndarray) -> np.ndarray:
    """A raw sample as the engine's library takes it, [1, …] of the engine's own dtype."""
    prepared = runtime.preprocess(runtime.preprocess.decoded(sample))
    spec = runtime.backend.input
    if spec.scale is None or prepared.dtype == np.dtype(spec.dtype):
        return prepared.astype(spec.dtype)[np.newaxis]
    return quantised(prepared, spec).astype(spec.dtype)[np.newaxis]


def in_turn(ours: Callable[[], Any], bare: Callable[[], Any], limit: Limit) -> Sides:
    """Blocks of both sides in turn, so that what else the machine does meets each alike.

    The first run of every block is not counted: it finds the other's data in the caches. Which side
    begins changes from pair to pair.
    """
    sides, clock = Sides(), time.perf_counter_ns
    turn = [(ours, sides.ours), (bare, sides.bare)]
    while not limit.reached(BLOCK * (len(sides.ours) + len(sides.bare))):
        for call, kept in turn:
            call()
            block = []
            for _ in range(BLOCK):
                start = clock()
                call()
                block.append((clock() - start) / 1e6)
            kept.append(block)
        turn.reverse()
    return sides


def compare(sides: Sides) -> Comparison:
    """Ratio and difference of the medians, with intervals from resampled pairs of blocks."""
    ours, bare = np.array(sides.ours), np.array(sides.bare)
    ratio = above = None
    if len(ours) >= LEAST_BLOCKS:
        middles = np.stack([np.median(ours, axis=1), np.median(bare, axis=1)])
        draw = np.random.default_rng(_SEED)
        picks = draw.integers(0, len(ours), (_RESAMPLES, len(ours)))
        own, other = (np.median(side[picks], axis=1) for side in middles)
        here, there = np.median(middles, axis=1).tolist()
        ratio = _interval(here / there, own / other)
        above = _interval(1e3 * (here - there), 1e3 * (own - other))
    return Comparison(
        edgeclin=distribution(ours.ravel()),
        bare=distribution(bare.ravel()),
        ratio=ratio,
        above_us=above,
        blocks=len(ours),
        method=f"{len(ours)} blocks of {BLOCK} runs of each side in turn, each with one run before "
        "it that is not counted; ratio and difference are of the medians of the blocks' medians, "
        "their 99 % intervals of resampled pairs of blocks",
    )


def _interval(value: float, resampled: np.ndarray) -> Interval:
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Interval(value, float(low), float(high))
