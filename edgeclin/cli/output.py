"""How commands print: facts as aligned text for people, or as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeclin.errors import legible

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, readable=False)
"""What cannot be read is no wrong usage: whoever reads it says so."""


class Number(click.FloatRange):
    """A finite number within bounds; click itself takes NaN to be within all."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number is not None and not isfinite(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def input_shape_option(command: Command) -> Command:
    """`--input-shape`, for every command that reads a model."""
    return click.option(
        "--input-shape",
        metavar="H,W,C",
        callback=_sizes,
        help="Sizes of the input's axes, without the batch, for a model that leaves them open.",
    )(command)


def _sizes(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    sizes = [size.strip() for size in value.split(",")]
    if not all(size.isascii() and size.isdigit() and int(size) > 0 for size in sizes):
        raise click.BadParameter(f"{value!r} is not a list of sizes such as 224,224,3")
    return tuple(map(int, sizes))


def json_option(command: Command) -> Command:
    """`--json`, as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")(command)


def trust_options(command: Command) -> Command:
    """`--trust` and `--allow-unsigned`, for every command that opens a bundle."""
    command = click.option(
        "--allow-unsigned",
        is_flag=True,
        help="Open a bundle without a trusted signature; every result says so.",
    )(command)
    return click.option(
        "--trust",
        multiple=True,
        type=FILE,
        help="A public key to trust (default: all of your key folder). May be repeated.",
    )(command)


def tell(text: str) -> None:
    """A line on standard error for a person; where nobody can be told, work goes on."""
    with suppress(OSError):
        click.echo(text, err=True)


def print_json(value: Any) -> None:
    """One JSON document; records are written as objects."""
    import msgspec

    click.echo(json.dumps(msgspec.to_builtins(value), indent=1))


def print_facts(facts: Mapping[str, Any], indent: str = "") -> None:
    """Aligned `name  value` lines; four decimals are enough for a reader."""
    width = max((len(name) for name in facts), default=0)
    for name, fact in facts.items():
        value = round(fact, 4) if isinstance(fact, float) else fact
        click.echo(f"{indent}{legible(name):<{width}}  {legible(str(value))}")


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Aligned columns under a head."""
    texts = [list(head), *([legible(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[index]) for row in texts) for index in range(len(head))]
    for row in texts:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
