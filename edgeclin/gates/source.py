"""Whether the source model, on these data and with this preprocessing, is what it should be.

A wrong preprocessing or a wrong order of labels harms the source and its engine alike: no
comparison of the two would show it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeclin.description import Metric, Output
from edgeclin.gates import metrics
from edgeclin.gates.answers import Answers
from edgeclin.gates.bootstrap import Bootstrap, everyone
from edgeclin.gates.gate import Gate
from edgeclin.gates.margins import Margins

STAGE = "source model"
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
        shares = [
            float(weights @ hit) / total
            for hit, member in zip(hits, members, strict=True)
            if (total := float(weights @ member))
        ]
        return float(np.mean(shares))

    return Gate.judge(
        STAGE,
        "mean recall of all labels, above that of a constant answer",
        "lower bound above",
        recall(everyone(len(truth))),
        bootstrap.interval(recall),
        1 / len(labels),
        len(truth),
        least,
        hint=_HINT,
    )
