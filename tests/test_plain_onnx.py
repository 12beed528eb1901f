"""ONNX models rewritten for onnx2tf compute what they computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeclin.errors import ConversionFailed

pytestmark = pytest.mark.convert
onnx = pytest.importorskip("onnx", reason="the convert extra is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the convert extra is not installed")
helper, numpy_helper = onnx.helper, onnx.numpy_helper


def model(*nodes: Any, opset: int, **constants: np.ndarray) -> Any:
    """From `x:0` [1, 3, 8, 8] to `output`, whose inner tensor is called `input`."""
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x:0", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y:0", onnx.TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    whole = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(whole, strict_mode=True)


def answer(given: Any, sample: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(given.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: sample})[0]


DENSE = helper.make_node("MatMul", ["input", "w"], ["y:0"])
WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize(
    ("nodes", "opset", "constants"),
    [
        ([helper.make_node("ReduceMean", ["x:0"], ["input"], axes=[2, 3], keepdims=0)], 17, {}),
        ([helper.make_node("ReduceMean", ["x:0"], ["input"], axes=[-1, -2], keepdims=0)], 13, {}),
        (
            [helper.make_node("ReduceMean", ["x:0", "a"], ["input"], keepdims=0)],
            18,
            {"a": np.array([2, 3])},
        ),
        (
            [
                helper.make_node("GlobalAveragePool", ["x:0"], ["p"]),
                helper.make_node("Squeeze", ["p", "a"], ["input"]),
            ],
            15,
            {"a": np.array([2, 3])},
        ),
    ],
)
def test_a_mean_over_positions_and_a_dense_layer_keep_their_answers(
    nodes: list[Any], opset: int, constants: dict[str, np.ndarray]
) -> None:
    from edgeclin.convert.plain_onnx import make_plain

    whole = model(*nodes, DENSE, opset=opset, w=WEIGHTS, **constants)
    sample = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    before = answer(whole, sample)
    assert make_plain(whole) == (1, 3, 8, 8)
    onnx.checker.check_model(whole)
    np.testing.assert_allclose(answer(whole, sample), before, rtol=1e-5, atol=1e-5)
    kinds = [node.op_type for node in whole.graph.node]
    assert kinds == ["GlobalAveragePool", "Flatten", "Gemm"]
    assert whole.graph.input[0].name == "input"
    assert whole.graph.output[0].name == "output"


def test_a_mean_over_other_axes_is_left_alone() -> None:
    from edgeclin.convert.plain_onnx import make_plain

    mean = helper.make_node("ReduceMean", ["x:0"], ["m"], axes=[1, 2], keepdims=0)
    cut = helper.make_node("Slice", ["m", "b", "e", "a"], ["y:0"])
    edges = {"b": np.array([0]), "e": np.array([4]), "a": np.array([1])}
    whole = model(mean, cut, opset=15, **edges)
    sample = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    before = answer(whole, sample)
    make_plain(whole)
    assert [node.op_type for node in whole.graph.node] == ["ReduceMean", "Slice"]
    np.testing.assert_array_equal(answer(whole, sample), before)


def test_operators_of_one_runtime_are_refused() -> None:
    from edgeclin.convert.plain_onnx import make_plain

    pool = helper.make_node("GlobalAveragePool", ["x:0"], ["p"])
    whole = model(pool, opset=15)
    whole.graph.node[0].domain = "com.microsoft"
    with pytest.raises(ConversionFailed, match=r"operators of com\.microsoft, which no other"):
        make_plain(whole)
