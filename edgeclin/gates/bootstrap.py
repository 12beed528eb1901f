"""Intervals around figures of n samples, also where samples belong together or nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Statistic: TypeAlias = Callable[[np.ndarray], float]
"""A figure of n samples, of which each counts as often as its weight says, float [n]."""
Interval: TypeAlias = tuple[float, float]
RESAMPLES = 1000
SEED = 20261
_Z = 1.959964
"""The normal quantile of 97.5 %."""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How samples are drawn again.

    Attributes:
        n: how many there are.
        clusters: what each belongs to, such as its patient or recording, or None.
    """

    n: int
    clusters: tuple[str, ...] | None = None

    def interval(self, statistic: Statistic) -> Interval:
        """95 % percentile interval (Efron & Tibshirani 1993) from `RESAMPLES` resamples.

        Where samples belong together, whole clusters are drawn too, and the wider bounds count:
        what windows of one recording have in common is no more certain for their number.

        Resamples on which the statistic is not defined (of a few positives none was drawn) do not
        count.
        """
        found = _percentiles(statistic, self._samples)
        if self.clusters is None or len(set(self.clusters)) < 2:
            return found
        return wider(found, _percentiles(statistic, self._whole_clusters()))

    def _samples(self, generator: np.random.Generator) -> np.ndarray:
        return np.bincount(generator.integers(0, self.n, self.n), minlength=self.n)

    def _whole_clusters(self) -> Callable[[np.random.Generator], np.ndarray]:
        names, member = np.unique(np.array(self.clusters), return_inverse=True)

        def drawn(generator: np.random.Generator) -> np.ndarray:
            chosen = generator.integers(0, len(names), len(names))
            return np.bincount(chosen, minlength=len(names))[member]

        return drawn


def _percentiles(
    statistic: Statistic, draw: Callable[[np.random.Generator], np.ndarray]
) -> Interval:
    generator = np.random.default_rng(SEED)
    found = [statistic(draw(generator).astype(np.float64)) for _ in range(RESAMPLES)]
    defined = np.array(found)[~np.isnan(found)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def paired_interval(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Interval:
    """95 % interval of the change of a share, by what was won and lost on the same n samples.

    Bonett & Price 2012 (J. Educ. Behav. Stat. 37(4), 479-488): a sample more is counted as won and
    one as lost, so that nothing won and nothing lost on few samples proves little. A bootstrap has
    no width there.
    """
    n = len(before) + 2
    won = (int((after & ~before).sum()) + 1) / n
    lost = (int((before & ~after).sum()) + 1) / n
    change = won - lost
    half = _Z * float(np.sqrt((won + lost - change**2) / n))
    return change - half, change + half


def wider(*intervals: Interval) -> Interval:
    """The lowest and the highest bound."""
    lows, highs = zip(*intervals, strict=True)
    return min(lows), max(highs)


def mean_of(values: np.ndarray) -> Statistic:
    """The weighted mean of one value a sample, float [n]."""
    return lambda weights: float(weights @ values / weights.sum())


def everyone(n: int) -> np.ndarray:
    """The weights with which every sample counts once."""
    return np.ones(n)


def change_of(before: Statistic, after: Statistic) -> Statistic:
    """What a figure gains from one set of answers to another."""
    return lambda weights: after(weights) - before(weights)
