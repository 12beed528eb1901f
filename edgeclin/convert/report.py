"""`report.json`: what a conversion did to a model, in figures that a page can be drawn from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeclin.confidence import fit_temperature
from edgeclin.convert.judging import Judge
from edgeclin.convert.latency import Latencies
from edgeclin.convert.ranges import Range
from edgeclin.description import Metric, Task
from edgeclin.gates import Answers, Gate, metrics
from edgeclin.gates.gate import Statistic, everyone, interval
from edgeclin.manifest import Confidence
from edgeclin.records import Record

SCHEMA = 1
WORST = 8


class Form(Record, frozen=True):
    """One form that the model took: its size, and the median time of one sample (None where only
    its own framework can execute it)."""

    name: str
    bytes: int
    latency_ms: float | None = None


class Figure(Record, frozen=True):
    """A figure of merit of the source model and of the engine, with 95 % bootstrap intervals."""

    name: str
    source: float
    source_interval: tuple[float, float]
    engine: float
    engine_interval: tuple[float, float]


class Bin(Record, frozen=True):
    """Answers of like confidence: how many, their mean confidence, the share that was right."""

    count: int
    confidence: float
    right: float


class Comparison(Record, frozen=True):
    """One side, the source model or the engine, against the truth.

    `confusion` counts [truth][decision]; of pictures pixels. `reliability` is by calibrated
    confidence, for classification alone.
    """

    confusion: tuple[tuple[int, ...], ...]
    reliability: tuple[Bin, ...]


class Example(Record, frozen=True):
    """A validation sample on which source and engine differ most."""

    position: int
    error: float
    truth: str | None
    source: str
    engine: str


class Report(Record, frozen=True):
    """Everything but the layers, which `layers.json` has."""

    schema: int
    name: str
    version: str
    profile: str
    made_at: str
    machine: str
    validation: str
    samples: int
    labels: tuple[str, ...]
    runs: int
    """Interleaved runs behind each latency, on one thread."""
    forms: tuple[Form, ...]
    gates: tuple[Gate, ...]
    warnings: tuple[str, ...]
    figures: tuple[Figure, ...]
    source: Comparison | None
    engine: Comparison | None
    confidence: Confidence
    method: str
    method_errors: dict[str, float]
    ranges: tuple[Range, ...]
    worst: tuple[Example, ...]


def compare(judge: Judge, outputs: np.ndarray) -> tuple[Comparison, Comparison] | None:
    """Source model and engine against the truth; None without labels.

    Args:
        outputs: the engine's, float32 [n, outputs].
    """
    if judge.truth is None:
        return None
    task, labels = judge.description.task, len(judge.description.output.labels)
    source, engine = (
        _against(judge.truth, judge.answers(one), task, labels) for one in (judge.source, outputs)
    )
    return source, engine


def _against(truth: NDArray[np.int64], answers: Answers, task: Task, labels: int) -> Comparison:
    counts = np.zeros((labels, labels), np.int64)
    np.add.at(counts, (truth.ravel(), answers.decisions.ravel()), 1)
    bins: tuple[Bin, ...] = ()
    if task is Task.CLASSIFICATION:
        temperature = fit_temperature(answers.logits[:, 0], truth[:, 0])
        right = (answers.decisions == truth)[:, 0]
        bins = _bins(answers.confidence(temperature)[:, 0], right)
    return Comparison(confusion=tuple(map(tuple, counts.tolist())), reliability=bins)


def _bins(confidence: np.ndarray, right: NDArray[np.bool_]) -> tuple[Bin, ...]:
    place = metrics.bin_of(confidence)
    members = [place == number for number in range(metrics.BINS)]
    return tuple(
        Bin(
            count=int(own.sum()),
            confidence=float(confidence[own].mean()),
            right=float(right[own].mean()),
        )
        for own in members
        if own.any()
    )


def figures(judge: Judge, outputs: np.ndarray) -> tuple[Figure, ...]:
    """Every figure of merit that the labels allow, whichever of them is gated."""
    if judge.truth is None:
        return ()
    described = judge.description
    kinds = [Metric(name="accuracy")]
    if described.task is Task.SEGMENTATION:
        kinds.append(Metric(name="dice"))
    elif described.output.positive:
        kinds.append(Metric(name="auc"))
        kinds.append(Metric(name="sensitivity", specificity=described.metric.specificity))
    return tuple(_figure(judge, outputs, metric) for metric in kinds)


def _figure(judge: Judge, outputs: np.ndarray, metric: Metric) -> Figure:
    truth = judge.truth
    assert truth is not None
    sides: list[Statistic] = [
        metrics.statistic(metric, judge.description.output, judge.answers(one), truth)
        for one in (judge.source, outputs)
    ]
    source, engine = sides
    return Figure(
        name=metrics.title(metric),
        source=source(everyone(len(truth))),
        source_interval=interval(source, len(truth)),
        engine=engine(everyone(len(truth))),
        engine_interval=interval(engine, len(truth)),
    )


def worst_examples(judge: Judge, outputs: np.ndarray) -> tuple[Example, ...]:
    """The samples whose decision changed first, then those whose outputs differ most."""
    labels = judge.description.output.labels
    source, engine = judge.answers(judge.source), judge.answers(outputs)
    error = np.abs(judge.source - outputs).max(axis=1)
    changed = (source.decisions != engine.decisions).mean(axis=1)
    order = np.lexsort((-error, -changed))[:WORST]
    return tuple(
        Example(
            position=int(index),
            error=float(error[index]),
            truth=None if judge.truth is None else _named(judge.truth[index], labels),
            source=_named(source.decisions[index], labels),
            engine=_named(engine.decisions[index], labels),
        )
        for index in order
    )


def _named(decisions: NDArray[np.int64], labels: tuple[str, ...]) -> str:
    """One label, or of a picture the share of pixels that are not the first one."""
    if len(decisions) == 1:
        return labels[decisions[0]]
    return f"{(decisions != 0).mean():.1%} not {labels[0]}"


def forms(sizes: Mapping[str, int], took: Latencies) -> tuple[Form, ...]:
    """Every form by its name, with its size in bytes and what it took."""
    return tuple(
        Form(name=name, bytes=size, latency_ms=took.medians.get(name))
        for name, size in sizes.items()
    )
