"""TensorRT engines, executed on the GPU that they were built on."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeclin.backends.base import TensorSpec
from edgeclin.errors import EngineUnavailable
from edgeclin.tensorrt.cuda import open_cuda
from edgeclin.tensorrt.library import load_library, new_logger


class TensorRTBackend:
    """One engine with one float input and one float output, batch size 1, on the first GPU.

    It takes the plan that `edgeclin build` made on this machine.
    """

    def __init__(self, model: bytes, threads: int = 1) -> None:
        library = load_library()
        trt = library.module
        self._cuda = open_cuda()
        self._logger = new_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(model)
        if self._engine is None:
            raise EngineUnavailable(
                f"{library.title} cannot load the engine ({_last(self._logger)}); it belongs to "
                "one TensorRT and one GPU: build it here with `edgeclin build`"
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineUnavailable(
                f"{library.title} has no room to run the engine ({_last(self._logger)})"
            )
        self.input = self._spec(trt, trt.TensorIOMode.INPUT)
        self.output = self._spec(trt, trt.TensorIOMode.OUTPUT)
        self.version = f"{library.title} on {self._cuda.device.name}"
        self._sample = np.zeros((1, *self.input.shape), np.float32)
        self._answer = np.zeros((1, *self.output.shape), np.float32)
        self._addresses = [self._bind(self.input, self._sample)]
        self._addresses.append(self._bind(self.output, self._answer))

    def run(self, sample: np.ndarray) -> np.ndarray:
        self._sample[0] = sample
        self._cuda.upload(self._addresses[0], self._sample)
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineUnavailable(f"TensorRT did not run the engine ({_last(self._logger)})")
        self._cuda.download(self._answer, self._addresses[1])
        self._cuda.synchronise()
        return self._answer[0].copy()

    def close(self) -> None:
        del self._context, self._engine, self._runtime
        self._cuda.close()

    def _bind(self, spec: TensorSpec, array: np.ndarray) -> int:
        address = self._cuda.allocate(array.nbytes)
        if not self._context.set_tensor_address(spec.name, address):
            raise EngineUnavailable(f"TensorRT takes no memory for {spec.name}")
        return address

    def _spec(self, trt: Any, mode: Any) -> TensorSpec:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = [name for name in names if engine.get_tensor_mode(name) == mode]
        if len(found) != 1:
            raise EngineUnavailable(
                f"the engine has {len(found)} tensors of {mode}; one is supported"
            )
        shape = tuple(int(size) for size in engine.get_tensor_shape(found[0]))
        # Not trt.nptype: that of version 8.5 fails with a NumPy of today.
        if engine.get_tensor_dtype(found[0]) != trt.DataType.FLOAT:
            raise EngineUnavailable(f"{found[0]} is no float32, which is supported")
        if shape[:1] != (1,) or min(shape) < 0:
            raise EngineUnavailable(f"{found[0]} has the shape {list(shape)}, expected batch 1")
        return TensorSpec(found[0], shape[1:], "float32")


def _last(logger: Any) -> str:
    return str(logger.problems[-1]) if logger.problems else "it does not say why"
