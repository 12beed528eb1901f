"""From a float model to an INT8 engine: calibrate once, compare methods, keep the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeclin.convert.ranges import Method, Statistics, write_ranges
from edgeclin.convert.request import Outcome
from edgeclin.convert.routes import QUANTISER, ranges_of
from edgeclin.convert.stages import Stage, Workshop, ask
from edgeclin.gates.engines import relative_error


@dataclass(frozen=True, slots=True)
class Quantised:
    """An INT8 engine, and how it came about.

    Attributes:
        errors: relative MAE on the validation samples, by every method that was tried.
        calibration: what the pass over the calibration samples consumed.
        answers: the float model's outputs for the calibration samples, float32 [n, outputs].
        instability: see `Statistics.instability`.
    """

    stage: Stage
    method: Method
    errors: dict[Method, float]
    calibration: Outcome
    answers: np.ndarray
    instability: float
    floats: tuple[str, ...]


def quantise(
    workshop: Workshop,
    model: Stage,
    source: np.ndarray,
    calibration: Path,
    judged: np.ndarray,
    methods: Sequence[Method],
) -> Quantised:
    """Make an engine by each method and keep the one nearest to the source model.

    Args:
        source: the source model's answers to the validation samples, float32 [n, outputs].
        calibration: prepared calibration samples, `.npy`.
        judged: prepared validation samples, float32 [n, …].
    """
    path, seen = workshop.run(ranges_of(model.form), model.path, samples=str(calibration))
    statistics = Statistics.load(path)
    made: dict[Method, tuple[Stage, Outcome]] = {}
    errors: dict[Method, float] = {}
    for method in methods:
        ranges = ranges_file(workshop, method)
        write_ranges(ranges, statistics.ranges(method))
        quantiser = QUANTISER[workshop.profile.engine]
        engine, outcome = workshop.run(quantiser, model.path, ranges=str(ranges))
        stage = ask(model.form, engine, judged)
        assert stage.outputs is not None
        made[method] = stage, outcome
        errors[method] = relative_error(source, stage.outputs)
    best = min(methods, key=lambda method: errors[method])
    stage, outcome = made[best]
    answers = np.load(path.parent / seen.answers)
    return Quantised(stage, best, errors, seen, answers, statistics.instability(), outcome.floats)


def ranges_file(workshop: Workshop, method: Method) -> Path:
    """Where the ranges by a method are, for who applies them."""
    return workshop.folder / f"{method.value}.npz"
