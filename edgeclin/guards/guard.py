"""A sample that is held against what every sample of calibration and validation was like."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from typing import TypeAlias

import numpy as np

from edgeclin.description import Input
from edgeclin.guards.pictures import measure_picture
from edgeclin.guards.scores import ScoreDistance
from edgeclin.guards.signals import measure_signal
from edgeclin.manifest import GuardLimits, Limit
from edgeclin.steps import Leads

Measures: TypeAlias = tuple[float, ...]
"""In the order of `edgeclin.manifest.MEASURES`."""
_ROUNDING = 1e-12
"""Of a limit: a thousand times what a sum of a picture's values can be off."""


class Guard:
    """Judges raw samples and logits by a bundle's limits; without any it finds nothing.

    Args:
        limits: of the bundle, or None for one without.
        spec: the input that the samples are of.
    """

    def __init__(self, limits: GuardLimits | None, spec: Input) -> None:
        self._limits = limits
        self._measure = None if limits is None else measuring(spec, limits.flat_leads)
        self._bounds = [] if limits is None else [_bounds(one) for one in limits.limits]
        scores = None if limits is None else limits.scores
        self._distance = None if scores is None else ScoreDistance.of(scores)
        self._furthest = 0.0 if scores is None else scores.high

    def measure(self, sample: np.ndarray) -> Measures:
        """What is measured of a sample, decoded but otherwise raw; nothing without limits.

        Raises:
            BadInput: there is nothing to judge in it: a flat line, a lead off, a picture of one
                value.
        """
        return () if self._measure is None else self._measure(sample)

    def unlike(self, measures: Measures, logits: np.ndarray, answer: int) -> str:
        """How a sample or its logits, float [labels] of which `answer` is the highest, differ from
        all that the bundle was calibrated and validated on, in a sentence; empty when they do not.
        """
        for value, (low, high) in zip(measures, self._bounds, strict=False):
            if not low <= value <= high:
                return self._beyond(measures)
        if self._distance is not None:
            found = self._distance(logits, answer)
            if found == inf:
                return "unlike validation: fewer than two of its samples had this answer"
            if not found <= self._furthest:
                return (
                    f"unlike validation: its scores are {found:.4g} from those of the same answer, "
                    f"above {self._furthest:.4g}"
                )
        return ""

    def _beyond(self, measures: Measures) -> str:
        assert self._limits is not None
        found = [
            f"{limit.measure} {value:.4g} is {'below' if value < low else 'above'} "
            f"{limit.low if value < low else limit.high:.4g}"
            for value, limit, (low, high) in zip(
                measures, self._limits.limits, self._bounds, strict=True
            )
            if not low <= value <= high
        ]
        return f"unlike all {self._limits.samples} calibration samples: {', '.join(found)}"


def measuring(spec: Input, flat_leads: int) -> Callable[[np.ndarray], Measures]:
    """What measures the samples of an input; see `Guard.measure`."""
    if spec.kind == "image":
        return measure_picture
    if spec.kind == "array":
        return _range
    taken = next((list(step.take) for step in spec.preprocessing if isinstance(step, Leads)), None)
    if taken is None:
        return partial(measure_signal, flat_leads=flat_leads)
    return lambda sample: measure_signal(sample[:, taken], flat_leads)


def _bounds(limit: Limit) -> tuple[float, float]:
    """A limit with room for rounding: sums differ in their last bits from machine to machine."""
    room = _ROUNDING * max(abs(limit.low), abs(limit.high))
    return limit.low - room, limit.high + room


def _range(sample: np.ndarray) -> Measures:
    return float(sample.item(sample.argmin())), float(sample.item(sample.argmax()))
