"""The prediction for the Edge TPU: one reason and remedy for every rule, and one partition."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeclin.convert.edgetpu import custom_operators, preflight
from edgeclin.convert.flatbuffer import pack, unpack

DATA = Path(__file__).parent / "data"
Change = Callable[[Any, Any], object]


def changed(change: Change) -> bytes:
    """The INT8 engine with per-tensor weights in FULLY_CONNECTED, and one change to its graph."""
    data = (DATA / "ecg_int8_io.tflite").read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    graph = model.subgraphs[0]
    last = graph.tensors[graph.operators[-1].inputs[1]].quantization
    last.scale, last.zeroPoint = last.scale[:1], last.zeroPoint[:1]
    change(model, graph)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def nothing(_: Any, __: Any) -> None: ...


def test_an_engine_by_the_rules_is_mapped_whole() -> None:
    found = preflight(changed(nothing), 8)
    assert [one.predicted for one in found.operators] == ["Edge TPU"] * 7
    assert found.end is None
    assert found.sentence == (
        "predicted, not compiled: 7 of 7 operators on the Edge TPU; 7,172 bytes of parameters fit "
        "into about 8 MiB on the chip"
    )


def operator(graph: Any, index: int) -> Any:
    return graph.operators[index]


def code(number: int) -> Change:
    """Make the CONV_2D operators something else."""

    def change(model: Any, _: Any) -> None:
        model.operatorCodes[1].builtinCode = number
        model.operatorCodes[1].deprecatedBuiltinCode = min(number, 127)

    return change


def outer_axis(_: Any, graph: Any) -> None:
    tensor = graph.tensors[operator(graph, 1).outputs[0]]
    tensor.shape = [2, *tensor.shape[1:]]


RULES: dict[str, tuple[Change, int, str]] = {
    "operator": (code(schema.BuiltinOperator.GELU), 1, "the Edge TPU has no GELU"),
    "version": (
        lambda model, _: setattr(model.operatorCodes[1], "version", 6),
        1,
        "version 6, compiler 16 reads up to 5",
    ),
    "type": (
        lambda _, graph: setattr(
            graph.tensors[operator(graph, 2).outputs[0]], "type", schema.TensorType.FLOAT32
        ),
        2,
        "is float32, not int8",
    ),
    "shape": (
        lambda _, graph: setattr(
            graph.tensors[operator(graph, 0).outputs[0]], "shapeSignature", [-1, 1, 140, 1]
        ),
        0,
        "has a dynamic shape",
    ),
    "rank": (outer_axis, 1, "only the three innermost axes may be above 1"),
    "dilation": (
        lambda _, graph: setattr(operator(graph, 1).builtinOptions, "dilationWFactor", 2),
        1,
        "its dilation differs in x and y",
    ),
    "scales": (
        lambda _, graph: setattr(
            graph.tensors[operator(graph, 6).inputs[1]].quantization, "scale", [0.1] * 5
        ),
        6,
        "its weights have 5 scales",
    ),
}


@pytest.mark.parametrize("rule", list(RULES))
def test_a_broken_rule_is_named_with_its_remedy_and_ends_the_part_on_the_edge_tpu(
    rule: str,
) -> None:
    change, first, words = RULES[rule]
    found = preflight(changed(change), 8)
    assert [one.predicted for one in found.operators] == ["Edge TPU"] * first + ["CPU"] * (
        7 - first
    )
    end = found.operators[first]
    assert found.end == end
    assert re.search(words, end.reason)
    assert end.remedy
    for after in found.operators[first + 1 :]:
        assert after.reason


@dataclass
class Given:
    """An input of an operator: computed, unless it has values.

    Attributes:
        kind: a name in the flatbuffer's `TensorType`.
        variable: whether it is a state that stays from one call to the next.
    """

    shape: list[int]
    values: list[int] | None = None
    kind: str = "INT8"
    variable: bool = False


def numbers(*values: int) -> Given:
    """Such as axes or strides."""
    return Given([len(values)], list(values), "INT32")


def alone(kind: str, inputs: list[Given], output: list[int], **options: Any) -> bytes:
    """An engine of one operator.

    Args:
        options: with the flatbuffer's names; `of` is the name of their table, such as `Pack`.
    """
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, kind)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    model.operatorCodes = [code]
    graph.tensors = []
    for given in (*inputs, Given(output)):
        tensor, buffer = schema.TensorT(), schema.BufferT()
        tensor.name, tensor.shape = f"t{len(graph.tensors)}", given.shape
        tensor.type, tensor.isVariable = getattr(schema.TensorType, given.kind), given.variable
        tensor.buffer = len(model.buffers)
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [0.1], [ZERO]
        if given.values is not None:
            width = np.int32 if given.kind == "INT32" else np.int8
            buffer.data = list(np.array(given.values, width).tobytes())
        model.buffers.append(buffer)
        graph.tensors.append(tensor)
    one = schema.OperatorT()
    one.inputs, one.outputs = list(range(len(inputs))), [len(inputs)]
    table = options.pop("of", None)
    if table is not None:
        one.builtinOptionsType = getattr(schema.BuiltinOptions, f"{table}Options")
        one.builtinOptions = getattr(schema, f"{table}OptionsT")()
        for name, value in options.items():
            setattr(one.builtinOptions, name, value)
    graph.operators, graph.inputs, graph.outputs = [one], [0], [len(inputs)]
    builder = flatbuffers.Builder(1 << 12)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


ZERO = -3
MAP = [1, 6, 6, 8]
X = Given(MAP)
WEIGHTS = Given([4, 8], [1] * 32)
TABLE: dict[str, tuple[bytes, str]] = {
    "softmax": (alone("SOFTMAX", [Given([1, 10])], [1, 10]), ""),
    "softmax, pixels": (alone("SOFTMAX", [X], MAP), "CPU: its input has the shape"),
    "softmax, long": (
        alone("SOFTMAX", [Given([1, 16_001])], [1, 16_001]),
        "CPU: its input has 16,001 elements, 16,000 are taken",
    ),
    "slice": (
        alone("STRIDED_SLICE", [X, numbers(0, 0), numbers(1, 2), numbers(1, 1)], MAP,
              of="StridedSlice"),
        "",
    ),
    "slice, stride": (
        alone("STRIDED_SLICE", [X, numbers(0, 0), numbers(1, 2), numbers(1, 2)], MAP,
              of="StridedSlice"),
        r"CPU: its strides are \[1, 2\], only 1 is taken",
    ),
    **{
        f"slice, {mask}": (
            alone("STRIDED_SLICE", [X, numbers(0), numbers(1), numbers(1)], MAP,
                  of="StridedSlice", **{mask: 1}),
            "CPU: it has an ellipsis or a new axis",
        )
        for mask in ("ellipsisMask", "newAxisMask")
    },
    "join": (alone("CONCATENATION", [X, X, X], MAP, of="Concatenation"), ""),
    "join zeros": (alone("CONCATENATION", [X, Given([2], [ZERO] * 2)], MAP), ""),
    "join others": (
        alone("CONCATENATION", [X, Given([2], [ZERO, 0])], MAP),
        "CPU: it joins a constant that is not all zeros",
    ),
    "join three": (
        alone("CONCATENATION", [X, X, Given([2], [ZERO] * 2)], MAP),
        "CPU: a constant is among 3 inputs",
    ),
    "join, fused": (
        alone("CONCATENATION", [X, X], MAP, of="Concatenation", fusedActivationFunction=1),
        "CPU: it has a fused activation",
    ),
    "prelu": (alone("PRELU", [X, Given([1, 1, 8], [1] * 8)], MAP), ""),
    "prelu, pixels": (
        alone("PRELU", [X, Given([6, 1, 8], [1] * 48)], MAP),
        r"CPU: its alpha has the shape \[6, 1, 8\]",
    ),
    "mean": (alone("MEAN", [X, numbers(1, 2)], [1, 8]), ""),
    "mean, 8 channels": (alone("MEAN", [X, numbers(-1)], [1, 6, 6]), ""),
    "mean, 6 channels": (
        alone("MEAN", [Given([1, 6, 6, 6]), numbers(3)], [1, 6, 6]),
        "CPU: it reduces 6 channels, only a multiple of 4 is taken",
    ),
    "pad channels": (alone("PAD", [X, numbers(0, 0, 0, 0, 0, 0, 0, 4)], [1, 6, 6, 12]), ""),
    "pad batch": (
        alone("PAD", [X, numbers(1, 0, 0, 0, 0, 0, 0, 0)], MAP),
        "CPU: it pads along the batch axis",
    ),
    **{
        f"{kind} of the batch": (
            alone(kind, [X, numbers(0)], [6, 6, 8]),
            "CPU: it reduces along the batch axis",
        )
        for kind in ("MEAN", "REDUCE_MAX", "REDUCE_MIN")
    },
    "pack batch": (
        alone("PACK", [Given([6, 8])], [1, 6, 8], of="Pack"),
        "CPU: it packs along the batch axis",
    ),
    "pack": (alone("PACK", [X, X], [6, 6, 8], of="Pack", axis=1), ""),
    "split": (alone("SPLIT", [numbers(3), X], MAP), ""),
    "split batch": (
        alone("SPLIT", [numbers(0), X], MAP),
        "uncertain: it splits along the batch axis",
    ),
    "sum": (alone("SUM", [X, numbers(1, 2)], [1, 8]), ""),
    "sum of channels": (
        alone("SUM", [X, numbers(3)], [1, 6, 6]),
        r"uncertain: it works along the axes \[3\]",
    ),
    "dense": (alone("FULLY_CONNECTED", [Given([1, 8]), WEIGHTS], [1, 4]), ""),
    "dense of pixels": (
        alone("FULLY_CONNECTED", [Given([6, 8]), WEIGHTS], [6, 4]),
        "CPU: its output has the shape",
    ),
    "dense, computed": (
        alone("FULLY_CONNECTED", [Given([1, 8]), Given([4, 8])], [1, 4]),
        "CPU: its weights are computed",
    ),
    "dense, shuffled": (
        alone("FULLY_CONNECTED", [Given([1, 8]), WEIGHTS], [1, 4], of="FullyConnected",
              weightsFormat=1),
        "CPU: its weights are shuffled",
    ),
    "reshape": (alone("RESHAPE", [X], [1, 288]), ""),
    "reshape, large": (
        alone("RESHAPE", [Given([1, 500, 300])], [1, 150_000]),
        "uncertain: it has 150,000 elements",
    ),
    "squeeze": (alone("SQUEEZE", [Given([1, 1, 5, 10])], [5, 10]), ""),
    "squeeze within": (
        alone("SQUEEZE", [Given([1, 5, 1, 10])], [5, 10]),
        r"uncertain: its input has the shape \[1, 5, 1, 10\]",
    ),
    "lstm": (
        alone("UNIDIRECTIONAL_SEQUENCE_LSTM",
              [Given([1, 6, 8]), Given([1, 8], kind="INT16", variable=True)], [1, 6, 8]),
        "uncertain: the compiler takes some sizes and fails for others",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", list(TABLE))
def test_an_operator_is_judged_as_coral_documents_it(row: str) -> None:
    engine, words = TABLE[row]
    (found,) = preflight(engine, 8).operators
    said = "" if found.predicted == "Edge TPU" else f"{found.predicted}: {found.reason}"
    assert re.match(words, said) if words else not said
    assert bool(found.remedy) == bool(words)


def test_constants_behind_the_flatbuffer_are_read_and_counted() -> None:
    inside = changed(nothing)
    content = unpack(inside)
    constants = [one for one in content.buffers if one.data is not None and len(one.data)]
    values = [bytes(one.data) for one in constants]
    for buffer, data in zip(constants, values, strict=True):
        buffer.data, buffer.offset, buffer.size = None, 2, len(data)
    start = len(pack(content))
    for buffer, data in zip(constants, values, strict=True):
        buffer.offset, start = start, start + len(data)
    behind = pack(content) + b"".join(values)
    assert preflight(behind, 8) == preflight(inside, 8)
    assert custom_operators(behind) == []


def test_an_engine_for_a_newer_runtime_than_the_compiler_s_is_said() -> None:
    def newer(model: Any, _: Any) -> None:
        (entry,) = [one for one in model.metadata if one.name == b"min_runtime_version"]
        model.buffers[entry.buffer].data = list(b"2.14.0\0\0")

    found = preflight(changed(newer), 8)
    assert found.sentence.endswith("it needs TensorFlow Lite 2.14.0, compiler 16 knows 2.5.0")


def test_parameters_that_do_not_fit_are_said() -> None:
    assert "7,172 bytes of parameters do not fit" in preflight(changed(nothing), 0.005).sentence


def test_a_resize_is_uncertain_and_so_is_all_that_follows() -> None:
    found = preflight(changed(code(schema.BuiltinOperator.RESIZE_BILINEAR)), 8)
    predicted = [one.predicted for one in found.operators]
    assert predicted == ["Edge TPU"] + ["uncertain"] * 6
    assert "1 of 7 operators on the Edge TPU (6 more are uncertain)" in found.sentence


def operators_of(engine: Path) -> list[str]:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(engine.read_bytes(), 0))
    codes = [model.operatorCodes[one.opcodeIndex] for one in model.subgraphs[0].operators]
    return [(one.customCode or b"").decode() for one in codes]


def test_the_prediction_is_what_the_real_compiler_did(shared_data: Path) -> None:
    """A segmentation model beside its compiled twin: what the compiler took is in one operator."""
    name = "deeplabv3_mnv2_dm05_pascal_quant"
    found = preflight((shared_data / "coral" / f"{name}.tflite").read_bytes(), 8)
    compiled = operators_of(shared_data / "coral" / f"{name}_edgetpu.tflite")
    assert compiled[0] == "edgetpu-custom-op"
    assert found.mapped == len(found.operators) - len(compiled[1:])
    whole = preflight((shared_data / "coral" / "mobilenet_v2_1.0_224_quant.tflite").read_bytes(), 8)
    assert whole.mapped == len(whole.operators) == 66
