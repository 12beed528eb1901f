"""From a plan to a proven engine: source → float forms → INT8 engine, a gate after each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edgeclin.convert import calibration as calibrating
from edgeclin.convert import cautions
from edgeclin.convert.colours import judge_colours
from edgeclin.convert.diagnosis import Case, Diagnosis, diagnose
from edgeclin.convert.engines import Finished, finish
from edgeclin.convert.guarding import Guarded, guarded
from edgeclin.convert.job import Conversion
from edgeclin.convert.judging import Judge, judge_calibration, judge_samples
from edgeclin.convert.model_copies import copy_model, model_sha256
from edgeclin.convert.planning import Plan, check_values
from edgeclin.convert.quantising import Quantised, quantise
from edgeclin.convert.stages import TITLE, Progress, Stage, Workshop
from edgeclin.convert.tolerance import Kernels, between_kernels
from edgeclin.errors import BadFile, ConversionFailed, GateMissed
from edgeclin.gates import Gate
from edgeclin.gates.gate import missed
from edgeclin.manifest import Confidence
from edgeclin.preprocess import Preprocess

CALIBRATION, VALIDATION, SOURCE = "calibration.npy", "validation.npy", "source"
INT8 = "INT8 engine"


@dataclass(frozen=True, slots=True)
class Proven:
    """The engine that is deployed, judged.

    Attributes:
        float_layers: tensors that an INT8 engine goes on computing in float.
    """

    stage: Stage
    outputs: np.ndarray
    precision: Literal["int8", "mixed", "float32"]
    gates: tuple[Gate, ...]
    confidence: Confidence
    float_layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """Everything that is known of a conversion before its bundle is written.

    Attributes:
        model_sha256: of the copy of the model that was converted.
        judged: prepared validation samples, float32 [n, …].
        stages: every float form; the last is the one that the engine is made from.
        finished: what the accelerator's engine gets beyond the one that was judged.
    """

    plan: Plan
    model_sha256: str
    judge: Judge
    judged: np.ndarray
    workshop: Workshop
    stages: Sequence[Stage]
    quantised: Quantised | None
    record: calibrating.CalibrationRecord
    proven: Proven
    diagnosis: Diagnosis | None
    finished: Finished
    kernels: Kernels
    guarded: Guarded

    @property
    def gates(self) -> tuple[Gate, ...]:
        return (*self.proven.gates, *self.finished.gates)

    @property
    def missed(self) -> tuple[str, ...]:
        return missed(self.gates)

    @property
    def advice(self) -> tuple[str, ...]:
        return () if self.diagnosis is None else self.diagnosis.sentences

    def warnings(self, job: Conversion) -> tuple[str, ...]:
        """All that somebody should know who relies on the engine."""
        labelled = self.judge.truth is not None
        return (
            *cautions.of_labels(self.plan.validation, job.description.output.labels),
            *self.record.warnings,
            *cautions.of_gates(job.margins, job.description.metric, labelled),
            *cautions.of_judging(self.judge, self.proven.outputs, self.proven.confidence),
            *cautions.of_size(self.proven.stage.path, self.stages[-1].path, job.profile),
            *_of_floats(self.quantised),
            *_of_mixed(self.diagnosis),
            *self.finished.warnings,
            *self.kernels.warnings,
            *self.guarded.warnings,
        )


def prove(folder: Path, job: Conversion, plan: Plan, progress: Progress, *, lenient: bool) -> Proof:
    """Do all the work of a conversion in `folder`, and judge every stage.

    Args:
        lenient: go on although the calibration data miss a gate.

    Raises:
        GateMissed: the calibration data miss a gate.
        ConversionFailed: a converter crashed or refused.
        BadFile: the model answers otherwise than described.
    """
    preprocess = Preprocess(job.description.inputs[0])
    (folder / SOURCE).mkdir()
    model = copy_model(job.model, folder / SOURCE)
    calibration, validation = plan.calibration, plan.validation
    progress(f"preparing {len(calibration)} calibration and {len(validation)} validation samples")
    prepared = calibrating.prepare(calibration, preprocess, folder / CALIBRATION)
    judged = calibrating.prepare(validation, preprocess, folder / VALIDATION)
    data_gates = _judge_samples(job, plan, prepared, judged)
    if missed(data_gates) and not lenient:
        raise GateMissed(missed(data_gates), data_gates)
    workshop = Workshop(folder, job.profile, progress)
    source, stages = workshop.float_stages(
        Stage(plan.facts.source, model), plan.way, folder / VALIDATION, preprocess.shape
    )
    judge = Judge(
        job.description,
        job.margins,
        source,
        plan.truth,
        validation.groups,
        validation.recordings,
    )
    _check_outputs(judge, job)
    source_gates = [*judge.source_model(), *judge_colours(judge, stages[-1], judged)]
    quantised, diagnosis = None, None
    if job.quantises:
        quantised = quantise(
            workshop,
            stages[-1],
            source,
            folder / CALIBRATION,
            judged,
            job.methods,
            plan.quantiser,
        )
        data_gates += judge_calibration(judge, quantised.calibrated.answers, plan.calibration_truth)
        progress("judging the INT8 engine on held-out samples")
        case = Case(
            workshop=workshop,
            model=stages[-1],
            source=source,
            judged=judged,
            validation=folder / VALIDATION,
            judge=lambda outputs: judge.engine(INT8, outputs, quantised=True),
            data_gates=data_gates,
            progress=progress,
            quantiser=job.quantiser,
            mixed_precision=job.mixed_precision,
        )
        quantised, diagnosis = diagnose(case, quantised)
    record = calibrating.record(calibration, validation, prepared, judged, quantised)
    progress("judging the engines on held-out samples")
    proven = _proven(job, judge, stages, quantised, [*data_gates, *source_gates])
    if diagnosis is not None:
        diagnosis = diagnosis.advised(proven.gates, record.instability, record.validation_outside)
    finished = finish(workshop, stages[-1], quantised, judged, judge, proven.confidence)
    return Proof(
        plan,
        model_sha256(model),
        judge,
        judged,
        workshop,
        stages,
        quantised,
        record,
        proven,
        diagnosis,
        finished,
        between_kernels(proven.stage, judged),
        guarded(judge, calibration, validation, proven.outputs, proven.confidence),
    )


def _judge_samples(
    job: Conversion, plan: Plan, prepared: np.ndarray, judged: np.ndarray
) -> list[Gate]:
    if not job.quantises:
        return []
    names, wanted = plan.names(job.description.output)
    return judge_samples(prepared, judged, names, wanted, job.margins)


def _check_outputs(judge: Judge, job: Conversion) -> None:
    check_values(job, judge.source.shape[1])
    answers = judge.answers(judge.source)
    if not np.isfinite(judge.source).all():
        raise ConversionFailed(f"{job.model}: the source model's own outputs are not finite")
    if judge.truth is not None and judge.truth.shape != answers.decisions.shape:
        raise BadFile(
            job.model,
            f"decides {answers.decisions.shape[1]} times a sample, the validation data have "
            f"{judge.truth.shape[1]} labels a sample",
        )


def _proven(
    job: Conversion,
    judge: Judge,
    stages: Sequence[Stage],
    quantised: Quantised | None,
    before: Sequence[Gate],
) -> Proven:
    """Judge every stage's answers to the validation samples.

    Args:
        before: gates of the data and of the source model.
    """
    forms = [
        judge.float_form(f"float {TITLE[stage.form]}", stage.outputs)
        for stage in stages
        if stage.outputs is not None
    ]
    engine = stages[-1] if quantised is None else quantised.stage
    outputs = engine.outputs
    assert outputs is not None
    name = "float engine"
    kept: tuple[str, ...] = ()
    precision: Literal["int8", "mixed", "float32"] = job.profile.numeric.precision
    if quantised is not None:
        name, kept = INT8, quantised.kept
    if kept:
        name, precision = "mixed engine", "mixed"
    gates = (
        *before,
        *forms,
        *judge.engine(name, outputs, quantised=quantised is not None),
    )
    return Proven(engine, outputs, precision, gates, judge.confidence(outputs), kept)


def _of_floats(quantised: Quantised | None) -> Iterator[str]:
    if quantised is None or quantised.kept or not quantised.floats:
        return
    counted = ", ".join(
        f"{count} {name}" for name, count in sorted(Counter(quantised.floats).items())
    )
    yield f"the quantiser left operators in float: {counted}"


def _of_mixed(diagnosis: Diagnosis | None) -> Iterator[str]:
    if diagnosis is None:
        return
    if not diagnosis.layers:
        yield diagnosis.breaking
    elif diagnosis.mixed is not None and diagnosis.mixed.kept:
        sentences = "; ".join(gate.sentence for gate in diagnosis.missed)
        yield f"all in INT8 it misses {sentences}; {diagnosis.mixed.said}"
