"""TorchScript models to ONNX, by PyTorch.

`torch.jit.load` reads TorchScript's own format, without Python's unpickler, and gets a copy that
runs nothing as it is loaded. The model's code is interpreted in this process and nowhere else, once
its operators are known.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgeclin.convert.request import Outcome, Request
from edgeclin.convert.script_operators import require_plain_operators
from edgeclin.convert.tracing import load, onnx_from_module
from edgeclin.errors import MissingExtra
from edgeclin.model_files.plain_script import write_plain_script

try:
    import torch
except ImportError as exc:
    raise MissingExtra("PyTorch, which runs its models,", "pytorch") from exc


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Make an ONNX model with batch size 1 and ask the TorchScript model itself.

    Raises:
        BadFile: loading it would run code.
        ConversionFailed: it does more than compute, cannot be loaded, takes another shape, or has
            no ONNX form.
    """
    report("loading the TorchScript model")
    plain = Path(request.folder) / "plain.pt"
    write_plain_script(Path(request.model), plain)
    module = load("the TorchScript model", lambda: torch.jit.load(plain, map_location="cpu"))
    require_plain_operators(module)
    module.eval()
    return onnx_from_module(module, request, report, "the TorchScript model")
