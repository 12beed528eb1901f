"""Results that wait for the cloud's receipt, and answers that wait for an opinion, in SQLite.

Once `put` has returned, a result survives a SIGKILL: the commit is in the write-ahead log. What a
power cut may take differs by tier: urgent nothing (fsync before `put` returns), routine at most
the last `routine_sync_s` seconds, bulk at most the last `BULK_SYNC_S`.
"""

from __future__ import annotations

import fcntl
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgeclin import wire
from edgeclin.errors import QueueFull, QueueUnusable
from edgeclin.offline_queue.database import Database
from edgeclin.offline_queue.dropping import Dropping
from edgeclin.offline_queue.ids import Ids
from edgeclin.offline_queue.keyring import NO_KEYS, Keyring
from edgeclin.offline_queue.notices import Notices
from edgeclin.offline_queue.payloads import PayloadFolder
from edgeclin.offline_queue.quarantine import damaged_queues, take_over
from edgeclin.offline_queue.questions import OpenQuestion, Question, Questions
from edgeclin.offline_queue.rekeying import Rekeyed, Rekeying
from edgeclin.offline_queue.rows import TIERS, Row, insert_row
from edgeclin.offline_queue.salvage import Salvaged
from edgeclin.offline_queue.schema import opening, real_path
from edgeclin.offline_queue.standing import Standing, Usage, standing
from edgeclin.records import Result, Review, State, Tier
from edgeclin.uptime import Uptime, boot_id, uptime

log = logging.getLogger(__name__)

ENDED = 1 << 62
"""Where a source goes on that was judged to its end."""
_ANY = ""
"""Stands for every bundle; sorts before them."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What `put` made durable."""

    seq: int
    id: str
    asked: bool = False
    """Whether an opinion may change it."""


class OfflineQueue:
    """One queue file, shared by the processes of one device.

    Args:
        path: the SQLite file; payload files stand in `<path>.payloads`.
        max_bytes: bound on the results and questions that wait; urgent results have a reserve
            within it. The file itself is larger by what SQLite adds to a row, and by free pages.
        routine_sync_s: the most that a power cut may take of routine results, in seconds.
        spare_bytes: bound on the samples of confident answers that are kept, those of the most
            doubtful, to ask about while the link is free; 0 for none.
        keyring: seals what is stored and opens what waits; what it cannot open waits for its key.
        clock: seconds since 1970, for `made_at` alone.
        uptime: seconds since boot, for deadlines.

    Attributes:
        notices: what the processes that share it say of themselves.

    Raises:
        BadFile: something that is not a queue stands at `path`; it is left as it is.
        QueueUnusable: the file cannot be opened or written; also later, when its disk fails or
            another process found it corrupt. A corrupt file is set aside in `<path>.corrupt-N`
            by whoever opens it next, and a new epoch begins.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        max_bytes: int = 512 << 20,
        routine_sync_s: float = 0.2,
        spare_bytes: int = 0,
        keyring: Keyring = NO_KEYS,
        clock: Callable[[], float] = time.time,
        uptime: Uptime = uptime,
        boot: str | None = None,
    ) -> None:
        self.path = real_path(path)
        boot = boot or boot_id()
        self.notices = Notices(self.path, uptime, boot)
        self._keyring = keyring
        self._ids = Ids()
        self._database = Database(self.path, routine_sync_s, keyring)
        try:
            self._payloads = PayloadFolder(Path(f"{self.path}.payloads"))
            self._questions = Questions(
                self._database, self._payloads, keyring, clock, uptime, boot, self._ids, spare_bytes
            )
            self._dropping = Dropping(
                self._database, self._questions, max_bytes, keyring, self._ids, clock
            )
            self._questions.sweep()
            standing = self.standing()
        except OSError as exc:
            self._database.suspect_unchecked()
            self._database.close()
            if isinstance(exc, QueueUnusable):
                raise
            raise QueueUnusable(f"{path}: the queue cannot be opened ({exc})") from exc
        self.epoch = standing.epoch
        if alarm := standing.absent_alarm():
            log.error("ALARM: %s: %s", path, alarm)

    # -- the process that judges ---------------------------------------------------------------

    def put(
        self,
        result: Result,
        sample: np.ndarray | None = None,
        deadline_s: float = 60.0,
        *,
        last: bool = False,
        cut: str = "",
    ) -> Stored:
        """Store a result, and with `sample` the question for a second opinion about it, where it is
        in doubt or an audit; about a confident one where there is room for spare questions.

        The id (UUIDv7) is made here, once; the source's position moves in the same transaction,
        but for a shadow's answer.

        Args:
            sample: the raw sample, before preprocessing.
            deadline_s: powered-on seconds until a provisional answer becomes unreviewed.
            last: the source ends with it, and no bundle is to judge it again.
            cut: how the source is cut (`Preprocess.cut`), where no other bundle that cuts it so is
                to judge it again either, though the source goes on.

        Raises:
            QueueFull: no room, also after dropping what may be dropped. Nothing was stored.
        """
        identity = self._ids.new()
        body = self._keyring.seal(msgspec.json.encode(result), "result", identity)
        bundle = _ANY if last else cut or result.bundle
        after = ENDED if last else result.position + 1
        ask = None
        asks = result.audit or result.state is State.PROVISIONAL
        spare = result.state is State.FINAL and not asks
        if sample is not None and spare and not self._questions.keeps_spare(result, sample.nbytes):
            sample = None
        if sample is not None and (asks or spare):
            question = wire.Ask(result=identity, model=result.bundle, input=wire.to_array(sample))
            ask = self._keyring.seal(wire.encode(question), "ask", identity)
            if spare and not self._questions.keeps_spare(result, len(ask)):
                ask = None
        try:
            with self._database.transaction(result.tier) as db:
                size = len(body) + (0 if ask is None or spare else len(ask))
                files = self._dropping.make_room(db, result.tier, size)
                seq = insert_row(db, identity, "result", result.tier, body)
                if not result.shadow_of:
                    db.execute(
                        """
                        INSERT INTO positions (source, bundle, next) VALUES (?, ?, ?)
                            ON CONFLICT DO UPDATE SET next = MAX(next, excluded.next)
                        """,
                        (result.source, bundle, after),
                    )
                    if last:
                        db.execute(
                            "DELETE FROM positions WHERE source = ? AND bundle <> ?",
                            (result.source, _ANY),
                        )
                if ask is not None and spare:
                    files += self._questions.make_spare_room(db, len(ask))
                    if not self._dropping.has_room(db, Tier.BULK, len(ask)):
                        ask = None
                if ask is not None:
                    self._questions.insert(db, seq, identity, result, ask, deadline_s, spare)
        except BaseException:
            self._questions.undo(identity)
            raise
        self._questions.forget(files)
        return Stored(seq, identity, asked=ask is not None)

    def next_position(self, source: str, bundle: str, cut: str = "") -> int:
        """Where a source goes on with a bundle that cuts it in this way: one after the last
        position that was stored, or `ENDED`."""
        row = self._database.one(
            "SELECT MAX(next) FROM positions WHERE source = ? AND bundle IN (?, ?, ?)",
            (source, _ANY, bundle, cut),
        )
        assert row is not None
        return int(row[0] or 0)

    def reviews(self, first: int = 0) -> dict[int, Review]:
        """What became of the newest results, delivered or not.

        Args:
            first: the lowest sequence number of a result that is of interest.

        Returns:
            the last review of each result that has one, by the result's sequence number; of the
            newest 256 such results.
        """
        return self._questions.reviews(first)

    # -- the process that delivers -------------------------------------------------------------

    def pending(
        self, tier: Tier, *, after: int = 0, through: int | None = None, limit: int = 64
    ) -> list[Row]:
        """The oldest rows of a tier with after < seq <= through that are to be sent, in order; also
        those whose key is absent, which cannot be."""
        rows = self._database.all(
            """
            SELECT seq, id, kind, body FROM rows
            WHERE tier = ? AND seq > ? AND seq <= ? AND seq NOT IN (SELECT seq FROM set_aside)
            ORDER BY seq LIMIT ?
            """,
            (TIERS.index(tier), after, 2**62 if through is None else through, limit),
        )
        return [Row.opened(self._keyring, *row) for row in rows]

    def remove(self, receipt: wire.Receipt) -> int:
        """Delete what the cloud has stored; a receipt for another epoch deletes nothing.

        Returns:
            how many rows went, 0 for a receipt that came twice.
        """
        if receipt.epoch != self.epoch:
            return 0
        newest, removed = self.last_seq(), 0
        with self._database.transaction(Tier.BULK) as db:
            for first, last in receipt.ranges:
                first, last = max(first, 1), min(last, newest)
                if first <= last:
                    removed += db.execute(
                        "DELETE FROM rows WHERE seq BETWEEN ? AND ?", (first, last)
                    ).rowcount
        with suppress(QueueFull):
            self._database.shrink()
        return removed

    def set_aside(self, seq: int, reason: str) -> None:
        """Keep a row that the broker or the cloud does not take, and send it no more."""
        with self._database.transaction(Tier.BULK) as db:
            db.execute(
                "INSERT OR REPLACE INTO set_aside SELECT seq, ? FROM rows WHERE seq = ?",
                (reason, seq),
            )

    def take_back(self, seq: int | None = None) -> int:
        """Let all that was set aside, or that one row, be sent once more; returns how many rows
        that are."""
        with self._database.transaction(Tier.BULK) as db:
            return db.execute("DELETE FROM set_aside WHERE seq = coalesce(?, seq)", (seq,)).rowcount

    def questions(self, *, after: int = 0, limit: int = 16) -> list[Question]:
        """Questions to ask, oldest first, whose deadline has not passed."""
        return self._questions.open(after, limit)

    def question(self, seq: int) -> Question | None:
        """The question about a row; None where it cannot be asked any more."""
        found = self._questions.open(seq - 1, 1)
        return found[0] if found and found[0].seq == seq else None

    def most_doubtful(self, limit: int) -> list[OpenQuestion]:
        """Open questions: about urgent answers first, then the most doubtful."""
        return self._questions.most_doubtful(limit)

    def most_doubtful_spare(self, limit: int) -> list[OpenQuestion]:
        """Open questions about confident answers, the most doubtful first."""
        return self._questions.most_doubtful_spare(limit)

    def drop_spare(self, seq: int) -> bool:
        """Let go of the question about a confident answer; whether there was one."""
        return self._questions.drop(seq)

    def settle(self, opinion: wire.Opinion) -> Review | None:
        """Reconcile an opinion with the answer it is about, and queue the review.

        Returns:
            the review, or None when nothing changed (an opinion that came twice, an audit
            without an answer).
        """
        return self._questions.settle(opinion)

    def expire(self) -> list[Review]:
        """Turn provisional answers whose deadline has passed into unreviewed ones: the first few,
        for a `put` of another process waits meanwhile; so call it often.

        Time counts only while the device is on: after a restart nobody knows how long it was
        off, so every question from before is taken as expired and a person must look.
        """
        return self._questions.expire()

    # -- both ----------------------------------------------------------------------------------

    @contextmanager
    def claim(self, role: str) -> Iterator[None]:
        """Be the only process in a role, such as `run`, until the block or the process ends.

        Raises:
            QueueUnusable: another process has the role, or its lock cannot be written.
        """
        path = Path(f"{self.path}.{role}.lock")
        try:
            lock = path.open("w")
        except OSError as exc:
            raise QueueUnusable(f"{path}: cannot be written ({exc.strerror})") from exc
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise QueueUnusable(
                    f"{self.path}: another `edgeclin {role}`, or `edgeclin queue rekey`, is at "
                    "work on this queue; end it first"
                ) from exc
            yield

    def standing(self) -> Standing:
        """What waits now."""
        return standing(self._database.all, self.path, self._keyring)

    def remember(self, name: str, fact: str) -> None:
        """Keep a fact, under a name of its own, in this life of the queue; no power cut takes it.

        Raises:
            QueueFull: the disk is full; what was kept before stays.
        """
        with self._database.transaction(Tier.URGENT) as db:
            db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (name, fact))

    def remembered(self, name: str) -> str | None:
        """What was kept under a name."""
        row = self._database.one("SELECT value FROM meta WHERE key = ?", (name,))
        return None if row is None else str(row[0])

    def usage(self) -> dict[str, Usage]:
        """What waits, by tier, and under `questions` what still waits for an opinion."""
        return self.standing().waiting

    def version(self) -> tuple[int, int]:
        """Another one than before when this or another process has changed something."""
        row = self._database.one("PRAGMA data_version")
        assert row is not None
        return int(row[0]), self._database.connection.total_changes

    def last_seq(self) -> int:
        """The newest sequence number ever given in this epoch."""
        row = self._database.one("SELECT seq FROM sqlite_sequence WHERE name = 'rows'")
        return 0 if row is None else int(row[0])

    def purge(self, before: float, tiers: Collection[Tier]) -> dict[Tier, int]:
        """Give up rows that were stored before that moment, by the clock of then, and leave a
        record of each stretch that goes, which is itself delivered.

        Args:
            before: seconds since 1970.

        Returns:
            how many rows went, by tier.
        """
        return self._dropping.purge(before, tiers)

    def salvage(self) -> dict[Path, Salvaged]:
        """Take over once more what the damaged databases that were set aside still hold, and say
        what that was: after a disk was full, or what they lack was put back.

        Raises:
            QueueUnusable: a file cannot be read; what came before it was taken over.
        """
        found = {}
        try:
            with opening(self.path):
                for folder in damaged_queues(self.path):
                    found[folder] = take_over(folder, self.path, self._keyring)
        except (OSError, sqlite3.Error) as exc:
            raise QueueUnusable(f"{self.path}: {exc}") from exc
        return found

    def rekey(self, tell: Callable[[float], None]) -> Rekeyed:
        """Seal all that waits with the first key, while other processes use the queue. Where
        neither `run` nor `sync` does, nothing is left of what was stored before and deleted.

        Args:
            tell: is told the share that is done, from time to time.

        Raises:
            QueueFull: the disk is full; what was done before is kept.
            QueueUnusable: another process does the same, or the disk fails.
        """
        with self.claim("rekey"), ExitStack() as stack:
            found = Rekeying(self._database, self._payloads, self._keyring).run(tell)
            try:
                for role in ("run", "sync"):
                    stack.enter_context(self.claim(role))
            except QueueUnusable:  # they are at work, and would wait too long
                return found
            found.rebuilt = self._database.rebuild()
            return found

    def flush(self) -> None:
        """Make everything that `put` has returned for survive a power cut.

        Raises:
            QueueUnusable: the disk failed; what was not made safe stays due.
        """
        self._database.flush()

    def close(self) -> None:
        """Flush and let go of the file."""
        self._database.close()

    def __enter__(self) -> OfflineQueue:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except QueueUnusable as exc:
            if kind is None:
                raise
            log.error("ALARM: %s", exc)
