"""A fake of pycuda's driver API: nothing works without `init` and a context that this
thread has pushed."""

from __future__ import annotations

import threading

import fake_gpu
import numpy as np

_state = {"init": False}
_contexts = threading.local()


class Error(Exception):
    """What pycuda raises."""


def _require_context() -> None:
    if not getattr(_contexts, "pushed", 0):
        raise Error("invalid device context")


def init() -> None:
    if fake_gpu.count() == 0:
        raise Error("cuInit failed: no CUDA-capable device is detected")
    _state["init"] = True


def get_driver_version() -> int:
    return 11040


class Context:
    def push(self) -> None:
        _contexts.pushed = getattr(_contexts, "pushed", 0) + 1

    def pop(self) -> None:
        _require_context()
        _contexts.pushed -= 1


class Device:
    def __init__(self, number: int) -> None:
        if not _state["init"]:
            raise Error("not initialized")

    def name(self) -> str:
        return fake_gpu.NAME

    def compute_capability(self) -> tuple[int, int]:
        return 7, 2

    def retain_primary_context(self) -> Context:
        return Context()


class Stream:
    def __init__(self) -> None:
        _require_context()
        self.handle = fake_gpu.new_stream()

    def synchronize(self) -> None:
        fake_gpu.synchronise(self.handle)


class DeviceAllocation:
    def __init__(self, address: int) -> None:
        self._address = address

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        fake_gpu.free(self._address)


def mem_alloc(size: int) -> DeviceAllocation:
    _require_context()
    return DeviceAllocation(fake_gpu.malloc(size))


def memcpy_htod_async(dest: int, src: np.ndarray, stream: Stream) -> None:
    _require_context()
    host = src.ctypes.data
    fake_gpu.queue(stream.handle, lambda: fake_gpu.copy(dest, host, src.nbytes, dest))


def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Stream) -> None:
    _require_context()
    host = dest.ctypes.data
    fake_gpu.queue(stream.handle, lambda: fake_gpu.copy(host, src, dest.nbytes, src))
