"""The table beside the files of a data set: `labels.csv`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgeclin.errors import BadFile
from edgeclin.files import require_file

TABLE = "labels.csv"
_READ = {"file", "label", "group", "start", "end"}


@dataclass(frozen=True, slots=True)
class Row:
    """A file, or its stretch from `start` to before `end`, and what is known of it."""

    path: Path
    label: str | None = None
    group: str | None = None
    start: int | None = None
    end: int | None = None


def read_labels(folder: Path) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of a folder's table (columns file and label, optional group, start and end), and the
    names of its other columns.

    Raises:
        BadFile: not such a table, a file that is not in the folder, or a sample named twice.
    """
    table = folder / TABLE
    columns, cells = _cells(table)
    wanted = _READ & set(columns)
    rows: list[Row] = []
    seen: dict[tuple[Path, int | None, int | None], Row] = {}
    for number, cell in enumerate(cells, 1):
        if any(cell[column] is None for column in wanted):
            raise BadFile(table, f"row {number} has fewer cells than the first line names")
        row = Row(
            _inside(folder, table, number, cell["file"]),
            cell["label"],
            cell.get("group") if "group" in columns else None,
            _position(table, number, "start", cell.get("start")),
            _position(table, number, "end", cell.get("end")),
        )
        if (row.start or 0) >= (row.end if row.end is not None else float("inf")):
            raise BadFile(table, f"row {number} starts at {row.start or 0} and ends at {row.end}")
        first = seen.setdefault((row.path, row.start, row.end), row)
        if first is not row:
            other = "" if first.label == row.label else " with another label"
            raise BadFile(table, f"row {number} names {cell['file']} again{other}")
        rows.append(row)
    return rows, tuple(column for column in columns if column and column not in _READ)


def _cells(table: Path) -> tuple[list[str], list[dict[str, str]]]:
    require_file(table)
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            cells = list(reader)
    except (OSError, ValueError, csv.Error) as exc:
        raise BadFile(table, f"cannot be read as CSV in UTF-8 ({exc})") from exc
    if not {"file", "label"} <= set(columns):
        raise BadFile(table, "needs the columns file and label (and may have group, start and end)")
    if not cells:
        raise BadFile(table, "has no rows")
    return columns, cells


def _inside(folder: Path, table: Path, number: int, name: str) -> Path:
    """Where a row's file is; never outside the folder, though a link in it may lead there."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise BadFile(
            table,
            f"row {number} leaves the folder",
            "a data set is what its folder holds: move the file there, or a link to it",
        )
    path = folder / parts
    if not path.is_file():
        raise BadFile(path, f"no such file, although {table.name} names it")
    return path


def _position(table: Path, number: int, column: str, cell: str | None) -> int | None:
    if not (cell or "").strip():
        return None
    try:
        value = int(cell or "")
    except ValueError:
        value = -1
    if value < 0:
        raise BadFile(table, f"row {number}: {column} is no whole number from 0")
    return value
