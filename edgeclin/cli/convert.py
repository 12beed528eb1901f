"""`edgeclin describe` and `edgeclin convert`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeclin.cli.output import FILE, input_shape_option, json_option, print_json, print_table

if TYPE_CHECKING:
    from edgeclin.convert import Conversion, Converted
    from edgeclin.convert.diagnosis import Diagnosis
    from edgeclin.convert.ranges import Method
    from edgeclin.description import Description
    from edgeclin.gates import Gate
    from edgeclin.profiles import Profile


method_option = click.option(
    "--calibration-method",
    type=click.Choice(["auto", "min-max", "percentile", "mse", "entropy"]),
    default="auto",
    show_default=True,
    help="How ranges are chosen; auto compares all and keeps the one that measures best.",
)
quantiser_option = click.option(
    "--quantiser",
    type=click.Choice(["auto", "ai-edge-quantizer", "tflite-converter", "onnxruntime"]),
    default="auto",
    show_default=True,
    help="What quantises; auto takes the fastest, and another only where that misses a gate.",
)


@click.command()
@click.argument("model", type=FILE)
@click.option("-o", "--output", type=FILE, help="Write here instead of to the terminal.")
@input_shape_option
def describe(model: Path, output: Path | None, input_shape: tuple[int, ...] | None) -> None:
    """Write a starter description of MODEL.

    It holds what the model file itself tells, and marks what a person must fill in.
    """
    from edgeclin.description import starter
    from edgeclin.errors import BadFile
    from edgeclin.files import write_atomic, writing
    from edgeclin.model_files import fix_shape, read_model

    text = starter(model.stem, fix_shape(model, read_model(model), input_shape))
    if output is None:
        click.echo(text, nl=False)
        return
    if output.exists():
        raise BadFile(output, "exists", "name another file with -o")
    with writing(output):
        write_atomic(output, text.encode())
    click.echo(f"{output} written: fill in what it marks with FILL IN")


@click.command()
@click.argument("model", type=FILE)
@click.option(
    "--profile",
    "profiles",
    required=True,
    multiple=True,
    help="A device profile, or the path of your own. Several make a bundle each, and a comparison.",
)
@click.option(
    "--calibration",
    type=FILE,
    help="Real samples: .npz, or a folder of images, DICOM files, WFDB records or CSV signals.",
)
@click.option(
    "--validation",
    type=FILE,
    help="Held-out samples, in the same forms (default: a fifth of the calibration).",
)
@method_option
@quantiser_option
@click.option(
    "--no-mixed-precision",
    is_flag=True,
    help="Keep no layer in float where INT8 misses a gate.",
)
@click.option("--description", type=FILE, help="model.toml (default: beside MODEL, if there).")
@click.option(
    "--gates", type=FILE, help="Limits of the gates (default: gates.toml beside MODEL, if there)."
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="The bundle: NAME.edgeclin, or a folder. For several profiles the folder of the bundles.",
)
@click.option("--key", type=FILE, help="Private key (default: default.key of your key folder).")
@click.option("--unsigned", is_flag=True, help="Do not sign; devices then refuse the bundle.")
@click.option(
    "--allow-failed-gates", is_flag=True, help="Write the bundle all the same, marked for good."
)
@click.option(
    "--allow-shared-groups",
    is_flag=True,
    help="Validate on patients that calibration has seen; the bundle carries a warning.",
)
@input_shape_option
@json_option
def convert(
    model: Path,
    profiles: tuple[str, ...],
    calibration: Path | None,
    validation: Path | None,
    calibration_method: str,
    quantiser: str,
    no_mixed_precision: bool,
    description: Path | None,
    gates: Path | None,
    output: Path | None,
    key: Path | None,
    unsigned: bool,
    allow_failed_gates: bool,
    allow_shared_groups: bool,
    input_shape: tuple[int, ...] | None,
    as_json: bool,
) -> None:
    """Turn a trained MODEL into a bundle for a device.

    Every stage is judged on real held-out data; a missed gate is exit 3 and no bundle. Where INT8
    misses one, the layers that break it stay in float if that is enough.
    """
    from edgeclin.cli.signals import stopping
    from edgeclin.convert import Conversion
    from edgeclin.datasets import open_dataset
    from edgeclin.description import describe_or_guess
    from edgeclin.errors import EdgeclinError, GateMissed
    from edgeclin.gates import load_margins
    from edgeclin.model_files import fix_shape, read_model
    from edgeclin.profiles import load_profile

    facts = fix_shape(model, read_model(model), input_shape)
    devices = [load_profile(profile) for profile in profiles]
    if calibration is None:
        raise EdgeclinError(
            "no calibration data: give real samples with --calibration; edgeclin never calibrates "
            "with random ones"
        )
    path = description or beside(model, "model.toml")
    margins = load_margins(gates or beside(model, "gates.toml"))
    described = describe_or_guess(path, model.stem, facts)
    data = open_dataset(calibration), None if validation is None else open_dataset(validation)
    signer = None if unsigned else _signer(key)
    done: list[_Done] = []
    with stopping():
        for device, target in zip(devices, _targets(output, described, devices), strict=True):
            job = Conversion(
                model=model,
                profile=device,
                description=described,
                described=path is not None,
                calibration=data[0],
                validation=data[1],
                output=target,
                signer=signer,
                margins=margins,
                methods=methods(calibration_method),
                quantiser=quantiser,
                mixed_precision=not no_mixed_precision,
                allow_failed_gates=allow_failed_gates,
                allow_shared_groups=allow_shared_groups,
                input_shape=input_shape,
            )
            done.append(_convert_one(job, as_json, several=len(devices) > 1))
    _print_all(done, as_json, signed=not unsigned)
    missed = [sentence for one in done for sentence in one.missed]
    if missed:
        raise GateMissed(missed, advice=[sentence for one in done for sentence in one.advice])


def methods(choice: str) -> tuple[Method, ...]:
    """The ways to choose ranges that `--calibration-method` names."""
    from edgeclin.convert.ranges import Method

    return tuple(Method) if choice == "auto" else (Method(choice),)


@dataclass(frozen=True, slots=True)
class _Done:
    """What became of one profile."""

    profile: str
    gates: Sequence[Any]
    converted: Converted | None
    missed: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    def facts(self) -> dict[str, object]:
        if self.converted is None:
            return {
                "profile": self.profile,
                "bundle": None,
                "gates": self.gates,
                "advice": self.advice,
            }
        return {"profile": self.profile, **_facts(self.converted)}


def _targets(
    output: Path | None, description: Description, devices: Sequence[Profile]
) -> list[Path]:
    from edgeclin.bundle import SUFFIX
    from edgeclin.convert.bundling import default_output
    from edgeclin.errors import BadFile
    from edgeclin.files import writing

    if len(devices) == 1:
        return [output or default_output(description, devices[0])]
    folder = output or Path()
    if folder.suffix == SUFFIX:
        raise BadFile(folder, "one file, for several profiles", "name a folder for the bundles")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return [folder / default_output(description, device) for device in devices]


def _convert_one(job: Conversion, as_json: bool, several: bool) -> _Done:
    from edgeclin.convert import convert as run
    from edgeclin.errors import GateMissed

    name = job.profile.name
    if several and not as_json:
        click.echo(f"{name}:", err=True)
    steps = Steps(quiet=as_json)
    try:
        converted = run(job, steps)
    except GateMissed as exc:
        steps.end("missed a gate")
        missed = exc.missed if not several else tuple(f"{name}: {one}" for one in exc.missed)
        advice = exc.advice if not several else tuple(f"{name}: {one}" for one in exc.advice)
        return _Done(name, exc.gates, None, missed, advice)
    except BaseException:
        steps.end("failed")
        raise
    steps.end("done")
    return _Done(name, converted.gates, converted)


def _print_all(done: Sequence[_Done], as_json: bool, signed: bool) -> None:
    if as_json:
        facts = [one.facts() for one in done]
        print_json(facts if len(facts) > 1 else facts[0])
        return
    for one in done:
        if len(done) > 1:
            click.secho(f"{one.profile}", bold=True)
        if one.converted is None:
            print_gates(one.gates)
        else:
            _print(one.converted, signed)
    if len(done) > 1:
        _print_comparison(done)


def _print_comparison(done: Sequence[_Done]) -> None:
    """One line a profile: what its last engine lost, and what it weighs."""
    from edgeclin.convert.twins import TITLE as TWIN

    rows = []
    for one in done:
        judged = [gate for gate in one.gates if gate.stage != TWIN]
        last = {gate.name: f"{gate.value:.3g}" for gate in judged}
        made = one.converted
        rows.append(
            (
                one.profile,
                last.get("output error (relative MAE)", ""),
                last.get("decision agreement", ""),
                last.get("change of accuracy", ""),
                "MISSED" if made is None or made.manifest.gates_missed else "passed",
                "" if made is None else f"{made.engine_bytes:,}",
                "" if made is None else made.manifest.primary.state,
            )
        )
    head = ("profile", "output error", "agreement", "accuracy", "gates", "bytes", "engine")
    print_table(head, rows)


def beside(model: Path, name: str) -> Path | None:
    path = model.with_name(name)
    return path if path.exists() else None


def _signer(key: Path | None) -> object:
    from edgeclin.errors import BadFile
    from edgeclin.keys import default_folder, load_signer

    path = key or default_folder() / "default.key"
    if not path.exists():
        raise BadFile(
            path, "no signing key", "make one with `edgeclin keys new`, or give --unsigned"
        )
    return load_signer(path)


class Steps:
    """Says what happens now and how long the last step took."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._began: float | None = None

    def __call__(self, step: str) -> None:
        self.end("done")
        if not self._quiet:
            click.echo(f"  {step} … ", nl=False, err=True)
        self._began = time.monotonic()

    def end(self, how: str) -> None:
        if self._began is not None and not self._quiet:
            click.echo(f"{how} ({time.monotonic() - self._began:.1f} s)", err=True)
        self._began = None


def print_gates(gates: Sequence[Gate]) -> None:
    """A table of gates."""
    rows = [
        (
            gate.stage,
            gate.name,
            f"{gate.value:.3g}",
            f"[{gate.low:.3g}, {gate.high:.3g}]",
            f"{gate.rule} {gate.limit:g}",
            gate.n if gate.n >= gate.least else f"{gate.n}, needs {gate.least}",
            "passed" if gate.passed else "MISSED",
        )
        for gate in gates
    ]
    print_table(("stage", "gate", "value", "95 % interval", "rule", "n", ""), rows)


def print_float_layers(diagnosis: Diagnosis) -> None:
    """Which layers stay in float, and what each of them costs."""
    mixed = diagnosis.mixed
    if mixed is None or not mixed.kept:
        return
    rows = [
        (
            layer.title,
            f"{layer.harm_db:.1f}",
            "" if layer.price is None else f"{layer.price.latency_ms:+.3f}",
            "" if layer.price is None else f"{layer.price.bytes:+,}",
        )
        for layer in diagnosis.layers
        if layer.kept
    ]
    print_table(("layer kept in float", "SQNR in INT8 (dB)", "ms", "bytes"), rows)
    click.echo(
        f"mixed engine: {mixed.latency_ms:.3f} ms and {mixed.bytes:,} bytes, all INT8 "
        f"{mixed.int8_latency_ms:.3f} ms and {mixed.int8_bytes:,} bytes (medians of {mixed.runs} "
        "runs in turn, one thread of this machine)"
    )


def _print(converted: Converted, signed: bool) -> None:
    confidence = converted.manifest.confidence
    print_gates(converted.gates)
    for warning in converted.warnings:
        click.echo(f"warning: {warning}")
    if confidence.fitted:
        click.echo(
            f"confidence: temperature {confidence.temperature:.3f}, threshold "
            f"{confidence.threshold:.3f}: {confidence.coverage:.1%} of {confidence.samples} "
            f"held-out samples reach it, with {confidence.error:.2%} errors (95 % bound "
            f"{confidence.error_bound:.2%}, allowed {confidence.max_error:.2%})"
        )
    else:
        click.echo(
            "confidence: no threshold (it takes labels, and a classifier): every answer is in doubt"
        )
    if converted.diagnosis is not None:
        print_float_layers(converted.diagnosis)
    click.echo(
        f"size: float {converted.float_bytes:,} bytes, deployed {converted.engine_bytes:,} bytes"
    )
    if converted.manifest.gates_missed:
        click.echo("warning: gates were missed; the bundle says so for good")
    click.echo(f"{converted.path} written{'' if signed else ', NOT SIGNED'}")


def _facts(converted: Converted) -> dict[str, object]:
    return {
        "bundle": str(converted.path),
        "gates": converted.gates,
        "warnings": converted.warnings,
        "confidence": converted.manifest.confidence,
        "engine_bytes": converted.engine_bytes,
        "float_bytes": converted.float_bytes,
        "gates_missed": converted.manifest.gates_missed,
        "float_layers": converted.manifest.primary.float_layers,
    }
