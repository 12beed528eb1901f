"""The memory in which a sample and its answer lie for both processes."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from dataclasses import dataclass

import numpy as np

from edgeclin.backends.base import TensorSpec

ASKED = struct.Struct("<?Q")
"""What wakes the engine: whether the sample is in its own type, and the sample's number, which the
answer repeats."""
LOADED, REFUSED = b"+", b"-"
"""Begin the first message of the engine's process."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the engine's process says when it has loaded: the attributes of its backend."""

    input: TensorSpec
    output: TensorSpec
    version: str


class Board:
    """Views of one memfd.

    Attributes:
        real: float32 [input], for a sample as numbers.
        own: the engine's own type [input], at the same place.
        answer: float32 [output].
    """

    def __init__(self, fd: int, loaded: Loaded) -> None:
        room = _room(loaded.input)
        memory = mmap.mmap(fd, _size(loaded))
        own, shape = np.dtype(loaded.input.dtype), loaded.input.shape
        self.real = _view(memory, np.dtype(np.float32), shape, 0)
        self.own = _view(memory, own, shape, 0)
        self.answer = _view(memory, np.dtype(np.float32), loaded.output.shape, room)


def set_up(fd: int, loaded: Loaded) -> Board:
    """Give an empty memfd the size of a sample and its answer, for good: a process that cut it
    would end the other one (SIGBUS)."""
    os.ftruncate(fd, _size(loaded))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return Board(fd, loaded)


def _size(loaded: Loaded) -> int:
    return _room(loaded.input) + 4 * int(np.prod(loaded.output.shape))


def _room(spec: TensorSpec) -> int:
    most = max(4, np.dtype(spec.dtype).itemsize) * int(np.prod(spec.shape))
    return -(-most // _ALIGNMENT) * _ALIGNMENT


def _view(
    memory: mmap.mmap, dtype: np.dtype[np.generic], shape: tuple[int, ...], at: int
) -> np.ndarray:
    return np.frombuffer(memory, dtype, int(np.prod(shape)), at).reshape(shape)
