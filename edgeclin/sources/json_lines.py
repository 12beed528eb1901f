"""Samples and signals as lines of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgeclin.errors import BadInput
from edgeclin.files import reading
from edgeclin.inbox import Inbox, Line, Sample
from edgeclin.preprocess import Preprocess
from edgeclin.sources.json_samples import STREAM, Chunk, parse, to_array
from edgeclin.streams import SignalStream

MAX_LINE = 64 << 20
MAX_STREAMS = 1024


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
        self.live = live
        self._signals: dict[str, SignalStream] = {}

    def deliver(self, inbox: Inbox) -> None:
        with reading(Path(self.name)):
            for text in self._lines():
                if text.strip() and not self._take(text, inbox):
                    return
        inbox.end(self.name, recorded=self.recorded)

    def _take(self, text: bytes, inbox: Inbox) -> bool:
        stream = self.name
        try:
            if len(text) > MAX_LINE:
                raise BadInput(f"a line of over {MAX_LINE >> 20} MiB")
            value = parse(text)
            if not isinstance(value, Chunk):
                return self._add(value, inbox.line(stream))
            signal = self._signal(value.stream)
            stream = f"{self.name}/{value.stream}"
            line = inbox.line(stream)
            return all(self._add(window, line) for window in signal.feed(to_array(value.samples)))
        except BadInput as problem:
            self._restart(text)
            return self._add(problem, inbox.line(stream))

    def _restart(self, text: bytes) -> None:
        """Let no window span what a broken line held: of its stream, or of all where it does not
        say whose it is, as when the next line was written into it."""
        try:
            value = json.loads(text) if len(text) <= MAX_LINE else None
        except (ValueError, RecursionError):
            value = None
        named = value.get("stream") if isinstance(value, dict) else None
        told = isinstance(named, str) and re.match(STREAM, named)
        for name in [told[0]] if told else self._signals:
            if signal := self._signals.get(name):
                signal.restart()

    def _add(self, sample: Sample, line: Line) -> bool:
        return line.push(sample) if self.live else line.put(sample)

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
