"""One pass over the calibration samples: what a converter `ranges_from_…` does with its tap."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgeclin.convert.ranges import Statistics
from edgeclin.convert.request import Outcome, Request
from edgeclin.convert.taps import Tap

STATISTICS = "statistics.npz"


def collect(
    tap: Tap, request: Request, report: Callable[[str], None], tools: dict[str, str]
) -> Outcome:
    """Run every sample through the tap, counted and hashed as it is consumed.

    Raises:
        ConversionFailed: a tensor is not finite for a sample.
    """
    samples = np.load(request.samples, mmap_mode="r")
    report(f"calibrating with {len(samples)} samples")
    statistics, digest = Statistics(), hashlib.sha256()
    for index in range(len(samples)):
        sample = np.ascontiguousarray(samples[index])
        digest.update(sample.tobytes())
        statistics.add(tap.run(sample))
    statistics.save(Path(request.folder) / STATISTICS)
    return Outcome(
        file=STATISTICS,
        tools=tools,
        consumed=statistics.samples,
        consumed_sha256=digest.hexdigest(),
    )
