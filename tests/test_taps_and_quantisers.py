"""Calibration sees what the model computes, and what a quantiser makes keeps to the rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from conftest import ECG
from spoilt_models import tflite_with_untaken_parts

from edgeclin.backends import load_backend
from edgeclin.convert.ranges import Method, Statistics
from edgeclin.convert.stages import BACKEND, Stage, Workshop, ask
from edgeclin.convert.taps import Tap
from edgeclin.errors import ConversionFailed
from edgeclin.profiles import load_profile

pytest.importorskip("ai_edge_quantizer", reason="the convert extra is not installed")
pytest.importorskip("onnx", reason="the convert extra is not installed")

from edgeclin.convert.quantising import Quantised, quantise

DATA = Path(__file__).parent / "data"
FORMS = ("tflite", "static_onnx")
Run = Callable[..., Quantised]


def model_of(form: str) -> Path:
    return DATA / f"ecg_float.{BACKEND[form]}"


def tap_of(form: str) -> Tap:
    if form == "tflite":
        from edgeclin.convert.taps.tflite import TFLiteTap

        return TFLiteTap(model_of(form))
    from edgeclin.convert.taps.onnx import ONNXTap

    return ONNXTap(model_of(form))


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    """Normalised beats [n, 140, 1]."""
    with np.load(ECG / "data" / "train.npz") as arrays:
        beats = arrays["X"][:120]
    centred = beats - beats.mean(axis=1, keepdims=True)
    return (centred / centred.std(axis=1, keepdims=True))[..., np.newaxis].astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
def test_a_tap_shows_the_input_the_output_and_what_lies_between(
    form: str, samples: np.ndarray
) -> None:
    tap, backend = tap_of(form), load_backend(BACKEND[form], model_of(form).read_bytes())
    for sample in samples[:3]:
        shown = {name: values.copy() for name, values in tap.run(sample)}
        assert len(shown) > 5
        assert all(values.dtype == np.float32 for values in shown.values())
        np.testing.assert_array_equal(shown[backend.input.name][0].ravel(), sample.ravel())
        output = shown[backend.output.name].ravel()
        np.testing.assert_allclose(output, backend.run(sample).ravel(), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_both_runtimes_see_the_same_range_of_input_and_output(
    form: str, samples: np.ndarray
) -> None:
    statistics, tap = Statistics(), tap_of(form)
    for sample in samples:
        statistics.add(tap.run(sample))
    backend = load_backend("tflite", (DATA / "ecg_float.tflite").read_bytes())
    outputs = np.stack([backend.run(sample) for sample in samples])
    found = list(statistics.ranges(Method.MIN_MAX).values())
    for expected in (samples, outputs):
        ends = [expected.min(), expected.max()]
        assert any(np.allclose(ends, one, atol=1e-4) for one in found)


@pytest.fixture
def quantised(tmp_path: Path, samples: np.ndarray) -> Run:
    """Quantise a model of tests/data for a profile."""
    np.save(tmp_path / "calibration.npy", samples)

    def run(form: str, profile: str, **changes: Any) -> Quantised:
        chosen = load_profile(profile)
        numeric = msgspec.structs.replace(chosen.numeric, **changes)
        workshop = Workshop(
            tmp_path, msgspec.structs.replace(chosen, numeric=numeric), lambda _: None
        )
        source = ask(form, model_of(form), samples)
        assert source.outputs is not None
        return quantise(
            workshop,
            Stage(form, source.path),
            source.outputs,
            tmp_path / "calibration.npy",
            samples,
            (Method.MIN_MAX, Method.PERCENTILE),
        )

    return run


@pytest.mark.parametrize(
    ("form", "profile"), [("tflite", "cpu-x86_64"), ("static_onnx", "cpu-x86_64-onnx")]
)
def test_an_int8_engine_stays_near_its_float_model(form: str, profile: str, quantised: Run) -> None:
    made = quantised(form, profile)
    assert made.stage.form == form
    assert set(made.errors) == {Method.MIN_MAX, Method.PERCENTILE}
    assert made.errors[made.method] == min(made.errors.values()) < 0.01
    assert made.calibration.consumed == 120


def test_what_nothing_takes_is_neither_calibrated_nor_left_in_float(
    tmp_path: Path, samples: np.ndarray
) -> None:
    """An LSTM's first step takes no forget gate. LiteRT does not compute such a part of a SPLIT."""
    model = tmp_path / "split.tflite"
    model.write_bytes(tflite_with_untaken_parts((DATA / "ecg_float.tflite").read_bytes()))
    np.save(tmp_path / "calibration.npy", samples)
    workshop = Workshop(tmp_path, load_profile("cpu-x86_64"), lambda _: None)
    source = ask("tflite", model, samples)
    assert source.outputs is not None
    calibration = tmp_path / "calibration.npy"
    methods = (Method.MIN_MAX,)
    made = quantise(workshop, source, source.outputs, calibration, samples, methods)
    assert made.errors[Method.MIN_MAX] < 0.02
    assert made.floats == ()
    assert "part 0" in made.calibrated.statistics.tensors
    assert "part 1" not in made.calibrated.statistics.tensors
    compared, _ = workshop.run(
        "layers_from_tflite", model, samples=str(calibration), engine=str(made.stage.path)
    )
    assert "part 0" in compared.read_text()


@contextmanager
def interpreted(engine: Path) -> Iterator[Any]:
    from ai_edge_litert.interpreter import Interpreter

    yield Interpreter(model_content=engine.read_bytes())


@pytest.mark.parametrize("io", ["int8", "float32"])
def test_inputs_and_outputs_are_of_the_type_that_the_profile_names(io: str, quantised: Run) -> None:
    engine = quantised("tflite", "cpu-x86_64", io=io).stage.path
    with interpreted(engine) as interpreter:
        for details in (interpreter.get_input_details(), interpreter.get_output_details()):
            assert details[0]["dtype"] == np.dtype(io)


def test_a_tflite_engine_is_integer_throughout(quantised: Run) -> None:
    made = quantised("tflite", "coral-usb")
    assert made.floats == ()
    with interpreted(made.stage.path) as interpreter:
        types = {np.dtype(entry["dtype"]).name for entry in interpreter.get_tensor_details()}
    assert types == {"int8", "int32"}


@pytest.mark.parametrize(("per_channel", "scales"), [((), 1), (("FULLY_CONNECTED",), 5)])
def test_weights_have_one_scale_a_channel_only_where_the_profile_allows_it(
    per_channel: tuple[str, ...], scales: int, quantised: Run
) -> None:
    engine = quantised("tflite", "cpu-x86_64", per_channel=per_channel).stage.path
    with interpreted(engine) as interpreter:
        found = {
            len(entry["quantization_parameters"]["scales"])
            for entry in interpreter.get_tensor_details()
            if entry["dtype"] == np.int8 and entry["shape"][0] == 5
        }
    assert found == {scales}


def test_symmetric_activations_have_the_zero_point_zero(quantised: Run) -> None:
    import onnx

    made = quantised(
        "static_onnx", "cpu-x86_64-onnx", activations="int8", symmetric_activations=True
    )
    model = onnx.load(made.stage.path)
    points = {
        int(onnx.numpy_helper.to_array(tensor).max())
        for tensor in model.graph.initializer
        if tensor.name.endswith("zero_point")
    }
    assert points == {0}


def test_samples_that_are_not_finite_end_the_calibration(
    quantised: Run, tmp_path: Path, samples: np.ndarray
) -> None:
    broken = samples.copy()
    broken[7, 3] = np.nan
    np.save(tmp_path / "calibration.npy", broken)
    with pytest.raises(ConversionFailed, match=r"calibration sample 7: tensor .* not finite"):
        quantised("tflite", "cpu-x86_64")
