"""What a command that runs for long says on standard error, waiting for nobody who should read."""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
from contextlib import suppress

import click

_LAST_S = 5.0


class Log(logging.Handler):
    """Takes the place of the log's handler in the block. Nothing that is written to standard error
    waits for its reader meanwhile, nor does what libraries in C write there: what finds no room is
    left out."""

    def __init__(self) -> None:
        super().__init__()
        self._replaced: list[logging.Handler] = []
        self._blocking: int | None = None
        self._closed = ""
        self._left_out = 0

    def __enter__(self) -> Log:
        self._closed = "it is closed" if sys.stderr is None else ""
        self._descriptor = None if sys.stderr is None else _descriptor()
        if self._descriptor is not None:
            self._blocking = _never_wait(self._descriptor)
        root = logging.getLogger()
        self._replaced = [one for one in root.handlers if type(one) is logging.StreamHandler]
        for handler in self._replaced:
            self.setFormatter(handler.formatter)
            root.removeHandler(handler)
            root.addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        for handler in self._replaced:
            root.addHandler(handler)
        if self._blocking is not None and self._descriptor is not None:
            os.dup2(self._blocking, self._descriptor)
            os.close(self._blocking)
            self._blocking = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            self.tell(self.format(record))
        except Exception:
            self.handleError(record)

    def tell(self, text: str) -> None:
        """Write a line for a person."""
        if self._closed:
            return
        self.acquire()
        try:
            lost = f"{self._left_out} lines were left out\n" if self._left_out else ""
            if self._write(f"{lost}{text}\n".encode(errors="backslashreplace")):
                self._left_out = 0
            else:
                self._left_out += 1
        except OSError as exc:
            self._closed = exc.strerror or str(exc)
        finally:
            self.release()

    def problem(self) -> str:
        """What somebody must look at, in a sentence; empty when all is read."""
        if self._closed:
            return f"standard error cannot be written ({self._closed})"
        if self._left_out:
            return f"standard error is not read fast enough: {self._left_out} lines are left out"
        return ""

    def _write(self, data: bytes) -> bool:
        if self._descriptor is None:  # a test's
            sys.stderr.write(data.decode())
            return True
        if not _has_room(self._descriptor, 0.0):
            return False
        with suppress(BlockingIOError):
            return os.write(self._descriptor, data) == len(data)
        return False


def tell_last(text: str) -> None:
    """Write the last line of a command, unless nobody makes room for it within seconds."""
    descriptor = None if sys.stderr is None else _descriptor()
    if descriptor is None or _has_room(descriptor, _LAST_S):
        click.echo(text, err=True)


def _descriptor() -> int | None:
    try:
        return sys.stderr.fileno()
    except OSError:
        return None


def _has_room(descriptor: int, within_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(within_s * 1000))


def _never_wait(descriptor: int) -> int | None:
    """Have writes to a pipe or a terminal find room at once or fail; returns another descriptor of
    what it was before. It is opened anew, for others who have the same one would find it changed.
    """
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return None
    try:
        opened = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    before = os.dup(descriptor)
    os.dup2(opened, descriptor)
    os.close(opened)
    return before
