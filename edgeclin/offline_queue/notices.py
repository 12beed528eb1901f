"""What each process of a device says of itself, as a small file beside the queue.

Not in the database: it is needed most when that is full, locked or corrupt. Nobody misses it after
a power cut, so that the flash is spared the fsync.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from edgeclin.errors import BadFile, EdgeclinError
from edgeclin.files import read_small, write_atomic
from edgeclin.health import RunHealth, SyncHealth
from edgeclin.offline_queue.schema import real_path
from edgeclin.records import Record, load_json
from edgeclin.uptime import Uptime, boot_id, uptime

log = logging.getLogger(__name__)

TELL_S = 5.0
_MOST = 1 << 20
_ROLES: dict[type[Record], str] = {RunHealth: "run", SyncHealth: "sync"}
HealthType = TypeVar("HealthType", RunHealth, SyncHealth)


class _Notice(Record, frozen=True):
    boot: str
    uptime: float
    health: msgspec.Raw
    ended: bool = False
    failed: str = ""


class Told(msgspec.Struct, Generic[HealthType], frozen=True):
    """What a process said last.

    Attributes:
        age_s: how long ago; None when it was before this boot, so that nobody knows.
        ended: it was its last word.
        failed: what ended it before its time, such as a port that is in use; empty at a proper end.
    """

    health: HealthType
    age_s: float | None
    ended: bool = False
    failed: str = ""

    @property
    def fresh(self) -> bool:
        """Whether it is from one that still tells: two tellings may be missed."""
        return not self.ended and self.age_s is not None and self.age_s <= 3 * TELL_S


class Notices:
    """The health of the processes of one queue.

    Args:
        queue: the path of its database.
        uptime: seconds since boot.
    """

    def __init__(self, queue: Path | str, uptime: Uptime = uptime, boot: str | None = None) -> None:
        self._queue = real_path(queue)
        self._uptime = uptime
        self._boot = boot or boot_id()

    def tell(self, health: RunHealth | SyncHealth, ended: bool = False, failed: str = "") -> None:
        """Say how the process is now, or was at its end.

        Raises:
            OSError: the disk is full or the folder not writable.
        """
        body = msgspec.Raw(msgspec.json.encode(health))
        notice = _Notice(self._boot, self._uptime(), body, ended, failed)
        path = self._path(type(health))
        write_atomic(path, msgspec.json.encode(notice), durable=False)

    def told(self, kind: type[HealthType]) -> Told[HealthType] | None:
        """What a process said last; None when it never said anything that can be read."""
        path = self._path(kind)
        try:
            notice = load_json(read_small(path, _MOST), _Notice, path)
            health = load_json(bytes(notice.health), kind, path)
        except BadFile:
            return None
        age = self._uptime() - notice.uptime if notice.boot == self._boot else None
        return Told(health, age, notice.ended, notice.failed)

    def _path(self, kind: type[Record]) -> Path:
        return Path(f"{self._queue}.{_ROLES[kind]}.health")


class Telling:
    """Tells every `TELL_S` in the block, from a thread of its own, so that a hang is told too.

    Args:
        health: how the process is now.
    """

    def __init__(self, notices: Notices, health: Callable[[], RunHealth | SyncHealth]) -> None:
        self._notices = notices
        self._health = health
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tell_in_time, daemon=True)

    def __enter__(self) -> Telling:
        self._tell()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()
        self._tell(ended=True, failed=_why(exc[1]))

    def _tell_in_time(self) -> None:
        while not self._done.wait(TELL_S):
            self._tell()

    def _tell(self, ended: bool = False, failed: str = "") -> None:
        try:
            self._notices.tell(self._health(), ended, failed)
        except OSError as exc:
            log.warning("this process cannot say how it is: %s", exc)


def _why(problem: object) -> str:
    """What ended a process, in words; nothing where it was asked to."""
    if problem is None or isinstance(problem, SystemExit | KeyboardInterrupt):
        return ""
    return str(problem) if isinstance(problem, EdgeclinError) else repr(problem)
