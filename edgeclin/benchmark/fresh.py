"""What only a fresh process shows: the first answer, and memory. Each is started several times."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgeclin.benchmark import bare_engine, first_answer
from edgeclin.benchmark.percentiles import Distribution, distribution, needed
from edgeclin.benchmark.taking import Limit
from edgeclin.errors import EngineUnavailable
from edgeclin.records import Record

PROCESSES = needed(0.5)
"""The fewest from which the median has an interval."""
RUNS = 100
_TIMEOUT_S = 300


class Spread(Record, frozen=True):
    """Megabytes in several processes: the median and the extremes."""

    median: float
    low: float
    high: float
    n: int


class Start(Record, frozen=True):
    """Fresh processes of one kind, from the moment at which they were started.

    Files are in the page cache: the first start after a boot reads them from the disk, and takes
    longer.

    Attributes:
        ready: the engine is loaded (and, by edgeclin, every byte checked and the self-test passed).
        first: the first answer is there.
        rss_mb, peak_mb: resident memory after 100 more answers, and its most.
    """

    name: str
    interpreter: Distribution
    ready: Distribution
    first: Distribution
    rss_mb: Spread
    peak_mb: Spread


def starts(commands: Mapping[str, Sequence[str]], limit: Limit) -> list[Start]:
    """Start each command in turn, `PROCESSES` times unless stopped.

    Args:
        commands: arguments of Python; `{started}` stands for the moment, CLOCK_MONOTONIC in ns.

    Raises:
        EngineUnavailable: a process failed.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for number in range(PROCESSES * len(commands)):
        if limit.stop.is_set():
            break
        limit.progress(number / (PROCESSES * len(commands)))
        name = list(commands)[number % len(commands)]
        facts = _start(name, commands[name])
        found[name].append(facts)
    return [_summed_up(name, rows) for name, rows in found.items() if rows]


def ours(
    bundle: Path, sample: Path, threads: int, trust: Sequence[Path], allow_unsigned: bool
) -> list[str]:
    """The command of a process with edgeclin's runtime."""
    keys = [str(key.resolve()) for key in trust]
    return [
        first_answer.__file__, str(bundle.resolve()), str(sample), str(threads), "{started}",
        str(RUNS), str(int(allow_unsigned)), *keys,
    ]  # fmt: skip


def bare(backend: str, model: Path, sample: Path, threads: int) -> list[str]:
    """The command of a process with the engine's own library alone.

    Args:
        sample: [1, …] as the engine takes it, in a `.npy` file.
    """
    return [
        bare_engine.__file__, backend, str(model), str(sample), str(threads), "{started}", str(RUNS)
    ]  # fmt: skip


def _start(name: str, command: Sequence[str]) -> dict[str, float]:
    started = time.monotonic_ns()
    arguments = [part.replace("{started}", str(started)) for part in command]
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
            start_new_session=True,  # Ctrl-C lets it finish
        )
    except subprocess.TimeoutExpired as exc:
        raise EngineUnavailable(f"a fresh process ({name}) gave no answer: {exc}") from exc
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        raise EngineUnavailable(f"a fresh process ({name}) failed: {last}")
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts


def _summed_up(name: str, rows: list[dict[str, float]]) -> Start:
    def times(what: str) -> Distribution:
        return distribution([row[what] for row in rows])

    def spread(what: str) -> Spread:
        values = [row[what] for row in rows]
        return Spread(float(np.median(values)), min(values), max(values), len(values))

    return Start(
        name=name,
        interpreter=times("interpreter"),
        ready=times("ready"),
        first=times("first"),
        rss_mb=spread("rss_mb"),
        peak_mb=spread("peak_mb"),
    )
