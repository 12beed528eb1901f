"""How long engines take on this machine, side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeclin.backends import load_backend

_WARM_UP = 3
_MOST_RUNS, _LEAST_RUNS = 50, 10
_SECONDS = 4.0
"""What all runs together should take."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """Medians by name, in milliseconds, of `runs` runs each on one thread."""

    medians: dict[str, float]
    runs: int


def measure(backend: str, engines: Mapping[str, bytes], sample: np.ndarray) -> Latencies:
    """Run all engines in turn, so that whatever else the machine does meets each alike.

    Args:
        backend: what executes them all.
        sample: prepared, float32.
    """
    loaded = {name: load_backend(backend, engine) for name, engine in engines.items()}
    spent: dict[str, list[float]] = {name: [] for name in loaded}
    runs, began = 0, time.perf_counter()
    for number in range(_WARM_UP + _MOST_RUNS):
        if runs >= _LEAST_RUNS and time.perf_counter() - began > _SECONDS:
            break
        for name, engine in loaded.items():
            start = time.perf_counter()
            engine.run(sample)
            if number >= _WARM_UP:
                spent[name].append(1e3 * (time.perf_counter() - start))
        runs += number >= _WARM_UP
    for engine in loaded.values():
        engine.close()
    return Latencies({name: float(np.median(times)) for name, times in spent.items()}, runs)
