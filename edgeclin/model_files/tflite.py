"""TFLite models, read by LiteRT."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgeclin.errors import BadFile, MissingExtra
from edgeclin.model_files.facts import CONVERTIBLE, ModelFacts, values_of

_LAST: dict[str, Literal["softmax", "sigmoid"]] = {"SOFTMAX": "softmax", "LOGISTIC": "sigmoid"}


def read_tflite(path: Path) -> ModelFacts:
    """Facts of a float TFLite model."""
    try:
        from ai_edge_litert.interpreter import Interpreter
        from ai_edge_litert.schema_py_generated import BuiltinOperator
    except ImportError as exc:
        raise MissingExtra("LiteRT, which reads TFLite models,", "tflite") from exc
    try:
        interpreter = Interpreter(str(path))
        inputs, (output, *_) = interpreter.get_input_details(), interpreter.get_output_details()
        operators = [str(one["op_name"]) for one in interpreter._get_ops_details()]
        types = {entry["dtype"].__name__ for entry in interpreter.get_tensor_details()}
    except (ValueError, RuntimeError) as exc:
        raise BadFile(path, "a damaged or unusual TFLite file", CONVERTIBLE) from exc
    if "edgetpu-custom-op" in operators:
        raise BadFile(path, "compiled for the Edge TPU already", "give the float model behind it")
    if types & {"int8", "uint8", "int16"}:
        raise BadFile(path, "quantised already", "give the float model that it was made from")
    own = [name for name in operators if name != "DELEGATE" and not hasattr(BuiltinOperator, name)]
    if own:
        raise BadFile(
            path,
            f"has the operator {own[0]}, which LiteRT does not know",
            "convert the model again with built-in operators alone",
        )
    shapes = tuple(
        (
            str(entry["name"]),
            tuple(int(size) if size > 0 else None for size in entry["shape_signature"][1:]),
        )
        for entry in inputs
    )
    if any(None in shape for _, shape in shapes):
        raise BadFile(
            path, "leaves axes of its input open", "give the model that it was made from instead"
        )
    last = next((name for name in reversed(operators) if name != "DELEGATE"), "")
    outputs, axis = values_of(tuple(map(int, output["shape"][1:])))
    return ModelFacts("tflite", shapes, outputs, _LAST.get(last, "none"), axis)
