"""The ids of rows."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

_COUNTS = 1 << 12
_VARIANT = 0b10 << 62


class Ids:
    """Makes UUIDv7 that rise (RFC 9562, 5.7): milliseconds since 1970, then a counter that goes on
    (6.2, method 1). What is random, 62 bits, is drawn once, so that a batch says it once.

    Args:
        clock_ns: nanoseconds since 1970.
    """

    def __init__(self, clock_ns: Callable[[], int] = lambda: time.time_ns()) -> None:
        self._clock_ns = clock_ns
        rest = f"{_VARIANT | secrets.randbits(62):016x}"
        self._rest = f"{rest[:4]}-{rest[4:]}"
        self._lock = threading.Lock()
        self._moment, self._count = 0, secrets.randbelow(_COUNTS)

    def new(self) -> str:
        """Another one, above all before it, though the clock go back."""
        with self._lock:
            before, now = self._moment, self._clock_ns() // 1_000_000
            self._moment = max(before, now)
            self._count = (self._count + 1) % _COUNTS
            if self._moment == before and not self._count:
                self._moment += 1
            moment = f"{self._moment:012x}"
            return f"{moment[:8]}-{moment[8:]}-7{self._count:03x}-{self._rest}"
