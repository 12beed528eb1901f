"""How long work shows where it is."""

from __future__ import annotations

import time

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
