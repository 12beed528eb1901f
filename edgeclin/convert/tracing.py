"""PyTorch modules asked, and traced into ONNX models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeclin.convert.request import Outcome, Request, refusal
from edgeclin.errors import ConversionFailed, MissingExtra

try:
    import torch
except ImportError as exc:
    raise MissingExtra("PyTorch, which runs its models,", "pytorch") from exc

OPSET = 17
"""The highest that TensorRT 8.5 reads; the newer exporter of PyTorch begins at 18."""
_ENGINE = "model.onnx"


def load(what: str, read: Callable[[], Any]) -> Any:
    """What `read` returns, with PyTorch's many errors told in one sentence.

    Raises:
        ConversionFailed: PyTorch cannot load it.
    """
    try:
        return read()
    except Exception as exc:  # torch, sympy, json: they share no root
        raise _refused(f"PyTorch cannot load {what}", exc) from exc


def onnx_from_module(
    module: Any, request: Request, report: Callable[[str], None], what: str
) -> Outcome:
    """Ask a module about the samples, then trace it with batch size 1 into one ONNX file.

    Raises:
        ConversionFailed: it takes another shape, answers with other things than one float
            tensor, or has an operator without an ONNX form.
    """
    folder = Path(request.folder)
    samples = np.load(request.samples, mmap_mode="r")
    with torch.no_grad():
        report(f"asking {what} itself")
        np.save(folder / "answers.npy", np.stack([_ask(module, one, what) for one in samples]))
        report("making the ONNX model")
        sample = torch.zeros((1, *request.input_shape))
        try:
            if not isinstance(module, torch.jit.ScriptModule):
                module = torch.jit.trace(module, sample, check_trace=False)
            torch.onnx.export(
                module,
                (sample,),
                str(folder / _ENGINE),
                dynamo=False,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["output"],
            )
        except Exception as exc:  # its exporter raises errors of its own of many kinds
            raise _refused(f"PyTorch cannot write {what} as ONNX", exc) from exc
    return Outcome(file=_ENGINE, answers="answers.npy", tools={"torch": str(torch.__version__)})


def _refused(what: str, error: Exception) -> ConversionFailed:
    """PyTorch says its reason first, and then where in its graph or in its source."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ConversionFailed(f"{what}: {lines[0].partition('  [')[0]}")


def _ask(module: Any, sample: np.ndarray, what: str) -> np.ndarray:
    try:
        answer = module(torch.from_numpy(np.array(sample)[np.newaxis]))
    except Exception as exc:  # whatever a module's own code raises
        shape = list(sample.shape)
        raise refusal(f"{what} does not take samples of the shape {shape}", exc) from exc
    if not isinstance(answer, torch.Tensor) or not answer.is_floating_point():
        raise ConversionFailed(f"{what} answers with other things than one float tensor")
    row: np.ndarray = answer.numpy()[0]
    return row
