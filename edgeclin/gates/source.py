"""Whether the source model, on these data and with this preprocessing, is what it should be.

A wrong preprocessing or a wrong order of labels harms the source and its engine alike: no
comparison of the two would show it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeclin.confidence import scipy_part
from edgeclin.description import Metric, Output
from edgeclin.gates import metrics
from edgeclin.gates.answers import Answers
from edgeclin.gates.bootstrap import Bootstrap, everyone, mean_of
from edgeclin.gates.gate import Gate
from edgeclin.gates.margins import Margins

STAGE = "source model"
_ORDER = 0.02
"""A best of many orders is found with hindsight: on a few samples it gains a little by chance."""
_HINT = "preprocessing or the order of labels other than in training?"


def source_gates(
    metric: Metric,
    output: Output,
    source: Answers,
    truth: NDArray[np.int64],
    margins: Margins,
    bootstrap: Bootstrap,
) -> Iterator[Gate]:
    """Judge the source model's own answers to the validation samples.

    Args:
        truth: label indices, int [n, decisions].
    """
    labels = np.unique(truth)
    yield Gate.judge(
        STAGE,
        "labels that the validation data hold",
        "at least",
        float(len(labels)),
        (float(len(labels)), float(len(labels))),
        2.0,
        len(truth),
        hint=f"they are all {output.labels[labels[0]]}: a constant answer would do as well",
    )
    if len(labels) > 1:
        yield _chance_gate(source, truth, labels, margins.decisions.least_samples, bootstrap)
    if truth.shape[1] == 1:
        yield _order_gate(output, source, truth, bootstrap)
    if metric.expected is not None:
        value = metrics.statistic(metric, output, source, truth)
        yield Gate.judge(
            STAGE,
            metrics.title(metric),
            "upper bound at least",
            value(everyone(len(truth))),
            bootstrap.interval(value),
            metric.expected - margins.source.expected,
            len(truth),
            margins.decisions.least_samples,
            hint=_HINT,
        )


def _chance_gate(
    source: Answers,
    truth: NDArray[np.int64],
    labels: NDArray[np.int64],
    least: int,
    bootstrap: Bootstrap,
) -> Gate:
    """The mean recall of the labels there are is above that of one constant answer."""
    members = [(truth == label).sum(axis=1).astype(np.float64) for label in labels]
    hits = [((source.decisions == truth) & (truth == label)).sum(axis=1) for label in labels]

    def recall(weights: np.ndarray) -> float:
        totals = [float(weights @ member) for member in members]
        if not all(totals):
            return float("nan")
        shares = [float(weights @ hit) / total for hit, total in zip(hits, totals, strict=True)]
        return float(np.mean(shares))

    return Gate.judge(
        STAGE,
        "mean recall of all labels, above a constant answer's",
        "lower bound above",
        recall(everyone(len(truth))),
        bootstrap.interval(recall),
        1 / len(labels),
        len(truth),
        least,
        hint=_HINT,
    )


def _order_gate(
    output: Output, source: Answers, truth: NDArray[np.int64], bootstrap: Bootstrap
) -> Gate:
    """No other order of the labels fits the answers better.

    The best one is found by assignment (Kuhn 1955) of decisions to true labels.
    """
    labels = output.labels
    counts = np.zeros((len(labels), len(labels)))
    np.add.at(counts, (truth[:, 0], source.decisions[:, 0]), 1)
    meant, said = scipy_part("optimize").linear_sum_assignment(-counts)
    stands_for = meant[np.argsort(said)]
    gain = (stands_for[source.decisions] == truth).astype(np.float64)[:, 0]
    gain -= (source.decisions == truth)[:, 0]
    moved = [
        f"where it says {labels[at]} it is {labels[other]}"
        for at, other in enumerate(stands_for)
        if at != other and counts[other, at] > counts[at, at]
    ]
    return Gate.judge(
        STAGE,
        "gain of accuracy from another order of labels",
        "lower bound at most",
        float(gain.mean()),
        bootstrap.interval(mean_of(gain)),
        _ORDER,
        len(truth),
        hint=f"labels of model.toml in another order than the model's? {'; '.join(moved[:4])}",
    )


def reverse_gate(as_is: NDArray[np.bool_], turned: NDArray[np.bool_]) -> Gate:
    """Pictures are not known better with red and blue changed over.

    Args:
        as_is, turned: where the source model is right about pictures as they are, and with their
            first and last colour changed over, bool [n].
    """
    gain = np.subtract(turned, as_is, dtype=np.float64)
    return Gate.judge(
        STAGE,
        "gain of accuracy from red and blue changed over",
        "lower bound at most",
        float(gain.mean()),
        Bootstrap(len(gain)).interval(mean_of(gain)),
        0.0,
        len(gain),
        hint="the step decode gives another order of colours than in training?",
    )
