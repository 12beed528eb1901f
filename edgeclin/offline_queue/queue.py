"""Results that wait for the cloud's receipt, and answers that wait for an opinion, in SQLite.

Once `put` has returned, a result survives a SIGKILL: the commit is in the write-ahead log. What a
power cut may take differs by tier: urgent nothing (fsync before `put` returns), routine at most
the last `routine_sync_s` seconds, bulk at most the last `BULK_SYNC_S`.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import uuid6

from edgeclin import states, wire
from edgeclin.errors import QueueFull, QueueUnusable
from edgeclin.offline_queue import schema
from edgeclin.offline_queue.payloads import INLINE_LIMIT, PayloadFolder
from edgeclin.records import Drop, Result, Review, State, Tier
from edgeclin.uptime import Uptime, boot_id, uptime

log = logging.getLogger(__name__)

BULK_SYNC_S = 60.0
URGENT_RESERVE = 0.1
"""Share of the byte bound that only urgent results may use."""
_KEPT_UNREVIEWED = 10_000
_LEAST_TICK_S = 0.005
_TIERS = tuple(Tier)
_BULK = _TIERS.index(Tier.BULK)
_EVICT_ROWS = 64


@dataclass(frozen=True, slots=True)
class Stored:
    """What `put` made durable."""

    seq: int
    id: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row that waits for its receipt; `body` is JSON."""

    seq: int
    id: str
    kind: Literal["result", "review", "drop"]
    body: bytes


@dataclass(frozen=True, slots=True)
class Question:
    """One answer whose opinion has not come; `ask` is the encoded message that asks for it."""

    seq: int
    result: str
    ask: bytes
    remaining_s: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Rows and bytes that wait."""

    count: int
    bytes: int


class OfflineQueue:
    """One queue file, shared by the processes of one device.

    Args:
        path: the SQLite file; payload files stand in `<path>.payloads`.
        max_bytes: bound on what waits; urgent results have a reserve within it.
        routine_sync_s: the most that a power cut may take of routine results, in seconds.
        clock: seconds since 1970, for `made_at` alone.
        uptime: seconds since boot, for deadlines.

    Raises:
        QueueUnusable: the file cannot be opened or written; also later, when its disk fails or
            another process found it corrupt. A corrupt file is set aside as `<path>.corrupt-N`
            by whoever opens it next, and a new epoch begins.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        max_bytes: int = 512 << 20,
        routine_sync_s: float = 0.2,
        clock: Callable[[], float] = time.time,
        uptime: Uptime = uptime,
        boot: str | None = None,
    ) -> None:
        self.path = Path(path)
        self._max_bytes = max_bytes
        self._routine_sync_s = routine_sync_s
        self._clock = clock
        self._uptime = uptime
        self._boot = boot or boot_id()
        self._lock = threading.RLock()
        self._dirty: dict[Tier, float] = {}
        self._open()
        self._closing = threading.Event()
        self._flusher = threading.Thread(target=self._flush_in_time, daemon=True)
        self._flusher.start()

    # -- the process that judges ---------------------------------------------------------------

    def put(
        self, result: Result, sample: np.ndarray | None = None, deadline_s: float = 60.0
    ) -> Stored:
        """Store a result, and with `sample` the question for a second opinion about it.

        The id (UUIDv7) is made here, once; the source's position moves in the same transaction.

        Args:
            sample: the raw sample, before preprocessing.
            deadline_s: powered-on seconds until a provisional answer becomes unreviewed.

        Raises:
            QueueFull: no room, also after dropping what may be dropped. Nothing was stored.
        """
        identity = str(uuid6.uuid7())
        body = msgspec.json.encode(result)
        ask = None
        if sample is not None:
            question = wire.Ask(result=identity, model=result.bundle, input=wire.to_array(sample))
            ask = wire.encode(question)
        file = identity if ask is not None and len(ask) > INLINE_LIMIT else None
        try:
            with self._transaction(result.tier) as db:
                self._make_room(db, result.tier, len(body) + len(ask or b""))
                if file is not None and ask is not None:
                    self._payloads.write(file, ask)
                seq = _insert(db, identity, "result", result.tier, body)
                db.execute(
                    """
                    INSERT INTO positions (source, next) VALUES (?, ?)
                        ON CONFLICT (source) DO UPDATE SET next = MAX(next, excluded.next)
                    """,
                    (result.source, result.position + 1),
                )
                if ask is not None:
                    self._insert_question(db, seq, identity, result, ask, file, deadline_s)
        except BaseException:
            if file is not None:
                self._payloads.remove(file)
            raise
        return Stored(seq, identity)

    def next_position(self, source: str) -> int:
        """Where a source goes on: one after the last position that was stored from it."""
        row = self._one("SELECT next FROM positions WHERE source = ?", (source,))
        return int(row[0]) if row else 0

    # -- the process that delivers -------------------------------------------------------------

    def pending(
        self, tier: Tier, *, after: int = 0, through: int | None = None, limit: int = 64
    ) -> list[Row]:
        """The oldest rows of a tier with after < seq <= through, in order."""
        rows = self._all(
            """
            SELECT seq, id, kind, body FROM rows
            WHERE tier = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?
            """,
            (_TIERS.index(tier), after, 2**62 if through is None else through, limit),
        )
        return [Row(*row) for row in rows]

    def last_seq(self) -> int:
        """The newest sequence number ever given in this epoch."""
        row = self._one("SELECT seq FROM sqlite_sequence WHERE name = 'rows'", ())
        return int(row[0]) if row else 0

    def remove(self, receipt: wire.Receipt) -> int:
        """Delete what the cloud has stored; a receipt for another epoch deletes nothing.

        Returns:
            how many rows went, 0 for a receipt that came twice.
        """
        if receipt.epoch != self.epoch:
            return 0
        newest, removed = self.last_seq(), 0
        with self._transaction(Tier.BULK) as db:
            for first, last in receipt.ranges:
                if first <= newest:
                    removed += db.execute(
                        "DELETE FROM rows WHERE seq BETWEEN ? AND ?",
                        (max(first, 1), min(last, newest)),
                    ).rowcount
        return removed

    def questions(self, *, after: int = 0, limit: int = 16) -> list[Question]:
        """Questions to ask, oldest first, whose deadline has not passed."""
        rows = self._all(
            """
            SELECT seq, result, ask, file, deadline FROM questions
            WHERE seq > ? AND bytes > 0 AND boot = ? AND deadline > ? ORDER BY seq LIMIT ?
            """,
            (after, self._boot, self._uptime(), limit),
        )
        found = []
        for seq, result, ask, file, deadline in rows:
            message = self._payloads.read(file) if file else ask
            if message is not None:
                found.append(Question(seq, result, message, deadline - self._uptime()))
        return found

    def settle(self, opinion: wire.Opinion) -> Review | None:
        """Reconcile an opinion with the answer it is about, and queue the review.

        Returns:
            the review, or None when nothing changed (an opinion that came twice, an audit
            without an answer).
        """
        with self._transaction(Tier.ROUTINE) as db:
            row = db.execute(
                "SELECT seq, label, state, asked_at, boot, file FROM questions WHERE result = ?",
                (opinion.result,),
            ).fetchone()
            if row is None:
                return None
            seq, label, before, asked_at, boot, file = row
            state = states.review(State(before), label, opinion.label)
            if state.value == before:
                return None
            waited = self._uptime() - asked_at if boot == self._boot else None
            review = Review(
                result=opinion.result,
                state=state,
                label=opinion.label if state is State.AMENDED else label,
                edge_label=label,
                reason=opinion.reason or f"the cloud's model says {opinion.label}",
                made_at=self._clock(),
                model=opinion.model,
                confidence=opinion.confidence,
                waited_s=None if waited is None else round(waited, 3),
            )
            self._insert_review(db, review)
            if state is State.UNREVIEWED:
                _withdraw(db, seq)
            else:
                db.execute("DELETE FROM questions WHERE seq = ?", (seq,))
        self._forget(file)
        return review

    def expire(self) -> list[Review]:
        """Turn provisional answers whose deadline has passed into unreviewed ones.

        Time counts only while the device is on: after a restart nobody knows how long it was
        off, so every question from before is taken as expired and a person must look.
        """
        now = self._uptime()
        with self._transaction(Tier.ROUTINE) as db:
            expired = db.execute(
                """
                SELECT seq, result, label, state, boot, asked_at, file FROM questions
                WHERE state IN (?, ?) AND bytes > 0 AND (boot != ? OR deadline <= ?)
                ORDER BY seq
                """,
                (State.PROVISIONAL.value, State.FINAL.value, self._boot, now),
            ).fetchall()
            reviews = []
            for seq, result, label, state, boot, asked_at, _ in expired:
                if State(state) is State.FINAL:
                    db.execute("DELETE FROM questions WHERE seq = ?", (seq,))
                    continue
                here = boot == self._boot
                review = Review(
                    result=result,
                    state=states.advance(State(state), State.UNREVIEWED),
                    label=label,
                    edge_label=label,
                    reason=f"no opinion came within {now - asked_at:.0f} s"
                    if here
                    else "the device restarted before an opinion came",
                    made_at=self._clock(),
                    waited_s=round(now - asked_at, 3) if here else None,
                )
                self._insert_review(db, review)
                _withdraw(db, seq)
                reviews.append(review)
            if reviews:
                _forget_oldest_unreviewed(db)
        for row in expired:
            self._forget(row[-1])
        return reviews

    # -- both ----------------------------------------------------------------------------------

    @contextmanager
    def claim(self, role: str) -> Iterator[None]:
        """Be the only process in a role, such as `run`, until the block or the process ends.

        Raises:
            QueueUnusable: another process has the role.
        """
        with Path(f"{self.path}.{role}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise QueueUnusable(
                    f"{self.path}: another `edgeclin {role}` is at work on this queue; end it first"
                ) from exc
            yield

    def usage(self) -> dict[str, Usage]:
        """What waits, by tier, and under `questions` what waits for an opinion."""
        rows = self._all("SELECT tier, count, bytes FROM usage ORDER BY tier", ())
        names = [*(tier.value for tier in _TIERS), "questions"]
        return {names[tier]: Usage(count, size) for tier, count, size in rows}

    def data_version(self) -> int:
        """A number that changes when another process has written."""
        row = self._one("PRAGMA data_version", ())
        return int(row[0]) if row else 0

    def flush(self) -> None:
        """Make everything that `put` has returned for survive a power cut.

        Raises:
            OSError: the disk failed; what was not made safe stays due.
        """
        due = dict(self._dirty)
        self._dirty.clear()
        try:
            with Path(f"{self.path}-wal").open("rb") as log_file:
                os.fdatasync(log_file.fileno())
        except FileNotFoundError:
            return
        except OSError:
            self._dirty.update(due)
            raise

    def close(self) -> None:
        """Flush and let go of the file."""
        self._closing.set()
        self._flusher.join()
        with self._lock:
            self.flush()
            self._db.close()

    def __enter__(self) -> OfflineQueue:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- inside --------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            schema.prepare(self.path)
            self._db = sqlite3.connect(
                self.path, isolation_level=None, timeout=10.0, check_same_thread=False
            )
            self._inode = self.path.stat().st_ino
            self._db.execute("PRAGMA journal_mode = WAL")
            self._payloads = PayloadFolder(Path(f"{self.path}.payloads"))
            self.epoch = self._load_epoch()
        except QueueUnusable:
            raise
        except (OSError, sqlite3.Error) as exc:
            raise QueueUnusable(f"{self.path}: the queue cannot be opened ({exc})") from exc

    def _load_epoch(self) -> str:
        with self._transaction(Tier.URGENT) as db:
            db.execute(
                "INSERT OR IGNORE INTO meta (key, value) VALUES ('epoch', ?)", (str(uuid6.uuid7()),)
            )
            files = db.execute("SELECT file FROM questions WHERE file IS NOT NULL").fetchall()
            self._payloads.sweep({file for (file,) in files})
            (epoch,) = db.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
        return str(epoch)

    @contextmanager
    def _transaction(self, tier: Tier) -> Iterator[sqlite3.Connection]:
        """One transaction, as durable as the tier."""
        with self._lock, self._translated():
            db = self._db
            db.execute(f"PRAGMA synchronous = {'FULL' if tier is Tier.URGENT else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            try:
                self._check_in_place()
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            if tier is Tier.URGENT:
                self._dirty.clear()
            else:
                self._dirty.setdefault(tier, time.monotonic())

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """A full disk becomes QueueFull, and what else SQLite cannot do QueueUnusable."""
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as exc:
            if _is_disk_full(exc):
                raise QueueFull(f"{self.path}: the disk is full") from exc
            if isinstance(exc, sqlite3.DatabaseError):
                raise QueueUnusable(f"{self.path}: {exc}") from exc
            raise

    def _check_in_place(self) -> None:
        """Refuse to write into a file that another process has set aside: nobody would read it."""
        try:
            here = self.path.stat().st_ino
        except FileNotFoundError:
            here = None
        if here != self._inode:
            raise QueueUnusable(f"{self.path}: another process has set this queue aside")

    def _flush_in_time(self) -> None:
        bounds = {Tier.ROUTINE: self._routine_sync_s, Tier.BULK: BULK_SYNC_S}
        while not self._closing.wait(max(self._routine_sync_s / 3, _LEAST_TICK_S)):
            now = time.monotonic()
            waiting = list(self._dirty.items())
            # A third of the bound for the turn, a third for the age, a third for the disk.
            if any(now - since >= bounds[tier] / 3 for tier, since in waiting):
                try:
                    self.flush()
                except OSError as exc:
                    log.error("ALARM: %s cannot be made safe from a power cut: %s", self.path, exc)

    def _make_room(self, db: sqlite3.Connection, tier: Tier, size: int) -> None:
        """Drop the oldest bulk rows when the bound is reached; leave a record of every drop."""
        reserve = 0 if tier is Tier.URGENT else int(self._max_bytes * URGENT_RESERVE)
        bound = self._max_bytes - reserve
        while (used := self._used(db)) + size > bound:
            (bulk,) = db.execute("SELECT bytes FROM usage WHERE tier = ?", (_BULK,)).fetchone()
            if bulk == 0 or used - bulk + size > bound:
                raise QueueFull(
                    f"{self.path}: {used} of {bound} bytes wait and too few of them may be "
                    "dropped; connect the device, or raise queue.max_mb"
                )
            rows = db.execute(
                "SELECT seq FROM rows WHERE tier = ? ORDER BY seq LIMIT ?", (_BULK, _EVICT_ROWS)
            ).fetchall()
            first, last = rows[0][0], rows[-1][0]
            db.executemany("DELETE FROM rows WHERE seq = ?", rows)
            drop = Drop(
                tier=Tier.BULK,
                first_seq=first,
                last_seq=last,
                count=len(rows),
                made_at=self._clock(),
            )
            _insert(db, str(uuid6.uuid7()), "drop", Tier.ROUTINE, msgspec.json.encode(drop))
            log.warning("queue full: dropped %d bulk rows, %d to %d", len(rows), first, last)

    def _used(self, db: sqlite3.Connection) -> int:
        (used,) = db.execute("SELECT SUM(bytes) FROM usage").fetchone()
        return int(used)

    def _insert_question(
        self,
        db: sqlite3.Connection,
        seq: int,
        identity: str,
        result: Result,
        ask: bytes,
        file: str | None,
        deadline_s: float,
    ) -> None:
        now = self._uptime()
        db.execute(
            """
            INSERT INTO questions
                (seq, result, label, state, boot, asked_at, deadline, ask, file, bytes)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            (
                seq,
                identity,
                result.label,
                result.state.value,
                self._boot,
                now,
                now + deadline_s,
                None if file else ask,
                file,
                len(ask),
            ),
        )

    def _insert_review(self, db: sqlite3.Connection, review: Review) -> None:
        _insert(db, str(uuid6.uuid7()), "review", Tier.ROUTINE, msgspec.json.encode(review))

    def _forget(self, file: str | None) -> None:
        if file is not None:
            self._payloads.remove(file)

    def _one(self, query: str, parameters: Sequence[object]) -> tuple[int | str, ...] | None:
        with self._lock, self._translated():
            found: tuple[int | str, ...] | None = self._db.execute(query, parameters).fetchone()
            return found

    def _all(self, query: str, parameters: Sequence[object]) -> list[tuple]:  # type: ignore[type-arg]
        with self._lock, self._translated():
            return self._db.execute(query, parameters).fetchall()


def _insert(db: sqlite3.Connection, identity: str, kind: str, tier: Tier, body: bytes) -> int:
    cursor = db.execute(
        "INSERT INTO rows (id, kind, tier, body) VALUES (?, ?, ?, ?)",
        (identity, kind, _TIERS.index(tier), body),
    )
    return int(cursor.lastrowid or 0)


def _withdraw(db: sqlite3.Connection, seq: int) -> None:
    """Stop asking, but remember the question: a late opinion still helps a person."""
    db.execute(
        "UPDATE questions SET state = ?, ask = NULL, file = NULL, bytes = 0 WHERE seq = ?",
        (State.UNREVIEWED.value, seq),
    )


def _forget_oldest_unreviewed(db: sqlite3.Connection) -> None:
    db.execute(
        """
        DELETE FROM questions WHERE state = ? AND seq <= (
            SELECT seq FROM questions WHERE state = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)
        """,
        (State.UNREVIEWED.value, State.UNREVIEWED.value, _KEPT_UNREVIEWED),
    )


def _is_disk_full(exc: Exception) -> bool:
    if isinstance(exc, OSError):
        return exc.errno in (errno.ENOSPC, errno.EDQUOT)
    return "disk is full" in str(exc)
