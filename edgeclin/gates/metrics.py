"""Figures of merit as statistics of weighted samples, so that all are bootstrapped alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeclin.description import Metric, Output
from edgeclin.gates.answers import Answers
from edgeclin.gates.bootstrap import Statistic, mean_of

BINS = 15
"""Guo et al. 2017 (arXiv 1706.04599) measured calibration in so many."""


def statistic(
    metric: Metric, output: Output, answers: Answers, truth: NDArray[np.int64]
) -> Statistic:
    """The metric that a description names.

    Args:
        truth: label indices, int [n, decisions].
    """
    positive = positives(output)
    if metric.name == "accuracy":
        return accuracy(answers, truth)
    if metric.name == "dice":
        return dice(answers.decisions, truth, positive)
    found, finding = np.isin(truth[:, 0], positive), answers.finding(positive)[:, 0]
    if metric.name == "auc":
        return auc(finding, found)
    return sensitivity(finding, found, metric.specificity)


def hits(
    metric: Metric, output: Output, answers: Answers, truth: NDArray[np.int64]
) -> NDArray[np.bool_] | None:
    """Which samples count for a metric that is a share of them (for sensitivity of the positive
    ones), bool [samples]; None for one that is no such share."""
    if metric.name == "accuracy" and truth.shape[1] == 1:
        right: NDArray[np.bool_] = (answers.decisions == truth)[:, 0]
        return right
    if metric.name == "sensitivity":
        positive = positives(output)
        found, finding = np.isin(truth[:, 0], positive), answers.finding(positive)[:, 0]
        return finding[found] > _spared(finding[~found], metric.specificity)
    return None


def _spared(negatives: np.ndarray, specificity: float) -> float:
    """The lowest score that leaves that share of the negatives at or below it."""
    if not len(negatives):
        return float("inf")
    ordered = np.sort(negatives)
    return float(ordered[int(np.ceil(specificity * len(ordered) - 1e-9)) - 1])


def title(metric: Metric) -> str:
    """How a metric is called in a table."""
    if metric.name == "sensitivity":
        return f"sensitivity at {metric.specificity:.0%} specificity"
    return {"accuracy": "accuracy", "auc": "AUC", "dice": "Dice"}[metric.name]


def positives(output: Output) -> NDArray[np.int64]:
    """Indices of the labels of a finding; all but the first where none is named."""
    named = [output.labels.index(label) for label in output.positive]
    return np.array(named or range(1, len(output.labels)), dtype=np.int64)


def accuracy(answers: Answers, truth: NDArray[np.int64]) -> Statistic:
    """Share of right decisions; of a picture its pixels'."""
    return mean_of((answers.decisions == truth).mean(axis=1))


def dice(
    decisions: NDArray[np.int64], truth: NDArray[np.int64], positive: NDArray[np.int64]
) -> Statistic:
    """Dice coefficient of the positive labels over all pixels of all samples together: 2 |A ∩ B| /
    (|A| + |B|) (Dice 1945)."""
    chosen, wanted = np.isin(decisions, positive), np.isin(truth, positive)
    both = ((decisions == truth) & chosen).sum(axis=1).astype(np.float64)
    either = (chosen.sum(axis=1) + wanted.sum(axis=1)).astype(np.float64)

    def value(weights: np.ndarray) -> float:
        total = float(weights @ either)
        return 2 * float(weights @ both) / total if total else float("nan")

    return value


def auc(scores: np.ndarray, found: NDArray[np.bool_]) -> Statistic:
    """Area under the ROC curve: how often a positive scores above a negative, ties by half.

    Args:
        scores: float [n].
        found: which samples are positive.
    """
    levels, rank = np.unique(scores, return_inverse=True)

    def value(weights: np.ndarray) -> float:
        hits = np.bincount(rank, weights * found, len(levels))
        misses = np.bincount(rank, weights * ~found, len(levels))
        pairs = float(hits.sum() * misses.sum())
        below = np.cumsum(misses) - misses
        return float(hits @ (below + misses / 2)) / pairs if pairs else float("nan")

    return value


def sensitivity(scores: np.ndarray, found: NDArray[np.bool_], specificity: float) -> Statistic:
    """Share of positives above the lowest threshold that leaves `specificity` of the negatives
    at or below it; the threshold is fitted anew on every resample."""
    levels, rank = np.unique(scores, return_inverse=True)

    def value(weights: np.ndarray) -> float:
        hits = np.bincount(rank, weights * found, len(levels))
        misses = np.bincount(rank, weights * ~found, len(levels))
        if not hits.sum() or not misses.sum():
            return float("nan")
        spared = np.cumsum(misses) / misses.sum()
        threshold = int(np.argmax(spared >= specificity - 1e-12))
        return float(hits[threshold + 1 :].sum() / hits.sum())

    return value


def calibration_error(confidence: np.ndarray, right: NDArray[np.bool_]) -> Statistic:
    """Expected calibration error over `BINS` equal bins of confidence.

    Args:
        confidence: float [n], of the label chosen.
        right: whether it was the true one.
    """
    place = bin_of(confidence)

    def value(weights: np.ndarray) -> float:
        gaps = np.bincount(place, weights * (confidence - right), BINS)
        return float(np.abs(gaps).sum() / weights.sum())

    return value


def bin_of(confidence: np.ndarray) -> NDArray[np.int64]:
    """The bin of each confidence, from 0; each holds its upper edge."""
    place: NDArray[np.int64] = np.ceil(confidence * BINS).astype(np.int64) - 1
    return np.clip(place, 0, BINS - 1)
