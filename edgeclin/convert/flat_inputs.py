"""Gives every FULLY_CONNECTED of a TFLite model an input of two axes.

TensorFlow Lite lets it take any number of them and flattens by itself. tf2onnx 1.17 then loses the
operator's bias: pictures that are pooled, flattened and classified came out up to 4 % off.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeclin.convert.flatbuffer import pack, schema, unpack


def flatten_inputs(model: bytes) -> bytes:
    """The same model with a RESHAPE before each such operator; its bytes unchanged without any."""
    tree = unpack(model)
    found = False
    for graph in tree.subgraphs:
        operators = []
        for operator in graph.operators:
            if _is_wide(operator, graph, tree):
                found = True
                operators.append(_reshape_before(operator, graph, tree))
            operators.append(operator)
        graph.operators = operators
    return pack(tree) if found else model


def _is_wide(operator: Any, graph: Any, tree: Any) -> bool:
    code = tree.operatorCodes[operator.opcodeIndex]
    kind = max(code.builtinCode, code.deprecatedBuiltinCode)
    return (
        kind == schema.BuiltinOperator.FULLY_CONNECTED
        and not operator.builtinOptions.keepNumDims
        and len(graph.tensors[operator.inputs[0]].shape) != 2
    )


def _reshape_before(operator: Any, graph: Any, tree: Any) -> Any:
    """A RESHAPE of the operator's input, which the operator then takes."""
    source = graph.tensors[operator.inputs[0]]
    width = int(graph.tensors[operator.inputs[1]].shape[1])
    rows = int(np.prod(source.shape)) // width
    shape = np.array([rows, width], np.int32)
    shape_index = _add_tensor(graph, tree, source.name + b"/shape", [2], shape)
    graph.tensors[shape_index].type = schema.TensorType.INT32
    flat_index = _add_tensor(graph, tree, source.name + b"/flat", [rows, width], None)
    graph.tensors[flat_index].type = source.type
    reshape = schema.OperatorT()
    reshape.opcodeIndex = _reshape_code(tree)
    reshape.inputs = [operator.inputs[0], shape_index]
    reshape.outputs = [flat_index]
    reshape.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    reshape.builtinOptions = schema.ReshapeOptionsT()
    reshape.builtinOptions.newShape = shape.tolist()
    operator.inputs = [flat_index, *operator.inputs[1:]]
    return reshape


def _add_tensor(
    graph: Any, tree: Any, name: bytes, shape: list[int], data: np.ndarray | None
) -> int:
    """A new tensor's index; without data it is computed."""
    buffer = schema.BufferT()
    if data is not None:
        buffer.data = list(data.tobytes())
    tree.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name, tensor.shape = name, shape
    tensor.buffer = len(tree.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _reshape_code(tree: Any) -> int:
    for index, code in enumerate(tree.operatorCodes):
        if code.builtinCode == schema.BuiltinOperator.RESHAPE:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
    code.version = 1
    tree.operatorCodes.append(code)
    return len(tree.operatorCodes) - 1
