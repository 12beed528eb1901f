"""Percentiles that say how sure they are, and none where too few samples were taken.

The value is the order statistic of nearest rank. Its interval holds whatever the distribution: how
many of n samples lie below the true q-quantile is binomial, so two order statistics enclose it
with at least the stated level (David and Nagaraja, Order Statistics, 2003, section 7.1). It takes
samples as independent; a machine whose speed changes meanwhile breaks that, which `moved` tells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeclin.records import Record

LEVEL = 0.99
"""Two-sided level of every interval of a benchmark: MLPerf's confidence."""
WANTED = (0.5, 0.9, 0.95, 0.99)
_HALVES = 0.05
"""Medians of two halves that are further apart than this say that the machine was not steady."""


class Percentile(Record, frozen=True):
    """The `q`-quantile of latencies in milliseconds, with its interval.

    All three are None where `n` samples are fewer than `needs`, or where it lies among those that
    were never answered.
    """

    q: float
    value_ms: float | None
    low_ms: float | None
    high_ms: float | None
    n: int
    needs: int

    @property
    def name(self) -> str:
        return f"p{100 * self.q:g}"

    @property
    def said(self) -> str:
        """In words: the value with its interval, or why there is none."""
        if self.n < self.needs:
            return f"too few samples ({self.n:,}, needs {self.needs:,})"
        if self.value_ms is None:
            return "not answered"
        high = "not answered" if self.high_ms is None else digits(self.high_ms)
        return f"{digits(self.value_ms)} [{digits(self.low_ms or 0.0)}, {high}]"


class Distribution(Record, frozen=True):
    """Latencies of one kind, in milliseconds.

    Attributes:
        unanswered: samples that were still waiting when the run ended; they count as slower than
            all others. `mean_ms` and `max_ms` are of the others.
        steady: False when the medians of the first and the second half are over 5 % apart.
    """

    n: int
    mean_ms: float
    min_ms: float
    max_ms: float
    percentiles: tuple[Percentile, ...]
    unanswered: int = 0
    steady: bool = True

    def at(self, q: float) -> Percentile:
        """The percentile of that share."""
        return next(one for one in self.percentiles if one.q == q)


def needed(q: float, level: float = LEVEL) -> int:
    """Samples from which on the interval of the `q`-quantile exists.

    The smallest n for which the extremes of n samples enclose it: q^n and (1-q)^n are both at most
    (1 - level) / 2. At 99 %: 8 for the median, 51 for p90, 104 for p95, 528 for p99.
    """
    tail = math.log((1 - level) / 2)
    return math.ceil(max(tail / math.log(q), tail / math.log(1 - q)))


def ranks(n: int, q: float, level: float = LEVEL) -> tuple[int, int] | None:
    """The ranks, from 1, of the order statistics that enclose the `q`-quantile; None if too few."""
    if n < needed(q, level):
        return None
    below = _binomial_cdf(n, q)
    tail = (1 - level) / 2
    low = int(np.searchsorted(below, tail, side="right"))
    high = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    return max(1, low), min(n, high)


def distribution(latencies_ms: Sequence[float] | np.ndarray, unanswered: int = 0) -> Distribution:
    """Summarise latencies in the order in which they were measured, at least one."""
    values = np.asarray(latencies_ms, dtype=np.float64)
    n = len(values) + unanswered
    ordered = np.concatenate([np.sort(values), np.full(unanswered, np.inf)])
    return Distribution(
        n=n,
        mean_ms=float(values.mean()) if len(values) else 0.0,
        min_ms=float(values.min()) if len(values) else 0.0,
        max_ms=float(values.max()) if len(values) else 0.0,
        percentiles=tuple(_percentile(ordered, q) for q in WANTED),
        unanswered=unanswered,
        steady=not moved(values),
    )


def moved(values: np.ndarray) -> bool:
    """Whether the medians of the halves of a series are over 5 % apart."""
    if len(values) < 2 * needed(0.5):
        return False
    first, second = (float(np.median(half)) for half in np.array_split(values, 2))
    return abs(first - second) > _HALVES * min(first, second)


def digits(value_ms: float) -> str:
    """Milliseconds to three significant digits or the microsecond."""
    return (
        f"{value_ms:.3f}"
        if value_ms < 10
        else f"{value_ms:.2f}"
        if value_ms < 100
        else (f"{value_ms:,.1f}")
    )


def _percentile(ordered: np.ndarray, q: float) -> Percentile:
    n, needs = len(ordered), needed(q)
    found = ranks(n, q)
    if found is None:
        return Percentile(q, None, None, None, n, needs)
    rank = max(1, math.ceil(q * n - 1e-9))
    value, low, high = (_finite(ordered[at - 1]) for at in (rank, *found))
    return Percentile(q, value, low, high, n, needs)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _binomial_cdf(n: int, q: float) -> np.ndarray:
    """P(B <= k) for k = 0 … n of B ~ Bin(n, q), from the ratios of neighbouring probabilities."""
    k = np.arange(n, dtype=np.float64)
    steps = np.log((n - k) / (k + 1)) + math.log(q / (1 - q))
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    weights = np.exp(logs - logs.max())
    total: np.ndarray = np.cumsum(weights) / weights.sum()
    return total
