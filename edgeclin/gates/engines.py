"""What an engine must not lose on the way from its source model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeclin.confidence import fit_temperature
from edgeclin.description import Metric, Output
from edgeclin.gates import metrics
from edgeclin.gates.answers import Answers
from edgeclin.gates.gate import Gate, Statistic, everyone, interval, mean_of
from edgeclin.gates.margins import Margins
from edgeclin.manifest import Confidence

LEAST_MEMBERS = 10
"""With fewer samples of a label or a group, one of them is worth more than any margin: those are
judged together."""


def error_gate(stage: str, source: np.ndarray, engine: np.ndarray, limit: float) -> Gate:
    """Mean absolute output error relative to the range of the source's outputs.

    Args:
        source, engine: float [n, outputs] for the same samples.
    """
    value, around = float("nan"), (0.0, 0.0)
    if np.isfinite(source).all() and np.isfinite(engine).all():
        per_sample = _relative(source, engine)
        value, around = float(per_sample.mean()), interval(mean_of(per_sample), len(per_sample))
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


def agreement_gate(stage: str, source: Answers, engine: Answers, margins: Margins) -> Gate:
    """Share of equal decisions."""
    same = (source.decisions == engine.decisions).mean(axis=1)
    return Gate.judge(
        stage,
        "decision agreement",
        "at least",
        float(same.mean()),
        interval(mean_of(same), len(same)),
        margins.decisions.agreement,
        len(same),
        least=margins.decisions.least_samples,
    )


def loss_gates(
    stage: str,
    metric: Metric,
    output: Output,
    source: Answers,
    engine: Answers,
    truth: NDArray[np.int64],
    groups: tuple[str, ...] | None,
    margins: Margins,
) -> Iterator[Gate]:
    """What the engine loses against the truth: the metric that matters, the calibration of its
    scores, and what the worst label and the worst group lose.

    Args:
        truth: label indices, int [n, decisions].
        groups: one patient or subject a sample.
    """
    yield metric_gate(stage, metric, output, source, engine, truth, margins)
    if truth.shape[1] > 1:
        return
    yield calibration_error_gate(stage, source, engine, truth, margins)
    change = np.subtract(
        engine.decisions == truth, source.decisions == truth, dtype=np.float64
    ).ravel()
    labels = [output.labels[index] for index in truth[:, 0]]
    yield from _worst(stage, "label", change, labels, margins.loss.worst_label)
    if groups is not None:
        yield from _worst(stage, "group", change, groups, margins.loss.worst_group)


def metric_gate(
    stage: str,
    metric: Metric,
    output: Output,
    source: Answers,
    engine: Answers,
    truth: NDArray[np.int64],
    margins: Margins,
) -> Gate:
    """The metric is not inferior: the lower bound of its change is above the margin."""
    margin = getattr(margins.loss, metric.name) if metric.margin is None else metric.margin
    before = metrics.statistic(metric, output, source, truth)
    after = metrics.statistic(metric, output, engine, truth)
    change = _change(before, after)
    return Gate.judge(
        stage,
        f"change of {metrics.title(metric)}",
        "lower bound at least",
        change(everyone(len(truth))),
        interval(change, len(truth)),
        -margin,
        len(truth),
        least=margins.decisions.least_samples,
    )


def calibration_error_gate(
    stage: str, source: Answers, engine: Answers, truth: NDArray[np.int64], margins: Margins
) -> Gate:
    """How much further confidence is from the share of right answers (expected calibration error),
    each with the temperature that was fitted on its own answers."""
    before, after = (_calibration_error(answers, truth) for answers in (source, engine))
    change = _change(before, after)
    return Gate.judge(
        stage,
        "change of calibration error (ECE)",
        "at most",
        change(everyone(len(truth))),
        interval(change, len(truth)),
        margins.loss.calibration_error,
        len(truth),
        least=margins.decisions.least_samples,
    )


def _calibration_error(answers: Answers, truth: NDArray[np.int64]) -> Statistic:
    temperature = fit_temperature(answers.logits[:, 0], truth[:, 0])
    right = (answers.decisions == truth)[:, 0]
    return metrics.calibration_error(answers.confidence(temperature)[:, 0], right)


def confident_gate(
    stage: str, answers: Answers, truth: NDArray[np.int64], confidence: Confidence
) -> Gate:
    """Share of wrong answers among the confident ones, by a threshold fitted on another engine.

    Args:
        truth: label indices, int [n, 1].
    """
    sure = answers.confidence(confidence.temperature)[:, 0] >= confidence.threshold
    wrong = (answers.decisions != truth)[sure, 0].astype(np.float64)
    value, around = 0.0, (0.0, 0.0)
    if len(wrong):
        value, around = float(wrong.mean()), interval(mean_of(wrong), len(wrong))
    limit = confidence.max_error
    return Gate.judge(
        stage, "error of the confident answers", "at most", value, around, limit, len(wrong), 0
    )


def _change(before: Statistic, after: Statistic) -> Statistic:
    return lambda weights: after(weights) - before(weights)


def _worst(
    stage: str, kind: str, change: np.ndarray, members: Sequence[str], margin: float
) -> Iterator[Gate]:
    """Change of accuracy where it is worst, judged by its point estimate; none where there are too
    few samples of anything.

    Args:
        change: +1, 0 or -1 a sample.
        members: the label or group of each.
    """
    counted = Counter(members)
    few = {name for name, count in counted.items() if count < LEAST_MEMBERS}
    together = f"{len(few)} {kind}s of fewer than {LEAST_MEMBERS} samples"
    names = np.array([together if name in few else name for name in members])
    means = {
        str(name): float(change[names == name].mean())
        for name in np.unique(names)
        if (names == name).sum() >= LEAST_MEMBERS
    }
    if not means:
        return
    worst = min(means, key=lambda name: means[name])
    own = change[names == worst]
    yield Gate.judge(
        stage,
        f"change of accuracy in the worst {kind} ({worst})",
        "at least",
        means[worst],
        interval(mean_of(own), len(own)),
        -margin,
        len(own),
    )
