"""A column of times: how fine they are written, whether they are even, which rate they tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLOCK = 0.001
"""What a recorder's clock may be off."""
FASTEST_HZ = 20_000
"""More samples at one time are of a clock that stands still."""
_LEAST_EXACT = 0.005
"""A rate is told where rounding makes it less wrong than this."""
_LEAST_SAMPLES = 20
_PLACES = 9
_NOISE = 0.01
"""Of a place: what arithmetic with rounded times leaves, even of seconds since 1970 in ms."""
_ROUNDING = 1 + 1e-6


@dataclass(frozen=True, slots=True)
class Jump:
    """Between the samples `at` and `at + apart` the time goes on by `by`, elsewhere by `usual`."""

    at: int
    apart: int
    by: float
    usual: float

    def __str__(self) -> str:
        between = f"between samples {self.at} and {self.at + self.apart} the time goes"
        if self.by < 0:
            return f"{between} back by {-self.by:.4g}"
        return f"{between} on by {self.by:.4g}, elsewhere by {self.usual:.4g}"


def resolution(times: np.ndarray) -> float:
    """To what times are rounded: a power of ten of at most 1, or 0 where there is none of up to
    nine decimals. Of a magnitude all are rounded alike, and the coarsest counts: numbers of so many
    digits get coarser as they grow.

    Args:
        times: finite, float64 [n].
    """
    sizes = np.abs(times[times != 0])
    magnitudes = np.floor(np.log10(sizes))
    units = [
        (_resolution(sizes[magnitudes == one]), int((magnitudes == one).sum()))
        for one in np.unique(magnitudes)
    ]
    known = [unit for unit, count in units if count >= _LEAST_SAMPLES]
    return max(known, default=min((unit for unit, _ in units), default=1.0))


def _resolution(sizes: np.ndarray) -> float:
    for place in range(_PLACES + 1):
        scaled = sizes * 10.0**place
        if (np.abs(scaled - np.round(scaled)) < _NOISE).all():
            return float(10.0**-place)
    return 0.0


def jump(times: np.ndarray, unit: float) -> Jump | None:
    """Where the time goes back, stands still or has a gap; None where it is even.

    Times of one rate that are rounded to `unit` go on by the same over so many samples anywhere, to
    a unit. On top of that each may be off by half a sample, and the clock by `CLOCK`. So what is
    lost or doubled does not show where it takes less time than a unit.
    """
    if len(times) < 2:
        return None
    for apart in (1, *(4**power for power in range(1, 16) if 4 * 4**power <= len(times))):
        off = _off(times, apart, unit)
        if off.any():
            at, by = int(off.argmax()), times[apart:] - times[:-apart]
            return Jump(at, apart, float(by[at]), float(np.median(by)))
    return None


def _off(times: np.ndarray, apart: int, unit: float) -> NDArray[np.bool_]:
    """Which times go on by another amount than the usual one over so many samples, or go back."""
    by = times[apart:] - times[:-apart]
    usual = float(np.median(by))
    room = max(usual / apart / 2, unit) * _ROUNDING + CLOCK * abs(usual) * (apart > 1)
    return np.asarray((np.abs(by - usual) > room) | (by < 0))


def rate(times: np.ndarray, unit: float, unit_s: float) -> tuple[float | None, float]:
    """Samples a second of the longest stretch without a gap, and by which share that may be wrong;
    None where nothing tells.

    Args:
        unit_s: seconds in one of the times' units.
    """
    if len(times) < _LEAST_SAMPLES:
        return None, 0.0
    gaps = np.flatnonzero(_off(times, 1, unit))
    edges = np.concatenate([[0], gaps + 1, [len(times)]])
    longest = int(np.diff(edges).argmax())
    stretch = times[edges[longest] : edges[longest + 1]]
    took = float(stretch[-1] - stretch[0])
    if not took > 0 or len(stretch) < _LEAST_SAMPLES or unit > _LEAST_EXACT * took:
        return None, 0.0
    if jump(stretch, unit) is not None:
        return None, 0.0
    even = np.linspace(stretch[0], stretch[-1], len(stretch))
    jitter = max(float(np.abs(stretch - even).max()) - unit, 0.0)
    return (len(stretch) - 1) / (took * unit_s), CLOCK + (unit + 2 * jitter) / took
