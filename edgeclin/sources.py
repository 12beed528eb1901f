"""Where samples come from at the bedside."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

import numpy as np

from edgeclin.datasets import Dataset
from edgeclin.errors import BadFile, BadInput
from edgeclin.files import reading
from edgeclin.preprocess import Preprocess

MAX_LINE = 64 << 20

Arrival: TypeAlias = "tuple[int, np.ndarray | BadInput]"
"""A position in the source and the raw sample there, or why there is none."""


class Source(Protocol):
    """A sequence of samples that can be taken up again after a crash.

    A source that can go back yields from `start` on; one that cannot (a live one) numbers its
    samples from there. It ends when there is nothing more to come. The queue remembers the
    position under `name`, so that a recorded source has another name when it has other contents.
    """

    name: str

    def arrivals(self, start: int) -> Iterator[Arrival]: ...


class ReplaySource:
    """A recorded data set, played as if it arrived now.

    Args:
        rate_hz: samples a second, or None for as fast as they are taken.
    """

    def __init__(
        self,
        dataset: Dataset,
        preprocess: Preprocess,
        rate_hz: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = f"{dataset.name}#{dataset.fingerprint()[:12]}"
        self._dataset = dataset
        self._preprocess = preprocess
        self._interval = 1 / rate_hz if rate_hz else 0.0
        self._sleep = sleep

    def arrivals(self, start: int) -> Iterator[Arrival]:
        began = time.monotonic()
        for position, window in enumerate(self._windows()):
            if position < start:
                continue
            due = began + (position - start) * self._interval
            if self._interval and due > (now := time.monotonic()):
                self._sleep(due - now)
            yield position, window

    def _windows(self) -> Iterator[np.ndarray | BadInput]:
        for index in range(len(self._dataset)):
            try:
                yield from self._preprocess.windows(self._dataset[index])
            except BadFile as exc:
                yield BadInput(str(exc))


class JsonLinesSource:
    """Standard input: one JSON array of numbers a line, of at most `MAX_LINE` bytes."""

    name = "stdin"

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def arrivals(self, start: int) -> Iterator[Arrival]:
        with reading(Path(self.name)):
            for offset, line in enumerate(line for line in self._lines() if line.strip()):
                yield start + offset, _parse(line)

    def _lines(self) -> Iterator[bytes]:
        while line := self._stream.readline(MAX_LINE + 1):
            yield line
            while len(line) > MAX_LINE and not line.endswith(b"\n"):
                line = self._stream.readline(MAX_LINE + 1)


def _parse(line: bytes) -> np.ndarray | BadInput:
    if len(line) > MAX_LINE:
        return BadInput(f"a line of over {MAX_LINE >> 20} MiB")
    try:
        sample = np.asarray(json.loads(line))
    except (ValueError, TypeError, RecursionError) as exc:
        return BadInput(f"not a JSON array of numbers ({exc})")
    if not sample.ndim or sample.dtype.kind not in "iuf":
        return BadInput("not a JSON array of numbers")
    with np.errstate(over="ignore"):  # it becomes infinite, which no sample may be
        return sample.astype(np.float32)
