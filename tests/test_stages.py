"""A model that is asked twice answers the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeclin.backends.fake import FakeBackend
from edgeclin.convert.stages import answers, ask
from edgeclin.errors import ConversionFailed

MODEL = b'{"input_shape": [140, 1], "labels": 5, "gain": 8.0}'
BEATS = np.random.default_rng(1).standard_normal((6, 140, 1)).astype(np.float32)


class Random(FakeBackend):
    """Dropout, left in training mode."""

    def run(self, sample: np.ndarray) -> np.ndarray:
        return super().run(sample) * np.float32(np.random.default_rng().uniform(0.5, 1.5))


def test_a_model_that_draws_random_numbers_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConversionFailed, match=r"draws random numbers.* export it for inference"):
        answers(Random(MODEL), BEATS)


def test_a_steady_model_gives_an_answer_a_sample() -> None:
    assert answers(FakeBackend(MODEL), BEATS).shape == (6, 5)


def test_a_model_with_a_random_operator_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the convert extra is not installed")
    from onnx import TensorProto, helper

    shape = [1, 4]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    nodes = [
        helper.make_node("RandomUniformLike", ["x"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ConversionFailed, match="draws random numbers"):
        ask("onnx", tmp_path / "m.onnx", np.zeros((3, 4), np.float32))
