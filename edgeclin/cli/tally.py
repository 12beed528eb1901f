"""What `edgeclin run` prints: each result for `--json`, else their counts at the end."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from edgeclin.cli.lines import Lines
from edgeclin.cli.output import print_facts

if TYPE_CHECKING:
    from edgeclin.inbox import Sample
    from edgeclin.offline_queue import Stored
    from edgeclin.records import Result

LATENCIES = 10_000
"""So many of the newest are kept: a service runs for years."""


class Tally:
    """Counts results as they are stored, or prints each one as a line of JSON.

    Args:
        waits: whether a slow reader of JSON can be waited for.
    """

    def __init__(self, as_json: bool, waits: bool = True) -> None:
        self._lines = Lines(sys.stdout, "standard output", waits=waits) if as_json else None
        self._states: Counter[str] = Counter()
        self._tiers: Counter[str] = Counter()
        self._latencies: deque[float] = deque(maxlen=LATENCIES)

    def count(self, stored: Stored, result: Result, sample: Sample) -> None:
        """Take in one result."""
        import msgspec

        if self._lines is not None:
            line = {"seq": stored.seq, "id": stored.id, "result": result}
            self._lines.say(msgspec.json.encode(line))
            return
        self._states[result.state.value] += 1
        self._tiers[result.tier.value] += 1
        if result.latency_ms is not None:
            self._latencies.append(result.latency_ms.total)

    def wait(self, stopped: Callable[[], bool]) -> None:
        """Wait until lines of JSON that are left are few, or the command is to end."""
        if self._lines is not None:
            self._lines.wait(stopped)

    def problem(self) -> str:
        """Why results are not printed; empty when they are."""
        problem = "" if self._lines is None else self._lines.problem
        return problem and f"{problem}; each result is stored"

    def close(self, stopped: Callable[[], bool]) -> bool:
        """Write the lines of JSON that are left; whether all were taken.

        Args:
            stopped: whether the command is to end, and so not for long.
        """
        if self._lines is None:
            return True
        self._lines.close(stopped)
        return not (self._lines.unread or self._lines.left_out)

    def print(self) -> None:
        """Say what came of all, and how long the newest took."""
        import numpy as np

        if self._lines is not None:
            return
        facts = {"results": sum(self._states.values()), **self._states}
        facts["urgent"] = self._tiers["urgent"]
        print_facts(facts)
        if self._latencies:
            p50, p95 = np.percentile(self._latencies, [50, 95])
            newest = "the newest " if len(self._latencies) == LATENCIES else ""
            click.echo(
                f"latency p50 {p50:.3f} ms, p95 {p95:.3f} ms, n = {newest}{len(self._latencies)}"
            )
