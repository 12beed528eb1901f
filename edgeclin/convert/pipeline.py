"""`edgeclin convert`: source → float engine → INT8 engine, a gate after each, then the bundle."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeclin.bundle import SUFFIX, write_bundle
from edgeclin.convert import calibration as calibrating
from edgeclin.convert import cautions
from edgeclin.convert.engines import deploy, finish
from edgeclin.convert.judging import Judge, judge_calibration, judge_samples
from edgeclin.convert.quantising import Quantised, quantise
from edgeclin.convert.ranges import Method
from edgeclin.convert.routes import FORM, route
from edgeclin.convert.scratch import scratch_folder
from edgeclin.convert.stages import TITLE, Progress, Stage, Workshop
from edgeclin.convert.twins import Twin
from edgeclin.convert.worker import converter_names
from edgeclin.datasets import Dataset
from edgeclin.description import Description, Output, Task
from edgeclin.errors import BadFile, ConversionFailed, EngineUnavailable, GateMissed
from edgeclin.gates import Gate, Margins
from edgeclin.gates.gate import missed as missed_gates
from edgeclin.manifest import SCHEMA, Confidence, Engine, Golden, Manifest
from edgeclin.model_files import ModelFacts, companions, fix_shape, read_model
from edgeclin.preprocess import Preprocess
from edgeclin.profiles import Profile
from edgeclin.records import Record
from edgeclin.runtime import write_golden
from edgeclin.toolchains import needed_by, require
from edgeclin.version import VERSION

VERIFIED_TASKS = (Task.CLASSIFICATION, Task.SEGMENTATION)
GOLDEN_SAMPLES = 16
_GOLDEN_STEPS = 8
"""XNNPACK and the built-in kernels were seen up to 7 steps of 1/255 of the range apart."""
_FLOAT_GOLDEN = 1e-3


@dataclass(frozen=True, slots=True)
class Conversion:
    """What to convert, for which device, proven on what."""

    model: Path
    profile: Profile
    description: Description
    described: bool
    calibration: Dataset
    validation: Dataset | None
    output: Path
    signer: Any | None
    margins: Margins
    """The limits of the gates."""
    methods: tuple[Method, ...] = tuple(Method)
    """Ways to choose ranges; with several the one that measures best is kept."""
    allow_failed_gates: bool = False
    allow_shared_groups: bool = False
    """Whether calibration and validation may have patients in common; the bundle says so."""
    input_shape: tuple[int, ...] | None = None
    """Sizes for a model whose file leaves axes open, without the batch axis."""


@dataclass(frozen=True, slots=True)
class Converted:
    """The bundle that was written, and what it was proven by."""

    path: Path
    manifest: Manifest
    gates: tuple[Gate, ...]
    warnings: tuple[str, ...]
    engine_bytes: int
    float_bytes: int


class Verification(Record, frozen=True):
    """What a bundle remembers of its proof: where it ran, and every gate."""

    validation: str
    samples: int
    machine: str
    engine: str
    float_bytes: int
    engine_bytes: int
    margins: Margins
    gates: tuple[Gate, ...]
    twin: Twin | None = None


def convert(job: Conversion, progress: Progress = lambda _: None) -> Converted:
    """Convert, verify and write a bundle; nothing is written unless every gate holds.

    Raises:
        GateMissed: an engine differs too much from its source (unless that is allowed).
        ConversionFailed: the converter crashed or refused, or the temporary folder is full.
        EngineUnavailable: no converter or backend for this profile and model.
        BadFile: model, data or description do not fit together.
    """
    facts = fix_shape(job.model, read_model(job.model), job.input_shape)
    way = route(facts.source, FORM[job.profile.engine], converter_names())
    _require_toolchains(way)
    _check_fit(job, facts)
    calibration, validation = calibrating.samples_of(
        job.calibration, job.validation, job.description.inputs[0], job.allow_shared_groups
    )
    sets = _Sets.of(calibration, validation, job.description)
    with scratch_folder() as folder:
        return _convert_in(folder, job, facts, way, sets, progress)


@dataclass(frozen=True, slots=True)
class _Sets:
    """Calibration and validation data, and their label indices, int [n, decisions]."""

    calibration: Dataset
    validation: Dataset
    calibration_truth: NDArray[np.int64] | None
    truth: NDArray[np.int64] | None

    @classmethod
    def of(cls, calibration: Dataset, validation: Dataset, description: Description) -> _Sets:
        """Raises BadFile for a label that the description does not name."""
        labels = description.output.labels
        truths = [data.truth(labels) for data in (calibration, validation)]
        columns = [None if truth is None else truth.reshape(len(truth), -1) for truth in truths]
        return cls(calibration, validation, *columns)

    def names(self, output: Output) -> tuple[list[str] | None, list[str] | None]:
        """The label of each calibration and validation sample; label maps have none."""
        return _names(self.calibration_truth, output), _names(self.truth, output)


def _names(truth: NDArray[np.int64] | None, output: Output) -> list[str] | None:
    if truth is None or truth.shape[1] > 1:
        return None
    return [output.labels[index] for index in truth[:, 0]]


def _convert_in(
    folder: Path,
    job: Conversion,
    facts: ModelFacts,
    way: tuple[str, ...],
    sets: _Sets,
    progress: Progress,
) -> Converted:
    from edgeclin.convert.sbom import write_sbom

    calibration, validation = sets.calibration, sets.validation
    preprocess = Preprocess(job.description.inputs[0])
    progress(f"preparing {len(calibration)} calibration and {len(validation)} validation samples")
    prepared = calibrating.prepare(calibration, preprocess, folder / "calibration.npy")
    judged = calibrating.prepare(validation, preprocess, folder / "validation.npy")
    int8 = job.profile.numeric.precision == "int8"
    names, wanted = sets.names(job.description.output)
    found = []
    if int8:
        found = judge_samples(prepared, judged, names, wanted, job.margins.calibration)
    _refuse(job, found)
    workshop = Workshop(folder, job.profile, progress)
    source, stages = workshop.float_stages(
        Stage(facts.source, job.model), way, folder / "validation.npy", preprocess.shape
    )
    judge = Judge(job.description, job.margins, source, sets.truth, validation.groups)
    _check_outputs(judge, job)
    quantised = None
    if int8:
        quantised = quantise(
            workshop, stages[-1], source, folder / "calibration.npy", judged, job.methods
        )
        found += judge_calibration(judge, quantised.answers, sets.calibration_truth)
    record = calibrating.record(calibration, validation, prepared, judged, quantised)
    progress("judging the engines on held-out samples")
    verified = _verify(job, judge, stages, quantised, found)
    missed = _refuse(job, verified.gates)
    finished = finish(workshop, stages[-1], quantised, judged, judge, verified.confidence)
    verified = replace(verified, gates=(*verified.gates, *finished.gates))
    progress("writing the bundle")
    golden = _golden(validation, verified, finished.stand_in)
    deployed = deploy(job.profile, verified.stage, finished)
    manifest = _manifest(job, workshop.tools, verified, golden, missed, deployed.engines)
    engine = verified.stage.path.read_bytes()
    verification = Verification(
        validation=validation.name,
        samples=len(validation),
        machine=f"{platform.system()} {platform.machine()}",
        engine=verified.stage.engine,
        float_bytes=stages[-1].path.stat().st_size,
        engine_bytes=len(engine),
        margins=job.margins,
        gates=verified.gates,
        twin=finished.twin,
    )
    files = {
        **deployed.files,
        "golden.npz": golden.data,
        "calibration.json": _json(record),
        "verification.json": _json(verification),
        "sbom.json": write_sbom(
            manifest.name,
            manifest.version,
            _model_sha256(job.model),
            _sha256(engine),
            manifest.tools,
        ),
    }
    if finished.report is not None:
        files["edgetpu.json"] = _json(finished.report)
    path = write_bundle(job.output, manifest, files, job.signer)
    return Converted(
        path=path,
        manifest=manifest,
        gates=verified.gates,
        warnings=(
            *record.warnings,
            *cautions.of_gates(job.margins, job.description.metric, sets.truth is not None),
            *_of_floats(quantised),
            *finished.warnings,
        ),
        engine_bytes=verification.engine_bytes,
        float_bytes=verification.float_bytes,
    )


def _refuse(job: Conversion, gates: Sequence[Gate]) -> tuple[str, ...]:
    """What was missed, where that is allowed.

    Raises:
        GateMissed: it is not.
    """
    sentences = missed_gates(gates)
    if sentences and not job.allow_failed_gates:
        raise GateMissed(sentences, gates)
    return sentences


def _of_floats(quantised: Quantised | None) -> list[str]:
    if quantised is None or not quantised.floats:
        return []
    counted = ", ".join(
        f"{count} {name}" for name, count in sorted(Counter(quantised.floats).items())
    )
    return [f"the quantiser left operators in float: {counted}"]


@dataclass(frozen=True, slots=True)
class _Verified:
    """The engine that goes into the bundle, judged."""

    stage: Stage
    outputs: np.ndarray
    precision: Literal["int8", "float32"]
    gates: tuple[Gate, ...]
    confidence: Confidence


def _verify(
    job: Conversion,
    judge: Judge,
    stages: Sequence[Stage],
    quantised: Quantised | None,
    found: Sequence[Gate],
) -> _Verified:
    """Judge every stage's answers to the validation samples.

    Args:
        found: the gates of the calibration data.
    """
    forms = [
        judge.float_form(f"float {TITLE[stage.form]}", stage.outputs)
        for stage in stages
        if stage.outputs is not None
    ]
    engine = stages[-1] if quantised is None else quantised.stage
    outputs = engine.outputs
    assert outputs is not None
    name = "float engine" if quantised is None else "INT8 engine"
    judged = judge.engine(name, outputs, quantised=quantised is not None)
    gates = (*found, *judge.source_model(), *forms, *judged)
    precision = job.profile.numeric.precision
    return _Verified(engine, outputs, precision, gates, judge.confidence(outputs))


def _require_toolchains(way: tuple[str, ...]) -> None:
    """Before the long work: what one of the converters runs must be installed."""
    for toolchain in needed_by(way):
        require(toolchain)


def _check_fit(job: Conversion, facts: ModelFacts) -> None:
    description = job.description
    if description.task not in VERIFIED_TASKS:
        raise EngineUnavailable(
            f"the task {description.task.value} cannot be verified by this version, only "
            f"{' and '.join(task.value for task in VERIFIED_TASKS)}"
        )
    if len(description.inputs) != 1 or len(facts.inputs) != 1:
        raise BadFile(
            job.model,
            f"{len(facts.inputs)} inputs, {len(description.inputs)} described",
            "this version supports one",
        )
    shape, described = facts.inputs[0][1], description.inputs[0].shape
    if shape != described:
        raise BadFile(
            job.model,
            f"takes the shape {list(shape or ())}, the description says {list(described)}",
            "mend inputs.shape in model.toml",
        )


def _check_outputs(judge: Judge, job: Conversion) -> None:
    try:
        answers = judge.answers(judge.source)
    except ValueError as exc:
        raise BadFile(
            job.model,
            f"answers with {judge.source.shape[1]} values, the description has "
            f"{len(job.description.output.labels)} labels",
            "mend output.labels in model.toml",
        ) from exc
    if not np.isfinite(judge.source).all():
        raise ConversionFailed(f"{job.model}: the source model's own outputs are not finite")
    if judge.truth is not None and judge.truth.shape != answers.decisions.shape:
        raise BadFile(
            job.model,
            f"decides {answers.decisions.shape[1]} times a sample, the validation data have "
            f"{judge.truth.shape[1]} labels a sample",
        )


@dataclass(frozen=True, slots=True)
class _GoldenVectors:
    data: bytes
    samples: int
    tolerance: float


def _golden(validation: Dataset, verified: _Verified, twin: Stage | None) -> _GoldenVectors:
    """The first validation samples of each predicted class in turn, so that all are in it."""
    decisions = verified.outputs.argmax(axis=1)
    rank = np.zeros(len(decisions), dtype=int)
    for label in np.unique(decisions):
        members = np.flatnonzero(decisions == label)
        rank[members] = np.arange(len(members))
    chosen = np.argsort(rank, kind="stable")[:GOLDEN_SAMPLES].tolist()
    spread = float(np.ptp(verified.outputs)) or 1.0
    tolerance = spread * (_GOLDEN_STEPS / 255 if verified.precision == "int8" else _FLOAT_GOLDEN)
    inputs = [validation[index] for index in chosen]
    other = None if twin is None or twin.outputs is None else twin.outputs[chosen]
    data = write_golden(inputs, verified.outputs[chosen], other)
    return _GoldenVectors(data, len(chosen), tolerance)


def _manifest(
    job: Conversion,
    tools: Mapping[str, str],
    verified: _Verified,
    golden: _GoldenVectors,
    missed: tuple[str, ...],
    engines: tuple[Engine, ...],
) -> Manifest:
    description = job.description
    return Manifest(
        schema=SCHEMA,
        name=description.name,
        version=description.version,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        task=description.task,
        intended_use=description.intended_use,
        described=job.described,
        profile=job.profile,
        engines=engines,
        inputs=description.inputs,
        output=description.output,
        metric=description.metric,
        confidence=verified.confidence,
        golden=Golden(file="golden.npz", samples=golden.samples, tolerance=golden.tolerance),
        gates_missed=missed,
        tools={"edgeclin": VERSION, **tools},
        licence=description.provenance.licence,
        source=description.provenance.source,
        files={},
    )


def default_output(description: Description, profile: Profile) -> Path:
    """Where a bundle goes when nobody says: NAME-VERSION-PROFILE.edgeclin in this folder."""
    return Path(f"{description.name}-{description.version}-{profile.name}{SUFFIX}")


def _json(value: Record) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def _model_sha256(model: Path) -> str:
    """Of a file's bytes, or of several files with their names."""
    if model.is_dir():
        root, files = model, sorted(file for file in model.rglob("*") if file.is_file())
    else:
        root, files = model.parent, [model, *companions(model)]
        if len(files) == 1:
            return _sha256(model.read_bytes())
    listing = [
        f"{file.relative_to(root).as_posix()} {_sha256(file.read_bytes())}" for file in files
    ]
    return _sha256("\n".join(listing).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
