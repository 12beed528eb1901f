"""What the Edge TPU compiler will probably do with an engine, read from the engine's flatbuffer.

A prediction: only the compiler's own log says what was mapped. The rules are those of Coral's
documentation ("TensorFlow models on the Edge TPU", supported operations and known limitations) and,
for versions, what users of compiler 16 reported; it understands operators of TensorFlow 2.5's age.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import numpy as np

from edgeclin.errors import MissingExtra
from edgeclin.records import Record

try:
    from ai_edge_litert import schema_py_generated as schema
except ImportError as exc:
    raise MissingExtra("LiteRT, whose schema reads TFLite engines,", "convert") from exc

_NEWEST_RUNTIME = (2, 5, 0)
_MAPPED = {
    "ADD",
    "AVERAGE_POOL_2D",
    "CONCATENATION",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "EXPAND_DIMS",
    "FULLY_CONNECTED",
    "L2_NORMALIZATION",
    "LOGISTIC",
    "MAXIMUM",
    "MAX_POOL_2D",
    "MEAN",
    "MINIMUM",
    "MUL",
    "PACK",
    "PAD",
    "PRELU",
    "QUANTIZE",
    "REDUCE_MAX",
    "REDUCE_MIN",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "RESHAPE",
    "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR",
    "RSQRT",
    "SLICE",
    "SOFTMAX",
    "SPACE_TO_DEPTH",
    "SPLIT",
    "SQUARED_DIFFERENCE",
    "SQUEEZE",
    "STRIDED_SLICE",
    "SUB",
    "SUM",
    "TANH",
    "TRANSPOSE",
    "TRANSPOSE_CONV",
    "UNIDIRECTIONAL_SEQUENCE_LSTM",
}
_NEWEST_VERSION = {"CONV_2D": 5, "TRANSPOSE_CONV": 3}
_NO_FUSED_ACTIVATION = {"AVERAGE_POOL_2D", "CONCATENATION", "MAX_POOL_2D"}
_RESIZES = {"RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"}
_OVER_THE_PICTURE = {"MEAN", "PAD", "SUM"}
"""Operators that may work along height and width only."""
_ELSEWHERE = {
    "GELU": "replace it by ReLU or ReLU6",
    "HARD_SWISH": "replace it by ReLU6",
    "LEAKY_RELU": "replace it by ReLU or PReLU",
    "ELU": "replace it by ReLU",
    "BATCH_MATMUL": "replace attention by convolutions, or end the Edge TPU part before it",
    "DEQUANTIZE": "give the profile integer outputs (numeric.io)",
}
_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}
_TYPES = {code: name for name, code in vars(schema.TensorType).items() if not name.startswith("_")}
_INTEGER = ("INT8", "UINT8")
_RANK = {"Edge TPU": 0, "uncertain": 1, "CPU": 2}


class Mapping(Record, frozen=True):
    """Where one operator will probably run, and why."""

    operator: str
    version: int
    output: str
    predicted: Literal["Edge TPU", "uncertain", "CPU"]
    reason: str = ""
    remedy: str = ""


class Preflight(Record, frozen=True):
    """All operators in the order of execution; sizes in bytes."""

    operators: tuple[Mapping, ...]
    parameter_bytes: int
    on_chip_bytes: int
    minimum_runtime: str
    """The TensorFlow Lite that the engine itself says it needs; empty when it does not."""

    @property
    def mapped(self) -> int:
        """How many operators will probably run on the Edge TPU."""
        return sum(one.predicted == "Edge TPU" for one in self.operators)

    @property
    def end(self) -> Mapping | None:
        """The operator that ends the part on the Edge TPU, or may end it."""
        return next((one for one in self.operators if one.predicted != "Edge TPU"), None)

    @property
    def sentence(self) -> str:
        fits = "fit" if self.parameter_bytes <= self.on_chip_bytes else "do not fit"
        size = f"{self.parameter_bytes:,} bytes of parameters {fits}"
        uncertain = sum(one.predicted == "uncertain" for one in self.operators)
        perhaps = f" ({uncertain} more are uncertain)" if uncertain else ""
        return (
            f"predicted, not compiled: {self.mapped} of {len(self.operators)} operators on the "
            f"Edge TPU{perhaps}; {size} into about {self.on_chip_bytes >> 20} MiB on the chip"
            + self._too_new()
        )

    def _too_new(self) -> str:
        needed = tuple(int(part) for part in re.findall(r"\d+", self.minimum_runtime))
        if needed <= _NEWEST_RUNTIME:
            return ""
        newest = ".".join(map(str, _NEWEST_RUNTIME))
        return f"; it needs TensorFlow Lite {self.minimum_runtime}, compiler 16 knows {newest}"


def preflight(engine: bytes, on_chip_mb: float) -> Preflight:
    """Judge every operator; after the first one that stays on the CPU all others do, and after the
    first uncertain one all others are.

    Args:
        on_chip_mb: memory for parameters on the accelerator, which its program shares.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(engine, 0))
    graph = model.subgraphs[0]
    found: list[Mapping] = []
    end: Mapping | None = None
    for operator in graph.operators:
        judged = _judge(operator, graph, model)
        if end is not None and judged.predicted != "CPU":
            judged = msgspec.structs.replace(
                judged,
                predicted=end.predicted,
                reason=f"after {end.operator}: there is one part, from the first operator on",
                remedy=f"mend {end.operator} ({end.output})",
            )
        if _RANK[judged.predicted] > _RANK["Edge TPU" if end is None else end.predicted]:
            end = judged
        found.append(judged)
    parameters = sum(
        len(model.buffers[tensor.buffer].data)
        for tensor in graph.tensors
        if model.buffers[tensor.buffer].data is not None
    )
    return Preflight(tuple(found), parameters, int(on_chip_mb * (1 << 20)), _minimum_runtime(model))


def custom_operators(engine: bytes) -> list[str]:
    """The custom operators of an engine, in the order of execution."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(engine, 0))
    operators = model.subgraphs[0].operators
    codes = [model.operatorCodes[one.opcodeIndex].customCode for one in operators]
    return [code.decode() for code in codes if code]


def _minimum_runtime(model: Any) -> str:
    for entry in model.metadata or []:
        if entry.name == b"min_runtime_version":
            return bytes(model.buffers[entry.buffer].data).rstrip(b"\0").decode()
    return ""


def _judge(operator: Any, graph: Any, model: Any) -> Mapping:
    code = model.operatorCodes[operator.opcodeIndex]
    name = _NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
    mapping = Mapping(
        operator=name,
        version=code.version,
        output=graph.tensors[operator.outputs[0]].name.decode(),
        predicted="Edge TPU",
    )
    for reason, remedy in _objections(name, code.version, operator, graph, model):
        return msgspec.structs.replace(mapping, predicted="CPU", reason=reason, remedy=remedy)
    if name in _RESIZES:
        return msgspec.structs.replace(
            mapping,
            predicted="uncertain",
            reason="the compiler leaves some sizes on the CPU, to avoid loss in precision",
            remedy="compile it to know, or resize outside of the model",
        )
    return mapping


def _objections(
    name: str, version: int, operator: Any, graph: Any, model: Any
) -> Iterator[tuple[str, str]]:
    """Every reason why an operator stays on the CPU, with what to change."""
    if name not in _MAPPED:
        yield f"the Edge TPU has no {name}", _ELSEWHERE.get(name, "replace it in the model")
    newest = _NEWEST_VERSION.get(name)
    if newest is not None and version > newest:
        yield (
            f"version {version}, compiler 16 reads up to {newest}",
            "convert with a TensorFlow of the compiler's age, or change the operator's options",
        )
    tensors = [
        graph.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0
    ]
    activations = [tensor for tensor in tensors if model.buffers[tensor.buffer].data is None]
    for tensor in activations:
        yield from _of_tensor(tensor)
    yield from _of_options(name, operator, graph, model)


def _of_tensor(tensor: Any) -> Iterator[tuple[str, str]]:
    label, shape = tensor.name.decode(), [int(size) for size in tensor.shape]
    if _TYPES[tensor.type] not in _INTEGER:
        kind = _TYPES[tensor.type].lower()
        yield f"{label} is {kind}, not int8", "quantise it, inputs and outputs too (numeric.io)"
    if tensor.shapeSignature is not None and any(size < 0 for size in tensor.shapeSignature):
        yield f"{label} has a dynamic shape", "fix every axis"
    if any(size > 1 for size in shape[:-3]):
        yield (
            f"{label} has the shape {shape}: only the three innermost axes may be above 1",
            "use batch size 1, and fold outer axes into inner ones",
        )


def _of_options(name: str, operator: Any, graph: Any, model: Any) -> Iterator[tuple[str, str]]:
    options = operator.builtinOptions
    if name in _NO_FUSED_ACTIVATION and getattr(options, "fusedActivationFunction", None):
        yield "it has a fused activation", "put the activation before it"
    if name in ("CONV_2D", "DEPTHWISE_CONV_2D") and (
        options.dilationWFactor != options.dilationHFactor
    ):
        yield "its dilation differs in x and y", "use the same in both"
    if name == "FULLY_CONNECTED":
        yield from _of_fully_connected(operator, graph)
    if name in _OVER_THE_PICTURE:
        yield from _of_axes(name, operator, graph, model)


def _of_fully_connected(operator: Any, graph: Any) -> Iterator[tuple[str, str]]:
    scales = graph.tensors[operator.inputs[1]].quantization
    if scales is not None and scales.scale is not None and len(scales.scale) > 1:
        yield (
            f"its weights have {len(scales.scale)} scales",
            "one a tensor: leave FULLY_CONNECTED out of numeric.per_channel",
        )
    shape = [int(size) for size in graph.tensors[operator.outputs[0]].shape]
    if sum(size > 1 for size in shape) > 1:
        yield f"its output has the shape {shape}, more than one axis", "flatten before it"


def _of_axes(name: str, operator: Any, graph: Any, model: Any) -> Iterator[tuple[str, str]]:
    rank = len(graph.tensors[operator.inputs[0]].shape)
    constant = graph.tensors[operator.inputs[1]]
    data = model.buffers[constant.buffer].data
    if data is None or rank < 3:
        return
    values = np.frombuffer(bytes(data), np.int32)
    if name == "PAD":
        axes = {int(axis) for axis in np.flatnonzero(values.reshape(-1, 2).any(axis=1))}
    else:
        axes = {int(axis) % rank for axis in values}
    if axes - {rank - 3, rank - 2}:
        yield f"it works along the axes {sorted(axes)}", "only height and width are supported"
