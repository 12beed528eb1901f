"""Ending in good order: the first SIGINT, SIGTERM or SIGHUP asks, one that comes later insists.
SIGINT and SIGHUP stay ignored where whoever started the command had them so.

A handler of Python's runs in the main thread between two of its steps: it would wait for native
code that does not return, and could take no lock that this thread holds. So a thread of its own
hears the signals.
"""

from __future__ import annotations

import ctypes
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeAlias

from edgeclin.cli.output import tell

_TOGETHER_S = 1.0
"""Signals so close together are one: `timeout` sends two."""
_came: list[int] = []
"""Signals that have asked the command to stop, for SystemExit may be swallowed: the import of an
extension makes an ImportError of it, as if a module were missing."""
_Handler: TypeAlias = Callable[[int, "FrameType | None"], None]


def on_stop(stop: Callable[[], None]) -> None:
    """Call `stop`, in another thread, on the first signal; one that comes later kills.

    Raises:
        SystemExit: one has come already.
    """
    for number in _came:
        raise SystemExit(128 + number)
    _hearing.append(_Hearing(stop, _nothing))


def stop_event() -> threading.Event:
    """An event that the first signal sets, as in `on_stop`."""
    stop = threading.Event()
    on_stop(stop.set)
    return stop


@contextmanager
def stopping() -> Iterator[None]:
    """The first signal raises SystemExit in the block, so that it cleans up after itself.

    The exit status is the shell's: 128 and the signal's number. One that comes later kills. In a
    thread, which gets no signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _came.clear()

    def end(number: int, _: FrameType | None) -> None:
        if not _came:
            _came.append(number)
            raise SystemExit(128 + number)

    _hearing.append(_Hearing(lambda: None, end))
    try:
        yield
    finally:
        while _hearing:
            _hearing.pop().close()
        for came in _came:
            tell(f"edgeclin: stopped by {signal.Signals(came).name}")
            raise SystemExit(128 + came)


class _Hearing:
    """Signals that are heard from now on, the newest hearing alone.

    Args:
        asked: called once in a thread, on the first signal.
        handler: called in the main thread on each, once that gets to it.
    """

    def __init__(self, asked: Callable[[], None], handler: _Handler) -> None:
        self._asked = asked
        self._numbers = [signal.SIGTERM]
        for number in (signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as after `&`, and under `nohup`
                self._numbers.append(number)
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self._told = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, handler) for number in self._numbers}

    def close(self) -> None:
        """Have signals do what they did before."""
        self._closed.set()
        signal.set_wakeup_fd(self._told)
        self._writer.close()
        self._thread.join()
        self._reader.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _listen(self) -> None:
        number = -1
        while number not in self._numbers:
            heard = self._reader.recv(1)
            if not heard:
                return
            number = heard[0]
        self._asked()
        if self._closed.wait(_TOGETHER_S):
            return
        for each in self._numbers:  # of the system itself, not by way of the main thread
            ctypes.pythonapi.PyOS_setsig(each, ctypes.c_void_p(signal.SIG_DFL.value))


_hearing: list[_Hearing] = []


def _nothing(_: int, __: FrameType | None) -> None:
    """The thread that hears does it all."""
