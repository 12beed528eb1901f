"""`edgeclin build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeclin.cli.output import FILE, json_option, print_facts, print_json, trust_options

if TYPE_CHECKING:
    from edgeclin.build import Outcome


@click.command()
@click.argument("bundle", type=FILE)
@click.option(
    "--check-model",
    is_flag=True,
    help="Build nothing: have TensorRT read the model, or where there is none TensorRT-RTX.",
)
@trust_options
@json_option
def build(
    bundle: Path,
    check_model: bool,
    trust: tuple[Path, ...],
    allow_unsigned: bool,
    as_json: bool,
) -> None:
    """Build the TensorRT engine of a BUNDLE on this device.

    It is kept only when it reproduces the bundle's golden outputs here; built once, it is found
    again by model, TensorRT, GPU and driver.
    """
    from edgeclin.build import build as run
    from edgeclin.build import check
    from edgeclin.cli.bundles import open_bundle
    from edgeclin.tensorrt.cache import EngineCache, default_folder

    opened = open_bundle(bundle, trust, allow_unsigned)
    if check_model:
        found = check(opened)
        if as_json:
            print_json({"checked": found})
        else:
            click.echo(found)
        return
    cache = EngineCache(default_folder())
    outcome = run(opened, cache, lambda step: click.echo(f"  {step}", err=True))
    if as_json:
        facts = {"engine": str(outcome.folder), "made": outcome.made, "build": outcome.build}
        print_json(facts)
    else:
        _print(outcome)


def _print(outcome: Outcome) -> None:
    made, tested = outcome.build, outcome.build.self_test
    click.echo("built" if outcome.made else "already built, and tested again")
    print_facts(
        {
            "engine": f"{outcome.folder} ({made.plan_bytes:,} bytes)",
            "with": f"TensorRT {made.identity.tensorrt}, flags {', '.join(made.flags) or 'none'}",
            "for": f"{made.identity.device}, compute capability {made.identity.capability}, driver "
            f"for CUDA {made.identity.driver}",
            "build": f"{made.seconds:.1f} s, {made.created}"
            + (", with the timings of earlier builds" if made.timings else ""),
            "self-test": f"{tested.samples} samples, off by up to {tested.off} (allowed: "
            f"{tested.tolerance})",
            "notes": "; ".join(made.notes) or "none",
        }
    )
