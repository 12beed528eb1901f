"""What quantising does to each layer of a ONNX model, seen by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from edgeclin.convert.comparing import compare
from edgeclin.convert.probes.onnx import ONNXProbe
from edgeclin.convert.request import Outcome, Request
from edgeclin.convert.taps.onnx import ONNXTap


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Compare `request.engine` with the float model over the samples."""
    model = Path(request.model)
    tap = ONNXTap(model, threads=2)
    probe = ONNXProbe(Path(request.engine), model, threads=2)
    return compare(tap, probe, request, report, {"onnxruntime": version("onnxruntime")})
