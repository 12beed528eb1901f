"""One SQLite file of a store's folder, which threads and processes may share."""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeclin.errors import StoreUnusable


class Database:
    """Opened, or made; what a transaction wrote is durable when it ends.

    Args:
        identity: four bytes at byte 68 of the file, which tell whose it is
            (https://www.sqlite.org/fileformat2.html#application_id).
        schema: statements that do nothing where their tables are there.

    Raises:
        StoreUnusable: the folder cannot be made, or the file is not such a database; also from
            every method, when the disk is full or fails. A call that failed has changed nothing.
    """

    def __init__(self, path: Path, identity: bytes, schema: str) -> None:
        self._path = path
        self._lock = threading.RLock()
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                path, isolation_level=None, timeout=30.0, check_same_thread=False
            )
            with alone(path.parent):
                self._require_own(int.from_bytes(identity, "big"))
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.executescript(schema)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write all of it or nothing."""
        with self._translated(), self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def all(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a query finds."""
        with self._translated(), self._lock:
            return self._db.execute(query, parameters).fetchall()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except StoreUnusable:
            raise
        except (OSError, sqlite3.Error) as exc:
            raise StoreUnusable(
                f"{self._path.parent}: the store cannot be used ({self._path.name}: {exc})"
            ) from exc

    def _require_own(self, identity: int) -> None:
        """Make a new file ours, and refuse one of another program before anything is written."""
        (found,) = self._db.execute("PRAGMA application_id").fetchone()
        (tables,) = self._db.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
        if found != identity and tables:
            raise StoreUnusable(
                f"{self._path.parent}: {self._path.name} is not that of an edgeclin store"
            )
        if found != identity:
            self._db.execute(f"PRAGMA application_id = {identity}")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep others from opening and compacting a store meanwhile, but not from adding."""
    with (folder / "compact.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
