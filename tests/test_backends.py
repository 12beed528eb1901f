"""One contract for every backend that this machine can load, and what is particular to each."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeclin.backends import Backend, load_backend
from edgeclin.backends.registry import backend_names
from edgeclin.errors import EngineUnavailable

FAKE = msgspec.json.encode({"input_shape": [140, 1], "labels": 5})


@pytest.fixture(params=["fake", "ecg_int8", "ecg_int8_io", "ecg_float"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "fake":
        return load_backend("fake", FAKE)
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    model = Path(__file__).parent / "data" / f"{request.param}.tflite"
    return load_backend("tflite", model.read_bytes())


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
    before, descriptors = os.fstat(2), len(list(Path("/proc/self/fd").iterdir()))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: load_backend("tflite", model).close(), range(200)))
    assert os.path.samestat(os.fstat(2), before)
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
