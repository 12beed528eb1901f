"""Deadlines of provisional answers, which pass whether anybody delivers or not."""

from __future__ import annotations

import logging
import threading

from edgeclin.offline_queue.queue import OfflineQueue

log = logging.getLogger(__name__)

_EXPIRE_S = 0.5
_MORE_S = 0.05
"""Until the next few, for a `put` waits while some expire."""


class Expiring:
    """Turns answers whose deadline has passed into unreviewed ones in the block, from a thread of
    its own; another process may do so too.

    What the queue has no room for comes again at the next turn.
    """

    def __init__(self, queue: OfflineQueue) -> None:
        self._queue = queue
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._expire_in_time, daemon=True)

    def __enter__(self) -> Expiring:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()

    def _expire_in_time(self) -> None:
        pause, failed = _EXPIRE_S, False
        while not self._done.wait(pause):
            pause = _EXPIRE_S
            try:
                if self._queue.expire():
                    pause = _MORE_S
            except Exception as exc:  # a thread that ended would leave answers provisional for ever
                if not failed:
                    log.error("ALARM: no answer can become unreviewed: %s", exc)
                failed = True
            else:
                failed = False
