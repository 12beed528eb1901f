"""What the Edge TPU does not take, by operator: the rules that a prediction goes by.

Those are Coral's documentation ("TensorFlow models on the Edge TPU", supported operations), as Axis
repeats it for compiler 16 ("ARTPEC-7, Supported Ops") and older copies of the page. A row of which
no source could be read, and one that the page itself leaves open, gives a doubt and no refusal.
Versions are those that users of compiler 16 reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeclin.convert.edgetpu_operator import Operator, shape_of, type_of

_MAPPED = {
    "ADD",
    "AVERAGE_POOL_2D",
    "CONCATENATION",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "EXPAND_DIMS",
    "FULLY_CONNECTED",
    "L2_NORMALIZATION",
    "LOGISTIC",
    "MAXIMUM",
    "MAX_POOL_2D",
    "MEAN",
    "MINIMUM",
    "MUL",
    "PACK",
    "PAD",
    "PRELU",
    "QUANTIZE",
    "REDUCE_MAX",
    "REDUCE_MIN",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "RESHAPE",
    "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR",
    "RSQRT",
    "SLICE",
    "SOFTMAX",
    "SPACE_TO_DEPTH",
    "SPLIT",
    "SQUARED_DIFFERENCE",
    "SQUEEZE",
    "STRIDED_SLICE",
    "SUB",
    "SUM",
    "TANH",
    "TRANSPOSE",
    "TRANSPOSE_CONV",
    "UNIDIRECTIONAL_SEQUENCE_LSTM",
}
_NEWEST_VERSION = {"CONV_2D": 5, "TRANSPOSE_CONV": 3}
_NO_FUSED_ACTIVATION = {"AVERAGE_POOL_2D", "CONCATENATION", "MAX_POOL_2D"}
_DILATED = {"CONV_2D", "DEPTHWISE_CONV_2D"}
_WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}
"""Operators whose second input is their weights."""
_SOFTMAX_ELEMENTS = 16_000
_LARGE = 100_000
"""Elements from which a RESHAPE is in doubt; ours, the page says "large" alone."""
_COMPILE = "compile it to know"
_ELSEWHERE = {
    "GELU": "replace it by ReLU or ReLU6",
    "HARD_SWISH": "replace it by ReLU6",
    "LEAKY_RELU": "replace it by ReLU or PReLU",
    "ELU": "replace it by ReLU",
    "BATCH_MATMUL": "replace attention by convolutions, or end the Edge TPU part before it",
    "DEQUANTIZE": "give the profile integer outputs (numeric.io)",
}
_INTEGER = ("INT8", "UINT8")


@dataclass(frozen=True, slots=True)
class Objection:
    """Why an operator stays on the CPU, or only may (`certain` is false), and what to change."""

    reason: str
    remedy: str
    certain: bool = True


def objections(operator: Operator) -> Iterator[Objection]:
    """Every reason against the Edge TPU."""
    name = operator.name
    if name not in _MAPPED:
        yield Objection(f"the Edge TPU has no {name}", _ELSEWHERE.get(name, "replace it"))
    newest = _NEWEST_VERSION.get(name)
    if newest is not None and operator.version > newest:
        yield Objection(
            f"version {operator.version}, compiler 16 reads up to {newest}",
            "convert with a TensorFlow of the compiler's age, or change the operator's options",
        )
    for tensor in (*operator.inputs, *operator.outputs):
        if operator.constant(tensor) is None and not tensor.isVariable:
            yield from _of_tensor(tensor)
    if name in _NO_FUSED_ACTIVATION and operator.option("fusedActivationFunction"):
        yield Objection("it has a fused activation", "put the activation before it")
    if name in _DILATED and operator.option("dilationWFactor") != operator.option(
        "dilationHFactor"
    ):
        yield Objection("its dilation differs in x and y", "use the same in both")
    if name in _WEIGHTED and operator.constant(operator.inputs[1]) is None:
        yield Objection("its weights are computed", "make them constants of the model")
    rule = _RULES.get(name)
    if rule is not None:
        yield from rule(operator)


def _of_tensor(tensor: Any) -> Iterator[Objection]:
    label, shape = tensor.name.decode(), shape_of(tensor)
    kind = type_of(tensor)
    if kind not in _INTEGER:
        remedy = "quantise it, inputs and outputs too (numeric.io)"
        yield Objection(f"{label} is {kind.lower()}, not int8", remedy)
    if tensor.shapeSignature is not None and any(size < 0 for size in tensor.shapeSignature):
        yield Objection(f"{label} has a dynamic shape", "fix every axis")
    if any(size > 1 for size in shape[:-3]):
        yield Objection(
            f"{label} has the shape {shape}: only the three innermost axes may be above 1",
            "use batch size 1, and fold outer axes into inner ones",
        )


def _of_fully_connected(operator: Operator) -> Iterator[Objection]:
    scales = operator.inputs[1].quantization
    if scales is not None and scales.scale is not None and len(scales.scale) > 1:
        yield Objection(
            f"its weights have {len(scales.scale)} scales",
            "one a tensor: leave FULLY_CONNECTED out of numeric.per_channel",
        )
    if operator.option("weightsFormat"):
        yield Objection("its weights are shuffled", "convert with the default format of weights")
    shape = shape_of(operator.outputs[0])
    if sum(size > 1 for size in shape) > 1:
        yield Objection(
            f"its output has the shape {shape}, more than one axis", "flatten before it"
        )


def _of_softmax(operator: Operator) -> Iterator[Objection]:
    shape = shape_of(operator.inputs[0])
    if sum(size > 1 for size in shape) > 1:
        yield Objection(
            f"its input has the shape {shape}, more than one axis",
            "end the model before it, and take the softmax outside",
        )
    if np.prod(shape) > _SOFTMAX_ELEMENTS:
        yield Objection(
            f"its input has {np.prod(shape):,} elements, {_SOFTMAX_ELEMENTS:,} are taken",
            "end the model before it, and take the softmax outside",
        )


def _of_strided_slice(operator: Operator) -> Iterator[Objection]:
    strides = operator.constant(operator.inputs[3])
    if strides is not None and (strides != 1).any():
        yield Objection(f"its strides are {strides.tolist()}, only 1 is taken", "pool instead")
    if operator.option("ellipsisMask") or operator.option("newAxisMask"):
        yield Objection("it has an ellipsis or a new axis", "slice every axis, and reshape")


def _of_concatenation(operator: Operator) -> Iterator[Objection]:
    for tensor in operator.inputs:
        values = operator.constant(tensor)
        if values is None:
            continue
        if len(operator.inputs) != 2:
            yield Objection(
                f"a constant is among {len(operator.inputs)} inputs, only two are taken then",
                "join the constant in an operator of its own",
            )
        zero = tensor.quantization.zeroPoint[0] if tensor.quantization is not None else 0
        if (values != zero).any():
            yield Objection("it joins a constant that is not all zeros", "pad with zeros instead")


def _of_prelu(operator: Operator) -> Iterator[Objection]:
    shape = shape_of(operator.inputs[1])
    if any(size > 1 for size in shape[:-1]):
        yield Objection(
            f"its alpha has the shape {shape}, only the innermost axis may be above 1",
            "share alpha along height and width (shared_axes=[1, 2] in Keras)",
        )


def _of_pack(operator: Operator) -> Iterator[Objection]:
    if operator.option("axis") % len(shape_of(operator.outputs[0])) == 0:
        yield _along_batch("packs")


def _of_split(operator: Operator) -> Iterator[Objection]:
    axis = operator.constant(operator.inputs[0])
    if axis is not None and 0 in axis % len(shape_of(operator.inputs[1])):
        yield _along_batch("splits", certain=False)


def _of_reduction(operator: Operator) -> Iterator[Objection]:
    if 0 in operator.axes:
        yield _along_batch("reduces")


def _of_mean(operator: Operator) -> Iterator[Objection]:
    yield from _of_reduction(operator)
    shape = shape_of(operator.inputs[0])
    if len(shape) - 1 in operator.axes and shape[-1] % 4:
        yield Objection(
            f"it reduces {shape[-1]} channels, only a multiple of 4 is taken",
            "use a multiple of 4 channels before it",
        )


def _of_sum(operator: Operator) -> Iterator[Objection]:
    rank = len(shape_of(operator.inputs[0]))
    if rank > 2 and operator.axes - {rank - 3, rank - 2}:
        yield Objection(
            f"it works along the axes {sorted(operator.axes)}: only height and width are known "
            "to be taken",
            _COMPILE,
            certain=False,
        )


def _of_pad(operator: Operator) -> Iterator[Objection]:
    amounts = operator.constant(operator.inputs[1])
    if amounts is not None and amounts.reshape(-1, 2)[0].any():
        yield _along_batch("pads")


def _of_reshape(operator: Operator) -> Iterator[Objection]:
    size = int(np.prod(shape_of(operator.outputs[0])))
    if size > _LARGE:
        yield Objection(
            f"it has {size:,} elements: the compiler leaves some large ones on the CPU",
            _COMPILE,
            certain=False,
        )


def _of_squeeze(operator: Operator) -> Iterator[Objection]:
    shape = shape_of(operator.inputs[0])
    inner = shape[next((place for place, size in enumerate(shape) if size > 1), len(shape)) :]
    if 1 in inner:
        yield Objection(
            f"its input has the shape {shape}: only axes before the first above 1 are known to be "
            "taken",
            f"{_COMPILE}, or use RESHAPE",
            certain=False,
        )


def _of_resize(_: Operator) -> Iterator[Objection]:
    yield Objection(
        "the compiler leaves some sizes on the CPU, to avoid loss in precision",
        f"{_COMPILE}, or resize outside of the model",
        certain=False,
    )


def _of_lstm(_: Operator) -> Iterator[Objection]:
    """google-coral/edgetpu, issues 156 (it is taken), 598 and 800 (it is not)."""
    yield Objection("the compiler takes some sizes and fails for others", _COMPILE, certain=False)


def _along_batch(does: str, certain: bool = True) -> Objection:
    return Objection(f"it {does} along the batch axis", "use another axis", certain)


_RULES = {
    "CONCATENATION": _of_concatenation,
    "FULLY_CONNECTED": _of_fully_connected,
    "MEAN": _of_mean,
    "PACK": _of_pack,
    "PAD": _of_pad,
    "PRELU": _of_prelu,
    "REDUCE_MAX": _of_reduction,
    "REDUCE_MIN": _of_reduction,
    "RESHAPE": _of_reshape,
    "RESIZE_BILINEAR": _of_resize,
    "RESIZE_NEAREST_NEIGHBOR": _of_resize,
    "SOFTMAX": _of_softmax,
    "SPLIT": _of_split,
    "SQUEEZE": _of_squeeze,
    "STRIDED_SLICE": _of_strided_slice,
    "SUM": _of_sum,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _of_lstm,
}
