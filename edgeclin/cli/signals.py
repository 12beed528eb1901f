"""Ending in good order: the first SIGINT, SIGTERM or SIGHUP asks, one that comes later insists."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from edgeclin.cli.output import tell

_TOGETHER_S = 1.0
"""Signals so close together are one: `timeout` sends two."""
_came: list[int] = []
"""Signals that have asked the command to stop, for SystemExit may be swallowed: the import of an
extension makes an ImportError of it, as if a module were missing."""


def on_stop(stop: Callable[[], None]) -> None:
    """Call `stop` on the first signal; one that comes later kills.

    Raises:
        SystemExit: one has come already.
    """
    for number in _came:
        raise SystemExit(128 + number)
    _hear(lambda _: stop())


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

    def end(number: int) -> None:
        _came.append(number)
        raise SystemExit(128 + number)

    before, insisting = _hear(end)
    try:
        yield
    finally:
        for timer in insisting:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        for came in _came:
            tell(f"edgeclin: stopped by {signal.Signals(came).name}")
            raise SystemExit(128 + came)


def _hear(asked: Callable[[int], None]) -> tuple[dict[int, Any], list[threading.Timer]]:
    """Call `asked` with the first signal's number, and have one that comes later kill.

    Returns:
        the handlers before; and, once a signal has come, what will have the next one kill.
    """
    insisting: list[threading.Timer] = []
    heard = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under `nohup`
        heard.append(signal.SIGHUP)

    def take(number: int, _: FrameType | None) -> None:
        if insisting:
            return
        timer = threading.Timer(_TOGETHER_S, _restore, (heard,))
        timer.daemon = True
        insisting.append(timer)
        timer.start()
        asked(number)

    return {number: signal.signal(number, take) for number in heard}, insisting


def _restore(numbers: Sequence[int]) -> None:
    """Give signals their usual effect, from any thread: a handler of Python's would wait for the
    main one, which may hang in native code."""
    for number in numbers:
        ctypes.pythonapi.PyOS_setsig(number, ctypes.c_void_p(signal.SIG_DFL.value))
