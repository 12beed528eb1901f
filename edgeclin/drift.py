"""Whether what a device sees and answers is still what its bundle was validated on.

A sample counts once in each quantity: with each of its guard's measures, with one raw value at a
place that changes from sample to sample, with its confidence and with its label. Values of one
sample resemble each other, so that counting all of them would make noise look like drift.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from math import log, sqrt
from pathlib import Path
from statistics import NormalDist
from typing import TypeAlias

import numpy as np

from edgeclin.errors import BadFile
from edgeclin.health import DriftReport, Shift
from edgeclin.manifest import MEASURES
from edgeclin.records import Record, load_json

SCHEMA = 1
FILE = "drift.json"
SHARE = 0.01
"""Of the time that answering takes, which counting may take."""
RECENT = 500
_TOGETHER = 20
"""Samples that are counted at once, a part of RECENT: what takes 25 us after an engine has filled
the caches takes 3 us when it has just been done."""
_BINS = 10
_LEAST_IN_BIN = 10
_FALSE_ALARM = 0.01
_SOME, _MUCH = 0.1, 0.25
"""The rule of thumb of credit scoring, where the index comes from (Siddiqi 2006, "Credit Risk
Scorecards")."""
_PLACES = 2654435761
"""Knuth's multiplicative hash: places far apart from sample to sample."""


_Seen: TypeAlias = tuple[tuple[float, ...], int]
"""The quantities of a sample, and the index of its label."""


class Histogram(Record, frozen=True):
    """How often a quantity lay in each bin; a value at an edge belongs to the bin below it.

    Attributes:
        edges: between the bins, ascending; of labels none, whose bins are the labels.
    """

    quantity: str
    counts: tuple[int, ...]
    edges: tuple[float, ...] = ()


class Reference(Record, frozen=True):
    """`drift.json`: the validation samples, as the deployed engine answered them."""

    schema: int
    samples: int
    histograms: tuple[Histogram, ...]


def read_reference(data: bytes, path: Path, kind: str, labels: int) -> Reference:
    """The bytes of `drift.json` from a bundle at `path`.

    Args:
        kind: of the bundle's input.
        labels: how many the bundle has.

    Raises:
        BadFile: no reference of a known schema, or not of this input and these labels.
    """
    reference = load_json(data, Reference, path / FILE)
    if reference.schema != SCHEMA:
        raise BadFile(path / FILE, f"schema {reference.schema} is unknown; {SCHEMA} is read")
    found = reference.histograms
    expected = (*MEASURES[kind], "value", "confidence", "label")
    if tuple(one.quantity for one in found) != expected:
        raise BadFile(path / FILE, f"does not hold {', '.join(expected)}, in this order")
    for one in found:
        bins = labels if one.quantity == "label" else len(one.edges) + 1
        if len(one.counts) != bins or not sum(one.counts) or list(one.edges) != sorted(one.edges):
            raise BadFile(path / FILE, f"{one.quantity} is no histogram of {bins} bins")
    return reference


def place(index: int, size: int) -> int:
    """At which of a sample's values to look, where it is number `index`."""
    return index * _PLACES % size


def histogram(quantity: str, values: np.ndarray, tie: float = 0.0) -> Histogram:
    """Of values, float [n], with as many of them in each bin as their ties let.

    Args:
        tie: how far apart values are that count as one, and stay in one bin.
    """
    bins = min(_BINS, max(2, len(values) // _LEAST_IN_BIN))
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf"))
    edges = edges[np.diff(edges, append=np.inf) > tie] + tie / 2
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    return Histogram(quantity, tuple(counts.tolist()), tuple(edges.tolist()))


def label_histogram(labels: np.ndarray, count: int) -> Histogram:
    """Of answers, int [n] below `count`."""
    return Histogram("label", tuple(np.bincount(labels, minlength=count).tolist()))


class Drift:
    """Counts what is answered, and only as much of it as keeps its own time below `SHARE`.

    Args:
        reference: of the bundle, or None for one without, of which nothing is counted.
        clock: seconds that only go forward, to measure what counting costs.
    """

    def __init__(
        self, reference: Reference | None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._reference = reference
        self._clock = clock
        self._edges = [] if reference is None else [one.edges for one in reference.histograms[:-1]]
        self._all, self._before, self._now = self._empty(), self._empty(), self._empty()
        self._observed = self._in_now = 0
        self._waiting: list[_Seen] = []
        self._answered = 0
        self._credit = 0.0
        self._call = 0.0
        if reference is not None:
            self._call = self._cost_of_asking()

    def due(self, spent_s: float) -> bool:
        """Whether there is time to count the sample that was answered in `spent_s`."""
        self._answered += 1
        self._credit += spent_s * SHARE - self._call
        return self._credit >= 0.0 and self._reference is not None

    def observe(
        self, sample: np.ndarray, measures: Sequence[float], confidence: float, label: int
    ) -> None:
        """Count a sample.

        Args:
            sample: decoded but otherwise raw.
            measures: what its guard measured.
            label: the index of its answer.
        """
        started = self._clock()
        value = float(sample.item(place(self._answered, sample.size)))
        self._waiting.append(((*measures, value, confidence), label))
        if len(self._waiting) == _TOGETHER:
            if self._in_now == RECENT:
                self._before, self._now, self._in_now = self._now, self._empty(), 0
            self._observed += _TOGETHER
            self._in_now += _TOGETHER
            waiting, self._waiting = self._waiting, []
            self._count(waiting, self._all, self._now)
        self._credit -= self._clock() - started

    def report(self) -> DriftReport | None:
        """The shifts so far; None without a reference."""
        if self._reference is None:
            return None
        waiting = self._waiting.copy()
        before = self._empty() if waiting and self._in_now == RECENT else self._before
        recent = [
            [one + other for one, other in zip(*pair, strict=True)]
            for pair in zip(before, self._now, strict=True)
        ]
        everything = [own.copy() for own in self._all]
        self._count(waiting, everything, recent)
        return DriftReport(
            answered=self._answered,
            observed=self._observed + len(waiting),
            since_start=self._shifts(everything),
            recent=self._shifts(recent),
        )

    def _count(self, waiting: list[_Seen], *into: list[list[int]]) -> None:
        for values, label in waiting:
            for index, (edges, value) in enumerate(zip(self._edges, values, strict=True)):
                at = bisect_left(edges, value)
                for counts in into:
                    counts[index][at] += 1
            for counts in into:
                counts[-1][label] += 1

    def _shifts(self, counts: Sequence[Sequence[int]]) -> tuple[Shift, ...]:
        assert self._reference is not None
        known = self._reference.histograms
        if not sum(counts[0]):
            return ()
        return tuple(
            shift_of(one, seen, _FALSE_ALARM / len(known))
            for one, seen in zip(known, counts, strict=True)
        )

    def _empty(self) -> list[list[int]]:
        known = () if self._reference is None else self._reference.histograms
        return [[0] * len(one.counts) for one in known]

    def _cost_of_asking(self) -> float:
        calls = 100
        started = self._clock()
        for _ in range(calls):
            self.due(0.0)
        took = (self._clock() - started) / calls
        self._answered, self._credit = 0, 0.0
        return took


def shift_of(known: Histogram, seen: Sequence[int], risk: float) -> Shift:
    """How far counts are from a reference; `risk` is that of noise beyond either level."""
    reference, counts = np.array(known.counts), np.array(seen)
    n, m, bins = int(counts.sum()), int(reference.sum()), len(counts)
    p, q = ((own + 0.5) / (own.sum() + 0.5 * bins) for own in (counts, reference))
    psi = float(((p - q) * np.log(p / q)).sum())
    apart = 1 / n + 1 / m
    noise = _chi_squared(bins - 1, risk) * apart
    ks = None
    if known.edges:
        ks = float(np.abs(counts.cumsum() / n - reference.cumsum() / m).max())
    return Shift(
        quantity=known.quantity,
        n=n,
        psi=psi,
        psi_noise=noise,
        moved="none" if psi < _SOME else "some" if psi < _MUCH else "much",
        ks=ks,
        ks_noise=None if ks is None else sqrt(-log(risk / 2) / 2 * apart),
        alarm=psi >= _MUCH and psi > noise,
    )


def _chi_squared(degrees: int, risk: float) -> float:
    """What chi-squared exceeds with probability `risk` (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * degrees)
    return float(degrees * (1 - spread + NormalDist().inv_cdf(1 - risk) * sqrt(spread)) ** 3)
