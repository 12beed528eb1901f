"""What a scenario takes down of every sample, and when it ends."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from edgeclin.benchmark.percentiles import Distribution, distribution, ranks
from edgeclin.records import Record, Result

STEPS = ("waiting", "preprocess", "engine", "postprocess", "other", "storing")
"""In the order in which a sample meets them; `other` is what lies between them."""
_TOLD_S = 0.2

Progress = Callable[[float], None]
"""Told the share that is done, between samples."""


class Step(Record, frozen=True):
    """What one step takes of a sample, in milliseconds."""

    name: str
    mean_ms: float
    p50_ms: float


class Series(Record, frozen=True):
    """Latencies of one kind."""

    name: str
    latency: Distribution


@dataclass(slots=True)
class Limit:
    """When a scenario ends: after so many seconds, or so many samples, or when it is stopped."""

    seconds: float
    samples: int | None
    stop: threading.Event
    progress: Progress = lambda share: None
    _began: float = field(default_factory=time.monotonic)
    _told: float = 0.0

    def reached(self, taken: int) -> bool:
        """Whether to end before the next sample; tells the progress now and then."""
        now = time.monotonic()
        spent = now - self._began
        share = spent / self.seconds if self.samples is None else taken / self.samples
        if now - self._told > _TOLD_S:
            self._told = now
            self.progress(min(1.0, share))
        return share >= 1.0 or self.stop.is_set()


@dataclass(slots=True)
class Taken:
    """Of every sample, in milliseconds, in the order of the answers.

    Attributes:
        answer: until there is an answer, from the sample's (scheduled) arrival on.
        stored: until the queue has it.
        tiers: of each answer.
        unanswered: samples that were never taken.
    """

    answer: list[float] = field(default_factory=list)
    stored: list[float] = field(default_factory=list)
    tiers: list[str] = field(default_factory=list)
    steps: dict[str, list[float]] = field(default_factory=lambda: {step: [] for step in STEPS})
    unanswered: int = 0
    seconds: float = 0.0

    def add(self, result: Result, waiting: float, total: float, storing: float) -> None:
        """Take down one answer.

        Args:
            waiting, total, storing: milliseconds until it was taken, in all, and in the queue.
        """
        latency = result.latency_ms
        assert latency is not None
        known = (waiting, latency.preprocess, latency.engine, latency.postprocess)
        values = (*known, max(0.0, total - sum(known) - storing), storing)
        for name, value in zip(STEPS, values, strict=True):
            self.steps[name].append(value)
        self.answer.append(total - storing)
        self.stored.append(total)
        self.tiers.append(result.tier.value)

    def series(self) -> Iterator[Series]:
        """The latencies: to the answer, until stored, and of storing alone by tier."""
        if not self.answer and not self.unanswered:
            return
        yield Series("answered", distribution(self.answer, self.unanswered))
        yield Series("answered and stored", distribution(self.stored, self.unanswered))
        tiers = np.array(self.tiers)
        storing = np.array(self.steps["storing"])
        for tier in sorted(set(self.tiers)):
            yield Series(f"storing, {tier}", distribution(storing[tiers == tier]))

    def means(self) -> tuple[Step, ...]:
        """Each step's part."""
        if not self.answer:
            return ()
        return tuple(
            Step(name, float(np.mean(values)), float(np.median(values)))
            for name, values in self.steps.items()
            if any(values)
        )


class Rate(Record, frozen=True):
    """Samples a second: the median of the parts of a run, with its 99 % interval (see
    `edgeclin.benchmark.percentiles`); None where there were too few parts."""

    value: float
    low: float | None
    high: float | None
    samples: int
    seconds: float


def rate(rates: Sequence[float], samples: int, seconds: float) -> Rate:
    """Sum up the rates of the parts of a run."""
    enclosing = ranks(len(rates), 0.5)
    if not rates or enclosing is None:
        return Rate(samples / seconds if seconds else 0.0, None, None, samples, seconds)
    low, high = (sorted(rates)[rank - 1] for rank in enclosing)
    return Rate(float(np.median(rates)), low, high, samples, seconds)


class Collections(Record, frozen=True):
    """Runs of Python's garbage collector within what was measured; it stays on, as at work."""

    count: int
    longest_ms: float


@contextmanager
def collections() -> Iterator[Callable[[], Collections]]:
    """Count the garbage collector's runs in the block."""
    spent: list[float] = []
    began = 0.0

    def note(phase: str, _: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        else:
            spent.append(1e3 * (time.perf_counter() - began))

    gc.callbacks.append(note)
    try:
        yield lambda: Collections(len(spent), max(spent, default=0.0))
    finally:
        gc.callbacks.remove(note)
