"""A process that ends when the one that started it does, with all that it started in turn.

`python -m edgeclin.lifeline PARENT COMMAND…` is one for a command that is not ours.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def end_with(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when `parent` ends, by SIGKILL too.

    A thread that waits for the end of a pipe would not do: what this process waits for may hold the
    interpreter's lock.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(by))
    if os.getppid() != parent:  # it ended before the kernel knew
        sys.exit(1)


def guarded(command: Sequence[str]) -> list[str]:
    """A command that ends with this process, children included; start it in a session of its own.

    It exits as `command` does, by its signal if it was one.
    """
    return [sys.executable, "-m", __name__, str(os.getpid()), *command]


def _guard(parent: int, command: Sequence[str]) -> None:
    """Wait for a command, and kill the whole process group when `parent` ends."""
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    end_with(parent, signal.SIGTERM)
    try:
        status = subprocess.call(command)
    except OSError as exc:
        sys.exit(f"{command[0]} cannot be run ({exc.strerror})")
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    _guard(int(sys.argv[1]), sys.argv[2:])
