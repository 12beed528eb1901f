"""A folder of files of one kind: with a table, with a subfolder a label, or without labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgeclin.datasets.labels import TABLE, Row, read_labels
from edgeclin.datasets.reader import Reader
from edgeclin.datasets.readers import KINDS, SIGNALS, reader_of
from edgeclin.errors import BadFile
from edgeclin.files import require_file


def rows_of(folder: Path) -> tuple[Reader, list[Row], tuple[str, ...]]:
    """What reads the files of a folder; these in order, with what the folder says of them; and the
    columns of its table that are not read.

    Raises:
        BadFile: no such files, or files of several kinds.
    """
    if os.path.lexists(folder / TABLE):
        rows, unread = read_labels(folder)
        return _one_kind(folder, (row.path for row in rows), notes=False), rows, unread
    # Not `glob`, which leaves out without a word what it may not read.
    subfolders = [entry for entry in folder.iterdir() if entry.is_dir()]
    inner = sorted(file for subfolder in subfolders for file in _files(subfolder))
    beside = sorted(_files(folder))
    reader = _one_kind(folder, [*beside, *inner], notes=True)
    inner = [file for file in inner if reader_of(file.suffix) is reader]
    beside = [file for file in beside if reader_of(file.suffix) is reader]
    if inner and beside:
        raise BadFile(
            beside[0],
            f"stands beside subfolders of {reader.kind}, such as {inner[0].parent.name}",
            "keep to one of the two",
        )
    for file in (*inner, *beside):
        require_file(file)
    return reader, [Row(file, file.parent.name) for file in inner] or list(map(Row, beside)), ()


def _files(folder: Path) -> Iterator[Path]:
    for file in folder.iterdir():
        if file.name == TABLE:
            raise BadFile(file, "is in a subfolder", "name that folder, or move the table up")
        if reader_of(file.suffix) is not None and not file.is_dir():
            yield file


def _one_kind(folder: Path, files: Iterable[Path], *, notes: bool) -> Reader:
    """The reader of all these files.

    Args:
        notes: text beside files of another kind is not data but somebody's notes.
    """
    found: dict[Reader, Path] = {}
    for file in files:
        reader = reader_of(file.suffix)
        if reader is None:
            raise BadFile(file, "is of no kind that is read", f"label {KINDS}")
        found.setdefault(reader, file)
    if notes and len(found) > 1:
        found.pop(SIGNALS, None)
    if not found:
        raise BadFile(folder, f"no {KINDS} in it, nor in its subfolders")
    (reader, one), *others = found.items()
    if others:
        raise BadFile(
            folder,
            f"holds {reader.kind} ({one.name}) and {others[0][0].kind} ({others[0][1].name})",
            "keep to one kind in a data set",
        )
    return reader
