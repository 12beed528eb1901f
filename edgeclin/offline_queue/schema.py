"""The queue's tables, and the way from each released schema to the next."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import uuid6

from edgeclin.errors import BadFile, QueueUnusable
from edgeclin.offline_queue import checking
from edgeclin.offline_queue.keyring import Keyring
from edgeclin.offline_queue.quarantine import left_behind, length, set_aside, take_over_all
from edgeclin.offline_queue.soundness import require_counts, require_epoch
from edgeclin.offline_queue.write_ahead_log import log_is_damaged

log = logging.getLogger(__name__)

APPLICATION_ID = int.from_bytes(b"eclq", "big")
"""Stands at byte 68 of the file (https://www.sqlite.org/fileformat2.html): this is a queue."""
_MAGIC = b"SQLite format 3\0"
SKIPPED = 1 << 20
"""Numbers that are not given where a process did not end well: more than a log holds rows."""
_NEWEST_VERSION = 100
"""What says that it is newer is damaged."""
_IN_SCHEMA = b"rows_by_tier"
"""Stands in every queue where its tables are described, mostly in one of the first pages."""
_STRETCH = 1 << 20

_INITIAL = """
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- A row is there until the cloud's receipt deletes it: there is no "locked" or "sent" state.
CREATE TABLE rows (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    id   TEXT NOT NULL,
    kind TEXT NOT NULL,
    tier INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX rows_by_tier ON rows (tier, seq);

-- Answers that wait for a second opinion. `ask` is the message that asks for it, or NULL when it
-- stands in the payload folder (`file`) or was withdrawn.
CREATE TABLE questions (
    seq      INTEGER PRIMARY KEY,
    result   TEXT NOT NULL UNIQUE,
    label    TEXT,
    state    TEXT NOT NULL,
    boot     TEXT NOT NULL,
    asked_at REAL NOT NULL,
    deadline REAL NOT NULL,
    ask      BLOB,
    file     TEXT,
    bytes    INTEGER NOT NULL
);
CREATE INDEX questions_by_state ON questions (state, deadline);

-- Where each source goes on: with the bundle whose digest it is, with every one that cuts it as
-- `bundle` says, or with any ('').
CREATE TABLE positions (
    source TEXT NOT NULL,
    bundle TEXT NOT NULL,
    next   INTEGER NOT NULL,
    PRIMARY KEY (source, bundle)
) WITHOUT ROWID;

-- Kept by triggers, so that no count ever reads the backlog. Tier 3 stands for questions
-- that are still asked.
CREATE TABLE usage (
    tier  INTEGER PRIMARY KEY,
    count INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);
INSERT INTO usage (tier, count, bytes) VALUES (0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0);
CREATE TRIGGER rows_in AFTER INSERT ON rows BEGIN
    UPDATE usage SET count = count + 1, bytes = bytes + length(NEW.body) WHERE tier = NEW.tier;
END;
CREATE TRIGGER rows_out AFTER DELETE ON rows BEGIN
    UPDATE usage SET count = count - 1, bytes = bytes - length(OLD.body) WHERE tier = OLD.tier;
END;
CREATE TRIGGER questions_in AFTER INSERT ON questions BEGIN
    UPDATE usage SET count = count + 1, bytes = bytes + NEW.bytes WHERE tier = 3;
END;
CREATE TRIGGER questions_withdrawn AFTER UPDATE OF bytes ON questions
WHEN OLD.bytes > 0 AND NEW.bytes = 0 BEGIN
    UPDATE usage SET count = count - 1, bytes = bytes - OLD.bytes WHERE tier = 3;
END;
CREATE TRIGGER questions_out AFTER DELETE ON questions WHEN OLD.bytes > 0 BEGIN
    UPDATE usage SET count = count - 1, bytes = bytes - OLD.bytes WHERE tier = 3;
END;
"""

_REVIEWS = """
-- What became of the newest results, for whoever shows them at the bedside: the rows that the cloud
-- gets go with its receipt. By the result's number, so that a flood of reviews of old results takes
-- none of a new one's.
CREATE TABLE reviews (
    seq  INTEGER PRIMARY KEY,
    body BLOB NOT NULL
);
"""

_SEARCHES = """
DROP INDEX questions_by_state;

-- No search reads past `ask`, which is to read all of it: what is still asked, by when its time is
-- over and by number, what is kept after it was withdrawn, and the payload files.
CREATE INDEX questions_by_deadline ON questions (boot, deadline) WHERE bytes > 0;
CREATE INDEX questions_asked ON questions (seq) WHERE bytes > 0;
CREATE INDEX questions_kept ON questions (bytes, seq) WHERE bytes = 0;
CREATE INDEX questions_by_file ON questions (file) WHERE file IS NOT NULL;
"""

_SET_ASIDE = """
-- Rows that the broker or the cloud does not take, and why: they wait, and are not sent.
CREATE TABLE set_aside (
    seq    INTEGER PRIMARY KEY,
    reason TEXT NOT NULL
);
CREATE TRIGGER set_aside_out AFTER DELETE ON rows BEGIN
    DELETE FROM set_aside WHERE seq = OLD.seq;
END;
"""

_SEALED = """
-- How many rows each key has sealed, by its id, so that nobody reads the backlog to see that a key
-- is still needed, or lacking. What is sealed begins with 1 and the id of its key.
CREATE TABLE sealed (
    key   TEXT PRIMARY KEY,
    count INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TRIGGER sealed_in AFTER INSERT ON rows WHEN substr(NEW.body, 1, 1) = x'01' BEGIN
    INSERT INTO sealed (key, count) VALUES (lower(hex(substr(NEW.body, 2, 4))), 1)
        ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER sealed_out AFTER DELETE ON rows WHEN substr(OLD.body, 1, 1) = x'01' BEGIN
    UPDATE sealed SET count = count - 1 WHERE key = lower(hex(substr(OLD.body, 2, 4)));
END;
CREATE TRIGGER sealed_anew AFTER UPDATE OF body ON rows BEGIN
    UPDATE sealed SET count = count - 1
    WHERE substr(OLD.body, 1, 1) = x'01' AND key = lower(hex(substr(OLD.body, 2, 4)));
    INSERT INTO sealed (key, count)
        SELECT lower(hex(substr(NEW.body, 2, 4))), 1 WHERE substr(NEW.body, 1, 1) = x'01'
        ON CONFLICT DO UPDATE SET count = count + 1;
    UPDATE usage SET bytes = bytes + length(NEW.body) - length(OLD.body) WHERE tier = NEW.tier;
END;
"""

_DOUBT = """
-- The chance that the answer is wrong, and whether it is an urgent one: which questions are worth
-- the most is found without a look at what is asked.
ALTER TABLE questions ADD COLUMN doubt REAL NOT NULL DEFAULT 1;
ALTER TABLE questions ADD COLUMN urgent INTEGER NOT NULL DEFAULT 0;
CREATE INDEX questions_by_doubt
    ON questions (boot, urgent DESC, doubt DESC, seq, deadline, bytes) WHERE bytes > 0;
"""

_SPARE = """
-- Questions about confident answers, which are asked while the link is free: nobody waits for them,
-- and so they have a count of their own, tier 4.
ALTER TABLE questions ADD COLUMN spare INTEGER NOT NULL DEFAULT 0;
INSERT INTO usage (tier, count, bytes) VALUES (4, 0, 0);
DROP INDEX questions_by_doubt;
CREATE INDEX questions_by_doubt ON questions (boot, urgent DESC, doubt DESC, seq, deadline, bytes)
    WHERE bytes > 0 AND spare = 0;
CREATE INDEX questions_spare ON questions (doubt, seq, boot, deadline, bytes) WHERE spare = 1;
DROP TRIGGER questions_in;
CREATE TRIGGER questions_in AFTER INSERT ON questions BEGIN
    UPDATE usage SET count = count + 1, bytes = bytes + NEW.bytes WHERE tier = 3 + NEW.spare;
END;
DROP TRIGGER questions_withdrawn;
CREATE TRIGGER questions_withdrawn AFTER UPDATE OF bytes ON questions
WHEN OLD.bytes > 0 AND NEW.bytes = 0 BEGIN
    UPDATE usage SET count = count - 1, bytes = bytes - OLD.bytes WHERE tier = 3 + OLD.spare;
END;
DROP TRIGGER questions_out;
CREATE TRIGGER questions_out AFTER DELETE ON questions WHEN OLD.bytes > 0 BEGIN
    UPDATE usage SET count = count - 1, bytes = bytes - OLD.bytes WHERE tier = 3 + OLD.spare;
END;
"""

_SCRIPTS = {
    "0001_initial": _INITIAL,
    "0002_reviews": _REVIEWS,
    "0003_searches": _SEARCHES,
    "0004_set_aside": _SET_ASIDE,
    "0005_sealed": _SEALED,
    "0006_doubt": _DOUBT,
    "0007_spare": _SPARE,
}
"""From each schema to the next, by the name that the database remembers."""
VERSION = len(_SCRIPTS)


def prepare(path: Path, keyring: Keyring) -> bool:
    """Make, check or migrate the database at `path`; two processes may do so at once.

    A damaged one is set aside in a folder `<path>.corrupt-N`, with its log and its payloads, and a
    new one takes its place, with what can still be read of it. The check reads every page and holds
    the indexes and counts against their tables: a second for a million rows (370 MB), so that a
    large one is left to `checking.Checking` unless it is suspected. It reads the log beyond where
    SQLite would.

    Args:
        keyring: opens what is taken over.

    Returns:
        whether all of it was checked.

    Raises:
        BadFile: what stands at `path` is not a queue; it is left as it is.
        QueueUnusable: written by a newer edgeclin.
        sqlite3.OperationalError: not writable, locked, or the disk is full.
        OSError: the folder is not there or not writable.
    """
    require_queue(path)
    was_there = _lock_file(path).exists()
    # Also while setting aside: the second of two processes would else find the first one's new
    # database and set that aside too.
    with opening(path):
        try:
            if left_behind(path):
                raise sqlite3.DatabaseError("its log is there, its database is not")
            if log_is_damaged(path):
                raise sqlite3.DatabaseError("its log is damaged, or torn by a power cut")
            if was_there and not (path.exists() and path.stat().st_size):
                log.error("ALARM: queue %s was deleted or emptied: a new one takes its place", path)
            checked = _prepare(path)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as exc:  # of a damaged word it names
            if isinstance(exc, sqlite3.OperationalError) and not _tells_damage(path, exc):
                raise
            why = " ".join(str(exc).split())
            log.error("queue %s is corrupt (%s): kept in %s", path, why, set_aside(path))
            checked = _prepare(path, is_new=True)
        take_over_all(path, keyring)
    return checked


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Let others know, in the block or until the process ends, that the queue is in use."""
    with _use_lock(path).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def _in_use(path: Path) -> bool:
    with _use_lock(path).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Be the only one, of all processes, that makes, mends or takes over a queue at `path`."""
    with _lock_file(path).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def real_path(path: Path | str) -> Path:
    """The one name of a queue: its locks, log and payloads stand beside the file itself."""
    return Path(os.path.realpath(path))


def is_read_only(path: Path) -> bool:
    """Whether the disk of the queue at `path` takes no writes. After an error ext4 says so to who
    opens a file alone, not in its flags; the lock, since to close the database would let go of
    SQLite's locks."""
    try:
        os.close(os.open(_lock_file(real_path(path)), os.O_WRONLY))
    except OSError as exc:
        return exc.errno == errno.EROFS
    return False


def require_queue(path: Path) -> None:
    """Refuse what is not a queue; nothing, an empty file and a damaged queue may become one.

    Raises:
        BadFile: a file of another kind.
        OSError: it cannot be read.
    """
    if not path.exists():
        return
    if not path.is_file():
        raise BadFile(path, "not a regular file", "name another one in queue.path")
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        head = b""
    database = head.startswith(_MAGIC) and len(head) >= 100
    ours = database and head[68:72] == APPLICATION_ID.to_bytes(4, "big")
    if not head or ours:
        return
    # Its lock tells that a file whose head is damaged was a queue once.
    if not _lock_file(path).exists() or (database and not _describes_queue(path)):
        raise BadFile(path, "not an edgeclin queue", "name another file in queue.path")


def _describes_queue(path: Path) -> bool:
    before = b""
    with path.open("rb") as file:
        while stretch := file.read(_STRETCH):
            if _IN_SCHEMA in before + stretch:
                return True
            before = stretch[-len(_IN_SCHEMA) :]
    return False


def _lock_file(path: Path) -> Path:
    return Path(f"{path}.open.lock")


def _use_lock(path: Path) -> Path:
    return Path(f"{path}.use.lock")


def _tells_damage(path: Path, exc: sqlite3.OperationalError) -> bool:
    """Whether what SQLite takes for a failed operation is a damaged head, or one that the disk
    cannot read."""
    try:
        with path.open("rb") as file:
            file.read(100)
    except OSError as problem:
        return problem.errno == errno.EIO
    return "unsupported file format" in str(exc)


def _make(path: Path) -> None:
    """Make an empty file that nobody but its owner and group may read; SQLite gives its log the
    same mode."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o640))


def _prepare(path: Path, *, is_new: bool = False) -> bool:
    _make(path)
    checked = is_new or checking.is_checked_first(path)
    ended = not length(Path(f"{path}-wal")) or _in_use(path)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if not 0 <= version <= _NEWEST_VERSION or (version and application != APPLICATION_ID):
            raise sqlite3.DatabaseError("its head is damaged")
        if version > VERSION:
            raise QueueUnusable(
                f"{path}: schema {version} was written by a newer edgeclin; this one reads "
                f"up to {VERSION}: upgrade edgeclin"
            )
        if version == 0:
            # Before there is a log, and at once: the head of the file must always tell what it is.
            connection.execute("BEGIN")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
        checked = checked or version < VERSION
        if checked:
            checking.require_whole(connection)
        if version < VERSION:
            _migrate(connection)
        require_epoch(connection)
        if checked:
            require_counts(connection)
            checking.trust(path)
        if version and not ended:
            _skip_numbers(connection)
    finally:
        connection.close()
    return checked


def _skip_numbers(connection: sqlite3.Connection) -> None:
    """Give none of the numbers again that stood in a part of the log that is gone: a receipt for
    what had them would delete what gets them."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "INSERT INTO sqlite_sequence SELECT 'rows', 0 "
            "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'rows')"
        )
        connection.execute(
            "UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'rows'", (SKIPPED,)
        )
        connection.execute("COMMIT")
    except sqlite3.OperationalError as exc:  # of a full disk what waits is delivered all the same
        log.error("ALARM: numbers of rows may be given again: %s", exc)
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _migrate(connection: sqlite3.Connection) -> None:
    from sqlite_utils import Database, Migrations

    migrations = Migrations("edgeclin.offline_queue")
    for version, (name, script) in enumerate(_SCRIPTS.items(), 1):
        migrations(name=name)(partial(_bring_to, version, script))
    migrations.apply(Database(connection))


def _bring_to(version: int, script: str, db: Any) -> None:
    for statement in _statements(script):
        db.execute(statement)
    if version == 1:
        db.execute("INSERT INTO meta (key, value) VALUES ('epoch', ?)", (str(uuid6.uuid7()),))
    db.execute(f"PRAGMA user_version = {version}")


def _statements(script: str) -> list[str]:
    """Split a script; `executescript` would commit the migration's transaction."""
    statements, draft = [], ""
    for line in script.splitlines():
        draft += line + "\n"
        if sqlite3.complete_statement(draft):
            statements.append(draft)
            draft = ""
    return statements
