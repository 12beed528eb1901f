"""Float ONNX models to explicit Q/DQ INT8 by TensorRT's rules.

The engine itself is built on the device: this is what it is built from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import msgspec
import onnx

from edgeclin.convert.qdq import quantise
from edgeclin.convert.qdq_axes import WEIGHTED, weight_axes
from edgeclin.convert.qdq_rules import broken_rules
from edgeclin.convert.request import Outcome, Request
from edgeclin.errors import ConversionFailed

_OPERATORS = [*WEIGHTED, "Add"]
"""Only their inputs: a pair behind a convolution would keep TensorRT from fusing what follows."""


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Apply the ranges in the style of the profile's TensorRT.

    Raises:
        ConversionFailed: the quantiser refuses the model, or a rule is broken.
    """
    version = request.profile.toolchain.get("tensorrt", "")
    if not version.partition(".")[0].isdigit():
        raise ConversionFailed(
            f"profile {request.profile.name} names no version of TensorRT (toolchain.tensorrt)"
        )
    report(f"quantising with ranges by {request.method}")
    options = {
        "QuantizeBias": False,
        "AddQDQPairToWeight": int(version.partition(".")[0]) <= 8,
        "OpTypesToExcludeOutputQuantization": _OPERATORS,
    }
    model = onnx.load(request.model)
    floats = _offsets(model)
    outcome = quantise(request, _OPERATORS, options, floats, weight_axes(model))
    path = Path(request.folder) / outcome.file
    made = onnx.load(path)
    _give_floats(made, {*request.kept, *floats})
    onnx.save(made, path)
    broken = broken_rules(made, version)
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise ConversionFailed(f"the Q/DQ model breaks a rule of TensorRT: {broken[0]}{more}")
    # What is left in float here says nothing: TensorRT decides at its build what it fuses.
    return msgspec.structs.replace(outcome, floats=())


def _offsets(model: onnx.ModelProto) -> list[str]:
    """What an Add of a constant gives. That is a bias, which TensorRT wants in float; a quantised
    scalar ended the build of TensorRT-RTX."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Add" and not constants.isdisjoint(node.input)
    ]


def _give_floats(model: onnx.ModelProto, tensors: Collection[str]) -> None:
    """Have the nodes that give some of these tensors take what was there before Q and DQ.

    ONNX Runtime replaces a tensor for all that take it, and so a convolution that stays in float
    would compute on a quantised input and float weights.
    """
    quantised = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }
    before = {
        node.output[0]: quantised[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in quantised
    }
    for node in model.graph.node:
        if not set(node.output).isdisjoint(tensors):
            node.input[:] = [before.get(name, name) for name in node.input]
