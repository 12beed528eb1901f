"""Ending in good order: the first SIGINT, SIGTERM or SIGHUP asks, one that comes later insists."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

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

    before = _hear(end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for came in _came:
            click.echo(f"edgeclin: stopped by {signal.Signals(came).name}", err=True)
            raise SystemExit(128 + came)


def _hear(asked: Callable[[int], None]) -> dict[int, Any]:
    """Call `asked` with the first signal's number, and have one that comes later kill.

    Returns:
        the handlers before.
    """
    began: list[float] = []

    def take(number: int, _: FrameType | None) -> None:
        if not began:
            began.append(time.monotonic())
            asked(number)
        elif time.monotonic() - began[0] > _TOGETHER_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    heard = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under `nohup`
        heard.append(signal.SIGHUP)
    return {number: signal.signal(number, take) for number in heard}
