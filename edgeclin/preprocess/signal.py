"""Steps for signals: arrays [samples] or [samples, leads], time along the first axis."""

from __future__ import annotations

from math import gcd

import numpy as np

from edgeclin import steps
from edgeclin.errors import BadInput, MissingExtra


def resample(value: np.ndarray, step: steps.Resample) -> np.ndarray:
    """Polyphase resampling with scipy's Kaiser-windowed anti-aliasing filter.

    Returns:
        float64 [ceil(samples * to_hz / from_hz), …].
    """
    try:
        from scipy.signal import resample_poly
    except ImportError as exc:
        raise MissingExtra("scipy, which the step `resample` needs", "signal") from exc
    divisor = gcd(step.from_hz, step.to_hz)
    resampled: np.ndarray = resample_poly(
        value.astype(np.float64), step.to_hz // divisor, step.from_hz // divisor, axis=0
    )
    return resampled


def detrend(value: np.ndarray, step: steps.Detrend) -> np.ndarray:
    """Subtract each lead's mean or least-squares line; float64 of the same shape."""
    value = value.astype(np.float64)
    centred = value - value.mean(axis=0)
    if step.kind == "constant" or len(value) < 2:
        return centred
    time = np.arange(len(value)) - (len(value) - 1) / 2
    slope = np.tensordot(time, centred, axes=(0, 0)) / (time @ time)
    return centred - np.multiply.outer(time, slope)


def leads(value: np.ndarray, step: steps.Leads) -> np.ndarray:
    """The columns `step.take`, [samples, leads].

    Raises:
        BadInput: the signal has no leads, or too few.
    """
    if value.ndim != 2 or value.shape[1] <= max(step.take):
        found = f"{value.shape[1]} leads" if value.ndim == 2 else f"{value.ndim} axes"
        raise BadInput(f"a signal of {found}, `leads` takes number {max(step.take)}, from 0")
    return value[:, step.take]


def zscore(value: np.ndarray, step: steps.ZScore) -> np.ndarray:
    """Mean 0 and population standard deviation 1 for each lead; a flat lead becomes zeros."""
    value = value.astype(np.float64)
    centred = value - value.mean(axis=0)
    deviation = centred.std(axis=0)
    flat = deviation < step.epsilon
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, deviation))


def clip(value: np.ndarray, step: steps.Clip) -> np.ndarray:
    """Bound every value; NaN stays NaN, so that it is refused later rather than hidden."""
    return np.clip(value, step.low, step.high)
