"""How a queue stands: what waits in it, read without changing anything."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from edgeclin.errors import BadFile, QueueUnusable
from edgeclin.offline_queue import schema
from edgeclin.offline_queue.keyring import NO_KEYS, Keyring
from edgeclin.offline_queue.quarantine import damage_alarms
from edgeclin.offline_queue.rows import TIERS, Row, damaged_text, stored_at
from edgeclin.records import Tier

_FULL_DISK = 128 << 10
_SALVAGE = "`edgeclin queue salvage` sets it aside and takes over what it holds"
Query: TypeAlias = Callable[[str], "list[tuple[Any, ...]]"]
"""Runs one SELECT and returns all of its rows."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Rows and bytes that wait."""

    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class WaitingRow:
    """A row, its tier, and why it is not sent; empty where it is."""

    tier: Tier
    row: Row
    set_aside: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """One moment of a queue.

    Attributes:
        last_seq: the newest sequence number ever given in this epoch.
        waiting: usage by tier, under `questions` what still waits for an opinion, and under
            `spare` the confident answers about which is asked while the link is free.
        oldest_at: when the first row of each tier that waits was stored, in seconds since 1970 by
            the device's clock of then.
        set_aside: rows among them that the broker or the cloud does not take.
        sealed: rows among them by the id of the key that opens them; others are plain.
        absent: rows among them whose key is not there, so that they cannot be sent.
        damage: of damaged queues that not all was taken over, each in a sentence.
    """

    epoch: str
    last_seq: int
    waiting: dict[str, Usage]
    oldest_at: dict[str, float]
    sealed: dict[str, int]
    set_aside: int = 0
    absent: int = 0
    damage: tuple[str, ...] = ()

    def refusal_alarm(self) -> str:
        """That rows cannot be delivered, in a sentence; empty when all can."""
        if not self.set_aside:
            return ""
        return f"{self.set_aside} rows cannot be delivered: `edgeclin queue list` says why"

    def absent_alarm(self) -> str:
        """That rows cannot be opened, in a sentence; empty when all can."""
        if not self.absent:
            return ""
        return f"{self.absent} rows wait for a key that is not there: put it back in queue.key"

    def oldest_s(self, now: float) -> dict[str, float]:
        """How long the first row of each tier has waited, as far as the clock can be trusted.

        Args:
            now: seconds since 1970.
        """
        return {tier: max(now - at, 0.0) for tier, at in self.oldest_at.items()}

    def urgent_alarm(self, most_s: float, now: float) -> str:
        """That an urgent row has waited longer than that for the cloud, in a sentence; empty when
        none has, or `most_s` is 0."""
        waited = self.oldest_s(now).get(Tier.URGENT.value, 0.0)
        if not most_s or waited < most_s:
            return ""
        return f"an urgent result has waited {waited / 60:.0f} minutes for the cloud"


def standing(query: Query, path: Path, keyring: Keyring) -> Standing:
    """How the queue at `path` stands, that `query` reads.

    Raises:
        QueueUnusable: it is damaged.
    """
    epochs = query("SELECT value FROM meta WHERE key = 'epoch'")
    newest = query("SELECT seq FROM sqlite_sequence WHERE name = 'rows'")
    names = [*(tier.value for tier in TIERS), "questions", "spare"]
    rows = query("SELECT tier, count, bytes FROM usage ORDER BY tier")
    if len(epochs) != 1 or [row[0] for row in rows] != list(range(len(names))):
        raise QueueUnusable(f"{path}: damaged, its epoch or a count is gone; {_SALVAGE}")
    first = {
        tier.value: query(f"SELECT id FROM rows WHERE tier = {number} ORDER BY seq LIMIT 1")
        for number, tier in enumerate(TIERS)
    }
    ((set_aside,),) = query("SELECT COUNT(*) FROM set_aside")
    sealed: dict[str, int] = dict(query("SELECT key, count FROM sealed WHERE count > 0"))
    return Standing(
        set_aside=set_aside,
        sealed=sealed,
        absent=sum(count for key, count in sealed.items() if key not in keyring),
        damage=damage_alarms(path),
        epoch=epochs[0][0],
        last_seq=newest[0][0] if newest else 0,
        waiting={names[tier]: Usage(count, size) for tier, count, size in rows},
        oldest_at={
            tier: at
            for tier, found in first.items()
            if found and (at := stored_at(found[0][0])) is not None
        },
    )


def look(path: Path, keyring: Keyring = NO_KEYS) -> Standing:
    """How the queue at `path` stands; raises as `looking` does."""
    with looking(path) as connection:
        return standing(lambda select: connection.execute(select).fetchall(), path, keyring)


def disk_alarm(path: Path) -> str:
    """That the disk of the queue at `path` is full or read-only, in a sentence; empty while it is
    neither. `run` may not be able to say so itself."""
    if schema.is_read_only(path):
        return f"the disk of {path} is read-only: nothing can be stored"
    free = shutil.disk_usage(path.parent).free
    if free >= _FULL_DISK:
        return ""
    return f"the disk of {path} is full, {free // 1024} kB are free: nothing can be stored"


def remembered(path: Path, name: str) -> str | None:
    """What the queue at `path` keeps under a name; raises as `looking` does."""
    with looking(path) as connection:
        row = connection.execute("SELECT value FROM meta WHERE key = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def waiting(
    path: Path, tiers: Collection[Tier] = TIERS, keyring: Keyring = NO_KEYS
) -> Iterator[WaitingRow]:
    """The rows of the queue at `path` that wait for their receipt, oldest first; raises as
    `looking` does."""
    numbers = [TIERS.index(tier) for tier in tiers]
    marks = ", ".join("?" for _ in numbers)
    with looking(path) as connection:
        rows = connection.execute(
            # With `+` in the order of the table: the index would have all of it sorted first.
            f"""
            SELECT rows.seq, tier, CAST(id AS TEXT), CAST(kind AS TEXT), body, coalesce(reason, '')
            FROM rows LEFT JOIN set_aside USING (seq)
            WHERE +tier IN ({marks}) ORDER BY rows.seq
            """,
            numbers,
        )
        for seq, tier, identity, kind, body, reason in rows:
            row = Row.opened(keyring, seq, identity, kind, body)
            yield WaitingRow(TIERS[tier], row, reason)


@contextmanager
def looking(path: Path) -> Iterator[sqlite3.Connection]:
    """One moment of the queue at `path`, to read; changes nothing, beside the processes that use
    it.

    Raises:
        BadFile: no queue stands there.
        QueueUnusable: it is damaged, cannot be read, or is of another schema.
    """
    path = schema.real_path(path)
    try:
        schema.require_queue(path)
        if not path.exists() or not path.stat().st_size:
            raise BadFile(path, "no queue there yet", "`edgeclin run` makes it")
        name = f"file:{quote(str(path))}?{_mode(path)}"
        with closing(sqlite3.connect(name, uri=True, timeout=10)) as connection:
            connection.text_factory = damaged_text
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != schema.VERSION:
                raise QueueUnusable(
                    f"{path}: schema {version}, this edgeclin reads {schema.VERSION}; "
                    "`edgeclin run` brings an older one up to date"
                )
            yield connection
    except QueueUnusable:
        raise
    except (OSError, sqlite3.Error, UnicodeDecodeError) as exc:
        passing = isinstance(exc, OSError | sqlite3.OperationalError)
        damaged = not passing or "no such" in str(exc)
        hint = f"; {_SALVAGE}" if damaged else ""
        if full := disk_alarm(path):
            hint = f"; {full}"
        raise QueueUnusable(f"{path}: the queue cannot be read ({exc}){hint}") from exc


def _mode(path: Path) -> str:
    """SQLite makes a log to read it beside others; where it may not, nobody writes either."""
    if Path(f"{path}-wal").exists():
        return "mode=ro"
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return "mode=rw" if writable and not schema.is_read_only(path) else "immutable=1"
