"""Samples and signals as lines of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import numpy as np
from msgspec import Meta

from edgeclin.errors import BadInput
from edgeclin.files import reading
from edgeclin.inbox import Inbox, Line, Sample
from edgeclin.preprocess import Preprocess
from edgeclin.records import Record
from edgeclin.streams import SignalStream

MAX_LINE = 64 << 20
MAX_STREAMS = 1024
_NAME = re.compile(rb'"stream"\s*:\s*"([A-Za-z0-9._-]{1,64})"')
"""Also in a line that is broken elsewhere."""
_NOT_JSON = (b"NaN", b"Infinity")
"""What Python writes for a sample that is missing; JSON (RFC 8259) has no such numbers."""


class JsonLinesSource:
    """A stream of bytes, one JSON value a line of at most `MAX_LINE` bytes.

    An array of numbers is a sample. An object {"stream": NAME, "samples": ARRAY} holds what came of
    a signal, one sample or many; its windows are judged as the stream `stdin/NAME`.

    Args:
        live: whoever writes cannot wait: when too many samples of a stream do, the oldest goes.
    """

    recorded = False

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
            named = _NAME.search(text)
            if named is not None and (broken := self._signals.get(named[1].decode())):
                broken.restart()
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
            if any(word in line for word in _NOT_JSON):
                return msgspec.convert(json.loads(line), _Chunk)
            return msgspec.json.decode(line, type=_Chunk)
        except (ValueError, msgspec.MsgspecError, RecursionError) as exc:
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
