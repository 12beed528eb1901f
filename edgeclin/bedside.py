"""The loop of `edgeclin run`: sample in, result out, stored before the next one is taken."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import numpy as np

from edgeclin.errors import BadInput, QueueFull
from edgeclin.offline_queue import OfflineQueue, Stored
from edgeclin.records import Result, State
from edgeclin.runtime import Runtime
from edgeclin.sources import Source

log = logging.getLogger(__name__)

_RETRY_FULL_S = 1.0


class Bedside:
    """Judges what a source delivers and puts every answer into the queue.

    Attributes:
        start: the position at which the source goes on.
        stop: set it to end the loop after the sample in hand.
        busy_since: monotonic seconds at which the sample in hand was taken, or None.
    """

    def __init__(
        self,
        runtime: Runtime,
        source: Source,
        queue: OfflineQueue,
        deadline_s: float,
    ) -> None:
        self._runtime = runtime
        self._source = source
        self._queue = queue
        self._deadline_s = deadline_s
        self.start = queue.next_position(source.name, runtime.bundle.digest)
        self.stop = threading.Event()
        self.busy_since: float | None = None

    def run(self, on_result: Callable[[Stored, Result], None]) -> None:
        """Go on at `start` until the source ends or `stop` is set."""
        for position, arrival in self._source.arrivals(self.start):
            if self.stop.is_set():
                return
            self.busy_since = time.monotonic()
            result = self._judge(arrival, position)
            asks = result.audit or result.state is State.PROVISIONAL
            sample = arrival if asks and isinstance(arrival, np.ndarray) else None
            stored = self._put(result, sample)
            self.busy_since = None
            if stored is None:
                return
            on_result(stored, result)

    def _judge(self, arrival: np.ndarray | BadInput, position: int) -> Result:
        try:
            if isinstance(arrival, BadInput):
                raise arrival
            return self._runtime.predict(arrival, self._source.name, position)
        except BadInput as problem:
            log.warning("sample %d of %s is rejected: %s", position, self._source.name, problem)
            return self._runtime.reject(problem, self._source.name, position)

    def _put(self, result: Result, sample: np.ndarray | None) -> Stored | None:
        """Wait for room rather than lose an answer; None when told to stop meanwhile."""
        while True:
            try:
                return self._queue.put(result, sample, self._deadline_s)
            except QueueFull as exc:
                log.error("ALARM: %s", exc)
                self.busy_since = None
                if self.stop.wait(_RETRY_FULL_S):
                    return None
