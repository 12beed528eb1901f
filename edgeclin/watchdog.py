"""What systemd is told: that a service is ready, and that it is still alive."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from sdnotify import SystemdNotifier


class Watchdog:
    """Sends WATCHDOG=1 at half of systemd's interval for as long as `alive` says so.

    Does nothing where systemd asked for nothing.
    """

    def __init__(self, alive: Callable[[], bool]) -> None:
        self._alive = alive
        self._notifier = SystemdNotifier()
        self._done = threading.Event()
        self._interval_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6

    def __enter__(self) -> Watchdog:
        self._notifier.notify("READY=1")
        if self._interval_s:
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._notifier.notify("STOPPING=1")

    def _beat(self) -> None:
        while not self._done.wait(self._interval_s):
            if self._alive():
                self._notifier.notify("WATCHDOG=1")
