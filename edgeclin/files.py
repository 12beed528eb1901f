"""Files that are either whole or not there: temp, fsync, rename, fsync the directory."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgeclin.errors import BadFile, EdgeclinError

_HEAD = 64
_KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


def write_atomic(path: Path, data: bytes, mode: int = 0o644, *, durable: bool = True) -> None:
    """Put `data` at `path`; arguments and errors as `file_atomic` has them."""
    with file_atomic(path, mode, durable=durable) as file:
        file.write(data)


@contextmanager
def file_atomic(path: Path, mode: int = 0o644, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Yield a file that takes its place at `path` when the block ends well, so that a reader, now
    or after a power cut, sees all of it or none.

    Args:
        durable: False for what may be lost, or cut short, by a power cut; it spares the disk.

    Raises:
        OSError: the disk is full or the folder not writable; nothing is left behind.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
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
        BadFile: instead of an OSError from within the block; what is explained already stays.
    """
    try:
        yield
    except EdgeclinError:
        raise
    except OSError as exc:
        raise BadFile(path, f"cannot be written ({exc.strerror})") from exc


@contextmanager
def reading(path: Path, error: type[BadFile] = BadFile) -> Iterator[None]:
    """Say what could not be read, and why, in one sentence.

    Raises:
        BadFile: or the leaf that `error` names, instead of an OSError from within the block.
    """
    try:
        yield
    except FileNotFoundError as exc:
        raise error(exc.filename or path, "no such file") from exc
    except IsADirectoryError as exc:
        raise error(exc.filename or path, "a folder, expected a file") from exc
    except PermissionError as exc:
        raise error(
            exc.filename or path,
            f"cannot be read ({exc.strerror})",
            "mend its permissions, or those of a folder above it",
        ) from exc
    except OSError as exc:
        raise error(exc.filename or path, f"cannot be read ({exc.strerror or exc})") from exc
    except ValueError as exc:
        if "\0" not in str(path):
            raise
        raise error(path, "cannot be read (a NUL in its name)") from exc


def open_file(path: Path, error: type[BadFile] = BadFile) -> BinaryIO:
    """Open a regular file; a pipe or a device could block for ever, or never end.

    Raises:
        BadFile: nothing there, not a regular file, or not readable.
    """
    with reading(path, error):
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            found = _KINDS.get(kind, "a device")
            raise error(path, f"not a regular file but {found}", "name a file")
        return path.open("rb")


def require_file(path: Path, error: type[BadFile] = BadFile) -> None:
    """Refuse a path at which no readable regular file stands; raises as `open_file` does."""
    open_file(path, error).close()


def read_small(path: Path, most: int) -> bytes:
    """The bytes of a file that a person wrote or a key.

    Raises:
        BadFile: longer than `most` bytes, or as `open_file` has it.
    """
    with open_file(path) as file, reading(path):
        data = file.read(most + 1)
    if len(data) > most:
        raise BadFile(path, f"larger than {most >> 10} KiB", "is it the right file?")
    return data


def require_writable(folder: Path) -> None:
    """Refuse a folder in which no file could be made.

    Raises:
        BadFile: it is not there, no folder, or not writable.
    """
    if not folder.is_dir():
        raise BadFile(folder, "not a folder that is there", "make it, or name another one")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadFile(folder, "not writable", "mend its permissions, or name another one")


def require_place_for_page(path: Path) -> None:
    """Refuse a place where no HTML page can be written, or where anything but a page stands.

    Raises:
        BadFile: says which.
    """
    require_writable(path.absolute().parent)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise BadFile(path, "not a regular file", "name another one")
    if not path.exists():
        return
    with open_file(path) as file, reading(path):
        head = file.read(_HEAD)
    if head and not head.lstrip().lower().startswith(b"<!doctype html"):
        raise BadFile(path, "exists and is no page", "name another file")


def sync_directory(path: Path) -> None:
    """Make the names in a folder durable."""
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
