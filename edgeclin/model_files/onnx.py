"""ONNX models, read by the onnx package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from edgeclin.errors import BadFile, MissingExtra
from edgeclin.model_files.facts import CONVERTIBLE, ModelFacts


def read_onnx(path: Path) -> ModelFacts:
    """Facts of an ONNX model; its weights may stand in a file beside it."""
    try:
        import onnx
    except ImportError as exc:
        raise MissingExtra("onnx, which reads ONNX models,", "convert") from exc
    try:
        graph = onnx.load(path, load_external_data=False).graph
        if not graph.node:
            raise ValueError("no operators")
        constants = {tensor.name for tensor in graph.initializer}
        inputs = tuple(
            (value.name, _shape(value)) for value in graph.input if value.name not in constants
        )
        return ModelFacts("onnx", inputs, (_shape(graph.output[0]) or (None,))[-1], _last(graph))
    except Exception as exc:  # protobuf and onnx share no root
        raise BadFile(path, "a damaged or empty ONNX file", CONVERTIBLE) from exc


def _shape(value: Any) -> tuple[int | None, ...]:
    """Without the batch axis."""
    return tuple(axis.dim_value or None for axis in value.type.tensor_type.shape.dim)[1:]


def _last(graph: Any) -> Literal["none", "softmax", "sigmoid"]:
    (maker,) = [node for node in graph.node if graph.output[0].name in node.output]
    match maker.op_type:
        case "Softmax":
            return "softmax"
        case "Sigmoid":
            return "sigmoid"
    return "none"
