"""ONNX models, read by the onnx package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from edgeclin.errors import BadFile, MissingExtra
from edgeclin.files import require_file
from edgeclin.model_files.facts import CONVERTIBLE, ModelFacts, Shape


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


def companions(path: Path) -> list[Path]:
    """The files beside an ONNX model that hold its larger weights; none for another model.

    Raises:
        BadFile: one of them is not there, or is no plain name beside the model.
    """
    if path.suffix != ".onnx":
        return []
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    names = {
        entry.value
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in sorted(names):
        if Path(name).name != name:
            raise BadFile(path, f"keeps weights in {name!r}", "keep them in a file beside it")
        require_file(path.with_name(name))
    return [path.with_name(name) for name in sorted(names)]


def _shape(value: Any) -> Shape | None:
    """Without the batch axis; None where the file does not tell the axes."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(axis.dim_value or None for axis in value.type.tensor_type.shape.dim)[1:]


def _last(graph: Any) -> Literal["none", "softmax", "sigmoid"]:
    (maker,) = [node for node in graph.node if graph.output[0].name in node.output]
    match maker.op_type:
        case "Softmax":
            return "softmax"
        case "Sigmoid":
            return "sigmoid"
    return "none"
