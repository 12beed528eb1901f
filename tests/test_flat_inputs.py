"""A FULLY_CONNECTED that flattens by itself: LiteRT's answers stay, and ONNX keeps its bias."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ECG

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from edgeclin.backends import load_backend
from edgeclin.convert.flat_inputs import flatten_inputs

MODEL = Path(__file__).parent / "data" / "ecg_float.tflite"


@pytest.fixture(scope="module")
def wide() -> bytes:
    """The example's model, whose MEAN keeps its axes, so that [1, 1, 1, n] is classified."""
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(MODEL.read_bytes(), 0))
    graph = tree.subgraphs[0]
    mean, dense = graph.operators[-2:]
    pooled = graph.tensors[mean.outputs[0]]
    mean.builtinOptions.keepDims = True
    rank = len(graph.tensors[mean.inputs[0]].shape)
    pooled.shape = [1] * (rank - 1) + [int(pooled.shape[-1])]
    pooled.shapeSignature = None
    assert dense.inputs[0] == mean.outputs[0]
    assert np.any(tree.buffers[graph.tensors[dense.inputs[2]].buffer].data), "a bias"
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    with np.load(ECG / "data" / "validation.npz") as arrays:
        return arrays["X"][:8, :, np.newaxis].astype(np.float32)


def answers(backend: str, model: bytes, samples: np.ndarray) -> np.ndarray:
    loaded = load_backend(backend, model)
    return np.stack([loaded.run(sample) for sample in samples])


def test_the_answers_stay_and_every_input_has_two_axes(wide: bytes, samples: np.ndarray) -> None:
    flat = flatten_inputs(wide)
    before, after = (answers("tflite", model, samples) for model in (wide, flat))
    np.testing.assert_array_equal(before, after)
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(flat, 0)).subgraphs[0]
    assert len(graph.tensors[graph.operators[-1].inputs[0]].shape) == 2
    assert flatten_inputs(flat) == flat


def test_a_model_that_needs_nothing_keeps_its_bytes() -> None:
    assert flatten_inputs(MODEL.read_bytes()) == MODEL.read_bytes()


@pytest.mark.convert
def test_the_onnx_model_keeps_the_bias(wide: bytes, samples: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx", reason="the convert extra is not installed")
    from edgeclin.convert.stages import Workshop
    from edgeclin.profiles import load_profile

    (tmp_path / "wide.tflite").write_bytes(wide)
    np.save(tmp_path / "samples.npy", samples)
    workshop = Workshop(tmp_path, load_profile("jetson-orin-nano"), lambda _: None)
    asked = str(tmp_path / "samples.npy")
    path, _ = workshop.run("onnx_from_tflite", tmp_path / "wide.tflite", samples=asked)
    made = answers("onnx", path.read_bytes(), samples)
    np.testing.assert_allclose(made, answers("tflite", wide, samples), atol=1e-4)
