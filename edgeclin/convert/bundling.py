"""What was proven, as a bundle: manifest, golden samples, the record of the proof."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeclin import drift
from edgeclin.bundle import SUFFIX, write_bundle
from edgeclin.convert.diagnosis import Diagnosis
from edgeclin.convert.engines import deploy
from edgeclin.convert.job import Conversion
from edgeclin.convert.proving import Proof
from edgeclin.convert.report import Report
from edgeclin.convert.stages import Progress
from edgeclin.convert.tolerance import tolerance
from edgeclin.convert.twins import Twin
from edgeclin.description import Description
from edgeclin.gates import Gate, Margins
from edgeclin.golden import write_golden
from edgeclin.manifest import SCHEMA, Difference, Engine, Golden, Manifest
from edgeclin.profiles import Profile
from edgeclin.records import Record
from edgeclin.version import VERSION

GOLDEN_SAMPLES = 16


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
    """What a bundle remembers of its proof: where it ran, and every gate.

    Attributes:
        model_sha256: of the source model's file, or of its files with their names.
        quantiser, mixed_precision: what was asked for.
        float_layers: layers of an INT8 engine that were kept in float, because it missed a gate
            without.
        kernels: how far the engine's answers are from those of other kernels of this machine.
    """

    model_sha256: str
    validation: str
    samples: int
    machine: str
    engine: str
    float_bytes: int
    engine_bytes: int
    margins: Margins
    quantiser: str
    mixed_precision: bool
    gates: tuple[Gate, ...]
    float_layers: tuple[str, ...] = ()
    twin: Twin | None = None
    kernels: Difference | None = None


def write(
    job: Conversion, proof: Proof, report: Report, page: bytes, progress: Progress
) -> Converted:
    """Write the bundle in one step.

    Args:
        page: the report, drawn.

    Raises:
        BadFile: it cannot be written, or something else stands there.
    """
    from edgeclin.convert.sbom import write_sbom

    progress("writing the bundle")
    proven = proof.proven
    kernels = proof.kernels.difference
    golden, data = _golden(proof, kernels)
    deployed = deploy(
        job.profile, proven.stage, proven.precision, proven.float_layers, proof.finished
    )
    manifest = _manifest(job, proof, golden, deployed.engines)
    engine = proven.stage.path.read_bytes()
    verification = Verification(
        model_sha256=proof.model_sha256,
        validation=proof.plan.validation.name,
        samples=len(proof.judged),
        machine=f"{platform.system()} {platform.machine()}",
        engine=proven.stage.engine,
        float_bytes=proof.stages[-1].path.stat().st_size,
        engine_bytes=len(engine),
        margins=job.margins,
        quantiser=job.quantiser,
        mixed_precision=job.mixed_precision,
        gates=proof.gates,
        float_layers=proven.float_layers,
        twin=proof.finished.twin,
        kernels=kernels,
    )
    records: dict[str, Record | None] = {
        "calibration.json": proof.record,
        "verification.json": verification,
        "report.json": report,
        "layers.json": proof.diagnosis,
        "edgetpu.json": proof.finished.mapping,
        drift.FILE: proof.guarded.reference,
    }
    files = {
        **deployed.files,
        manifest.golden.file: data,
        "report.html": page,
        "sbom.json": write_sbom(
            manifest.name,
            manifest.version,
            proof.model_sha256,
            _sha256(engine),
            manifest.tools,
        ),
        **{name: _json(record) for name, record in records.items() if record is not None},
    }
    return Converted(
        path=write_bundle(job.output, manifest, files, job.signer),
        manifest=manifest,
        gates=proof.gates,
        diagnosis=proof.diagnosis,
        warnings=proof.warnings(job),
        engine_bytes=verification.engine_bytes,
        float_bytes=verification.float_bytes,
    )


def _golden(proof: Proof, kernels: Difference | None) -> tuple[Golden, bytes]:
    """The first validation samples of each decision in turn, so that all are in it; pictures by how
    much of them is a finding."""
    proven, twin = proof.proven, proof.finished.stand_in
    decisions = kinds(proof.judge.answers(proven.outputs).decisions)
    rank = np.zeros(len(decisions), dtype=int)
    for label in np.unique(decisions):
        members = np.flatnonzero(decisions == label)
        rank[members] = np.arange(len(members))
    chosen = np.argsort(rank, kind="stable")[:GOLDEN_SAMPLES].tolist()
    allowed = tolerance(proven.outputs, proven.precision != "float32", kernels)
    inputs = [proof.plan.validation[index] for index in chosen]
    other = None if twin is None or twin.outputs is None else twin.outputs[chosen]
    data = write_golden(inputs, proven.outputs[chosen], other)
    return Golden(file="golden.npz", samples=len(chosen), tolerance=allowed), data


def kinds(decisions: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each sample's decisions, int [n, decisions]: the label, or to which quarter of
    the pictures it belongs by the share of its pixels that are not the first label."""
    if decisions.shape[1] == 1:
        return decisions[:, 0]
    share = (decisions != 0).mean(axis=1)
    return np.searchsorted(np.quantile(share, [0.25, 0.5, 0.75]), share)


def _manifest(
    job: Conversion, proof: Proof, golden: Golden, engines: tuple[Engine, ...]
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
        confidence=proof.proven.confidence,
        golden=golden,
        gates_missed=proof.missed,
        tools={"edgeclin": VERSION, **proof.workshop.tools},
        licence=description.provenance.licence,
        source=description.provenance.source,
        files={},
        guard=proof.guarded.limits,
    )


def default_output(description: Description, profile: Profile) -> Path:
    """Where a bundle goes when nobody says: NAME-VERSION-PROFILE.edgeclin in this folder."""
    return Path(f"{description.name}-{description.version}-{profile.name}{SUFFIX}")


def _json(value: Record) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
