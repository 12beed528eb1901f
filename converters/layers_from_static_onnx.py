"""What quantising does to each layer of an ONNX model, seen by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import onnx

from edgeclin.convert.comparing import compare
from edgeclin.convert.probes.onnx import ONNXProbe
from edgeclin.convert.request import Outcome, Request
from edgeclin.convert.taps.onnx import ONNXTap
from edgeclin.errors import ConversionFailed


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Compare `request.engine` with the float model over the samples.

    Raises:
        ConversionFailed: the model has operators that hold a graph of their own.
    """
    model = Path(request.model)
    loops = [
        node.op_type
        for node in onnx.load(model, load_external_data=False).graph.node
        if any(attribute.HasField("g") for attribute in node.attribute)
    ]
    if loops:
        raise ConversionFailed(
            f"the operator {loops[0]} holds layers of its own, which are not seen from outside"
        )
    tap = ONNXTap(model, threads=2)
    probe = ONNXProbe(Path(request.engine), model, threads=2)
    return compare(tap, probe, request, report, {"onnxruntime": version("onnxruntime")})
