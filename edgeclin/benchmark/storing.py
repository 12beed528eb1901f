"""A queue of a benchmark's own, on the disk that is asked for, gone afterwards."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType

import numpy as np

from edgeclin import wire
from edgeclin.errors import BadFile
from edgeclin.offline_queue import OfflineQueue, Stored
from edgeclin.records import Result, State

DEADLINE_S = 1.0
_KEPT = 512
"""Rows after which `tidy` takes the cloud's part."""


class TimedQueue(OfflineQueue):
    """A queue that says how long the last `put` took.

    Attributes:
        last_ms: in milliseconds.
    """

    last_ms = 0.0

    def put(
        self,
        result: Result,
        sample: np.ndarray | None = None,
        deadline_s: float = DEADLINE_S,
        *,
        last: bool = False,
    ) -> Stored:
        start = time.perf_counter_ns()
        stored = super().put(result, sample, deadline_s, last=last)
        self.last_ms = (time.perf_counter_ns() - start) / 1e6
        return stored


class Storing:
    """Stores answers as `edgeclin run` does.

    Args:
        folder: on the disk that counts; None for the temporary folder.

    Raises:
        BadFile: nothing can be written there.
    """

    def __init__(self, folder: Path | None) -> None:
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=".edgeclin-benchmark-", dir=folder))
        except OSError as exc:
            raise BadFile(folder or tempfile.gettempdir(), f"not writable ({exc})") from exc
        self.queue = TimedQueue(self.folder / "queue.sqlite")
        self._first = 1
        self._last = 0

    def put(self, result: Result, sample: np.ndarray) -> Stored:
        """Store an answer, with its sample where a second opinion is asked for."""
        asks = result.audit or result.state is State.PROVISIONAL
        stored = self.queue.put(result, sample if asks else None, DEADLINE_S)
        self.note(stored)
        return stored

    def note(self, stored: Stored) -> None:
        """Count what somebody else put into `queue`."""
        self._last = stored.seq

    def tidy(self) -> None:
        """Delete what was delivered and what nobody answered, now and then, as sync would."""
        if self._last - self._first < _KEPT:
            return
        self.queue.expire()
        last = self.queue.last_seq()
        receipt = wire.Receipt(epoch=self.queue.epoch, ranges=((self._first, last),))
        self.queue.remove(receipt)
        self._first = last + 1

    def close(self) -> None:
        """Remove it."""
        self.queue.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Storing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()
