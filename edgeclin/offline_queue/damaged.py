"""What can still be read of a damaged database: its records, page by page.

No tree is followed, so that a damaged page costs what stands on it and nothing else. The format is
https://www.sqlite.org/fileformat2.html; the queue's pages have 4,096 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from edgeclin.offline_queue.disk_bytes import Bytes
from edgeclin.offline_queue.write_ahead_log import PAGE, WriteAheadLog

Value: TypeAlias = "int | float | str | bytes | None"

_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR, _TABLE_INTERIOR = 0x0D, 0x0A, 0x02, 0x05
_LEAF_OF = {_TABLE_INTERIOR: _TABLE_LEAF, _INDEX_INTERIOR: _INDEX_LEAF}
_HEADS = {_TABLE_LEAF: 8, _INDEX_LEAF: 8, _TABLE_INTERIOR: 12, _INDEX_INTERIOR: 12}
"""Kinds of pages with cells, and the bytes before the places of those."""
_CONTINUATION = 0
"""A page that goes on with a payload begins with the number of the next, of less than 24 bits."""
_MAPPED = PAGE // 5 + 1
"""Of so many pages the second maps the others."""
_MAPS = range(1, 6)
_MAPS_FREE = 2
_SPARED = 35
"""Bytes of a page that a table's cell leaves to others."""
_LEAST = (PAGE - 12) * 32 // 255 - 23
_MOST_INDEX = (PAGE - 12) * 64 // 255 - 23
_MOST = {_TABLE_LEAF: PAGE - _SPARED, _INDEX_LEAF: _MOST_INDEX, _INDEX_INTERIOR: _MOST_INDEX}
"""Bytes of a payload that stand on the page itself."""
_LEAST_CELL = 4
_MOST_PAYLOAD = 1 << 24
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Serial types, and how many bytes each takes."""
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
        unreadable: pages that are damaged or cannot be any, and records that cannot be read.
    """

    def __init__(self, database: Bytes, log: Bytes = b"") -> None:
        self._database, self._log = database, log
        frames = WriteAheadLog(log)
        self._newer = frames.pages
        self._count = max([-(-len(database) // PAGE), frames.count, *self._newer])
        self._others = [self._other(*broken) for broken in frames.broken]
        self._chained: set[int] = set()
        self.unreadable = len(frames.broken) or int(frames.damaged)

    def _other(self, number: int, at: int) -> bytes:
        """Of a page that is damaged in the log and the one of its number that is whole take the
        newer as that page, and return the other: its number may be what is damaged."""
        if not 0 < number <= self._count or self._newer.get(number, 0) > at:
            return self._log[at : at + PAGE]
        whole = self._page(number)
        self._newer[number] = at
        return whole

    def records(self) -> Iterator[Record]:
        """Every record that can be read of pages that are in use, as far as the file says which,
        and of those that are damaged in the log."""
        free, continuations = self._free(), set[int]()
        for number in range(1, self._count + 1):
            page = self._page(number)
            if number in free or number % _MAPPED == 2:
                continue
            start = 100 if number == 1 else 0
            kind = page[start] if len(page) == PAGE else None
            if kind == _CONTINUATION:
                continuations.add(number)
            elif kind is None:
                self.unreadable += 1
            else:
                yield from self._of(page, start, kind)
        self.unreadable += len(continuations - self._chained)
        for page in self._others:
            before = self.unreadable
            if len(page) == PAGE:
                yield from self._of(page, 0, page[0])
            self.unreadable = before

    def _of(self, page: bytes, start: int, kind: int) -> Iterator[Record]:
        """The records of a page; of one that cannot be what it says those that a leaf would have,
        and then it counts as one that is unreadable."""
        if kind in _LEAF_OF and self._leads_on(page, start, kind):
            if kind == _INDEX_INTERIOR:
                yield from self._cells(page, start, kind)
        elif kind in _LEAF_OF.values():
            yield from self._cells(page, start, kind)
        else:
            before = self.unreadable
            yield from self._cells(page, start, _LEAF_OF.get(kind, _TABLE_LEAF))
            self.unreadable = before + 1

    def _cells(self, page: bytes, start: int, kind: int) -> Iterator[Record]:
        """The records of a page, and where its sums are wrong also those that it does not count."""
        first_free, count, lowest, loose = struct.unpack_from(">HHHB", page, start + 1)
        first, broken = start + _HEADS[kind], False
        used = lowest + loose + _free_bytes(page, first_free)
        for place in range(first, PAGE - 1, 2):
            counted = place < first + 2 * count
            if not counted and used == PAGE:
                break
            (at,) = struct.unpack_from(">H", page, place)
            try:
                if at <= place:
                    raise ValueError("no place of a cell")
                record, end = self._cell(page, at, kind)
            except _BROKEN:
                if not counted:
                    break
                self.unreadable += 1
                broken = True
            else:
                used += max(end - at, _LEAST_CELL)
                yield record
        if used != PAGE and not broken:
            self.unreadable += 1

    def _leads_on(self, page: bytes, start: int, kind: int) -> bool:
        """Whether all that an inner page leads to are pages."""
        (count,) = struct.unpack_from(">H", page, start + 3)
        first = start + _HEADS[kind]
        try:
            places = struct.unpack_from(f">{count}H", page, first)
            following = [struct.unpack_from(">I", page, at)[0] for at in (start + 8, *places)]
        except struct.error:
            return False
        return all(0 < number <= self._count for number in following)

    def _cell(self, page: bytes, at: int, kind: int) -> tuple[Record, int]:
        """One record, and where its cell ends."""
        if kind == _INDEX_INTERIOR:
            at += 4  # the number of the child's page
        size, at = _varint(page, at)
        rowid = None
        if kind == _TABLE_LEAF:
            rowid, at = _varint(page, at)
        if not 0 < size < _MOST_PAYLOAD:
            raise ValueError("no size of a payload")
        payload, end = self._payload(page, at, size, _MOST[kind])
        return Record(rowid, _values(payload)), end

    def _payload(self, page: bytes, at: int, size: int, most: int) -> tuple[bytes, int]:
        """What of a payload is on the page, the rest from the chain of pages behind it, and where
        its part on the page ends."""
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
        return payload, at + local + (4 if size > most else 0)

    def _page(self, number: int) -> bytes:
        if number in self._newer:
            at = self._newer[number]
            return self._log[at : at + PAGE]
        return self._database[(number - 1) * PAGE : number * PAGE] if number else b""

    def _free(self) -> set[int]:
        """Pages that hold what was deleted: the file's list gives them as free and its map does
        too, so that damage to either hides no page that is in use. Where the list is damaged a map
        is believed alone that knows every page."""
        listed, whole = self._listed()
        free = set[int]()
        for first in range(2, self._count + 1, _MAPPED):
            numbers = range(first + 1, min(first + _MAPPED, self._count + 1))
            kinds = self._page(first)[::5].ljust(_MAPPED, b"\0")[: len(numbers)]
            knows = not whole and all(kind in _MAPS for kind in kinds)
            for number, kind in zip(numbers, kinds, strict=True):
                mapped = kind == _MAPS_FREE or kind not in _MAPS
                if (mapped and number in listed) or (kind == _MAPS_FREE and knows):
                    free.add(number)
        return free

    def _listed(self) -> tuple[set[int], bool]:
        """The file's list of free pages, and whether all of it can be read."""
        head, listed = self._page(1), set[int]()
        try:
            trunk, total = struct.unpack_from(">II", head, 32)
            while trunk:
                page = self._page(trunk)
                following, count = struct.unpack_from(">II", page, 0)
                ones = struct.unpack_from(f">{count}I", page, 8)
                if trunk in listed or not all(0 < one <= self._count for one in ones):
                    raise ValueError("no page of the list")
                listed |= {trunk, *ones}
                trunk = following
            if len(listed) != total:
                raise ValueError("a list of another length")
        except _BROKEN:
            self.unreadable += 1
            return listed, False
        return listed, True


def _free_bytes(page: bytes, at: int) -> int:
    """Of the stretches between the cells of a page, which are chained in order."""
    free, end = 0, 0
    while end < at <= PAGE - 4:
        following, size = struct.unpack_from(">HH", page, at)
        free, end, at = free + size, at, following
    return free


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
