"""Where samples come from at the bedside."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from edgeclin.datasets import Dataset
from edgeclin.errors import BadFile, BadInput
from edgeclin.files import reading
from edgeclin.inbox import Inbox, Sample
from edgeclin.preprocess import Preprocess

MAX_LINE = 64 << 20


class Source(Protocol):
    """Something that delivers samples, from a thread of its own."""

    def deliver(self, inbox: Inbox) -> None:
        """Add samples to lines of `inbox`, until no more come or it is stopped.

        The queue remembers how far each stream was judged, under its name. A recorded source goes
        on at `Line.start`, so that its stream has another name when it has other contents; a live
        one's samples are numbered from there.

        Raises:
            EdgeclinError: nothing more can come, and somebody must look.
        """


class ReplaySource:
    """A recorded data set, played as if it arrived now.

    Attributes:
        name: of its stream; it tells the contents.

    Args:
        rate_hz: samples a second, or None for as fast as they are judged.
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

    def deliver(self, inbox: Inbox) -> None:
        line = inbox.line(self.name)
        began = time.monotonic()
        for position, window in enumerate(self._windows()):
            if position < line.start:
                continue
            due = began + (position - line.start) * self._interval
            if self._interval and due > (now := time.monotonic()):
                self._sleep(due - now)
            if not line.put(window):
                return

    def _windows(self) -> Iterator[Sample]:
        for index in range(len(self._dataset)):
            try:
                yield from self._preprocess.windows(self._dataset[index])
            except BadFile as exc:
                yield BadInput(str(exc))


class JsonLinesSource:
    """A stream of bytes: one JSON array of numbers a line, of at most `MAX_LINE` bytes."""

    def __init__(self, stream: BinaryIO, name: str = "stdin") -> None:
        self.name = name
        self._stream = stream

    def deliver(self, inbox: Inbox) -> None:
        line = inbox.line(self.name)
        with reading(Path(self.name)):
            for text in self._lines():
                if text.strip() and not line.put(_parse(text)):
                    return

    def _lines(self) -> Iterator[bytes]:
        while line := self._stream.readline(MAX_LINE + 1):
            yield line
            while len(line) > MAX_LINE and not line.endswith(b"\n"):
                line = self._stream.readline(MAX_LINE + 1)


def _parse(line: bytes) -> Sample:
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
