"""A fake of cuda-python's runtime API: every call returns a tuple that begins with its error."""

from __future__ import annotations

from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import fake_gpu


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorNoDevice = 100


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStream_t:
    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __int__(self) -> int:
        return self._handle


OK = cudaError_t.cudaSuccess


def cudaGetDeviceCount() -> tuple[Any, ...]:
    if fake_gpu.count() == 0:
        return cudaError_t.cudaErrorNoDevice, None
    return OK, fake_gpu.count()


def cudaSetDevice(device: int) -> tuple[Any, ...]:
    return (OK if device < fake_gpu.count() else cudaError_t.cudaErrorInvalidValue,)


def cudaGetDeviceProperties(device: int) -> tuple[Any, ...]:
    return OK, SimpleNamespace(name=fake_gpu.NAME.encode(), major=8, minor=7)


def cudaDriverGetVersion() -> tuple[Any, ...]:
    return OK, 12060


def cudaStreamCreate() -> tuple[Any, ...]:
    return OK, cudaStream_t(fake_gpu.new_stream())


def cudaStreamDestroy(stream: cudaStream_t) -> tuple[Any, ...]:
    del fake_gpu.streams[int(stream)]
    return (OK,)


def cudaStreamSynchronize(stream: cudaStream_t) -> tuple[Any, ...]:
    fake_gpu.synchronise(int(stream))
    return (OK,)


def cudaMalloc(size: int) -> tuple[Any, ...]:
    return OK, fake_gpu.malloc(size)


def cudaFree(devPtr: int) -> tuple[Any, ...]:
    if devPtr not in fake_gpu.memory:
        return (cudaError_t.cudaErrorInvalidValue,)
    fake_gpu.free(devPtr)
    return (OK,)


def cudaMemcpyAsync(
    dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: cudaStream_t
) -> tuple[Any, ...]:
    inside = dst if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else src
    if inside not in fake_gpu.memory:
        return (cudaError_t.cudaErrorInvalidValue,)
    fake_gpu.queue(int(stream), lambda: fake_gpu.copy(dst, src, count, inside))
    return (OK,)
