"""What goes undelivered: for room, or because somebody gives it up. A record of each row that does
is delivered."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Collection

import msgspec

from edgeclin.errors import QueueFull
from edgeclin.offline_queue.database import Database
from edgeclin.offline_queue.ids import Ids
from edgeclin.offline_queue.keyring import Keyring
from edgeclin.offline_queue.questions import Questions
from edgeclin.offline_queue.rows import TIERS, first_id_of, insert_row
from edgeclin.records import Drop, Tier

log = logging.getLogger(__name__)

URGENT_RESERVE = 0.1
"""Share of the byte bound that only urgent results may use."""
_BULK, _SPARE = TIERS.index(Tier.BULK), 4
_AT_ONCE = 64


class Dropping:
    """Keeps one queue within its bound.

    Args:
        max_bytes: bound on the results and questions that wait.
        keyring: seals the records.
        ids: of rows.
        clock: seconds since 1970, for `made_at` alone.
    """

    def __init__(
        self,
        database: Database,
        questions: Questions,
        max_bytes: int,
        keyring: Keyring,
        ids: Ids,
        clock: Callable[[], float],
    ) -> None:
        self._database, self._questions, self._max_bytes = database, questions, max_bytes
        self._keyring, self._ids, self._clock = keyring, ids, clock

    def has_room(self, db: sqlite3.Connection, tier: Tier, size: int) -> bool:
        """Whether a row of that size stays within the bound."""
        return _used(db) + size <= self._bound(tier)

    def make_room(self, db: sqlite3.Connection, tier: Tier, size: int) -> list[str]:
        """Let go of spare questions, then of the oldest bulk rows, where a row of that size would
        pass the bound, in the transaction that stores it.

        Returns:
            payload files to be removed after it.

        Raises:
            QueueFull: too little may be dropped.
        """
        bound, files = self._bound(tier), []
        while (used := _used(db)) + size > bound:
            taken = dict(db.execute("SELECT tier, bytes FROM usage").fetchall())
            bulk, spare = taken[_BULK], taken[_SPARE]
            if bulk + spare == 0 or used - bulk - spare + size > bound:
                raise QueueFull(
                    f"{self._database.path}: {used} of {bound} bytes wait and too few of them may "
                    "be dropped; connect the device, or raise queue.max_mb"
                )
            if spare:
                files += self._questions.drop_spare(db, max(spare - (used + size - bound), 0))
                continue
            rows = db.execute(
                "SELECT seq FROM rows WHERE tier = ? ORDER BY seq LIMIT ?", (_BULK, _AT_ONCE)
            ).fetchall()
            drop = self._drop(db, Tier.BULK, rows)
            log.warning(
                "queue full: dropped %d bulk rows, %d to %d",
                drop.count, drop.first_seq, drop.last_seq,
            )  # fmt: skip
        return files

    def _bound(self, tier: Tier) -> int:
        reserve = 0 if tier is Tier.URGENT else int(self._max_bytes * URGENT_RESERVE)
        return self._max_bytes - reserve

    def purge(self, before: float, tiers: Collection[Tier]) -> dict[Tier, int]:
        """Give up what was stored before that moment; see `OfflineQueue.purge`."""
        oldest_kept = first_id_of(before)
        gone = dict.fromkeys(tiers, 0)
        for tier in tiers:
            while rows := self._purge_some(tier, oldest_kept):
                gone[tier] += rows
        return gone

    def _purge_some(self, tier: Tier, oldest_kept: str) -> int:
        with self._database.transaction(Tier.URGENT) as db:
            rows = db.execute(
                "SELECT seq FROM rows WHERE tier = ? AND id < ? AND kind <> 'drop' "
                "ORDER BY seq LIMIT ?",
                (TIERS.index(tier), oldest_kept, _AT_ONCE),
            ).fetchall()
            if rows:
                self._drop(db, tier, rows)
        return len(rows)

    def _drop(self, db: sqlite3.Connection, tier: Tier, rows: list[tuple[int]]) -> Drop:
        """Delete rows of one tier, in order, and leave a record of it."""
        db.executemany("DELETE FROM rows WHERE seq = ?", rows)
        drop = Drop(
            tier=tier,
            first_seq=rows[0][0],
            last_seq=rows[-1][0],
            count=len(rows),
            made_at=self._clock(),
        )
        identity = self._ids.new()
        body = self._keyring.seal(msgspec.json.encode(drop), "drop", identity)
        insert_row(db, identity, "drop", Tier.ROUTINE, body)
        return drop


def _used(db: sqlite3.Connection) -> int:
    (used,) = db.execute("SELECT SUM(bytes) FROM usage").fetchone()
    return int(used)
