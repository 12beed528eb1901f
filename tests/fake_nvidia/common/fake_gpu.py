"""A fake of a GPU's memory and streams: what is queued is done at `synchronise`, not before."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

NAME = "Fake GPU (no GPU at all)"
memory: dict[int, ctypes.Array[ctypes.c_char]] = {}
streams: dict[int, list[Callable[[], None]]] = {}


def count() -> int:
    return int(os.environ.get("FAKE_GPUS", "1"))


def malloc(size: int) -> int:
    buffer = ctypes.create_string_buffer(size)
    memory[ctypes.addressof(buffer)] = buffer
    return ctypes.addressof(buffer)


def free(address: int) -> None:
    del memory[address]


def new_stream() -> int:
    handle = 1 + max(streams, default=0)
    streams[handle] = []
    return handle


def queue(stream: int, work: Callable[[], None]) -> None:
    streams[stream].append(work)


def synchronise(stream: int) -> None:
    while streams[stream]:
        streams[stream].pop(0)()


def copy(target: int, source: int, size: int, inside: int) -> None:
    """Copy bytes; `inside` is the address of the two that is the GPU's."""
    assert len(memory[inside]) >= size, "more bytes than were allocated"
    ctypes.memmove(target, source, size)
