"""The rules by which TensorRT takes explicit Q/DQ from an ONNX model: one message for each broken.

TensorRT documentation, "Explicit quantization" (8.5 to 11): signed int8, zero point 0, one scale a
tensor for activations, one an output channel (axis 0 of a convolution) for weights, float biases,
static shapes. Opsets 13 to 17 are read by all of these versions. A constant that is
added is a bias too: a quantised scalar ended the build of TensorRT-RTX 1.7.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgeclin.errors import MissingExtra

try:
    import onnx
except ImportError as exc:
    raise MissingExtra("onnx, which reads ONNX models,", "convert") from exc

OPSETS = range(13, 18)
_CONVOLUTIONS = {"Conv": 0, "ConvTranspose": 1}
"""The axis of the output channels in their weights."""
_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}
"""Which input of an operator is its bias."""


def broken_rules(model: onnx.ModelProto, version: str) -> list[str]:
    """What a TensorRT would refuse or ignore; empty when it keeps to every rule.

    Args:
        version: of TensorRT, such as `8.5`: version 8 takes weights only as float behind Q and DQ.
    """
    return list(_Rules(model).broken(int(version.partition(".")[0])))


class _Rules:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._nodes = list(model.graph.node)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers: Mapping[str, onnx.NodeProto] = {
            name: node for node in self._nodes for name in node.output
        }

    def broken(self, major: int) -> Iterator[str]:
        yield from self._of_model()
        for node in self._nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                yield from self._of_scale(node)
                yield from self._of_axis(node)
            if node.op_type == "DequantizeLinear":
                yield from self._of_source(node, major)
            if node.op_type == "Add":
                yield from self._of_offset(node)
            if node.op_type in _BIAS and len(node.input) > _BIAS[node.op_type]:
                yield from self._of_bias(node)

    def _of_model(self) -> Iterator[str]:
        for entry in self._model.opset_import:
            if entry.domain in ("", "ai.onnx") and entry.version not in OPSETS:
                yield (
                    f"opset {entry.version}: TensorRT 8.5 to 11 all read {OPSETS[0]} to "
                    f"{OPSETS[-1]} only"
                )
        domains = {node.domain for node in self._nodes} - {"", "ai.onnx"}
        for domain in sorted(domains):
            yield f"operators of the domain {domain}, which TensorRT does not have"
        for value in (*self._model.graph.input, *self._model.graph.output):
            shape = value.type.tensor_type.shape.dim
            if not all(axis.dim_value for axis in shape):
                yield f"{value.name}: a dynamic shape, fix every axis"

    def _of_scale(self, node: onnx.NodeProto) -> Iterator[str]:
        for name in node.input[1:]:
            if name not in self._constants:
                yield f"{node.name}: scale and zero point must be constants"
        if len(node.input) < 3 or node.input[2] not in self._constants:
            return
        point = self._constants[node.input[2]]
        if point.data_type == onnx.TensorProto.INT32:
            return  # told as a bias
        if point.data_type != onnx.TensorProto.INT8:
            kind = onnx.TensorProto.DataType.Name(point.data_type).lower()
            yield f"{node.name}: the zero point is {kind}, only int8 is read"
        if onnx.numpy_helper.to_array(point).any():
            yield f"{node.name}: a zero point other than 0, only symmetric ranges are read"

    def _of_axis(self, node: onnx.NodeProto) -> Iterator[str]:
        scale = self._constants.get(node.input[1])
        if scale is None or not list(scale.dims) or list(scale.dims) == [1]:
            return
        if not self._is_weight(node):
            yield f"{node.name}: an activation with {scale.dims[0]} scales, only one is read"
            return
        axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
        for user in self._users(node):
            expected = _CONVOLUTIONS.get(user.op_type)
            if expected is not None and axis != expected:
                yield f"{node.name}: scales along axis {axis}, {user.op_type} wants {expected}"

    def _of_source(self, node: onnx.NodeProto, major: int) -> Iterator[str]:
        tensor = self._constants.get(node.input[0])
        if tensor is not None:
            if tensor.data_type == onnx.TensorProto.INT8 and major <= 8:
                yield (
                    f"{node.name}: an int8 weight behind DequantizeLinear alone, TensorRT {major} "
                    "wants a float weight, QuantizeLinear and DequantizeLinear"
                )
            return
        maker = self._makers.get(node.input[0])
        if maker is None or maker.op_type != "QuantizeLinear":
            yield f"{node.name}: no QuantizeLinear before it"
        elif list(maker.input[1:]) != list(node.input[1:]):
            yield f"{node.name}: another scale or zero point than the QuantizeLinear before it"

    def _of_bias(self, node: onnx.NodeProto) -> Iterator[str]:
        maker = self._makers.get(node.input[_BIAS[node.op_type]])
        if maker is not None and maker.op_type == "DequantizeLinear":
            yield f"{node.name}: a quantised bias, leave it in float"

    def _of_offset(self, node: onnx.NodeProto) -> Iterator[str]:
        for name in node.input:
            maker = self._makers.get(name)
            if maker is not None and maker.op_type == "DequantizeLinear" and self._is_weight(maker):
                yield f"{node.name}: adds a quantised constant, leave it in float"

    def _is_weight(self, node: onnx.NodeProto) -> bool:
        """Whether constants alone lead here."""
        name = node.input[0]
        if name in self._constants:
            return True
        maker = self._makers.get(name)
        return (
            maker is not None
            and maker.op_type == "QuantizeLinear"
            and maker.input[0] in self._constants
        )

    def _users(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """What the values go to, through a DequantizeLinear."""
        for user in self._nodes:
            if node.output[0] not in user.input:
                continue
            if user.op_type == "DequantizeLinear":
                yield from self._users(user)
            else:
                yield user
