"""Which converters lead from a model to the float form that an engine is made from."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from edgeclin.errors import EngineUnavailable
from edgeclin.profiles import EngineKind

FORM = {
    EngineKind.TFLITE: "tflite",
    EngineKind.TFLITE_EDGETPU: "tflite",
    EngineKind.ONNX_QDQ: "static_onnx",
    EngineKind.TENSORRT: "static_onnx",
}
"""The float form behind each kind of engine that can be made."""
_OF_TFLITE = {
    "ai-edge-quantizer": "int8_tflite_from_tflite",
    "tflite-converter": "int8_tflite_by_tensorflow_from_tflite",
}
QUANTISERS = {
    EngineKind.TFLITE: _OF_TFLITE,
    EngineKind.TFLITE_EDGETPU: _OF_TFLITE,
    EngineKind.ONNX_QDQ: {"onnxruntime": "qdq_onnx_from_static_onnx"},
    EngineKind.TENSORRT: {"onnxruntime": "tensorrt_onnx_from_static_onnx"},
}
"""What makes each kind of engine from its float form and the ranges of its tensors: converters by
the name of the quantiser behind them. The first is the default."""
COMPILED = {EngineKind.TFLITE_EDGETPU, EngineKind.TENSORRT}
"""Engines that only a tool of the accelerator's maker can finish; until then the CPU runs them."""
_SPLIT = "_from_"


def ranges_of(form: str) -> str:
    """The converter that sees the ranges of a float form's tensors."""
    return f"ranges{_SPLIT}{form}"


def layers_of(form: str) -> str:
    """The converter that compares an engine with a float form, layer by layer."""
    return f"layers{_SPLIT}{form}"


def made_by(converter: str) -> str:
    """The form that a converter makes."""
    return converter.partition(_SPLIT)[0]


def route(source: str, target: str, converters: Sequence[str]) -> tuple[str, ...]:
    """The shortest way from one form to another; empty when they are the same.

    Raises:
        EngineUnavailable: no converters lead there.
    """
    steps = {name: tuple(name.split(_SPLIT)) for name in converters if name.count(_SPLIT) == 1}
    ways: dict[str, tuple[str, ...]] = {source: ()}
    waiting = deque([source])
    while waiting:
        here = waiting.popleft()
        for name, (made, taken) in sorted(steps.items()):
            if taken == here and made not in ways:
                ways[made] = (*ways[here], name)
                waiting.append(made)
    if target not in ways:
        raise EngineUnavailable(
            f"no converters lead from {source} to {target} models; there are: "
            f"{', '.join(converters) or 'none'}"
        )
    return ways[target]
