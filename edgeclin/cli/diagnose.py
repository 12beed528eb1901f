"""`edgeclin diagnose`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeclin.cli.convert import beside, method_option, methods, quantiser_option
from edgeclin.cli.output import (
    FILE,
    input_shape_option,
    json_option,
    print_json,
    print_table,
)
from edgeclin.cli.progress import Steps
from edgeclin.cli.proofs import print_float_layers, print_gates

if TYPE_CHECKING:
    from edgeclin.convert import Examined
    from edgeclin.convert.layers import Error, Layer

_MISSED = 3


@click.command()
@click.argument("model", type=FILE)
@click.option("--profile", required=True, help="A device profile, or the path of your own.")
@click.option(
    "--calibration", type=FILE, required=True, help="Real samples, as for `edgeclin convert`."
)
@click.option(
    "--validation", type=FILE, help="Held-out samples (default: a fifth of the calibration)."
)
@method_option
@quantiser_option
@click.option(
    "--no-mixed-precision", is_flag=True, help="Keep no layer in float where INT8 misses a gate."
)
@click.option("--description", type=FILE, help="model.toml (default: beside MODEL, if there).")
@click.option(
    "--gates", type=FILE, help="Limits of the gates (default: gates.toml beside MODEL, if there)."
)
@input_shape_option
@click.option(
    "--allow-shared-groups", is_flag=True, help="Validate on patients that calibration has seen."
)
@click.option("-o", "--output", type=FILE, help="Write all figures here too, as JSON.")
@json_option
@click.pass_context
def diagnose(
    ctx: click.Context,
    model: Path,
    profile: str,
    calibration: Path,
    validation: Path | None,
    calibration_method: str,
    quantiser: str,
    no_mixed_precision: bool,
    description: Path | None,
    gates: Path | None,
    input_shape: tuple[int, ...] | None,
    allow_shared_groups: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Say what INT8 does to each layer of MODEL.

    Which of them break the engine, and what to do. Writes no bundle. Exit 3 when an engine misses
    its gates even with layers in float.
    """
    from edgeclin.convert import Conversion, examine
    from edgeclin.datasets import open_dataset
    from edgeclin.description import describe_or_guess
    from edgeclin.errors import BadFile
    from edgeclin.files import require_writable
    from edgeclin.gates import load_margins
    from edgeclin.model_files import fix_shape, read_model
    from edgeclin.profiles import load_profile

    if output is not None:
        if output.exists():
            raise BadFile(output, "exists", "name another file with -o")
        require_writable(output.parent)
    path = description or beside(model, "model.toml")
    facts = fix_shape(model, read_model(model), input_shape)
    job = Conversion(
        model=model,
        profile=load_profile(profile),
        description=describe_or_guess(path, model.stem, facts),
        described=path is not None,
        calibration=open_dataset(calibration),
        validation=None if validation is None else open_dataset(validation),
        output=Path(),
        signer=None,
        margins=load_margins(gates or beside(model, "gates.toml")),
        methods=methods(calibration_method),
        quantiser=quantiser,
        mixed_precision=not no_mixed_precision,
        allow_shared_groups=allow_shared_groups,
        input_shape=input_shape,
    )
    steps = Steps(quiet=as_json)
    try:
        examined = examine(job, steps)
    except BaseException as exc:
        steps.end("failed" if isinstance(exc, Exception) else "stopped")
        raise
    steps.end("done")
    if output is not None:
        _write(output, examined)
    if as_json:
        print_json(_facts(examined))
    else:
        _print(examined)
    if not all(gate.passed for gate in examined.gates):
        ctx.exit(_MISSED)


def _facts(examined: Examined) -> dict[str, object]:
    return {
        "gates": examined.gates,
        "diagnosis": examined.diagnosis,
        "warnings": examined.warnings,
    }


def _write(path: Path, examined: Examined) -> None:
    import msgspec

    from edgeclin.files import write_atomic, writing

    with writing(path):
        write_atomic(path, msgspec.json.format(msgspec.json.encode(_facts(examined)), indent=1))


def _print(examined: Examined) -> None:
    diagnosis = examined.diagnosis
    print_gates(examined.gates)
    for warning in examined.warnings:
        click.echo(f"warning: {warning}")
    click.echo(
        f"layers, worst first, on {diagnosis.samples} samples ({diagnosis.quantiser}, "
        f"{diagnosis.method}; {diagnosis.executed_by}). SQNR in dB: own when the layer computes on "
        "the float model's tensors, arriving in the whole engine; weak of the weakest quarter of "
        "its channels"
    )
    print_layers(diagnosis.layers)
    print_float_layers(diagnosis)
    for gate in diagnosis.missed:
        click.echo(f"all in INT8 it misses {gate.sentence}")
    for sentence in diagnosis.sentences:
        click.echo(sentence)


def print_layers(layers: Sequence[Layer]) -> None:
    """A table of layers, worst first."""
    rows = [
        (
            layer.order,
            layer.operator,
            layer.name.split(";")[0],
            *(("", "") if layer.own is None else _decibels(layer.own)),
            *_decibels(layer.accumulated),
            f"{layer.accumulated.mse:.3g}",
            f"{layer.accumulated.cosine:.4f}",
            f"{layer.saturated:.2%}",
            f"[{layer.low:.3g}, {layer.high:.3g}]",
            "float" if layer.kept else "",
        )
        for layer in sorted(layers, key=lambda layer: layer.harm_db)
    ]
    head = ("order", "operator", "layer", "own dB", "weak", "arriving dB", "weak", "MSE", "cosine")
    print_table((*head, "saturated", "range", ""), rows)


def _decibels(error: Error) -> tuple[str, str]:
    return f"{error.sqnr_db:.1f}", f"{error.channel_db:.1f}"
