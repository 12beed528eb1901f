"""A self-test lets kernels differ as far as they were seen to, and no further."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeclin.backends import load_backend
from edgeclin.convert.stages import Stage, ask
from edgeclin.convert.tolerance import Kernels, between_kernels, tolerance
from edgeclin.errors import EngineUnavailable
from edgeclin.golden import difference
from edgeclin.manifest import Difference

DATA = Path(__file__).parent / "data"


@pytest.fixture
def judged(beats: np.ndarray) -> np.ndarray:
    """Prepared beats, float32 [n, 140, 1]."""
    chosen = np.asarray(beats[:64], np.float32)
    return ((chosen - chosen.mean(1, keepdims=True)) / chosen.std(1, keepdims=True))[..., None]


def test_the_built_in_kernels_of_a_real_engine_differ_and_are_let_pass(judged: np.ndarray) -> None:
    engine = ask("tflite", DATA / "ecg_int8.tflite", judged)
    assert engine.outputs is not None
    seen = between_kernels(engine, judged).difference
    assert seen is not None
    assert 0 < seen.mean <= seen.worst
    assert seen.within(tolerance(engine.outputs, True, seen))


def test_what_was_measured_widens_the_tolerance() -> None:
    outputs = np.array([[0.0, 255.0]], np.float32)
    assert tolerance(outputs, True, None) == Difference(8.0, 1.0)
    assert tolerance(outputs, True, Difference(3.0, 0.2)) == Difference(8.0, 1.0)
    assert tolerance(outputs, True, Difference(30.0, 2.0)) == Difference(60.0, 4.0)


def test_a_float_engine_has_almost_no_room() -> None:
    outputs = np.array([[0.0, 1.0]], np.float32)
    assert tolerance(outputs, False, None) == Difference(1e-3, 1e-4)


def test_nothing_is_measured_where_there_is_one_kind_of_kernels(judged: np.ndarray) -> None:
    assert between_kernels(Stage("onnx", DATA / "ecg_qdq.onnx"), judged) == Kernels()


def test_an_engine_that_computes_otherwise_is_noticed(judged: np.ndarray) -> None:
    engine = ask("tflite", DATA / "ecg_int8.tflite", judged)
    assert engine.outputs is not None
    allowed = tolerance(engine.outputs, True, between_kernels(engine, judged).difference)
    other = load_backend("tflite", (DATA / "ecg_int8.tflite").read_bytes())
    halved = np.stack([other.run(sample / 2).ravel() for sample in judged])
    assert not difference(halved, engine.outputs).within(allowed)


def test_outputs_that_are_not_finite_are_off_without_end() -> None:
    wanted = np.zeros((2, 2), np.float32)
    off = difference(np.array([[0.0, np.nan], [0.0, 0.0]], np.float32), wanted)
    assert not off.within(Difference(1e30, 1e30))


def test_an_engine_that_the_built_in_kernels_refuse_is_deployed_with_a_warning(
    judged: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they do where a scale overflows their integers; XNNPACK's computed it."""
    engine = ask("tflite", DATA / "ecg_int8.tflite", judged)

    def refusing(model: bytes, threads: int = 1, *, xnnpack: bool = True) -> None:
        raise EngineUnavailable("LiteRT cannot load the engine: node 30 failed to prepare")

    monkeypatch.setattr("edgeclin.backends.tflite.TFLiteBackend", refusing)
    found = between_kernels(engine, judged)
    assert found.difference is None
    (warning,) = found.warnings
    assert warning.endswith(
        "XNNPACK cannot execute it: LiteRT cannot load the engine: node 30 failed to prepare"
    )
