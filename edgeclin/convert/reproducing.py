"""Whether a bundle can be made again from the same model and data: `convert --reproduce`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgeclin.bundle import Bundle
from edgeclin.convert.bundling import Verification
from edgeclin.convert.calibration import CalibrationRecord, hash_of
from edgeclin.convert.job import Conversion
from edgeclin.convert.model_copies import model_sha256
from edgeclin.convert.pipeline import convert
from edgeclin.convert.planning import plan
from edgeclin.convert.ranges import Method
from edgeclin.convert.scratch import scratch_folder
from edgeclin.convert.stages import Progress
from edgeclin.convert.twins import TITLE as TWIN
from edgeclin.datasets import Dataset
from edgeclin.description import SCHEMA, Description, Provenance
from edgeclin.errors import BadFile
from edgeclin.gates import Gate
from edgeclin.golden import difference, read_golden
from edgeclin.manifest import Difference, Manifest
from edgeclin.records import Record, load_json


class Compared(Record, frozen=True):
    """A gate then and now; `agrees` when it passes or misses as then, and its value lies in the
    interval of then."""

    stage: str
    name: str
    then: float
    now: float | None
    agrees: bool


class Reproduction(Record, frozen=True):
    """A second conversion beside the bundle of the first.

    `difference` is between the golden outputs, `tolerance` what the bundle allows for another
    machine. `tools` are those of another version: (then, now).
    `holds` when every gate agrees and the outputs do; equal bytes are more than that.
    """

    bundle: str
    same_bytes: bool
    difference: Difference
    tolerance: Difference
    gates: tuple[Compared, ...]
    tools: dict[str, tuple[str, str]]
    holds: bool


def reproduce(
    model: Path,
    bundle: Bundle,
    calibration: Dataset,
    validation: Dataset | None,
    progress: Progress = lambda _: None,
) -> Reproduction:
    """Convert again as the bundle's record says, and compare.

    Raises:
        BadFile: the model or the data are not those that the bundle was made from.
        ConversionFailed: as for `convert`.
    """
    record, then = _calibration(bundle), _verification(bundle)
    _require_same_model(model, model_sha256(model), bundle, then)
    with scratch_folder() as folder:
        job = _job(model, bundle, record, then, calibration, validation, folder)
        _require_same_samples(job, record)
        made = Bundle.open(convert(job, progress).path, allow_unsigned=True)
        now = _verification(made)
        _require_same_model(model, now.model_sha256, bundle, then)
        return _compared(bundle, made, then, now)


def _require_same_model(model: Path, found: str, bundle: Bundle, then: Verification) -> None:
    if found != then.model_sha256:
        raise BadFile(model, f"is not the model that {bundle.path} was made from")


def _calibration(bundle: Bundle) -> CalibrationRecord:
    return load_json(bundle.read("calibration.json"), CalibrationRecord, bundle.path)


def _verification(bundle: Bundle) -> Verification:
    return load_json(bundle.read("verification.json"), Verification, bundle.path)


def _job(
    model: Path,
    bundle: Bundle,
    record: CalibrationRecord,
    then: Verification,
    calibration: Dataset,
    validation: Dataset | None,
    folder: Path,
) -> Conversion:
    manifest = bundle.manifest
    return Conversion(
        model=model,
        profile=manifest.profile,
        description=_description(manifest),
        described=manifest.described,
        calibration=calibration,
        validation=validation,
        output=folder / "again.edgeclin",
        signer=None,
        margins=then.margins,
        methods=tuple(Method(name) for name in record.method_errors) or tuple(Method),
        quantiser=then.quantiser,
        mixed_precision=then.mixed_precision,
        allow_failed_gates=True,
        allow_shared_groups=True,
        input_shape=manifest.inputs[0].shape,
    )


def _description(manifest: Manifest) -> Description:
    return Description(
        schema=SCHEMA,
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        intended_use=manifest.intended_use,
        inputs=manifest.inputs,
        output=manifest.output,
        provenance=Provenance(licence=manifest.licence, source=manifest.source),
        metric=manifest.metric,
        doubt=manifest.confidence.doubt(manifest.output),
    )


def _require_same_samples(job: Conversion, record: CalibrationRecord) -> None:
    planned = plan(job)
    for data, given, then in (
        (
            planned.calibration,
            job.calibration,
            (hash_of(record.sample_sha256), record.annotations_sha256),
        ),
        (
            planned.validation,
            job.validation or job.calibration,
            (record.validation_sha256, record.validation_annotations_sha256),
        ),
    ):
        samples, annotations = then
        if hash_of(data.hashes()) != samples:
            raise BadFile(given.path, "holds other samples than the bundle was made with")
        if data.annotations_hash() != annotations:
            raise BadFile(given.path, "holds other labels or groups than the bundle was made with")


def _compared(bundle: Bundle, made: Bundle, then: Verification, now: Verification) -> Reproduction:
    found = {(gate.stage, gate.name): gate for gate in now.gates}
    # Whether a Jetson gets a CPU twin of its own hangs on a race that is run anew.
    raced = any(gate.stage == TWIN for gate in now.gates)
    judged = [gate for gate in then.gates if gate.stage != TWIN or raced]
    gates = tuple(_agreement(gate, found.get((gate.stage, gate.name))) for gate in judged)
    off = _difference(bundle, made)
    tolerance = bundle.manifest.golden.tolerance
    digests = [
        hashlib.sha256(one.read(one.manifest.executable.file)).hexdigest() for one in (bundle, made)
    ]
    ours, theirs = made.manifest.tools, bundle.manifest.tools
    return Reproduction(
        bundle=str(bundle.path),
        same_bytes=digests[0] == digests[1],
        difference=off,
        tolerance=tolerance,
        gates=gates,
        tools={
            tool: (version, ours.get(tool, "none"))
            for tool, version in theirs.items()
            if ours.get(tool) != version
        },
        holds=off.within(tolerance) and all(gate.agrees for gate in gates),
    )


def _agreement(then: Gate, now: Gate | None) -> Compared:
    same = now is not None and (now.passed, now.value) == (then.passed, then.value)
    near = now is not None and now.passed == then.passed and then.low <= now.value <= then.high
    return Compared(
        stage=then.stage,
        name=then.name,
        then=then.value,
        now=None if now is None else now.value,
        agrees=same or near,
    )


def _difference(bundle: Bundle, made: Bundle) -> Difference:
    then, now = (read_golden(one.read(one.manifest.golden.file))[1] for one in (bundle, made))
    return difference(now, then)
