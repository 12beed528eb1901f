"""Where samples come from at the bedside."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from edgeclin.datasets import Dataset
from edgeclin.errors import BadFile, BadInput
from edgeclin.files import reading
from edgeclin.inbox import Inbox, Line, Sample
from edgeclin.preprocess import Preprocess
from edgeclin.records import Record
from edgeclin.streams import SignalStream

MAX_LINE = 64 << 20
MAX_STREAMS = 1024


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
    """A stream of bytes, one JSON value a line of at most `MAX_LINE` bytes.

    An array of numbers is a sample. An object {"stream": NAME, "samples": ARRAY} holds what came of
    a signal, one sample or many; its windows are judged as the stream `stdin/NAME`.

    Args:
        live: whoever writes cannot wait: when too many samples of a stream do, the oldest goes.
    """

    def __init__(
        self,
        stream: BinaryIO,
        preprocess: Preprocess,
        *,
        live: bool = False,
        name: str = "stdin",
    ) -> None:
        self.name = name
        self._stream = stream
        self._preprocess = preprocess
        self._live = live
        self._signals: dict[str, SignalStream] = {}

    def deliver(self, inbox: Inbox) -> None:
        with reading(Path(self.name)):
            for text in self._lines():
                if text.strip() and not self._take(text, inbox):
                    return

    def _take(self, text: bytes, inbox: Inbox) -> bool:
        stream = self.name
        try:
            value = _parse(text)
            if not isinstance(value, _Chunk):
                return self._add(value, inbox.line(stream))
            signal = self._signal(value.stream)
            stream = f"{self.name}/{value.stream}"
            line = inbox.line(stream)
            return all(self._add(window, line) for window in signal.feed(_array(value.samples)))
        except BadInput as problem:
            return self._add(problem, inbox.line(stream))

    def _add(self, sample: Sample, line: Line) -> bool:
        return line.push(sample) if self._live else line.put(sample)

    def _signal(self, name: str) -> SignalStream:
        if name not in self._signals:
            if len(self._signals) == MAX_STREAMS:
                raise BadInput(f"{name!r} would be more than {MAX_STREAMS} streams")
            self._signals[name] = SignalStream(self._preprocess.window)
        return self._signals[name]

    def _lines(self) -> Iterator[bytes]:
        while line := self._stream.readline(MAX_LINE + 1):
            yield line
            while len(line) > MAX_LINE and not line.endswith(b"\n"):
                line = self._stream.readline(MAX_LINE + 1)


class _Chunk(Record, frozen=True):
    """What came of one signal."""

    stream: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z")]
    samples: Any


def _parse(line: bytes) -> np.ndarray | _Chunk:
    if len(line) > MAX_LINE:
        raise BadInput(f"a line of over {MAX_LINE >> 20} MiB")
    if line.lstrip().startswith(b"{"):
        try:
            return msgspec.json.decode(line, type=_Chunk)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise BadInput(f"not what came of a stream ({exc})") from exc
    try:
        return _array(json.loads(line))
    except (ValueError, RecursionError) as exc:
        raise BadInput(f"not a JSON array of numbers ({exc})") from exc


def _array(value: Any) -> np.ndarray:
    try:
        sample = np.asarray(value)
    except (ValueError, TypeError) as exc:
        raise BadInput(f"not a JSON array of numbers ({exc})") from exc
    if not sample.ndim or sample.dtype.kind not in "iuf":
        raise BadInput("not a JSON array of numbers")
    with np.errstate(over="ignore"):  # it becomes infinite, which no sample may be
        return sample.astype(np.float32)
