"""PyTorch's exported programs (`.pt2`) to ONNX, by PyTorch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgeclin.convert.request import Outcome, Request
from edgeclin.convert.tracing import load, onnx_from_module
from edgeclin.errors import MissingExtra
from edgeclin.model_files.plain_program import write_plain_program

try:
    import torch
except ImportError as exc:
    raise MissingExtra("PyTorch, which runs its models,", "pytorch") from exc


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Make an ONNX model with batch size 1 and ask the program itself.

    Raises:
        BadFile: something in the program could run code.
        ConversionFailed: it cannot be loaded, takes another shape, or has no ONNX form.
    """
    report("loading the exported program")
    plain = Path(request.folder) / "plain.pt2"
    write_plain_program(Path(request.model), plain)
    # `torch.export.load` unpickles when its first way fails; this forbids it.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    program = load("the exported program", lambda: torch.export.load(plain).module())
    return onnx_from_module(program, request, report, "the exported program")
