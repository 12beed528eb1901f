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
from edgeclin.convert.ranges import Method
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
}


@pytest.mark.parametrize("harm", list(BROKEN), ids=lambda harm: harm.__name__)
def test_a_broken_rule_is_told(engines: dict[str, Path], harm: Callable[[Any], None]) -> None:
    model = onnx.load(engines["jetson-orin-nano"])
    harm(model)
    broken = broken_rules(model, "10.3")
    assert any(BROKEN[harm] in one for one in broken), broken


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
