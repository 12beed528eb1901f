"""What waits for its receipt."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from edgeclin.errors import BadSeal, KeyAbsent
from edgeclin.offline_queue.keyring import Keyring
from edgeclin.records import DECODERS, Drop, Result, Review, Tier

Kind: TypeAlias = Literal["result", "review", "drop"]

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Of a row: a UUID."""
TIERS = tuple(Tier)
"""A tier's index here is its number in the database."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row that waits for its receipt.

    Attributes:
        body: JSON; as it lies on the disk where that cannot be opened.
        absent_key: the id of the key that would open it and is not there; empty for all others.
    """

    seq: int
    id: str
    kind: Kind
    body: bytes
    absent_key: str = ""

    @classmethod
    def opened(cls, keyring: Keyring, seq: int, identity: str, kind: Kind, body: bytes) -> Row:
        """A row of the database; one that is damaged has no sound body."""
        try:
            return cls(seq, identity, kind, keyring.open(body, kind, identity))
        except KeyAbsent as exc:
            return cls(seq, identity, kind, body, exc.key)
        except BadSeal:
            return cls(seq, identity, kind, body)

    @property
    def record(self) -> Result | Review | Drop:
        """What its body says.

        Raises:
            ValueError: it is none of its kind, since a disk damaged it.
        """
        try:
            record: Result | Review | Drop = DECODERS[self.kind].decode(self.body)
            return record
        except (KeyError, TypeError, msgspec.MsgspecError) as exc:
            raise ValueError(f"row {self.seq} is damaged ({exc})") from exc

    @property
    def sound(self) -> bool:
        """Whether it can travel: one that a disk damaged would spoil the batch that it is in."""
        try:
            self.body.decode()
            msgspec.json.decode(self.body, type=msgspec.Raw)
        except (AttributeError, UnicodeDecodeError, msgspec.DecodeError):
            return False
        return self.kind in DECODERS and ID.fullmatch(str(self.id)) is not None


def damaged_text(data: bytes) -> str:
    """Text as SQLite gives it, also where a damaged disk left bytes that are none: whoever reads
    one row sees that, and can read the others."""
    return data.decode(errors="replace")


def stored_at(identity: str) -> float | None:
    """When a row was stored by the device's clock, in seconds since 1970: the first 48 bits of a
    UUIDv7 are milliseconds (RFC 9562). None where a damaged disk left no such id."""
    try:
        return int(identity.replace("-", "")[:12], 16) / 1000
    except ValueError:
        return None


def first_id_of(moment: float) -> str:
    """Below every id of a row that is stored at that moment or later."""
    milliseconds = f"{int(max(moment * 1000, 0)):012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}"


def insert_row(db: sqlite3.Connection, identity: str, kind: Kind, tier: Tier, body: bytes) -> int:
    """Add a row in an open transaction; returns its sequence number."""
    cursor = db.execute(
        "INSERT INTO rows (id, kind, tier, body) VALUES (?, ?, ?, ?)",
        (identity, kind, TIERS.index(tier), body),
    )
    return int(cursor.lastrowid or 0)
