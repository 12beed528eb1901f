"""What a damaged queue still holds, taken over into the one that takes its place."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, cast

import msgspec

from edgeclin.errors import BadSeal, KeyAbsent
from edgeclin.offline_queue.damaged import DamagedDatabase, Record
from edgeclin.offline_queue.keyring import Keyring
from edgeclin.offline_queue.rows import ID, TIERS, Kind
from edgeclin.records import DECODERS, Drop, Result, Review, State, Tier

_Row: TypeAlias = "tuple[str, Kind, int, bytes]"
"""Id, kind, tier and body."""
_BUNDLE = re.compile(r"|[0-9a-f]{64}|whole|windows of .*")
"""What positions are kept by; see `Preprocess.cut` too."""
_TOGETHER = 500
"""Rows in one transaction: the log stays short, and a process that is killed has done some."""
_MEETING_PLACES = """
DROP TABLE IF EXISTS temp.present;
DROP TABLE IF EXISTS temp.asked;
DROP TABLE IF EXISTS temp.reviewed;
DROP TABLE IF EXISTS temp.went_on;
CREATE TEMP TABLE present (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE asked (result TEXT PRIMARY KEY, label TEXT) WITHOUT ROWID;
CREATE TEMP TABLE reviewed (result TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE went_on (source TEXT, bundle TEXT, PRIMARY KEY (source, bundle)) WITHOUT ROWID;
INSERT INTO present SELECT id FROM rows;
"""
"""On disk, for a queue may be larger than the memory."""


@dataclass(slots=True)
class Salvaged:
    """What was taken over.

    Attributes:
        rows: by kind; those that had been delivered already are told apart by the cloud.
        there: rows that wait already, as when it was done before.
        unreviewed: answers that waited for an opinion: nobody asks any more, so a person must look.
        positions: of sources, which go on there.
        unreadable: pages and records that nothing could be made of.
    """

    rows: Counter[str] = field(default_factory=Counter)
    there: int = 0
    unreviewed: int = 0
    positions: int = 0
    unreadable: int = 0

    def __str__(self) -> str:
        rows = ", ".join(f"{count} {kind}s" for kind, count in sorted(self.rows.items()))
        return (
            f"{rows or 'no rows'} ({self.there} were there already), with {self.unreviewed} "
            "reviews that say of answers that waited for an opinion that a person must look; "
            f"{self.positions} positions; {self.unreadable} pages or records are unreadable"
        )


def salvage(aside: Path, db: sqlite3.Connection, now: float, keyring: Keyring) -> Salvaged:
    """Take over what the damaged database at `aside` and its log still hold, a few rows at a time.

    Ids stay what they are, so that the cloud stores nothing twice; sequence numbers too, where the
    new epoch has given none yet. What is there already is left alone, so that it may be done again.

    Args:
        db: in no transaction, and of no other use meanwhile.
        now: seconds since 1970, of the reviews that are made.
        keyring: tells what is sound of what is sealed. A row whose key is absent is taken over as
            it is, and says nothing of others until it is done again with the key.

    Raises:
        sqlite3.Error, OSError: it ends there; what was taken over before is kept.
    """
    found = Salvaged()
    db.executescript(_MEETING_PLACES)
    # Of a number that was given before, nobody knows whether its row was delivered and deleted.
    numbered = db.execute("SELECT 1 FROM sqlite_sequence WHERE name = 'rows'").fetchone() is None
    try:
        with _file(aside) as database:
            damaged = DamagedDatabase(database, _log_of(aside))
            waiting: list[Record] = []
            for record in damaged.records():
                waiting.append(record)
                if len(waiting) == _TOGETHER:
                    _take_over(db, waiting, numbered, found, keyring)
                    waiting.clear()
            _take_over(db, waiting, numbered, found, keyring)
            found.unreadable += damaged.unreadable
        db.execute("BEGIN IMMEDIATE")
        for result, label in db.execute(
            "SELECT result, label FROM asked WHERE result NOT IN (SELECT result FROM reviewed)"
        ):
            row = _unreviewed(result, label, now, keyring)
            found.unreviewed += _insert(db, None, row, found)
        db.execute("COMMIT")
        (found.positions,) = db.execute("SELECT COUNT(*) FROM went_on").fetchone()
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return found


def _take_over(
    db: sqlite3.Connection,
    records: list[Record],
    numbered: bool,
    found: Salvaged,
    keyring: Keyring,
) -> None:
    db.execute("BEGIN IMMEDIATE")
    for record in records:
        if row := _row(record):
            identity, kind, _, body = row
            content = None
            try:
                content = DECODERS[kind].decode(keyring.open(body, kind, identity))
            except KeyAbsent:
                pass
            except (BadSeal, msgspec.MsgspecError, UnicodeDecodeError):
                found.unreadable += 1
                continue
            _insert(db, record.rowid if numbered else None, row, found)
            _note(db, identity, content, keyring)
        elif review := _review(record, keyring):
            db.execute("INSERT OR IGNORE INTO reviewed VALUES (?)", (review.result,))
        elif question := _question(record):
            db.execute("INSERT OR IGNORE INTO asked VALUES (?, ?)", question)
        elif position := _position(record):
            _go_on(db, *position)
    db.execute("COMMIT")


def _insert(db: sqlite3.Connection, seq: int | None, row: _Row, found: Salvaged) -> bool:
    """Add a row unless its id is there; returns whether it was added."""
    if not db.execute("INSERT OR IGNORE INTO present VALUES (?)", row[:1]).rowcount:
        found.there += 1
        return False
    if seq is not None and db.execute("SELECT 1 FROM rows WHERE seq = ?", (seq,)).fetchone():
        seq = None
    db.execute("INSERT INTO rows (seq, id, kind, tier, body) VALUES (?, ?, ?, ?, ?)", (seq, *row))
    found.rows[row[1]] += 1
    return True


def _note(
    db: sqlite3.Connection,
    identity: str,
    content: Result | Review | Drop | None,
    keyring: Keyring,
) -> None:
    """What a row says of others, which the damage may have taken elsewhere: a result where its
    source goes on and that it waits for an opinion, and a review that its result has one."""
    if isinstance(content, Result):
        if not content.shadow_of:
            _go_on(db, content.source, content.bundle, content.position + 1)
        if content.state is State.PROVISIONAL:
            label = keyring.seal_text(content.label, "label", identity)
            db.execute("INSERT OR IGNORE INTO asked VALUES (?, ?)", (identity, label))
    elif isinstance(content, Review):
        db.execute("INSERT OR IGNORE INTO reviewed VALUES (?)", (content.result,))


def _go_on(db: sqlite3.Connection, source: str, bundle: str, following: int) -> None:
    changed = db.execute(
        """
        INSERT INTO positions (source, bundle, next) VALUES (?, ?, ?)
            ON CONFLICT DO UPDATE SET next = excluded.next WHERE excluded.next > next
        """,
        (source, bundle, following),
    )
    if changed.rowcount:
        db.execute("INSERT OR IGNORE INTO went_on VALUES (?, ?)", (source, bundle))


class _File:
    """A file's bytes, a stretch at a time; what the disk cannot read is empty."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, stretch: slice) -> bytes:
        try:
            return os.pread(self._descriptor, stretch.stop - stretch.start, stretch.start)
        except OSError:
            return b""


@contextmanager
def _file(path: Path) -> Iterator[_File]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # its log is all that there is
        descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        yield _File(descriptor)
    finally:
        os.close(descriptor)


def _log_of(aside: Path) -> bytes:
    try:
        return Path(f"{aside}-wal").read_bytes()
    except OSError:
        return b""


def _row(record: Record) -> _Row | None:
    """Where it is one."""
    if record.rowid is None or len(record.values) != 5:
        return None
    _, identity, kind, tier, body = record.values
    if not isinstance(identity, str) or not ID.fullmatch(identity) or kind not in DECODERS:
        return None
    if not isinstance(tier, int) or not 0 <= tier < len(TIERS) or not isinstance(body, bytes):
        return None
    return identity, cast("Kind", kind), tier, body


def _review(record: Record, keyring: Keyring) -> Review | None:
    """One that is kept for the bedside; the row with it may have been delivered."""
    if record.rowid is None or len(record.values) != 2 or not isinstance(record.values[1], bytes):
        return None
    try:
        body = keyring.open(record.values[1], "kept review", str(record.rowid))
        return msgspec.json.decode(body, type=Review)
    except (KeyAbsent, BadSeal, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _question(record: Record) -> tuple[str, str | bytes | None] | None:
    """The result that is still asked about, provisional, and its label, which may be sealed."""
    if record.rowid is None or len(record.values) != 10:
        return None
    _, result, label, state, *_, size = record.values
    if not isinstance(result, str) or not ID.fullmatch(result) or not size:
        return None
    if state != State.PROVISIONAL.value or not isinstance(label, str | bytes | None):
        return None
    return result, label


def _position(record: Record) -> tuple[str, str, int] | None:
    """Source, bundle and the position that follows."""
    if record.rowid is not None or len(record.values) != 3:
        return None
    source, bundle, following = record.values
    if not isinstance(source, str) or not isinstance(following, int):
        return None
    known = isinstance(bundle, str) and _BUNDLE.fullmatch(bundle)
    return (source, str(bundle), following) if known else None


def _unreviewed(result: str, sealed: str | bytes | None, now: float, keyring: Keyring) -> _Row:
    """The row that says so; its id, a UUIDv7 of the result's time, is the same whenever it is made,
    so that it counts once."""
    label = keyring.legible(sealed, "label", result)
    review = Review(
        result=result,
        state=State.UNREVIEWED,
        label=label,
        edge_label=label,
        reason="the queue was damaged before an opinion came",
        made_at=now,
    )
    digest = hashlib.sha256(f"salvaged {result}".encode()).hexdigest()
    identity = f"{result[:13]}-7{digest[:3]}-8{digest[3:6]}-{digest[6:18]}"
    body = keyring.seal(msgspec.json.encode(review), "review", identity)
    return identity, "review", TIERS.index(Tier.ROUTINE), body
