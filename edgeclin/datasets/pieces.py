"""Samples in files: each is read from the disk when it is asked for, and not kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeclin.datasets.dataset import Dataset
from edgeclin.datasets.described import listed, same_rate
from edgeclin.datasets.labels import TABLE, Row
from edgeclin.datasets.reader import Content, Piece, Reader
from edgeclin.errors import BadFile


@dataclass(frozen=True, slots=True)
class Pieces:
    """The samples of a reader's files, in order."""

    reader: Reader
    pieces: tuple[Piece, ...]
    companions: dict[Path, tuple[Path, ...]]

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.reader.read(self.pieces[index])

    def marks(self) -> list[str]:
        """Of each sample its place, and name, size and time of change of each of its files."""
        return [
            " ".join(
                [f"{piece.start} {piece.end}", *map(_mark, (piece.path, *self._beside(piece)))]
            )
            for piece in self.pieces
        ]

    def _beside(self, piece: Piece) -> tuple[Path, ...]:
        return self.companions.get(piece.path, ())


def dataset_of(
    path: Path, reader: Reader, rows: Sequence[Row], unread: tuple[str, ...] = ()
) -> Dataset:
    """The data set at `path` that these rows make, of a table whose columns `unread` are not read.

    Raises:
        BadFile: a file that is not what its name says, a stretch that it does not have, or
            recordings with other leads or at another rate than the rest.
    """
    contents: dict[Path, Content] = {}
    for row in rows:
        if row.path not in contents:
            contents[row.path] = reader.look(row.path)
    placed = [(row, piece) for row in rows for piece in _pieces(reader, row, contents[row.path])]
    recorder = _one_recorder(contents)
    root = path if path.is_dir() else path.parent
    names = tuple(row.path.relative_to(root).as_posix() for row, _ in placed)
    return Dataset(
        path,
        Pieces(
            reader,
            tuple(piece for _, piece in placed),
            {file: content.companions for file, content in contents.items()},
        ),
        labels=_labels([row for row, _ in placed]),
        groups=_groups([row for row, _ in placed], names, contents),
        encoded=reader.encoded,
        leads=recorder.leads,
        sampling_hz=recorder.sampling_hz,
        sampling_error=recorder.sampling_error,
        files=names,
        unread=unread,
    )


def _pieces(reader: Reader, row: Row, content: Content) -> list[Piece]:
    most = content.frames if content.frames is not None else content.length
    if not reader.series and (row.start, row.end) != (None, None):
        raise BadFile(row.path, f"{reader.kind} have neither start nor end", f"mend {TABLE}")
    end = most if row.end is None else row.end
    start = row.start or 0
    if most is not None and (end or 0) > most:
        what = "samples" if content.frames is None else "frames"
        raise BadFile(row.path, f"has {most} {what}, {TABLE} wants {end}")
    if end is not None and start >= end:
        raise BadFile(row.path, f"has {end} samples, {TABLE} starts at {start}")
    if content.frames is None:
        return [Piece(row.path, start, end)]
    return [Piece(row.path, frame, frame + 1) for frame in range(start, end or 0)]


def _labels(rows: list[Row]) -> tuple[str, ...] | None:
    labels = tuple(row.label for row in rows if row.label is not None)
    return labels if len(labels) == len(rows) else None


def _groups(
    rows: list[Row], names: tuple[str, ...], contents: dict[Path, Content]
) -> tuple[str, ...] | None:
    """What the table says; else what the files say; else each file, if it holds several."""
    named = tuple(row.group for row in rows if row.group is not None)
    if len(named) == len(rows):
        return named
    known = any(content.group for content in contents.values())
    if not known and len(rows) == len(contents):
        return None
    return tuple(contents[row.path].group or name for row, name in zip(rows, names, strict=True))


def _one_recorder(contents: dict[Path, Content]) -> Content:
    """Leads and rate of all files; a model takes columns by their place and not by their name."""
    (first, kept), *rest = contents.items()
    for path, content in rest:
        error = content.sampling_error + kept.sampling_error
        if content.leads != kept.leads:
            other = f"its leads: {listed(content.leads)}; of {first.name}: {listed(kept.leads)}"
        elif not same_rate(content.sampling_hz, kept.sampling_hz, error):
            other = (
                f"its rate: {content.sampling_hz:g} Hz; of {first.name}: {kept.sampling_hz:g} Hz"
            )
        else:
            if kept.sampling_hz is None:
                rate, error = content.sampling_hz, content.sampling_error
                kept = replace(kept, sampling_hz=rate, sampling_error=error)
            continue
        raise BadFile(path, other, "keep recordings of one kind in a data set")
    return kept


def _mark(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return f"{path.parent.name}/{path.name} gone"
    return f"{path.parent.name}/{path.name} {stat.st_size} {stat.st_mtime_ns}"
