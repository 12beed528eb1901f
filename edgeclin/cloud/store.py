"""Every result once: a hot index in SQLite, and Parquet partitioned by day and site.

`add` makes a batch durable before it returns; only then may a receipt be sent. `compact` moves
hot rows into Parquet files, which the index lists: a file that it does not list was left by a
crash and holds nothing that is not still hot. Several processes may share one store.
"""

from __future__ import annotations

import hashlib
import io
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from edgeclin import batches, wire
from edgeclin.cloud.database import Database, alone
from edgeclin.cloud.inputs import Inputs
from edgeclin.cloud.tables import SCHEMAS, Table, flatten, require_record
from edgeclin.errors import BadFile, MissingExtra, StoreUnusable
from edgeclin.files import reading, sync_directory, write_atomic

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as exc:
    raise MissingExtra("pyarrow, which the store writes Parquet with,", "cloud") from exc

_SCHEMA = """
CREATE TABLE IF NOT EXISTS ids (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hot (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT NOT NULL,
    site        TEXT NOT NULL,
    device      TEXT NOT NULL,
    epoch       TEXT NOT NULL,
    seq         INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    received_at REAL NOT NULL,
    body        BLOB NOT NULL
);
-- What cannot be read as what it says it is: kept, receipted, and left for a person.
CREATE TABLE IF NOT EXISTS set_aside (
    id TEXT PRIMARY KEY, site TEXT, device TEXT, epoch TEXT, seq INTEGER,
    kind TEXT, received_at REAL, body BLOB, reason TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (
    path TEXT PRIMARY KEY, kind TEXT NOT NULL, rows INTEGER NOT NULL, sha256 TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS watermarks (
    site TEXT, device TEXT, epoch TEXT, seq INTEGER NOT NULL,
    PRIMARY KEY (site, device, epoch)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS statuses (
    site TEXT, device TEXT, topic TEXT, received_at REAL NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (site, device, topic)
) WITHOUT ROWID;
"""
_PARAMETERS = 500
_HOT = ("number", "id", "site", "device", "epoch", "seq", "kind", "received_at", "body")


@dataclass(frozen=True, slots=True)
class Added:
    """What one batch brought: rows stored now, rows that were there, rows set aside."""

    stored: int
    duplicates: int
    set_aside: int


class Store:
    """One store folder.

    Attributes:
        inputs: questions that came in parts.

    Raises:
        StoreUnusable: the folder cannot be made or the index is not a database; also from every
            method, when the disk is full or fails. What was added before stays, and a call that
            failed has changed nothing.
    """

    def __init__(self, folder: Path | str, clock: Callable[[], float] = time.time) -> None:
        self.folder = Path(folder)
        self._clock = clock
        self._index = Database(self.folder / "index.sqlite", b"ecls", _SCHEMA)
        self.inputs = Inputs(self.folder, clock)

    def add(self, topics: wire.Topics, batch: batches.Batch) -> Added:
        """Store each id of a batch once; durable when this returns."""
        now = self._clock()
        good: list[tuple[Any, ...]] = []
        bad: list[tuple[Any, ...]] = []
        with self._index.transaction() as db:
            known = _known(db, [item.id for item in batch.items])
            for item in batch.items:
                if item.id in known:
                    continue
                known.add(item.id)
                row = (
                    item.id, topics.site, topics.device, batch.epoch, item.seq, item.kind, now,
                    bytes(item.body),
                )  # fmt: skip
                problem = _problem(item)
                if problem:
                    bad.append((*row, problem))
                else:
                    good.append(row)
            db.executemany("INSERT INTO ids (id) VALUES (?)", [row[:1] for row in (*good, *bad)])
            db.executemany("INSERT INTO set_aside VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", bad)
            db.executemany(
                """
                INSERT INTO hot (id, site, device, epoch, seq, kind, received_at, body)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?)
                """,
                good,
            )
            if batch.items:
                db.execute(
                    """
                    INSERT INTO watermarks (site, device, epoch, seq) VALUES (?, ?, ?, ?)
                        ON CONFLICT DO UPDATE SET seq = MAX(seq, excluded.seq)
                    """,
                    (topics.site, topics.device, batch.epoch, max(i.seq for i in batch.items)),
                )
        return Added(len(good), len(batch.items) - len(good) - len(bad), len(bad))

    def add_status(self, topics: wire.Topics, topic: str, status: wire.Status) -> None:
        """Keep the latest status of a device under its topic."""
        with self._index.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO statuses VALUES (?, ?, ?, ?, ?)",
                (topics.site, topics.device, topic, self._clock(), msgspec.json.encode(status)),
            )

    def statuses(self) -> list[tuple[str, str, str, float, wire.Status]]:
        """The latest statuses: site, device, topic, when it arrived, what it said."""
        rows = self._index.all(
            "SELECT site, device, topic, received_at, body FROM statuses ORDER BY 1, 2, 3"
        )
        return [(*row[:4], msgspec.json.decode(row[4], type=wire.Status)) for row in rows]

    def compact(self) -> int:
        """Move all hot rows into Parquet; return how many. Safe to kill at any moment.

        Other threads and processes may `add` meanwhile.
        """
        with self._translated(), alone(self.folder):
            self._sweep()
            rows = self._hot()
            partitions: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
            for row in rows:
                key = (row["kind"], _day(row["received_at"]), row["site"])
                partitions.setdefault(key, []).append(row)
            parts = [self._write_part(*key, members) for key, members in partitions.items()]
            with self._index.transaction() as db:
                db.executemany(
                    "INSERT INTO parts (path, kind, rows, sha256) VALUES (?, ?, ?, ?)", parts
                )
                db.executemany("DELETE FROM hot WHERE number = ?", [(r["number"],) for r in rows])
        return len(rows)

    def tables(self) -> dict[str, Table]:
        """Every stored record by kind, hot and compacted, as of one moment.

        Raises:
            BadFile: a Parquet file that the index lists is damaged or gone.
        """
        with self._translated(), alone(self.folder):
            parts = self._index.all("SELECT path, kind, sha256 FROM parts ORDER BY path")
            hot = self._hot()
        found = {}
        for kind, schema in SCHEMAS.items():
            files = [
                _read_part(self.folder / path, schema, sha256)
                for path, k, sha256 in parts
                if k == kind
            ]
            fresh = _table(kind, [row for row in hot if row["kind"] == kind])
            found[kind] = pa.concat_tables([*files, fresh])
        return found

    def close(self) -> None:
        """Let go of the index and the inputs."""
        self._index.close()
        self.inputs.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What Parquet or the disk cannot do becomes StoreUnusable."""
        try:
            yield
        except StoreUnusable:
            raise
        except (OSError, pa.ArrowException) as exc:
            raise StoreUnusable(f"{self.folder}: the store cannot be used ({exc})") from exc

    def _hot(self) -> list[dict[str, Any]]:
        rows = self._index.all(f"SELECT {', '.join(_HOT)} FROM hot ORDER BY number")
        return [dict(zip(_HOT, row, strict=True)) for row in rows]

    def _write_part(
        self, kind: str, day: str, site: str, rows: list[dict[str, Any]]
    ) -> tuple[str, str, int, str]:
        """Path, kind, rows and SHA-256 of a new file of rows."""
        path = Path(kind) / f"day={day}" / f"site={site}" / f"{uuid.uuid4()}.parquet"
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        pq.write_table(_table(kind, rows), buffer, compression="zstd")
        data = buffer.getvalue()
        write_atomic(target, data)
        for parent in path.parents:
            sync_directory(self.folder / parent)
        return str(path), kind, len(rows), hashlib.sha256(data).hexdigest()

    def _sweep(self) -> None:
        listed = {path for (path,) in self._index.all("SELECT path FROM parts")}
        for kind in SCHEMAS:
            for file in (self.folder / kind).rglob("*.parquet"):
                if str(file.relative_to(self.folder)) not in listed:
                    file.unlink()


def _known(db: sqlite3.Connection, ids: list[str]) -> set[str]:
    """Which of these were stored before."""
    found: set[str] = set()
    for start in range(0, len(ids), _PARAMETERS):
        some = ids[start : start + _PARAMETERS]
        marks = ", ".join("?" * len(some))
        found.update(
            one for (one,) in db.execute(f"SELECT id FROM ids WHERE id IN ({marks})", some)
        )
    return found


def _problem(item: batches.Item) -> str | None:
    try:
        require_record(item.kind, bytes(item.body))
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        return str(exc)
    return None


def _read_part(path: Path, schema: Any, sha256: str) -> Table:
    with reading(path):
        data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BadFile(path, "its bytes are not those that were written", "put back a copy of it")
    return pq.read_table(pa.BufferReader(data), schema=schema)


def _table(kind: str, rows: list[dict[str, Any]]) -> Table:
    records = [{**row, **flatten(kind, row["body"])} for row in rows]
    return pa.Table.from_pylist(records, schema=SCHEMAS[kind])


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=timezone.utc).date().isoformat()
