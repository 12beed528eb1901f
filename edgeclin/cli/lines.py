"""Lines on standard output that hold nothing up for ever when their reader stops reading."""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import select
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf

log = logging.getLogger(__name__)

_WAITING = 1000
_PATIENCE_S = 60.0
_STOPPED_S = 5.0
"""What is left once the command was asked to stop gets so long."""
_LOOK_S, _TURN_S = 0.5, 0.02


class Lines:
    """Writes lines from a thread of its own. A reader that is slow, late or paused is waited for;
    one that takes nothing for `_PATIENCE_S`, or is gone, gets no more.

    Attributes:
        unread: why lines are no longer written; empty while they are.
    """

    def __init__(self) -> None:
        self.unread = ""
        self._waiting: queue.Queue[bytes] = queue.Queue(_WAITING)
        self._ending = threading.Event()
        self._written = 0
        self._thread = threading.Thread(target=self._write, daemon=True)
        if sys.stdout is None:
            self._end("it is closed")
            return
        self._stream = sys.stdout.buffer
        self._thread.start()

    def say(self, line: bytes) -> None:
        """Have a line written."""
        if self.unread:
            return
        patience = _Patience(self._progress)
        while not self.unread:
            try:
                self._waiting.put(line, timeout=_LOOK_S)
            except queue.Full:
                self._judge(patience)
            else:
                return

    def close(self, stopped: Callable[[], bool]) -> None:
        """Wait until all is written or nobody reads.

        Args:
            stopped: whether the command is to end, and so not for long.
        """
        if self.unread:
            return
        self._ending.set()
        patience, until = _Patience(self._progress), inf
        while not self.unread and self._thread.is_alive() and time.monotonic() < until:
            if stopped():
                until = min(until, time.monotonic() + _STOPPED_S)
            self._judge(patience)
            self._thread.join(_TURN_S)
        if left := self._waiting.qsize():
            self._end(f"its reader was too slow for the last {left} lines")

    def _judge(self, patience: _Patience) -> None:
        if patience.over(_PATIENCE_S):
            self._end(f"nobody has read for {_PATIENCE_S:g} s")

    def _progress(self) -> tuple[int, int]:
        """Changes as long as somebody reads: what was written, and what lies in a pipe."""
        try:
            room = fcntl.ioctl(self._stream.fileno(), termios.FIONREAD, bytes(4))
        except OSError:  # of no pipe
            return self._written, 0
        return self._written, int(struct.unpack("i", room)[0])

    def _end(self, why: str) -> None:
        if not self.unread:
            self.unread = why
            log.error("ALARM: standard output cannot be written (%s): only stored", why)

    def _write(self) -> None:
        try:
            while not (self._ending.is_set() and self._waiting.empty()):
                with suppress(queue.Empty):
                    self._write_all(self._waiting.get(timeout=_TURN_S) + b"\n")
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
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:
                select.select([], [descriptor], [])
            self._written += 1


class _Patience:
    """How long what `look` gives has stayed the same."""

    def __init__(self, look: Callable[[], object]) -> None:
        self._look = look
        self._seen, self._since = look(), time.monotonic()

    def over(self, most_s: float) -> bool:
        """Whether it has for longer than that."""
        now = self._look()
        if now != self._seen:
            self._seen, self._since = now, time.monotonic()
        return time.monotonic() - self._since > most_s
