"""Questions that came in parts, until they are answered."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from edgeclin import wire
from edgeclin.cloud.database import Database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS wholes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    site TEXT NOT NULL, device TEXT NOT NULL, sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    complete INTEGER NOT NULL DEFAULT 0,
    until REAL NOT NULL,
    UNIQUE (site, device, sha256)
);
-- None overlaps another.
CREATE TABLE IF NOT EXISTS parts (
    number INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (number, first)
);
CREATE TRIGGER IF NOT EXISTS wholes_out AFTER DELETE ON wholes BEGIN
    DELETE FROM parts WHERE number = OLD.number;
END;
"""
KEPT_S = 86_400.0
ANSWERED_S = 600.0
"""An opinion that was lost on its way is asked for again."""
MOST_BYTES = 1 << 30
DEVICE_BYTES = 2 * wire.MAX_DECODED
"""What one device may have here; beyond it its oldest goes."""


class Inputs:
    """Those of one store folder; several processes may share it.

    Args:
        clock: seconds since 1970.

    Raises:
        StoreUnusable: as `Database` does; also from every method.
    """

    def __init__(self, folder: Path | str, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._database = Database(Path(folder) / "inputs.sqlite", b"ecli", _SCHEMA)

    def add(self, topics: wire.Topics, part: wire.Part) -> wire.Kept:
        """Store a part, durable when this returns, and say what is stored of its whole. Of one that
        is complete and is not what its name says, nothing is kept."""
        last = part.at + len(part.data) - 1
        problem = _problem(part, last)
        if problem:
            return wire.Kept(part.whole, (), problem)
        with self._database.transaction() as db:
            found = _find(db, topics, part.whole) or self._begin(db, topics, part)
            if found is None:
                return wire.Kept(part.whole, (), "the store has no room for more inputs")
            number, size, complete = found
            if size != part.size:
                return wire.Kept(part.whole, (), f"its size was {size} before, {part.size} now")
            if not complete:
                known = db.execute("SELECT first, last FROM parts WHERE number = ?", (number,))
                stored = known.fetchall()
                new = wire.gaps(stored, part.at, last)
                db.executemany(
                    "INSERT INTO parts (number, first, last, data) VALUES (?, ?, ?, ?)",
                    [(number, a, b, part.data[a - part.at : b - part.at + 1]) for a, b in new],
                )
                stored += new
                if wire.gaps(stored, 0, size - 1):
                    return wire.Kept(part.whole, wire.joined(stored))
                if hashlib.sha256(_read(db, number)).hexdigest() != part.whole:
                    db.execute("DELETE FROM wholes WHERE number = ?", (number,))
                    return wire.Kept(part.whole, (), "its bytes are not those that were hashed")
                db.execute("UPDATE wholes SET complete = 1 WHERE number = ?", (number,))
            return wire.Kept(part.whole, ((0, size - 1),))

    def read(self, topics: wire.Topics, whole: str) -> bytes | None:
        """All bytes of a whole that is complete; None of any other."""
        with self._database.transaction() as db:
            found = _find(db, topics, whole)
            return _read(db, found[0]) if found and found[2] else None

    def answered(self, topics: wire.Topics, whole: str) -> None:
        """Keep a whole for `ANSWERED_S` and no longer."""
        with self._database.transaction() as db:
            db.execute(
                "UPDATE wholes SET until = MIN(until, ?) "
                "WHERE site = ? AND device = ? AND sha256 = ?",
                (self._clock() + ANSWERED_S, topics.site, topics.device, whole),
            )

    def purge(self) -> int:
        """Remove what was kept for long enough; returns how many."""
        with self._database.transaction() as db:
            return db.execute("DELETE FROM wholes WHERE until <= ?", (self._clock(),)).rowcount

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def _begin(
        self, db: sqlite3.Connection, topics: wire.Topics, part: wire.Part
    ) -> tuple[int, int, bool] | None:
        """A new whole, in the place of the device's oldest where they were too many; None where
        there is no room for what others have."""
        own = db.execute(
            "SELECT number, size FROM wholes WHERE site = ? AND device = ? ORDER BY number DESC",
            (topics.site, topics.device),
        ).fetchall()
        taken = part.size
        for number, size in own:
            taken += size
            if taken > DEVICE_BYTES:
                db.execute("DELETE FROM wholes WHERE number = ?", (number,))
        (used,) = db.execute("SELECT COALESCE(SUM(size), 0) FROM wholes").fetchone()
        if used + part.size > MOST_BYTES:
            return None
        made = db.execute(
            "INSERT INTO wholes (site, device, sha256, size, until) VALUES (?, ?, ?, ?, ?)",
            (topics.site, topics.device, part.whole, part.size, self._clock() + KEPT_S),
        )
        assert made.lastrowid is not None
        return made.lastrowid, part.size, False


def _find(db: sqlite3.Connection, topics: wire.Topics, whole: str) -> tuple[int, int, bool] | None:
    """Number, size, and whether it is complete."""
    found: tuple[int, int, bool] | None = db.execute(
        "SELECT number, size, complete FROM wholes WHERE site = ? AND device = ? AND sha256 = ?",
        (topics.site, topics.device, whole),
    ).fetchone()
    return found


def _read(db: sqlite3.Connection, number: int) -> bytes:
    rows = db.execute("SELECT data FROM parts WHERE number = ? ORDER BY first", (number,))
    return b"".join(data for (data,) in rows)


def _problem(part: wire.Part, last: int) -> str:
    if last >= part.size:
        return f"bytes {part.at} to {last} of {part.size}"
    if len(part.data) < wire.LEAST_PART and last < part.size - 1:
        return f"a part of {len(part.data)} bytes; the least is {wire.LEAST_PART}"
    return ""
