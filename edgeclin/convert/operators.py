"""The operators of a TFLite model: what they give, and which compute in float."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from edgeclin.convert.flatbuffer import pack, unpack
from edgeclin.errors import MissingExtra

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError as exc:
    raise MissingExtra("LiteRT, which reads TFLite models,", "convert") from exc


def left_in_float(engine: bytes) -> tuple[str, ...]:
    """Operators, other than those that convert, which compute float values."""
    interpreter = Interpreter(model_content=engine)
    types = {entry["index"]: entry["dtype"] for entry in interpreter.get_tensor_details()}
    return tuple(
        str(operator["op_name"])
        for operator in _operators(interpreter)
        if operator["op_name"] != "DEQUANTIZE"
        and any(types[index] == np.float32 for index in operator["outputs"] if index >= 0)
    )


def scopes_of(model: bytes, tensors: Collection[str]) -> list[str]:
    """The operators that give some of these tensors, as ai-edge-quantizer names them: by all that
    they give."""
    interpreter = Interpreter(model_content=model)
    names = {entry["index"]: str(entry["name"]) for entry in interpreter.get_tensor_details()}
    given = [
        [names[int(index)] for index in one["outputs"] if index >= 0]
        for one in _operators(interpreter)
    ]
    wanted = set(tensors)
    return ["".join(f"{name};" for name in one) for one in given if wanted & set(one)]


def with_untaken_quantised(engine: bytes) -> bytes:
    """The engine with integers too where nothing takes what an operator gives.

    ai-edge-quantizer leaves such a part of a SPLIT in float, and LiteRT refuses it beside others.
    """
    interpreter = Interpreter(model_content=engine)
    types = {entry["index"]: entry["dtype"] for entry in interpreter.get_tensor_details()}
    operators = list(_operators(interpreter))
    taken = {int(index) for operator in operators for index in operator["inputs"]}
    taken |= {entry["index"] for entry in interpreter.get_output_details()}
    pairs = [
        (index, other)
        for operator in operators
        for index in set(map(int, operator["outputs"])) - taken
        for other in set(map(int, operator["outputs"])) & taken
        if types.get(index) == np.float32 and types.get(other) == np.int8
    ]
    if not pairs:
        return engine
    content = unpack(engine)
    tensors = content.subgraphs[0].tensors
    for index, other in pairs:
        tensors[index].type = tensors[other].type
        tensors[index].quantization = tensors[other].quantization
    return pack(content)


def _operators(interpreter: Any) -> Iterator[dict[str, Any]]:
    for operator in interpreter._get_ops_details():  # there is no public list of them
        if operator["op_name"] != "DELEGATE":
            yield operator
