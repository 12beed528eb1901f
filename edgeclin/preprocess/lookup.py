"""Steps that change each value of a picture by itself, as one table of the 256 values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from edgeclin import steps
from edgeclin.backends.base import TensorSpec, quantised
from edgeclin.preprocess import image

Applied: TypeAlias = "tuple[Callable[[np.ndarray, Any], np.ndarray], steps.Step]"
"""A step with what executes it."""

_BY_VALUE = (steps.Normalise, steps.Clip, steps.VOIWindow)


def split(applied: Sequence[Applied]) -> tuple[list[Applied], Lookup, list[Applied]]:
    """The steps before the last run of steps by value, these as a table, and those after them.

    The run is empty where others than `channels_first` follow: they would see the table's type
    instead of what the steps give.
    """
    end = len(applied)
    while end and isinstance(applied[end - 1][1], steps.ChannelsFirst):
        end -= 1
    start = end
    while start and isinstance(applied[start - 1][1], _BY_VALUE):
        start -= 1
    return list(applied[:start]), Lookup(applied[start:end]), list(applied[end:])


class Lookup:
    """A run of steps by value, perhaps none, for pictures of bytes.

    The table is what the steps themselves, and the engine's quantisation, make of each value, so
    both ways give the same bits.
    """

    def __init__(self, applied: Sequence[Applied]) -> None:
        self._applied = applied
        only = applied[0][1] if len(applied) == 1 else None
        self._normalise = only if isinstance(only, steps.Normalise) else None
        self._tables: dict[tuple[int, TensorSpec | None], np.ndarray | None] = {}

    def __call__(self, value: np.ndarray, spec: TensorSpec | None = None) -> np.ndarray | None:
        """Apply the steps to a picture, uint8 [height, width, channels].

        Args:
            spec: what takes it; of one byte a value, it is quantised too.

        Returns:
            float32, or of the engine's own dtype, of the same shape and finite throughout; None
            where it must go `through` the steps: it is no such picture, or they give values that
            are not finite.
        """
        if value.dtype != np.uint8 or value.ndim != 3:
            return None
        if spec is None or spec.scale is None or np.dtype(spec.dtype).itemsize > 1:
            spec = None
            if not self._applied:
                return None
        tables = self._known(value.shape[-1], spec)
        if tables is None:
            return None
        if spec is None and self._normalise is not None:
            return self.through(value)
        if len(tables) == 1:
            return _looked_up(tables[0], value)
        found = np.empty(value.shape, tables.dtype)
        for channel, table in enumerate(tables):
            found[..., channel] = _looked_up(table, value[..., channel])
        return found

    def fill(self, value: np.ndarray, place: Callable[[], np.ndarray | None]) -> bool:
        """Normalise bytes [..., channels] as the step does, into an engine's `place`; whether they
        were: no other step may be there, and the place must be of their shape and float32."""
        if self._normalise is None or value.dtype != np.uint8 or value.ndim < 2:
            return False
        if self._known(value.shape[-1], None) is None:
            return False
        room = place()
        if room is None or room.dtype != np.float32 or room.shape != value.shape:
            return False
        image.normalise(value, self._normalise, out=room)
        return True

    def through(self, value: np.ndarray) -> np.ndarray:
        """Apply the steps, one after the other."""
        for apply, step in self._applied:
            value = apply(value, step)
        return value

    def _known(self, channels: int, spec: TensorSpec | None) -> np.ndarray | None:
        key = channels, spec
        if key not in self._tables:
            self._tables[key] = self._table(channels, spec)
        return self._tables[key]

    def _table(self, channels: int, spec: TensorSpec | None) -> np.ndarray | None:
        """[1, 256], or [channels, 256] where they differ; None where not all of it is finite."""
        values = np.repeat(np.arange(256, dtype=np.uint8)[np.newaxis, :, np.newaxis], channels, 2)
        tables = self.through(values)[0].astype(np.float32).T
        if not np.isfinite(tables).all():
            return None
        if spec is not None:
            tables = quantised(tables, spec).astype(spec.dtype)
        same = (tables == tables[0]).all()
        return np.ascontiguousarray(tables[:1] if same else tables)


def _looked_up(table: np.ndarray, value: np.ndarray) -> np.ndarray:
    if table.itemsize > 1:
        return np.take(table, value)
    # Half the time of `take`, which first makes eight bytes of each index.
    translated = value.tobytes().translate(table.tobytes())
    return np.frombuffer(translated, table.dtype).reshape(value.shape)
