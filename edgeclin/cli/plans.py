"""What a conversion would do, and whether one can be done again, in print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from edgeclin.cli.output import print_facts, print_json, print_table

if TYPE_CHECKING:
    from edgeclin.convert import Conversion
    from edgeclin.convert.reproducing import Reproduction


def print_plans(jobs: Sequence[Conversion], as_json: bool) -> None:
    """Check every conversion as far as that goes without converting, and say what it would do."""
    plans = [_plan(job) for job in jobs]
    if as_json:
        print_json(plans if len(plans) > 1 else plans[0])
        return
    for facts in plans:
        click.secho(str(facts["profile"]), bold=True)
        print_facts(facts, indent="  ")


def _plan(job: Conversion) -> dict[str, object]:
    from edgeclin.convert.planning import plan
    from edgeclin.convert.routes import QUANTISERS
    from edgeclin.toolchains import needed_by

    planned = plan(job)
    default = next(iter(QUANTISERS[job.profile.engine]))
    entry, shape = planned.facts.inputs[0]
    changed = job.margins.changed()
    return {
        "profile": job.profile.name,
        "source": f"{planned.facts.source}, input {entry} {list(shape or ())}",
        "converters": " → ".join(planned.way) or "none: the source is what engines are made from",
        "toolchains": ", ".join(toolchain.name for toolchain in needed_by(planned.way)) or "none",
        "engine": f"{job.profile.engine.value}, {job.profile.numeric.precision}",
        "quantiser": (planned.quantiser or default) if job.quantises else "none",
        "ranges by": ", ".join(method.value for method in job.methods) if job.quantises else "none",
        "calibration": f"{len(planned.calibration)} samples of {planned.calibration.name}",
        "validation": f"{len(planned.validation)} samples of {planned.validation.name}, "
        f"{'with' if planned.truth is not None else 'without'} labels",
        "changed limits": ", ".join(f"{key} = {limit:g}" for key, (limit, _) in changed.items())
        or "none",
        "bundle": str(job.output),
    }


def print_reproduction(found: Reproduction) -> None:
    """A table of gates then and now, and what else differs."""
    rows = [
        (
            gate.stage,
            gate.name,
            f"{gate.then:.6g}",
            "none" if gate.now is None else f"{gate.now:.6g}",
            "agrees" if gate.agrees else "DIFFERS",
        )
        for gate in found.gates
    ]
    print_table(("stage", "gate", "then", "now", ""), rows)
    for tool, (then, now) in found.tools.items():
        click.echo(f"{tool}: {then} then, {now} now")
    click.echo(
        f"engine: {'the same bytes' if found.same_bytes else 'other bytes'}; golden outputs differ "
        f"by up to {found.difference} (allowed: {found.tolerance})"
    )
    click.echo(f"{found.bundle} {'reproduced' if found.holds else 'NOT reproduced'}")
