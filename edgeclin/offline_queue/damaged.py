"""What can still be read of a damaged database: its records, page by page.

No tree is followed, so that a damaged page costs what stands on it and nothing else. The format is
https://www.sqlite.org/fileformat2.html; the queue's pages have 4,096 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Value: TypeAlias = "int | float | str | bytes | None"


class Bytes(Protocol):
    """What can be read a stretch at a time; where it cannot be read, a stretch is empty."""

    def __len__(self) -> int: ...

    def __getitem__(self, stretch: slice, /) -> bytes: ...


PAGE = 4096
_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR, _TABLE_INTERIOR = 0x0D, 0x0A, 0x02, 0x05
_WITH_RECORDS = (_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR)
_CONTINUATION = 0
"""A page that goes on with a payload begins with the number of the next, of less than 24 bits."""
_MAPPED = PAGE // 5 + 1
"""Of so many pages the second maps the others."""
_SPARED = 35
"""Bytes of a page that a table's cell leaves to others."""
_LEAST = (PAGE - 12) * 32 // 255 - 23
_MOST_TABLE, _MOST_INDEX = PAGE - _SPARED, (PAGE - 12) * 64 // 255 - 23
_MOST_PAYLOAD = 1 << 24
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Serial types, and how many bytes each takes."""
_LOG_HEADER, _FRAME_HEADER = 32, 24
_LITTLE, _BIG = 0x377F0682, 0x377F0683
_BROKEN = (IndexError, ValueError, struct.error)


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a table, or one entry of an index or of a table without row ids.

    Attributes:
        rowid: None in an index; the column that stands for it is None among the values.
    """

    rowid: int | None
    values: tuple[Value, ...]


class DamagedDatabase:
    """The bytes of a database and of its write-ahead log, as they lie on the disk.

    Attributes:
        unreadable: pages that cannot be any, and records that cannot be read.
    """

    def __init__(self, database: Bytes, log: bytes = b"") -> None:
        self._database, self._log = database, log
        self._newer = _committed(log)
        self._count = max([-(-len(database) // PAGE), *self._newer])
        self._chained: set[int] = set()
        self.unreadable = 0

    def records(self) -> Iterator[Record]:
        """Every record that can be read of pages that are in use, as far as the file says which."""
        free, continuations = self._free(), set[int]()
        for number in range(1, self._count + 1):
            page = self._page(number)
            if number in free or number % _MAPPED == 2:
                continue
            start = 100 if number == 1 else 0
            kind = page[start] if len(page) == PAGE else None
            if kind in _WITH_RECORDS:
                yield from self._cells(page, start, kind)
            elif kind == _CONTINUATION:
                continuations.add(number)
            elif kind != _TABLE_INTERIOR:
                self.unreadable += 1
        self.unreadable += len(continuations - self._chained)

    def _cells(self, page: bytes, start: int, kind: int) -> Iterator[Record]:
        (count,) = struct.unpack_from(">H", page, start + 3)
        first = start + (12 if kind == _INDEX_INTERIOR else 8)
        for place in range(first, min(first + 2 * count, PAGE - 1), 2):
            try:
                (at,) = struct.unpack_from(">H", page, place)
                yield self._cell(page, at, kind)
            except _BROKEN:
                self.unreadable += 1

    def _cell(self, page: bytes, at: int, kind: int) -> Record:
        if kind == _INDEX_INTERIOR:
            at += 4  # the number of the child's page
        size, at = _varint(page, at)
        rowid = None
        if kind == _TABLE_LEAF:
            rowid, at = _varint(page, at)
        if not 0 < size < _MOST_PAYLOAD:
            raise ValueError("no size of a payload")
        most = _MOST_TABLE if kind == _TABLE_LEAF else _MOST_INDEX
        return Record(rowid, _values(self._payload(page, at, size, most)))

    def _payload(self, page: bytes, at: int, size: int, most: int) -> bytes:
        """What of a payload is on the page, and the rest from the chain of pages behind it."""
        local = size
        if size > most:
            local = _LEAST + (size - _LEAST) % (PAGE - 4)
            local = local if local <= most else _LEAST
        parts = [page[at : at + local]]
        missing, link = size - local, page[at + local : at + local + 4]
        while missing > 0:
            number = int.from_bytes(link, "big")
            rest = self._page(number)
            parts.append(rest[4 : 4 + missing])
            if not parts[-1]:
                raise ValueError("a chain of pages that ends early")
            self._chained.add(number)
            missing, link = missing - len(parts[-1]), rest[:4]
        payload = b"".join(parts)
        if len(payload) != size:
            raise ValueError("a payload that is cut")
        return payload

    def _page(self, number: int) -> bytes:
        if number in self._newer:
            at = self._newer[number]
            return self._log[at : at + PAGE]
        return self._database[(number - 1) * PAGE : number * PAGE] if number else b""

    def _free(self) -> set[int]:
        """Pages that the file's own list gives as free: what stands there was deleted."""
        head, free = self._page(1), set[int]()
        try:
            (trunk,) = struct.unpack_from(">I", head, 32)
            while trunk:
                page = self._page(trunk)
                following, count = struct.unpack_from(">II", page, 0)
                listed = struct.unpack_from(f">{count}I", page, 8)
                if trunk in free or not all(0 < one <= self._count for one in listed):
                    raise ValueError("no page of the list")
                free |= {trunk, *listed}
                trunk = following
        except _BROKEN:
            self.unreadable += 1
        return free


def _committed(log: bytes) -> dict[int, int]:
    """Where the newest committed version of each page lies in a write-ahead log."""
    found: dict[int, int] = {}
    try:
        magic, _, size, _, *salts, one, two = struct.unpack_from(">8I", log, 0)
    except struct.error:
        return found
    order = {_LITTLE: "<", _BIG: ">"}.get(magic)
    if order is None or size != PAGE or _checksum(log[:24], order, 0, 0) != (one, two):
        return found
    pending: dict[int, int] = {}
    for at in range(_LOG_HEADER, len(log) - PAGE - _FRAME_HEADER + 1, PAGE + _FRAME_HEADER):
        number, commit, *theirs, first, second = struct.unpack_from(">6I", log, at)
        body = at + _FRAME_HEADER
        one, two = _checksum(log[at : at + 8], order, one, two)
        one, two = _checksum(log[body : body + PAGE], order, one, two)
        if theirs != salts or (one, two) != (first, second):
            break
        pending[number] = body
        if commit:
            found.update(pending)
            pending.clear()
    return found


def _checksum(data: bytes, order: str, one: int, two: int) -> tuple[int, int]:
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for at in range(0, len(words), 2):
        one = (one + words[at] + two) & 0xFFFFFFFF
        two = (two + words[at + 1] + one) & 0xFFFFFFFF
    return one, two


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, as a signed one, and where the next thing begins."""
    value = 0
    for used in range(9):
        byte = data[at + used]
        if used == 8:
            value = value << 8 | byte
            break
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return value - (1 << 64) if value >> 63 else value, at + used + 1


def _values(payload: bytes) -> tuple[Value, ...]:
    header, at = _varint(payload, 0)
    if not 0 < header <= len(payload):
        raise ValueError("no header of a record")
    kinds, place = [], header
    while at < header:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values: list[Value] = []
    for kind in kinds:
        value, place = _value(payload, place, kind)
        values.append(value)
    if place != len(payload):
        raise ValueError("a record of another length")
    return tuple(values)


def _value(payload: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind == 7:
        return struct.unpack_from(">d", payload, at)[0], at + 8
    size = _INTEGERS.get(kind, (kind - 12) // 2)
    content = payload[at : at + size]
    if kind in (10, 11) or kind < 0 or len(content) != size:
        raise ValueError("no type of a value")
    if kind in _INTEGERS:
        return int.from_bytes(content, "big", signed=True), at + size
    return (content.decode() if kind % 2 else content), at + size
