"""TFLite flatbuffers as objects that can be changed, and back as bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeclin.errors import MissingExtra

try:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
except ImportError as exc:
    raise MissingExtra("LiteRT, whose schema reads TFLite models,", "convert") from exc

__all__ = ["copied", "pack", "schema", "unpack"]

_IDENTIFIER = b"TFL3"


def unpack(model: bytes) -> Any:
    """A `ModelT` with all constants in it; some writers put them behind the flatbuffer itself."""
    content = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    for buffer in content.buffers:
        if buffer.offset > 1:
            data = model[buffer.offset : buffer.offset + buffer.size]
            buffer.data = np.frombuffer(data, np.uint8)
            buffer.offset = buffer.size = 0
    return content


def pack(content: Any) -> bytes:
    """The bytes of a `ModelT`."""
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(content.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def copied(tensor: Any) -> Any:
    """A `TensorT` of its own, without contents."""
    builder = flatbuffers.Builder(256)
    builder.Finish(tensor.Pack(builder))
    copy = schema.TensorT.InitFromObj(schema.Tensor.GetRootAs(builder.Output(), 0))
    copy.buffer = 0
    return copy
