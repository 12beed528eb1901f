"""Rows of a queue in one message, and as columns on the wire."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, TypeAlias

import msgspec

from edgeclin import wire
from edgeclin.columns import MOST_CELLS, Column, column, pack, unpack
from edgeclin.config import MOST_ROW_BYTES, MOST_ROWS
from edgeclin.errors import BadMessage
from edgeclin.records import Record

Kind: TypeAlias = Literal["result", "review", "drop"]
_KINDS: tuple[Kind, ...] = ("result", "review", "drop")
_UUID = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4}-[0-9a-f]{12})")
_REST = re.compile(r"[0-9a-f]{4}-[0-9a-f]{12}")
_MOST_SEQ = 2**63 - 1


class Item(Record, frozen=True):
    """One queue row in a batch; `body` is the JSON of a Result, Review or Drop."""

    seq: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    id: str
    kind: Literal["result", "review", "drop"]
    body: msgspec.Raw


class Batch(Record, frozen=True):
    """Rows of one device and epoch, in the order of their sequence numbers; they travel as
    `PackedBatch`."""

    epoch: str
    items: tuple[Item, ...]


def encode(batch: Batch) -> bytes:
    """A batch as bytes for the wire."""
    tables: list[wire.Table] = []
    for kind in _KINDS:
        members = [item for item in batch.items if item.kind == kind]
        for indices, bodies in pack([msgspec.json.decode(item.body) for item in members]):
            rows = [members[index] for index in indices]
            heads = {"seq": column([item.seq for item in rows]), **_ids([one.id for one in rows])}
            tables.append(wire.Table(kind, len(rows), heads, bodies))
    return wire.encode(wire.PackedBatch(epoch=batch.epoch, tables=tuple(tables)))


def decode(data: bytes) -> Batch:
    """Bytes from the wire as a batch, in the order of its sequence numbers.

    Raises:
        BadMessage: as `wire.decode` does; or columns that do not fit, or are of too many rows.
    """
    packed = wire.decode(data, wire.PackedBatch)
    cells = sum(table.count * max(len(table.bodies), 1) for table in packed.tables)
    if cells > MOST_CELLS:
        raise BadMessage(f"a batch of {cells} values; this reads {MOST_CELLS}")
    count = sum(table.count for table in packed.tables)
    if count > MOST_ROWS:
        raise BadMessage(f"a batch of {count} rows; this reads {MOST_ROWS}")
    items: list[Item] = []
    size = 0
    for item in (item for table in packed.tables for item in _items(table)):
        size += len(bytes(item.body))
        if size > MOST_ROW_BYTES:
            raise BadMessage(f"a batch of more than {MOST_ROW_BYTES} bytes of rows")
        items.append(item)
    return Batch(packed.epoch, tuple(sorted(items, key=lambda item: item.seq)))


def _items(table: wire.Table) -> Iterator[Item]:
    bodies = unpack(table.bodies, table.count)
    try:
        seqs = table.heads["seq"].values(table.count)
    except KeyError as exc:
        raise BadMessage("a table without numbers of its rows") from exc
    if not all(type(seq) is int and 0 <= seq <= _MOST_SEQ for seq in seqs):
        raise BadMessage("a number of a row that is none")
    for seq, identity, body in zip(seqs, _identities(table), bodies, strict=True):
        yield Item(seq, identity, table.kind, msgspec.Raw(msgspec.json.encode(body)))


def _ids(identities: Sequence[str]) -> dict[str, Column]:
    """Ids as columns: of a UUIDv7 time and counter go on from row to row (RFC 9562, 5.7)."""
    parts = [_UUID.fullmatch(identity) for identity in identities]
    found = [part.groups() for part in parts if part is not None]
    if len(found) < len(parts):
        return {"id": column(identities)}
    return {
        "time": column([int(high + low, 16) for high, low, _, _ in found]),
        "counter": column([int(counter, 16) for _, _, counter, _ in found]),
        "rest": column([rest for _, _, _, rest in found]),
    }


def _identities(table: wire.Table) -> Sequence[str]:
    heads, count = table.heads, table.count
    names = ("id",) if "id" in heads else ("time", "counter", "rest")
    try:
        columns = [heads[name].values(count) for name in names]
    except KeyError as exc:
        raise BadMessage("a table without ids of its rows") from exc
    if len(names) == 1:
        if not all(isinstance(one, str) and len(one) <= wire.MOST_ID for one in columns[0]):
            raise BadMessage("an id of a row that is none")
        return columns[0]
    return [_uuid(*parts) for parts in zip(*columns, strict=True)]


def _uuid(moment: object, counter: object, rest: object) -> str:
    if (
        type(moment) is int
        and 0 <= moment < 1 << 48
        and type(counter) is int
        and 0 <= counter < 1 << 16
        and isinstance(rest, str)
        and _REST.fullmatch(rest)
    ):
        time = f"{moment:012x}"
        return f"{time[:8]}-{time[8:]}-{counter:04x}-{rest}"
    raise BadMessage("an id of a row that is none")
