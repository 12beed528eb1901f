"""`--key` and `--unsigned`, for every command that writes a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from edgeclin.cli.output import FILE, Command


def signing_options(command: Command) -> Command:
    """Adds both, as the parameters `key` and `unsigned`."""
    command = click.option(
        "--unsigned", is_flag=True, help="Do not sign; devices then refuse the bundle."
    )(command)
    return click.option(
        "--key", type=FILE, help="Private key (default: default.key of your key folder)."
    )(command)


def signer_of(key: Path | None, unsigned: bool) -> object | None:
    """What signs, or None for an unsigned bundle.

    Raises:
        BadFile: there is no such key, or it cannot be read.
    """
    return None if unsigned else found_signer(key, "give --unsigned")


def found_signer(key: Path | None, otherwise: str) -> object:
    """What signs, with the key at `key` or the default one.

    Args:
        otherwise: what to do without one, in words.

    Raises:
        BadFile: there is no such key, or it cannot be read.
    """
    from edgeclin.errors import BadFile
    from edgeclin.keys import default_folder, load_signer

    path = key or default_folder() / "default.key"
    if not path.exists():
        remedy = f"make one with `edgeclin keys new`, or {otherwise}"
        raise BadFile(path, "no signing key", remedy)
    signer: object = load_signer(path)
    return signer
