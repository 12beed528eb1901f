"""Ending in good order: the first SIGINT or SIGTERM asks, a second one insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import click

_BOTH = (signal.SIGINT, signal.SIGTERM)
_came: list[int] = []
"""Signals that have asked the command to stop, for SystemExit may be swallowed: the import of an
extension makes an ImportError of it, as if a module were missing."""


def on_stop(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGINT and SIGTERM; after that both have their usual effect again.

    Raises:
        SystemExit: one has come already.
    """
    for number in _came:
        raise SystemExit(128 + number)

    def ask(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop()

    for number in _BOTH:
        signal.signal(number, ask)


def stop_event() -> threading.Event:
    """An event that SIGINT and SIGTERM set, as in `on_stop`."""
    stop = threading.Event()
    on_stop(stop.set)
    return stop


@contextmanager
def stopping() -> Iterator[None]:
    """SIGINT and SIGTERM raise SystemExit in the block, so that it cleans up after itself.

    The exit status is the shell's: 128 and the signal's number. A second signal kills at once. In a
    thread, which gets no signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _came.clear()

    def end(number: int, _: FrameType | None) -> None:
        _came.append(number)
        for each in _BOTH:
            signal.signal(each, signal.SIG_DFL)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in _BOTH}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for came in _came:
            click.echo(f"edgeclin: stopped by {signal.Signals(came).name}", err=True)
            raise SystemExit(128 + came)
