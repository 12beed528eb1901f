"""Every stage's answers to the validation samples, judged by its gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeclin.confidence import fit, unfitted_confidence
from edgeclin.convert.copies import copied
from edgeclin.description import Description, Task
from edgeclin.gates import Answers, Gate, Margins, metrics
from edgeclin.gates.bootstrap import Bootstrap, paired_interval
from edgeclin.gates.engines import agreement_gate, confident_gates, error_gate, loss_gates
from edgeclin.gates.samples import (
    copies_gate,
    distinct_gate,
    judged_gate,
    label_gate,
    label_weights,
    sample_gates,
)
from edgeclin.gates.source import source_gates
from edgeclin.gates.trial import Trial
from edgeclin.manifest import Confidence

_ROUNDINGS = 8 * float(np.finfo(np.float32).eps)
"""Sums in another order differ by some roundings of the largest output."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Knows the source model's answers and the truth.

    Attributes:
        source: the source model's own outputs, float32 [n, outputs].
        truth: label indices, int [n, decisions], or None without labels.
        groups: one patient or subject a sample, or None.
        recordings: what each sample was cut from, or None.
    """

    description: Description
    margins: Margins
    source: np.ndarray
    truth: NDArray[np.int64] | None
    groups: tuple[str, ...] | None
    recordings: tuple[str, ...] | None = None

    @property
    def bootstrap(self) -> Bootstrap:
        """How the samples are drawn again for an interval."""
        return Bootstrap(len(self.source), self.groups or self.recordings)

    def answers(self, outputs: np.ndarray) -> Answers:
        """Outputs, float [n, outputs], as decisions among labels."""
        return Answers.of(outputs, self.description.task, self.description.output)

    def source_model(self) -> list[Gate]:
        """Whether the source model is what it should be; nobody knows without labels."""
        if self.truth is None:
            return []
        described = self.description
        answers = self.answers(self.source)
        return list(
            source_gates(
                described.metric,
                described.output,
                answers,
                self.truth,
                self.margins,
                self.bootstrap,
            )
        )

    def float_form(self, stage: str, outputs: np.ndarray) -> Gate:
        """Whether a float form still computes what the source model does, as far as float32 tells
        its outputs apart."""
        spread = float(np.ptp(self.source)) or 1.0
        resolution = _ROUNDINGS * float(np.abs(self.source).max()) / spread
        limit = max(self.margins.error.float_export, resolution)
        return error_gate(stage, self.source, outputs, limit, self.bootstrap)

    def engine(self, stage: str, outputs: np.ndarray, quantised: bool) -> list[Gate]:
        """Whether an engine may be deployed."""
        margins = self.margins
        source, engine = self.answers(self.source), self.answers(outputs)
        found = [agreement_gate(stage, source, engine, margins, self.bootstrap)]
        if quantised:
            found.insert(
                0, error_gate(stage, self.source, outputs, margins.error.int8, self.bootstrap)
            )
        if self.truth is not None:
            found += loss_gates(self._trial(stage, outputs, self.truth))
        return found

    def _trial(self, stage: str, outputs: np.ndarray, truth: NDArray[np.int64]) -> Trial:
        described = self.description
        return Trial(
            stage=stage,
            metric=described.metric,
            output=described.output,
            source=self.answers(self.source),
            engine=self.answers(outputs),
            truth=truth,
            groups=self.groups,
            margins=self.margins,
            bootstrap=self.bootstrap,
        )

    def promise(self, stage: str, outputs: np.ndarray, confidence: Confidence) -> list[Gate]:
        """Whether an engine keeps what a threshold promises that was fitted on another one."""
        if self.truth is None or not confidence.fitted:
            return []
        return confident_gates(stage, self.answers(outputs), self.truth, confidence)

    def confidence(self, outputs: np.ndarray) -> Confidence:
        """Temperature and threshold, fitted on the engine that is deployed."""
        doubt = self.description.doubt
        if self.truth is None or self.description.task is not Task.CLASSIFICATION:
            return unfitted_confidence(doubt.max_error, doubt.audit_share)
        answers = self.answers(outputs)
        found = ~answers.nothing[:, 0]
        if not found.any():
            return unfitted_confidence(doubt.max_error, doubt.audit_share)
        logits, truth = answers.logits[found, 0], self.truth[found, 0]
        fitted = fit(logits, truth, self.description.output, doubt)
        share = fitted.coverage * float(found.mean())
        return msgspec.structs.replace(fitted, coverage=share, samples=len(found))

    def could_lose(self, outputs: np.ndarray) -> float | None:
        """How much of the metric an engine could have lost without its showing on these samples:
        the far end of an interval that does not vanish where nothing changed (see
        `paired_interval`). None where the metric is no share of samples."""
        if self.truth is None:
            return None
        described, answers = self.description, (self.answers(self.source), self.answers(outputs))
        before, after = (
            metrics.hits(described.metric, described.output, one, self.truth) for one in answers
        )
        return None if before is None or after is None else -paired_interval(before, after)[0]

    def right(self, outputs: np.ndarray, truth: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Where a decision is the label's, bool [n]; of a picture where most pixels' are."""
        return (self.answers(outputs).decisions == truth).mean(axis=1) > 0.5


def judge_samples(
    prepared: np.ndarray,
    judged: np.ndarray,
    labels: Sequence[str] | None,
    wanted: Sequence[str] | None,
    margins: Margins,
) -> list[Gate]:
    """Whether calibration data are of the same kind as validation data, by values and labels, and
    yet others.

    Args:
        prepared, judged: calibration and validation samples as the model takes them, float32
            [n, …].
        labels, wanted: the label of each, or None without labels.
    """
    weights = None
    if labels is not None and wanted is not None:
        weights = label_weights(labels, wanted)
    found = [
        distinct_gate(judged, margins.decisions.least_samples),
        copies_gate(copied(judged, prepared), margins.calibration),
        *sample_gates(prepared, judged, margins.calibration, weights),
    ]
    if labels is not None and wanted is not None:
        found.append(label_gate(labels, wanted, margins.calibration))
    return found


def judge_calibration(
    judge: Judge, answers: np.ndarray, truth: NDArray[np.int64] | None
) -> list[Gate]:
    """Whether the float model can judge the calibration samples.

    Args:
        answers: the float model's outputs for them, float32 [n, outputs].
        truth: their label indices, int [n, decisions].
    """
    if truth is None or judge.truth is None:
        return []
    ours = judge.right(answers, truth)
    theirs = judge.right(judge.source, judge.truth)
    return [judged_gate(ours, theirs, judge.margins.calibration)]
