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
_LOST, _DOUBLED = (9, 0.1), (2, 0.01)
"""Steps, and of all steps: where more are no unit, they are the clock's, if it goes on evenly."""
_STRETCH = 128
"""Samples, or units where each holds several: what a line is laid through."""
_HALVINGS = 12


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
    steps = np.abs(np.diff(sizes))
    step = float(np.median(steps[steps > 0])) if steps.any() else 1.0
    for place in range(_PLACES + 1):
        scaled = sizes * 10.0**place
        near = _NOISE * min(1.0, step * 10.0**place)  # what the samples go on by is no noise
        if (np.abs(scaled - np.round(scaled)) < near).all():
            return float(10.0**-place)
    return 0.0


def coarse(times: np.ndarray, unit: float) -> bool:
    """Whether it is the clock that goes on by whole units, and not the samples.

    Samples a unit apart of which some were lost or doubled look like all those of a rate a little
    off; the less so, the more steps are no unit. Of any other step a loss makes one that shows.
    """
    units = np.rint(np.diff(times) / unit)
    if len(units) and np.median(units) != 1:
        return True
    others = np.count_nonzero(units != 1)
    few, share = _LOST if others and units.max() > 1 else _DOUBLED
    return bool(others > max(min(few, len(units) / 3), share * len(units)))


def jump(times: np.ndarray, unit: float) -> Jump | None:
    """Where the time goes back, stands still or has a gap; None where it is even.

    Times of one rate that are rounded to `unit` go on by the same over so many samples anywhere, to
    a unit, and lie as close to a line. On top of that each may be off by half a sample or, where
    one is longer than a unit, half of what it is longer, and the clock by `CLOCK`. So what is lost
    or doubled does not show where it takes less time than a unit, or where so few samples lie
    before or behind it that another rate fits as well.
    """
    if len(times) < 2:
        return None
    for apart in (1, *(4**power for power in range(1, 16) if 4 * 4**power <= len(times))):
        off = _off(times, apart, unit)
        if off.any():
            at, by = int(off.argmax()), times[apart:] - times[:-apart]
            return Jump(at, apart, float(by[at]), float(np.median(by)))
    return _bend(times, unit)


def _off(times: np.ndarray, apart: int, unit: float) -> NDArray[np.bool_]:
    """Which times go on by another amount than the usual one over so many samples, or go back."""
    by = times[apart:] - times[:-apart]
    usual = float(np.median(by))
    room = max(usual / apart / 2, unit) * _ROUNDING + CLOCK * abs(usual) * (apart > 1)
    return np.asarray((np.abs(by - usual) > room + _held(times)) | (by < 0))


def _bend(times: np.ndarray, unit: float) -> Jump | None:
    """Where no line is as close to the times as they are rounded: a loss moves all that follow,
    also where it makes no longer step than rounding does. Each stretch has a line of its own, from
    which the clock may be off."""
    step = (float(times[-1] - times[0]) + unit) / (len(times) - 1)
    length = min(len(times), int(_STRETCH * max(1.0, unit / step)))
    twice = 0.2 * unit  # what was rounded before, to a tenth of that
    spare = (step - unit if step > unit else max(step, twice)) / 2
    room = (unit + spare) * _ROUNDING + CLOCK * step * length / 4 + _held(times)
    starts = np.r_[0 : len(times) - length : max(length // 2, 1), len(times) - length]
    stretches = np.lib.stride_tricks.sliding_window_view(times, length)[starts]
    slope = (stretches[:, -1] - stretches[:, 0]) / (length - 1)
    half = np.full(len(slope), room / (length - 1))
    least = np.full(len(slope), np.inf)
    for _ in range(_HALVINGS):  # how wide the strip is that holds them is convex
        off = stretches - slope[:, None] * np.arange(length)
        high, low = off.argmax(axis=1), off.argmin(axis=1)
        least = np.minimum(least, np.ptp(off, axis=1))
        if (least <= room).all():
            return None
        half /= 2
        slope += np.where(high > low, 2 * half, -2 * half)
    worst = int((least > room).argmax())
    at, end = sorted((int(high[worst]), int(low[worst])))
    by = stretches[worst, end] - stretches[worst, at]
    return Jump(int(starts[worst]) + at, end - at, float(by), float(slope[worst] * (end - at)))


def _held(times: np.ndarray) -> float:
    """What is lost of the difference of two times, which float64 holds to so many digits."""
    return 2 * float(np.spacing(np.abs(times).max()))


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
