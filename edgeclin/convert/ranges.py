"""The range of each tensor of a float model: statistics of one pass, and methods that read them.

One pass over the calibration samples keeps, for each tensor, its exact extremes and a histogram;
memory does not grow with the number of samples. Every method chooses its ranges from the same
statistics, so that several can be compared at the price of one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from math import gcd, isfinite
from pathlib import Path

import numpy as np

from edgeclin.errors import ConversionFailed
from edgeclin.records import Record

BINS = 2048
_SEEN = 1 << 14
"""Values of a tensor that one sample adds to its histogram; its extremes are those of all."""
_TAIL = 5e-5
"""Share of values that `percentile` clips at each end: 99.99 % stay."""
_LEAST_WIDTH = 1e-30
_STEPS = 256
_SHRINK = np.linspace(0.3, 1.0, 71)
"""Parts of the full range that `mse` and `entropy` try."""


class Method(str, Enum):
    """How a range is chosen from what was seen."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    MSE = "mse"
    ENTROPY = "entropy"


class Range(Record, frozen=True):
    """The extremes that calibration saw of a tensor, and the range that was chosen."""

    tensor: str
    low: float
    high: float
    chosen: tuple[float, float]


class Histogram:
    """Values of one tensor: exact extremes, and counts over bins that widen as they must.

    Attributes:
        low, high: the extremes of all values.
        halves: the same of samples with an even and with an odd number, [2, 2].
        counts: [BINS] between `edges`.
    """

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self.halves = np.array([[np.inf, -np.inf], [np.inf, -np.inf]])
        self.counts = np.zeros(BINS)
        self.edges = (0.0, 0.0)

    def add(self, values: np.ndarray, number: int) -> None:
        """Take in the values of one sample.

        Args:
            values: float32 of any shape.
            number: of the sample, from 0.

        Raises:
            ValueError: a value is not finite.
        """
        low, high = float(values.min()), float(values.max())
        if not (isfinite(low) and isfinite(high)):
            raise ValueError("not finite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        half = self.halves[number % 2]
        half[:] = min(half[0], low), max(half[1], high)
        step = _stride(values)
        self._count(values.ravel()[number % step :: step], low, high)

    def _count(self, values: np.ndarray, low: float, high: float) -> None:
        left, right = self.edges
        if left == right:
            self.edges = left, right = _padded(low, high)
        while low < left or high > right:
            left, right = self._widen(low < left)
        index = ((values.astype(np.float64) - left) * (BINS / (right - left))).astype(np.int64)
        self.counts += np.bincount(np.clip(index, 0, BINS - 1), minlength=BINS)

    def _widen(self, to_the_left: bool) -> tuple[float, float]:
        """Twice the width: two bins become one."""
        left, right = self.edges
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        nothing = np.zeros(BINS // 2)
        if to_the_left:
            left -= right - left
            self.counts = np.concatenate([nothing, merged])
        else:
            right += right - left
            self.counts = np.concatenate([merged, nothing])
        self.edges = left, right
        return self.edges

    def range(self, method: Method, symmetric: bool = False) -> tuple[float, float]:
        """The range [low, high] that a method chooses; it always holds zero.

        Args:
            symmetric: whether the integers will reach as far below zero as above it, so that of
                a ReLU's values half of the steps are lost.
        """
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if method is Method.MIN_MAX or low == high:
            return low, high
        centres = self._centres()
        if method is Method.PERCENTILE:
            share = np.cumsum(self.counts) / self.counts.sum()
            ends = np.minimum(np.searchsorted(share, [_TAIL, 1 - _TAIL]), BINS - 1)
            least, most = centres[ends].tolist()
            return max(low, min(least, 0.0)), min(high, max(most, 0.0))
        loss = _squared_error if method is Method.MSE else _divergence
        left, right = (min(low, -high), max(high, -low)) if symmetric else (low, high)
        losses = [loss(self.counts, centres, left * part, right * part) for part in _SHRINK]
        best = float(_SHRINK[int(np.argmin(losses))])
        return low * best, high * best

    def _centres(self) -> np.ndarray:
        left, right = self.edges
        return left + (np.arange(BINS) + 0.5) * ((right - left) / BINS)


def _stride(values: np.ndarray) -> int:
    """Which values a histogram counts: every so many, at most about `_SEEN`.

    It shares no factor with the last axis, where it would meet some channels only.
    """
    step, channels = max(1, values.size // _SEEN), values.shape[-1] if values.ndim else 1
    while gcd(step, channels) > 1:
        step += 1
    return step


def _padded(low: float, high: float) -> tuple[float, float]:
    width = max(high - low, 1e-6 * max(-low, high), _LEAST_WIDTH)
    return low - 0.05 * width, high + 0.05 * width


def _squared_error(counts: np.ndarray, centres: np.ndarray, low: float, high: float) -> float:
    """Expected squared error of quantising to 8 bits: rounding within, clipping without.

    Zeros, of which a ReLU makes most, are kept exactly.
    """
    rounding = np.where(_zero(centres), 0.0, ((high - low) / (_STEPS - 1)) ** 2 / 12)
    clipping = (centres - np.clip(centres, low, high)) ** 2
    return float((counts * np.where(_inside(centres, low, high), rounding, clipping)).sum())


def _inside(centres: np.ndarray, low: float, high: float) -> np.ndarray:
    """Bins within the range or on its edge."""
    width = centres[1] - centres[0]
    return (centres >= low - width) & (centres <= high + width)


def _zero(centres: np.ndarray) -> np.ndarray:
    """The bin that holds zero."""
    return np.abs(centres) <= (centres[1] - centres[0]) / 2


def _divergence(counts: np.ndarray, centres: np.ndarray, low: float, high: float) -> float:
    """Kullback-Leibler divergence between the values and what is left of them after quantising.

    The values beyond the range count at its ends, and zeros, of which a ReLU makes most, do not
    count at all: every range keeps them exactly (Migacz, "8-bit inference with TensorRT", 2017).
    """
    counts = np.where(_zero(centres), 0.0, counts)
    step = np.clip(np.rint((centres - low) / ((high - low) / (_STEPS - 1))), 0, _STEPS - 1)
    inside = _inside(centres, low, high)
    if not counts[inside].any():
        return float("inf")
    level = step.astype(np.int64)
    kept = np.bincount(level[inside], counts[inside], _STEPS)
    occupied = np.bincount(level[inside], counts[inside] > 0, _STEPS)
    spread = np.divide(kept, occupied, out=np.zeros(_STEPS), where=occupied > 0)
    after = np.where(inside & (counts > 0), spread[level], 0.0)
    before = np.where(inside, counts, 0.0)
    first, last = inside.argmax(), BINS - 1 - inside[::-1].argmax()
    before[first] += counts[:first].sum()
    before[last] += counts[last + 1 :].sum()
    p = (before + 1e-9) / (before + 1e-9).sum()
    q = (after + 1e-9) / (after + 1e-9).sum()
    return float((p * np.log(p / q)).sum())


class Statistics:
    """Histograms of every tensor of a model, by name."""

    def __init__(self) -> None:
        self.tensors: dict[str, Histogram] = {}
        self.samples = 0

    def add(self, values: Iterable[tuple[str, np.ndarray]]) -> None:
        """Take in all tensors of one sample.

        Raises:
            ConversionFailed: a tensor is not finite; names it and the sample.
        """
        for name, tensor in values:
            try:
                self.tensors.setdefault(name, Histogram()).add(tensor, self.samples)
            except ValueError as exc:
                raise ConversionFailed(
                    f"calibration sample {self.samples}: tensor {name} of the float model is {exc}"
                ) from exc
        self.samples += 1

    def ranges(self, method: Method, symmetric: bool = False) -> dict[str, tuple[float, float]]:
        """The range of each tensor, see `Histogram.range`."""
        return {name: tensor.range(method, symmetric) for name, tensor in self.tensors.items()}

    def chosen(self, method: Method, symmetric: bool = False) -> tuple[Range, ...]:
        """The same beside what was seen, in the order in which the model computes them."""
        return tuple(
            Range(name, tensor.low, tensor.high, tensor.range(method, symmetric))
            for name, tensor in self.tensors.items()
        )

    def save(self, path: Path) -> None:
        """All of it as one `.npz` file."""
        found = list(self.tensors.values())
        np.savez(
            path,
            samples=self.samples,
            names=np.array(list(self.tensors)),
            extremes=np.array([(tensor.low, tensor.high) for tensor in found]),
            halves=np.array([tensor.halves for tensor in found]),
            counts=np.array([tensor.counts for tensor in found]),
            edges=np.array([tensor.edges for tensor in found]),
        )

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """What `save` wrote."""
        statistics = cls()
        with np.load(path) as arrays:
            statistics.samples = int(arrays["samples"])
            columns = [arrays[key] for key in ("names", "extremes", "halves", "counts", "edges")]
        for name, (low, high), halves, counts, (left, right) in zip(*columns, strict=True):
            tensor = statistics.tensors[str(name)] = Histogram()
            tensor.low, tensor.high = float(low), float(high)
            tensor.halves, tensor.counts = halves, counts
            tensor.edges = float(left), float(right)
        return statistics

    def instability(self) -> float:
        """How far the two halves of the samples disagree: the median over all tensors of the
        largest difference between their extremes, relative to the tensor's full range.

        1 for a single sample, of which nothing is known: one half saw nothing.
        """
        if self.samples < 2:
            return 1.0
        found = [
            float(np.abs(tensor.halves[0] - tensor.halves[1]).max() / (tensor.high - tensor.low))
            for tensor in self.tensors.values()
            if tensor.high > tensor.low and np.isfinite(tensor.halves).all()
        ]
        return float(np.median(found)) if found else 0.0


def write_ranges(path: Path, ranges: Mapping[str, tuple[float, float]]) -> None:
    """One array [tensors, 2] and their names, as `.npz`."""
    np.savez(path, names=np.array(list(ranges)), ranges=np.array(list(ranges.values())))


def read_ranges(path: Path) -> dict[str, tuple[float, float]]:
    """What `write_ranges` wrote."""
    with np.load(path) as arrays:
        names, ranges = arrays["names"].tolist(), arrays["ranges"].tolist()
    return {name: (low, high) for name, (low, high) in zip(names, ranges, strict=True)}
