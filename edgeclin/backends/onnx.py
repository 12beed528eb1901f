"""ONNX engines, float or Q/DQ, executed by ONNX Runtime."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from edgeclin.backends.base import TensorSpec
from edgeclin.errors import EngineUnavailable, MissingExtra

try:
    import onnxruntime
except ImportError as exc:
    raise MissingExtra("ONNX Runtime, which executes ONNX engines,", "onnx") from exc

CPU = "CPUExecutionProvider"
_ERRORS_ONLY, _FATAL_ONLY = 3, 4


class ONNXBackend:
    """One ONNX Runtime session with one float input and one float output, batch size 1.

    Args:
        provider: what executes it: the CPU, on which engines are verified and twins stand in, or
            another by the name that ONNX Runtime has for it. That one must execute operators of
            this very engine; `version` says how many.
    """

    def __init__(self, model: bytes, threads: int = 1, *, provider: str = CPU) -> None:
        executed = "" if provider == CPU else _proven(model, provider)
        self._session = _session(model, provider, session_options(threads))
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
        self.version = f"{_runtime()} {executed or 'CPU'}"

    def place(self) -> None:
        """There is none: a sample is read where it is."""

    def run(self, sample: np.ndarray | None) -> np.ndarray:
        assert sample is not None
        bound = np.ascontiguousarray(sample, np.float32)[np.newaxis]
        self._binding.bind_cpu_input(self.input.name, bound)
        self._session.run_with_iobinding(self._binding)
        return self._answer[0].copy()

    def close(self) -> None:
        del self._binding, self._session


def _runtime() -> str:
    return f"ONNX Runtime {onnxruntime.__version__}"


def session_options(threads: int = 1) -> onnxruntime.SessionOptions:
    """What an engine is executed with: also on x86-64 without VNNI in the integers that it means.

    There ONNX Runtime by default adds products of uint8 and int8 in 16 bits, which overflow: an
    INT8 engine was off by 20 % of its output.
    """
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    return options


def _session(
    model: bytes, provider: str, options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    # The CPU is named even where another is asked for: few providers have every operator.
    providers = list(dict.fromkeys((provider, CPU)))
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as exc:  # onnxruntime's errors share no public root
        raise EngineUnavailable(f"ONNX Runtime cannot load the engine: {exc}") from exc


def _proven(model: bytes, provider: str) -> str:
    """How much of an engine a provider executed, by ONNX Runtime's profile of one inference.

    A provider may be listed and fail, or leave every operator to the CPU without a word
    (microsoft/onnxruntime#23372).

    Raises:
        EngineUnavailable: it is not there, or executes nothing of the engine.
    """
    known = onnxruntime.get_available_providers()
    if provider not in known:
        raise EngineUnavailable(f"{_runtime()} has no {provider} (there are: {', '.join(known)})")
    with tempfile.TemporaryDirectory(prefix="edgeclin-") as folder:
        options = session_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = _session(model, provider, options)
        inputs = [(one.name, (1, *_spec(one).shape)) for one in session.get_inputs()]
        try:
            session.run(None, {name: np.zeros(shape, np.float32) for name, shape in inputs})
        except Exception as exc:
            raise EngineUnavailable(f"{provider} cannot execute the engine: {exc}") from exc
        events = json.loads(Path(session.end_profiling()).read_text())
    ran = Counter(event["args"]["provider"] for event in events if event.get("cat") == "Node")
    if not ran[provider]:
        raise EngineUnavailable(
            f"{_runtime()} lists {provider}, but all {ran.total()} operators ran on the CPU"
        )
    return f"{provider} ({ran[provider]} of {ran.total()} operators)"


def _spec(node: onnxruntime.NodeArg) -> TensorSpec:
    if node.type != "tensor(float)":
        raise EngineUnavailable(f"{node.name} is a {node.type}; float32 is supported")
    shape = node.shape[1:]
    if not all(isinstance(size, int) for size in shape):
        raise EngineUnavailable(f"{node.name} has the dynamic shape {node.shape}")
    return TensorSpec(node.name, tuple(shape), "float32")
