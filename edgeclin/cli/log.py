"""What a command that runs for long says on standard error, waiting for nobody who should read."""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

_LAST_S = 5.0
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""Errors of a file that may be gone by the next line."""


class Log(logging.Handler):
    """Takes the place of the log's handler in the block. Nothing that is written to standard error
    waits for its reader meanwhile, nor does what libraries in C write there: what finds no room is
    left out."""

    def __init__(self) -> None:
        super().__init__()
        self._replaced: list[logging.Handler] = []
        self._blocking: int | None = None
        self._closed = ""
        self._full = ""
        self._left_out = 0
        self._rest = b""

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
        self._tell_last()
        if self._blocking is not None and self._descriptor is not None:
            os.dup2(self._blocking, self._descriptor)
            os.close(self._blocking)
            self._blocking = None

    def _tell_last(self) -> None:
        """Write what is left, unless nobody makes room for it within seconds."""
        until = time.monotonic() + _LAST_S
        with self._own_lock():
            while (self._rest or self._left_out) and not self._closed and self._descriptor:
                if not _has_room(self._descriptor, max(until - time.monotonic(), 0.0)):
                    return
                if not self._catch_up() and (self._full or time.monotonic() >= until):
                    return

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            self.tell(self.format(record))
        except Exception:
            self.handleError(record)

    def tell(self, text: str) -> None:
        """Write a line for a person."""
        if not self._closed:
            with self._own_lock():
                line = f"{text}\n".encode(errors="backslashreplace")
                if self._catch_up() and self._try(line):
                    return
                self._left_out += 1

    def problem(self) -> str:
        """What somebody must look at, in a sentence; empty when all is read."""
        if not self._closed:
            with self._own_lock():
                self._catch_up()
        if self._closed or self._full:
            why = self._closed or self._full
            return f"standard error cannot be written ({why}){self._lost(', ')}"
        if self._left_out:
            return f"standard error is not read fast enough{self._lost(': ')}"
        return ""

    def _lost(self, before: str) -> str:
        return f"{before}{self._left_out} lines are left out" if self._left_out else ""

    def _catch_up(self) -> bool:
        """Write what is left of a line, and how many found no room; whether there is more now."""
        if self._rest:
            rest, self._rest = self._rest, b""
            if not self._try(rest):
                self._rest = rest
                return False
        if self._rest:
            return False
        if self._left_out and self._try(f"{self._left_out} lines were left out\n".encode()):
            self._left_out = 0
        return not self._left_out

    def _try(self, data: bytes) -> bool:
        """Write some of it, if there is room, and keep the rest; whether any was written."""
        try:
            written = self._write(data)
        except OSError as exc:
            why = exc.strerror or str(exc)
            if exc.errno in _PASSING:
                self._full = why
            else:
                self._closed = why
            return False
        self._full = ""
        self._rest = data[written:] if written else b""
        return written > 0

    def _write(self, data: bytes) -> int:
        if self._descriptor is None:  # a test's
            sys.stderr.write(data.decode())
            return len(data)
        if not _has_room(self._descriptor, 0.0):
            return 0
        with suppress(BlockingIOError):
            return os.write(self._descriptor, data)
        return 0

    @contextmanager
    def _own_lock(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()


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
