"""Lines for standard output or error that hold nothing up for ever when nobody reads them."""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import select
import stat
import struct
import termios
import threading
import time
from collections.abc import Callable
from math import inf
from typing import TextIO

log = logging.getLogger(__name__)

_WAITING = 1000
_PATIENCE_S = 60.0
_STOPPED_S = 5.0
"""What is left once the command was asked to stop gets so long."""
_STALE_S = 10.0
"""A reader that has taken nothing for so long, while it is waited for, is told."""
_TURN_S = 0.02


class Lines:
    """Writes lines from a thread of its own.

    Where who says them can wait, a reader that is slow, late or paused is waited for, in `wait`
    and never in `say`; one that takes nothing for `_PATIENCE_S`, or is gone, gets no more. Where
    nobody can wait, lines that find no room are left out.

    Args:
        stream: None where it is closed.
        name: of the stream, for messages.
        waits: whether `wait` does.

    Attributes:
        unread: why lines are no longer written; empty while they are.
        left_out: lines that found no room.
    """

    def __init__(self, stream: TextIO | None, name: str, *, waits: bool) -> None:
        self.unread = ""
        self.left_out = 0
        self._name = name
        self._waits = waits
        self._waiting: queue.Queue[bytes | None] = queue.Queue()
        self._written = self._told = 0
        self._patience: _Patience | None = None
        self._thread = threading.Thread(target=self._write, daemon=True)
        if stream is None:
            self._end("it is closed")
            return
        self._stream = stream.buffer
        self._thread.start()

    @property
    def problem(self) -> str:
        """What somebody must look at, in a sentence; empty when all is read."""
        if self.unread:
            return f"{self._name} cannot be written ({self.unread})"
        if lost := self.left_out - self._told:
            return f"{self._name} is not read fast enough: {lost} lines are left out"
        patience = self._patience
        if patience is not None and patience.over(_STALE_S):
            return f"the loop waits for the reader of {self._name}, which takes nothing"
        return ""

    def say(self, line: bytes) -> None:
        """Have a line written; never waits."""
        if self.unread:
            return
        if self._waits or self._waiting.unfinished_tasks < _WAITING:
            self._waiting.put(line)
            return
        self.left_out += 1
        if self.left_out == self._told + 1:
            log.error("ALARM: %s", self.problem)

    def wait(self, stopped: Callable[[], bool]) -> None:
        """Wait until there is room for more lines, nobody reads or the command is to end."""
        if self._waits and self._waiting.unfinished_tasks >= _WAITING:
            self._wait(lambda: self._waiting.unfinished_tasks < _WAITING or stopped())

    def close(self, stopped: Callable[[], bool]) -> None:
        """Wait until all is written or nobody reads.

        Args:
            stopped: whether the command is to end, and so not for long.
        """
        if self.unread:
            return
        self._waiting.put(None)
        until = inf

        def over() -> bool:
            nonlocal until
            if stopped():
                until = min(until, time.monotonic() + _STOPPED_S)
            return not self._thread.is_alive() or time.monotonic() >= until

        self._wait(over)
        if left := self._waiting.unfinished_tasks - 1:
            self._end(f"its reader was too slow for the last {left} lines")

    def _wait(self, over: Callable[[], bool]) -> None:
        self._patience = patience = _Patience(self._progress)
        while not self.unread and not over():
            if patience.over(_PATIENCE_S):
                self._end(f"nobody has read for {_PATIENCE_S:g} s")
            time.sleep(_TURN_S)
        self._patience = None

    def _progress(self) -> tuple[int, int]:
        """Changes as long as somebody reads: what was written, and what of it lies unread."""
        try:
            descriptor = self._stream.fileno()
            piped = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
            unread = fcntl.ioctl(
                descriptor, termios.FIONREAD if piped else termios.TIOCOUTQ, bytes(4)
            )
        except OSError:  # of a file
            return self._written, 0
        return self._written, int(struct.unpack("i", unread)[0])

    def _end(self, why: str) -> None:
        if not self.unread:
            self.unread = why
            log.error("ALARM: %s", self.problem)

    def _write(self) -> None:
        try:
            while (line := self._waiting.get()) is not None:
                self._write_all(line + b"\n")
                self._waiting.task_done()
                if self._waiting.empty():
                    self._tell_left_out("is read again")
            self._tell_left_out("is at its end")
        except OSError as exc:
            self._end(exc.strerror or str(exc))

    def _tell_left_out(self, why: str) -> None:
        if self.left_out > self._told:
            lost, self._told = self.left_out - self._told, self.left_out
            log.warning("%s %s; %d lines were left out", self._name, why, lost)

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
