"""The layers of a quantised TFLite engine, executed by LiteRT.

For the layers' own errors the engine is cut apart: in a copy of its flatbuffer every operator takes
its tensors from inputs of their own, so that one call executes them all, each on what it is given.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgeclin.convert.flatbuffer import copied, pack, unpack
from edgeclin.convert.layers import INPUT
from edgeclin.convert.probes.base import Place
from edgeclin.convert.probes.weights import spread
from edgeclin.errors import MissingExtra

try:
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
except ImportError as exc:
    raise MissingExtra("LiteRT, which executes TFLite models,", "convert") from exc

_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_KERNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0}
"""The axis of the output channels in the weights, which are the second input."""
_OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}


class TFLiteProbe:
    """A quantised TFLite engine beside its float model."""

    channel_axis = -1

    def __init__(self, engine: Path, model: Path, threads: int = 1) -> None:
        data = engine.read_bytes()
        graph = _Graph(data, _weights_and_names(model))
        self.places = list(graph.places())
        self._whole = _Kept(data, threads)
        kernels = "XNNPACK" if self._whole.xnnpack else "built-in kernels"
        self.executed_by = f"LiteRT {version('ai-edge-litert')} {kernels}"
        self._input = self._whole.interpreter.get_input_details()[0]["index"]
        self._given = graph.given
        cut, self._fed = graph.cut_apart()
        self._parts = _Kept(cut, threads, xnnpack=self._whole.xnnpack)

    def arriving(self, sample: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        self._whole.feed(self._input, sample[np.newaxis])
        self._whole.interpreter.invoke()
        yield from self._values(self._whole)

    def own(self, floats: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        for index, name in self._fed:
            self._parts.feed(index, floats[name])
        self._parts.interpreter.invoke()
        yield from self._values(self._parts)

    def _values(self, kept: _Kept) -> Iterator[tuple[str, np.ndarray]]:
        for index, name in self._given:
            yield name, kept.values(index)


@dataclass(frozen=True, slots=True)
class _FloatModel:
    """What is read of the float model: names of its float tensors, and weights by layer."""

    names: set[str]
    weights: dict[str, tuple[int, np.ndarray]]


def _weights_and_names(model: Path) -> _FloatModel:
    interpreter = Interpreter(str(model))
    details = {entry["index"]: entry for entry in interpreter.get_tensor_details()}
    weights = {}
    for operator in interpreter._get_ops_details():  # there is no public list of them
        axis = _KERNEL_AXIS.get(operator["op_name"])
        if axis is not None:
            name = str(details[int(operator["outputs"][0])]["name"])
            weights[name] = axis, interpreter.get_tensor(int(operator["inputs"][1]))
    floats = {str(entry["name"]) for entry in details.values() if entry["dtype"] == np.float32}
    return _FloatModel(floats, weights)


class _Kept:
    """An interpreter that keeps all tensors, read and written as floats.

    LiteRT's built-in kernels execute what XNNPACK's do not take.
    """

    def __init__(self, model: bytes, threads: int, *, xnnpack: bool = True) -> None:
        self.xnnpack = xnnpack
        try:
            self.interpreter = _interpreter(model, threads, xnnpack)
        except RuntimeError:
            if not xnnpack:
                raise
            self.xnnpack = False
            self.interpreter = _interpreter(model, threads, xnnpack=False)
        self._details = {entry["index"]: entry for entry in self.interpreter.get_tensor_details()}

    def feed(self, index: int, values: np.ndarray) -> None:
        entry = self._details[index]
        scale, zero = entry["quantization"]
        if scale and entry["dtype"] != np.float32:
            bounds = np.iinfo(entry["dtype"])
            steps = np.rint(values / np.float32(scale)) + zero
            values = np.clip(steps, bounds.min, bounds.max).astype(entry["dtype"])
        self.interpreter.set_tensor(index, values)

    def values(self, index: int) -> np.ndarray:
        values = self.interpreter.get_tensor(index)
        scale, zero = self._details[index]["quantization"]
        if values.dtype == np.float32 or not scale:
            return values.astype(np.float32, copy=False)
        return (values.astype(np.float32) - zero) * np.float32(scale)


def _interpreter(model: bytes, threads: int, xnnpack: bool) -> Interpreter:
    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # keeping all tensors is what this is for
        interpreter = Interpreter(
            model_content=model,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.AUTO if xnnpack else kernels,
            num_threads=threads,
        )
    interpreter.allocate_tensors()
    return interpreter


class _Graph:
    """The first subgraph of an engine, its tensors known by the float model's names."""

    def __init__(self, engine: bytes, floats: _FloatModel) -> None:
        self._model = unpack(engine)
        self._floats = floats
        self._graph = self._model.subgraphs[0]
        self._tensors = self._graph.tensors
        self._makers = {index: one for one in self._graph.operators for index in one.outputs}
        self._taken = {int(index) for one in self._graph.operators for index in one.inputs}
        self._taken |= {int(index) for index in self._graph.outputs}
        self._layers = list(self._of_layers())

    @property
    def given(self) -> list[tuple[int, str]]:
        """The tensor that each layer gives, and its name."""
        return [(index, name) for _, index, name in self._layers]

    def _of_layers(self) -> Iterator[tuple[Any, int, str]]:
        """Operator (None for the input itself), tensor that it gives, and the float one's name."""
        given = int(self._graph.inputs[0])
        quantised = next((index for index in self._users(given, "QUANTIZE")), given)
        yield None, quantised, self._own_name(given)
        for operator in self._graph.operators:
            for index in (one for one in operator.outputs if one in self._taken):
                name = self._name(index)
                if name and self._kind(operator) not in _CONVERSIONS and self._is_number(index):
                    yield operator, int(index), name

    def places(self) -> Iterator[Place]:
        """What is known of each layer before anything runs."""
        for operator, index, name in self._layers:
            tensor = self._tensors[index]
            axis, weights = self._floats.weights.get(name, (0, np.zeros(0)))
            ends, step = _ends(tensor)
            yield Place(
                name=name,
                operator=INPUT if operator is None else self._kind(operator),
                tensors=(name,),
                ends=ends,
                step=step,
                weight_spread=spread(weights, axis),
                weight_scales=0 if operator is None else self._weight_scales(operator),
            )

    def cut_apart(self) -> tuple[bytes, list[tuple[int, str]]]:
        """A copy in which no operator waits for another: its bytes, and what to feed to which."""
        fed = [(int(self._graph.inputs[0]), self._own_name(int(self._graph.inputs[0])))]
        for operator in self._graph.operators:
            operator.inputs = list(operator.inputs)
            for position, index in enumerate(operator.inputs):
                name = self._name(int(index)) if index in self._makers else None
                if name and self._is_number(int(index)):
                    copy = copied(self._tensors[index])
                    operator.inputs[position] = len(self._tensors)
                    fed.append((len(self._tensors), name))
                    self._tensors.append(copy)
        self._graph.inputs = [index for index, _ in fed]
        self._graph.outputs = [index for index, _ in self.given]
        self._model.signatureDefs = []
        return pack(self._model), fed

    def _name(self, index: int) -> str | None:
        """The float tensor that a tensor stands for, through what only converts between types."""
        name = self._own_name(index)
        if name in self._floats.names:
            return name
        maker = self._makers.get(index)
        if maker is not None and self._kind(maker) in _CONVERSIONS:
            return self._name(int(maker.inputs[0]))
        users = (user for kind in _CONVERSIONS for user in self._users(index, kind))
        known = (self._own_name(user) for user in users)
        return next((name for name in known if name in self._floats.names), None)

    def _users(self, index: int, kind: str) -> Iterator[int]:
        """What operators of a kind make of a tensor."""
        for operator in self._graph.operators:
            if self._kind(operator) == kind and index in operator.inputs:
                yield int(operator.outputs[0])

    def _own_name(self, index: int) -> str:
        return str(self._tensors[index].name.decode())

    def _kind(self, operator: Any) -> str:
        code = self._model.operatorCodes[operator.opcodeIndex]
        return _OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def _is_number(self, index: int) -> bool:
        """Whether it holds what a float tensor of the model holds, and no index or shape."""
        tensor = self._tensors[index]
        return tensor.type == schema.TensorType.FLOAT32 or _is_quantised(tensor)

    def _weight_scales(self, operator: Any) -> int:
        if self._kind(operator) not in _KERNEL_AXIS:
            return 0
        weights = self._tensors[operator.inputs[1]]
        return len(weights.quantization.scale) if _is_quantised(weights) else 0


def _is_quantised(tensor: Any) -> bool:
    return tensor.quantization is not None and tensor.quantization.scale is not None


_BOUNDS: dict[int, Any] = {
    schema.TensorType.INT8: np.iinfo(np.int8),
    schema.TensorType.UINT8: np.iinfo(np.uint8),
    schema.TensorType.INT16: np.iinfo(np.int16),
}


def _ends(tensor: Any) -> tuple[tuple[float, float] | None, float]:
    bounds = _BOUNDS.get(tensor.type)
    if bounds is None or not _is_quantised(tensor):
        return None, 0.0
    scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
    return ((bounds.min - zero) * scale, (bounds.max - zero) * scale), scale
