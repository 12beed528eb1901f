"""What tells one state of a file from another without reading it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TypeAlias

Mark: TypeAlias = tuple[int, int]
"""Bytes and microseconds of the last change; or minus the error that hides them, and 0. Not
nanoseconds: file servers round them, and tell a client that wrote the file others before that."""
CLOSED: Mark = (-errno.EACCES, 0)
"""Of a file that may not be read."""


def mark(path: Path) -> Mark:
    """Of a file, whether or not it may be read."""
    try:
        return marked(path.stat())
    except OSError as exc:
        return hidden(exc)


def marked(status: os.stat_result) -> Mark:
    """Of a file with that status."""
    return status.st_size, status.st_mtime_ns // 1000


def hidden(error: OSError) -> Mark:
    """Of a file whose status could not be had."""
    return -(error.errno or errno.EIO), 0


def readable(path: str | Path) -> bool:
    """Whether this process may read a file."""
    return os.access(path, os.R_OK, effective_ids=True)


def plain(text: str) -> str:
    """Text that can be sent: a file's name may be no text at all."""
    return text.encode("utf-8", "backslashreplace").decode()
