"""How long work shows where it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click


class Steps:
    """Says what happens now and how long the last step took."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._began: float | None = None

    def __call__(self, step: str) -> None:
        self.end("done")
        if not self._quiet:
            click.echo(f"  {step} … ", nl=False, err=True)
        self._began = time.monotonic()

    def end(self, how: str) -> None:
        if self._began is not None and not self._quiet:
            click.echo(f"{how} ({time.monotonic() - self._began:.1f} s)", err=True)
        self._began = None


class Parts:
    """Says which part of a measurement runs and, on a terminal, how far it is."""

    def __init__(self, quiet: bool) -> None:
        self._steps = Steps(quiet)
        self._shown = not quiet and sys.stderr is not None and sys.stderr.isatty()

    def begin(self, part: str) -> Callable[[float], None]:
        """Start the next part; to be told the share of it that is done."""
        self._steps(part)

        def told(share: float) -> None:
            if self._shown:
                click.echo(f"\r  {part} … {share:4.0%} ", nl=False, err=True)

        return told

    def end(self) -> None:
        """No part runs any more."""
        self._steps.end("done")
