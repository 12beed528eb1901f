"""The rules by which TensorRT takes explicit Q/DQ from an ONNX model: one message for each broken.

TensorRT documentation, "Explicit quantization" (8.5 to 11): signed int8, zero point 0, one scale a
tensor for activations, one an output channel for weights (along the axes of `qdq_axes`), float
biases, static shapes, integers between Q and DQ alone, and all inputs of an operator quantised or
none. Opsets 13 to 17 are read by all of these versions. A constant that is added is a bias too: a
quantised scalar ended the build of TensorRT-RTX 1.7.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edgeclin.convert.qdq_axes import WEIGHTED, channel_axis
from edgeclin.errors import MissingExtra

try:
    import onnx
except ImportError as exc:
    raise MissingExtra("onnx, which reads ONNX models,", "convert") from exc

OPSETS = range(13, 18)
_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}
"""Which input of an operator is its bias."""


def broken_rules(model: onnx.ModelProto, version: str) -> list[str]:
    """What a TensorRT would refuse or ignore; empty when it keeps to every rule.

    Args:
        version: of TensorRT, such as `8.5`: version 8 takes weights only as float behind Q and DQ.
    """
    major = int(version.partition(".")[0])
    return [*_of_model(model), *_Rules(model.graph, {}, {}).broken(major)]


def _of_model(model: onnx.ModelProto) -> Iterator[str]:
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version not in OPSETS:
            yield (
                f"opset {entry.version}: TensorRT 8.5 to 11 all read {OPSETS[0]} to "
                f"{OPSETS[-1]} only"
            )
    for value in (*model.graph.input, *model.graph.output):
        shape = value.type.tensor_type.shape.dim
        if not all(axis.dim_value for axis in shape):
            yield f"{value.name}: a dynamic shape, fix every axis"


class _Rules:
    """The rules for one graph, and for those within its operators (the branches of If).

    Args:
        constants, makers: of the graphs around it, by the name of a tensor.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        constants: Mapping[str, onnx.TensorProto],
        makers: Mapping[str, onnx.NodeProto],
    ) -> None:
        self._nodes = list(graph.node)
        self._given = {value.name for value in graph.output}
        self._constants = {**constants, **{tensor.name: tensor for tensor in graph.initializer}}
        made = {name: node for node in self._nodes for name in node.output}
        self._makers: Mapping[str, onnx.NodeProto] = {**makers, **made}

    def broken(self, major: int) -> Iterator[str]:
        for domain in sorted({node.domain for node in self._nodes} - {"", "ai.onnx"}):
            yield f"operators of the domain {domain}, which TensorRT does not have"
        for node in self._nodes:
            if node.op_type in (_Q, _DQ):
                yield from self._of_scale(node)
                yield from self._of_zero_point(node)
                yield from self._of_axis(node)
            if node.op_type == _Q:
                yield from self._of_integers(node)
            if node.op_type == _DQ:
                yield from self._of_source(node, major)
            if node.op_type == "Add":
                yield from self._of_offset(node)
            if node.op_type in (*WEIGHTED, "Add"):
                yield from self._of_halves(node)
            if node.op_type in _BIAS and len(node.input) > _BIAS[node.op_type]:
                yield from self._of_bias(node)
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    yield from _Rules(graph, self._constants, self._makers).broken(major)

    def _of_scale(self, node: onnx.NodeProto) -> Iterator[str]:
        if any(name not in self._constants for name in node.input[1:] if name):
            yield f"{_name(node)}: scale and zero point must be constants"
        scale = self._constants.get(node.input[1])
        if scale is not None:
            values = onnx.numpy_helper.to_array(scale)
            if not (np.isfinite(values).all() and (values > 0).all()):
                yield f"{_name(node)}: a scale of {values.min()}, it must be finite and above 0"

    def _of_zero_point(self, node: onnx.NodeProto) -> Iterator[str]:
        if len(node.input) < 3 or not node.input[2]:
            yield f"{_name(node)}: no zero point, which ONNX takes as uint8; give it an int8 0"
            return
        point = self._constants.get(node.input[2])
        if point is None:
            return
        if point.data_type != onnx.TensorProto.INT8:
            kind = onnx.TensorProto.DataType.Name(point.data_type).lower()
            yield f"{_name(node)}: the zero point is {kind}, only int8 is read"
        if onnx.numpy_helper.to_array(point).any():
            yield f"{_name(node)}: a zero point other than 0, only symmetric ranges are read"

    def _of_axis(self, node: onnx.NodeProto) -> Iterator[str]:
        scale = self._constants.get(node.input[1])
        if scale is None or not list(scale.dims) or list(scale.dims) == [1]:
            return
        weight = self._weight(node)
        if weight is None:
            yield f"{_name(node)}: an activation with {scale.dims[0]} scales, only one is read"
            return
        rank = len(weight.dims)
        axis = next((one.i for one in node.attribute if one.name == "axis"), 1) % rank
        for user, position in self._users(node):
            if user.op_type not in WEIGHTED:
                continue
            expected = channel_axis(user, position, rank)
            if expected is None:
                yield f"{_name(node)}: {scale.dims[0]} scales, {user.op_type} wants one here"
            elif axis != expected:
                yield f"{_name(node)}: scales along axis {axis}, {user.op_type} wants {expected}"

    def _of_integers(self, node: onnx.NodeProto) -> Iterator[str]:
        users = [user.op_type for user in self._nodes if node.output[0] in user.input]
        if node.output[0] in self._given or not users:
            yield f"{_name(node)}: no DequantizeLinear after it"
        for kind in sorted(set(users) - {_DQ}):
            yield f"{_name(node)}: {kind} takes its integers, put a DequantizeLinear between"

    def _of_halves(self, node: onnx.NodeProto) -> Iterator[str]:
        data = [name for name in node.input[:2] if name]
        if node.op_type == "Add" and any(self._is_constant(name) for name in data):
            return  # a bias, which stays in float
        quantised = [self._is_dequantised(name) for name in data]
        if any(quantised) and not all(quantised):
            yield (
                f"{_name(node)}: {node.op_type} with {data[quantised.index(False)]} in float and "
                "its other input quantised, quantise both or none"
            )

    def _of_source(self, node: onnx.NodeProto, major: int) -> Iterator[str]:
        tensor = self._constants.get(node.input[0])
        if tensor is not None:
            if tensor.data_type == onnx.TensorProto.INT8 and major <= 8:
                yield (
                    f"{_name(node)}: an int8 weight behind DequantizeLinear alone, TensorRT "
                    f"{major} wants a float weight, QuantizeLinear and DequantizeLinear"
                )
            return
        maker = self._makers.get(node.input[0])
        if maker is None or maker.op_type != _Q:
            yield f"{_name(node)}: no QuantizeLinear before it"
        elif list(maker.input[1:]) != list(node.input[1:]):
            yield f"{_name(node)}: another scale or zero point than the QuantizeLinear before it"

    def _of_bias(self, node: onnx.NodeProto) -> Iterator[str]:
        maker = self._makers.get(node.input[_BIAS[node.op_type]])
        if maker is not None and maker.op_type == _DQ:
            yield f"{_name(node)}: a quantised bias, leave it in float"

    def _of_offset(self, node: onnx.NodeProto) -> Iterator[str]:
        if any(self._is_dequantised(name) and self._is_constant(name) for name in node.input):
            yield f"{_name(node)}: adds a quantised constant, leave it in float"

    def _is_dequantised(self, name: str) -> bool:
        maker = self._makers.get(name)
        return maker is not None and maker.op_type == _DQ

    def _is_constant(self, name: str) -> bool:
        maker = self._makers.get(name)
        if maker is None:
            return name in self._constants
        return maker.op_type == _DQ and self._weight(maker) is not None

    def _weight(self, node: onnx.NodeProto) -> onnx.TensorProto | None:
        """The constant that leads here, through a QuantizeLinear at most."""
        maker = self._makers.get(node.input[0])
        source = maker.input[0] if maker is not None and maker.op_type == _Q else node.input[0]
        return self._constants.get(source)

    def _users(self, node: onnx.NodeProto) -> Iterator[tuple[onnx.NodeProto, int]]:
        """What the values go to, through a DequantizeLinear, and as which input."""
        for user in self._nodes:
            for position, name in enumerate(user.input):
                if name == node.output[0]:
                    yield from self._users(user) if user.op_type == _DQ else [(user, position)]


def _name(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type} of {node.output[0]}"
