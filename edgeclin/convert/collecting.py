"""One pass over the calibration samples: what a converter `ranges_from_…` does with its tap."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgeclin.convert.ranges import Statistics
from edgeclin.convert.request import Outcome, Request
from edgeclin.convert.rows import begin_rows
from edgeclin.convert.taps import Tap

STATISTICS = "statistics.npz"
ANSWERS = "answers.npy"


def collect(
    tap: Tap, request: Request, report: Callable[[str], None], tools: dict[str, str]
) -> Outcome:
    """Run every sample through the tap, counted and hashed as it is consumed; what the float model
    answers is kept, so that its labels can be compared.

    Raises:
        ConversionFailed: a tensor is not finite for a sample.
    """
    samples = np.load(request.samples, mmap_mode="r")
    report(f"calibrating with {len(samples)} samples")
    statistics, digest = Statistics(), hashlib.sha256()
    folder = Path(request.folder)
    with (folder / ANSWERS).open("wb") as answers:
        for index in range(len(samples)):
            sample = np.ascontiguousarray(samples[index])
            digest.update(sample.tobytes())
            statistics.add(_with_answer(tap, sample, answers, rows=0 if index else len(samples)))
    statistics.save(folder / STATISTICS)
    return Outcome(
        file=STATISTICS,
        answers=ANSWERS,
        tools=tools,
        consumed=statistics.samples,
        consumed_sha256=digest.hexdigest(),
    )


def _with_answer(
    tap: Tap, sample: np.ndarray, answers: BinaryIO, rows: int
) -> Iterator[tuple[str, np.ndarray]]:
    """All that the tap yields; its answer is written down, and first how many rows there will be,
    when that is not 0."""
    for name, values in tap.run(sample):
        if name == tap.output:
            if rows:
                begin_rows(answers, rows, (values.size,))
            answers.write(np.ascontiguousarray(values, np.float32).tobytes())
        yield name, values
