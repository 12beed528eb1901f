"""What an engine must not lose on the way from its source model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeclin.confidence import error_bound, fit_temperature, is_sure
from edgeclin.gates import metrics
from edgeclin.gates.answers import Answers
from edgeclin.gates.bootstrap import Bootstrap, Statistic, change_of, mean_of
from edgeclin.gates.gate import Gate
from edgeclin.gates.margins import Margins
from edgeclin.gates.members import lost_labels_gate, worst_group_gates, worst_label_gates
from edgeclin.gates.trial import Trial
from edgeclin.manifest import Confidence


def error_gate(
    stage: str, source: np.ndarray, engine: np.ndarray, limit: float, bootstrap: Bootstrap
) -> Gate:
    """Mean absolute output error relative to the range of the source's outputs.

    Args:
        source, engine: float [n, outputs] for the same samples.
    """
    value, around = float("nan"), (0.0, 0.0)
    if np.isfinite(source).all() and np.isfinite(engine).all():
        per_sample = _relative(source, engine)
        value, around = float(per_sample.mean()), bootstrap.interval(mean_of(per_sample))
    return Gate.judge(
        stage, "output error (relative MAE)", "at most", value, around, limit, len(source)
    )


def relative_error(source: np.ndarray, engine: np.ndarray) -> float:
    """The same figure alone; infinite where a value is not finite."""
    value = float(_relative(source, engine).mean())
    return value if np.isfinite(value) else float("inf")


def _relative(source: np.ndarray, engine: np.ndarray) -> np.ndarray:
    scale = float(np.ptp(source)) or 1.0
    return np.abs(source - engine).mean(axis=1) / scale


def agreement_gate(
    stage: str, source: Answers, engine: Answers, margins: Margins, bootstrap: Bootstrap
) -> Gate:
    """Share of equal decisions."""
    same = (source.decisions == engine.decisions).mean(axis=1)
    return Gate.judge(
        stage,
        "decision agreement",
        "at least",
        float(same.mean()),
        bootstrap.interval(mean_of(same)),
        margins.decisions.agreement,
        len(same),
        least=margins.decisions.least_samples,
    )


def loss_gates(trial: Trial) -> Iterator[Gate]:
    """What the engine loses against the truth: the metric that matters, the calibration of its
    scores, and what single labels and groups lose."""
    yield metric_gate(trial)
    if trial.truth.shape[1] == 1:
        yield calibration_error_gate(trial)
    yield lost_labels_gate(trial)
    yield from worst_label_gates(trial)
    yield from worst_group_gates(trial)


def metric_gate(trial: Trial) -> Gate:
    """The metric is not inferior: the lower bound of its change is above the margin."""
    change = trial.change(trial.metric)
    return trial.judge(
        f"change of {metrics.title(trial.metric)}",
        "lower bound at least",
        change,
        -trial.margins.loss.of(trial.metric),
    )


def calibration_error_gate(trial: Trial) -> Gate:
    """How much further confidence is from the share of right answers (expected calibration error),
    each with the temperature that was fitted on its own answers."""
    before, after = (
        _calibration_error(answers, trial.truth) for answers in (trial.source, trial.engine)
    )
    return trial.judge(
        "change of calibration error (ECE)",
        "at most",
        change_of(before, after),
        trial.margins.loss.calibration_error,
    )


def _calibration_error(answers: Answers, truth: NDArray[np.int64]) -> Statistic:
    temperature = fit_temperature(answers.logits[:, 0], truth[:, 0])
    right = (answers.decisions == truth)[:, 0]
    return metrics.calibration_error(answers.confidence(temperature)[:, 0], right)


def confident_gates(
    stage: str, answers: Answers, truth: NDArray[np.int64], confidence: Confidence
) -> list[Gate]:
    """Wrong answers among the confident ones, by thresholds fitted on another engine: their
    one-sided Clopper-Pearson bound keeps what the thresholds promise, of each label where each has
    its own.

    Args:
        truth: label indices, int [n, 1].
    """
    decisions = answers.decisions[:, 0]
    certainty = answers.confidence(confidence.temperature)[:, 0]
    sure = is_sure(certainty, decisions, confidence) & ~answers.nothing[:, 0]
    wrong = decisions != truth[:, 0]
    what = "error of the confident answers"
    if not confidence.by_label:
        return [_confident_gate(stage, what, wrong[sure], confidence.max_error)]
    return [
        _confident_gate(
            stage, f"{what} {own.label!r}", wrong[sure & (decisions == index)], own.max_error
        )
        for index, own in enumerate(confidence.by_label)
    ]


def _confident_gate(stage: str, what: str, wrong: NDArray[np.bool_], allowed: float) -> Gate:
    share = float(wrong.mean()) if len(wrong) else 0.0
    bound = error_bound(int(wrong.sum()), len(wrong)) if len(wrong) else 0.0
    return Gate.judge(
        stage, what, "upper bound at most", share, (0.0, bound), allowed, len(wrong), least=0
    )
