"""Conversion of a real trained model on real beats, and everything that must stop it."""

from __future__ import annotations

import html
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import ECG
from polling import wait_until

from edgeclin.bundle import Bundle
from edgeclin.cli import main
from edgeclin.convert.request import Request
from edgeclin.convert.worker import run_converter
from edgeclin.datasets import open_dataset
from edgeclin.errors import ConversionFailed, EdgeclinError, EngineUnavailable
from edgeclin.keys import KeyPair
from edgeclin.manifest import MEASURES
from edgeclin.profiles import load_profile
from edgeclin.runtime import Runtime
from edgeclin.verify import measure

TRAIN, VALIDATION = ECG / "data" / "train.npz", ECG / "data" / "validation.npz"
FLOAT = Path(__file__).parent / "data" / "ecg_float.tflite"
Convert = Callable[..., Result]


@pytest.fixture
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of a test's conversions, which nothing else uses."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def convert(key_pair: KeyPair, monkeypatch: pytest.MonkeyPatch, scratch: Path) -> Convert:
    monkeypatch.setenv("EDGECLIN_KEYS", str(key_pair.public.parent))
    monkeypatch.delenv("TMPDIR", raising=False)

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(main, ["convert", *map(str, arguments)])

    return invoke


def refused(result: Result, code: int, *words: str) -> None:
    """A one-line error, after the steps that went well, with that exit code."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("edgeclin: ")
    for word in words:
        assert word in last


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, key_pair: KeyPair) -> tuple[Path, Any]:
    """The edge model of the example, converted once for all tests here, with its facts."""
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    target = tmp_path_factory.mktemp("converted") / "ecg.edgeclin"
    done = subprocess.run(
        [
            sys.executable, "-m", "edgeclin", "convert", str(ECG / "edge.keras"),
            "--profile", "cpu-x86_64", "--description", str(ECG / "edge.toml"),
            "--calibration", str(TRAIN), "--validation", str(VALIDATION),
            "-o", str(target), "--key", str(key_pair.private), "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    return target, json.loads(done.stdout)


@pytest.mark.convert
def test_int8_stays_within_half_a_point_on_the_4500_test_beats(
    converted: tuple[Path, Any], trust: list[Any]
) -> None:
    keras = pytest.importorskip("keras")
    runtime = Runtime(Bundle.open(converted[0], trust))
    assert runtime.bundle.manifest.primary.precision == "int8"
    dataset = open_dataset(ECG / "data" / "test.npz")
    measured = measure(runtime, dataset)
    truth = dataset.truth(runtime.bundle.manifest.output.labels)
    prepared = np.stack([runtime.preprocess(beat) for beat in dataset])
    logits = keras.saving.load_model(ECG / "edge.keras", compile=False).predict(prepared, verbose=0)
    source = float((logits.argmax(axis=1) == truth).mean())
    assert measured.samples == 4_500
    assert abs(measured.accuracy - source) <= 0.005
    assert measured.outcome == "holds"


@pytest.mark.convert
def test_the_bundle_knows_what_its_samples_were_like(
    converted: tuple[Path, Any], trust: list[Any], beats: np.ndarray
) -> None:
    """Beats of the same heart are hardly ever unlike, noise always, and neither gain nor noise goes
    unnoticed where each answer is."""
    bundle = Bundle.open(converted[0], trust)
    guard = bundle.manifest.guard
    assert guard is not None
    assert (guard.samples, guard.flat_leads) == (500, 0)
    assert guard.scores is not None
    assert max(guard.share, guard.scores.share) < 0.05

    def unlike(samples: np.ndarray) -> float:
        runtime = Runtime(bundle)
        answers = [runtime.predict(sample) for sample in samples]
        report = runtime.drift.report()
        assert report is not None
        assert report.answered == len(samples)
        seen.append({shift.quantity for shift in report.since_start})
        return float(np.mean([answer.reason.startswith("unlike") for answer in answers]))

    seen: list[set[str]] = []
    assert unlike(beats[::5]) < 0.035
    assert unlike(np.random.default_rng(0).normal(size=(200, 140))) > 0.98
    assert unlike(beats[:200].astype(float) * 2) > 0.95
    assert seen[0] == {*MEASURES["signal"], "value", "confidence", "label"}


@pytest.mark.convert
def test_the_bundle_carries_its_whole_proof(converted: tuple[Path, Any], trust: list[Any]) -> None:
    bundle = Bundle.open(converted[0], trust)
    verification = json.loads(bundle.read("verification.json"))
    stages = {(gate["stage"], gate["name"]) for gate in verification["gates"]}
    assert {stage for stage, _ in stages} == {
        "validation", "calibration", "source model", "float TFLite", "INT8 engine",
    }  # fmt: skip
    assert all(gate["passed"] for gate in verification["gates"])
    normal_beats = 87
    assert {gate["n"] for gate in verification["gates"]} == {350, 150, normal_beats}
    calibration = json.loads(bundle.read("calibration.json"))
    assert calibration["consumed"] == calibration["samples"] == 350
    assert calibration["sample_sha256"] == open_dataset(TRAIN).hashes()
    nobody, few = calibration["warnings"]
    assert "nobody says whose the samples are" in nobody
    assert few.startswith("350 calibration samples")
    said = json.loads(bundle.read("report.json"))["warnings"]
    assert "  1 is R-on-T PVC (n=53)," in said[0].splitlines()
    assert set(calibration["method_errors"]) == {"min-max", "percentile", "mse", "entropy"}
    best = min(calibration["method_errors"], key=calibration["method_errors"].__getitem__)
    assert calibration["method"] == best
    assert 0 < calibration["instability"] < 0.2
    sbom = json.loads(bundle.read("sbom.json"))
    assert sbom["bomFormat"] == "CycloneDX"
    assert {"tensorflow", "keras", "edgeclin"} <= {part["name"] for part in sbom["components"]}
    assert verification["engine_bytes"] < verification["float_bytes"] / 2
    assert len(bundle.read("engine.tflite")) == verification["engine_bytes"]


def recorded(folder: Path, arrays: Path) -> Path:
    """The same beats as text, ten in a recording, and one recording that is no beat."""
    folder.mkdir()
    with np.load(arrays) as loaded:
        recordings = [*loaded["X"].reshape(-1, 1400), loaded["X"][0, :50]]
    for number, recording in enumerate(recordings):
        text = "\n".join(map(repr, map(float, recording)))
        (folder / f"{number:02}.txt").write_text(text)
    return folder


@pytest.mark.convert
def test_windows_of_recordings_calibrate_with_the_very_bytes_of_their_arrays(
    convert: Convert, converted: tuple[Path, Any], tmp_path: Path, trust: list[Any]
) -> None:
    description = tmp_path / "model.toml"
    cut = '[[inputs.preprocessing]]\nstep = "window"\nlength = 140\nhop = 140\n\n'
    text = (ECG / "edge.toml").read_text()
    description.write_text(
        text.replace("[[inputs.preprocessing]]", f"{cut}[[inputs.preprocessing]]")
    )
    target = tmp_path / "ecg.edgeclin"
    done = convert(
        ECG / "edge.keras", "--profile", "cpu-x86_64", "--description", description,
        "--calibration", recorded(tmp_path / "calibration", TRAIN),
        "--validation", recorded(tmp_path / "validation", VALIDATION),
        "--calibration-method", "min-max", "-o", target,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "1 recordings of calibration are left out" in done.output
    bundles = [Bundle.open(path, trust) for path in (target, converted[0])]
    ours, theirs = (json.loads(bundle.read("calibration.json")) for bundle in bundles)
    assert ours["left_out"] == 2
    for key in ("samples", "consumed_sha256", "validation_samples", "input_low", "input_high"):
        assert ours[key] == theirs[key]
    assert ours["method_errors"]["min-max"] == theirs["method_errors"]["min-max"]


@pytest.mark.convert
def test_confidence_is_fitted_on_the_deployed_engine_with_held_out_beats(
    converted: tuple[Path, Any], trust: list[Any]
) -> None:
    runtime = Runtime(Bundle.open(converted[0], trust))
    confidence = runtime.bundle.manifest.confidence
    assert confidence.fitted
    assert confidence.samples == 150
    assert confidence.error_bound <= confidence.max_error
    measured = measure(runtime, open_dataset(VALIDATION))
    assert measured.coverage == pytest.approx(confidence.coverage)
    assert measured.confident_error == pytest.approx(confidence.error)


@pytest.mark.convert
def test_a_missed_gate_is_exit_3_and_no_bundle_unless_allowed_and_then_marked(
    convert: Convert, tmp_path: Path, trust: list[Any], scratch: Path
) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    strict = tmp_path / "strict.toml"
    strict.write_text("[error]\nint8 = 1e-6\n")
    target = tmp_path / "bad.edgeclin"
    arguments = (
        ECG / "edge.keras", *wanted(validation=VALIDATION, gates=strict), "-o", target,
    )  # fmt: skip
    missed = convert(*arguments)
    refused(missed, 3, "INT8 engine", "no bundle was written")
    assert "MISSED" in missed.stdout
    facts = json.loads(convert(*arguments, "--json").stdout)
    assert facts["bundle"] is None
    assert {gate["passed"] for gate in facts["gates"]} == {False, True}
    assert not target.exists()
    allowed = convert(*arguments, "--allow-failed-gates")
    assert allowed.exit_code == 0
    assert "warning: gates.toml sets error.int8 to 1e-06; the default is 0.05" in allowed.stdout
    bundle = Bundle.open(target, trust)
    (sentence,) = bundle.manifest.gates_missed
    assert sentence.startswith("INT8 engine: output error (relative MAE)")
    assert json.loads(bundle.read("verification.json"))["margins"]["error"]["int8"] == 1e-6
    assert not list(scratch.iterdir())


@pytest.mark.convert
def test_the_report_is_in_the_bundle_and_is_written_even_without_one(
    convert: Convert, tmp_path: Path, converted: tuple[Path, Any], trust: list[Any]
) -> None:
    bundle = Bundle.open(converted[0], trust)
    report = json.loads(bundle.read("report.json"))
    gates = json.loads(bundle.read("verification.json"))["gates"]
    assert report["gates"] == gates
    assert report["samples"] == sum(count for *_, count in report["engine"]["confusion"]) == 150
    assert [form["name"] for form in report["forms"]] == ["float TFLite", "INT8 engine"]
    assert report["forms"][1]["bytes"] == len(bundle.read("engine.tflite"))
    page = bundle.read("report.html").decode()
    assert all(gate["name"] in html.unescape(page) for gate in gates)
    strict = tmp_path / "strict.toml"
    strict.write_text("[error]\nint8 = 1e-6\n")
    data = wanted(calibration=TRAIN, validation=VALIDATION, gates=strict)
    target = tmp_path / "report.html"
    done = convert(
        FLOAT, *data, "--no-mixed-precision", "--report", target, "-o", tmp_path / "x.edgeclin"
    )
    assert done.exit_code == 3
    assert ">MISSED<" in target.read_text()
    assert not (tmp_path / "x.edgeclin").exists()


@pytest.mark.convert
def test_without_validation_a_fifth_is_held_out(convert: Convert, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    target = tmp_path / "split"
    done = convert(
        ECG / "edge.keras", "--profile", "cpu-x86_64", "--description", ECG / "edge.toml",
        "--calibration", TRAIN, "-o", target, "--unsigned",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "NOT SIGNED" in done.output
    calibration = json.loads((target / "calibration.json").read_bytes())
    assert (calibration["samples"], calibration["validation_samples"]) == (280, 70)
    assert calibration["warnings"][0].startswith("70 validation samples")
    assert f"warning: {calibration['warnings'][0]}" in done.output


@pytest.mark.convert
def test_five_validation_samples_prove_nothing(convert: Convert, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    with np.load(VALIDATION) as arrays:
        np.savez(tmp_path / "five.npz", X=arrays["X"][:5], y=arrays["y"][:5])
    done = convert(
        ECG / "edge.keras", *wanted(validation=tmp_path / "five.npz"), "--unsigned",
        "-o", tmp_path / "x.edgeclin",
    )  # fmt: skip
    refused(done, 3, "distinct samples is 5", "on 5 samples, at least 30 are needed")
    assert not (tmp_path / "x.edgeclin").exists()


SEGMENTATION = """\
schema = 1
name = "spots"
version = "1"
task = "segmentation"
intended_use = "a test"
[[inputs]]
name = "picture"
kind = "image"
shape = [12, 12, 1]
[output]
activation = "softmax"
labels = ["tissue", "spot"]
positive = ["spot"]
[metric]
name = "dice"
expected = 0.9
[provenance]
licence = "none"
source = "tests"
"""


@pytest.mark.convert
def test_a_segmentation_model_is_judged_by_dice_over_its_pixels(
    convert: Convert, tmp_path: Path, trust: list[Any]
) -> None:
    keras = pytest.importorskip("keras", reason="the convert extra is not installed")
    layer = keras.layers.Conv2D(2, 1, activation="softmax")
    model = keras.Sequential([keras.Input((12, 12, 1)), layer])
    layer.set_weights([np.array([[[[-9.0, 9.0]]]]), np.array([4.5, -4.5])])
    model.save(tmp_path / "spots.keras")
    (tmp_path / "model.toml").write_text(SEGMENTATION)
    for seed, name in enumerate(("calibration", "validation")):
        random = np.random.default_rng(seed)
        pictures = random.uniform(0, 1, (60, 12, 12, 1)).astype(np.float32)
        np.savez(tmp_path / name, X=pictures, y=(pictures[..., 0] > 0.5).astype(np.uint8))
    target = tmp_path / "spots.edgeclin"
    done = convert(
        tmp_path / "spots.keras", "--profile", "cpu-x86_64",
        "--calibration", tmp_path / "calibration.npz",
        "--validation", tmp_path / "validation.npz", "-o", target,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    gates = json.loads(Bundle.open(target, trust).read("verification.json"))["gates"]
    by_name = {(gate["stage"], gate["name"]): gate for gate in gates}
    assert by_name["source model", "Dice"]["value"] > 0.99
    assert abs(by_name["INT8 engine", "change of Dice"]["value"]) < 0.02
    runtime = Runtime(Bundle.open(target, trust))
    with pytest.raises(EngineUnavailable, match="the bundle's task is segmentation"):
        runtime.predict(np.zeros((12, 12, 1), np.float32))


@pytest.mark.convert
def test_what_a_converter_does_not_understand_is_an_error_message(
    convert: Convert, tmp_path: Path, scratch: Path
) -> None:
    keras = pytest.importorskip("keras", reason="the convert extra is not installed")
    two = keras.Sequential([keras.Input((140, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    two.save(tmp_path / "two.keras")
    refused(
        convert(
            tmp_path / "two.keras", "--profile", "cpu-x86_64", "--description", ECG / "edge.toml",
            "--calibration", TRAIN, "--validation", VALIDATION, "-o", tmp_path / "x.edgeclin",
        ),
        1,
        "2 values",
        "5 labels",
    )  # fmt: skip
    assert not list(scratch.iterdir())


@pytest.mark.convert
def test_a_class_that_keras_does_not_know_is_named_with_what_to_do(
    convert: Convert, tmp_path: Path
) -> None:
    keras = pytest.importorskip("keras", reason="the convert extra is not installed")

    class Own(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return x

    layers = [Own(), keras.layers.Flatten(), keras.layers.Dense(5)]
    keras.Sequential([keras.Input((140, 1)), *layers]).save(tmp_path / "m.h5")
    description = ("--description", ECG / "edge.toml")
    done = convert(tmp_path / "m.h5", *wanted(), *description, "-o", tmp_path / "x.edgeclin")
    refused(done, 1, "the class Own is not Keras's; export it where its code is, `model.export")


@pytest.mark.convert
@pytest.mark.parametrize("layer", ["LSTM", "GRU"])
def test_a_recurrent_layer_is_proven_as_onnx_and_refused_with_its_remedy_as_tflite(
    convert: Convert, tmp_path: Path, layer: str
) -> None:
    keras = pytest.importorskip("keras", reason="the convert extra is not installed")
    keras.utils.set_random_seed(1)
    recurrent = getattr(keras.layers, layer)(8)
    model = keras.Sequential([keras.Input((140, 1)), recurrent, keras.layers.Dense(5)])
    model.save(tmp_path / "recurrent.keras")

    def ask_for(profile: str) -> Result:
        return convert(
            tmp_path / "recurrent.keras", "--profile", profile, "--description", ECG / "edge.toml",
            "--calibration", TRAIN, "--validation", VALIDATION, "-o", tmp_path / "x.edgeclin",
            "--allow-failed-gates",
        )  # fmt: skip

    refused(ask_for("cpu-x86_64"), 1, "operator WHILE", "unroll=True", "engine onnx-qdq")
    assert not (tmp_path / "x.edgeclin").exists()
    done = ask_for("cpu-x86_64-onnx")
    assert done.exit_code == 0, done.output
    assert "left operators in float: 1 Loop" in done.output
    assert "could not be compared: layers_from_static_onnx: the operator Loop holds" in done.output


# -- ended from outside ------------------------------------------------------------------------


@dataclass
class Converting:
    """`edgeclin convert` in a process of its own, and the converter's process, which is held."""

    process: subprocess.Popen[str]
    worker: int
    scratch: Path
    bundle: Path

    def worker_is_gone(self) -> bool:
        try:
            state = Path(f"/proc/{self.worker}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        return state == "Z"


@pytest.fixture
def converting(tmp_path: Path) -> Iterator[Converting]:
    """A conversion for two profiles whose converter never ends by itself, because it is stopped."""
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    scratch, bundle = tmp_path / "scratch", tmp_path / "all"
    scratch.mkdir()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "edgeclin", "convert", str(ECG / "edge.keras"),
            *map(str, wanted()), "--profile", "coral-usb", "-o", str(bundle), "--unsigned",
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
        start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    while "starting the converter" not in process.stderr.readline():
        assert process.poll() is None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    worker = int(children)
    os.kill(worker, signal.SIGSTOP)
    yield Converting(process, worker, scratch, bundle)
    for pid in (process.pid, worker):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.convert
@pytest.mark.parametrize(
    ("number", "send"),
    [(signal.SIGINT, os.kill), (signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)],
    ids=["SIGINT", "Ctrl-C", "SIGTERM"],
)
def test_a_signal_ends_a_conversion_and_leaves_nothing_behind(
    converting: Converting, number: signal.Signals, send: Callable[[int, int], None]
) -> None:
    send(converting.process.pid, number)
    _, said = converting.process.communicate(timeout=30)
    assert converting.process.returncode == 128 + number
    assert said.splitlines()[-1] == f"edgeclin: stopped by {number.name}"
    assert "Traceback" not in said
    assert converting.worker_is_gone()
    assert not list(converting.scratch.iterdir())
    assert not converting.bundle.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["convert", "diagnose"])
def test_a_signal_while_the_model_is_read_has_the_exit_code_of_one_later(
    command: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeclin.model_files.read_model", lambda _: signal.raise_signal(number))
    options = ["--profile", "cpu-x86_64", "--calibration", str(TRAIN)]
    done = CliRunner().invoke(main, [command, str(FLOAT), *options])
    assert done.exit_code == 128 + number
    assert done.stderr == f"edgeclin: stopped by {number.name}\n"


@pytest.mark.convert
def test_a_converter_does_not_outlive_a_conversion_that_is_killed(converting: Converting) -> None:
    converting.process.kill()
    wait_until(converting.worker_is_gone, "the end of the converter")
    assert not converting.bundle.exists()


def test_a_converter_whose_conversion_has_ended_already_does_not_begin(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    worker = ["edgeclin.convert.worker", "tflite_from_keras", str(tmp_path), str(ended.pid)]
    done = subprocess.run(
        [sys.executable, "-m", *worker], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr, "it looked for its request"


# -- no room -----------------------------------------------------------------------------------


@pytest.mark.convert
@pytest.mark.parametrize(
    "full_disk", ["no room for the file", "no room on the disk"], indirect=True
)
def test_a_full_temporary_folder_is_one_sentence_and_left_empty(
    convert: Convert, full_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    monkeypatch.setattr(tempfile, "tempdir", str(full_disk))
    done = convert(ECG / "edge.keras", *wanted(), "-o", tmp_path / "x.edgeclin")
    refused(done, 1, f"temporary folder {full_disk}", "free space there", "TMPDIR")
    assert not list(full_disk.iterdir())
    assert not (tmp_path / "x.edgeclin").exists()


def test_a_temporary_folder_that_is_not_there_is_one_sentence(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    done = convert(ECG / "edge.keras", *wanted(), "-o", tmp_path / "x.edgeclin")
    refused(done, 1, f"temporary folder {tmp_path / 'gone'}", "TMPDIR")


@pytest.mark.convert
def test_a_converter_that_finds_no_room_says_so_in_one_sentence(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    # The model and the samples fit, and what TensorFlow exports does not.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (90 << 10, hard))
    try:
        done = convert(
            ECG / "edge.keras", *wanted(calibration=VALIDATION), "-o", tmp_path / "x.edgeclin"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(done, 1, "tflite_from_keras", f"folder {scratch} (File too large)", "TMPDIR")
    assert "starting the converter" in done.stderr
    assert not list(scratch.iterdir())


@pytest.mark.convert
def test_a_file_that_a_converter_cannot_write_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    samples = tmp_path / "samples.npy"
    np.save(samples, np.zeros((2, 140, 1), np.float32))
    request = Request(
        model=shutil.copy(ECG / "edge.keras", tmp_path),
        folder=str(tmp_path),
        profile=load_profile("cpu-x86_64"),
        samples=str(samples),
        input_shape=(140, 1),
    )
    (tmp_path / "answers.npy").mkdir()
    place = tmp_path.parents[1]
    said = f"^tflite_from_keras: .* temporary folder {place} .Is a directory.*TMPDIR"
    with pytest.raises(ConversionFailed, match=said):
        run_converter("tflite_from_keras", request, lambda _: None)


# -- refused before any converter starts -------------------------------------------------------


def wanted(**changes: object) -> list[object]:
    options = {
        "--profile": "cpu-x86_64",
        "--description": ECG / "edge.toml",
        "--calibration": TRAIN,
        **{f"--{key}": value for key, value in changes.items()},
    }
    return [part for key, value in options.items() if value is not None for part in (key, value)]


def test_int8_without_calibration_data_is_refused(convert: Convert) -> None:
    refused(convert(ECG / "edge.keras", *wanted(calibration=None)), 1, "--calibration", "random")


def test_validation_on_calibration_samples_is_refused(convert: Convert) -> None:
    refused(convert(ECG / "edge.keras", *wanted(validation=TRAIN)), 1, "shares 350 samples")


def test_a_shared_patient_is_refused(convert: Convert, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    for name, groups in (("a", ["p1", "p2"]), ("b", ["p3", "p2"])):
        np.savez(tmp_path / name, X=random.standard_normal((2, 140)), y=[0, 1], group=groups)
    refused(
        convert(
            ECG / "edge.keras",
            *wanted(calibration=tmp_path / "a.npz", validation=tmp_path / "b.npz"),
        ),
        1,
        "'p2'",
        "split by patient",
    )


SABOTAGE = {
    "noise": "calibration: roughness against validation (ratio) is 7",
    "one label": "it has no sample of PVC, R-on-T PVC, supraventricular, unclassified",
    "labels turned": "the model itself cannot judge these samples",
}


@pytest.mark.parametrize("how", SABOTAGE)
@pytest.mark.convert
def test_sabotaged_calibration_data_are_a_missed_gate_that_says_how(
    convert: Convert, tmp_path: Path, how: str
) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    with np.load(TRAIN) as arrays:
        beats, labels = arrays["X"], arrays["y"]
    if how == "noise":
        beats = np.random.default_rng(1).standard_normal(beats.shape)
    elif how == "one label":
        beats, labels = beats[labels == labels[0]], labels[labels == labels[0]]
    else:
        labels = (labels + 1) % 5
    np.savez(tmp_path / "bad.npz", X=beats, y=labels)
    data = wanted(calibration=tmp_path / "bad.npz", validation=VALIDATION)
    done = convert(FLOAT, *data, "-o", tmp_path / "x.edgeclin")
    refused(done, 3, "1 gate missed", SABOTAGE[how])
    long = "quantising with ranges by min-max" in done.stderr
    assert long is (how == "labels turned"), "the rest before long work"
    assert not (tmp_path / "x.edgeclin").exists()


@pytest.mark.convert
def test_calibration_data_in_another_unit_are_refused_before_long_work(
    convert: Convert, tmp_path: Path
) -> None:
    with np.load(TRAIN) as arrays:
        np.savez(tmp_path / "microvolts.npz", X=arrays["X"] * np.float32(1000), y=arrays["y"])
    description = tmp_path / "model.toml"
    text = (ECG / "edge.toml").read_text()
    description.write_text(text.replace('step = "zscore"', 'step = "clip"\nlow = -1e9\nhigh = 1e9'))
    data = wanted(
        calibration=tmp_path / "microvolts.npz", validation=VALIDATION, description=description
    )
    done = convert(FLOAT, *data, "-o", tmp_path / "x.edgeclin")
    refused(done, 3, "1 gate missed", "spread against validation (ratio)", "another unit or scale?")
    assert "quantising" not in done.stderr


@pytest.mark.convert
def test_a_source_that_is_not_what_its_description_promises_is_a_missed_gate(
    convert: Convert, tmp_path: Path
) -> None:
    """Here its labels are described in another order: source and engine agree all the way."""
    description = tmp_path / "model.toml"
    text = (ECG / "edge.toml").read_text()
    turned = text.replace('"normal", "R-on-T PVC", "PVC"', '"PVC", "normal", "R-on-T PVC"')
    assert turned != text
    description.write_text(turned)
    names = np.array(["normal", "R-on-T PVC", "PVC", "supraventricular", "unclassified"])
    for name, data in (("train", TRAIN), ("validation", VALIDATION)):
        with np.load(data) as arrays:
            np.savez(tmp_path / name, X=arrays["X"], y=names[arrays["y"]])
    data = wanted(
        calibration=tmp_path / "train.npz",
        validation=tmp_path / "validation.npz",
        description=description,
    )
    done = convert(FLOAT, *data, "-o", tmp_path / "x.edgeclin")
    refused(done, 3, "source model: mean recall of all labels", "or the order of labels other than")


@pytest.mark.convert
def test_shared_patients_that_are_allowed_stay_on_record(
    convert: Convert, tmp_path: Path, trust: list[Any]
) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    for name, source in (("a", TRAIN), ("b", VALIDATION)):
        with np.load(source) as arrays:
            groups = [f"p{index % 5}" for index in range(len(arrays["y"]))]
            np.savez(tmp_path / name, X=arrays["X"], y=arrays["y"], group=groups)
    data = wanted(calibration=tmp_path / "a.npz", validation=tmp_path / "b.npz")
    source = FLOAT
    refused(convert(source, *data), 1, "shares 5 groups", "'p0'")
    target = tmp_path / "x.edgeclin"
    done = convert(source, *data, "--allow-shared-groups", "-o", target)
    assert done.exit_code == 0, done.output
    warnings = json.loads(Bundle.open(target, trust).read("calibration.json"))["warnings"]
    (shared,) = [said for said in warnings if "share 5 groups, such as 'p0'" in said]
    assert shared in done.stdout


def test_a_form_to_which_no_converters_lead_is_exit_4(
    convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx", reason="the convert extra is not installed")
    monkeypatch.setattr("edgeclin.convert.planning.converter_names", lambda: ["b_from_a"])
    source = Path(__file__).parent / "data" / "ecg_float.onnx"
    refused(convert(source, *wanted()), 4, "from onnx to tflite", "b_from_a")


@pytest.mark.convert
@pytest.mark.parametrize("kind", ["keras", "saved_model", "onnx", "onnx with weights beside it"])
def test_axes_that_a_model_leaves_open_take_the_sizes_that_are_given(
    convert: Convert, tmp_path: Path, trust: list[Any], kind: str
) -> None:
    source, profile = tmp_path / "open", "cpu-x86_64"
    if kind.startswith("onnx"):
        onnx = pytest.importorskip("onnx", reason="the convert extra is not installed")
        model = onnx.load(Path(__file__).parent / "data" / "ecg_float.onnx")
        axes = model.graph.input[0].type.tensor_type.shape.dim
        axes[0].dim_param, axes[1].dim_param = "batch", "time"
        source, profile = tmp_path / "open.onnx", "cpu-x86_64-onnx"
        beside = {"save_as_external_data": True, "location": "w", "size_threshold": 64}
        onnx.save(model, source, **(beside if "beside" in kind else {}))
    else:
        keras = pytest.importorskip("keras", reason="the convert extra is not installed")
        fixed = keras.saving.load_model(ECG / "edge.keras", compile=False)
        config = fixed.get_config()
        config["layers"][0]["config"]["batch_shape"] = (None, None, 1)
        opened = type(fixed).from_config(config)
        opened.set_weights(fixed.get_weights())
        if kind == "keras":
            source = tmp_path / "open.keras"
            opened.save(source)
        else:
            opened.export(str(source), verbose=False)
            tf = pytest.importorskip("tensorflow")
            made = tf.lite.TFLiteConverter.from_saved_model(str(source)).convert()
            (tmp_path / "open.tflite").write_bytes(made)
            given = convert(tmp_path / "open.tflite", *wanted(), "--input-shape", "140,1")
            refused(given, 1, "leaves axes of its input open; give the model that it was made from")
    refused(convert(source, *wanted(profile=profile)), 1, "takes [?, 1]", "--input-shape")
    wrong = convert(source, *wanted(profile=profile), "--input-shape", "140,2")
    refused(wrong, 1, "takes [?, 1], --input-shape says [140, 2]")
    other = convert(source, *wanted(profile=profile), "--input-shape", "150,1")
    refused(other, 1, "takes the shape [150, 1], the description says [140, 1]")
    target = tmp_path / "x.edgeclin"
    fast = ("--calibration-method", "min-max")
    done = convert(source, *wanted(profile=profile), *fast, "--input-shape", "140,1", "-o", target)
    assert done.exit_code == 0, done.output
    assert measure(Runtime(Bundle.open(target, trust)), open_dataset(VALIDATION)).accuracy > 0.9


@pytest.mark.convert
@pytest.mark.parametrize(
    ("profile", "backend"), [("coral-usb", "tflite-edgetpu"), ("jetson-orin-nano", "tensorrt")]
)
def test_an_engine_for_an_accelerator_is_marked_as_not_compiled_and_its_cpu_twin_answers(
    convert: Convert,
    tmp_path: Path,
    trust: list[Any],
    beats: np.ndarray,
    profile: str,
    backend: str,
) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    target = tmp_path / "x.edgeclin"
    done = convert(ECG / "edge.keras", *wanted(profile=profile), "-o", target)
    assert done.exit_code == 0, done.output
    bundle = Bundle.open(target, trust)
    primary = bundle.manifest.primary
    assert (primary.backend, primary.state) == (backend, "not compiled")
    result = Runtime(bundle).predict(beats[0])
    assert result.degraded == "the primary engine is not compiled"
    if profile == "coral-usb":
        assert "predicted, not compiled: 7 of 7 operators on the Edge TPU" in done.stdout
        mapping = json.loads(bundle.read("edgetpu.json"))
        assert {one["predicted"] for one in mapping["operators"]} == {"Edge TPU"}


@pytest.mark.convert
@pytest.mark.parametrize(
    ("model", "profile", "stages"),
    [
        ("ecg_float.tflite", "cpu-x86_64", ["float TFLite"]),
        ("ecg_float.onnx", "cpu-x86_64-onnx", ["float static ONNX"]),
        ("ecg_float.tflite", "cpu-x86_64-onnx", ["float ONNX", "float static ONNX"]),
    ],
)
def test_every_form_on_the_way_is_judged_and_the_engine_runs(
    convert: Convert, tmp_path: Path, trust: list[Any], model: str, profile: str, stages: list[str]
) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    target = tmp_path / "x.edgeclin"
    source = Path(__file__).parent / "data" / model
    done = convert(source, *wanted(profile=profile), "-o", target, "--calibration-method", "mse")
    assert done.exit_code == 0, done.output
    bundle = Bundle.open(target, trust)
    gates = json.loads(bundle.read("verification.json"))["gates"]
    assert [gate["stage"] for gate in gates if gate["limit"] == 1e-5] == stages
    assert json.loads(bundle.read("calibration.json"))["method"] == "mse"
    assert measure(Runtime(bundle), open_dataset(VALIDATION)).accuracy > 0.9


@pytest.mark.convert
def test_several_profiles_make_a_bundle_each_and_a_comparison(
    convert: Convert, tmp_path: Path, trust: list[Any]
) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    names = ("cpu-x86_64", "coral-usb", "jetson-orin-nano")
    options = [part for name in names for part in ("--profile", name)]
    source = FLOAT
    done = convert(
        source, *wanted(profile=None), *options, "--validation", VALIDATION,
        "-o", tmp_path / "all", "--calibration-method", "min-max",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    made = sorted((tmp_path / "all").iterdir())
    assert {Bundle.open(path, trust).manifest.profile.name for path in made} == set(names)
    table = done.stdout[done.stdout.index("profile  ") :].splitlines()
    assert [line.split()[0] for line in table] == ["profile", *names]
    refused(convert(source, *wanted(profile=None), *options, "-o", "x.edgeclin"), 1, "folder")


@pytest.mark.convert
def test_a_saved_model_gives_the_answers_of_the_keras_model_it_came_from(
    convert: Convert, tmp_path: Path, trust: list[Any]
) -> None:
    keras = pytest.importorskip("keras", reason="the convert extra is not installed")
    model = keras.saving.load_model(ECG / "edge.keras", compile=False)
    model.export(str(tmp_path / "saved"), verbose=False)
    target = tmp_path / "x.edgeclin"
    done = convert(tmp_path / "saved", *wanted(), "-o", target)
    assert done.exit_code == 0, done.output
    assert measure(Runtime(Bundle.open(target, trust)), open_dataset(VALIDATION)).accuracy > 0.9


def test_a_shape_that_does_not_fit_is_refused(convert: Convert, tmp_path: Path) -> None:
    description = tmp_path / "model.toml"
    text = (ECG / "edge.toml").read_text()
    description.write_text(text.replace("shape = [140, 1]", "shape = [141, 1]"))
    refused(convert(ECG / "edge.keras", *wanted(description=description)), 1, "141", "140")


def test_a_label_that_nobody_described_is_refused(convert: Convert, tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", X=np.eye(10, 140), y=["flutter"] * 10)
    refused(convert(ECG / "edge.keras", *wanted(calibration=tmp_path / "odd.npz")), 1, "'flutter'")


@pytest.mark.parametrize(
    ("option", "name", "words"),
    [
        ("--report", "none/r.html", "not a folder that is there; make it"),
        ("--report", "full", "not a regular file; name another one"),
        ("-o", "full", "exists and is not empty"),
        ("-o", "file", "exists and is another kind of thing"),
        ("-o", "folder.edgeclin", "exists and is another kind of thing"),
        ("-o", "file/deep/x.edgeclin", "not a folder that is there"),
    ],
)
def test_what_could_not_be_written_in_the_end_is_refused_before_the_long_work(
    convert: Convert, tmp_path: Path, option: str, name: str, words: str
) -> None:
    (tmp_path / "full" / "inner").mkdir(parents=True)
    (tmp_path / "folder.edgeclin").mkdir()
    (tmp_path / "file").write_text("")
    target = () if option == "-o" else ("-o", tmp_path / "new")
    done = convert(FLOAT, *wanted(), *target, option, tmp_path / name)
    refused(done, 1, words)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.convert
def test_a_profile_without_a_bundle_is_named_where_another_has_one(
    convert: Convert, tmp_path: Path
) -> None:
    (tmp_path / "gates.toml").write_text("[error]\nint8 = 1e-6\n")
    done = convert(
        FLOAT, *wanted(validation=VALIDATION, gates=tmp_path / "gates.toml"),
        "--profile", ECG / "cloud-server.toml", "--no-mixed-precision",
        "--calibration-method", "min-max", "-o", tmp_path / "all",
    )  # fmt: skip
    refused(done, 3, "1 gate missed, no bundle was written for cpu-x86_64: ")
    (made,) = (tmp_path / "all").iterdir()
    assert made.name.endswith("cloud-server.edgeclin")


def test_a_missing_signing_key_is_refused_before_the_long_work(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECLIN_KEYS", str(tmp_path))
    refused(convert(ECG / "edge.keras", *wanted()), 1, "edgeclin keys new")


def test_a_converter_killed_by_a_signal_is_an_error_message(tmp_path: Path) -> None:
    from edgeclin.convert.worker import _outcome

    (tmp_path / "converter.log").write_text(
        "first\nlast words\nWARNING: All log messages before absl::InitializeLog() is called\n"
        "I0000 00:00:1.2 3 port.cc:153] oneDNN is on\n<frozen runpy>:128: RuntimeWarning: twice\n"
    )
    with pytest.raises(EdgeclinError, match="killed by SIGSEGV: last words"):
        _outcome("tflite_from_keras", tmp_path, -signal.SIGSEGV)
    shutil.rmtree(tmp_path)


def test_a_profile_that_fails_does_not_silence_those_before_it(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    import edgeclin.convert as package

    whole = package.convert

    def failing(job: Any, progress: Any) -> Any:
        if job.profile.name == "raspberry-pi-5":
            raise ConversionFailed("the second fails")
        return whole(job, progress)

    monkeypatch.setattr(package, "convert", failing)
    done = convert(
        FLOAT, "--profile", "cpu-x86_64", "--profile", "raspberry-pi-5", "--description",
        ECG / "edge.toml", "--calibration", TRAIN, "--validation", VALIDATION, "-o",
        tmp_path / "both", "--calibration-method", "min-max",
    )  # fmt: skip
    assert done.exit_code == 1
    assert "the second fails" in done.stderr
    (bundle,) = (tmp_path / "both").iterdir()
    assert f"{bundle} written" in done.stdout
