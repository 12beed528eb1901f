"""`edgeclin toolchain`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeclin.cli.output import FILE, json_option, print_facts, print_json, print_table


@click.group()
def toolchain() -> None:
    """Install tools that need an environment of their own."""


@toolchain.command()
@click.argument("name")
@click.option("--python", type=FILE, help="The Python to use (default: found on PATH or in pyenv).")
@json_option
def add(name: str, python: Path | None, as_json: bool) -> None:
    """Make the environment of the toolchain NAME, and prove that it is whole.

    Does nothing where it stands already; Ctrl-C leaves nothing behind.
    """
    from edgeclin.toolchains import add as make
    from edgeclin.toolchains import load_toolchain

    def say(step: str) -> None:
        if not as_json:
            click.echo(f"  {step}", err=True)

    made = make(load_toolchain(name), python, say)
    if as_json:
        print_json(made)
    else:
        print_facts(
            {
                "toolchain": made.name,
                "folder": made.folder,
                "size": f"{made.size_mb} MB",
                "installed in": f"{made.seconds} s",
            }
        )


@toolchain.command(name="list")
@json_option
def list_toolchains(as_json: bool) -> None:
    """List the toolchains, and which are installed."""
    from edgeclin.toolchains import installed, known, load_toolchain

    every = [load_toolchain(name) for name in known()]
    found = [(one, installed(one)) for one in every]
    if as_json:
        facts = [
            {"name": one.name, "purpose": one.purpose, "python": one.python, "installed": here}
            for one, here in found
        ]
        print_json(facts)
        return
    rows = [
        (one.name, one.purpose, one.python, here.folder if here else f"no: {one.command}")
        for one, here in found
    ]
    print_table(("toolchain", "makes", "Python", "installed"), rows)


@toolchain.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove the environment of the toolchain NAME, in all versions."""
    from edgeclin.toolchains import load_toolchain
    from edgeclin.toolchains import remove as take_away

    count = take_away(load_toolchain(name).name)
    click.echo(f"{name}: {count} environment{'s' * (count != 1)} removed")
