"""Whether the link costs by the byte, by what NetworkManager knows."""

from __future__ import annotations

import shutil
import subprocess
import threading

_LOOK_S = 60.0
_ANSWER_S = 5.0
_YES = frozenset({"u 1", "u 3"})
"""`NM_METERED_YES` and `NM_METERED_GUESS_YES`, as `busctl` prints an unsigned number
(NetworkManager's D-Bus API, NMMetered)."""
_ASK = (
    "get-property",
    "org.freedesktop.NetworkManager",
    "/org/freedesktop/NetworkManager",
    "org.freedesktop.NetworkManager",
    "Metered",
)


class NetworkManager:
    """Asks every minute, in a thread of its own; where there is no NetworkManager the link is taken
    as free.

    Attributes:
        metered: as it said last.
    """

    def __init__(self, every_s: float = _LOOK_S) -> None:
        self._every_s = every_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.metered = False

    def __enter__(self) -> NetworkManager:
        self.metered = ask()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(self._every_s):
            self.metered = ask()


def ask() -> bool:
    """Whether NetworkManager says that the link is metered."""
    busctl = shutil.which("busctl")
    if busctl is None:
        return False
    try:
        done = subprocess.run(
            [busctl, *_ASK], capture_output=True, text=True, timeout=_ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() in _YES
