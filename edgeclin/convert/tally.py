"""The error and the extremes of one tensor, taken sample by sample: no tensor is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, log10

import numpy as np

from edgeclin.convert.layers import EXACT_DB, WEAK, Error


class Tally:
    """Sums over the values of one tensor, channel by channel, float model against engine.

    Args:
        channel_axis: of tensors that have so many axes; others count as one channel.
    """

    def __init__(self, channel_axis: int) -> None:
        self._channel_axis = channel_axis
        self._values = 0
        self._both = 0.0
        self._answer = 0.0
        self._signal: np.ndarray | float = 0.0
        self._noise: np.ndarray | float = 0.0

    def add(self, expected: np.ndarray, found: np.ndarray) -> None:
        """Take in one sample.

        Args:
            expected, found: float32 [1, …] with the same number of values.
        """
        expected = expected.astype(np.float64)  # squares of float32 may be none
        found = found.reshape(expected.shape).astype(np.float64)
        self._values += expected.size
        self._both += float(np.vdot(expected, found))
        self._answer += float(np.vdot(found, found))
        self._signal = self._signal + self._by_channel(expected)
        self._noise = self._noise + self._by_channel(expected - found)

    def _by_channel(self, values: np.ndarray) -> np.ndarray:
        """Sums of squares, float64 [channels]."""
        squares = np.square(values)
        if not -values.ndim <= self._channel_axis < values.ndim:
            return squares.sum(dtype=np.float64, keepdims=True).ravel()
        one = self._channel_axis % values.ndim
        others = tuple(axis for axis in range(values.ndim) if axis != one)
        return squares.sum(axis=others).astype(np.float64)

    @property
    def error(self) -> Error | None:
        """None before the first sample."""
        if not self._values:
            return None
        signals, noises = np.atleast_1d(self._signal), np.atleast_1d(self._noise)
        signal, noise = float(signals.sum()), float(noises.sum())
        alive = [
            _decibel(*channel)
            for channel in zip(signals.tolist(), noises.tolist(), strict=True)
            if channel[0] > 0
        ]
        sizes = (signal * self._answer) ** 0.5
        return Error(
            sqnr_db=_decibel(signal, noise),
            channel_db=float(np.percentile(alive, WEAK)) if alive else _decibel(signal, noise),
            mse=noise / self._values,
            cosine=self._both / sizes if sizes else float(signal == self._answer),
        )


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return EXACT_DB
    if signal == 0 or not isfinite(noise):
        return -EXACT_DB
    return min(max(10 * log10(signal / noise), -EXACT_DB), EXACT_DB)


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
        """The range of all values, in widths of the narrowest place along any axis; constant ones
        do not count."""
        low, high = self.range
        narrowest = [float(widths.min()) for widths in map(_widths, self._ends) if len(widths)]
        return max(((high - low) / width for width in narrowest), default=1.0)


def _but(extreme: Callable[..., np.ndarray], values: np.ndarray, axis: int) -> np.ndarray:
    one = axis % values.ndim
    return extreme(values, axis=tuple(other for other in range(values.ndim) if other != one))


def _widths(ends: np.ndarray) -> np.ndarray:
    widths = ends[1] - ends[0]
    return widths[widths > 0]
