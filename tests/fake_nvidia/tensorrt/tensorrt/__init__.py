"""A fake of TensorRT 8.5, 10 or 11 (FAKE_TENSORRT names the version): see fake_nvidia/README.md.

Its "engine" is the ONNX model itself, which ONNX Runtime computes on the CPU. It refuses what each
version refuses: flags that were removed do not exist, Q/DQ wants the INT8 flag where a network is
weakly typed and no flag where it is strongly typed, version 8 wants an explicit batch and float
weights, and a dynamic shape wants an optimisation profile.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from enum import IntEnum
from typing import Any

import fake_gpu
import numpy as np
import onnx
import onnxruntime

__version__ = os.environ["FAKE_TENSORRT"]
_MAJOR = int(__version__.split(".")[0])
_NETWORK_FLAGS = {
    8: {"EXPLICIT_BATCH": 0, "EXPLICIT_PRECISION": 1},
    10: {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    11: {"STRONGLY_TYPED": 0},
}
_BUILDER_FLAGS = {
    8: ["FP16", "INT8", "DEBUG", "TF32"],
    10: ["FP16", "INT8", "DEBUG", "TF32", "BF16"],
    11: ["DEBUG", "TF32"],
}
NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", _NETWORK_FLAGS[_MAJOR])  # type: ignore[misc]
BuilderFlag = IntEnum("BuilderFlag", _BUILDER_FLAGS[_MAJOR])  # type: ignore[misc]
DataType = IntEnum("DataType", ["FLOAT", "HALF", "INT8", "INT32"])
TensorIOMode = IntEnum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
MemoryPoolType = IntEnum("MemoryPoolType", ["WORKSPACE"])


class ILogger:
    Severity = IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])


class _ParserError:
    def __init__(self, node: int, words: str) -> None:
        self._node, self._words = node, words

    def node(self) -> int:
        return self._node

    def desc(self) -> str:
        return self._words


class _Network:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model: onnx.ModelProto | None = None

    @property
    def num_layers(self) -> int:
        assert self.model is not None
        return len(self.model.graph.node)

    @property
    def strongly_typed(self) -> bool:
        return _MAJOR >= 11 or (_MAJOR == 10 and bool(self.flags & 2))


class OnnxParser:
    def __init__(self, network: _Network, logger: ILogger) -> None:
        self._network = network
        self._errors: list[_ParserError] = []

    def parse(self, model: bytes) -> bool:
        if _MAJOR == 8 and not self._network.flags & 1:
            self._errors.append(_ParserError(-1, "the parser wants an explicit batch dimension"))
            return False
        try:
            self._network.model = onnx.load_model_from_string(model)
        except Exception:
            self._errors.append(_ParserError(-1, "Failed to parse ONNX model from a byte buffer"))
            return False
        self._errors += _broken(self._network.model)
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> _ParserError:
        return self._errors[index]


def _broken(model: onnx.ModelProto) -> list[_ParserError]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for number, node in enumerate(model.graph.node):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            point = constants.get(node.input[2])
            if point is not None and onnx.numpy_helper.to_array(point).any():
                found.append(_ParserError(number, "TensorRT only supports symmetric quantization"))
            weight = constants.get(node.input[0])
            if _MAJOR == 8 and weight is not None and weight.data_type == onnx.TensorProto.INT8:
                found.append(_ParserError(number, "a quantised constant behind DequantizeLinear"))
    return found


class _Timings:
    def __init__(self, data: bytes) -> None:
        self.entries = json.loads(data) if data else {}

    def serialize(self) -> bytes:
        return json.dumps(self.entries).encode()


class _Config:
    def __init__(self) -> None:
        self._flags = {BuilderFlag.TF32}
        self._timings: _Timings | None = None
        self.workspace: int | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(BuilderFlag(flag))

    def get_flag(self, flag: BuilderFlag) -> bool:
        return flag in self._flags

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self.workspace = pool_size

    def create_timing_cache(self, serialized_timing_cache: bytes) -> _Timings:
        return _Timings(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: _Timings, ignore_mismatch: bool) -> bool:
        self._timings = cache
        return True

    def get_timing_cache(self) -> _Timings | None:
        return self._timings


class Builder:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> _Network:
        return _Network(flags)

    def create_builder_config(self) -> _Config:
        return _Config()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        time.sleep(float(os.environ.get("FAKE_TENSORRT_SECONDS", "0")))
        if "FAKE_TENSORRT_CRASH" in os.environ:
            os.kill(os.getpid(), signal.SIGSEGV)
        assert network.model is not None
        problem = _refused(network, config)
        if problem:
            self._logger.log(ILogger.Severity.ERROR, problem)
            return None
        timings = config.get_timing_cache()
        if timings is not None:
            timings.entries["conv"] = timings.entries.get("conv", 0) + 1
        return _head() + network.model.SerializeToString()


def _refused(network: _Network, config: _Config) -> str:
    assert network.model is not None
    names = BuilderFlag.__members__
    quantised = any(node.op_type == "QuantizeLinear" for node in network.model.graph.node)
    int8 = "INT8" in names and config.get_flag(BuilderFlag["INT8"])
    if network.strongly_typed and int8:
        return "API Usage Error (condition: !config.getFlag(BuilderFlag::kINT8))"
    if quantised and not network.strongly_typed and not int8:
        return "Int8 precision has been set for a layer, but int8 is not configured in the builder"
    shapes = [
        [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in network.model.graph.input
    ]
    if not all(all(shape) for shape in shapes):
        return "Network has dynamic or shape inputs, but no optimization profile has been defined."
    return ""


def _head() -> bytes:
    return f"FAKE PLAN of {__version__} for {fake_gpu.NAME}\n".encode()


class Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> _Engine | None:
        if not serialized_engine.startswith(_head()):
            self._logger.log(
                ILogger.Severity.ERROR,
                "The engine plan file is not compatible with this version of TensorRT",
            )
            return None
        return _Engine(serialized_engine[len(_head()) :])


class _Engine:
    def __init__(self, model: bytes) -> None:
        self.session = onnxruntime.InferenceSession(model)
        self._inputs, self._outputs = self.session.get_inputs(), self.session.get_outputs()

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    def _tensor(self, name: str) -> Any:
        return next(one for one in [*self._inputs, *self._outputs] if one.name == name)

    def get_tensor_name(self, index: int) -> str:
        return str([*self._inputs, *self._outputs][index].name)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        inputs = [one.name for one in self._inputs]
        return TensorIOMode.INPUT if name in inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensor(name).shape)

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.FLOAT if self._tensor(name).type == "tensor(float)" else DataType.INT8

    def create_execution_context(self) -> _Context:
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory in fake_gpu.memory

    def execute_async_v3(self, stream_handle: int) -> bool:
        fake_gpu.queue(stream_handle, self._compute)
        return True

    def _compute(self) -> None:
        engine = self._engine
        (source,), (target,) = engine.session.get_inputs(), engine.session.get_outputs()
        size = int(np.prod(source.shape)) * 4
        data = ctypes.string_at(self._addresses[source.name], size)
        feed = {source.name: np.frombuffer(data, np.float32).reshape(source.shape)}
        (answer,) = engine.session.run([target.name], feed)
        answer = answer + np.float32(os.environ.get("FAKE_TENSORRT_OFF", "0"))
        ctypes.memmove(self._addresses[target.name], answer.tobytes(), answer.nbytes)
