"""One contract for every backend that this machine can load, and what is particular to each."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeclin.backends import Backend, load_backend
from edgeclin.backends.registry import backend_names
from edgeclin.errors import EngineUnavailable

DATA = Path(__file__).parent / "data"
FAKE = msgspec.json.encode({"input_shape": [140, 1], "labels": 5})


ENGINES = {
    "ecg_int8.tflite": "ai_edge_litert",
    "ecg_int8_io.tflite": "ai_edge_litert",
    "ecg_float.tflite": "ai_edge_litert",
    "ecg_float.onnx": "onnxruntime",
    "ecg_qdq.onnx": "onnxruntime",
}
"""Files in tests/data, and what executes each."""


@pytest.fixture(params=["fake", *ENGINES])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "fake":
        return load_backend("fake", FAKE)
    pytest.importorskip(ENGINES[request.param], reason="its extra is not installed")
    model = DATA / request.param
    return load_backend(model.suffix[1:], model.read_bytes())


def test_a_backend_states_what_it_takes_and_gives(backend: Backend) -> None:
    assert backend.input.shape == (140, 1)
    assert backend.output.shape == (5,)
    assert backend.version


def test_equal_samples_get_equal_answers_of_the_stated_shape(backend: Backend) -> None:
    sample = np.sin(np.linspace(0, 9, 140, dtype=np.float32))[:, np.newaxis]
    first, second = backend.run(sample), backend.run(sample.copy())
    assert first.shape == backend.output.shape
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, second)


def test_an_answer_is_the_caller_s_own(backend: Backend) -> None:
    sample = np.ones((140, 1), dtype=np.float32)
    kept = backend.run(sample)
    copy = kept.copy()
    backend.run(-sample)
    np.testing.assert_array_equal(kept, copy)


def test_the_sample_is_left_as_it_was(backend: Backend) -> None:
    sample = np.linspace(-3, 3, 140, dtype=np.float32)[:, np.newaxis]
    before = sample.copy()
    backend.run(sample)
    np.testing.assert_array_equal(sample, before)


def test_a_sample_in_the_engine_s_own_type_is_taken_as_it_is(backend: Backend) -> None:
    spec = backend.input
    draw = np.random.default_rng(3)
    if spec.scale is None:
        own = real = draw.normal(size=spec.shape).astype(spec.dtype)
    else:
        own = draw.integers(-128, 128, spec.shape).astype(spec.dtype)
        real = (own.astype(np.float32) - spec.zero_point) * np.float32(spec.scale)
    np.testing.assert_array_equal(backend.run(own), backend.run(real))


def test_calls_leave_no_memory_behind(backend: Backend) -> None:
    sample = np.ones((140, 1), dtype=np.float32)
    backend.run(sample)
    tracemalloc.start()
    for _ in range(50):
        backend.run(sample)
    first, _ = tracemalloc.get_traced_memory()
    for _ in range(500):
        backend.run(sample)
    last, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert last - first < 2_000


@pytest.mark.parametrize("name", ["fake", "tflite"])
@pytest.mark.parametrize("make", [lambda: b"", lambda: b"\0" * 64, lambda: b"not a model" * 9])
def test_bytes_that_are_no_engine_are_refused(name: str, make: Callable[[], bytes]) -> None:
    if name == "tflite":
        pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    with pytest.raises(EngineUnavailable):
        load_backend(name, make())


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(EngineUnavailable, match="fake"):
        load_backend("tensorrt-9", b"")
    assert {"fake", "tflite"} <= set(backend_names())


@pytest.fixture
def engines() -> dict[str, Backend]:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    folder = Path(__file__).parent / "data"
    return {
        path.stem: load_backend("tflite", path.read_bytes()) for path in folder.glob("*.tflite")
    }


def test_integer_inputs_and_outputs_cost_at_most_a_few_steps(
    engines: dict[str, Backend], beats: np.ndarray
) -> None:
    outputs = engines["ecg_int8_io"].output
    assert outputs.dtype == "int8"
    assert outputs.scale is not None
    for beat in beats[:50].astype(np.float32)[..., np.newaxis]:
        inside, outside = engines["ecg_int8"].run(beat), engines["ecg_int8_io"].run(beat)
        assert np.abs(inside - outside).max() <= 8 * outputs.scale


def test_int8_decides_as_float_does_on_nearly_every_beat(
    engines: dict[str, Backend], beats: np.ndarray
) -> None:
    samples = beats[:500].astype(np.float32)[..., np.newaxis]
    decisions = {
        name: np.array([engine.run(sample).argmax() for sample in samples])
        for name, engine in engines.items()
    }
    assert (decisions["ecg_int8"] == decisions["ecg_float"]).mean() > 0.99


def test_values_beyond_the_input_range_saturate_instead_of_wrapping(
    engines: dict[str, Backend],
) -> None:
    engine = engines["ecg_int8_io"]
    huge, bound = np.full((140, 1), 1e6, np.float32), np.full((140, 1), 1e3, np.float32)
    np.testing.assert_array_equal(engine.run(huge), engine.run(bound))


# -- what LiteRT prints -------------------------------------------------------------------------

TINY_RUN = """
import sys
import tracemalloc
from pathlib import Path
from typing import Any
import numpy as np
from edgeclin.backends import load_backend
engine = load_backend("tflite", Path(sys.argv[1]).read_bytes())
engine.run(np.zeros((140, 1), np.float32))
"""


def tiny_run(**options: object) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    model = Path(__file__).parent / "data" / "ecg_int8.tflite"
    command = [sys.executable, "-c", TINY_RUN, str(model)]
    return subprocess.run(command, capture_output=True, text=True, check=True, **options)


def test_loading_and_running_an_engine_prints_nothing() -> None:
    done = tiny_run()
    assert (done.stdout, done.stderr) == ("", "")


def test_an_engine_runs_where_standard_error_is_closed() -> None:
    assert tiny_run(preexec_fn=lambda: os.close(2)).returncode == 0


def test_only_routine_lines_are_kept_from_standard_error_also_when_loading_fails(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    from edgeclin.backends.tflite import _routine_lines_logged

    caplog.set_level(logging.INFO)
    with pytest.raises(ValueError, match="unprepared"), _routine_lines_logged():
        os.write(2, b"INFO: a delegate\nERROR: node 3 failed\nINFO: more\nlast words")
        raise ValueError("unprepared")
    assert capfd.readouterr().err == "ERROR: node 3 failed\nlast words"
    assert caplog.messages == ["a delegate", "more"]


def test_engines_loaded_side_by_side_leave_standard_error_as_it_was() -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    model = (Path(__file__).parent / "data" / "ecg_int8.tflite").read_bytes()
    gc.collect()  # what earlier tests left open would be closed meanwhile
    before, descriptors = os.fstat(2), len(list(Path("/proc/self/fd").iterdir()))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: load_backend("tflite", model).close(), range(200)))
    assert os.path.samestat(os.fstat(2), before)
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors


# -- ONNX Runtime ------------------------------------------------------------------------------


def onnx_model(**changes: Any) -> bytes:
    """x [1, 4] times 2 plus 1."""
    onnx = pytest.importorskip("onnx", reason="the convert extra is not installed")
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    helper, kind = onnx.helper, changes.get("kind", onnx.TensorProto.FLOAT)
    shape = changes.get("shape", [1, 4])
    constants = [
        helper.make_tensor(name, kind, [1], [value]) for name, value in (("two", 2), ("one", 1))
    ]
    outputs = [helper.make_tensor_value_info("y", kind, shape)]
    if changes.get("outputs") == 2:
        outputs.append(helper.make_tensor_value_info("z", kind, shape))
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "two"], ["z"]),
            helper.make_node("Add", ["z", "one"], ["y"]),
        ],
        "affine",
        [helper.make_tensor_value_info("x", kind, shape)],
        outputs,
        constants,
    )
    opset = [helper.make_opsetid("", 15)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


def test_an_onnx_engine_answers_and_says_what_executes_it() -> None:
    backend = load_backend("onnx", onnx_model())
    assert (backend.input.shape, backend.output.shape) == ((4,), (4,))
    assert backend.version.startswith("ONNX Runtime ")
    answer = backend.run(np.array([0, 1, 2, 3], np.float32))
    np.testing.assert_array_equal(answer, [1, 3, 5, 7])
    assert answer.dtype == np.float32
    backend.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": [1, "n"]}, "dynamic shape"),
        ({"outputs": 2}, "1 inputs and 2 outputs"),
        ({"kind": 11}, "double"),
    ],
)
def test_an_onnx_engine_of_another_kind_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(EngineUnavailable, match=words):
        load_backend("onnx", onnx_model(**changes))


@pytest.mark.parametrize("model", [b"", b"no model", b"\x08\x07"])
def test_bytes_that_are_no_onnx_model_are_refused_in_one_sentence(model: bytes) -> None:
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    with pytest.raises(EngineUnavailable, match="ONNX Runtime cannot load the engine"):
        load_backend("onnx", model)
