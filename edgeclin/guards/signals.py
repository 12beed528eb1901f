"""What is measured of a raw signal, in one pass over it."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from edgeclin.errors import BadInput


class LeadsOff(BadInput):
    """Some leads of a signal have no variation, `count` of them."""

    def __init__(self, lows: np.ndarray, flat: NDArray[np.int64]) -> None:
        self.count = len(flat)
        named = ", ".join(f"{lead} at {lows[lead]:g}" for lead in flat.tolist())
        super().__init__(f"flat throughout: lead {named} (counted from 0); is it off?")


def measure_signal(sample: np.ndarray, flat_leads: int) -> tuple[float, ...]:
    """Lowest and highest value; the spread (highest minus lowest) of the narrowest lead; the
    roughness of the roughest, which is the root mean square of the differences between neighbours
    over the lead's standard deviation (von Neumann 1941; white noise has 1.41); the longest stretch
    of equal values, and the share of values at a rail (the lead's own lowest or highest), of the
    lead where it is largest. The last two are 0 where no two neighbours are equal.

    Args:
        sample: [samples] or [samples, leads]; of two axes the longer one is time.
        flat_leads: how many leads may be without any variation.

    Raises:
        LeadsOff: more leads are.
        BadInput: all of them are: nothing is there to judge.
    """
    value = np.asarray(sample, np.float64)
    if value.ndim > 1:
        value = value.squeeze()
        if value.ndim > 1:
            return _measure_leads(value.reshape(len(value), -1), flat_leads)
    # An argmin and an item take a quarter of the time of a minimum.
    low, high = value.item(value.argmin()), value.item(value.argmax())
    if low == high:
        raise BadInput(f"a flat line: all {value.size} values are {low:g}; is the lead off?")
    spread = high - low
    steps = value[1:] - value[:-1]
    moved = value - low
    roughness = _ratio(steps.dot(steps) / steps.size, moved.dot(moved), moved.sum(), moved.size)
    if np.count_nonzero(steps) == steps.size:
        return low, high, spread, roughness, 0.0, 0.0
    return low, high, spread, roughness, *_plateaus(value, steps, low, high)


def _measure_leads(value: np.ndarray, flat_leads: int) -> tuple[float, ...]:
    if value.shape[0] > value.shape[1]:
        value = np.ascontiguousarray(value.T)
    lows, highs = value.min(axis=1), value.max(axis=1)
    spreads = highs - lows
    flat = np.flatnonzero(lows == highs)
    if len(flat) == len(value):
        raise BadInput(f"flat lines: none of {len(value)} leads varies; are they off?")
    if len(flat) > flat_leads:
        raise LeadsOff(lows, flat)
    alive = np.flatnonzero(lows < highs)
    steps = value[:, 1:] - value[:, :-1]
    power = np.einsum("ij,ij->i", steps, steps)[alive] / steps.shape[1]
    deviations = value[alive].std(axis=1)
    plateaus = [
        _plateaus(value[lead], steps[lead], lows[lead], highs[lead])
        for lead in alive.tolist()
        if np.count_nonzero(steps[lead]) < steps.shape[1]
    ]
    return (
        float(lows.min()),
        float(highs.max()),
        float(spreads[alive].min()),
        float((np.sqrt(power) / deviations).max()),
        max((stretch for stretch, _ in plateaus), default=0.0),
        max((rails for _, rails in plateaus), default=0.0),
    )


def _ratio(power: float, squares: float, total: float, n: int) -> float:
    """The root of a mean square over a standard deviation, this from sums of n values."""
    variance = squares / n - (total / n) ** 2
    return sqrt(power / variance) if variance > 0 else 0.0


def _plateaus(
    value: np.ndarray, steps: NDArray[np.float64], low: float, high: float
) -> tuple[float, float]:
    """The longest stretch of equal values and the values at a rail, as shares of all."""
    changes = np.flatnonzero(steps)
    inner = int((changes[1:] - changes[:-1]).max()) if len(changes) > 1 else 0
    longest = max(inner, int(changes[0]) + 1, value.size - 1 - int(changes[-1]))
    rails = np.count_nonzero(value == low) + np.count_nonzero(value == high)
    return longest / value.size, float(rails / value.size)
