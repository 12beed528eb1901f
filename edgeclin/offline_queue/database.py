"""The queue's connection to SQLite: transactions as durable as their tier, errors in our words."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from edgeclin.errors import QueueFull, QueueUnusable
from edgeclin.offline_queue import checking, schema
from edgeclin.offline_queue.keyring import Keyring
from edgeclin.offline_queue.rows import damaged_text
from edgeclin.records import Tier

log = logging.getLogger(__name__)

BULK_SYNC_S = 60.0
FREE_PAGES = 256
"""Free pages that the file keeps for the next backlog; those beyond go back to the disk."""
_SHRINK_PAGES = 64
"""At most so many at once, for a `put` of another process waits meanwhile."""
_LEAST_TICK_S = 0.005
_LOCKED = "database is locked"
_LOCKED_S = 10.0
"""How long another process may keep the lock before that is an error."""
_LOCKED_STEP_S = 0.0005
"""SQLite's own steps grow to 0.1 s: an answer missed its deadline for a lock held 10 ms."""


class Database:
    """One open queue file, for any thread of this process.

    Args:
        path: the SQLite file; made, checked or migrated first.
        routine_sync_s: the most that a power cut may take of routine commits, in seconds.
        keyring: opens what is taken over of a damaged one.

    Raises:
        BadFile: something that is not a queue stands at `path`.
        QueueUnusable: the file cannot be opened.
    """

    def __init__(self, path: Path, routine_sync_s: float, keyring: Keyring) -> None:
        self.path, self._name, self._log_name = path, str(path), f"{path}-wal"
        self._routine_sync_s = routine_sync_s
        self._lock = threading.RLock()
        self._dirty: dict[Tier, float] = {}
        self._level = ""
        self._use = ExitStack()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            checked = schema.prepare(path, keyring)
            self._use.enter_context(schema.holding(path))
            self.connection = sqlite3.connect(
                path, isolation_level=None, timeout=0.0, check_same_thread=False
            )
            self.connection.text_factory = damaged_text
            self._inode = path.stat().st_ino
            self._execute("PRAGMA journal_mode = WAL")
            self._execute("PRAGMA user_version")  # opens the log
            self._log_inode = _inode(self._log_name)
            self._checking = None if checked else checking.Checking(path)
        except QueueUnusable:
            raise
        except (OSError, sqlite3.Error) as exc:
            hint = ""
            if isinstance(exc, PermissionError) or "readonly" in str(exc):
                hint = "; mend its permissions, or those of its folder"
            raise QueueUnusable(f"{path}: the queue cannot be opened ({exc}){hint}") from exc
        self._closing, self._due = threading.Event(), threading.Event()
        self._flusher = threading.Thread(target=self._flush_in_time, daemon=True)
        self._flusher.start()

    @contextmanager
    def transaction(self, tier: Tier) -> Iterator[sqlite3.Connection]:
        """One transaction, as durable as the tier.

        Raises:
            QueueFull: the disk is full; nothing was changed.
            QueueUnusable: SQLite failed, or another process has set the file aside.
        """
        with self._lock, self._translated():
            db = self.connection
            level = "FULL" if tier is Tier.URGENT else "NORMAL"
            if level != self._level:
                self._execute(f"PRAGMA synchronous = {level}")
                self._level = level
            self._execute("BEGIN IMMEDIATE")
            try:
                self._check_in_place()
                yield db
                db.execute("COMMIT")
                self._check_in_place()  # Again: it may have been set aside meanwhile.
                self._check_log()
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            if tier is Tier.URGENT:
                self._dirty.clear()
            elif tier not in self._dirty:
                self._dirty[tier] = time.monotonic()
                self._due.set()

    def one(self, query: str, parameters: Sequence[object] = ()) -> tuple[int | str, ...] | None:
        """The first row of a query, or None."""
        with self._lock, self._translated():
            found: tuple[int | str, ...] | None = self._execute(query, parameters).fetchone()
            return found

    def all(self, query: str, parameters: Sequence[object] = ()) -> list[tuple]:  # type: ignore[type-arg]
        """Every row of a query."""
        with self._lock, self._translated():
            return self._execute(query, parameters).fetchall()

    def shrink(self) -> None:
        """Give some of the free pages back to the disk.

        Raises:
            QueueFull: the disk is too full to move pages within the file.
        """
        ((free,),) = self.all("PRAGMA freelist_count")
        if free > FREE_PAGES:
            with self.transaction(Tier.BULK) as db:
                for _ in range(min(free - FREE_PAGES, _SHRINK_PAGES)):
                    # Of more pages `execute` would give back the first alone.
                    db.execute("PRAGMA incremental_vacuum(1)")

    def rebuild(self) -> bool:
        """Write the file anew, with nothing left in it of what was deleted; others wait meanwhile.

        Returns:
            whether it is; not while another process still reads the old one.

        Raises:
            QueueFull: the disk has no room for a second one; nothing was changed.
        """
        with self._lock, self._translated():
            self._execute("VACUUM")
            busy, _, _ = self._execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not busy

    def flush(self) -> None:
        """Make every commit survive a power cut.

        Raises:
            QueueUnusable: the disk failed, so that a power cut may take what was stored last; what
                was not made safe stays due.
        """
        due = dict(self._dirty)
        self._dirty.clear()
        try:
            if _inode(self._name) != self._inode:
                return  # Whoever set it aside takes over what it holds.
            self._check_log()
            with Path(self._log_name).open("rb") as log_file:
                os.fdatasync(log_file.fileno())
        except OSError as exc:
            self._dirty.update(due)
            self._due.set()
            if isinstance(exc, QueueUnusable):
                raise
            raise QueueUnusable(
                f"{self.path}: what was stored last is not safe from a power cut ({exc.strerror})"
            ) from exc

    def suspect_unchecked(self) -> None:
        """Have what was not checked yet be checked before it is used again."""
        if self._checking is not None:
            checking.suspect(self.path)

    def close(self) -> None:
        """Flush and let go of the file; raises as `flush`."""
        if self._closing.is_set():
            return
        if self._checking is not None:
            self._checking.close()
        self._closing.set()
        self._due.set()
        self._flusher.join()
        with self._lock:
            try:
                self.flush()
            finally:
                self.connection.close()
                self._use.close()

    def _execute(self, statement: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run one statement, once no other process has the lock that it needs."""
        patience = time.monotonic() + _LOCKED_S
        while True:
            try:
                return self.connection.execute(statement, parameters)
            except sqlite3.OperationalError as exc:
                if str(exc) != _LOCKED or time.monotonic() > patience:
                    raise
            time.sleep(_LOCKED_STEP_S)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What may pass by itself, a full disk or a lock, becomes QueueFull; what else SQLite or
        the disk cannot do QueueUnusable. So does damage that was found meanwhile."""
        if self._checking is not None and self._checking.damage:
            raise QueueUnusable(
                f"{self.path}: damaged ({self._checking.damage}); it is set aside at the next "
                "start: start again"
            )
        try:
            yield
        except (QueueFull, QueueUnusable):
            raise
        except (sqlite3.DatabaseError, OSError) as exc:
            if _is_disk_full(exc):
                self._shorten_log()
                raise QueueFull(f"{self.path}: the disk is full") from exc
            if str(exc) == _LOCKED:
                why = f"another program has kept it locked for {_LOCKED_S:g} s"
                raise QueueFull(f"{self.path}: {why}") from exc
            if not isinstance(exc, sqlite3.OperationalError | OSError):
                checking.suspect(self.path)
            why = "the disk is read-only" if schema.is_read_only(self.path) else str(exc)
            raise QueueUnusable(f"{self.path}: {why}") from exc

    def _shorten_log(self) -> None:
        """Give back what the log takes, up to 4 MB, for the next attempt: SQLite itself does so
        after a commit, and there may be no room for another one."""
        with suppress(sqlite3.Error):
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _check_in_place(self) -> None:
        """Refuse to write into a file that is not at its place: nobody would read it."""
        if _inode(self._name) != self._inode:
            raise QueueUnusable(
                f"{self.path}: the file in use is not there any more: another process has set it "
                "aside as damaged, or somebody moved or deleted it; start again"
            )

    def _check_log(self) -> None:
        """Refuse to call stored what is in a log that nobody will find. What it holds goes into the
        database, so that nothing of it is lost."""
        if _inode(self._log_name) != self._log_inode:
            with self._lock, suppress(sqlite3.Error):
                self._execute("PRAGMA wal_checkpoint(TRUNCATE)")
            raise QueueUnusable(f"{self.path}: somebody deleted or replaced its log; start again")

    def _flush_in_time(self) -> None:
        bounds = {Tier.ROUTINE: self._routine_sync_s, Tier.BULK: BULK_SYNC_S}
        failed = False
        while True:
            if not self._dirty:
                self._due.clear()
                if not self._dirty and not self._closing.is_set():
                    self._due.wait()
            if self._closing.wait(max(self._routine_sync_s / 3, _LEAST_TICK_S)):
                return
            now = time.monotonic()
            waiting = list(self._dirty.items())
            # A third of the bound for the turn, a third for the age, a third for the disk.
            if any(now - since >= bounds[tier] / 3 for tier, since in waiting):
                try:
                    self.flush()
                except QueueUnusable as exc:
                    if not failed:
                        log.error("ALARM: %s", exc)
                    failed = True
                else:
                    failed = False


def _inode(name: str) -> int | None:
    try:
        return os.stat(name).st_ino  # noqa: PTH116  half the time of Path's, each `put`
    except FileNotFoundError:
        return None


def _is_disk_full(exc: Exception) -> bool:
    if isinstance(exc, OSError):
        return exc.errno in (errno.ENOSPC, errno.EDQUOT)
    return "disk is full" in str(exc)
