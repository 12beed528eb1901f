"""`edgeclin convert` and `edgeclin diagnose`: plan, prove, and write what was proven."""

from __future__ import annotations

from dataclasses import dataclass

from edgeclin.convert.bundling import Converted, write
from edgeclin.convert.diagnosis import Diagnosis
from edgeclin.convert.job import Conversion
from edgeclin.convert.planning import plan
from edgeclin.convert.proving import prove
from edgeclin.convert.report import report_of
from edgeclin.convert.scratch import scratch_folder
from edgeclin.convert.stages import Progress
from edgeclin.errors import ConversionFailed, EdgeclinError, GateMissed
from edgeclin.files import write_atomic, writing
from edgeclin.gates import Gate


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
    from edgeclin.convert.report_page import draw_report

    planned = plan(job)
    with scratch_folder() as folder:
        proof = prove(folder, job, planned, progress, lenient=job.allow_failed_gates)
        progress("drawing the report")
        report = report_of(job, proof)
        page = draw_report(report, proof.diagnosis, [proof.judged[at] for at in report.places])
        if job.report is not None:
            with writing(job.report):
                write_atomic(job.report, page)
        if proof.missed and not job.allow_failed_gates:
            raise GateMissed(proof.missed, proof.gates, proof.advice)
        return write(job, proof, report, page, progress)


def examine(job: Conversion, progress: Progress = lambda _: None) -> Examined:
    """Do all that `convert` does but write a bundle, whether gates hold or not.

    Raises:
        ConversionFailed, EngineUnavailable, BadFile: as `convert` does.
        EdgeclinError: the profile's engine computes in float.
    """
    if not job.quantises:
        raise EdgeclinError(
            f"profile {job.profile.name} computes in {job.profile.numeric.precision}: there is "
            "nothing quantised to diagnose"
        )
    planned = plan(job)
    with scratch_folder() as folder:
        proof = prove(folder, job, planned, progress, lenient=True)
        assert proof.diagnosis is not None
        if not proof.diagnosis.layers:
            raise ConversionFailed(proof.diagnosis.breaking)
        return Examined(proof.gates, proof.diagnosis, proof.warnings(job))
