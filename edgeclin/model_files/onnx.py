"""ONNX models, read by the onnx package."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from edgeclin.errors import BadFile, MissingExtra
from edgeclin.files import require_file
from edgeclin.model_files.facts import CONVERTIBLE, ModelFacts, Shape, values_of

_QUANTISED = re.compile("[Qq]uantize|^QLinear|Integer|^Q(Gemm|Attention|MoE)$|NBits")
"""ONNX's operators that compute on integers of a scale, and those of ONNX Runtime."""
_ONNX, _RUNTIME = ("", "ai.onnx", "ai.onnx.ml"), "com.microsoft"


def read_onnx(path: Path) -> ModelFacts:
    """Facts of an ONNX model; its weights may stand in a file beside it."""
    try:
        import onnx
    except ImportError as exc:
        raise MissingExtra("onnx, which reads ONNX models,", "convert") from exc
    try:
        model = onnx.load(path, load_external_data=False)
        graph = model.graph
        if not graph.node:
            raise ValueError("no operators")
        _refuse_operators(path, model)
        constants = {tensor.name for tensor in graph.initializer}
        inputs = tuple(
            (value.name, _shape(value)) for value in graph.input if value.name not in constants
        )
        outputs, axis = values_of(_shape(graph.output[0]))
        return ModelFacts("onnx", inputs, outputs, _last(graph), axis)
    except BadFile:
        raise
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


def _refuse_operators(path: Path, model: Any) -> None:
    """Those of a quantised model, and those that ONNX Runtime does not know."""
    from onnx import defs

    own = {(function.domain, function.name) for function in model.functions}
    bodies = [model.graph, *model.functions]
    for node in itertools.chain.from_iterable(map(_nodes, bodies)):
        if _QUANTISED.search(node.op_type):
            raise BadFile(
                path,
                f"is quantised already (it has {node.op_type})",
                "give the float model that it was made from",
            )
        standard = node.domain in _ONNX and defs.has(node.op_type, node.domain)
        if not standard and node.domain != _RUNTIME and (node.domain, node.op_type) not in own:
            raise BadFile(
                path,
                f"has the operator {node.op_type} of {node.domain or 'ONNX'}, which ONNX Runtime "
                "does not know",
                "export the model with standard operators in its place",
            )


def _nodes(graph: Any) -> Iterator[Any]:
    """Those of graphs within operators too, such as the branches of an If."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


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
