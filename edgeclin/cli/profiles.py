"""`edgeclin profiles`."""

from __future__ import annotations

import click

from edgeclin.cli.output import json_option, print_facts, print_json, print_table


@click.command()
@click.argument("name", required=False)
@json_option
def profiles(name: str | None, as_json: bool) -> None:
    """List the device profiles, or show the facts of one.

    NAME is a shipped profile, or the path of your own TOML file.
    """
    from edgeclin.profiles import load_profile, shipped

    if name is None:
        every = [load_profile(known) for known in shipped()]
        if as_json:
            print_json(every)
            return
        rows = [(p.name, p.engine.value, p.numeric.precision, p.title) for p in every]
        print_table(("name", "engine", "precision", "device"), rows)
        return
    profile = load_profile(name)
    if as_json:
        print_json(profile)
        return
    numeric, limits = profile.numeric, profile.limits
    print_facts(
        {
            "name": profile.name,
            "device": profile.title,
            "architecture": profile.architecture,
            "accelerator": profile.accelerator or "none",
            "engine": profile.engine.value,
            "precision": f"{numeric.precision} (activations {numeric.activations}, "
            f"weights {numeric.weights}, inputs and outputs {numeric.io})",
            "per channel": ", ".join(numeric.per_channel) or "nothing",
            "limits": f"{limits.memory_mb} MB memory, {limits.threads} threads, model up to "
            f"{limits.max_model_mb:g} MB"
            + (f", {limits.on_chip_mb:g} MB on chip" if limits.on_chip_mb else ""),
            "latency budget": f"{profile.latency_budget_ms:g} ms",
        }
    )
    for what, unit, fact in (
        ("power", "W", profile.power_w),
        ("price", "USD", profile.price_usd),
    ):
        if fact is not None:
            click.echo(f"{what}: {fact.value:g} {unit} ({fact.source})")
    for tool, version in profile.toolchain.items():
        click.echo(f"{tool}: {version}")
    for note in profile.notes:
        click.echo(f"note: {note}")
