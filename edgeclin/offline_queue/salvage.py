"""What a damaged queue still holds, taken over into the one that takes its place."""

from __future__ import annotations

import hashlib
import mmap
import re
import sqlite3
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edgeclin.offline_queue.damaged import Bytes, DamagedDatabase, Record
from edgeclin.offline_queue.rows import TIERS
from edgeclin.records import Drop, Result, Review, State, Tier

_KINDS: dict[Any, type[Result | Review | Drop]] = {"result": Result, "review": Review, "drop": Drop}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BUNDLE = re.compile(r"|[0-9a-f]{64}|whole|windows of .*")
"""What positions are kept by; see `Preprocess.cut` too."""


@dataclass(slots=True)
class Salvaged:
    """What was taken over.

    Attributes:
        rows: by kind; those that had been delivered already are told apart by the cloud.
        unreviewed: answers that waited for an opinion: nobody asks any more, so a person must look.
        positions: of sources, which go on there.
        unreadable: pages and records that nothing could be made of.
    """

    rows: Counter[str] = field(default_factory=Counter)
    unreviewed: int = 0
    positions: int = 0
    unreadable: int = 0

    def __str__(self) -> str:
        rows = ", ".join(f"{count} {kind}s" for kind, count in sorted(self.rows.items()))
        return (
            f"{rows or 'no rows'}, of which {self.unreviewed} say of answers that waited for an "
            f"opinion that a person must look; {self.positions} positions; {self.unreadable} pages "
            "or records are unreadable"
        )


def is_salvaged(aside: Path, db: sqlite3.Connection) -> bool:
    """Whether that database was taken over already."""
    known = db.execute("SELECT 1 FROM meta WHERE key = 'salvaged' AND value = ?", (aside.name,))
    return known.fetchone() is not None


def salvage(aside: Path, db: sqlite3.Connection, now: float) -> Salvaged:
    """Take over what the damaged database at `aside` and its log still hold, in one transaction.

    Ids stay what they are, so that the cloud stores nothing twice; sequence numbers are those of
    the new epoch, in the old order. What is there already is left alone.

    Args:
        now: seconds since 1970, of the reviews that are made.

    Raises:
        sqlite3.Error, OSError: nothing was taken over.
    """
    found = Salvaged()
    with ExitStack() as stack:
        files = [_mapped(Path(f"{aside}{suffix}"), stack) for suffix in ("", "-wal")]
        damaged = DamagedDatabase(*files)
        rows: dict[int, tuple[str, str, int, bytes]] = {}
        asked: dict[str, str | None] = {}
        positions: dict[tuple[str, str], int] = {}
        for record in damaged.records():
            if row := _row(record):
                rows[record.rowid or 0] = row
            elif question := _question(record):
                asked.update([question])
            elif position := _position(record):
                source, bundle, following = position
                known = positions.get((source, bundle), 0)
                positions[source, bundle] = max(known, following)
        found.unreadable = damaged.unreadable
    reviewed = {
        msgspec.json.decode(body, type=Review).result
        for _, kind, _, body in rows.values()
        if kind == "review"
    }
    db.execute("BEGIN IMMEDIATE")
    try:
        present = {one for (one,) in db.execute("SELECT id FROM rows")}
        old = [row for _, row in sorted(rows.items())]
        new = [_unreviewed(*one, now) for one in asked.items() if one[0] not in reviewed]
        for row in (*old, *new):
            if row[0] not in present:
                db.execute("INSERT INTO rows (id, kind, tier, body) VALUES (?, ?, ?, ?)", row)
                found.rows[row[1]] += 1
        found.unreviewed = len(new)
        for (source, bundle), following in positions.items():
            db.execute(
                """
                INSERT INTO positions (source, bundle, next) VALUES (?, ?, ?)
                    ON CONFLICT DO UPDATE SET next = MAX(next, excluded.next)
                """,
                (source, bundle, following),
            )
            found.positions += 1
        db.execute("INSERT OR REPLACE INTO meta VALUES ('salvaged', ?)", (aside.name,))
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    return found


def _mapped(path: Path, stack: ExitStack) -> Bytes:
    """A file's bytes without reading them into memory; none where there is no file."""
    if not path.exists() or not path.stat().st_size:
        return b""
    file = stack.enter_context(path.open("rb"))
    mapped = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return stack.enter_context(memoryview(mapped))


def _row(record: Record) -> tuple[str, str, int, bytes] | None:
    """Id, kind, tier and body, where it is such a row and what it holds is what it says."""
    if record.rowid is None or len(record.values) != 5:
        return None
    _, identity, kind, tier, body = record.values
    if not isinstance(identity, str) or not _UUID.fullmatch(identity) or kind not in _KINDS:
        return None
    if not isinstance(tier, int) or not 0 <= tier < len(TIERS) or not isinstance(body, bytes):
        return None
    try:
        msgspec.json.decode(body, type=_KINDS[kind])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return identity, str(kind), tier, body


def _question(record: Record) -> tuple[str, str | None] | None:
    """The result that is still asked about, provisional, and its label."""
    if record.rowid is None or len(record.values) != 10:
        return None
    _, result, label, state, *_, size = record.values
    if not isinstance(result, str) or not _UUID.fullmatch(result) or not size:
        return None
    if state != State.PROVISIONAL.value or not isinstance(label, str | None):
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


def _unreviewed(result: str, label: str | None, now: float) -> tuple[str, str, int, bytes]:
    """The row that says so; its id, a UUIDv7 of the result's time, is the same whenever it is made,
    so that it counts once."""
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
    return identity, "review", TIERS.index(Tier.ROUTINE), msgspec.json.encode(review)
