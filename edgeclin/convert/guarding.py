"""What real samples were like, and how the deployed engine answered them: guard and drift."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from edgeclin.confidence import TIE, probabilities
from edgeclin.convert.judging import Judge
from edgeclin.datasets import Dataset
from edgeclin.description import Task
from edgeclin.drift import SCHEMA, Histogram, Reference, histogram, label_histogram, place
from edgeclin.guards import fit_inputs, fit_scores
from edgeclin.manifest import MEASURES, Confidence, GuardLimits
from edgeclin.preprocess import Preprocess

_OFTEN = 0.05


@dataclass(frozen=True, slots=True)
class Guarded:
    """The limits of a bundle's guard, and what drift is held against; None where nothing could be
    said of the samples, or the bundle's task has no one answer."""

    limits: GuardLimits | None
    reference: Reference | None

    @property
    def warnings(self) -> Iterator[str]:
        """What somebody should know who relies on the guard."""
        if self.limits is None:
            yield "there is no guard against other samples: nothing could be measured of these"
        elif self.limits.share > _OFTEN:
            worst = max(self.limits.limits, key=lambda limit: limit.share)
            yield (
                f"{self.limits.share:.0%} of the validation samples are beyond what calibration "
                f"showed, most in {worst.measure} ({worst.share:.0%}): up to as many answers will "
                "be in doubt for being unlike; more calibration samples make it fewer"
            )


def guarded(
    judge: Judge,
    calibration: Dataset,
    validation: Dataset,
    outputs: np.ndarray,
    confidence: Confidence,
) -> Guarded:
    """Measure the raw samples of both sets.

    Args:
        outputs: the deployed engine's, for the validation samples, float32 [n, outputs].
    """
    described = judge.description
    spec = described.inputs[0]
    preprocess = Preprocess(spec)
    limits, measured = fit_inputs(
        _decoded(calibration, preprocess), _decoded(validation, preprocess), spec
    )
    if limits is None or described.task is not Task.CLASSIFICATION:
        return Guarded(limits, None)
    logits = judge.answers(outputs).logits[:, 0]
    scores = probabilities(logits, confidence.temperature)
    judged = np.isfinite(measured).all(axis=1)
    values = [
        sample.item(place(index, sample.size))
        for index, sample in enumerate(_decoded(validation, preprocess))
    ]
    found: list[Histogram] = [
        histogram(name, column)
        for name, column in zip(MEASURES[spec.kind], measured[judged].T, strict=True)
    ]
    found += [
        histogram("value", np.array(values, np.float64)[judged]),
        histogram("confidence", scores.max(axis=1)[judged], TIE),
        label_histogram(scores.argmax(axis=1)[judged], scores.shape[1]),
    ]
    return Guarded(
        msgspec.structs.replace(limits, scores=fit_scores(logits[judged])),
        Reference(SCHEMA, int(judged.sum()), tuple(found)),
    )


def _decoded(dataset: Dataset, preprocess: Preprocess) -> Iterator[np.ndarray]:
    return (preprocess.decoded(sample) for sample in dataset)
