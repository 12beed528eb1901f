"""SQLite's write-ahead log as it lies on the disk, also beyond the first frame that is damaged.

SQLite reads it up to there and takes the rest for what a power cut left of a transaction. The
format is https://www.sqlite.org/fileformat2.html#walformat.
"""

from __future__ import annotations

import struct
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np

from edgeclin.offline_queue.disk_bytes import Bytes, disk_bytes

PAGE = 4096
"""Bytes of each page of a queue."""
_HEADER, _FRAME_HEADER = 32, 24
_ORDERS = {0x377F0682: "<", 0x377F0683: ">"}
_LOOKS = 5


class WriteAheadLog:
    """The frames of a log that were committed, as far as those after them show it.

    Attributes:
        pages: where the newest version of each page lies.
        count: pages of the database after the last commit.
        broken: the numbers of pages, 0 if unknown, that are damaged or were never written before a
            commit that is whole, and where they lie. A power cut leaves such too, where the disk
            wrote out of order what nobody had asked it to make safe.
        damaged: whether SQLite would read less than was committed.
    """

    def __init__(self, log: Bytes) -> None:
        self.pages: dict[int, int] = {}
        self.count = 0
        self.broken: list[tuple[int, int]] = []
        self.damaged = False
        header = log[0:_HEADER]
        if len(header) < _HEADER or not any(header):
            return
        magic, _, size, _, one, two, *sums = struct.unpack(">8I", header)
        order, salts = _ORDERS.get(magic, ""), (one, two)
        sound = bool(order) and _checksum(header[:24], order, 0, 0) == tuple(sums)
        if sound and size != PAGE:
            return
        if not sound:  # The first frame is of its generation.
            order = "<" if sys.byteorder == "little" else ">"
            salts = struct.unpack(">2I", log[40:48].ljust(8, b"\0"))
        self._read(log, order, salts, (sums[0], sums[1]))
        self.damaged = bool(self.broken) or not sound

    def _read(
        self, log: Bytes, order: str, salts: tuple[int, ...], before: tuple[int, int]
    ) -> None:
        """Hold each frame against the checksum that stands in the one before it, right or wrong."""
        pending: dict[int, int] = {}
        broken: list[tuple[int, int]] = []
        for at in range(_HEADER, len(log) - PAGE - _FRAME_HEADER + 1, PAGE + _FRAME_HEADER):
            frame, body = log[at : at + _FRAME_HEADER + PAGE], at + _FRAME_HEADER
            if len(frame) < _FRAME_HEADER + PAGE:  # the disk cannot read it
                broken.append((0, body))
                continue
            number, commit, *theirs, first, second = struct.unpack_from(">6I", frame)
            ours = number and tuple(theirs) == salts
            covered = frame[:8] + frame[_FRAME_HEADER:]
            if ours and _checksum(covered, order, *before) == (first, second):
                pending[number] = body
                if commit:
                    self.count = commit
                    self.pages |= pending
                    self.broken += broken
                    pending, broken = {}, []
            else:
                broken.append((number if ours else 0, body))
            before = first, second


def log_is_damaged(path: Path) -> bool:
    """Whether the log of the database at `path` holds commits that SQLite would not read.

    Another process may write it meanwhile: what is damaged looks the same twice.
    """
    seen: tuple[bytes, list[tuple[int, int]]] | None = None
    for _ in range(_LOOKS):
        with disk_bytes(Path(f"{path}-wal")) as log:
            header, found = log[0:_HEADER], WriteAheadLog(log)
        if not found.damaged:
            return False
        if seen == (header, found.broken):
            return True
        seen = header, found.broken
    return False


def _checksum(data: bytes, order: str, one: int, two: int) -> tuple[int, int]:
    """SQLite's, of pairs of words x, y: each adds x + two to one, then y + one to two. Both are
    sums of all words, times numbers that depend on their places alone."""
    words = np.frombuffer(data, f"{order}u4").astype(np.uint32)
    x, both = words[::2], words[::2] + words[1::2]
    table = _factors(len(x) + 1)
    to_one, between, to_two = table[:, 1:]
    a, b, c = (int(power) for power in table[:, 0])
    first = a * one + b * two + int(np.dot(to_one, x)) + int(np.dot(between, both))
    second = b * one + c * two + int(np.dot(between, x)) + int(np.dot(to_two, both))
    return first & 0xFFFFFFFF, second & 0xFFFFFFFF


@lru_cache(maxsize=4)
def _factors(count: int) -> np.ndarray:
    """The powers of [[1, 1], [1, 2]] from the highest down to 0, as their three entries."""
    a, b, c = 1, 0, 1
    powers = []
    for _ in range(count):
        powers.append((a, b, c))
        a, b, c = (a + b) & 0xFFFFFFFF, (b + c) & 0xFFFFFFFF, (b + 2 * c) & 0xFFFFFFFF
    return np.array(powers[::-1], np.uint32).T.copy()
