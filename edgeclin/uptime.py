"""Time that no clock change can move: seconds since boot, and which boot it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Uptime: TypeAlias = Callable[[], float]
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def uptime() -> float:
    """Seconds since boot, the same in all processes, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """An id that changes with every boot of the kernel."""
    return _BOOT_ID.read_text().strip()
