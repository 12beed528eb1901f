"""Signals as text: one column a lead under a line of names, or one value a line as instruments
write them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeclin.datasets.reader import Content, Piece
from edgeclin.errors import BadFile
from edgeclin.files import open_file, reading

_SEPARATORS = ",;\t"
_LONGEST_NAMES = 1 << 16
_SECONDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "usec", "microseconds"), 1e-6),
}
_TIME = re.compile(rf"(t|time\w*?)[\s_\[(]+({'|'.join(_SECONDS)})[\])]?")
_LEAST_EXACT = 0.005
"""A rate is told where rounding makes it less wrong than this."""
_CLOCK = 0.001
"""What a recorder's clock may be off."""


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
            head = file.readline(_LONGEST_NAMES)
            more = file.read(_LONGEST_NAMES)
        names = _names(path, _text(path, head).splitlines())
        # The last line may be cut.
        lines = (head + more).decode("utf-8-sig", "ignore").splitlines()[names.lines : -1]
        rate, error = _rate(names, lines)
        return Content(leads=names.leads, sampling_hz=rate, sampling_error=error)

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
            _require_even(piece.path, exact[:, 0], _unit(names, rows))
        with np.errstate(over="ignore"):  # it becomes infinite, which no sample may be
            values = exact.astype(np.float32)
        return values[:, 0] if names.leads is None else values[:, names.time :]


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


def _rate(names: _Names, lines: list[str]) -> tuple[float | None, float]:
    """Samples a second, and by which share that may be wrong; None where nothing tells."""
    lines = [line for line in lines if line.strip()]
    if not names.time or names.unit_s is None or len(lines) < 2:
        return None, 0.0
    try:
        times = np.array([float(_time(names, line)) for line in lines])
    except ValueError:  # `read` says where
        return None, 0.0
    took, unit = float(times[-1] - times[0]), _unit(names, lines)
    if not took > 0 or unit > _LEAST_EXACT * took or _off(times, unit).any():
        return None, 0.0
    return (len(times) - 1) / (took * names.unit_s), _CLOCK + unit / took


def _time(names: _Names, line: str) -> str:
    return line.split(names.separator, 1)[0].strip().strip('"')


def _unit(names: _Names, lines: list[str]) -> float:
    """To what the times are rounded, by how they are written; 0 where that does not tell."""
    times = [_time(names, line).lower() for line in lines]
    if any("e" in time for time in times):
        return 0.0
    decimals = max(len(time.partition(".")[2].rstrip("0")) for time in times)
    return float(10.0**-decimals)


def _off(times: np.ndarray, unit: float) -> NDArray[np.bool_]:
    """Which steps go back, or differ from the usual one by more than rounding and half of it."""
    steps = np.diff(times)
    if not len(steps):
        return np.zeros(0, bool)
    usual = float(np.median(steps))
    return (steps < 0) | (np.abs(steps - usual) > max(usual / 2, unit) * (1 + 1e-6))


def _require_even(path: Path, times: np.ndarray, unit: float) -> None:
    """Refuse a recording with a gap, or whose time goes back or is none."""
    known = np.isfinite(times)
    if not known.all():
        raise BadFile(path, f"the time of sample {int((~known).argmax())} is not a number")
    off = _off(times, unit)
    if off.any():
        at = int(off.argmax())
        steps = np.diff(times)
        raise BadFile(
            path,
            f"between samples {at} and {at + 1} the time goes on by {steps[at]:.4g}, elsewhere by "
            f"{np.median(steps):.4g}",
            "cut recordings where they have gaps",
        )


def _fault(lines: list[str], names: _Names) -> str:
    """Which line it is; numpy counts otherwise, and its message quotes the data."""
    for number, line in enumerate(lines[names.lines :], names.lines + 1):
        cells = line.split(names.separator)
        if line.strip() and len(cells) != names.columns:
            return f"line {number} has {len(cells)} cells, expected {names.columns}"
        for place, cell in enumerate(cells, 1):
            if line.strip() and not _is_number(cell):
                return f"line {number}, cell {place} is not a number"
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
