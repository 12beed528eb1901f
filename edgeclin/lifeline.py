"""A process that ends when the one that started it does."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends, SIGKILL included.

    A thread that waits for the end of a pipe would not do: what this process waits for may hold the
    interpreter's lock.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before the kernel knew
        sys.exit(1)
