"""TensorRT's rules for Q/DQ models: what we emit keeps to them, and each broken one is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ECG

pytest.importorskip("onnx", reason="the convert extra is not installed")

import onnx

from edgeclin.convert.qdq_rules import broken_rules
from edgeclin.convert.ranges import Method, write_ranges
from edgeclin.convert.request import Request
from edgeclin.convert.stages import Stage, Workshop, ask
from edgeclin.profiles import load_profile
from edgeclin.tensorrt.worker import MODEL, check_here

DATA = Path(__file__).parent / "data"
PROFILES = {"jetson-xavier-nx": "8.5", "jetson-orin-nano": "10.3", "jetson-thor": "10.16"}


def emit(folder: Path, profile: str, model: Path) -> Path:
    """The Q/DQ model for a profile, made from a float one."""
    from edgeclin.convert.quantising import quantise

    with np.load(ECG / "data" / "train.npz") as arrays:
        beats = arrays["X"][:60, :, np.newaxis].astype(np.float32)
    np.save(folder / "calibration.npy", beats)
    workshop = Workshop(folder, load_profile(profile), lambda _: None)
    source = ask("static_onnx", model, beats)
    assert source.outputs is not None
    stage = Stage("static_onnx", source.path)
    calibration = folder / "calibration.npy"
    found = quantise(workshop, stage, source.outputs, calibration, beats, (Method.MIN_MAX,))
    assert found.errors[Method.MIN_MAX] < 0.02, "ONNX Runtime checks the numbers"
    return found.stage.path


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The Q/DQ model for each profile, made from the example's float ONNX model."""
    model = DATA / "ecg_float.onnx"
    return {name: emit(tmp_path_factory.mktemp(name), name, model) for name in PROFILES}


@pytest.mark.parametrize("profile", list(PROFILES))
def test_what_is_emitted_keeps_to_every_rule(engines: dict[str, Path], profile: str) -> None:
    assert broken_rules(onnx.load(engines[profile]), PROFILES[profile]) == []


def test_version_8_gets_float_weights_and_later_ones_int8(engines: dict[str, Path]) -> None:
    def weights(profile: str) -> set[str]:
        model = onnx.load(engines[profile])
        return {
            onnx.TensorProto.DataType.Name(tensor.data_type)
            for tensor in model.graph.initializer
            if len(tensor.dims) == 4
        }

    assert weights("jetson-xavier-nx") == {"FLOAT"}
    assert weights("jetson-orin-nano") == weights("jetson-thor") == {"INT8"}
    (broken, *_) = broken_rules(onnx.load(engines["jetson-orin-nano"]), "8.5")
    assert "an int8 weight behind DequantizeLinear alone, TensorRT 8 wants a float weight" in broken


def test_nothing_stands_between_a_convolution_and_its_activation(engines: dict[str, Path]) -> None:
    model = onnx.load(engines["jetson-orin-nano"])
    made = {one.output[0] for one in model.graph.node if one.op_type == "Conv"}
    users = {one.op_type for one in model.graph.node if made & set(one.input)}
    assert users == {"Relu"}


def constant(model: Any, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def node(model: Any, kind: str, position: int = 0) -> Any:
    return [one for one in model.graph.node if one.op_type == kind][position]


def replace(model: Any, name: str, value: np.ndarray) -> None:
    constant(model, name).CopyFrom(onnx.numpy_helper.from_array(value, name))


def zero_point(model: Any) -> None:
    replace(model, node(model, "QuantizeLinear").input[2], np.array(3, np.int8))


def unsigned(model: Any) -> None:
    replace(model, node(model, "QuantizeLinear").input[2], np.array(0, np.uint8))


def activation_by_channel(model: Any) -> None:
    replace(model, node(model, "QuantizeLinear").input[1], np.ones(16, np.float32))


def weights_along_another_axis(model: Any) -> None:
    taken = {name for one in model.graph.node if one.op_type == "Conv" for name in one.input}
    weight = next(
        one
        for one in model.graph.node
        if one.op_type == "DequantizeLinear" and one.attribute and one.output[0] in taken
    )
    weight.attribute[0].i = 1


def quantised_bias(model: Any) -> None:
    convolution = node(model, "Conv")
    bias = onnx.numpy_helper.from_array(np.zeros(16, np.int32), "bias_int")
    scale = onnx.numpy_helper.from_array(np.ones(16, np.float32), "bias_scale")
    point = onnx.numpy_helper.from_array(np.zeros(16, np.int32), "bias_zero")
    model.graph.initializer.extend([bias, scale, point])
    made = onnx.helper.make_node(
        "DequantizeLinear", ["bias_int", "bias_scale", "bias_zero"], ["bias"], "dq_bias", axis=0
    )
    model.graph.node.insert(0, made)
    convolution.input[2] = "bias"


def quantised_offset(model: Any) -> None:
    quantised_bias(model)
    model.graph.node.append(onnx.helper.make_node("Add", ["bias", "bias"], ["sum"], "offset"))


def dynamic(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"


def new_opset(model: Any) -> None:
    model.opset_import[0].version = 21


def other_scale(model: Any) -> None:
    dequantise = next(
        one
        for one in model.graph.node
        if one.op_type == "DequantizeLinear" and "QuantizeLinear_Output" in one.input[0]
    )
    name = dequantise.input[1] + "_other"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(9, np.float32), name))
    dequantise.input[1] = name


def without_quantise(model: Any) -> None:
    first = node(model, "QuantizeLinear")
    first.op_type = "Identity"
    del first.input[1:]


def foreign(model: Any) -> None:
    node(model, "Relu").domain = "com.microsoft"


def scale(value: float) -> Callable[[Any], None]:
    def harm(model: Any) -> None:
        replace(model, node(model, "QuantizeLinear").input[1], np.array(value, np.float32))

    harm.__name__ = f"scale {value}"
    return harm


def no_zero_point(model: Any) -> None:
    del node(model, "QuantizeLinear").input[2]


def take_float(model: Any, kind: str, position: int) -> None:
    """Give an operator a tensor as it was before it was quantised, or a constant."""
    user = node(model, kind)
    makers = {one.output[0]: one for one in model.graph.node}
    dequantise = makers[user.input[position]]
    quantise = makers.get(dequantise.input[0])
    if quantise is not None:
        user.input[position] = quantise.input[0]
        return
    shape = constant(model, dequantise.input[0]).dims
    weight = onnx.numpy_helper.from_array(np.ones(shape, np.float32), "float_weight")
    model.graph.initializer.append(weight)
    user.input[position] = "float_weight"


def float_activation(model: Any) -> None:
    take_float(model, "Conv", 0)


def float_weight(model: Any) -> None:
    take_float(model, "Conv", 1)


def half_a_residual(model: Any) -> None:
    source, taken = node(model, "Relu").output[0], node(model, "Conv").input[0]
    model.graph.node.append(onnx.helper.make_node("Add", [source, taken], ["sum"], "residual"))


def integers_taken(model: Any) -> None:
    made = node(model, "QuantizeLinear").output[0]
    model.graph.node.append(onnx.helper.make_node("Identity", [made], ["integers"]))


def integers_given(model: Any) -> None:
    made = node(model, "QuantizeLinear").output[0]
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    given = onnx.helper.make_tensor_value_info(made, onnx.TensorProto.INT8, shape)
    model.graph.output.append(given)


def within_a_branch(model: Any) -> None:
    """QuantizeLinear without a zero point in both branches of an If."""
    pair = node(model, "QuantizeLinear")
    inner = [
        onnx.helper.make_node("QuantizeLinear", pair.input[:2], ["inner"]),
        onnx.helper.make_node("DequantizeLinear", ["inner", *pair.input[1:]], ["branch"]),
    ]
    ends = [onnx.helper.make_tensor_value_info("branch", onnx.TensorProto.FLOAT, None)]
    body = onnx.helper.make_graph(inner, "body", [], ends)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "condition"))
    branches = {"then_branch": body, "else_branch": body}
    model.graph.node.append(onnx.helper.make_node("If", ["condition"], ["either"], **branches))


BROKEN: dict[Callable[[Any], None], str] = {
    zero_point: "a zero point other than 0",
    unsigned: "the zero point is uint8, only int8 is read",
    activation_by_channel: "an activation with 16 scales",
    weights_along_another_axis: "scales along axis 1, Conv wants 0",
    quantised_bias: "a quantised bias, leave it in float",
    quantised_offset: "adds a quantised constant, leave it in float",
    dynamic: "a dynamic shape, fix every axis",
    new_opset: "opset 21: TensorRT 8.5 to 11 all read 13 to 17 only",
    other_scale: "another scale or zero point than the QuantizeLinear before it",
    without_quantise: "no QuantizeLinear before it",
    foreign: "operators of the domain com.microsoft",
    scale(0): "a scale of 0.0, it must be finite and above 0",
    scale(-1): "a scale of -1.0, it must be finite and above 0",
    scale(float("nan")): "a scale of nan, it must be finite and above 0",
    scale(float("inf")): "a scale of inf, it must be finite and above 0",
    no_zero_point: "no zero point, which ONNX takes as uint8",
    float_activation: "in float and its other input quantised",
    float_weight: "Conv with float_weight in float and its other input quantised",
    half_a_residual: "residual: Add with",
    integers_taken: "Identity takes its integers",
    integers_given: "no DequantizeLinear after it",
    within_a_branch: "QuantizeLinear of inner: no zero point",
}


@pytest.mark.parametrize("harm", list(BROKEN), ids=lambda harm: harm.__name__)
def test_a_broken_rule_is_told(engines: dict[str, Path], harm: Callable[[Any], None]) -> None:
    model = onnx.load(engines["jetson-orin-nano"])
    harm(model)
    broken = broken_rules(model, "10.3")
    assert any(BROKEN[harm] in one for one in broken), broken


def weighted(kind: str, shape: tuple[int, ...], left: bool = False, **attributes: int) -> Any:
    """One operator on a weight: x and y have whatever shapes that gives."""
    random = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    taken = ["W", "x"] if left else ["x", "W"]
    given = {
        "Conv": (1, shape[1], 5, 5)[: len(shape)],
        "ConvTranspose": (1, shape[0], 5, 5),
        "Gemm": (1, shape[attributes.get("transB", 0)]),
        "MatMul": (*shape[:-2], shape[-1], 4) if left else (*shape[:-2], 4, shape[-2]),
    }[kind]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, taken, ["y"], kind, **attributes)],
        "one",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, given)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(random, "W")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)])
    model.ir_version = 8
    return onnx.shape_inference.infer_shapes(model)


def quantised(folder: Path, model: Any, **request: Any) -> Any:
    """What the converter makes of a model for a Jetson, every range being 1 to each side."""
    from edgeclin.converters.tensorrt_onnx_from_static_onnx import convert

    onnx.save(model, folder / "float.onnx")
    made = {name for one in model.graph.node for name in one.output}
    write_ranges(folder / "ranges.npz", dict.fromkeys(["x", *made], (-1.0, 1.0)))
    asked = Request(
        model=str(folder / "float.onnx"),
        folder=str(folder),
        profile=load_profile("jetson-orin-nano"),
        ranges=str(folder / "ranges.npz"),
        **request,
    )
    return onnx.load(folder / convert(asked, lambda _: None).file)


AXES = {
    "conv": (weighted("Conv", (6, 4, 3, 3)), 0),
    "transposed conv": (weighted("ConvTranspose", (4, 6, 3, 3), group=1), 1),
    "transposed conv in groups": (weighted("ConvTranspose", (4, 3, 3, 3), group=2), None),
    "gemm": (weighted("Gemm", (4, 6)), 1),
    "gemm, transposed": (weighted("Gemm", (6, 4), transB=1), 0),
    "matmul": (weighted("MatMul", (4, 6)), 1),
    "matmul of a stack": (weighted("MatMul", (2, 4, 6)), 2),
    "matmul, weight on the left": (weighted("MatMul", (6, 4), left=True), 0),
    "matmul, a stack on the left": (weighted("MatMul", (2, 6, 4), left=True), 1),
}


@pytest.mark.parametrize("name", list(AXES))
def test_a_weight_has_its_scales_along_the_output_channels(tmp_path: Path, name: str) -> None:
    model, axis = AXES[name]
    made = quantised(tmp_path, model)
    assert broken_rules(made, "10.3") == []
    weight = next(one for one in made.graph.node if one.input[0] == "W_quantized")
    size = list(constant(made, weight.input[1]).dims)
    if axis is None:
        assert size == []
        return
    assert size == [6]
    assert [one.i for one in weight.attribute if one.name == "axis"] == [axis]
    rank = len(constant(made, weight.input[0]).dims)
    weight.attribute[0].i = axis - rank
    assert broken_rules(made, "10.3") == [], "the same axis, counted from the end"
    weight.attribute[0].i = (axis + 1) % rank
    (broken,) = broken_rules(made, "10.3")
    assert f"scales along axis {(axis + 1) % rank}" in broken
    assert f"wants {axis}" in broken


def test_a_convolution_in_groups_with_scales_by_channel_is_told(tmp_path: Path) -> None:
    made = quantised(tmp_path, AXES["transposed conv"][0])
    operator = node(made, "ConvTranspose")
    next(one for one in operator.attribute if one.name == "group").i = 2
    (broken,) = broken_rules(made, "10.3")
    assert "6 scales, ConvTranspose wants one here" in broken


def test_an_operator_that_is_kept_in_float_takes_no_quantised_input(tmp_path: Path) -> None:
    """Its input is quantised for another operator."""
    model = weighted("MatMul", (4, 4))
    other = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "V")
    model.graph.initializer.append(other)
    model.graph.node.insert(0, onnx.helper.make_node("MatMul", ["x", "V"], ["other"], "other"))
    made = quantised(tmp_path, model, kept=("other",))
    assert node(made, "MatMul").input[0] == "x"
    assert node(made, "MatMul", 1).input[0] == "x_DequantizeLinear_Output"


def test_a_constant_that_is_added_stays_in_float(tmp_path: Path) -> None:
    """Keras' Rescaling(scale, offset) becomes one."""
    model = onnx.load(DATA / "ecg_float.onnx")
    source = model.graph.input[0].name
    for one in model.graph.node:
        one.input[:] = ["moved" if name == source else name for name in one.input]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0.5], np.float32), "by"))
    model.graph.node.insert(0, onnx.helper.make_node("Add", [source, "by"], ["moved"]))
    onnx.save(model, tmp_path / "offset.onnx")
    made = onnx.load(emit(tmp_path, "jetson-orin-nano", tmp_path / "offset.onnx"))
    assert broken_rules(made, "10.3") == []
    assert node(made, "Add").input[:] == [source, "by"]


@pytest.mark.parametrize("profile", list(PROFILES))
def test_tensorrt_rtx_builds_it(engines: dict[str, Path], profile: str) -> None:
    """A second opinion, of another TensorRT: nothing was built for or ran on a Jetson."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="the rtx extra is not installed")
    (engines[profile].parent / MODEL).write_bytes(engines[profile].read_bytes())
    assert check_here(engines[profile].parent)["built"]
