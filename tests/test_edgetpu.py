"""The prediction for the Edge TPU: one reason and remedy for every rule, and one partition."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from edgeclin.convert.edgetpu import preflight

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


def axes_of_mean(model: Any, graph: Any) -> None:
    axes = graph.tensors[operator(graph, 5).inputs[1]]
    model.buffers[axes.buffer].data = list((2).to_bytes(4, "little"))


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
    "axes": (axes_of_mean, 5, r"it works along the axes \[2\]"),
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
