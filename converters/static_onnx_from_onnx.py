"""ONNX models as quantisers want them: batch size 1, constants folded, every shape known."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from edgeclin.backends.onnx import ONNXBackend
from edgeclin.convert.request import Outcome, Request
from edgeclin.errors import ConversionFailed, MissingExtra

try:
    import onnx
    import onnxruntime
except ImportError as exc:
    raise MissingExtra("onnx and onnxruntime, which prepare ONNX models,", "convert") from exc


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Fix the batch size, fold constants, and ask the model as it was.

    Raises:
        ConversionFailed: not a readable model, or other dynamic axes than the batch.
    """
    folder = Path(request.folder)
    fixed = folder / "fixed.onnx"
    report("asking the ONNX model itself")
    onnx.save(_with_fixed_axes(_load(Path(request.model)), request.input_shape), fixed)
    samples = np.load(request.samples, mmap_mode="r")
    source = ONNXBackend(fixed.read_bytes(), threads=2)
    np.save(folder / "answers.npy", np.stack([source.run(np.array(one)) for one in samples]))
    report("folding constants")
    _fold(fixed, folder / "static.onnx")
    return Outcome(
        file="static.onnx",
        answers="answers.npy",
        tools={name: version(name) for name in ("onnx", "onnxruntime")},
    )


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as exc:  # protobuf and onnx share no root
        lines = str(exc).strip().splitlines() or [type(exc).__name__]
        raise ConversionFailed(f"{path.name} is no sound ONNX model: {lines[0]}") from exc
    return model


def _with_fixed_axes(model: onnx.ModelProto, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Batch size 1 and, at axes that are open, the sizes of `shape`."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ConversionFailed(
            f"the ONNX model has {len(inputs)} inputs and {len(model.graph.output)} outputs; one "
            "of each is supported"
        )
    for value in (*inputs, *model.graph.output):
        axes = value.type.tensor_type.shape.dim
        if axes and not axes[0].dim_value:
            axes[0].dim_value = 1
    axes = inputs[0].type.tensor_type.shape.dim
    if not axes:
        axes.extend(onnx.TensorShapeProto.Dimension(dim_value=size) for size in (1, *shape))
    for axis, size in zip(axes[1:], shape, strict=True):
        axis.dim_value = axis.dim_value or size
    if [axis.dim_value for axis in axes] != [1, *shape]:
        named = [axis.dim_param or axis.dim_value for axis in axes]
        raise ConversionFailed(
            f"the ONNX model's input has the shape {named}; export it with batch size 1"
        )
    return model


def _fold(source: Path, target: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    model = onnx.shape_inference.infer_shapes(onnx.load(target))
    used = {node.domain for node in model.graph.node}
    imports = [entry for entry in model.opset_import if entry.domain in used | {""}]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    onnx.save(model, target)
