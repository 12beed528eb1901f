"""Proof of a bundle on this machine: its engine, on labelled data, through the whole runtime."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeclin.confidence import error_bound
from edgeclin.datasets import Dataset, windowed
from edgeclin.errors import BadFile, BadInput, EngineFailed
from edgeclin.manifest import Manifest
from edgeclin.records import Record, State
from edgeclin.runtime import Runtime


class Measured(Record, frozen=True):
    """What a bundle does on a data set.

    `accuracy` is of the samples that it could judge, `coverage` the confident answers among all.
    `confident_error` is the share of wrong answers among the confident ones; `error_bound` its
    one-sided 95 % Clopper-Pearson bound; `broken` says, a sentence each, where the error itself
    exceeds what the bundle promises, of each label where each has its own threshold; `holds`
    whether none does.
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
    broken: tuple[str, ...]
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
    broken = tuple(_broken(manifest, correct[confident], np.array(answered)[confident]))
    return Measured(
        dataset=dataset.name,
        samples=len(dataset),
        rejected=rejected,
        accuracy=float(correct.mean()),
        coverage=many / len(dataset),
        confident_error=error,
        error_bound=error_bound(wrong, many),
        max_error=manifest.confidence.max_error,
        holds=not broken,
        broken=broken,
        engine_ms_p50=float(np.percentile(latencies, 50)),
        engine_ms_p95=float(np.percentile(latencies, 95)),
    )


def _broken(
    manifest: Manifest, right: NDArray[np.bool_], answer: NDArray[np.int64]
) -> Iterator[str]:
    """Where confident answers err more than was promised.

    Args:
        right, answer: of each confident answer, the answer as the index of its label.
    """
    confidence = manifest.confidence
    parts = [("", right, confidence.max_error)]
    if confidence.by_label:
        parts = [
            (f" {own.label!r}", right[answer == at], own.max_error)
            for at, own in enumerate(confidence.by_label)
        ]
    for which, own, allowed in parts:
        error = float((~own).mean()) if len(own) else 0.0
        if error > allowed:
            yield (
                f"{error:.2%} of the {len(own)} confident answers{which} are wrong, more than the "
                f"{allowed:.2%} that the bundle promises"
            )
