"""ONNX engines, float or Q/DQ, executed by ONNX Runtime on the CPU."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from edgeclin.backends.base import TensorSpec
from edgeclin.errors import EngineUnavailable, MissingExtra

try:
    import onnxruntime
except ImportError as exc:
    raise MissingExtra("ONNX Runtime, which executes ONNX engines,", "onnx") from exc

_ERRORS_ONLY = 3


class ONNXBackend:
    """One ONNX Runtime session with one float input and one float output, batch size 1."""

    def __init__(self, model: bytes, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # onnxruntime's errors share no public root
            raise EngineUnavailable(f"ONNX Runtime cannot load the engine: {exc}") from exc
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise EngineUnavailable(
                f"the engine has {len(inputs)} inputs and {len(outputs)} outputs; one of each is "
                "supported"
            )
        self.input, self.output = _spec(inputs[0]), _spec(outputs[0])
        # The session reads the sample where it is, and writes every answer into the same memory.
        self._answer = np.zeros((1, *self.output.shape), np.float32)
        self._binding = self._session.io_binding()
        self._binding.bind_output(
            self.output.name, "cpu", 0, np.float32, self._answer.shape, self._answer.ctypes.data
        )
        self.version = f"ONNX Runtime {version('onnxruntime')} CPU"

    def run(self, sample: np.ndarray) -> np.ndarray:
        bound = np.ascontiguousarray(sample, np.float32)[np.newaxis]
        self._binding.bind_cpu_input(self.input.name, bound)
        self._session.run_with_iobinding(self._binding)
        return self._answer[0].copy()

    def close(self) -> None:
        del self._binding, self._session


def _spec(node: onnxruntime.NodeArg) -> TensorSpec:
    if node.type != "tensor(float)":
        raise EngineUnavailable(f"{node.name} is a {node.type}; float32 is supported")
    shape = node.shape[1:]
    if not all(isinstance(size, int) for size in shape):
        raise EngineUnavailable(f"{node.name} has the dynamic shape {node.shape}")
    return TensorSpec(node.name, tuple(shape), "float32")
