"""ONNX to TFLite: whatever onnx2tf does, an engine is right or there is none."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import ECG

from edgeclin.bundle import Bundle
from edgeclin.cli import main
from edgeclin.convert.request import Outcome, Request
from edgeclin.datasets import open_dataset
from edgeclin.errors import ConversionFailed, EngineUnavailable
from edgeclin.profiles import load_profile
from edgeclin.runtime import Runtime
from edgeclin.toolchains import Environment, installed, load_toolchain
from edgeclin.verify import measure

DATA = Path(__file__).parent / "data"
pytestmark = pytest.mark.convert
onnx = pytest.importorskip("onnx", reason="the convert extra is not installed")
pytest.importorskip("ai_edge_litert", reason="the convert extra is not installed")

GOOD = f"shutil.copy({str(DATA / 'ecg_float.tflite')!r}, place / 'model_float32.tflite')"
FAST = ("--calibration-method", "min-max")
TOOLS = "(place / 'tools.json').write_text('{\"onnx2tf\": \"0\"}')"


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    """The ECG model, and two beats."""
    folder = tmp_path / "work"
    folder.mkdir()
    np.save(folder / "samples.npy", np.zeros((2, 140, 1), np.float32))
    return Request(
        model=str(shutil.copy(DATA / "ecg_float.onnx", folder)),
        folder=str(folder),
        profile=load_profile("cpu-x86_64"),
        samples=str(folder / "samples.npy"),
        input_shape=(140, 1),
    )


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """A toolchain whose Python does what `lines` say instead of running onnx2tf."""
    toolchain = load_toolchain("onnx2tf")
    folder = tmp_path / "toolchains" / f"onnx2tf-{toolchain.digest}"
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    begin = "import os, shutil, signal, sys\nfrom pathlib import Path"
    parts = (f"#!{sys.executable}", begin, "place = Path(sys.argv[4])", *lines)
    python.write_text("\n".join(parts))
    python.chmod(0o755)
    made = Environment(name="onnx2tf", folder=str(folder), python="", seconds=0, size_mb=0)
    (folder / "toolchain.json").write_bytes(msgspec.json.encode(made))
    monkeypatch.setenv("EDGECLIN_TOOLCHAINS", str(tmp_path / "toolchains"))


def convert(request: Request) -> Outcome:
    from edgeclin.converters.tflite_from_static_onnx import convert as run

    return run(request, lambda _: None)


def test_onnx2tf_gets_a_copy_with_a_plain_input_name_and_may_spoil_it(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = f"shutil.copy(sys.argv[3], {str(tmp_path / 'given.onnx')!r})"
    stand_in(tmp_path, monkeypatch, keep, "Path(sys.argv[3]).write_bytes(b'')", GOOD, TOOLS)
    before = Path(request_.model).read_bytes()
    outcome = convert(request_)
    assert (Path(request_.folder) / outcome.file).is_file()
    assert outcome.tools["onnx2tf"] == "0"
    assert np.load(Path(request_.folder) / outcome.answers).shape == (2, 5)
    assert Path(request_.model).read_bytes() == before
    given = onnx.load(tmp_path / "given.onnx").graph
    assert ([one.name for one in given.input], given.output[0].name) == (["input"], "output")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("(place.parent / 'ecg_float.onnx').write_bytes(b'')", GOOD, TOOLS), "was not given"),
        ((TOOLS,), "without an error and without a TFLite model"),
        (("print('ValueError: no'); sys.exit(3)",), "onnx2tf ended with 3: ValueError: no"),
        (("os.kill(os.getpid(), signal.SIGSEGV)",), "onnx2tf ended with -11: it said nothing"),
        (("(place / 'model_float32.tflite').write_bytes(b'TFL3')", TOOLS), "LiteRT cannot read"),
        (
            (GOOD.replace("ecg_float.tflite", "ecg_int8_io.tflite"), TOOLS),
            r"takes int8 \[1, 140, 1\], the ONNX model takes float32",
        ),
    ],
    ids=["original", "no output", "error", "crash", "damaged", "type"],
)
def test_a_wrong_run_of_onnx2tf_is_one_sentence(
    request_: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: tuple[str, ...],
    said: str,
) -> None:
    stand_in(tmp_path, monkeypatch, *lines)
    with pytest.raises(ConversionFailed, match=said) as caught:
        convert(request_)
    assert "\n" not in str(caught.value)
    assert not (Path(request_.folder) / "float.tflite").exists()


def test_another_layout_than_the_model_s_is_refused(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = onnx.helper
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 140]) for name in "xy"
    ]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.save(made, request_.model)
    np.save(request_.samples, np.zeros((2, 1, 140), np.float32))
    stand_in(tmp_path, monkeypatch, GOOD, TOOLS)
    with pytest.raises(ConversionFailed, match=r"takes float32 \[1, 140, 1\], .* \[1, 1, 140\]"):
        convert(request_)


def asked(*arguments: object) -> list[str]:
    fixed = ("--calibration", ECG / "data" / "train.npz", "--description", ECG / "edge.toml")
    return ["convert", *map(str, (*arguments, *fixed)), "--unsigned", *FAST]


def test_a_missing_toolchain_is_named_before_the_long_work(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECLIN_TOOLCHAINS", str(tmp_path / "none"))
    with pytest.raises(EngineUnavailable, match="`edgeclin toolchain add onnx2tf` makes it"):
        convert(request_)
    done = CliRunner().invoke(main, asked(request_.model, "--profile", "cpu-x86_64"))
    assert done.exit_code == 4
    assert "edgeclin toolchain add onnx2tf" in done.stderr
    assert "preparing" not in done.stderr


# -- with the real one ------------------------------------------------------------------------


@pytest.fixture
def onnx2tf() -> None:
    if installed(load_toolchain("onnx2tf")) is None:
        pytest.skip("the toolchain onnx2tf is not installed: edgeclin toolchain add onnx2tf")


@pytest.mark.usefixtures("onnx2tf")
def test_an_onnx_model_becomes_an_engine_that_judges_as_it_did(tmp_path: Path) -> None:
    target = tmp_path / "x.edgeclin"
    done = CliRunner().invoke(
        main, asked(DATA / "ecg_float.onnx", "--profile", "coral-usb", "-o", target)
    )
    assert done.exit_code == 0, done.output
    bundle = Bundle.open(target, allow_unsigned=True)
    gates = json.loads(bundle.read("verification.json"))["gates"]
    floats = {gate["stage"]: gate["value"] for gate in gates if gate["limit"] == 1e-5}
    assert set(floats) == {"float static ONNX", "float TFLite"}
    assert floats["float TFLite"] < 1e-6
    assert bundle.manifest.tools["onnx2tf"]
    assert measure(Runtime(bundle), open_dataset(ECG / "data" / "validation.npz")).accuracy > 0.9


@pytest.mark.usefixtures("onnx2tf")
def test_a_trained_model_of_arrhythmia_keeps_its_accuracy(
    tmp_path: Path, shared_data: Path
) -> None:
    folder = shared_data / "iegm"
    for name, count in (("iegm_train_subset", 600), ("iegm_test_dev", 1200)):
        with np.load(folder / f"{name}.npz") as arrays:
            chosen = np.random.default_rng(0).permutation(len(arrays["y"]))[:count]
            labels, groups = arrays["y"][chosen].astype(str), arrays["subject"][chosen]
            np.savez(tmp_path / name, X=arrays["X"][chosen], y=labels, group=groups)
    text = (ECG / "edge.toml").read_text()
    head, _, tail = text.partition("[[inputs]]")
    provenance = tail[tail.index("[provenance]") :]
    (tmp_path / "model.toml").write_text(
        f'{head}[[inputs]]\nname = "iegm"\nkind = "signal"\nshape = [1, 1250, 1]\n'
        f'[output]\nactivation = "none"\nlabels = ["0", "1"]\n{provenance}'
    )
    target = tmp_path / "x.edgeclin"
    done = CliRunner().invoke(main, [
        "convert", str(folder / "vatml_model_best.onnx"), "--profile", "coral-usb",
        "--calibration", str(tmp_path / "iegm_train_subset.npz"), "--validation",
        str(tmp_path / "iegm_test_dev.npz"), "--description", str(tmp_path / "model.toml"),
        "--unsigned", "-o", str(target), *FAST,
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "14 of 14 operators on the Edge TPU" in done.stdout
    runtime = Runtime(Bundle.open(target, allow_unsigned=True))
    assert measure(runtime, open_dataset(tmp_path / "iegm_test_dev.npz")).accuracy > 0.93
