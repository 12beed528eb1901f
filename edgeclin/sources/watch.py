"""A folder into which files come: each is judged once, also over restarts."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeclin.datasets import Dataset, open_one
from edgeclin.datasets.readers import SIGNALS, reader_of
from edgeclin.errors import BadFile, BadInput, MissingExtra
from edgeclin.inbox import Inbox, Line, Part, Sample
from edgeclin.offline_queue import ENDED
from edgeclin.preprocess import Preprocess
from edgeclin.sources.landing import MISSING_S, REST_S, Landed, Landing
from edgeclin.sources.marks import plain
from edgeclin.sources.replay import raw_samples

log = logging.getLogger(__name__)

POLL_S, LONGEST_POLL_S = 0.5, 10.0
_SHARE = 10
"""Between two looks at a folder pass so many times what a look takes, from `POLL_S` to
`LONGEST_POLL_S`."""
MAX_FILE = 128 << 20
"""Bytes of a file: a reader takes up to ten times as much memory."""


class FolderWatch:
    """The files of a folder, and those that come into it; none is moved or deleted.

    Each file is a stream of its own, `FOLDER/NAME#fingerprint`, which the queue remembers as ended
    in the transaction that stores the last answer about it: a crash loses and repeats nothing, and
    another bundle that cuts it alike goes on where the last one ended. New files go before those
    that were there at the start, the longest unchanged first.

    Args:
        fit: refuses a file that the model is not described for, as `Runtime.require_fit`.
        pictures: the model judges pictures, so that text beside them is somebody's notes.
    """

    recorded = False
    live = False

    def __init__(
        self,
        folder: Path,
        preprocess: Preprocess,
        fit: Callable[[Dataset], None],
        *,
        pictures: bool = False,
        poll_s: float = POLL_S,
        rest_s: float = REST_S,
        missing_s: float = MISSING_S,
    ) -> None:
        self.name = plain(f"watch:{folder}")
        self._folder = folder
        self._preprocess = preprocess
        self._fit = fit
        self._pictures = pictures
        self._vanished = 0
        self._poll_s, self._rest_s, self._missing_s = poll_s, rest_s, missing_s

    def deliver(self, inbox: Inbox) -> None:
        line = inbox.line(self.name)
        landing = Landing(
            self._folder,
            self._reads,
            _companions,
            lambda stream: inbox.start(stream) >= ENDED,
            rest_s=self._rest_s,
            missing_s=self._missing_s,
        )
        new: deque[Landed] = deque()
        backlog: deque[Landed] = deque()
        while not inbox.stopped.is_set():
            began = time.monotonic()
            for file in landing.scan():
                (backlog if file.backlog else new).append(file)
            if landing.away:
                inbox.out[self.name] = landing.away
            else:
                inbox.out.pop(self.name, None)
            took = time.monotonic() - began
            due = began + took + max(self._poll_s, min(_SHARE * took, LONGEST_POLL_S))
            while (new or backlog) and time.monotonic() < due:
                if not self._judge((new or backlog).popleft(), landing, inbox, line):
                    return
            if self._vanished:
                log.warning(
                    "%s: %d files vanished before they were judged", self._folder, self._vanished
                )
                self._vanished = 0
            inbox.stopped.wait(max(0.0, due - time.monotonic()))

    def _judge(self, file: Landed, landing: Landing, inbox: Inbox, line: Line) -> bool:
        start = inbox.start(file.stream)
        if start >= ENDED:
            return True
        for position, (sample, last) in enumerate(_with_last(self._samples(file.path))):
            if landing.changed(file):
                self._vanished += not os.path.lexists(file.path)
                landing.forget(file)
                return True
            part = Part(file.stream, position, last, once=True)
            if position >= start and not line.put(sample, part):
                return False
        return True

    def _samples(self, path: Path) -> Iterator[Sample]:
        try:
            if path.stat().st_size > MAX_FILE:
                raise BadFile(path, f"larger than {MAX_FILE >> 20} MiB", "cut it into several")
            dataset = open_one(path)
            self._fit(dataset)
        except (BadFile, MissingExtra) as exc:
            yield BadInput(plain(str(exc)))
            return
        except OSError as exc:
            yield BadInput(plain(f"{path}: cannot be read ({exc.strerror})"))
            return
        for sample in raw_samples(dataset, self._preprocess):
            yield BadInput(plain(str(sample))) if isinstance(sample, BadInput) else sample

    def _reads(self, suffix: str) -> bool:
        reader = reader_of(suffix)
        return reader is not None and not (self._pictures and reader is SIGNALS)


def _companions(path: Path) -> tuple[Path, ...]:
    reader = reader_of(path.suffix)
    if reader is None or not reader.scattered:
        return ()
    try:
        return reader.look(path).companions
    except BadFile as exc:
        return () if exc.path == path else (exc.path,)
    except MissingExtra:
        return ()


def _with_last(samples: Iterator[Sample]) -> Iterator[tuple[Sample, bool]]:
    """Each with whether none comes after it."""
    before = next(samples)
    for sample in samples:
        yield before, False
        before = sample
    yield before, True
