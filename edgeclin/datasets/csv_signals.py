"""Signals as text: one column a lead under a line of names, or one value a line as instruments
write them."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

from edgeclin.datasets.described import same_rate
from edgeclin.datasets.reader import Content, Piece
from edgeclin.datasets.times import FASTEST_HZ, coarse, jump, rate, resolution
from edgeclin.errors import BadFile
from edgeclin.files import open_file, reading

_SEPARATORS = ",;\t"
_LONGEST_NAMES = 1 << 16
_MOST_LOOKED = 1 << 22
_SECONDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "usec", "microseconds"), 1e-6),
}
_NUMBER = re.compile(r"[+-]?\d*\.?(\d*)(?:[eE]([+-]?\d+))?")
_TIME = re.compile(rf"(t|time\w*?)[\s_\[(/.-]+({'|'.join(_SECONDS)})[\])]?")


class CSVSignals:
    """Recordings as float32 [samples, leads], or [samples] where the leads have no names.

    Columns are separated by commas, semicolons or tabs. A first column called `t` or `time…` is
    no lead: its steps must be even, and where its name ends in `s`, `ms` or `us` it tells the rate.
    """

    kind = "CSV signals"
    suffixes = frozenset({".csv", ".txt"})
    encoded = False
    series = True
    scattered = False

    def look(self, path: Path) -> Content:
        with open_file(path) as file, reading(path):
            status = os.fstat(file.fileno())
        return _look(path, status.st_mtime_ns, status.st_size)

    def read(self, piece: Piece) -> np.ndarray:
        with open_file(piece.path) as file, reading(piece.path):
            lines = _text(piece.path, file.read()).splitlines()
        names = _names(piece.path, lines)
        rows = [line for line in lines[names.lines :] if line.strip()]
        end = len(rows) if piece.end is None else piece.end
        if not rows:
            raise BadFile(piece.path, "holds no samples")
        if end > len(rows) or piece.start >= end:
            wanted = f"those from {piece.start} to {end}"
            raise BadFile(piece.path, f"has {len(rows)} samples, labels.csv wants {wanted}")
        exact = _numbers(piece.path, lines, names, rows[piece.start : end])
        if names.time:
            self._require_even(piece, names, exact[:, 0], rows[piece.start : end])
        with np.errstate(over="ignore"):  # it becomes infinite, which no sample may be
            values = exact.astype(np.float32)
        return values[:, 0] if names.leads is None else values[:, names.time :]

    def _require_even(
        self, piece: Piece, names: _Names, times: np.ndarray, rows: list[str]
    ) -> None:
        """Refuse samples with a gap, whose time goes back or is none, or of another rate than those
        at the beginning of their file, by which it is judged."""
        path, unit_s = piece.path, names.unit_s or 1.0
        known = np.isfinite(times)
        if not known.all():
            raise BadFile(path, f"the time of sample {int((~known).argmax())} is not a number")
        unit = _unit(names, times, rows)
        if not np.ptp(times) and len(times) > max(FASTEST_HZ * unit * unit_s, 1):
            raise BadFile(path, f"the time of all {len(times)} samples is {times[0]:.10g}")
        off = jump(times, unit)
        if off is not None:
            raise BadFile(path, str(off), "cut recordings where they have gaps")
        whole, (hz, error) = self.look(path), _rate(names, times)
        if not same_rate(whole.sampling_hz, hz, whole.sampling_error + error):
            raise BadFile(
                path,
                f"{hz:.5g} Hz from sample {piece.start} on, {whole.sampling_hz:.5g} Hz before",
                "give what was recorded at one rate a file of its own",
            )


@lru_cache(maxsize=256)
def _look(path: Path, _: int, __: int) -> Content:
    """What a file of that time of change and size tells; the rate takes as much of its beginning as
    the times are coarse."""
    hz, error, taken = None, 0.0, _LONGEST_NAMES
    with open_file(path) as file, reading(path):
        head = file.readline(_LONGEST_NAMES)
        names = _names(path, _text(path, head).splitlines())
        while names.time and hz is None and taken <= _MOST_LOOKED:
            file.seek(len(head))
            data = file.read(taken)
            lines = data.decode("utf-8", "ignore").splitlines()[:-1]  # the last one may be cut
            with suppress(ValueError):  # `read` says where
                hz, error = _rate(names, _times(names, [line for line in lines if line.strip()]))
            if len(data) < taken:
                break
            taken *= 4
    return Content(leads=names.leads, sampling_hz=hz, sampling_error=error)


class _Names:
    """What the first line says.

    Attributes:
        leads: names of the columns, without time; None where there is but a value a line.
        lines: how many lines the names take, 0 or 1.
        time: how many columns the time takes, 0 or 1.
        unit_s: seconds in a unit of the time; None where its name does not say.
    """

    def __init__(self, cells: list[str], separator: str) -> None:
        self.separator = separator
        self.columns = len(cells)
        named = not all(_is_number(cell) for cell in cells)
        names = [cell.strip().strip('"') for cell in cells]
        self.lines = int(named)
        first = names[0].lower()
        told = _TIME.fullmatch(first)
        self.unit_s = _SECONDS[told[2]] if told else None
        self.time = int(named and (first == "t" or first.startswith("time") or told is not None))
        self.leads = tuple(names[self.time :]) if named else None


def _names(path: Path, lines: list[str]) -> _Names:
    line = lines[0] if lines else ""
    separator = next((mark for mark in _SEPARATORS if mark in line), ",")
    if not line.strip():
        raise BadFile(path, "is empty or begins with an empty line", "begin with a value")
    cells = line.split(separator)
    names = _Names(cells, separator)
    if names.leads is None and len(cells) > 1:
        raise BadFile(
            path,
            f"{len(cells)} columns without names",
            "name the leads in the first line, and write decimals with a point",
        )
    if names.leads == ():
        raise BadFile(path, "has a column for the time and none for a lead")
    return names


def _numbers(path: Path, lines: list[str], names: _Names, rows: list[str]) -> np.ndarray:
    """float64 [samples, columns]."""
    try:
        values = np.loadtxt(
            rows, np.float64, comments=None, delimiter=names.separator, ndmin=2, quotechar='"'
        )
    except ValueError as exc:
        raise BadFile(path, _fault(lines, names), "every line is one sample") from exc
    if values.shape[1] != names.columns:
        raise BadFile(path, f"names {names.columns} columns and has {values.shape[1]}")
    return values


def _times(names: _Names, rows: list[str]) -> np.ndarray:
    """The first column, float64.

    Raises:
        ValueError: a cell is not a number.
    """
    return np.array([float(_first(names, row)) for row in rows])


def _first(names: _Names, row: str) -> str:
    """The cell of the first column."""
    return row.split(names.separator, 1)[0].strip().strip('"')


def _unit(names: _Names, times: np.ndarray, rows: list[str]) -> float:
    """To what times are rounded; 0 of what counts samples.

    Where all are multiples of a power of ten, such as 0.01 s, that may be the step of the samples
    and not what times are rounded to: then the last place that is written tells.
    """
    unit = resolution(times)
    written = 0.0 if names.unit_s is None and unit == 1 else _last_place(names, rows)
    return unit if written >= unit or coarse(times, unit) else written


def _last_place(names: _Names, rows: list[str]) -> float:
    """To which place times are written, such as 0.001 where one is 0.010."""
    places = 0
    for row in rows:
        cell = _NUMBER.fullmatch(_first(names, row))
        if cell and cell[1] != "0":  # which every float is written with
            places = max(places, len(cell[1]) - int(cell[2] or 0))
    return float(10.0**-places)


def _rate(names: _Names, times: np.ndarray) -> tuple[float | None, float]:
    """Samples a second, and by which share that may be wrong; None where nothing tells."""
    if not names.time or names.unit_s is None or not np.isfinite(times).all():
        return None, 0.0
    return rate(times, resolution(times), names.unit_s)


def _fault(lines: list[str], names: _Names) -> str:
    """Which line it is; numpy counts otherwise, and its message quotes the data."""
    for number, line in enumerate(lines[names.lines :], names.lines + 1):
        cells = line.split(names.separator)
        if line.strip() and len(cells) != names.columns:
            return f"line {number} has {len(cells)} cells, expected {names.columns}"
        for place, cell in enumerate(cells, 1):
            if line.strip() and not _is_number(cell):
                decimals = "" if "," not in cell else ": write decimals with a point"
                return f"line {number}, cell {place} is not a number{decimals}"
    return "not a table of numbers"


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().strip('"'))
    except ValueError:
        return False
    return True


def _text(path: Path, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise BadFile(path, "not text in UTF-8") from exc
    if "\0" in text:
        raise BadFile(path, "not text but binary data")
    return text
