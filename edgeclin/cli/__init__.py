"""The command line. Command modules import nothing heavy until a command runs."""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import Any

import click

from edgeclin.cli import (
    benchmark,
    build,
    bundles,
    cloud,
    confidence,
    convert,
    diagnose,
    doctor,
    profiles,
    queue,
    run,
    sync,
    toolchain,
)
from edgeclin.cli.log import tell_last
from edgeclin.cli.signals import stopping
from edgeclin.errors import EdgeclinError
from edgeclin.version import VERSION


class _Edgeclin(click.Group):
    """Turns every EdgeclinError into one line and its exit code; a bug stays a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
        except OSError as exc:
            if exc.errno != errno.ENOSPC or exc.filename is not None:
                raise
            click.echo(f"edgeclin: standard output cannot be written ({exc.strerror})", err=True)
            os._exit(1)  # Python would try to write what is left, and fail again

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with stopping():
                return super().invoke(ctx)
        except EdgeclinError as exc:
            tell_last(f"edgeclin: {exc}")
            ctx.exit(exc.exit_code)
        except PermissionError as exc:
            if exc.filename is None:
                raise
            tell_last(f"edgeclin: {exc.filename}: no permission to read or write it")
            ctx.exit(1)


@click.group(cls=_Edgeclin, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="edgeclin")
@click.option("-v", "--verbose", count=True, help="Log what happens (-vv: in detail).")
def main(verbose: int) -> None:
    """Put trained clinical models on edge devices and keep them honest there.

    Exit codes: 0 done, 1 your mistake, 2 wrong usage, 3 a gate was missed, 4 not possible on
    this machine, 129, 130 and 143 stopped by SIGHUP, Ctrl-C and SIGTERM (services end with 0).
    """
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


for command in (
    profiles.profiles,
    convert.describe,
    convert.convert,
    diagnose.diagnose,
    toolchain.toolchain,
    bundles.inspect,
    bundles.verify,
    confidence.confidence,
    bundles.predict,
    build.build,
    benchmark.benchmark,
    bundles.keys,
    run.run,
    queue.queue,
    sync.sync,
    cloud.cloud,
    doctor.doctor,
):
    main.add_command(command)
