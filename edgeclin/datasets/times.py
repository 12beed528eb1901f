"""A column of times: how fine they are written, whether they are even, which rate they tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite

import numpy as np
from numpy.typing import NDArray

CLOCK = 0.001
"""What a recorder's clock may be off."""
_LEAST_EXACT = 0.005
"""A rate is told where rounding makes it less wrong than this."""
_ROWS = 2000
"""So many, drawn at random, tell how fine all are."""
_ENOUGH = 20
_ROUNDING = 1 + 1e-6


@dataclass(frozen=True, slots=True)
class Jump:
    """Between the samples `at` and `at + apart` the time goes on by `by`, elsewhere by `usual`."""

    at: int
    apart: int
    by: float
    usual: float

    def __str__(self) -> str:
        return (
            f"between samples {self.at} and {self.at + self.apart} the time goes on by "
            f"{self.by:.4g}, elsewhere by {self.usual:.4g}"
        )


def resolution(cells: Sequence[str]) -> float:
    """To what times are rounded: the last place that the ones of a magnitude use, of the magnitude
    where it is coarsest, for numbers of so many digits get coarser as they grow. At most 1.

    Raises:
        ValueError: one is not a number.
    """
    draw = np.random.default_rng(0).permutation(len(cells))[:_ROWS].tolist()
    last: dict[int, list[int]] = {}
    for at in draw:
        value = float(cells[at])
        if value and isfinite(value):
            number = Decimal(repr(value)).normalize()
            last.setdefault(number.adjusted(), []).append(int(number.as_tuple().exponent))
    known = [min(places) for places in last.values() if len(places) >= _ENOUGH]
    finest = min((min(places) for places in last.values()), default=0)
    return float(10.0 ** min(max(known, default=finest), 0))


def jump(times: np.ndarray, unit: float) -> Jump | None:
    """Where the time goes back, stands still or has a gap; None where it is even.

    Times of one rate that are rounded to `unit` go on by the same over so many samples anywhere, to
    a unit. On top of that each may be off by half a sample, and the clock by `CLOCK`. So single
    samples that are lost or doubled do not show where times are written no finer than samples are
    apart: fewer of them than `CLOCK` in the long run look like a clock that is off.
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
    if not np.isfinite(times).all() or len(times) < 2:
        return None, 0.0
    gaps = np.flatnonzero(_off(times, 1, unit))
    edges = np.concatenate([[0], gaps + 1, [len(times)]])
    longest = int(np.diff(edges).argmax())
    stretch = times[edges[longest] : edges[longest + 1]]
    took = float(stretch[-1] - stretch[0])
    if not took > 0 or unit > _LEAST_EXACT * took or jump(stretch, unit) is not None:
        return None, 0.0
    return (len(stretch) - 1) / (took * unit_s), CLOCK + unit / took
