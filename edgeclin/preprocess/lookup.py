"""Steps that change each value of a picture by itself, as one table of the 256 values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from edgeclin import steps

Applied: TypeAlias = "tuple[Callable[[np.ndarray, Any], np.ndarray], steps.Step]"
"""A step with what executes it."""

_BY_VALUE = (steps.Normalise, steps.Clip, steps.VOIWindow)


def split(applied: Sequence[Applied]) -> tuple[list[Applied], Lookup | None, list[Applied]]:
    """The steps before the last run of steps by value, these as a table, and those after them.

    There is no table where others than `channels_first` follow: they would see its float32 instead
    of what the steps give.
    """
    end = len(applied)
    while end and isinstance(applied[end - 1][1], steps.ChannelsFirst):
        end -= 1
    start = end
    while start and isinstance(applied[start - 1][1], _BY_VALUE):
        start -= 1
    if start == end:
        return list(applied), None, []
    return list(applied[:start]), Lookup(applied[start:end]), list(applied[end:])


class Lookup:
    """A run of steps by value; a uint8 picture is looked up, anything else goes through them.

    The table is what the steps themselves make of each value, so both ways give the same bits.
    """

    def __init__(self, applied: Sequence[Applied]) -> None:
        self._applied = applied
        self._tables: dict[int, np.ndarray] = {}

    def __call__(self, value: np.ndarray) -> np.ndarray:
        """Apply the steps.

        Returns:
            float32 of the same shape for uint8 [height, width, channels], else what the steps give.
        """
        if value.dtype != np.uint8 or value.ndim != 3:
            return self._through(value)
        tables = self._table(value.shape[-1])
        if len(tables) == 1:
            return np.take(tables[0], value)
        found = np.empty(value.shape, np.float32)
        for channel, table in enumerate(tables):
            found[..., channel] = np.take(table, value[..., channel])
        return found

    def _table(self, channels: int) -> np.ndarray:
        """float32 [1, 256], or [channels, 256] where they differ."""
        if channels not in self._tables:
            values = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], channels, axis=1)
            tables = self._through(values).astype(np.float32).T
            same = (tables == tables[0]).all()
            self._tables[channels] = np.ascontiguousarray(tables[:1] if same else tables)
        return self._tables[channels]

    def _through(self, value: np.ndarray) -> np.ndarray:
        for apply, step in self._applied:
            value = apply(value, step)
        return value
