"""Answers that wait for a second opinion: ask, settle what came, expire what did not."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from edgeclin import states, wire
from edgeclin.errors import BadSeal, KeyAbsent, QueueFull, QueueUnusable
from edgeclin.offline_queue.database import Database
from edgeclin.offline_queue.ids import Ids
from edgeclin.offline_queue.keyring import Keyring
from edgeclin.offline_queue.payloads import INLINE_LIMIT, PayloadFolder
from edgeclin.offline_queue.rows import insert_row
from edgeclin.records import Result, Review, State, Tier
from edgeclin.uptime import Uptime

log = logging.getLogger(__name__)

_KEPT_UNREVIEWED = 10_000
_EXPIRED_AT_ONCE = 32
"""In one transaction, for a `put` of another process waits meanwhile."""
_DUE = """
    SELECT seq FROM questions WHERE bytes > 0 AND boot = ? AND deadline <= ?
    UNION ALL SELECT seq FROM questions WHERE bytes > 0 AND boot < ?
    UNION ALL SELECT seq FROM questions WHERE bytes > 0 AND boot > ?
    LIMIT ?
"""
SPARE_S = 86_400.0
"""Powered-on seconds that a question waits about whose answer nobody is in doubt."""
_SPARE_BYTES = "SELECT bytes FROM usage WHERE tier = 4"
_LEAST_DOUBTFUL = """
    SELECT seq, bytes, file, doubt FROM questions INDEXED BY questions_spare
    WHERE spare = 1 ORDER BY doubt, seq LIMIT 1
"""
_LESS_DOUBTFUL = """
    SELECT coalesce(SUM(bytes), 0) FROM questions INDEXED BY questions_spare
    WHERE spare = 1 AND doubt < ?
"""
KEPT_REVIEWS = 256
"""Reviewed results, the newest, of which it stays known what became of them."""


@dataclass(frozen=True, slots=True)
class Question:
    """One answer whose opinion has not come; `ask` is the encoded message that asks for it."""

    seq: int
    result: str
    ask: bytes
    remaining_s: float
    spare: bool = False


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """What is known of a question without a look at what is asked.

    Attributes:
        bytes: of the message.
        doubt: the chance that the answer is wrong; see `edgeclin.states.chance_wrong`.
        urgent: whether the answer is.
    """

    seq: int
    bytes: int
    remaining_s: float
    doubt: float
    urgent: bool


class Questions:
    """The questions of one queue.

    Args:
        keyring: seals samples, labels and reviews.
        clock: seconds since 1970, for `made_at` alone.
        uptime: seconds since boot, for deadlines.
        boot: this boot's id.
        ids: of rows.
        spare_bytes: bound on the spare questions, about answers that nobody is in doubt about.
    """

    def __init__(
        self,
        database: Database,
        payloads: PayloadFolder,
        keyring: Keyring,
        clock: Callable[[], float],
        uptime: Uptime,
        boot: str,
        ids: Ids,
        spare_bytes: int,
    ) -> None:
        self._database = database
        self._payloads = payloads
        self._keyring = keyring
        self._clock = clock
        self._uptime = uptime
        self._boot = boot
        self._ids = ids
        self._spare_bytes = spare_bytes

    def insert(
        self,
        db: sqlite3.Connection,
        seq: int,
        identity: str,
        result: Result,
        ask: bytes,
        deadline_s: float,
        spare: bool = False,
    ) -> None:
        """Ask about a result, in the transaction that stores it; see `undo`.

        Args:
            ask: the message, sealed.
            deadline_s: how long it is asked, but for a spare one.
            spare: whether it is asked while the link is free alone.
        """
        file = None
        if len(ask) > INLINE_LIMIT:
            file = identity
            self._payloads.write(file, ask)
        now = self._uptime()
        db.execute(
            """
            INSERT INTO questions
                (seq, result, label, state, boot, asked_at, deadline, ask, file, bytes, doubt,
                 urgent, spare)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            (
                seq,
                identity,
                self._keyring.seal_text(result.label, "label", identity),
                result.state.value,
                self._boot,
                now,
                now + (SPARE_S if spare else deadline_s),
                None if file else ask,
                file,
                len(ask),
                states.chance_wrong(result),
                result.tier is Tier.URGENT,
                spare,
            ),
        )

    def keeps_spare(self, result: Result, size: int) -> bool:
        """Whether a spare question about a result would be kept: as long as there is room for it,
        or those about less doubtful answers take as much."""
        if not self._spare_bytes:
            return False
        (used,) = self._database.all(_SPARE_BYTES)[0]
        if used + size <= self._spare_bytes:
            return True
        ((less,),) = self._database.all(_LESS_DOUBTFUL, (states.chance_wrong(result),))
        return bool(used - less + size <= self._spare_bytes)

    def make_spare_room(self, db: sqlite3.Connection, size: int) -> list[str]:
        """Let go of spare questions for one of that size; see `drop_spare`."""
        return self.drop_spare(db, self._spare_bytes - size)

    def drop_spare(self, db: sqlite3.Connection, most_bytes: int) -> list[str]:
        """Let go of spare questions, the least doubtful first, until no more than so many bytes of
        them are kept; returns their payload files, to be removed after the transaction."""
        (used,) = db.execute(_SPARE_BYTES).fetchone()
        files = []
        while used > most_bytes and (row := db.execute(_LEAST_DOUBTFUL).fetchone()):
            seq, taken, file, _ = row
            db.execute("DELETE FROM questions WHERE seq = ?", (seq,))
            used -= taken
            files += [file] if file else []
        return files

    def drop(self, seq: int) -> bool:
        """Let go of one spare question; whether it is one."""
        found = "SELECT file FROM questions WHERE seq = ? AND spare = 1"
        with self._database.transaction(Tier.BULK) as db:
            row = db.execute(found, (seq,)).fetchone()
            if row is not None:
                db.execute("DELETE FROM questions WHERE seq = ?", (seq,))
        if row is not None and row[0]:
            self._payloads.remove(row[0])
        return row is not None

    def forget(self, files: Iterable[str]) -> None:
        """Remove payloads whose questions are gone."""
        for file in files:
            self._payloads.remove(file)

    def sweep(self) -> None:
        """Remove payloads that a crash left between the file and its row."""
        found = self._payloads.names()
        if not found:
            return
        # The lock of a write: another process may stand between its file and its row.
        with self._database.transaction(Tier.BULK) as db:
            rows = db.execute("SELECT file FROM questions WHERE file IS NOT NULL").fetchall()
        for orphan in found.difference(file for (file,) in rows):
            self._payloads.remove(orphan)

    def undo(self, identity: str) -> None:
        """After an error: forget the payload of a question whose transaction did not commit."""
        try:
            stored = self._database.one("SELECT 1 FROM questions WHERE result = ?", (identity,))
        except (QueueFull, QueueUnusable):
            return
        if stored is None:
            self._payloads.remove(identity)

    def open(self, after: int, limit: int) -> list[Question]:
        """Questions to ask, oldest first, whose deadline has not passed.

        One whose payload is gone or damaged, or whose key is absent, cannot be asked: it expires.
        """
        found: list[Question] = []
        while len(found) < limit:
            rows = self._database.all(
                """
                SELECT seq, result, ask, file, deadline, spare
                FROM questions INDEXED BY questions_asked
                WHERE seq > ? AND bytes > 0 AND boot = ? AND deadline > ? ORDER BY seq LIMIT ?
                """,
                (after, self._boot, self._uptime(), limit - len(found)),
            )
            if not rows:
                break
            for seq, result, ask, file, deadline, spare in rows:
                message = self._message(result, self._payloads.read(file) if file else ask)
                if message is not None:
                    remaining_s = deadline - self._uptime()
                    found.append(Question(seq, result, message, remaining_s, bool(spare)))
                after = seq
        return found

    def most_doubtful(self, limit: int) -> list[OpenQuestion]:
        """Open questions whose deadline has not passed: about urgent answers first, then by doubt,
        the oldest first."""
        now = self._uptime()
        rows = self._database.all(
            """
            SELECT seq, bytes, deadline, doubt, urgent
            FROM questions INDEXED BY questions_by_doubt
            WHERE bytes > 0 AND spare = 0 AND boot = ? AND deadline > ?
            ORDER BY urgent DESC, doubt DESC, seq LIMIT ?
            """,
            (self._boot, now, limit),
        )
        return [
            OpenQuestion(seq, size, deadline - now, doubt, bool(urgent))
            for seq, size, deadline, doubt, urgent in rows
        ]

    def most_doubtful_spare(self, limit: int) -> list[OpenQuestion]:
        """Spare questions whose deadline has not passed, by doubt, the newest first."""
        now = self._uptime()
        rows = self._database.all(
            """
            SELECT seq, bytes, deadline, doubt
            FROM questions INDEXED BY questions_spare
            WHERE spare = 1 AND boot = ? AND deadline > ? ORDER BY doubt DESC, seq DESC LIMIT ?
            """,
            (self._boot, now, limit),
        )
        return [
            OpenQuestion(seq, size, deadline - now, doubt, urgent=False)
            for seq, size, deadline, doubt in rows
        ]

    def _message(self, result: str, sealed: bytes | None) -> bytes | None:
        try:
            return None if sealed is None else self._keyring.open(sealed, "ask", result)
        except KeyAbsent:
            return None
        except BadSeal as exc:
            log.error("ALARM: the question about %s cannot be asked: %s", result, exc)
            return None

    def settle(self, opinion: wire.Opinion) -> Review | None:
        """Reconcile an opinion with the answer it is about, and queue the review. Where that answer
        cannot be opened it is left to a person, at its deadline. A confident answer that the
        cloud's model cannot judge either stays as it is, and nobody asks again."""
        with self._database.transaction(Tier.ROUTINE) as db:
            row = db.execute(
                """
                SELECT seq, label, state, asked_at, boot, file, spare FROM questions
                WHERE result = ?
                """,
                (opinion.result,),
            ).fetchone()
            if row is None:
                return None
            seq, sealed, before, asked_at, boot, file, spare = row
            try:
                label = self._keyring.open_text(sealed, "label", opinion.result)
            except (KeyAbsent, BadSeal) as exc:
                log.error("ALARM: an opinion about %s cannot be used: %s", opinion.result, exc)
                if spare:
                    db.execute("DELETE FROM questions WHERE seq = ?", (seq,))
                return None
            state = states.review(State(before), label, opinion.label)
            review = None
            if state.value != before:
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
                self._insert_review(db, seq, review, bool(spare))
            if state is State.UNREVIEWED:
                _withdraw(db, seq)
                _forget_oldest(db)
            else:
                db.execute("DELETE FROM questions WHERE seq = ?", (seq,))
        self._payloads.remove(file)
        return review

    def reviews(self, first: int) -> dict[int, Review]:
        """The last review of each result from number `first` on, of the newest `KEPT_REVIEWS`."""
        rows = self._database.all("SELECT seq, body FROM reviews WHERE seq >= ?", (first,))
        found = {}
        for seq, body in rows:
            with suppress(KeyAbsent, BadSeal):
                opened = self._keyring.open(body, "kept review", str(seq))
                found[seq] = msgspec.json.decode(opened, type=Review)
        return found

    def expire(self) -> list[Review]:
        """Turn the first few provisional answers whose deadline has passed into unreviewed ones."""
        now = self._uptime()
        due = (self._boot, now, self._boot, self._boot, _EXPIRED_AT_ONCE)
        if not self._database.all(_DUE, due):
            return []
        with self._database.transaction(Tier.ROUTINE) as db:
            expired = db.execute(
                f"""
                SELECT seq, result, label, state, boot, asked_at, file FROM questions
                WHERE seq IN ({_DUE}) ORDER BY seq
                """,
                due,
            ).fetchall()
            reviews = [self._expire_one(db, now, *row[:-1]) for row in expired]
            _forget_oldest(db)
        for row in expired:
            self._payloads.remove(row[-1])
        return [review for review in reviews if review]

    def _expire_one(
        self,
        db: sqlite3.Connection,
        now: float,
        seq: int,
        result: str,
        sealed: str | bytes | None,
        state: str,
        boot: str,
        asked_at: float,
    ) -> Review | None:
        """One whose time is over; an audit of a final answer leaves that as it is."""
        if State(state) is not State.PROVISIONAL:
            db.execute("DELETE FROM questions WHERE seq = ?", (seq,))
            return None
        here = boot == self._boot
        label = self._keyring.legible(sealed, "label", result)
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
        self._insert_review(db, seq, review)
        _withdraw(db, seq)
        return review

    def _insert_review(
        self, db: sqlite3.Connection, seq: int, review: Review, spare: bool = False
    ) -> None:
        """Queue what became of a result, and remember it while the result is among the newest; but
        not that a confident one is right, for many of those would take the place of others."""
        body, identity = msgspec.json.encode(review), self._ids.new()
        sealed = self._keyring.seal(body, "review", identity)
        insert_row(db, identity, "review", Tier.ROUTINE, sealed)
        if spare and review.state is State.CONFIRMED:
            return
        kept = self._keyring.seal(body, "kept review", str(seq))
        db.execute("INSERT OR REPLACE INTO reviews (seq, body) VALUES (?, ?)", (seq, kept))
        db.execute(
            """
            DELETE FROM reviews
            WHERE seq <= (SELECT seq FROM reviews ORDER BY seq DESC LIMIT 1 OFFSET ?)
            """,
            (KEPT_REVIEWS,),
        )


def _withdraw(db: sqlite3.Connection, seq: int) -> None:
    """Stop asking, but remember the question: a late opinion still helps a person."""
    db.execute(
        "UPDATE questions SET state = ?, ask = NULL, file = NULL, bytes = 0 WHERE seq = ?",
        (State.UNREVIEWED.value, seq),
    )


def _forget_oldest(db: sqlite3.Connection) -> None:
    db.execute(
        """
        DELETE FROM questions WHERE bytes = 0 AND seq <= (
            SELECT seq FROM questions WHERE bytes = 0 ORDER BY seq DESC LIMIT 1 OFFSET ?)
        """,
        (_KEPT_UNREVIEWED,),
    )
