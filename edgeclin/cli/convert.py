"""`edgeclin describe` and `edgeclin convert`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeclin.cli.output import FILE, input_shape_option, json_option, print_json
from edgeclin.cli.plans import print_plans, print_reproduction
from edgeclin.cli.progress import Steps
from edgeclin.cli.proofs import Done, print_all
from edgeclin.cli.signing import signer_of, signing_options

if TYPE_CHECKING:
    from edgeclin.convert import Conversion
    from edgeclin.convert.ranges import Method
    from edgeclin.datasets import Dataset
    from edgeclin.description import Description
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
@signing_options
@click.option(
    "--allow-failed-gates", is_flag=True, help="Write the bundle all the same, marked for good."
)
@click.option(
    "--allow-shared-groups",
    is_flag=True,
    help="Validate on patients that calibration has seen; the bundle carries a warning.",
)
@input_shape_option
@click.option(
    "--report",
    type=FILE,
    help="Write the bundle's report.html here too, even when a gate was missed.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check model, description, data and tools, print the plan, convert nothing.",
)
@click.option(
    "--reproduce",
    type=FILE,
    metavar="BUNDLE",
    help="Convert as BUNDLE's record says, in place of --profile, and compare; writes no bundle.",
)
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
    report: Path | None,
    dry_run: bool,
    reproduce: Path | None,
    as_json: bool,
) -> None:
    """Turn a trained MODEL into a bundle for a device.

    Every stage is judged on real held-out data; a missed gate is exit 3 and no bundle. Where INT8
    misses one, the layers that break it stay in float if that is enough.
    """
    from edgeclin.convert import Conversion
    from edgeclin.convert.planning import require_targets
    from edgeclin.datasets import open_dataset
    from edgeclin.description import describe_or_guess
    from edgeclin.errors import EdgeclinError, GateMissed
    from edgeclin.gates import load_margins
    from edgeclin.model_files import fix_shape, read_model
    from edgeclin.profiles import load_profile

    if bool(profiles) == bool(reproduce):
        raise click.UsageError("give --profile, or --reproduce with a bundle")
    facts = fix_shape(model, read_model(model), input_shape)
    devices = [load_profile(profile) for profile in profiles]
    if calibration is None:
        raise EdgeclinError(
            "no calibration data: give real samples with --calibration; edgeclin never calibrates "
            "with random ones"
        )
    data = open_dataset(calibration), None if validation is None else open_dataset(validation)
    if reproduce is not None:
        _reproduce(model, reproduce, data, as_json)
        return
    path = description or beside(model, "model.toml")
    margins = load_margins(gates or beside(model, "gates.toml"))
    described = describe_or_guess(path, model.stem, facts)
    signer = signer_of(key, unsigned)
    several = len(devices) > 1
    jobs = [
        Conversion(
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
            report=_report_for(report, device, several),
        )
        for device, target in zip(devices, _targets(output, described, devices), strict=True)
    ]
    for job in jobs:
        require_targets(job)
    if dry_run:
        print_plans(jobs, as_json)
        return
    done: list[Done] = []
    try:
        done.extend(_convert_one(job, as_json, several) for job in jobs)
    finally:
        if done:
            print_all(done, as_json, signed=not unsigned)
    missed = [sentence for one in done for sentence in one.missed]
    if missed:
        advice = [sentence for one in done for sentence in one.advice]
        without = [one.profile for one in done if several and one.converted is None]
        raise GateMissed(missed, advice=advice, profiles=without)


def _reproduce(
    model: Path, path: Path, data: tuple[Dataset, Dataset | None], as_json: bool
) -> None:
    from edgeclin.bundle import Bundle
    from edgeclin.convert.reproducing import reproduce
    from edgeclin.errors import GateMissed
    from edgeclin.keys import trusted_keys

    bundle = Bundle.open(path, trusted_keys([]))
    steps = Steps(quiet=as_json)
    try:
        found = reproduce(model, bundle, *data, steps)
    except BaseException as exc:
        steps.end("failed" if isinstance(exc, Exception) else "stopped")
        raise
    steps.end("done")
    if as_json:
        print_json(found)
    else:
        print_reproduction(found)
    if not found.holds:
        raise GateMissed([f"{path} was not reproduced"])


def _report_for(report: Path | None, device: Profile, several: bool) -> Path | None:
    """NAME.html, or NAME-PROFILE.html for each of several profiles."""
    if report is None or not several:
        return report
    return report.with_name(f"{report.stem}-{device.name}{report.suffix}")


def methods(choice: str) -> tuple[Method, ...]:
    """The ways to choose ranges that `--calibration-method` names."""
    from edgeclin.convert.ranges import Method

    return tuple(Method) if choice == "auto" else (Method(choice),)


def _targets(
    output: Path | None, description: Description, devices: Sequence[Profile]
) -> list[Path]:
    from edgeclin.bundle import SUFFIX
    from edgeclin.convert.bundling import default_output
    from edgeclin.errors import BadFile

    if len(devices) == 1:
        return [output or default_output(description, devices[0])]
    folder = output or Path()
    if folder.suffix == SUFFIX:
        raise BadFile(folder, "one file, for several profiles", "name a folder for the bundles")
    return [folder / default_output(description, device) for device in devices]


def _convert_one(job: Conversion, as_json: bool, several: bool) -> Done:
    from edgeclin.convert import convert as run
    from edgeclin.errors import GateMissed
    from edgeclin.gates.metrics import title

    name, metric = job.profile.name, title(job.description.metric)
    if several and not as_json:
        click.echo(f"{name}:", err=True)
    steps = Steps(quiet=as_json)
    try:
        converted = run(job, steps)
    except GateMissed as exc:
        steps.end("missed a gate")
        missed = exc.missed if not several else tuple(f"{name}: {one}" for one in exc.missed)
        advice = exc.advice if not several else tuple(f"{name}: {one}" for one in exc.advice)
        return Done(name, metric, exc.gates, None, missed, advice)
    except BaseException as exc:
        steps.end("failed" if isinstance(exc, Exception) else "stopped")
        raise
    steps.end("done")
    return Done(name, metric, converted.gates, converted)


def beside(model: Path, name: str) -> Path | None:
    path = model.with_name(name)
    return path if path.exists() else None
