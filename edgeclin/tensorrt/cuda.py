"""Memory and streams of the GPU, through cuda-python where it is installed, else through pycuda."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from edgeclin.errors import EngineUnavailable


@dataclass(frozen=True, slots=True)
class Device:
    """The GPU, and the newest CUDA that its driver supports."""

    name: str
    capability: str
    driver: str


class Cuda(Protocol):
    """The first GPU, used by one thread at a time. Every method raises EngineUnavailable.

    Addresses are those of the GPU's memory. Copies are queued on `stream`, in order with what else
    is: arrays must be contiguous and must live, unchanged, until `synchronise`.
    """

    @property
    def device(self) -> Device:
        """Which GPU it is."""

    @property
    def stream(self) -> int:
        """The handle of the one stream."""

    def allocate(self, size: int) -> int:
        """The address of that many new bytes."""

    def upload(self, address: int, source: np.ndarray) -> None:
        """Queue a copy of an array's bytes to an address."""

    def download(self, target: np.ndarray, address: int) -> None:
        """Queue a copy of an address's bytes into an array."""

    def synchronise(self) -> None:
        """Wait until all that is queued is done."""

    def close(self) -> None:
        """Give memory and stream back."""


def open_cuda() -> Cuda:
    """The first GPU of this machine.

    Raises:
        EngineUnavailable: no Python package for CUDA, no driver, or no GPU.
    """
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return CudaPython(import_module(name))
        except ImportError:
            continue
    try:
        driver = import_module("pycuda.driver")
    except ImportError as exc:
        raise EngineUnavailable(
            "neither cuda-python nor pycuda can be imported, which reach the GPU: pip install "
            "'edgeclin[tensorrt]' in the version of the CUDA that is installed"
        ) from exc
    return PyCuda(driver)


class CudaPython:
    """cuda-python's runtime API: every call returns its error, then its results."""

    def __init__(self, runtime: Any) -> None:
        self._cuda = runtime
        self._addresses: list[int] = []
        if not self._ask("cudaGetDeviceCount"):
            raise EngineUnavailable("CUDA finds no GPU here")
        self._ask("cudaSetDevice", 0)
        found = self._ask("cudaGetDeviceProperties", 0)
        self.device = Device(
            name=found.name.decode().rstrip("\0"),
            capability=f"{found.major}.{found.minor}",
            driver=_cuda_version(self._ask("cudaDriverGetVersion")),
        )
        self._stream = self._ask("cudaStreamCreate")

    @property
    def stream(self) -> int:
        return int(self._stream)

    def allocate(self, size: int) -> int:
        address = int(self._ask("cudaMalloc", size))
        self._addresses.append(address)
        return address

    def upload(self, address: int, source: np.ndarray) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        host = source.ctypes.data
        self._ask("cudaMemcpyAsync", address, host, source.nbytes, kind, self._stream)

    def download(self, target: np.ndarray, address: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        host = target.ctypes.data
        self._ask("cudaMemcpyAsync", host, address, target.nbytes, kind, self._stream)

    def synchronise(self) -> None:
        self._ask("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        while self._addresses:
            self._ask("cudaFree", self._addresses.pop())
        self._ask("cudaStreamDestroy", self._stream)

    def _ask(self, function: str, *arguments: Any) -> Any:
        error, *results = getattr(self._cuda, function)(*arguments)
        if int(error) != 0:
            raise EngineUnavailable(f"CUDA: {function} failed ({getattr(error, 'name', error)})")
        return results[0] if results else None


class PyCuda:
    """pycuda's driver API: errors are exceptions of its own."""

    def __init__(self, driver: Any) -> None:
        self._cuda = driver
        self._memory: dict[int, Any] = {}
        self._thread = 0
        device = self._ask(self._open)
        capability = ".".join(map(str, device.compute_capability()))
        driver_version = _cuda_version(driver.get_driver_version())
        self.device = Device(device.name(), capability, driver_version)
        self._stream = self._ask(driver.Stream)

    @property
    def stream(self) -> int:
        return int(self._stream.handle)

    def allocate(self, size: int) -> int:
        self._follow()
        memory = self._ask(self._cuda.mem_alloc, size)
        self._memory[int(memory)] = memory
        return int(memory)

    def upload(self, address: int, source: np.ndarray) -> None:
        self._follow()
        self._ask(self._cuda.memcpy_htod_async, address, source, self._stream)

    def download(self, target: np.ndarray, address: int) -> None:
        self._ask(self._cuda.memcpy_dtoh_async, target, address, self._stream)

    def synchronise(self) -> None:
        self._ask(self._stream.synchronize)

    def close(self) -> None:
        self._follow()
        while self._memory:
            self._memory.popitem()[1].free()
        del self._stream
        self._context.pop()

    def _open(self) -> Any:
        self._cuda.init()
        device = self._cuda.Device(0)
        # The one that TensorRT itself uses.
        self._context = device.retain_primary_context()
        self._follow()
        return device

    def _follow(self) -> None:
        """Have the context in the thread that now uses the GPU; pycuda keeps it in one only."""
        here = threading.get_ident()
        if here != self._thread:
            self._context.push()
            self._thread = here

    def _ask(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._cuda.Error as exc:
            raise EngineUnavailable(f"CUDA: {exc}") from exc


def _cuda_version(number: int) -> str:
    """12060 is CUDA 12.6."""
    return f"{number // 1000}.{number % 1000 // 10}"
