"""Whether a queue's tables hold together: of SQLite's checks none knows what they mean."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

_EPOCH = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_COUNTED = """
    SELECT tier, COUNT(*) FROM rows GROUP BY tier
    UNION ALL SELECT 3 + spare, COUNT(*) FROM questions WHERE bytes > 0 GROUP BY spare
"""
"""From indexes alone; what each row takes would be to read all of them, a second for a million."""
_MOST_ASK = 1 << 28
_TABLES = ("rows", "questions", "positions", "usage", "reviews", "set_aside", "sealed")


def require_epoch(connection: sqlite3.Connection) -> None:
    """Refuse a queue that has no epoch, or lacks a table.

    Raises:
        sqlite3.DatabaseError: it is so.
    """
    query = "SELECT value FROM meta WHERE key = 'epoch'"
    with _reading(connection):
        epochs = connection.execute(query).fetchall()
        for table in _TABLES:
            connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()
    if [bool(_EPOCH.fullmatch(str(epoch))) for (epoch,) in epochs] != [True]:
        raise sqlite3.DatabaseError("its epoch is damaged")


def require_counts(connection: sqlite3.Connection) -> None:
    """Refuse a queue whose counts are not those of its rows.

    Raises:
        sqlite3.DatabaseError: says which.
    """
    with _reading(connection):
        usage = connection.execute("SELECT tier, count, bytes FROM usage").fetchall()
        counted = dict.fromkeys(range(5), 0) | dict(connection.execute(_COUNTED).fetchall())
        ((size,),) = connection.execute(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        )
    if {tier: count for tier, count, _ in usage} != counted:
        raise sqlite3.DatabaseError("its counts are not those of its rows")
    for tier, count, taken in usage:
        most = size if tier < 3 else count * _MOST_ASK
        if not isinstance(taken, int) or not count <= taken <= most:
            raise sqlite3.DatabaseError("its rows cannot take what it says")


@contextmanager
def _reading(connection: sqlite3.Connection) -> Iterator[None]:
    """One moment; a table that is not there is damage."""
    try:
        connection.execute("BEGIN")
        yield
        connection.execute("COMMIT")
    except sqlite3.OperationalError as exc:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if "no such" not in str(exc):
            raise
        raise sqlite3.DatabaseError(str(exc)) from exc
