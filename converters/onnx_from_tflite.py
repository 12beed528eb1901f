"""Float TFLite models to ONNX, by tf2onnx."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgeclin.backends.tflite import TFLiteBackend
from edgeclin.convert.flat_inputs import flatten_inputs
from edgeclin.convert.request import Outcome, Request, refusal
from edgeclin.errors import MissingExtra

try:
    import tf2onnx
except ImportError as exc:
    raise MissingExtra("tf2onnx, which makes ONNX models,", "convert") from exc

OPSET = 15
"""TensorRT 8.5 to 11 all take 13 to 17."""
_NO_COPIES = "TF2ONNX_CATCH_ERRORS"
_FOLDED, _CONSTANT = "const_fold_opt__", "constant"


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Make an ONNX model and ask the TFLite model itself.

    Raises:
        ConversionFailed: an operator has no ONNX form.
    """
    folder = Path(request.folder)
    report("asking the TFLite model itself")
    source = TFLiteBackend(Path(request.model).read_bytes(), threads=2)
    samples = np.load(request.samples, mmap_mode="r")
    np.save(folder / "answers.npy", np.stack([source.run(np.array(one)) for one in samples]))
    report("making the ONNX model")
    flat = folder / "flat.tflite"
    flat.write_bytes(flatten_inputs(Path(request.model).read_bytes()))
    try:
        model = _converted(str(flat))
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as exc:
        raise refusal("tf2onnx refuses the model", exc) from exc
    _shorten_names(model.graph)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return Outcome(file="model.onnx", answers="answers.npy", tools={"tf2onnx": version("tf2onnx")})


def _converted(path: str) -> Any:
    """Convert without a copy of all weights for each of tf2onnx's passes, where that goes well.

    The copies are for passes that fail, and cost 3 GB for a model of 94 MB.
    """
    os.environ[_NO_COPIES] = "FALSE"
    try:
        model, _ = tf2onnx.convert.from_tflite(path, opset=OPSET)
    except Exception:  # of whatever kind a pass raises: with copies it would be left out
        del os.environ[_NO_COPIES]
        model, _ = tf2onnx.convert.from_tflite(path, opset=OPSET)
    return model


def _shorten_names(graph: Any) -> None:
    """TFLite names a fused tensor after every operator in it: keep the first of them.

    In a small model such names are longer than its weights. Constants that tf2onnx folds are
    numbered anew, in the order of their use: its own numbers differ from run to run.
    """
    short = {"": ""}
    taken: Counter[str] = Counter()

    def name(long: str) -> str:
        if long not in short:
            first = _CONSTANT if long.startswith(_FOLDED) else long.split(";")[0]
            short[long] = f"{first}__{taken[first]}" if taken[first] else first
            taken[first] += 1
        return short[long]

    for node in graph.node:
        node.input[:] = [name(tensor) for tensor in node.input]
        node.output[:] = [name(tensor) for tensor in node.output]
        node.name = node.output[0]
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = name(value.name)
    graph.initializer.sort(key=lambda constant: constant.name)
