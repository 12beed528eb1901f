"""What systemd is told: that a service is ready, and that it is still alive."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send one state to the service manager, as sd_notify(3) does; nothing where there is none."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.connect("\0" + address[1:] if address.startswith("@") else address)
            manager.sendall(state.encode())
    except OSError as exc:
        log.warning("the service manager at %s cannot be told %s: %s", address, state, exc)


class Watchdog:
    """Says READY=1, then WATCHDOG=1 at half of systemd's interval while `alive` says so."""

    def __init__(self, alive: Callable[[], bool]) -> None:
        self._alive = alive
        self._done = threading.Event()
        self._interval_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6

    def __enter__(self) -> Watchdog:
        notify("READY=1")
        if self._interval_s:
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        notify("STOPPING=1")

    def _beat(self) -> None:
        while not self._done.wait(self._interval_s):
            if self._alive():
                notify("WATCHDOG=1")
