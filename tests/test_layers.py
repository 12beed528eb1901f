"""What is said of a layer is what quantising does to it: alone, and at the end of all before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from spoilt_models import samples, tflite_with_a_wide_channel, with_a_wide_channel

from edgeclin.convert.layers import EXACT_DB, INPUT, Layers
from edgeclin.convert.ranges import Method
from edgeclin.convert.routes import layers_of
from edgeclin.convert.stages import BACKEND, Stage, Workshop, ask
from edgeclin.convert.tally import Tally
from edgeclin.errors import ConversionFailed
from edgeclin.profiles import load_profile

pytest.importorskip("ai_edge_quantizer", reason="the convert extra is not installed")
pytest.importorskip("onnx", reason="the convert extra is not installed")

from edgeclin.convert.quantising import Quantised, quantise, quantise_by

DATA = Path(__file__).parent / "data"
WAYS = (
    ("tflite", "cpu-x86_64"),
    ("tflite", "coral-usb"),
    ("static_onnx", "cpu-x86_64-onnx"),
    ("static_onnx", "jetson-xavier-nx"),
)


class Bench:
    """Quantises and compares one model on one set of samples."""

    def __init__(self, folder: Path, form: str, profile: str, values: np.ndarray) -> None:
        self.form, self.values = form, values
        self.samples = folder / "samples.npy"
        np.save(self.samples, values)
        self.workshop = Workshop(folder, load_profile(profile), lambda _: None)
        self.model = DATA / f"ecg_float.{BACKEND[form]}"

    def quantised(self, methods: Sequence[Method] = (Method.MIN_MAX,)) -> Quantised:
        source = ask(self.form, self.model, self.values)
        assert source.outputs is not None
        model = Stage(self.form, self.model)
        return quantise(self.workshop, model, source.outputs, self.samples, self.values, methods)

    def keeping(self, made: Quantised, kept: tuple[str, ...], quantiser: str = "") -> Quantised:
        source = ask(self.form, self.model, self.values)
        assert source.outputs is not None
        return quantise_by(
            quantiser or made.quantiser,
            self.workshop,
            Stage(self.form, self.model),
            source.outputs,
            self.values,
            made.calibrated,
            kept,
        )

    def layers(self, made: Quantised) -> Layers:
        path, _ = self.workshop.run(
            layers_of(self.form),
            self.model,
            kept=made.kept,
            samples=str(self.samples),
            engine=str(made.stage.path),
        )
        return msgspec.json.decode(path.read_bytes(), type=Layers)


@pytest.fixture
def beats(beats: np.ndarray) -> np.ndarray:
    """Normalised, float32 [40, 140, 1]."""
    some = beats[:40].astype(np.float32)
    centred = some - some.mean(axis=1, keepdims=True)
    return (centred / centred.std(axis=1, keepdims=True))[..., np.newaxis]


@pytest.fixture
def bench(tmp_path: Path, beats: np.ndarray) -> Callable[[str, str], Bench]:
    return lambda form, profile: Bench(tmp_path, form, profile, beats)


@pytest.mark.parametrize(("form", "profile"), WAYS)
def test_the_errors_of_the_last_layer_are_those_of_the_engine_s_answers(
    form: str, profile: str, bench: Callable[[str, str], Bench]
) -> None:
    one = bench(form, profile)
    made = one.quantised()
    found = one.layers(made)
    assert [layer.order for layer in found.layers] == list(range(len(found.layers)))
    assert found.layers[0].operator == INPUT
    assert found.samples == 32
    chosen = np.linspace(0, 39, 32).astype(int)
    source = ask(form, one.model, one.values).outputs
    assert source is not None
    assert made.stage.outputs is not None
    difference = source[chosen] - made.stage.outputs[chosen]
    last = found.layers[-1].accumulated
    signal = float(np.square(source[chosen]).sum() / np.square(difference).sum())
    assert last.sqnr_db == pytest.approx(10 * np.log10(signal), abs=1.5)
    assert last.cosine > 0.999


@pytest.mark.parametrize(("form", "profile"), [way for way in WAYS if way[1] != "coral-usb"])
def test_the_own_error_is_what_arrives_where_only_this_layer_is_quantised(
    form: str, profile: str, bench: Callable[[str, str], Bench]
) -> None:
    one = bench(form, profile)
    made = one.quantised()
    layers = one.layers(made).layers
    hardest = min(layers[1:], key=lambda layer: layer.harm_db)
    # An engine whose own input is of integers could not leave all others in float.
    others = [tensor for layer in layers if layer is not hardest for tensor in layer.tensors]
    alone = one.layers(one.keeping(made, tuple(others)))
    (here,) = (layer for layer in alone.layers if layer.name == hardest.name)
    assert hardest.own is not None
    assert here.accumulated.sqnr_db == pytest.approx(hardest.own.sqnr_db, abs=1.0)
    assert hardest.own.sqnr_db > hardest.accumulated.sqnr_db - 0.5


@pytest.mark.parametrize(("form", "profile"), [WAYS[0], WAYS[3]])
def test_a_kept_layer_computes_in_float_and_is_marked(
    form: str, profile: str, bench: Callable[[str, str], Bench]
) -> None:
    one = bench(form, profile)
    made = one.quantised()
    second = one.layers(made).layers[2]
    found = one.layers(one.keeping(made, second.tensors))
    kept = [layer for layer in found.layers if layer.kept]
    assert kept
    assert kept[0].weight_scales == 0 < second.weight_scales
    assert {layer.name for layer in kept} <= set(second.tensors)
    assert kept[0].own is not None
    assert second.own is not None
    assert kept[0].own.sqnr_db > second.own.sqnr_db + 1


def test_all_layers_in_float_add_no_error(bench: Callable[[str, str], Bench]) -> None:
    one = bench("static_onnx", "cpu-x86_64-onnx")
    made = one.quantised()
    layers = one.layers(made).layers
    everything = tuple(tensor for layer in layers for tensor in layer.tensors)
    found = one.layers(one.keeping(made, everything))
    assert {layer.accumulated.sqnr_db for layer in found.layers} == {EXACT_DB}


@pytest.mark.convert
def test_tensorflow_s_quantiser_takes_the_same_ranges_and_keeps_the_same_layers(
    bench: Callable[[str, str], Bench],
) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    one = bench("tflite", "cpu-x86_64")
    made = one.quantised()
    second = one.layers(made).layers[2]
    other = one.keeping(made, second.tensors, "tflite-converter")
    found = one.layers(other)
    assert [layer.name for layer in found.layers if layer.kept] == [second.name]
    assert other.calibration == made.calibration
    assert other.floats == ("CONV_2D",)
    ours, theirs = one.layers(made).layers, found.layers
    for mine, its in zip(ours, theirs, strict=True):
        if mine.least is not None and its.least is not None:
            assert its.least == pytest.approx(mine.least, abs=0.02 * (mine.most - mine.least))


def test_values_beyond_the_integers_are_saturated(
    bench: Callable[[str, str], Bench], beats: np.ndarray
) -> None:
    one = bench("static_onnx", "cpu-x86_64-onnx")
    made = one.quantised()
    assert max(layer.saturated for layer in one.layers(made).layers) < 0.01
    np.save(one.samples, 3 * beats)
    found = one.layers(made).layers
    assert max(layer.saturated for layer in found) > 0.1


def test_the_layer_with_a_wide_channel_is_the_worst_in_its_weak_channels(tmp_path: Path) -> None:
    one = Bench(tmp_path, "static_onnx", "cpu-x86_64-onnx", samples(40, 1))
    one.model = with_a_wide_channel(layer=2).save(tmp_path / "wide.onnx")
    found = one.layers(one.quantised())
    assert found.jump is not None
    assert found.jump.name == found.ranked[0].name == "relu 2"
    assert found.jump.accumulated.sqnr_db > 25 > 5 > found.jump.accumulated.channel_db
    assert found.jump.channel_spread > 100


def test_a_wide_channel_of_a_convolution_is_found_in_a_tflite_model_too(
    tmp_path: Path, beats: np.ndarray
) -> None:
    one = Bench(tmp_path, "tflite", "cpu-x86_64", beats)
    one.model = tmp_path / "wide.tflite"
    one.model.write_bytes(tflite_with_a_wide_channel((DATA / "ecg_float.tflite").read_bytes()))
    found = one.layers(one.quantised())
    assert found.ranked[0].operator == "CONV_2D"
    assert found.ranked[0].order in (2, 3)
    assert found.jump is not None
    assert found.jump.order == 2


def test_errors_of_values_whose_squares_are_no_float32_are_told() -> None:
    tally = Tally(-1)
    tally.add(np.float32([[1e30, 2.0]]), np.float32([[2e30, 1.0]]))
    assert tally.error is not None
    assert tally.error.mse == pytest.approx(5e59)
    assert tally.error.sqnr_db == pytest.approx(0)


def test_a_method_whose_engine_can_be_loaded_is_taken_before_a_better_one(
    tmp_path: Path, beats: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Bench(tmp_path, "tflite", "cpu-x86_64", beats)
    asked: list[Stage] = []

    def ask_engine(form: str, path: Path, judged: np.ndarray) -> Stage:
        stage = ask(form, path, judged)
        assert stage.outputs is not None
        worse = replace(stage, outputs=stage.outputs + 9)
        asked.append(worse if asked else replace(stage, refused="too wide"))
        return asked[-1]

    monkeypatch.setattr("edgeclin.convert.quantising.ask_engine", ask_engine)
    made = one.quantised((Method.MIN_MAX, Method.PERCENTILE))
    assert made.method is Method.PERCENTILE
    assert made.errors[Method.MIN_MAX] < made.errors[Method.PERCENTILE]


@pytest.mark.parametrize("form", ["tflite", "static_onnx"])
def test_an_engine_that_cannot_be_read_is_a_message(
    form: str, bench: Callable[[str, str], Bench], tmp_path: Path
) -> None:
    one = bench(form, "cpu-x86_64" if form == "tflite" else "cpu-x86_64-onnx")
    made = one.quantised()
    made.stage.path.write_bytes(b"no engine at all" * 20)
    with pytest.raises(ConversionFailed, match="layers_from_"):
        one.layers(made)
