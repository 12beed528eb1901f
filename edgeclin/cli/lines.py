"""Lines on standard output that hold nothing up for long when their reader stops reading."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading

log = logging.getLogger(__name__)

_WAITING = 1000
_PATIENCE_S = 5.0


class Lines:
    """Writes lines from a thread of its own. A reader that is slow is waited for; one that takes
    nothing for `_PATIENCE_S`, or is gone, gets no more.

    Attributes:
        unread: why lines are no longer written; empty while they are.
    """

    def __init__(self) -> None:
        self.unread = ""
        self._stream = sys.stdout.buffer
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._written = 0
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def say(self, line: bytes | None) -> None:
        """Have a line written; None ends it."""
        while not self.unread:
            before = self._written
            try:
                self._waiting.put(line, timeout=_PATIENCE_S)
            except queue.Full:
                self._blame(before)
            else:
                return

    def close(self) -> None:
        """Wait until all is written, or nobody reads."""
        self.say(None)
        while self._thread.is_alive() and not self.unread:
            before = self._written
            self._thread.join(_PATIENCE_S)
            if self._thread.is_alive():
                self._blame(before)

    def _blame(self, before: int) -> None:
        if self._written == before:
            self._end(f"nobody has read for {_PATIENCE_S:g} s")

    def _end(self, why: str) -> None:
        if not self.unread:
            self.unread = why
            log.error("ALARM: standard output cannot be written (%s): only stored", why)

    def _write(self) -> None:
        try:
            while (line := self._waiting.get()) is not None:
                self._write_all(line + b"\n")
                self._written += 1
        except OSError as exc:
            self._end(exc.strerror or str(exc))

    def _write_all(self, data: bytes) -> None:
        try:
            descriptor = self._stream.fileno()
        except OSError:  # a test's
            self._stream.write(data)
            return
        # Not through the stream, whose lock Python wants at its end.
        while data:
            data = data[os.write(descriptor, data) :]
            self._written += 1
