"""Puts QuantizeLinear and DequantizeLinear into an ONNX model, by ONNX Runtime's quantiser."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgeclin.convert.ranges import read_ranges
from edgeclin.convert.request import Outcome, Request, refusal
from edgeclin.errors import MissingExtra

try:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
except ImportError as exc:
    raise MissingExtra("onnx and onnxruntime, which quantise ONNX models,", "convert") from exc

_ENGINE = "qdq.onnx"
_NO_ARITHMETIC = {
    "DequantizeLinear",
    "Flatten",
    "Identity",
    "QuantizeLinear",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
_TYPES = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}


def quantise(
    request: Request,
    operators: list[str],
    options: dict[str, Any],
    floats: Collection[str] = (),
    axes: Mapping[str, int] | None = None,
) -> Outcome:
    """Apply the ranges of a request by its profile's rules.

    Args:
        operators: kinds of operators that compute on integers.
        options: `extra_options` of ONNX Runtime's quantiser.
        floats: tensors whose operators compute in float all the same.
        axes: along which axis each weight has its scales, all others have one; None leaves the
            choice to ONNX Runtime.

    Raises:
        ConversionFailed: the quantiser refuses the model.
    """
    numeric = request.profile.numeric
    ranges = {
        name: (np.float32(low), np.float32(high))
        for name, (low, high) in read_ranges(Path(request.ranges)).items()
    }
    model = onnx.shape_inference.infer_shapes(onnx.load(request.model))
    by_channel = bool(numeric.per_channel)
    chosen = axes if axes is not None and by_channel else {}
    quantiser = QDQQuantizer(
        model,
        per_channel=by_channel and axes is None,
        reduce_range=False,
        weight_qType=_TYPES[numeric.weights],
        activation_qType=_TYPES[numeric.activations],
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=[],
        nodes_to_exclude=_name_nodes(model, (*request.kept, *floats)),
        op_types_to_quantize=operators,
        extra_options={
            "ActivationSymmetric": numeric.symmetric_activations,
            "WeightSymmetric": numeric.symmetric_weights,
            "TensorQuantOverrides": {name: [{"axis": axis}] for name, axis in chosen.items()},
            **options,
        },
    )
    try:
        quantiser.quantize_model()
    except (ValueError, RuntimeError, KeyError) as exc:
        raise refusal("ONNX Runtime's quantiser refuses the model", exc) from exc
    quantiser.model.save_model_to_file(str(Path(request.folder) / _ENGINE), False)
    return Outcome(
        file=_ENGINE,
        tools={name: version(name) for name in ("onnx", "onnxruntime")},
        floats=_left_in_float(quantiser.model.model),
    )


def _name_nodes(model: onnx.ModelProto, tensors: Collection[str]) -> list[str]:
    """The nodes that give some of these tensors; one without a name gets one, to be named by."""
    found = []
    for number, node in enumerate(model.graph.node):
        if not set(node.output).isdisjoint(tensors):
            node.name = node.name or f"{node.op_type} {number}"
            found.append(node.name)
    return found


def _left_in_float(model: onnx.ModelProto) -> tuple[str, ...]:
    """Operators that compute on float tensors which were not dequantised for them."""
    dequantised = {
        name
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        for name in node.output
    }
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(
        node.op_type
        for node in model.graph.node
        if node.op_type not in _NO_ARITHMETIC
        and not any(name in dequantised for name in node.input)
        and any(name and name not in constants for name in node.input)
    )
