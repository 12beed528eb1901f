"""Float TFLite models to full-integer INT8, by ai-edge-quantizer with ranges that are given.

Its own calibration is a moving average and misses what was seen (MAE 0.0265 where the extremes
give 0.0022 on a small ECG model); here it only applies what `ranges_from_tflite` saw.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgeclin.convert.operators import left_in_float, scopes_of, with_untaken_quantised
from edgeclin.convert.ranges import read_ranges
from edgeclin.convert.request import Outcome, Request, refusal
from edgeclin.errors import MissingExtra
from edgeclin.profiles import Numeric

try:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe_manager
except ImportError as exc:
    raise MissingExtra("ai-edge-quantizer, which quantises TFLite models,", "convert") from exc

_BITS = 8
_OPERATOR = qtyping.TFLOperationName
_WEIGHTED = (_OPERATOR.CONV_2D, _OPERATOR.DEPTHWISE_CONV_2D, _OPERATOR.FULLY_CONNECTED)
_ENGINE = "int8.tflite"


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Apply the ranges by the profile's rules.

    Raises:
        ConversionFailed: the quantiser refuses the model.
    """
    numeric = request.profile.numeric
    report(f"quantising with ranges by {request.method}")
    model = Path(request.model).read_bytes()
    ranks = _ranks(model)
    ranges = {
        name: {end: np.full((1,) * ranks[name], value, np.float32) for end, value in ends.items()}
        for name, (low, high) in read_ranges(Path(request.ranges)).items()
        for ends in ({"min": low, "max": high},)
    }
    try:
        made = quantizer.Quantizer(
            model, _recipe(numeric, scopes_of(model, request.kept))
        ).quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    except (ValueError, RuntimeError, NotImplementedError) as exc:
        raise refusal("ai-edge-quantizer refuses the model", exc) from exc
    engine = with_untaken_quantised(bytes(made.quantized_model))
    (Path(request.folder) / _ENGINE).write_bytes(engine)
    return Outcome(
        file=_ENGINE,
        tools={"ai-edge-quantizer": version("ai-edge-quantizer")},
        floats=left_in_float(engine),
    )


def _recipe(numeric: Numeric, kept: Sequence[str]) -> Any:
    recipe = recipe_manager.RecipeManager()
    recipe.add_static_config(".*", _OPERATOR.ALL_SUPPORTED, _BITS, _BITS)
    for operator in _WEIGHTED:
        if operator.value not in numeric.per_channel:
            one_scale = qtyping.QuantGranularity.TENSORWISE
            recipe.add_static_config(".*", operator, _BITS, _BITS, weight_granularity=one_scale)
    if numeric.io == "float32":
        for end in (_OPERATOR.INPUT, _OPERATOR.OUTPUT):
            recipe.add_quantization_config(
                ".*", end, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE
            )
    for scope in kept:
        recipe.add_quantization_config(
            f"^{re.escape(scope)}$",
            _OPERATOR.ALL_SUPPORTED,
            algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
        )
    return recipe.get_quantization_recipe()


def _ranks(model: bytes) -> dict[str, int]:
    details = Interpreter(model_content=model).get_tensor_details()
    return {str(entry["name"]): len(entry["shape"]) for entry in details}
