"""What becomes of models that INT8 breaks: layers named, mended where they can be, else advice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import ECG
from spoilt_models import (
    Dense,
    samples,
    save_samples,
    tflite_with_a_wide_channel,
    with_a_mixed_output,
    with_a_wide_channel,
    with_tiny_margins,
)

from edgeclin.bundle import Bundle
from edgeclin.cli import main
from edgeclin.convert.advice import Remedy
from edgeclin.runtime import Runtime

pytest.importorskip("ai_edge_quantizer", reason="the convert extra is not installed")
pytest.importorskip("onnx", reason="the convert extra is not installed")

DATA = Path(__file__).parent / "data"
ONNX, JETSON, TFLITE, CORAL = "cpu-x86_64-onnx", "jetson-xavier-nx", "cpu-x86_64", "coral-usb"
METHOD = ("--calibration-method", "min-max")
"""One of four: the others are compared elsewhere, and each costs a process."""
MODELS = {
    "plain": Dense,
    "wide": with_a_wide_channel,
    "mixed": with_a_mixed_output,
    "tiny": with_tiny_margins,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every spoilt model, and data to convert them with."""
    folder = tmp_path_factory.mktemp("spoilt")
    for name, make in MODELS.items():
        make().save(folder / f"{name}.onnx")
    save_samples(folder / "calibration.npz", samples(300, 1))
    save_samples(folder / "small.npz", 0.15 * samples(120, 1))
    save_samples(folder / "validation.npz", samples(100, 2))
    wide = tflite_with_a_wide_channel((DATA / "ecg_float.tflite").read_bytes())
    (folder / "wide.tflite").write_bytes(wide)
    absurd = tflite_with_a_wide_channel((DATA / "ecg_float.tflite").read_bytes(), 1e8)
    (folder / "absurd.tflite").write_bytes(absurd)
    return folder


@pytest.fixture
def run(place: Path) -> Callable[..., Result]:
    def invoke(command: str, model: str, profile: str, *more: object, data: str = "") -> Result:
        ours = [
            "--calibration", place / f"{data or 'calibration'}.npz",
            "--validation", place / "validation.npz",
        ]  # fmt: skip
        theirs = [
            "--calibration", ECG / "data" / "train.npz",
            "--validation", ECG / "data" / "validation.npz",
            "--description", ECG / "edge.toml",
        ]  # fmt: skip
        given = ours if model.endswith(".onnx") else theirs
        everything = (place / model, "--profile", profile, *given, *METHOD, *more)
        return CliRunner().invoke(main, [command, *map(str, everything)])

    return invoke


def diagnosed(result: Result, code: int) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)["diagnosis"]


def remedies(diagnosis: Any) -> list[str]:
    return [one["remedy"] for one in diagnosis["advice"]]


def test_a_sound_model_needs_neither_float_layers_nor_advice(run: Callable[..., Result]) -> None:
    found = diagnosed(run("diagnose", "plain.onnx", ONNX, "--json"), 0)
    assert found["mixed"] is None
    assert found["missed"] == found["advice"] == []
    assert not any(layer["kept"] for layer in found["layers"])


def test_the_layers_that_a_wide_channel_breaks_stay_in_float_and_are_priced(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    done = run("diagnose", "wide.onnx", ONNX, "-o", report)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("order"))
    assert lines[head + 1].split()[:4] == ["3", "Gemm+Relu", "relu", "2"]
    found = json.loads(report.read_bytes())["diagnosis"]
    assert set(found["mixed"]["kept"]) == {"relu 2", "relu 3"}
    assert found["jump"] == "relu 2"
    priced = {layer["name"]: layer["price"] for layer in found["layers"] if layer["kept"]}
    assert set(priced) == {"relu 2", "relu 3"}
    assert all(price is not None and price["bytes"] for price in priced.values())
    assert found["mixed"]["runs"] >= 10
    assert min(found["mixed"]["latency_ms"], found["mixed"]["int8_latency_ms"]) > 0
    assert remedies(found) == [Remedy.EQUALISE]
    assert "relu 2 gives a channel" in found["advice"][0]["sentence"]
    again = run("diagnose", "wide.onnx", ONNX, "-o", report)
    assert again.exit_code == 1
    assert "exists" in again.stderr


def test_a_layer_that_decides_by_little_is_found_though_its_own_error_is_the_least(
    run: Callable[..., Result],
) -> None:
    found = diagnosed(run("diagnose", "tiny.onnx", ONNX, "--json"), 0)
    assert found["mixed"]["kept"] == ["logits"]
    assert max(found["layers"], key=lambda layer: layer["own"]["channel_db"])["name"] == "logits"


@pytest.mark.parametrize(
    ("model", "remedy"),
    [("wide", Remedy.EQUALISE), ("mixed", Remedy.SPLIT), ("tiny", Remedy.TRAINING)],
)
def test_what_misses_its_gates_still_gets_the_remedy_that_fits(
    model: str, remedy: str, run: Callable[..., Result]
) -> None:
    result = run("diagnose", f"{model}.onnx", ONNX, "--no-mixed-precision", "--json")
    found = diagnosed(result, 3)
    assert remedies(found) == [remedy]
    assert found["mixed"]["trials"] == 0
    assert "turned off" in found["mixed"]["said"]


def test_calibration_that_has_seen_too_little_is_told_before_anything_else(
    run: Callable[..., Result],
) -> None:
    result = run("diagnose", "plain.onnx", ONNX, "--no-mixed-precision", "--json", data="small")
    found = diagnosed(result, 3)
    assert remedies(found) == [Remedy.CALIBRATION]
    assert "beyond calibration's range" in found["advice"][0]["sentence"]
    assert max(layer["saturated"] for layer in found["layers"]) > 0.05


def test_a_mixed_bundle_says_which_layers_are_float_and_runs(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    target = tmp_path / "mixed.edgeclin"
    done = run("convert", "wide.onnx", ONNX, "--unsigned", "-o", target)
    assert done.exit_code == 0, done.output
    assert "trying mixed precision, 2 layers in float" in done.output
    assert "layer kept in float" in done.output
    bundle = Bundle.open(target, allow_unsigned=True)
    engine = bundle.manifest.primary
    assert engine.precision == "mixed"
    assert {"relu 2", "relu 3"} <= set(engine.float_layers)
    verification = json.loads(bundle.read("verification.json"))
    assert verification["float_layers"] == list(engine.float_layers)
    assert {gate["stage"] for gate in verification["gates"]} >= {"mixed engine"}
    layers = json.loads(bundle.read("layers.json"))
    assert [one["name"] for one in layers["layers"] if one["kept"]] == ["relu 2", "relu 3"]
    Runtime(bundle).self_test()


def test_a_jetson_engine_with_layers_in_float_keeps_to_tensorrt_s_rules(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    import onnx

    from edgeclin.convert.qdq_rules import broken_rules

    target = tmp_path / "jetson"
    done = run("convert", "wide.onnx", JETSON, "--unsigned", "-o", target)
    assert done.exit_code == 0, done.output
    bundle = Bundle.open(target, allow_unsigned=True)
    assert {engine.precision for engine in bundle.manifest.engines} == {"mixed"}
    model = onnx.load(target / bundle.manifest.executable.file)
    assert broken_rules(model, "8.5") == []
    (kept,) = (node for node in model.graph.node if "dense 3" in node.output)
    dequantised = [node.output[0] for node in model.graph.node if "Dequantize" in node.op_type]
    assert not set(kept.input) & set(dequantised)


@pytest.mark.convert
def test_a_tflite_engine_keeps_the_convolutions_that_break_it(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    target = tmp_path / "mixed"
    done = run("convert", "wide.tflite", TFLITE, "--unsigned", "-o", target)
    assert done.exit_code == 0, done.output
    assert "ai-edge-quantizer misses" in done.output
    assert "trying tflite-converter" in done.output
    bundle = Bundle.open(target, allow_unsigned=True)
    layers = json.loads(bundle.read("layers.json"))
    kept = [one for one in layers["layers"] if one["kept"]]
    assert {one["operator"] for one in kept} == {"CONV_2D"}
    assert bundle.manifest.primary.precision == "mixed"
    assert ("tensorflow" in bundle.manifest.tools) == (layers["quantiser"] == "tflite-converter")


AI_EDGE = ("--quantiser", "ai-edge-quantizer", "--unsigned")


def test_layers_that_xnnpack_does_not_load_in_int8_stay_in_float(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    done = run("convert", "absurd.tflite", TFLITE, *AI_EDGE, "-o", tmp_path / "mixed")
    assert done.exit_code == 0, done.output
    assert "engines that can be loaded is 0" in done.stdout
    assert "all INT8 none that can be loaded (medians" in done.stdout
    bundle = Bundle.open(tmp_path / "mixed", allow_unsigned=True)
    assert bundle.manifest.primary.precision == "mixed"
    layers = json.loads(bundle.read("layers.json"))
    assert "built-in kernels" in layers["executed_by"]
    assert {one["operator"] for one in layers["layers"] if one["kept"]} == {"CONV_2D"}
    assert Runtime(bundle)


def test_an_engine_that_nothing_loads_is_exit_3_and_no_bundle_even_where_gates_may_fail(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    options = (*AI_EDGE, "--no-mixed-precision", "--allow-failed-gates")
    done = run("convert", "absurd.tflite", TFLITE, *options, "-o", tmp_path / "int8")
    assert done.exit_code == 3, done.output
    said = done.stderr.splitlines()[-1]
    assert re.search(r"LiteRT \d\S* cannot load the engine", said)
    assert "(operator CONV_2D edge_1/re_lu_1_2/Relu)" in said
    assert "mixed precision was not tried" in said
    assert not (tmp_path / "int8").exists()


@pytest.mark.convert
def test_the_other_quantiser_is_tried_where_the_first_gives_no_engine_that_can_be_loaded(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    done = run("convert", "absurd.tflite", TFLITE, "--unsigned", "-o", tmp_path / "mixed")
    assert done.exit_code == 0, done.output
    assert "ai-edge-quantizer misses a gate: trying tflite-converter" in done.stderr


def test_a_coral_engine_keeps_no_layer_in_float_and_says_what_it_would_cost(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    missed = run(
        "convert", "wide.tflite", CORAL, "--quantiser", "ai-edge-quantizer", "--unsigned",
        "-o", tmp_path / "coral",
    )  # fmt: skip
    assert missed.exit_code == 3, missed.output
    assert "its one partition would end there" in missed.stderr
    assert "equalise channels" in missed.stderr
    assert "the error gets large at layer 2 CONV_2D" in missed.stderr
    assert not (tmp_path / "coral").exists()


def test_layers_are_in_every_int8_bundle(run: Callable[..., Result], tmp_path: Path) -> None:
    done = run("convert", "plain.onnx", ONNX, "--unsigned", "-o", tmp_path / "plain")
    assert done.exit_code == 0, done.output
    layers = json.loads((tmp_path / "plain" / "layers.json").read_bytes())
    assert layers["samples"] == 32
    assert layers["mixed"] is None
    assert len(layers["layers"]) == 6


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((ONNX, "--quantiser", "tflite-converter"), "tflite-converter makes no onnx-qdq engines"),
        ((str(ECG / "cloud-server.toml"),), "nothing quantised to diagnose"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused(
    more: tuple[str, ...], words: str, run: Callable[..., Result]
) -> None:
    done = run("diagnose", "plain.onnx", *more)
    assert done.exit_code == 1
    assert words in done.stderr


def test_few_validation_samples_are_no_reason_for_mixed_precision(
    place: Path, run: Callable[..., Result]
) -> None:
    few = save_samples(place / "few.npz", samples(9, 4))
    result = run("diagnose", "plain.onnx", ONNX, "--json", "--validation", few)
    found = diagnosed(result, 3)
    assert found["mixed"] is None
    assert remedies(found) == [Remedy.VALIDATION]


def test_calibration_data_that_are_noise_are_no_reason_for_mixed_precision(
    place: Path, run: Callable[..., Result]
) -> None:
    random = np.random.default_rng(1)
    noise = save_samples(
        place / "noise.npz", 0.01 * random.standard_normal((60, 24)).astype(np.float32)
    )
    result = run("diagnose", "plain.onnx", ONNX, "--json", "--calibration", noise)
    found = diagnosed(result, 3)
    assert found["mixed"]["trials"] == 0
    assert "no range can be trusted" in found["mixed"]["said"]
    assert remedies(found)[0] == Remedy.CALIBRATION


def test_an_engine_is_no_worse_where_its_layers_cannot_be_compared(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A converter that takes no such model stands for one that crashes.
    monkeypatch.setattr("edgeclin.convert.diagnosis.layers_of", lambda _: "ranges_from_tflite")
    done = run("convert", "plain.onnx", ONNX, "--unsigned", "-o", tmp_path / "plain")
    assert done.exit_code == 0, done.output
    assert "warning: the layers could not be compared: ranges_from_tflite" in done.output
    assert json.loads((tmp_path / "plain" / "layers.json").read_bytes())["layers"] == []
    refused = run("diagnose", "plain.onnx", ONNX)
    assert refused.exit_code == 1
    assert "the layers could not be compared" in refused.stderr
