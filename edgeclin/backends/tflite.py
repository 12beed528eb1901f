"""TensorFlow Lite engines, executed by LiteRT with XNNPACK on the CPU."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgeclin.backends.base import TensorSpec, quantised
from edgeclin.backends.litert import RUNTIME, Interpreter, OpResolverType
from edgeclin.errors import EngineUnavailable

CUSTOM_OPERATOR = "edgetpu-custom-op"
"""What the Edge TPU compiler puts in place of the operators that the Edge TPU executes."""
log = logging.getLogger(__name__)
_stderr_lock = threading.Lock()


class TFLiteBackend:
    """One LiteRT interpreter with one input and one output, batch size 1.

    Args:
        xnnpack: False for LiteRT's built-in kernels, which is how other kernels are seen to differ.
        delegates: what executes operators in place of kernels, as LiteRT loaded it.
    """

    def __init__(
        self, model: bytes, threads: int = 1, *, xnnpack: bool = True, delegates: Sequence[Any] = ()
    ) -> None:
        kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            self._interpreter = Interpreter(
                model_content=model,
                num_threads=threads,
                experimental_op_resolver_type=OpResolverType.AUTO if xnnpack else kernels,
                experimental_delegates=list(delegates) or None,
            )
            with _routine_lines_logged():
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, SystemError) as exc:
            raise EngineUnavailable(_why(exc)) from exc
        inputs, outputs = (
            self._interpreter.get_input_details(),
            self._interpreter.get_output_details(),
        )
        if len(inputs) != 1 or len(outputs) != 1:
            raise EngineUnavailable(
                f"the engine has {len(inputs)} inputs and {len(outputs)} outputs; one of each is "
                "supported"
            )
        self.input, self._input_index = _spec(inputs[0]), inputs[0]["index"]
        self.output, self._output_index = _spec(outputs[0]), outputs[0]["index"]
        self._placed = False
        self._real = np.empty(self.input.shape, np.float32)
        self._steps = np.empty((1, *self.input.shape), self.input.dtype)
        self.version = f"{RUNTIME} {'XNNPACK' if xnnpack else 'built-in kernels'}"

    def place(self) -> np.ndarray:
        self._placed = True
        tensor: np.ndarray = self._interpreter.tensor(self._input_index)()
        return tensor[0]

    def run(self, sample: np.ndarray | None) -> np.ndarray:
        if sample is None:
            if not self._placed:
                raise RuntimeError("no sample is in its place")
        else:
            self._interpreter.set_tensor(self._input_index, self._taken(sample))
        self._placed = False
        self._interpreter.invoke()
        return _dequantise(self._interpreter.get_tensor(self._output_index)[0], self.output)

    def close(self) -> None:
        del self._interpreter

    def _taken(self, sample: np.ndarray) -> np.ndarray:
        """The sample as the engine takes it, [1, …]."""
        spec = self.input
        if spec.scale is None or sample.dtype == self._steps.dtype:
            return sample.astype(self._steps.dtype, copy=False)[np.newaxis]
        self._steps[0] = quantised(sample, spec, self._real)
        return self._steps


def _why(exc: Exception) -> str:
    """What LiteRT says, on one line, and what it means."""
    if isinstance(exc, SystemError):  # a module that was built for NumPy 1 finds none
        return f"{RUNTIME} does not work with NumPy {np.__version__}: pip install 'numpy<2'"
    said = " ".join(str(exc).split())
    if f"unresolved custom op: {CUSTOM_OPERATOR}" in said:
        return (
            f"unresolved custom op: {CUSTOM_OPERATOR}: the engine is compiled for the Edge TPU and "
            "runs with the backend tflite-edgetpu only"
        )
    return f"{RUNTIME} cannot load the engine: {said}"


@contextmanager
def _routine_lines_logged() -> Iterator[None]:
    """Log LiteRT's INFO lines, which it prints whatever its settings; let all others through.

    It prints from C++ on descriptor 2, which belongs to the whole process: what other threads print
    meanwhile is held back until the block ends, what a process that they start then prints is lost,
    and so is what was said before a crash within the block.
    """
    with _stderr_lock:
        try:
            descriptor = os.dup(2)
        except OSError:  # a service may have closed it
            yield
            return
        held_by = os.memfd_create("stderr")
        with os.fdopen(descriptor, "wb", 0) as stderr, os.fdopen(held_by, "rb") as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(stderr.fileno(), 2)
                held.seek(0)
                for line in held:
                    if line.startswith(b"INFO: "):
                        log.info("%s", line[6:].decode(errors="replace").rstrip())
                    else:
                        stderr.write(line)


def _spec(details: dict[str, Any]) -> TensorSpec:
    shape = tuple(int(size) for size in details["shape"])
    dtype = np.dtype(details["dtype"])
    scale, zero_point = details["quantization"]
    integer = dtype.kind in "iu"
    return TensorSpec(
        name=str(details["name"]),
        shape=shape[1:],
        dtype=dtype.name,
        scale=float(scale) if integer else None,
        zero_point=int(zero_point) if integer else 0,
    )


def _dequantise(value: np.ndarray, spec: TensorSpec) -> np.ndarray:
    if spec.scale is None:
        return value.astype(np.float32, copy=False)
    return (value.astype(np.float32) - spec.zero_point) * np.float32(spec.scale)
