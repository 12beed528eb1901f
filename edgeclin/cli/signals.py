"""Ending in good order: the first SIGINT or SIGTERM asks, a second one insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


def stop_event(waiting: Callable[[], bool] = lambda: False) -> threading.Event:
    """An event that SIGINT and SIGTERM set; after that both have their usual effect again.

    Args:
        waiting: whether the main thread waits for something that no event can end, such as
            standard input; then the signal also raises KeyboardInterrupt there.
    """
    stop = threading.Event()

    def ask(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)
        if waiting():
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return stop
