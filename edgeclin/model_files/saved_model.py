"""TensorFlow SavedModels, read without TensorFlow: it takes seconds to load and talks meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeclin.errors import BadFile, MissingExtra
from edgeclin.model_files.facts import CONVERTIBLE, ModelFacts, values_of

GRAPH = "saved_model.pb"
SIGNATURE = "serving_default"

_FIELDS = {
    "SavedModel": [("meta_graphs", 2, "MetaGraph", True)],
    "MetaGraph": [("signatures", 5, "SignatureEntry", True)],
    "SignatureEntry": [("key", 1, "", False), ("value", 2, "Signature", False)],
    "Signature": [("inputs", 1, "TensorEntry", True), ("outputs", 2, "TensorEntry", True)],
    "TensorEntry": [("key", 1, "", False), ("value", 2, "Tensor", False)],
    "Tensor": [("shape", 3, "Shape", False)],
    "Shape": [("axes", 2, "Axis", True)],
    "Axis": [("size", 1, "int64", False)],
}
"""The part of TensorFlow's messages that is needed: name, number, type ("" is text), repeated.

saved_model.proto, meta_graph.proto and tensor_shape.proto of TensorFlow; a reader of protocol
buffers passes over all other fields.
"""


def read_saved_model(path: Path) -> ModelFacts:
    """Facts of a SavedModel's default signature."""
    try:
        model = _message().FromString((path / GRAPH).read_bytes())
        signatures = {entry.key: entry.value for entry in model.meta_graphs[0].signatures}
    except MissingExtra:
        raise
    except Exception as exc:  # protobuf has no one error for damage
        raise BadFile(path / GRAPH, "damaged", CONVERTIBLE) from exc
    if SIGNATURE not in signatures:
        names = ", ".join(sorted(signatures)) or "none"
        raise BadFile(path, f"has no signature {SIGNATURE} (there are: {names})", "export it so")
    signature = signatures[SIGNATURE]
    inputs = tuple((entry.key, _sizes(entry.value)[1:]) for entry in signature.inputs)
    answers = [_sizes(entry.value)[1:] for entry in signature.outputs]
    outputs, axis = values_of(answers[0] if answers else None)
    return ModelFacts("saved_model", inputs, outputs, None, axis)


def _sizes(tensor: Any) -> tuple[int | None, ...]:
    return tuple(int(axis.size) if axis.size > 0 else None for axis in tensor.shape.axes)


def _message() -> Any:
    """The class of the outermost message."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as exc:
        raise MissingExtra("protobuf, which reads SavedModels,", "convert") from exc
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="edgeclin_saved_model.proto", package="edgeclin", syntax="proto3"
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for label, number, kind, repeated in fields:
            made = message.field.add(name=label, number=number)
            made.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if kind in _FIELDS:
                made.type, made.type_name = field.TYPE_MESSAGE, f".edgeclin.{kind}"
            else:
                made.type = field.TYPE_INT64 if kind == "int64" else field.TYPE_STRING
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("edgeclin.SavedModel"))
