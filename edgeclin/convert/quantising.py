"""From a float model to an INT8 engine: calibrate once, compare methods, keep the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeclin.convert.loading import ask_engine
from edgeclin.convert.ranges import Method, Range, Statistics, write_ranges
from edgeclin.convert.request import Outcome
from edgeclin.convert.routes import QUANTISERS, ranges_of
from edgeclin.convert.stages import Stage, Workshop
from edgeclin.gates.engines import relative_error


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What one pass over the calibration samples gave.

    Attributes:
        ranges: a file of ranges for every method.
        outcome: what the pass consumed.
        statistics: what it saw of every tensor.
        answers: the float model's outputs for the samples, float32 [n, outputs].
        symmetric: whether the engine's integers lie symmetrically about zero.
    """

    ranges: dict[Method, Path]
    outcome: Outcome
    statistics: Statistics
    answers: np.ndarray
    symmetric: bool


@dataclass(frozen=True, slots=True)
class Quantised:
    """An INT8 engine, and how it came about.

    Attributes:
        errors: relative MAE on the validation samples, by every method that was tried.
        quantiser: one of the names in `QUANTISERS`.
        kept: tensors of the float model that were asked to stay in float.
    """

    stage: Stage
    method: Method
    errors: dict[Method, float]
    calibrated: Calibrated
    quantiser: str
    floats: tuple[str, ...]
    kept: tuple[str, ...] = ()

    @property
    def calibration(self) -> Outcome:
        return self.calibrated.outcome

    @property
    def instability(self) -> float:
        return self.calibrated.statistics.instability()

    @property
    def ranges(self) -> tuple[Range, ...]:
        """What was chosen for every tensor."""
        return self.calibrated.statistics.chosen(self.method, self.calibrated.symmetric)


def quantise(
    workshop: Workshop,
    model: Stage,
    source: np.ndarray,
    calibration: Path,
    judged: np.ndarray,
    methods: Sequence[Method],
    quantiser: str = "",
) -> Quantised:
    """Make an engine by each method and keep the one nearest to the source model, of those that can
    be loaded if there are any.

    Args:
        source: the source model's answers to the validation samples, float32 [n, outputs].
        calibration: prepared calibration samples, `.npy`.
        judged: prepared validation samples, float32 [n, …].
        quantiser: one of the names in `QUANTISERS`; without it the first.
    """
    path, seen = workshop.run(ranges_of(model.form), model.path, samples=str(calibration))
    statistics = Statistics.load(path)
    symmetric = workshop.profile.numeric.symmetric_activations
    ranges = {}
    for method in methods:
        ranges[method] = workshop.folder / f"{method.value}.npz"
        write_ranges(ranges[method], statistics.ranges(method, symmetric))
    answers = np.load(path.parent / seen.answers, mmap_mode="r")
    calibrated = Calibrated(ranges, seen, statistics, answers, symmetric)
    first = next(iter(QUANTISERS[workshop.profile.engine]))
    return quantise_by(quantiser or first, workshop, model, source, judged, calibrated)


def quantise_by(
    quantiser: str,
    workshop: Workshop,
    model: Stage,
    source: np.ndarray,
    judged: np.ndarray,
    calibrated: Calibrated,
    kept: tuple[str, ...] = (),
) -> Quantised:
    """The same with ranges that are there already.

    Args:
        kept: see `Request.kept`.
    """
    converter = QUANTISERS[workshop.profile.engine][quantiser]
    made: dict[Method, tuple[Stage, Outcome]] = {}
    errors: dict[Method, float] = {}
    for method, ranges in calibrated.ranges.items():
        engine, outcome = workshop.run(converter, model.path, ranges=str(ranges), kept=kept)
        stage = ask_engine(model.form, engine, judged)
        assert stage.outputs is not None
        made[method] = stage, outcome
        errors[method] = relative_error(source, stage.outputs)
    best = min(made, key=lambda method: (bool(made[method][0].refused), errors[method]))
    stage, outcome = made[best]
    return Quantised(stage, best, errors, calibrated, quantiser, outcome.floats, kept)
