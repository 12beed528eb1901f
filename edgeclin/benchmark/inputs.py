"""Real samples to measure with: a person's data set, or what the bundle was verified with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeclin.datasets import open_dataset, windowed
from edgeclin.errors import BadFile, BadInput
from edgeclin.golden import read_golden
from edgeclin.runtime import Runtime

MOST = 1024
MOST_BYTES = 256 << 20
"""So much of a data set is read into memory, so that no disk is in the latencies."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Raw samples in memory, taken again and again in their order.

    Attributes:
        origin: where they come from, in words.
        rejected: samples of the data set that cannot be judged and were left out.
    """

    samples: tuple[np.ndarray, ...]
    origin: str
    rejected: int = 0

    def __getitem__(self, index: int) -> np.ndarray:
        return self.samples[index % len(self.samples)]

    @property
    def bytes(self) -> int:
        """Of one sample, in the mean."""
        return sum(sample.nbytes for sample in self.samples) // len(self.samples)


def load_inputs(runtime: Runtime, data: Path | None) -> Inputs:
    """The first samples (or windows) of `data`, or the bundle's golden ones.

    Raises:
        BadFile: no such data, of another kind than described, or none of it can be judged.
        EngineUnavailable: the bundle's task is one that this version does not answer.
    """
    golden = runtime.bundle.manifest.golden
    if data is None:
        samples, _ = read_golden(runtime.bundle.read(golden.file))
        origin = f"the bundle's own {len(samples)} golden samples (give others with --data)"
        return Inputs(tuple(samples), origin)
    dataset = open_dataset(data)
    runtime.require_fit(dataset)
    dataset = windowed(dataset, runtime.preprocess)
    taken: list[np.ndarray] = []
    rejected, size, problem = 0, 0, ""
    for sample in dataset:
        if len(taken) + rejected == MOST or size > MOST_BYTES:
            break
        try:
            runtime.predict(sample)
        except BadInput as exc:
            rejected, problem = rejected + 1, str(exc)
            continue
        taken.append(np.array(sample))
        size += sample.nbytes
    if not taken:
        raise BadFile(data, f"none of {rejected} samples can be judged ({problem})")
    part = "all" if len(taken) + rejected == len(dataset) else f"the first of {len(dataset):,}"
    return Inputs(tuple(taken), f"{len(taken):,} samples of {dataset.name}, {part}", rejected)
