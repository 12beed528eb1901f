"""Proof of a bundle on this machine: its engine, on labelled data, through the whole runtime."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeclin.confidence import error_bound
from edgeclin.datasets import Dataset, windowed
from edgeclin.errors import BadFile, BadInput, EngineFailed
from edgeclin.manifest import Confidence
from edgeclin.records import Record, State
from edgeclin.runtime import Runtime


class Measured(Record, frozen=True):
    """What a bundle does on a data set.

    `confident_error` is the share of wrong answers among the confident ones; `error_bound` its
    one-sided 95 % Clopper-Pearson bound; `holds` whether the error itself stays within what the
    bundle promises, of each label where each has its own threshold.
    """

    dataset: str
    samples: int
    rejected: int
    accuracy: float
    coverage: float
    confident_error: float
    error_bound: float
    max_error: float
    holds: bool
    engine_ms_p50: float
    engine_ms_p95: float


def measure(runtime: Runtime, dataset: Dataset) -> Measured:
    """Judge every sample of a labelled data set, recordings window by window.

    Raises:
        BadFile: the data set has no labels, or others than the bundle, or samples that it cannot
            judge.
    """
    manifest = runtime.bundle.manifest
    runtime.require_fit(dataset)
    dataset = windowed(dataset, runtime.preprocess)
    truth = dataset.truth(manifest.output.labels)
    if truth is None:
        raise BadFile(dataset.path, "has no labels", "accuracy needs them")
    right, sure, answered, latencies, rejected = [], [], [], [], 0
    for sample, label in zip(dataset, truth, strict=True):
        try:
            result = runtime.predict(sample)
        except (BadInput, EngineFailed):
            rejected += 1
            continue
        right.append(result.label == manifest.output.labels[label])
        sure.append(result.state is State.FINAL)
        answered.append(manifest.output.labels.index(str(result.label)))
        if result.latency_ms is not None:
            latencies.append(result.latency_ms.engine)
    if not right:
        raise BadFile(dataset.path, f"all {rejected} samples are rejected")
    correct, confident = np.array(right), np.array(sure)
    wrong, many = int((confident & ~correct).sum()), int(confident.sum())
    error = wrong / many if many else 0.0
    return Measured(
        dataset=dataset.name,
        samples=len(dataset),
        rejected=rejected,
        accuracy=float(correct.mean()),
        coverage=float(confident.mean()),
        confident_error=error,
        error_bound=error_bound(wrong, many),
        max_error=manifest.confidence.max_error,
        holds=_holds(manifest.confidence, correct[confident], np.array(answered)[confident]),
        engine_ms_p50=float(np.percentile(latencies, 50)),
        engine_ms_p95=float(np.percentile(latencies, 95)),
    )


def _holds(confidence: Confidence, right: NDArray[np.bool_], answer: NDArray[np.int64]) -> bool:
    """Whether the confident answers err as little as was promised.

    Args:
        right, answer: of each confident answer, the answer as the index of its label.
    """
    allowed = [own.max_error for own in confidence.by_label]
    parts = [right] if not allowed else [right[answer == at] for at in range(len(allowed))]
    return all(
        not len(part) or float((~part).mean()) <= share
        for part, share in zip(parts, allowed or [confidence.max_error], strict=True)
    )
