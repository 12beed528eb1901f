"""TorchScript models to ONNX, by PyTorch.

`torch.jit.load` reads TorchScript's own format, without Python's unpickler; the model's code is
interpreted in this process and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable

from edgeclin.convert.request import Outcome, Request
from edgeclin.convert.tracing import load, onnx_from_module
from edgeclin.errors import MissingExtra

try:
    import torch
except ImportError as exc:
    raise MissingExtra("PyTorch, which runs its models,", "pytorch") from exc


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Make an ONNX model with batch size 1 and ask the TorchScript model itself.

    Raises:
        ConversionFailed: it cannot be loaded, takes another shape, or has no ONNX form.
    """
    report("loading the TorchScript model")
    module = load(
        "the TorchScript model", lambda: torch.jit.load(request.model, map_location="cpu").eval()
    )
    return onnx_from_module(module, request, report, "the TorchScript model")
