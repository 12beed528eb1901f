"""`edgeclin doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeclin.cli.output import FILE, json_option, print_json, print_table


@click.command()
@click.option(
    "--config", "config_path", type=FILE, help="Also look at what this device.toml names."
)
@json_option
def doctor(config_path: Path | None, as_json: bool) -> None:
    """Say what this machine can do.

    Names what to install for the rest. Exits 4 when something is wrong; what is merely not
    installed is no fault.
    """
    from edgeclin.config import load_config
    from edgeclin.doctor import examine

    config = None if config_path is None else load_config(config_path)
    findings = list(examine(config))
    if as_json:
        print_json(findings)
    else:
        rows = [(f.status, f.what, f.detail, f.remedy) for f in findings]
        print_table(("", "what", "found", "remedy"), rows)
    if any(finding.status == "wrong" for finding in findings):
        raise SystemExit(4)
