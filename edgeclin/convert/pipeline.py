"""`edgeclin convert`: source → float engine → INT8 engine, a gate after each, then the bundle."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from edgeclin import gates
from edgeclin.bundle import SUFFIX, write_bundle
from edgeclin.confidence import fit_confidence, to_logits, unfitted_confidence
from edgeclin.convert import calibration as calibrating
from edgeclin.convert.diagnosis import AUTO, Case, Diagnosis, check_quantiser, diagnose
from edgeclin.convert.quantising import Quantised, quantise
from edgeclin.convert.ranges import Method
from edgeclin.convert.routes import COMPILED, FORM, route
from edgeclin.convert.scratch import scratch_folder
from edgeclin.convert.stages import BACKEND, TITLE, Progress, Stage, Workshop
from edgeclin.convert.worker import converter_names
from edgeclin.datasets import Dataset
from edgeclin.description import Description, Task
from edgeclin.errors import (
    BadFile,
    ConversionFailed,
    EdgeclinError,
    EngineUnavailable,
    GateMissed,
)
from edgeclin.gates import Gate
from edgeclin.manifest import SCHEMA, Confidence, Engine, Golden, Manifest
from edgeclin.model_files import ModelFacts, read_model
from edgeclin.preprocess import Preprocess
from edgeclin.profiles import EngineKind, Profile
from edgeclin.records import Record
from edgeclin.runtime import write_golden
from edgeclin.version import VERSION

if TYPE_CHECKING:
    from edgeclin.convert.edgetpu import Preflight

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
    methods: tuple[Method, ...] = tuple(Method)
    """Ways to choose ranges; with several the one that measures best is kept."""
    quantiser: str = AUTO
    """One of the names in `edgeclin.convert.routes.QUANTISERS`, or `AUTO`: the first, and another
    only where the first misses a gate."""
    mixed_precision: bool = True
    """Whether layers may stay in float where INT8 misses a gate."""
    allow_failed_gates: bool = False
    allow_shared_groups: bool = False
    """Whether calibration and validation may have patients in common; the bundle says so."""


@dataclass(frozen=True, slots=True)
class Converted:
    """The bundle that was written, and what it was proven by."""

    path: Path
    manifest: Manifest
    gates: tuple[Gate, ...]
    diagnosis: Diagnosis | None
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
    gates: tuple[Gate, ...]
    float_layers: tuple[str, ...] = ()
    """Layers of an INT8 engine that were kept in float, because it missed a gate without."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What becomes of a model on its way to a device, without a bundle."""

    gates: tuple[Gate, ...]
    diagnosis: Diagnosis
    warnings: tuple[str, ...]


def convert(job: Conversion, progress: Progress = lambda _: None) -> Converted:
    """Convert, verify and write a bundle; nothing is written unless every gate holds.

    Raises:
        GateMissed: an engine differs too much from its source (unless that is allowed).
        ConversionFailed: the converter crashed or refused, or the temporary folder is full.
        EngineUnavailable: no converter or backend for this profile and model.
        BadFile: model, data or description do not fit together.
    """
    with scratch_folder() as folder:
        proof = _prove(folder, job, progress)
        missed = proof.missed
        if missed and not job.allow_failed_gates:
            advice = () if proof.diagnosis is None else proof.diagnosis.sentences
            raise GateMissed(missed, proof.verified.gates, advice)
        return _written(job, proof, progress)


def examine(job: Conversion, progress: Progress = lambda _: None) -> Examined:
    """Do all that `convert` does but write a bundle, whether gates hold or not.

    Raises:
        ConversionFailed, EngineUnavailable, BadFile: as `convert` does.
        EdgeclinError: the profile's engine computes in float.
    """
    if job.profile.numeric.precision != "int8":
        raise EdgeclinError(
            f"profile {job.profile.name} computes in {job.profile.numeric.precision}: there is "
            "nothing quantised to diagnose"
        )
    with scratch_folder() as folder:
        proof = _prove(folder, job, progress)
        assert proof.diagnosis is not None
        if not proof.diagnosis.layers:
            raise ConversionFailed(proof.diagnosis.breaking)
        return Examined(proof.verified.gates, proof.diagnosis, proof.record.warnings)


@dataclass(frozen=True, slots=True)
class _Proof:
    """Everything that is known of a conversion before its bundle is written."""

    calibration: Dataset
    validation: Dataset
    workshop: Workshop
    stages: Sequence[Stage]
    quantised: Quantised | None
    record: calibrating.CalibrationRecord
    verified: _Verified
    diagnosis: Diagnosis | None

    @property
    def missed(self) -> tuple[str, ...]:
        return tuple(gate.sentence for gate in self.verified.gates if not gate.passed)


def _prove(folder: Path, job: Conversion, progress: Progress) -> _Proof:
    facts = read_model(job.model)
    way = route(facts.source, FORM[job.profile.engine], converter_names())
    _check_fit(job, facts)
    first_quantiser = check_quantiser(job.quantiser, job.profile)
    calibration, validation = job.calibration, job.validation
    if validation is None:
        calibration, validation = calibrating.split(calibration)
    else:
        calibrating.refuse_overlap(calibration, validation, job.allow_shared_groups)
    truth = validation.truth(job.description.output.labels)
    calibration.truth(job.description.output.labels)
    preprocess = Preprocess(job.description.inputs[0])
    progress(f"preparing {len(calibration)} calibration and {len(validation)} validation samples")
    prepared = calibrating.prepare(calibration, preprocess, folder / "calibration.npy")
    judged = calibrating.prepare(validation, preprocess, folder / "validation.npy")
    workshop = Workshop(folder, job.profile, progress)
    source, stages = workshop.float_stages(
        Stage(facts.source, job.model), way, folder / "validation.npy"
    )
    _check_outputs(source, job)
    quantised, diagnosis = None, None
    if job.profile.numeric.precision == "int8":
        quantised = quantise(
            workshop,
            stages[-1],
            source,
            folder / "calibration.npy",
            judged,
            job.methods,
            first_quantiser,
        )
        data_gate = gates.calibration_gate(prepared, judged)
        progress("judging the INT8 engine on held-out samples")
        case = Case(
            workshop=workshop,
            model=stages[-1],
            source=source,
            judged=judged,
            validation=folder / "validation.npy",
            judge=lambda outputs: _of_engine(
                job, "INT8 engine", gates.INT8_MAE, source, outputs, truth, validation.groups
            ),
            data_gate=data_gate,
            progress=progress,
            quantiser=job.quantiser,
            mixed_precision=job.mixed_precision,
        )
        quantised, diagnosis = diagnose(case, quantised)
    record = calibrating.record(calibration, validation, prepared, judged, quantised)
    progress("judging the engines on held-out samples")
    verified = _verify(job, source, stages, quantised, truth, validation.groups)
    if diagnosis is not None:
        verified = verified.with_first(data_gate)
        diagnosis = diagnosis.advised(verified.gates, record.instability, record.validation_outside)
    return _Proof(calibration, validation, workshop, stages, quantised, record, verified, diagnosis)


def _written(job: Conversion, proof: _Proof, progress: Progress) -> Converted:
    from edgeclin.convert.sbom import write_sbom

    progress("writing the bundle")
    validation, verified, stages = proof.validation, proof.verified, proof.stages
    golden = _golden(validation, verified)
    manifest = _manifest(job, proof.workshop.tools, verified, golden, proof.missed)
    engine = verified.stage.path.read_bytes()
    verification = Verification(
        validation=validation.name,
        samples=len(validation),
        machine=f"{platform.system()} {platform.machine()}",
        engine=verified.stage.engine,
        float_bytes=stages[-1].path.stat().st_size,
        engine_bytes=len(engine),
        gates=verified.gates,
        float_layers=verified.float_layers,
    )
    files = {
        manifest.primary.file: engine,
        "golden.npz": golden.data,
        "calibration.json": _json(proof.record),
        "verification.json": _json(verification),
        "sbom.json": write_sbom(
            manifest.name,
            manifest.version,
            _model_sha256(job.model),
            _sha256(engine),
            manifest.tools,
        ),
    }
    if proof.diagnosis is not None:
        files["layers.json"] = _json(proof.diagnosis)
    mapping = _predict_mapping(job.profile, engine)
    if mapping is not None:
        files["edgetpu.json"] = _json(mapping)
    path = write_bundle(job.output, manifest, files, job.signer)
    return Converted(
        path=path,
        manifest=manifest,
        gates=verified.gates,
        diagnosis=proof.diagnosis,
        warnings=(
            *proof.record.warnings,
            *_of_floats(proof.quantised),
            *_of_mixed(proof.diagnosis),
            *_of_mapping(mapping),
        ),
        engine_bytes=verification.engine_bytes,
        float_bytes=verification.float_bytes,
    )


def _predict_mapping(profile: Profile, engine: bytes) -> Preflight | None:
    if profile.engine is not EngineKind.TFLITE_EDGETPU:
        return None
    from edgeclin.convert.edgetpu import preflight

    return preflight(engine, profile.limits.on_chip_mb or 0.0)


def _of_mapping(mapping: Preflight | None) -> list[str]:
    if mapping is None:
        return []
    end = mapping.end
    because = "" if end is None else f"; {end.operator} ({end.output}): {end.reason}; {end.remedy}"
    return [f"{mapping.sentence}{because}"]


def _of_floats(quantised: Quantised | None) -> list[str]:
    if quantised is None or quantised.kept or not quantised.floats:
        return []
    counted = ", ".join(
        f"{count} {name}" for name, count in sorted(Counter(quantised.floats).items())
    )
    return [f"the quantiser left operators in float: {counted}"]


def _of_mixed(diagnosis: Diagnosis | None) -> list[str]:
    if diagnosis is None:
        return []
    if not diagnosis.layers:
        return [diagnosis.breaking]
    if diagnosis.mixed is None or not diagnosis.mixed.kept:
        return []
    missed = "; ".join(gate.sentence for gate in diagnosis.missed)
    return [f"all in INT8 it misses {missed}; {diagnosis.mixed.said}"]


@dataclass(frozen=True, slots=True)
class _Verified:
    """The engine that goes into the bundle, judged."""

    stage: Stage
    outputs: np.ndarray
    precision: Literal["int8", "mixed", "float32"]
    gates: tuple[Gate, ...]
    confidence: Confidence
    float_layers: tuple[str, ...] = ()

    def with_first(self, gate: Gate) -> _Verified:
        return replace(self, gates=(gate, *self.gates))


def _verify(
    job: Conversion,
    source: np.ndarray,
    stages: Sequence[Stage],
    quantised: Quantised | None,
    truth: np.ndarray | None,
    groups: tuple[str, ...] | None,
) -> _Verified:
    """Judge every stage's answers to the validation samples by its gates."""
    description = job.description
    found = [
        gates.error_gate(
            f"float {TITLE[stage.form]}", source, stage.outputs, gates.FLOAT_EXPORT_MAE
        )
        for stage in stages
        if stage.outputs is not None
    ]
    engine = stages[-1] if quantised is None else quantised.stage
    outputs = engine.outputs
    assert outputs is not None
    precision: Literal["int8", "mixed", "float32"] = job.profile.numeric.precision
    float_layers: tuple[str, ...] = ()
    name, limit = "float engine", None
    if quantised is not None:
        name, limit = "INT8 engine", gates.INT8_MAE
        if quantised.kept:
            name, precision, float_layers = "mixed engine", "mixed", quantised.kept
    found += _of_engine(job, name, limit, source, outputs, truth, groups)
    logits = to_logits(outputs, description.output.activation)
    doubt = description.doubt
    confidence = unfitted_confidence(doubt.max_error, doubt.audit_share)
    if truth is not None:
        confidence = fit_confidence(logits, truth, doubt.max_error, doubt.audit_share)
    return _Verified(engine, outputs, precision, tuple(found), confidence, float_layers)


def _of_engine(
    job: Conversion,
    name: str,
    limit: float | None,
    source: np.ndarray,
    outputs: np.ndarray,
    truth: np.ndarray | None,
    groups: tuple[str, ...] | None,
) -> list[Gate]:
    """The gates of the engine that is deployed, by its answers to the validation samples."""
    found = [] if limit is None else [gates.error_gate(name, source, outputs, limit)]
    activation = job.description.output.activation
    reference, logits = to_logits(source, activation), to_logits(outputs, activation)
    found.append(gates.agreement_gate(name, reference, logits, gates.AGREEMENT))
    if truth is not None:
        margin = job.description.metric.margin
        found.append(gates.accuracy_gate(name, reference, logits, truth, margin))
        if groups is not None:
            worst = gates.worst_group_gate(
                name, reference, logits, truth, np.array(groups), gates.WORST_GROUP_MARGIN
            )
            found.append(worst)
    return found


def _check_fit(job: Conversion, facts: ModelFacts) -> None:
    description = job.description
    if description.task is not Task.CLASSIFICATION:
        raise EngineUnavailable(
            f"the task {description.task.value} cannot be verified by this version, only "
            f"{Task.CLASSIFICATION.value}"
        )
    if len(description.inputs) != 1 or len(facts.inputs) != 1:
        raise BadFile(
            job.model,
            f"{len(facts.inputs)} inputs, {len(description.inputs)} described",
            "this version supports one",
        )
    shape, described = facts.inputs[0][1], description.inputs[0].shape
    if None not in shape and shape != described:
        raise BadFile(
            job.model,
            f"takes the shape {list(shape)}, the description says {list(described)}",
            "mend inputs.shape in model.toml",
        )


def _check_outputs(source: np.ndarray, job: Conversion) -> None:
    labels = len(job.description.output.labels)
    width = source.shape[1]
    if width != labels and not (width == 1 and labels == 2):
        raise BadFile(
            job.model,
            f"answers with {width} values, the description has {labels} labels",
            "mend output.labels in model.toml",
        )
    if not np.isfinite(source).all():
        raise ConversionFailed(f"{job.model}: the source model's own outputs are not finite")


@dataclass(frozen=True, slots=True)
class _GoldenVectors:
    data: bytes
    samples: int
    tolerance: float


def _golden(validation: Dataset, verified: _Verified) -> _GoldenVectors:
    """The first validation samples of each predicted class in turn, so that all are in it."""
    decisions = verified.outputs.argmax(axis=1)
    rank = np.zeros(len(decisions), dtype=int)
    for label in np.unique(decisions):
        members = np.flatnonzero(decisions == label)
        rank[members] = np.arange(len(members))
    chosen = np.argsort(rank, kind="stable")[:GOLDEN_SAMPLES].tolist()
    spread = float(np.ptp(verified.outputs)) or 1.0
    tolerance = spread * (_GOLDEN_STEPS / 255 if verified.precision != "float32" else _FLOAT_GOLDEN)
    data = write_golden([validation[index] for index in chosen], verified.outputs[chosen])
    return _GoldenVectors(data, len(chosen), tolerance)


def _manifest(
    job: Conversion,
    tools: Mapping[str, str],
    verified: _Verified,
    golden: _GoldenVectors,
    missed: tuple[str, ...],
) -> Manifest:
    description = job.description
    engine = Engine(
        backend=BACKEND[verified.stage.form],
        file=f"engine{verified.stage.path.suffix}",
        precision=verified.precision,
        float_layers=verified.float_layers,
        role="cpu-twin" if job.profile.engine in COMPILED else "primary",
    )
    return Manifest(
        schema=SCHEMA,
        name=description.name,
        version=description.version,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        task=description.task,
        intended_use=description.intended_use,
        described=job.described,
        profile=job.profile,
        engines=(
            *_uncompiled(job.profile, engine),
            engine,
        ),
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


def _uncompiled(profile: Profile, twin: Engine) -> list[Engine]:
    """The engine for the accelerator, which the twin becomes once it is compiled."""
    if twin.role == "primary":
        return []
    made = msgspec.structs.replace(
        twin, backend=profile.engine.value, role="primary", state="not compiled"
    )
    return [made]


def default_output(description: Description, profile: Profile) -> Path:
    """Where a bundle goes when nobody says: NAME-VERSION-PROFILE.edgeclin in this folder."""
    return Path(f"{description.name}-{description.version}-{profile.name}{SUFFIX}")


def _json(value: Record) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def _model_sha256(model: Path) -> str:
    """Of a file's bytes, or of a folder's files with their names."""
    if not model.is_dir():
        return _sha256(model.read_bytes())
    files = sorted(file for file in model.rglob("*") if file.is_file())
    listing = [
        f"{file.relative_to(model).as_posix()} {_sha256(file.read_bytes())}" for file in files
    ]
    return _sha256("\n".join(listing).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
