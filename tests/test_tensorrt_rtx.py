"""The calls for TensorRT 10 and 11, made of a real binary: TensorRT-RTX, which needs no GPU.

It is another TensorRT, for desktop GPUs. What it parses and builds here was not built for a Jetson
and ran on nothing.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the convert extra is not installed")
pytest.importorskip("tensorrt_rtx_bindings", reason="the rtx extra is not installed")

import onnx

from edgeclin.errors import EngineUnavailable
from edgeclin.tensorrt.families import Family, Version10, Version11
from edgeclin.tensorrt.library import Library, load_rtx
from edgeclin.tensorrt.plan import build_plan, parse
from edgeclin.tensorrt.worker import MODEL, check_here

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", ["ecg_tensorrt.onnx", "ecg_tensorrt8.onnx"])
@pytest.mark.parametrize("family", [Version10(), Version11()])
def test_it_builds_what_the_families_ask_of_it(name: str, family: Family) -> None:
    found = load_rtx()
    library = Library(found.module, found.version, family, found.title)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it has no timings of its own
        plan = build_plan(library, (DATA / name).read_bytes(), 256)
    assert len(plan.data) > 10_000
    assert "TF32" in plan.flags
    assert "INT8" not in plan.flags


def test_it_refuses_what_is_no_jetson_s_model_and_says_where() -> None:
    assert parse(load_rtx(), (DATA / "ecg_tensorrt.onnx").read_bytes()) > 10
    with pytest.raises(EngineUnavailable, match=r"TensorRT-RTX 1\.\S+ refuses the model at node"):
        parse(load_rtx(), (DATA / "ecg_qdq.onnx").read_bytes())
    with pytest.raises(EngineUnavailable, match="refuses the model"):
        parse(load_rtx(), b"no model")


def test_it_stands_in_where_there_is_no_tensorrt_and_refuses_more_than_a_parser(
    tmp_path: Path,
) -> None:
    model = onnx.load(DATA / "ecg_tensorrt.onnx")
    (tmp_path / MODEL).write_bytes(model.SerializeToString())
    found = check_here(tmp_path)
    assert found["title"].startswith("TensorRT-RTX ")
    assert found["built"]
    source = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["moved" if name == source else name for name in node.input]
    add_offset(model, source)
    (tmp_path / MODEL).write_bytes(model.SerializeToString())
    assert parse(load_rtx(), model.SerializeToString()) > 10
    with pytest.raises(EngineUnavailable, match="Quantized constant"):
        check_here(tmp_path)


def add_offset(model: onnx.ModelProto, source: str) -> None:
    """A quantised scalar that is added to the input, as `moved`."""
    constants = {"c": np.array(3, np.int8), "s": np.array(0.1, np.float32)}
    constants |= {"z": np.array(0, np.int8), "qs": np.array(0.1, np.float32)}
    constants |= {"qz": np.array(0, np.int8)}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    made = onnx.helper.make_node
    for node in reversed(
        [
            made("DequantizeLinear", ["c", "s", "z"], ["offset"], "dq_c"),
            made("QuantizeLinear", [source, "qs", "qz"], ["q"], "q_x"),
            made("DequantizeLinear", ["q", "qs", "qz"], ["dq"], "dq_x"),
            made("Add", ["dq", "offset"], ["moved"], "offset"),
        ]
    ):
        model.graph.node.insert(0, node)


def test_the_names_that_the_backend_uses_are_those_of_the_real_classes() -> None:
    """A plan runs only where there is a GPU; its calls are at least there."""
    trt = load_rtx().module
    assert trt.Runtime.deserialize_cuda_engine
    assert trt.DataType.FLOAT != trt.DataType.INT8
    assert trt.TensorIOMode.INPUT != trt.TensorIOMode.OUTPUT
    for name in ("num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_shape"):
        assert hasattr(trt.ICudaEngine, name)
    for name in ("get_tensor_dtype", "create_execution_context"):
        assert hasattr(trt.ICudaEngine, name)
    for name in ("set_tensor_address", "execute_async_v3"):
        assert hasattr(trt.IExecutionContext, name)
