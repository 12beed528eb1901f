"""What `edgeclin run` prints: each result for `--json`, else their counts at the end."""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import TYPE_CHECKING

import click

from edgeclin.cli.output import print_facts

if TYPE_CHECKING:
    from edgeclin.inbox import Sample
    from edgeclin.offline_queue import Stored
    from edgeclin.records import Result

log = logging.getLogger(__name__)

LATENCIES = 10_000
"""So many of the newest are kept: a service runs for years."""


class Tally:
    """Counts results as they are stored, or prints each one as a line of JSON.

    Attributes:
        unread: why lines are no longer printed; empty while they are.
    """

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self.unread = ""
        self._states: Counter[str] = Counter()
        self._tiers: Counter[str] = Counter()
        self._latencies: deque[float] = deque(maxlen=LATENCIES)

    def count(self, stored: Stored, result: Result, sample: Sample) -> None:
        """Take in one result."""
        import msgspec

        if self._as_json:
            line = {"seq": stored.seq, "id": stored.id, "result": result}
            self._say(msgspec.json.encode(line))
            return
        self._states[result.state.value] += 1
        self._tiers[result.tier.value] += 1
        if result.latency_ms is not None:
            self._latencies.append(result.latency_ms.total)

    def _say(self, line: bytes) -> None:
        """Print a line where anybody reads; where nobody does, judging goes on."""
        if self.unread:
            return
        try:
            click.echo(line)
        except OSError as exc:
            self.unread = exc.strerror or str(exc)
            log.error("ALARM: standard output cannot be written (%s): only stored", self.unread)

    def print(self) -> None:
        """Say what came of all, and how long the newest took."""
        import numpy as np

        if self._as_json:
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
