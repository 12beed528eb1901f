"""Work that gives way to answers."""

from __future__ import annotations

import os
import threading

_NICE = 10


def give_way() -> None:
    """Have this thread, and all that it starts from now on, run when others leave time.

    Linux keeps a nice value for each thread; threads and processes inherit it.
    """
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
