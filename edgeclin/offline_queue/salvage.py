"""What a damaged queue still holds, taken over into the one that takes its place."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, cast

import msgspec

from edgeclin.errors import BadSeal, KeyAbsent
from edgeclin.offline_queue.damaged import DamagedDatabase, Record, Value
from edgeclin.offline_queue.disk_bytes import disk_bytes
from edgeclin.offline_queue.keyring import Keyring
from edgeclin.offline_queue.rows import ID, TIERS, Kind, first_id_of
from edgeclin.records import DECODERS, Drop, Result, Review, State, Tier

_Row: TypeAlias = "tuple[str, Kind, int, bytes]"
"""Id, kind, tier and body."""
_BUNDLE = re.compile(r"|[0-9a-f]{64}|whole|windows of .*")
"""What positions are kept by; see `Preprocess.cut` too."""
_NUMBERS = range(1, 1 << 53)
"""That JSON can have: those beyond are damaged."""
_LATEST = 1 << 38
"""Seconds since 1970 that an id can have."""
_TOGETHER = 500
"""Rows in one transaction: the log stays short, and a process that is killed has done some."""
_MEETING_PLACES = """
DROP TABLE IF EXISTS temp.present;
DROP TABLE IF EXISTS temp.asked;
DROP TABLE IF EXISTS temp.reviewed;
DROP TABLE IF EXISTS temp.went_on;
DROP TABLE IF EXISTS temp.named;
DROP TABLE IF EXISTS temp.known;
CREATE TEMP TABLE present (id TEXT PRIMARY KEY, read INTEGER NOT NULL) WITHOUT ROWID;
CREATE TEMP TABLE asked (result TEXT PRIMARY KEY, label TEXT) WITHOUT ROWID;
CREATE TEMP TABLE reviewed (result TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE went_on (source TEXT, bundle TEXT, PRIMARY KEY (source, bundle)) WITHOUT ROWID;
CREATE TEMP TABLE named (seq INTEGER PRIMARY KEY);
CREATE TEMP TABLE known (seq INTEGER PRIMARY KEY);
INSERT OR IGNORE INTO present SELECT id, 0 FROM rows;
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
        unreadable: pages that are damaged, and records that nothing could be made of.
        read: rows that could be read, there already or not.
        counted: by the number of its tier how many rows the damaged queue said that it held.
        missing: rows that an index names and that were not read: a page that is sound lacks them
            where the disk has not written what it became last.
    """

    rows: dict[str, int] = field(default_factory=dict)
    there: int = 0
    unreviewed: int = 0
    positions: int = 0
    unreadable: int = 0
    read: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    missing: int = 0

    @property
    def lost(self) -> str:
        """What could not be read, in words; empty where all could."""
        counted = sum(self.counted.values())
        if not self.unreadable and not self.missing and self.read >= counted:
            return ""
        share = f"{self.read} of {counted} rows" if self.read < counted else f"{self.read} rows"
        missing = f", {self.missing} that an index names are missing" if self.missing else ""
        return f"{share} could be read, {self.unreadable} pages or records are unreadable{missing}"

    def __str__(self) -> str:
        rows = ", ".join(f"{count} {kind}s" for kind, count in sorted(self.rows.items()))
        return (
            f"{rows or 'no rows'} ({self.there} were there already), with {self.unreviewed} "
            "reviews that say of answers that waited for an opinion that a person must look; "
            f"{self.positions} positions; {self.lost or 'all could be read'}"
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
        with disk_bytes(aside) as database, disk_bytes(Path(f"{aside}-wal")) as log:
            damaged = DamagedDatabase(database, log)
            waiting: list[Record] = []
            for record in damaged.records():
                waiting.append(record)
                if len(waiting) == _TOGETHER:
                    _take_over(db, waiting, numbered, found, keyring)
                    waiting.clear()
            _take_over(db, waiting, numbered, found, keyring)
            found.unreadable += damaged.unreadable
        (found.read,) = db.execute("SELECT COUNT(*) FROM present WHERE read").fetchone()
        missing = "SELECT COUNT(*) FROM named WHERE seq NOT IN (SELECT seq FROM known)"
        (found.missing,) = db.execute(missing).fetchone()
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
        try:
            _take_over_one(db, record, numbered, found, keyring)
        except (ValueError, TypeError, OverflowError, sqlite3.DataError):
            found.unreadable += 1
    db.execute("COMMIT")


def _take_over_one(
    db: sqlite3.Connection, record: Record, numbered: bool, found: Salvaged, keyring: Keyring
) -> None:
    if _stands_among_rows(record):
        row, content = _row(record, keyring)
        db.execute("INSERT OR IGNORE INTO known VALUES (?)", (record.rowid,))
        _note(db, row[0], content, keyring)
        _insert(db, record.rowid if numbered else None, row, found)
    elif review := _review(record, keyring):
        db.execute("INSERT OR IGNORE INTO reviewed VALUES (?)", (review.result,))
    elif _is_question(record):
        if question := _question(record):
            db.execute("INSERT OR IGNORE INTO asked VALUES (?, ?)", question)
        elif not record.values[9]:
            db.execute("INSERT OR IGNORE INTO known VALUES (?)", (record.rowid,))
    elif position := _position(record):
        _go_on(db, *position)
    elif number := _named(record):
        db.execute("INSERT OR IGNORE INTO named VALUES (?)", (number,))
    elif count := _count(record):
        found.counted.setdefault(*count)


def _insert(db: sqlite3.Connection, seq: int | None, row: _Row, found: Salvaged) -> bool:
    """Add a row unless its id is there; returns whether it was added."""
    if not db.execute("INSERT OR IGNORE INTO present VALUES (?, 1)", row[:1]).rowcount:
        db.execute("UPDATE present SET read = 1 WHERE id = ?", row[:1])
        found.there += 1
        return False
    given = "SELECT 1 FROM rows WHERE seq = ?"
    if seq is not None and (seq not in _NUMBERS or db.execute(given, (seq,)).fetchone()):
        seq = None
    db.execute("INSERT INTO rows (seq, id, kind, tier, body) VALUES (?, ?, ?, ?, ?)", (seq, *row))
    found.rows[row[1]] = found.rows.get(row[1], 0) + 1
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
        if not content.shadow_of and content.position + 1 in _NUMBERS:
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


def _stands_among_rows(record: Record) -> bool:
    """Of the same length is what describes a table or an index, which begins with its kind."""
    return (
        record.rowid is not None
        and len(record.values) == 5
        and record.values[0] not in ("table", "index", "trigger", "view")
    )


def _row(record: Record, keyring: Keyring) -> tuple[_Row, Result | Review | Drop | None]:
    """A row and what its body says, None where its key is absent. While the body is whole the rest
    can be made again of it, under a new id where the old one is damaged; not what is sealed, for
    that opens under its id alone.

    Raises:
        ValueError: the body is damaged.
    """
    _, identity, kind, tier, body = record.values
    identity, kind = _text(identity), _text(kind)
    body = body.encode() if isinstance(body, str) else body
    if not isinstance(body, bytes):
        raise ValueError("no body")
    content: Result | Review | Drop | None = None
    known, named = kind in DECODERS, ID.fullmatch(identity) is not None
    for likely in cast("list[Kind]", [kind] if known else list(DECODERS)):
        with suppress(BadSeal, msgspec.MsgspecError, UnicodeDecodeError):
            try:
                content = DECODERS[likely].decode(keyring.open(body, likely, identity))
            except KeyAbsent as exc:
                if not known or not named:
                    raise ValueError("nobody knows what it is") from exc
            break
    else:
        raise ValueError("no record")
    if content is not None and not named:
        made_at = content.made_at if 0 <= content.made_at < _LATEST else 0.0
        identity = _made_id(first_id_of(made_at), f"{identity} {body.hex()}")
    if not isinstance(tier, int) or not 0 <= tier < len(TIERS):
        tier = TIERS.index(content.tier if isinstance(content, Result) else Tier.ROUTINE)
    return (identity, likely, tier, body), content


def _text(value: Value) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _review(record: Record, keyring: Keyring) -> Review | None:
    """One that is kept for the bedside; the row with it may have been delivered."""
    if record.rowid is None or len(record.values) != 2 or not isinstance(record.values[1], bytes):
        return None
    try:
        body = keyring.open(record.values[1], "kept review", str(record.rowid))
        return msgspec.json.decode(body, type=Review)
    except (KeyAbsent, BadSeal, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _is_question(record: Record) -> bool:
    # Fewer where it was put before schema 6, or 7.
    return record.rowid is not None and len(record.values) in (10, 12, 13)


def _question(record: Record) -> tuple[str, str | bytes | None] | None:
    """The result that is still asked about, provisional, and its label, which may be sealed."""
    _, result, label, state, _, _, _, _, _, size = record.values[:10]
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


def _named(record: Record) -> int | None:
    """The number of a row in the index of tiers. Of questions that are kept another index has such
    entries, with 0 before the number, but those questions are there to be read."""
    if record.rowid is not None or len(record.values) != 3:
        return None
    tier, number, rowid = record.values
    if tier not in range(len(TIERS)) or not isinstance(number, int) or number != rowid:
        return None
    return number if number in _NUMBERS else None


def _count(record: Record) -> tuple[str, int] | None:
    """A tier and how many rows of it wait."""
    if record.rowid not in range(len(TIERS)) or len(record.values) != 3:
        return None
    first, count, size = record.values
    if first is not None or not isinstance(count, int) or not isinstance(size, int):
        return None
    return str(record.rowid), count


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
    identity = _made_id(result[:13], result)
    body = keyring.seal(msgspec.json.encode(review), "review", identity)
    return identity, "review", TIERS.index(Tier.ROUTINE), body


def _made_id(moment: str, about: str) -> str:
    """A UUIDv7 of that moment, the same whenever it is made of the same."""
    digest = hashlib.sha256(f"salvaged {about}".encode()).hexdigest()
    return f"{moment}-7{digest[:3]}-8{digest[3:6]}-{digest[6:18]}"
