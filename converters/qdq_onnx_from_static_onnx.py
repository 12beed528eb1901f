"""Float ONNX models to explicit Q/DQ INT8 for ONNX Runtime, with ranges that are given."""

from __future__ import annotations

from collections.abc import Callable

from onnxruntime.quantization.registry import QDQRegistry

from edgeclin.convert.qdq import quantise
from edgeclin.convert.request import Outcome, Request


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Quantise every operator that ONNX Runtime can.

    Raises:
        ConversionFailed: the quantiser refuses the model.
    """
    report(f"quantising with ranges by {request.method}")
    return quantise(request, list(QDQRegistry), {})
