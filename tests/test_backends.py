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

import fake_edgetpu
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


@pytest.fixture(scope="session")
def libedgetpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_edgetpu.library(tmp_path_factory.mktemp("edgetpu"))


def edgetpu(library: Path | str) -> Backend:
    engine = fake_edgetpu.engine()
    from edgeclin.backends.tflite_edgetpu import TFLiteEdgeTPUBackend

    return TFLiteEdgeTPUBackend(engine, library=str(library))


def tensorrt() -> Backend:
    from edgeclin.tensorrt.library import load_library
    from edgeclin.tensorrt.plan import build_plan

    plan = build_plan(load_library(), (DATA / "ecg_tensorrt.onnx").read_bytes(), 64)
    return load_backend("tensorrt", plan.data)


@pytest.fixture(params=["fake", "edgetpu", "tensorrt's fake", "tensorrt", *ENGINES])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Real engines; and the Edge TPU and TensorRT also by what stands in for their libraries."""
    if request.param == "fake":
        return load_backend("fake", FAKE)
    if request.param == "edgetpu":
        return edgetpu(request.getfixturevalue("libedgetpu"))
    if request.param == "tensorrt's fake":
        pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
        request.getfixturevalue("gpu")("10.3.0")
        return tensorrt()
    if request.param == "tensorrt":
        if not Path("/dev/nvidia0").exists():
            pytest.skip("there is no NVIDIA GPU here")
        pytest.importorskip("tensorrt", reason="TensorRT is not installed")
        return tensorrt()
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


def test_a_sample_made_in_the_engine_s_place_is_answered_as_any_other(backend: Backend) -> None:
    spec = backend.input
    for seed in range(5):
        room = backend.place()
        if room is None:
            return
        assert (room.shape, room.dtype, room.flags.c_contiguous) == (spec.shape, spec.dtype, True)
        own = (50 * np.random.default_rng(seed).normal(size=spec.shape)).astype(spec.dtype)
        room[...] = own
        del room
        np.testing.assert_array_equal(backend.run(None), backend.run(own))


def test_calls_leave_no_memory_behind(backend: Backend) -> None:
    """What calls leave behind grows in every window; Python's own stores of free objects fill in
    the first, anew after each full collection, and another thread may do so in any."""
    sample, calls = np.ones((140, 1), dtype=np.float32), 300
    grown = []
    tracemalloc.start()
    for _ in range(7):
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(calls):
            backend.run(sample)
        after, _ = tracemalloc.get_traced_memory()
        grown.append(after - before)
    tracemalloc.stop()
    assert np.median(grown) < calls * 16, "the smallest object of Python takes 16 bytes"


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
def litert() -> dict[str, Backend]:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    folder = Path(__file__).parent / "data"
    return {
        path.stem: load_backend("tflite", path.read_bytes()) for path in folder.glob("*.tflite")
    }


def test_integer_inputs_and_outputs_cost_at_most_a_few_steps(
    litert: dict[str, Backend], beats: np.ndarray
) -> None:
    outputs = litert["ecg_int8_io"].output
    assert outputs.dtype == "int8"
    assert outputs.scale is not None
    for beat in beats[:50].astype(np.float32)[..., np.newaxis]:
        inside, outside = litert["ecg_int8"].run(beat), litert["ecg_int8_io"].run(beat)
        assert np.abs(inside - outside).max() <= 8 * outputs.scale


def test_int8_decides_as_float_does_on_nearly_every_beat(
    litert: dict[str, Backend], beats: np.ndarray
) -> None:
    samples = beats[:500].astype(np.float32)[..., np.newaxis]
    decisions = {
        name: np.array([engine.run(sample).argmax() for sample in samples])
        for name, engine in litert.items()
    }
    assert (decisions["ecg_int8"] == decisions["ecg_float"]).mean() > 0.99


def test_values_beyond_the_input_range_saturate_instead_of_wrapping(
    litert: dict[str, Backend],
) -> None:
    engine = litert["ecg_int8_io"]
    huge, bound = np.full((140, 1), 1e6, np.float32), np.full((140, 1), 1e3, np.float32)
    np.testing.assert_array_equal(engine.run(huge), engine.run(bound))


# -- what LiteRT prints -------------------------------------------------------------------------

TINY_RUN = """
import sys
from pathlib import Path
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


def test_onnx_runtime_is_told_to_add_exactly_on_every_machine() -> None:
    """Where there is VNNI the answers would not show that it is not."""
    pytest.importorskip("onnxruntime")
    from edgeclin.backends.onnx import session_options

    assert session_options().get_session_config_entry("session.x64quantprecision") == "1"


def test_an_onnx_engine_says_which_provider_ran_it() -> None:
    assert load_backend("onnx", onnx_model()).version.endswith(" CPU")


def test_a_provider_that_leaves_all_to_the_cpu_is_found_out() -> None:
    """ONNX Runtime lists Azure's provider everywhere; it executes nothing here."""
    model = onnx_model()
    from edgeclin.backends.onnx import ONNXBackend

    azure = "AzureExecutionProvider"
    import onnxruntime

    if azure not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime lists no provider beside the CPU's")
    with pytest.raises(EngineUnavailable, match=f"lists {azure}, but all . operators ran on the C"):
        ONNXBackend(model, provider=azure)


def test_a_provider_that_is_listed_and_not_there_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = onnx_model()
    import onnxruntime

    from edgeclin.backends.onnx import CPU, ONNXBackend

    cuda = "CUDAExecutionProvider"
    if cuda in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EngineUnavailable, match=f"has no {cuda}"):
        ONNXBackend(model, provider=cuda)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [cuda, CPU])
    with (
        pytest.warns(UserWarning, match=cuda),
        pytest.raises(EngineUnavailable, match="ran on the CPU"),
    ):
        ONNXBackend(model, provider=cuda)


# -- the Edge TPU --------------------------------------------------------------------------------


def test_an_engine_for_the_edge_tpu_says_what_it_lacks_without_it(shared_data: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    name = "coral/deeplabv3_mnv2_dm05_pascal_quant_edgetpu.tflite"
    refused(load_backend, (shared_data / name).read_bytes())


def test_a_compiled_engine_says_what_it_lacks_without_the_edge_tpu() -> None:
    refused(load_backend, fake_edgetpu.engine())


def refused(load: Callable[[str, bytes], Backend], engine: bytes) -> None:
    with pytest.raises(EngineUnavailable, match=r"^unresolved custom op: edgetpu-custom-op: "):
        load("tflite", engine)
    with pytest.raises(EngineUnavailable, match=r"^libedgetpu\.so\.1 is not installed: "):
        load("tflite-edgetpu", engine)


def test_an_engine_that_is_not_compiled_never_runs_on_the_cpu_as_if_on_the_edge_tpu() -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    with pytest.raises(EngineUnavailable, match="nothing of it would run on the Edge TPU"):
        load_backend("tflite-edgetpu", (DATA / "ecg_int8_io.tflite").read_bytes())


def test_a_library_that_is_no_delegate_is_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "libbroken.so"
    broken.write_bytes(b"not a library")
    with pytest.raises(EngineUnavailable, match=r"^\S*libbroken\.so does not load: .*"):
        edgetpu(broken)
    with pytest.raises(EngineUnavailable, match=r"^libm\.so\.6 is no delegate of LiteRT"):
        edgetpu("libm.so.6")
    gc.collect()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("absent", "found no Edge TPU: .* no device of type Apex"),
        ("mismatch", "are of different ages: .*EdgeTpuDelegateForCustomOp"),
        ("idle", "does not take the engine's edgetpu-custom-op"),
    ],
)
def test_a_delegate_that_cannot_execute_the_engine_is_one_sentence(
    libedgetpu: Path, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setenv("FAKE_EDGETPU", fault)
    with pytest.raises(EngineUnavailable, match=words) as problem:
        edgetpu(libedgetpu)
    assert "\n" not in str(problem.value)


def test_an_engine_on_the_edge_tpu_says_what_executes_it(libedgetpu: Path) -> None:
    backend = edgetpu(libedgetpu)
    assert "Edge TPU by " in backend.version
    parts = np.repeat(np.array([-4, -2, 0, 2, 4], np.float32), 28)[:, np.newaxis]
    np.testing.assert_array_equal(backend.run(parts), [-4, -2, 0, 2, 4])


# -- tflite-runtime --------------------------------------------------------------------------------

OF_LITERT = "from ai_edge_litert.interpreter import Interpreter, OpResolverType, load_delegate\n"
BLOCKED = """
import sys
import tflite_runtime.interpreter
for name in [name for name in sys.modules if name.startswith("ai_edge_litert")]:
    del sys.modules[name]
sys.modules["ai_edge_litert"] = None
"""


def test_where_only_tflite_runtime_is_installed_it_executes_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    package = tmp_path / "tflite_runtime"
    package.mkdir()
    (package / "interpreter.py").write_text(OF_LITERT)
    facts = tmp_path / "tflite_runtime-2.14.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tflite-runtime\nVersion: 2.14.0\n"
    )
    program = BLOCKED + TINY_RUN + "print(engine.version)"
    done = subprocess.run(
        [sys.executable, "-c", program, str(DATA / "ecg_int8.tflite")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "tflite-runtime 2.14.0 XNNPACK\n", done.stderr


def test_without_either_the_extra_is_named() -> None:
    program = "import sys\nsys.modules['ai_edge_litert'] = sys.modules['tflite_runtime'] = None\n"
    program += "import edgeclin.backends.tflite"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "MissingExtra: LiteRT" in done.stderr
    assert "edgeclin[tflite]" in done.stderr
