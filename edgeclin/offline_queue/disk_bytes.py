"""The bytes of a file that may be damaged, a stretch at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol


class Bytes(Protocol):
    """What can be read a stretch at a time; where it cannot be read, a stretch is empty."""

    def __len__(self) -> int: ...

    def __getitem__(self, stretch: slice, /) -> bytes: ...


class _File:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, stretch: slice) -> bytes:
        try:
            return os.pread(self._descriptor, stretch.stop - stretch.start, stretch.start)
        except OSError:
            return b""


@contextmanager
def disk_bytes(path: Path) -> Iterator[Bytes]:
    """The bytes of a file; none where it is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        yield _File(descriptor)
    finally:
        os.close(descriptor)
