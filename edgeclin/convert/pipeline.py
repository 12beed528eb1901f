"""`edgeclin convert`: source → float engine → INT8 engine, a gate after each, then the bundle."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeclin import gates
from edgeclin.backends import Backend, load_backend
from edgeclin.bundle import SUFFIX, write_bundle
from edgeclin.confidence import fit_confidence, to_logits, unfitted_confidence
from edgeclin.convert import calibration as calibrating
from edgeclin.convert.request import Outcome, Request
from edgeclin.convert.scratch import scratch_folder
from edgeclin.convert.worker import require_converter, run_converter
from edgeclin.datasets import Dataset
from edgeclin.description import Description, Task
from edgeclin.errors import BadFile, ConversionFailed, EngineUnavailable, GateMissed
from edgeclin.gates import Gate
from edgeclin.manifest import SCHEMA, Confidence, Engine, Golden, Manifest
from edgeclin.model_files import ModelFacts, read_model
from edgeclin.preprocess import Preprocess
from edgeclin.profiles import EngineKind, Profile
from edgeclin.records import Record
from edgeclin.runtime import write_golden
from edgeclin.version import VERSION

GOLDEN_SAMPLES = 16
_GOLDEN_STEPS = 8
"""XNNPACK and the built-in kernels were seen up to 7 steps of 1/255 of the range apart."""
_FLOAT_GOLDEN = 1e-3
_BACKENDS = {EngineKind.TFLITE: "tflite"}

Progress = Callable[[str], None]


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
    allow_failed_gates: bool = False


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
    gates: tuple[Gate, ...]


def convert(job: Conversion, progress: Progress = lambda _: None) -> Converted:
    """Convert, verify and write a bundle; nothing is written unless every gate holds.

    Raises:
        GateMissed: an engine differs too much from its source (unless that is allowed).
        ConversionFailed: the converter crashed or refused, or the temporary folder is full.
        EngineUnavailable: no converter or backend for this profile and model.
        BadFile: model, data or description do not fit together.
    """
    facts = read_model(job.model)
    if job.profile.engine not in _BACKENDS:
        raise EngineUnavailable(
            f"profile {job.profile.name} needs a {job.profile.engine.value} engine, which this "
            f"version cannot make; it makes: {', '.join(kind.value for kind in _BACKENDS)}"
        )
    converter = require_converter(job.profile.engine.value, facts.source)
    _check_fit(job, facts)
    calibration, validation = job.calibration, job.validation
    if validation is None:
        calibration, validation = calibrating.split(calibration)
    else:
        calibrating.refuse_overlap(calibration, validation)
    truth = validation.truth(job.description.output.labels)
    calibration.truth(job.description.output.labels)
    with scratch_folder() as folder:
        return _convert_in(folder, job, converter, calibration, validation, truth, progress)


def _convert_in(
    folder: Path,
    job: Conversion,
    converter: str,
    calibration: Dataset,
    validation: Dataset,
    truth: np.ndarray | None,
    progress: Progress,
) -> Converted:
    from edgeclin.convert.sbom import write_sbom

    preprocess = Preprocess(job.description.inputs[0])
    progress(f"preparing {len(calibration)} calibration and {len(validation)} validation samples")
    prepared = calibrating.prepare(calibration, preprocess, folder / "calibration.npy")
    judged = calibrating.prepare(validation, preprocess, folder / "validation.npy")
    progress("starting the converter")
    model = shutil.copy(job.model, folder)
    request = Request(
        model=str(model),
        folder=str(folder),
        profile=job.profile,
        calibration=str(folder / "calibration.npy"),
        validation=str(folder / "validation.npy"),
    )
    outcome = run_converter(converter, request, progress)
    record = calibrating.record(calibration, validation, prepared, judged, outcome)
    progress("verifying the engines on held-out samples")
    verified = _verify(folder, job, outcome, judged, truth, validation.groups)
    missed = tuple(gate.sentence for gate in verified.gates if not gate.passed)
    if missed and not job.allow_failed_gates:
        raise GateMissed(missed, verified.gates)
    progress("writing the bundle")
    golden = _golden(validation, verified)
    manifest = _manifest(job, outcome, verified, golden, missed)
    engine = (folder / outcome.engine).read_bytes()
    verification = Verification(
        validation=validation.name,
        samples=len(validation),
        machine=f"{platform.system()} {platform.machine()}",
        engine=verified.engine_version,
        float_bytes=(folder / outcome.float_engine).stat().st_size,
        engine_bytes=len(engine),
        gates=verified.gates,
    )
    files = {
        "engine.tflite": engine,
        "golden.npz": golden.data,
        "calibration.json": _json(record),
        "verification.json": _json(verification),
        "sbom.json": write_sbom(
            manifest.name,
            manifest.version,
            _sha256(job.model.read_bytes()),
            _sha256(engine),
            manifest.tools,
        ),
    }
    path = write_bundle(job.output, manifest, files, job.signer)
    return Converted(
        path=path,
        manifest=manifest,
        gates=verified.gates,
        warnings=record.warnings,
        engine_bytes=verification.engine_bytes,
        float_bytes=verification.float_bytes,
    )


@dataclass(frozen=True, slots=True)
class _Verified:
    gates: tuple[Gate, ...]
    outputs: np.ndarray
    confidence: Confidence
    engine_version: str


def _verify(
    folder: Path,
    job: Conversion,
    outcome: Outcome,
    judged: np.ndarray,
    truth: np.ndarray | None,
    groups: tuple[str, ...] | None,
) -> _Verified:
    """Run every stage's engine over the validation samples and judge it by its gates."""
    description = job.description
    source = np.load(folder / outcome.source_outputs).reshape(len(judged), -1)
    _check_outputs(source, job)
    backend = _BACKENDS[job.profile.engine]
    exact, exact_version = _outputs(backend, folder / outcome.float_engine, judged)
    found = [gates.error_gate("float engine", source, exact, gates.FLOAT_EXPORT_MAE)]
    outputs, engine_version = exact, exact_version
    if outcome.precision == "int8":
        outputs, engine_version = _outputs(backend, folder / outcome.engine, judged)
        found.append(gates.error_gate("INT8 engine", source, outputs, gates.INT8_MAE))
    stage = f"{'INT8' if outcome.precision == 'int8' else 'float'} engine"
    logits = to_logits(outputs, description.output.activation)
    reference = to_logits(source, description.output.activation)
    margin = description.metric.margin
    found.append(gates.agreement_gate(stage, reference, logits, gates.AGREEMENT))
    doubt = description.doubt
    confidence = unfitted_confidence(doubt.max_error, doubt.audit_share)
    if truth is not None:
        found.append(gates.accuracy_gate(stage, reference, logits, truth, margin))
        if groups is not None:
            worst = gates.worst_group_gate(
                stage, reference, logits, truth, np.array(groups), gates.WORST_GROUP_MARGIN
            )
            found.append(worst)
        confidence = fit_confidence(logits, truth, doubt.max_error, doubt.audit_share)
    return _Verified(tuple(found), outputs, confidence, engine_version)


def _outputs(backend: str, engine: Path, judged: np.ndarray) -> tuple[np.ndarray, str]:
    loaded: Backend = load_backend(backend, engine.read_bytes())
    try:
        rows = [loaded.run(np.ascontiguousarray(sample)).ravel() for sample in judged]
        return np.stack(rows), loaded.version
    finally:
        loaded.close()


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
    quantised = any(gate.stage == "INT8 engine" for gate in verified.gates)
    tolerance = spread * (_GOLDEN_STEPS / 255 if quantised else _FLOAT_GOLDEN)
    data = write_golden([validation[index] for index in chosen], verified.outputs[chosen])
    return _GoldenVectors(data, len(chosen), tolerance)


def _manifest(
    job: Conversion,
    outcome: Outcome,
    verified: _Verified,
    golden: _GoldenVectors,
    missed: tuple[str, ...],
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
        engines=(
            Engine(
                backend=_BACKENDS[job.profile.engine],
                file="engine.tflite",
                precision=outcome.precision,
            ),
        ),
        inputs=description.inputs,
        output=description.output,
        metric=description.metric,
        confidence=verified.confidence,
        golden=Golden(file="golden.npz", samples=golden.samples, tolerance=golden.tolerance),
        gates_missed=missed,
        tools={"edgeclin": VERSION, "ai-edge-litert": version("ai-edge-litert"), **outcome.tools},
        licence=description.provenance.licence,
        source=description.provenance.source,
        files={},
    )


def default_output(description: Description, profile: Profile) -> Path:
    """Where a bundle goes when nobody says: NAME-VERSION-PROFILE.edgeclin in this folder."""
    return Path(f"{description.name}-{description.version}-{profile.name}{SUFFIX}")


def _json(value: Record) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
