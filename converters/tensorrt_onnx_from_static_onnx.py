"""Float ONNX models to explicit Q/DQ INT8 by TensorRT's rules.

The engine itself is built on the device: this is what it is built from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx

from edgeclin.convert.qdq import quantise
from edgeclin.convert.qdq_rules import broken_rules
from edgeclin.convert.request import Outcome, Request
from edgeclin.errors import ConversionFailed

_OPERATORS = ["Conv", "ConvTranspose", "Gemm", "MatMul", "Add"]
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
    report("quantising")
    options = {
        "QuantizeBias": False,
        "AddQDQPairToWeight": int(version.partition(".")[0]) <= 8,
        "OpTypesToExcludeOutputQuantization": _OPERATORS,
    }
    outcome = quantise(request, _OPERATORS, options, _offsets(onnx.load(request.model)))
    broken = broken_rules(onnx.load(Path(request.folder) / outcome.file), version)
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
