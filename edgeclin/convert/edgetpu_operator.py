"""One operator of a TFLite engine, as the rules of the Edge TPU look at it."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeclin.convert.flatbuffer import schema

_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}
_TYPES = {code: name for name, code in vars(schema.TensorType).items() if not name.startswith("_")}
_DTYPES: dict[int, np.dtype[Any]] = {
    schema.TensorType.INT8: np.dtype(np.int8),
    schema.TensorType.INT32: np.dtype(np.int32),
    schema.TensorType.INT64: np.dtype(np.int64),
}


class Operator:
    """One operator of an engine.

    Attributes:
        name: such as `CONV_2D`.
        version: of the operator's definition.
        inputs, outputs: tensors of the flatbuffer; those that are left out are not among them.
    """

    def __init__(self, operator: Any, graph: Any, model: Any) -> None:
        code = model.operatorCodes[operator.opcodeIndex]
        self.name = _NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
        self.version = int(code.version)
        self._options = operator.builtinOptions
        self.inputs = [graph.tensors[index] for index in operator.inputs if index >= 0]
        self.outputs = [graph.tensors[index] for index in operator.outputs if index >= 0]
        self._buffers = model.buffers

    def constant(self, tensor: Any) -> np.ndarray | None:
        """The values of a tensor that the file holds, flat; None for what is computed."""
        data = self._buffers[tensor.buffer].data
        if data is None or not len(data):
            return None
        kind: np.dtype[Any] = _DTYPES.get(tensor.type, np.dtype(np.uint8))
        return np.frombuffer(bytes(data), kind)

    def option(self, name: str) -> int:
        """One of its options; 0 where the file leaves it out."""
        return int(getattr(self._options, name, 0) or 0)

    @property
    def axes(self) -> set[int]:
        """The axes that its second input names, counted from the first."""
        axes = self.constant(self.inputs[1])
        rank = len(shape_of(self.inputs[0]))
        return set() if axes is None else {int(axis) % rank for axis in axes}


def shape_of(tensor: Any) -> list[int]:
    """The sizes of a tensor's axes."""
    return [] if tensor.shape is None else [int(size) for size in tensor.shape]


def type_of(tensor: Any) -> str:
    """Such as `INT8`."""
    return _TYPES[tensor.type]
