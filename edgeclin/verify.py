"""Proof of a bundle on this machine: its engine, on labelled data, through the whole runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

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

    `accuracy` is of the samples that it could judge, `coverage` the confident answers among all.
    `confident_error` is the share of wrong answers among the confident ones; `error_bound` its
    one-sided 95 % Clopper-Pearson bound; `broken` says, a sentence each, where the error itself
    exceeds what the bundle promises, of each label where each has its own threshold. The outcome
    `holds` only where the bounds do not either; else these samples are `too few to tell`.
    """

    dataset: str
    samples: int
    rejected: int
    accuracy: float
    coverage: float
    confident_error: float
    error_bound: float
    max_error: float
    outcome: Literal["holds", "too few to tell", "broken"]
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
    parts = list(_parts(manifest.confidence, correct[confident], np.array(answered)[confident]))
    broken = tuple(sentence for part in parts if (sentence := part.broken))
    return Measured(
        dataset=dataset.name,
        samples=len(dataset),
        rejected=rejected,
        accuracy=float(correct.mean()),
        coverage=many / len(dataset),
        confident_error=error,
        error_bound=error_bound(wrong, many),
        max_error=manifest.confidence.max_error,
        outcome="broken"
        if broken
        else "holds"
        if parts and all(part.proven for part in parts)
        else "too few to tell",
        broken=broken,
        engine_ms_p50=float(np.percentile(latencies, 50)),
        engine_ms_p95=float(np.percentile(latencies, 95)),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """Confident answers that keep a promise of their own: all, or those with one label.

    Attributes:
        wrong, answers: how many.
    """

    which: str
    wrong: int
    answers: int
    allowed: float

    @property
    def broken(self) -> str:
        """That they err more than was promised; empty where they do not."""
        if self.wrong <= self.allowed * self.answers:
            return ""
        return (
            f"{self.wrong / self.answers:.2%} of the {self.answers} confident answers{self.which} "
            f"are wrong, more than the {self.allowed:.2%} that the bundle promises"
        )

    @property
    def proven(self) -> bool:
        return error_bound(self.wrong, self.answers) <= self.allowed


def _parts(
    confidence: Confidence, right: NDArray[np.bool_], answer: NDArray[np.int64]
) -> Iterator[_Part]:
    """What a bundle promises: a label that is always in doubt keeps no promise.

    Args:
        right, answer: of each confident answer, the answer as the index of its label.
    """
    if not confidence.by_label:
        yield _Part("", int((~right).sum()), len(right), confidence.max_error)
    for at, own in enumerate(confidence.by_label):
        if own.coverage:
            members = right[answer == at]
            yield _Part(f" {own.label!r}", int((~members).sum()), len(members), own.max_error)
