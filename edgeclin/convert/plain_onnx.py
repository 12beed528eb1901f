"""ONNX models written as onnx2tf reads them best; every rewrite computes the same.

Names: an input whose name has other characters than letters is turned to channels-last without a
word. Layers: a dense layer without bias becomes BATCH_MATMUL, and a mean over the positions keeps
its map channels-first, behind a TRANSPOSE that separates a convolution from its activation;
accelerators take neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edgeclin.errors import ConversionFailed, MissingExtra

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as exc:
    raise MissingExtra("onnx, which reads ONNX models,", "convert") from exc

INPUT = "input"
OUTPUT = "output"
_STANDARD = {"", "ai.onnx"}


def make_plain(model: Any) -> tuple[int, ...]:
    """Rewrite a model with one input, one output and known shapes, in place.

    Returns:
        the input's shape with the batch axis.

    Raises:
        ConversionFailed: it has operators that are not ONNX's own.
    """
    graph = model.graph
    strange = sorted({node.domain for node in graph.node} - _STANDARD)
    if strange:
        raise ConversionFailed(
            f"the ONNX model has operators of {', '.join(strange)}, which no other runtime knows; "
            "export it without the optimisations of one runtime"
        )
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info)
    }
    for node in graph.node:
        if (
            node.op_type == "MatMul"
            and ranks.get(node.input[0]) == 2
            and node.input[1] in constants
        ):
            node.op_type = "Gemm"
    rewritten = list(_with_pools(graph, constants, ranks))
    del graph.node[:]
    graph.node.extend(rewritten)
    (entry,) = (value for value in graph.input if value.name not in constants)
    _name_ends(graph, {entry.name: INPUT, graph.output[0].name: OUTPUT})
    return tuple(axis.dim_value for axis in entry.type.tensor_type.shape.dim)


def _with_pools(graph: Any, constants: dict[str, Any], ranks: dict[str, int]) -> Iterator[Any]:
    """The nodes, in which a mean over all positions is a global pool and a flattening."""
    pooled = {node.output[0] for node in graph.node if node.op_type == "GlobalAveragePool"}
    for node in graph.node:
        rank = ranks.get(node.input[0]) if node.input else None
        axes = _axes(node, constants, rank)
        if rank is None or rank < 3 or axes != list(range(2, rank)):
            yield node
        elif node.op_type == "Squeeze" and node.input[0] in pooled:
            yield helper.make_node("Flatten", node.input[:1], node.output, axis=1)
        elif node.op_type == "ReduceMean" and _attribute(node, "keepdims", 1) == 0:
            pool = f"{node.output[0]}__pool"
            yield helper.make_node("GlobalAveragePool", node.input[:1], [pool])
            yield helper.make_node("Flatten", [pool], node.output, axis=1)
        else:
            yield node


def _axes(node: Any, constants: dict[str, Any], rank: int | None) -> list[int] | None:
    """The axes that a node works along, counted from the front; an input since opset 13 or 18."""
    given: Sequence[int] | None = _attribute(node, "axes", None)
    if given is None and len(node.input) == 2 and node.input[1] in constants:
        given = constants[node.input[1]].tolist() if constants[node.input[1]].ndim == 1 else None
    if given is None or rank is None:
        return None
    return sorted(int(axis) % rank for axis in given)


def _attribute(node: Any, name: str, default: Any) -> Any:
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def _name_ends(graph: Any, names: dict[str, str]) -> None:
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    for name in (taken & {INPUT, OUTPUT}) - set(names):
        names[name] = f"{name}__inner"
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
