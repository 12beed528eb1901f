"""The CPU twin of a Jetson's engine is chosen by measurement, and only among what passed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import ECG

pytest.importorskip("onnx", reason="the convert extra is not installed")
pytest.importorskip("tf2onnx", reason="the convert extra is not installed")

import onnx

from edgeclin.backends import load_backend
from edgeclin.bundle import Bundle
from edgeclin.convert import Conversion, convert, twins
from edgeclin.convert.engines import Finished, finish
from edgeclin.convert.judging import Judge
from edgeclin.convert.latency import Latencies
from edgeclin.convert.quantising import Quantised, quantise
from edgeclin.convert.ranges import Method
from edgeclin.convert.stages import Stage, Workshop, ask
from edgeclin.convert.twins import Twin, choose_twin
from edgeclin.datasets import open_dataset
from edgeclin.description import load_description
from edgeclin.gates import Margins
from edgeclin.gates.margins import ErrorMargins
from edgeclin.golden import read_golden
from edgeclin.profiles import load_profile
from edgeclin.runtime import Runtime

DATA = Path(__file__).parent / "data"
pytestmark = pytest.mark.convert


@dataclass
class Made:
    """A conversion as far as the twin."""

    workshop: Workshop
    model: Stage
    primary: Quantised
    judged: np.ndarray
    source: np.ndarray

    def judge(self, int8: float = 0.05) -> Judge:
        description = load_description(ECG / "edge.toml")
        margins = Margins(error=ErrorMargins(int8=int8))
        return Judge(description, margins, self.source, None, None)

    def choose(self, int8: float = 0.05) -> tuple[Twin, Stage | None]:
        judge = self.judge(int8)
        confidence = judge.confidence(self.source)
        return choose_twin(self.workshop, self.model, self.primary, self.judged, judge, confidence)


def prepare(folder: Path, profile: str) -> Made:
    with np.load(ECG / "data" / "train.npz") as arrays:
        beats = arrays["X"][:60, :, np.newaxis].astype(np.float32)
    np.save(folder / "calibration.npy", beats)
    workshop = Workshop(folder, load_profile(profile), lambda _: None)
    model = ask("static_onnx", DATA / "ecg_float.onnx", beats)
    assert model.outputs is not None
    found = quantise(
        workshop, model, model.outputs, folder / "calibration.npy", beats, (Method.MIN_MAX,)
    )
    return Made(workshop, model, found, beats, model.outputs)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return prepare(tmp_path, "jetson-orin-nano")


def times(monkeypatch: pytest.MonkeyPatch, int8: float, uint8: float) -> None:
    took = Latencies({"int8": int8, "uint8": uint8}, 50)
    monkeypatch.setattr(twins, "measure", lambda *_: took)


def test_the_faster_file_that_passes_is_kept_with_the_figures(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, 2.0, 1.0)
    twin, stage = made.choose()
    assert stage is not None
    assert (twin.kept, twin.int8_ms, twin.uint8_ms) == (True, 2.0, 1.0)
    assert {gate.stage for gate in twin.gates} == {"INT8 CPU twin"}
    assert all(gate.passed for gate in twin.gates)
    points = {
        tensor.data_type
        for tensor in onnx.load(stage.path).graph.initializer
        if "zero_point" in tensor.name and not list(tensor.dims)
    }
    assert onnx.TensorProto.UINT8 in points
    assert 0 < twin.difference < 1


def refused(found: tuple[Twin, Stage | None]) -> str:
    assert (found[0].kept, found[1]) == (False, None)
    return found[0].reason


def test_a_file_that_is_hardly_faster_is_not_carried(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, 1.0, 0.95)
    assert "not faster by a tenth: 0.95 ms against 1 ms" in refused(made.choose())


def test_a_faster_file_that_misses_a_gate_is_not_kept(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, 2.0, 1.0)
    assert "a gate is missed: INT8 CPU twin: output error" in refused(made.choose(int8=1e-9))


def test_an_engine_that_runs_on_a_cpu_has_no_other_twin(tmp_path: Path) -> None:
    made = prepare(tmp_path, "cpu-x86_64-onnx")
    judge = made.judge()
    confidence = judge.confidence(made.source)
    found = finish(made.workshop, made.model, made.primary, made.judged, judge, confidence)
    assert found == Finished()


@pytest.mark.parametrize(("int8", "uint8"), [(2.0, 1.0), (1.0, 2.0)])
def test_both_engines_of_a_bundle_pass_its_self_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, int8: float, uint8: float
) -> None:
    times(monkeypatch, int8, uint8)
    samples = ECG / "data"
    job = Conversion(
        model=DATA / "ecg_float.onnx",
        profile=load_profile("jetson-orin-nano"),
        description=load_description(ECG / "edge.toml"),
        described=True,
        margins=Margins(),
        calibration=open_dataset(samples / "train.npz"),
        validation=open_dataset(samples / "validation.npz"),
        output=tmp_path / "ecg.edgeclin",
        signer=None,
    )
    converted = convert(job)
    bundle = Bundle.open(converted.path, allow_unsigned=True)
    twin = json.loads(bundle.read("verification.json"))["twin"]
    primary, other = bundle.manifest.engines
    assert primary.file == "engine.onnx"
    assert other.file == ("twin.onnx" if uint8 < int8 else "engine.onnx")
    assert twin["kept"] == (uint8 < int8)
    stages = {gate.stage for gate in converted.gates}
    assert ("INT8 CPU twin" in stages) == twin["kept"]
    assert "INT8 engine" in stages
    tolerance = bundle.manifest.golden.tolerance
    assert Runtime(bundle).off.within(tolerance)
    primary_here = load_backend("onnx", bundle.read("engine.onnx"))
    assert Runtime(bundle, primary_here).off.within(tolerance), "as far as ONNX Runtime can tell"
    data = bundle.read("golden.npz")
    own, others = read_golden(data, twin=True)[1], read_golden(data)[1]
    assert np.array_equal(own, others) != twin["kept"]
    assert {gate["stage"] for gate in twin["gates"]} == {"INT8 CPU twin"}
    names = {gate["name"] for gate in twin["gates"]}
    assert {"decision agreement", "error of the confident answers"} <= names
