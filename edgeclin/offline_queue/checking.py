"""Whether a queue's database is sound: a small one is checked when it is opened, another one while
it is in use, so that no start waits for a backlog."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from edgeclin.offline_queue.soundness import require_counts, require_epoch

log = logging.getLogger(__name__)

AT_ONCE = 32 << 20
"""Bytes of a database that takes 0.1 s."""
_NICE = 10


def is_checked_first(path: Path) -> bool:
    """Whether the database at `path` is checked before it is used: it is small, or suspected."""
    return path.stat().st_size <= AT_ONCE or _mark(path).exists()


def suspect(path: Path) -> None:
    """Have the database at `path` checked before it is used again."""
    with suppress(OSError):
        _mark(path).touch()


def trust(path: Path) -> None:
    """Let the database at `path` be used: it was checked, or is a new one."""
    _mark(path).unlink(missing_ok=True)


def require_whole(connection: sqlite3.Connection) -> None:
    """Read every page, and hold the indexes against their tables: what one lacks nobody would
    deliver.

    Raises:
        sqlite3.DatabaseError: says what is damaged.
    """
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


class Checking:
    """Checks a database from a thread of its own, while this process and others use it.

    Attributes:
        damage: what was found, in words; empty while nothing was.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damage = ""
        self._ends = threading.Event()
        self._connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro", uri=True, timeout=10, check_same_thread=False
        )
        self._connection.execute("PRAGMA cache_size = 32")  # each page is read once
        self._thread = threading.Thread(target=self._check, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End, whether all is checked or not."""
        self._ends.set()
        while self._thread.is_alive():
            self._connection.interrupt()
            self._thread.join(0.01)
        self._connection.close()

    def _check(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            for check in (require_whole, require_epoch, require_counts):
                if self._ends.is_set():
                    return
                check(self._connection)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as exc:  # of a damaged word it names
            if self._ends.is_set():
                return
            if isinstance(exc, sqlite3.OperationalError) and "no such" not in str(exc):
                log.error("ALARM: queue %s cannot be checked: %s", self._path, exc)
                return
            suspect(self._path)
            self.damage = " ".join(str(exc).split())


def _mark(path: Path) -> Path:
    return Path(f"{path}.suspect")
