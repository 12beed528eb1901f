"""Files that are either whole or not there: temp, fsync, rename, fsync the directory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeclin.errors import BadFile


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put `data` at `path` so that a reader, now or after a power cut, sees all of it or none.

    Raises:
        OSError: the disk is full or the folder not writable; nothing is left behind.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextmanager
def directory_atomic(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its place when the block ends well.

    Raises:
        OSError: something not empty stands at `path`, the disk is full or the parent is not
            writable; nothing is left behind.
    """
    draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield draft
        draft.chmod(0o755)
        for entry in (*draft.rglob("*"), draft):
            _sync(entry)
        draft.replace(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_directory(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say which target could not be written, and why, in one sentence.

    Raises:
        BadFile: instead of an OSError from within the block.
    """
    try:
        yield
    except OSError as exc:
        raise BadFile(path, f"cannot be written ({exc.strerror})") from exc


def require_file(path: Path) -> None:
    """Refuse a path at which no readable file stands.

    Raises:
        BadFile: nothing there, a folder, or not readable.
    """
    try:
        with path.open("rb"):
            return
    except IsADirectoryError as exc:
        raise BadFile(path, "a folder, expected a file") from exc
    except FileNotFoundError as exc:
        raise BadFile(path, "no such file") from exc
    except OSError as exc:
        raise BadFile(path, f"cannot be read ({exc.strerror})") from exc


def sync_directory(path: Path) -> None:
    """Make the names in a folder durable."""
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
