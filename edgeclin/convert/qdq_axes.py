"""Where the output channels stand in a weight: along this axis it may have a scale for each.

A scale for each input channel would be a factor within every sum of products, which integers cannot
take out of it. ONNX's operators give the axes: Conv weights are [out, in / group, …],
ConvTranspose's [in, out / group, …], Gemm's second input [in, out] or its transpose, MatMul's
[…, in, out] as second input and […, out, in] as first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgeclin.errors import MissingExtra

try:
    import onnx
except ImportError as exc:
    raise MissingExtra("onnx, which reads ONNX models,", "convert") from exc

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def channel_axis(node: onnx.NodeProto, position: int, rank: int) -> int | None:
    """The axis of the output channels in a weight, or None where one scale must do.

    Args:
        position: of the weight among the inputs of `node`, one of `WEIGHTED`.
        rank: how many axes the weight has.
    """
    if node.op_type == "MatMul":
        return None if rank < 2 else rank - 1 - (position == 0)
    if position != 1:
        return None
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if _attribute(node, "group", 1) == 1 else None  # groups share the axis
    return 0 if _attribute(node, "transB", 0) else 1


def weight_axes(model: onnx.ModelProto) -> dict[str, int]:
    """The axis for every constant that is a weight; none for one that two operators read
    along different axes."""
    found: dict[str, set[int | None]] = {}
    for name, axis in _read(model.graph):
        found.setdefault(name, set()).add(axis)
    agreed = {name: axes.pop() for name, axes in found.items() if len(axes) == 1}
    return {name: axis for name, axis in agreed.items() if axis is not None}


def _read(graph: onnx.GraphProto) -> Iterator[tuple[str, int | None]]:
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in WEIGHTED:
            for position, name in enumerate(node.input[:2]):
                if name in ranks:
                    yield name, channel_axis(node, position, ranks[name])


def _attribute(node: onnx.NodeProto, name: str, default: int) -> Any:
    return next((one.i for one in node.attribute if one.name == name), default)
