"""`report.json`: what a conversion did to a model, in figures that a page can be drawn from."""

from __future__ import annotations

import platform
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

from edgeclin.confidence import fit_temperature
from edgeclin.convert.job import Conversion
from edgeclin.convert.judging import Judge
from edgeclin.convert.latency import measure
from edgeclin.convert.proving import Proof
from edgeclin.convert.ranges import Range
from edgeclin.convert.stages import BACKEND, TITLE
from edgeclin.convert.twins import TITLE as TWIN
from edgeclin.description import Metric, Task
from edgeclin.gates import Answers, Gate, metrics
from edgeclin.gates.bootstrap import Statistic, everyone
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


class Member(Record, frozen=True):
    """One patient or subject: how many samples, and the figure of source model and engine."""

    group: str
    samples: int
    source: float
    engine: float


class Bin(Record, frozen=True):
    """Answers of like confidence: how many, their mean confidence, the share that was right."""

    count: int
    confidence: float
    right: float


class Comparison(Record, frozen=True):
    """One side, the source model or the engine, against the truth.

    `confusion` holds (truth, decision, count) for every pair of label indices that occurs; of
    pictures their pixels. `reliability` is by calibrated confidence, for classification alone.
    """

    confusion: tuple[tuple[int, int, int], ...]
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
    intended_use: str
    profile: str
    refused: bool
    """A gate was missed, and no bundle was written."""
    deployed: str
    """What the device will execute, where that is not the engine that was judged here."""
    made_at: str
    machine: str
    validation: str
    samples: int
    labels: tuple[str, ...]
    runs: int
    """Interleaved runs behind each latency, on one thread."""
    forms: tuple[Form, ...]
    twin: Form | None
    """What a Jetson's CPU executes until its engine is built, where that is a file of its own."""
    size_ratio: float
    """Bytes of the engine in those of the float form that it was made from."""
    latency_ratio: float
    gates: tuple[Gate, ...]
    warnings: tuple[str, ...]
    figures: tuple[Figure, ...]
    groups: tuple[Member, ...]
    """Those where the engine is worst first."""
    source: Comparison | None
    engine: Comparison | None
    confidence: Confidence
    method: str
    method_errors: dict[str, float]
    ranges: tuple[Range, ...]
    worst: tuple[Example, ...]

    @property
    def places(self) -> list[int]:
        """Which validation samples the page shows."""
        return [example.position for example in self.worst]


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
    pairs = truth.ravel() * labels + answers.decisions.ravel()
    counted = zip(*(each.tolist() for each in np.unique(pairs, return_counts=True)), strict=True)
    bins: tuple[Bin, ...] = ()
    if task is Task.CLASSIFICATION:
        temperature = fit_temperature(answers.logits[:, 0], truth[:, 0])
        right = (answers.decisions == truth)[:, 0]
        bins = _bins(answers.confidence(temperature)[:, 0], right)
    confusion = tuple((*divmod(pair, labels), count) for pair, count in counted)
    return Comparison(confusion=confusion, reliability=bins)


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
        source_interval=judge.bootstrap.interval(source),
        engine=engine(everyone(len(truth))),
        engine_interval=judge.bootstrap.interval(engine),
    )


def by_group(judge: Judge, outputs: np.ndarray) -> tuple[Member, ...]:
    """Accuracy (of pictures Dice) in each group, worst engine first."""
    if judge.truth is None or judge.groups is None:
        return ()
    described = judge.description
    metric = Metric(name="dice" if described.task is Task.SEGMENTATION else "accuracy")
    source, engine = (
        metrics.statistic(metric, described.output, judge.answers(one), judge.truth)
        for one in (judge.source, outputs)
    )
    names = np.array(judge.groups)
    found = []
    for name in np.unique(names):
        own = (names == name).astype(np.float64)
        found.append(Member(str(name), int(own.sum()), source(own), engine(own)))
    return tuple(sorted(found, key=lambda member: member.engine))


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


def _twin(proof: Proof) -> Form | None:
    stage, twin = proof.finished.stand_in, proof.finished.twin
    if stage is None or twin is None:
        return None
    return Form(name=TWIN, bytes=stage.path.stat().st_size, latency_ms=twin.uint8_ms)


def report_of(job: Conversion, proof: Proof) -> Report:
    """Everything that the proof of a conversion shows; measures latencies on this machine."""
    judge, proven, quantised = proof.judge, proof.proven, proof.quantised
    base, engine = proof.stages[-1], proven.stage
    sizes = {stage.form: stage.path.stat().st_size for stage in proof.stages}
    engine_bytes = engine.path.stat().st_size
    took = measure(
        BACKEND[base.form],
        {"float": base.path.read_bytes(), "engine": engine.path.read_bytes()},
        np.ascontiguousarray(proof.judged[0]),
    )
    latency = {base.form: took.medians["float"]}
    forms = [
        Form(name=f"float {TITLE[form]}", bytes=size, latency_ms=latency.get(form))
        for form, size in sizes.items()
    ]
    if quantised is not None:
        name = "INT8 engine" if proven.precision == "int8" else "mixed engine"
        forms.append(Form(name=name, bytes=engine_bytes, latency_ms=took.medians["engine"]))
    compared = compare(judge, proven.outputs)
    source, against = compared or (None, None)
    return Report(
        schema=SCHEMA,
        name=job.description.name,
        version=job.description.version,
        intended_use=job.description.intended_use,
        refused=bool(proof.missed) and not job.allow_failed_gates,
        deployed=proof.finished.deployed(job.profile),
        profile=job.profile.name,
        made_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=f"{platform.system()} {platform.machine()}",
        validation=proof.plan.validation.name,
        samples=len(proof.judged),
        labels=job.description.output.labels,
        runs=took.runs,
        forms=tuple(forms),
        twin=_twin(proof),
        size_ratio=engine_bytes / sizes[base.form],
        latency_ratio=took.medians["engine"] / took.medians["float"],
        gates=proof.gates,
        warnings=proof.warnings(job),
        figures=figures(judge, proven.outputs),
        groups=by_group(judge, proven.outputs),
        source=source,
        engine=against,
        confidence=proven.confidence,
        method=proof.record.method,
        method_errors=proof.record.method_errors,
        ranges=() if quantised is None else quantised.ranges,
        worst=worst_examples(judge, proven.outputs),
    )
