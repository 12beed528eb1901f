"""Records as columns, which take a fraction of what rows of JSON take once they are compressed.

A column says what its rows have in common once, counts from one number to the next, and writes a
decimal fraction as a whole number. All of it is JSON, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Annotated, Any, TypeAlias

import numpy as np
from msgspec import UNSET, Meta, UnsetType

from edgeclin.errors import BadMessage
from edgeclin.records import Record

Row: TypeAlias = dict[str, Any]
Columns: TypeAlias = "dict[str, Column]"
"""By the path of a value: `key`, `key/inner` within an object, `key#0` within a list. An empty path
is that of a whole row, whose keys would not be told from paths."""

_MOST_SCALE = 9
_EXACT = 1 << 53
"""Up to here float64 tells all whole numbers apart."""
_FEW = 2
"""Values that are not numbers are listed once where there are so many times more rows."""
_WHOLE = ("",)
MOST_CELLS = 4_000_000
"""What a message may become: a few bytes can stand for any number of rows."""


class Column(Record, frozen=True, omit_defaults=True):
    """The values of all rows, in one of four forms.

    Attributes:
        one: each row has it.
        these: a value a row.
        of, at: values, and which of them each row has.
        numbers: whole numbers, a row each, over ten to the power of `scale`; with `steps` all but
            the first are what is added to the one before.
    """

    one: Any = UNSET
    these: list[Any] | UnsetType = UNSET
    of: list[Any] | UnsetType = UNSET
    at: list[Annotated[int, Meta(ge=0)]] | UnsetType = UNSET
    numbers: list[Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]] | UnsetType = UNSET
    scale: Annotated[int, Meta(ge=0, le=_MOST_SCALE)] = 0
    steps: bool = False

    def values(self, count: int) -> Sequence[Any]:
        """The values of so many rows.

        Raises:
            BadMessage: it has not so many, or no form.
        """
        found: list[Any]
        if self.one is not UNSET:
            return [self.one] * count
        if not isinstance(self.these, UnsetType):
            found = self.these
        elif not (isinstance(self.of, UnsetType) or isinstance(self.at, UnsetType)):
            if self.at and max(self.at) >= len(self.of):
                raise BadMessage(f"a column of {len(self.of)} values names another")
            found = [self.of[at] for at in self.at]
        elif not isinstance(self.numbers, UnsetType):
            found = list(accumulate(self.numbers) if self.steps else self.numbers)
            if self.scale:
                found = [number / 10**self.scale for number in found]
        else:
            raise BadMessage("a column without values")
        if len(found) != count:
            raise BadMessage(f"a column of {len(found)} values for {count} rows")
        return found


def pack(rows: Sequence[Row]) -> Iterable[tuple[list[int], Columns]]:
    """Rows of JSON as columns; those with other keys are another table.

    Returns:
        of each table the indices of its rows, and its columns.
    """
    tables: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(rows):
        tables.setdefault(_keys(row), []).append(index)
    for keys, indices in tables.items():
        members = [rows[index] for index in indices]
        if keys == _WHOLE:
            yield indices, {"": column(members)}
            continue
        columns: Columns = {}
        for key in keys:
            columns |= _columns(key, [row[key] for row in members])
        yield indices, columns


def unpack(columns: Columns, count: int) -> list[Row]:
    """The rows that were packed.

    Raises:
        BadMessage: the columns do not fit, or are of too many rows.
    """
    if not 0 <= count * max(len(columns), 1) <= MOST_CELLS:
        raise BadMessage(f"{count} rows of {len(columns)} columns")
    if "" in columns:
        return list(columns[""].values(count))
    rows: list[Row] = [{} for _ in range(count)]
    for path, packed in columns.items():
        outer, slash, inner = path.partition("/")
        name, hash_, _ = outer.partition("#")
        for row, value in zip(rows, packed.values(count), strict=True):
            if slash:
                _within(row, outer, dict)[inner] = value
            elif hash_:
                _within(row, name, list).append(value)
            else:
                row[path] = value
    return rows


def column(values: Sequence[Any]) -> Column:
    """Pack the values of at least one row, in the form that is likely to be shortest."""
    kinds = set(map(type, values))
    first = values[0]
    if len(kinds) == 1 and kinds <= {int, float, str, bool, type(None)}:
        if values.count(first) == len(values) and first != 0.0:
            return Column(one=first)
        if kinds == {int}:
            return _numbers(values, 0) or Column(these=list(values))
        if kinds == {float}:
            return _fractions(values) or Column(these=list(values))
        known = list(dict.fromkeys(values))
        if len(known) * _FEW <= len(values):
            places = {value: at for at, value in enumerate(known)}
            return Column(of=known, at=[places[value] for value in values])
    return Column(these=list(values))


def _fractions(values: Sequence[float]) -> Column | None:
    """Decimal fractions, where float64 gives each back from a whole number; None where it does
    not."""
    given = np.array(values)
    if np.signbit(given[given == 0]).any():
        return None
    for scale in range(1, _MOST_SCALE + 1):
        whole = np.rint(given * 10**scale)
        if np.abs(whole).max() >= _EXACT:
            return None
        if (whole / 10**scale == given).all():
            return _numbers(whole.astype(np.int64).tolist(), scale)
    return None


def _numbers(values: Sequence[int], scale: int) -> Column | None:
    if max(map(abs, values)) >= _EXACT:
        return None
    given = np.array(values, np.int64)
    steps = np.diff(given, prepend=0)
    stepped = bool(_digits(steps) < _digits(given))
    return Column(numbers=(steps if stepped else given).tolist(), scale=scale, steps=stepped)


def _digits(numbers: np.ndarray) -> float:
    return float(np.log10(np.abs(numbers) + 1.0).sum())


def _keys(row: Row) -> tuple[str, ...]:
    """Of a row, or `_WHOLE` where paths would not tell them apart."""
    if type(row) is not dict or any(not key or "/" in key or "#" in key for key in row):
        return _WHOLE
    return tuple(row)


def _columns(key: str, values: Sequence[Any]) -> Columns:
    """The values of one key: where all are alike, those within objects and lists are columns."""
    first = values[0]
    if type(first) is dict and first:
        inner = tuple(first)
        if all(type(one) is dict and tuple(one) == inner for one in values):
            return {f"{key}/{name}": column([one[name] for one in values]) for name in inner}
    elif type(first) is list and first:
        length = len(first)
        if all(type(one) is list and len(one) == length for one in values):
            return {f"{key}#{at}": column([one[at] for one in values]) for at in range(length)}
    return {key: column(values)}


def _within(row: Row, key: str, kind: type) -> Any:
    found = row.setdefault(key, kind())
    if type(found) is not kind:
        raise BadMessage(f"columns in which {key} is several things")
    return found
