"""Float TFLite models to full-integer INT8, by TFLiteConverter's own quantiser, ranges given.

TFLiteConverter calibrates a float flatbuffer, writes each tensor's extremes into it and has MLIR
quantise that. Here the ranges of `ranges_from_tflite` are written in their place: it takes the same
samples as the other quantisers, and any method of choosing ranges.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgeclin.convert.flatbuffer import pack, unpack
from edgeclin.convert.operators import left_in_float
from edgeclin.convert.ranges import read_ranges
from edgeclin.convert.request import Outcome, Request, refusal
from edgeclin.errors import ConversionFailed, MissingExtra
from edgeclin.profiles import Numeric

try:
    import tensorflow as tf
    from ai_edge_litert import schema_py_generated as schema
    from tensorflow.lite.python.convert import mlir_quantize
except ImportError as exc:
    raise MissingExtra("TensorFlow, whose quantiser this is,", "convert") from exc

_ENGINE = "int8.tflite"
_CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}
_DENSE = "FULLY_CONNECTED"


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Apply the ranges by the profile's rules.

    Raises:
        ConversionFailed: the quantiser refuses the model, or cannot keep to the profile's rules.
    """
    numeric = request.profile.numeric
    _check(numeric)
    report(f"quantising by TFLiteConverter's quantiser with ranges by {request.method}")
    calibrated = _with_ranges(Path(request.model).read_bytes(), read_ranges(Path(request.ranges)))
    try:
        engine = mlir_quantize(
            calibrated,
            disable_per_channel=not numeric.per_channel,
            disable_per_channel_for_dense_layers=_DENSE not in numeric.per_channel,
            fully_quantize=numeric.io != "float32",
            input_data_type=tf.dtypes.as_dtype(numeric.io),
            output_data_type=tf.dtypes.as_dtype(numeric.io),
            denylisted_nodes=set(request.kept) or None,
        )
    except Exception as exc:  # MLIR's errors share no root
        raise refusal("TFLiteConverter's quantiser refuses the model", exc) from exc
    (Path(request.folder) / _ENGINE).write_bytes(engine)
    return Outcome(
        file=_ENGINE, tools={"tensorflow": tf.__version__}, floats=left_in_float(bytes(engine))
    )


def _check(numeric: Numeric) -> None:
    """It knows weights by channel for all convolutions or none, and for dense layers only then."""
    named = set(numeric.per_channel)
    if named and not named >= _CONVOLUTIONS:
        raise ConversionFailed(
            "TFLiteConverter's quantiser takes weights per channel for CONV_2D and "
            f"DEPTHWISE_CONV_2D together, the profile says {', '.join(sorted(named))}; choose "
            "--quantiser ai-edge-quantizer"
        )


def _with_ranges(model: bytes, ranges: dict[str, tuple[float, float]]) -> bytes:
    """A copy of the flatbuffer that says of each tensor what was seen in it."""
    content = unpack(model)
    for graph in content.subgraphs:
        for tensor in graph.tensors:
            seen = ranges.get(tensor.name.decode())
            if seen is not None:
                tensor.quantization = schema.QuantizationParametersT()
                tensor.quantization.min, tensor.quantization.max = [seen[0]], [seen[1]]
    return pack(content)
