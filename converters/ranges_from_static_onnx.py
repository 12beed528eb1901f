"""The ranges of a float ONNX model's tensors, seen by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from edgeclin.convert.collecting import collect
from edgeclin.convert.request import Outcome, Request
from edgeclin.convert.taps.onnx import ONNXTap


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Statistics of every tensor over the calibration samples."""
    tap = ONNXTap(Path(request.model), threads=2)
    return collect(tap, request, report, {"onnxruntime": version("onnxruntime")})
