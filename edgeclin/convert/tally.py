"""The error of one tensor, summed up sample by sample: no tensor is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log10

import numpy as np

from edgeclin.convert.layers import EXACT_DB, Error


class Tally:
    """Sums over all values of one tensor, float model against engine."""

    def __init__(self) -> None:
        self._values = 0
        self._signal = self._answer = self._both = self._noise = 0.0

    def add(self, expected: np.ndarray, found: np.ndarray) -> None:
        """Take in one sample.

        Args:
            expected, found: float32 with the same number of values.
        """
        x, y = expected.ravel(), found.ravel()
        difference = x - y
        self._values += x.size
        self._signal += float(np.dot(x, x))
        self._answer += float(np.dot(y, y))
        self._both += float(np.dot(x, y))
        self._noise += float(np.dot(difference, difference))

    @property
    def error(self) -> Error | None:
        """None before the first sample."""
        if not self._values:
            return None
        sizes = (self._signal * self._answer) ** 0.5
        return Error(
            sqnr_db=_decibel(self._signal, self._noise),
            mse=self._noise / self._values,
            cosine=self._both / sizes if sizes else float(self._signal == self._answer),
        )


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return EXACT_DB
    if signal == 0 or not np.isfinite(noise):
        return -EXACT_DB
    return float(np.clip(10 * log10(signal / noise), -EXACT_DB, EXACT_DB))


class Extremes:
    """Extremes of a tensor as a whole, and of each place along some of its axes.

    Args:
        axes: the first of them is that of its channels; a tensor may have fewer.
    """

    def __init__(self, axes: Sequence[int]) -> None:
        self._axes = axes
        self._ends: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        """Take in one sample, float32 [1, …]."""
        axes = [axis for axis in self._axes if -values.ndim < axis < values.ndim] or [0]
        found = [
            np.stack([_but(np.min, values, axis), _but(np.max, values, axis)]) for axis in axes
        ]
        if not self._ends:
            self._ends = found
        for ends, new in zip(self._ends, found, strict=True):
            ends[0], ends[1] = np.minimum(ends[0], new[0]), np.maximum(ends[1], new[1])

    @property
    def range(self) -> tuple[float, float]:
        """Of all values."""
        return float(self._ends[0][0].min()), float(self._ends[0][1].max())

    @property
    def channel_spread(self) -> float:
        """The widest channel, in widths of the median one; constant ones do not count."""
        widths = _widths(self._ends[0])
        return float(widths.max() / np.median(widths)) if len(widths) else 1.0

    @property
    def mixture(self) -> float:
        """The widest place along any axis, in widths of the narrowest one on that axis."""
        found = [widths for widths in map(_widths, self._ends) if len(widths)]
        return max((float(widths.max() / widths.min()) for widths in found), default=1.0)


def _but(extreme: Callable[..., np.ndarray], values: np.ndarray, axis: int) -> np.ndarray:
    one = axis % values.ndim
    return extreme(values, axis=tuple(other for other in range(values.ndim) if other != one))


def _widths(ends: np.ndarray) -> np.ndarray:
    widths = ends[1] - ends[0]
    return widths[widths > 0]
