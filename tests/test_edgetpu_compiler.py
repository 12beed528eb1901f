"""What becomes of a Coral's engine, with a fake of the Edge TPU compiler: nothing was mapped.

The fake (`fake_edgetpu_compiler`) prints logs in the format of version 16.0 and copies a file. That
the real compiler takes our engines is not proven by these tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import ECG
from polling import wait_until

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from edgeclin.bundle import Bundle
from edgeclin.cli import main
from edgeclin.convert.edgetpu import custom_operators, preflight
from edgeclin.convert.edgetpu_compiler import compile_engine, find_compiler, read_log
from edgeclin.convert.edgetpu_mapping import map_engine
from edgeclin.errors import BadFile, ConversionFailed
from edgeclin.profiles import load_profile
from edgeclin.runtime import Runtime

DATA = Path(__file__).parent / "data"
FAKE = Path(__file__).parent / "fake_edgetpu_compiler"
ENGINE = DATA / "ecg_int8_io.tflite"


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    """An engine whose first operator is what the real compiler leaves."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(ENGINE.read_bytes(), 0))
    code = model.operatorCodes[model.subgraphs[0].operators[0].opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"edgetpu-custom-op"
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "compiled.tflite"
    path.write_bytes(bytes(builder.Output()))
    return path


@pytest.fixture
def compiler(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake, as a user would name the real one."""
    monkeypatch.setenv("EDGETPU_COMPILER", str(FAKE))
    monkeypatch.setenv("FAKE_EDGETPU_MODEL", str(compiled))
    found = find_compiler()
    assert found is not None
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


def test_what_the_compiler_said_becomes_facts(compiler: Path, compiled: Path, folder: Path) -> None:
    before = ENGINE.read_bytes()
    made = compile_engine(compiler, ENGINE, preflight(before, 8), folder)
    assert ENGINE.read_bytes() == before, "it worked on a copy"
    assert made.engine == compiled.read_bytes()
    found = made.compilation
    assert found.compiler == "16.0.000000001"
    assert [(one.operator, one.count, one.mapped) for one in found.operators] == [
        ("RESHAPE", 2, True),
        ("CONV_2D", 3, True),
        ("MEAN", 1, True),
        ("FULLY_CONNECTED", 1, False),
    ]
    assert (found.on_chip_used, found.on_chip_left) == (25_088, 7_602_176)
    assert (found.off_chip, found.subgraphs) == (0, 1)
    assert found.sentence == (
        "compiled by the Edge TPU compiler 16.0.000000001: 6 of 7 operators mapped; 25,088 bytes "
        "of parameters on the chip; on the CPU: 1 FULLY_CONNECTED (Operation is otherwise "
        "supported, but not mapped due to some unspecified limitation)"
    )


LOG = """Edge TPU Compiler version 15.0.1
Off-chip memory used for streaming uncached model parameters: 1.50MiB
Operator                       Count      Status

CONV_2D                        2          Mapped to Edge TPU
CONV_2D                        1          More than one subgraph is not supported
LOGISTIC                       2          Mapped to Edge TPU
RESHAPE                        2          Mapped to Edge TPU
"""


def test_every_kind_of_operator_that_was_predicted_otherwise_is_named() -> None:
    predicted = preflight(ENGINE.read_bytes(), 8)
    sure = [one.operator for one in predicted.operators if one.predicted == "Edge TPU"]
    assert sure.count("CONV_2D") == 3
    found = read_log(LOG, predicted)
    assert "CONV_2D: 2 mapped, 3 predicted" in found.disagreements
    assert "LOGISTIC: 2 mapped, 0 predicted" in found.disagreements
    assert not any(one.startswith("RESHAPE") for one in found.disagreements)
    assert "1,572,864 bytes streamed from outside it" in found.sentence


@pytest.mark.parametrize("log", ["", "Edge TPU Compiler version 16.0", LOG.partition("\n")[2]])
def test_a_log_without_version_or_table_proves_nothing(log: str) -> None:
    with pytest.raises(ConversionFailed, match="no version or no table of operators"):
        read_log(log, preflight(ENGINE.read_bytes(), 8))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("internal", r"failed: Internal compiler error\. Aborting!"),
        ("invalid", r"failed \(1\): Invalid model"),
        ("crash", r"failed \(-11\): it does not say why"),
        ("nothing", r"wrote no engine: Model compiled successfully"),
        ("silent", "wrote is no TFLite model"),
        ("garbage", "wrote is no TFLite model"),
    ],
)
def test_a_compiler_that_fails_is_one_sentence(
    compiler: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setenv("FAKE_EDGETPU", fault)
    with pytest.raises(ConversionFailed, match=words):
        compile_engine(compiler, ENGINE, preflight(ENGINE.read_bytes(), 8), folder)


def test_an_engine_without_the_custom_operator_is_refused(
    compiler: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_EDGETPU_MODEL", str(ENGINE))
    with pytest.raises(ConversionFailed, match="mapped nothing"):
        compile_engine(compiler, ENGINE, preflight(ENGINE.read_bytes(), 8), folder)


def test_a_compiler_that_hangs_is_stopped_with_its_children(
    compiler: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_EDGETPU", "hangs")
    began = time.monotonic()
    with pytest.raises(ConversionFailed, match=r"did not end within 0\.5 s"):
        compile_engine(compiler, ENGINE, preflight(ENGINE.read_bytes(), 8), folder, timeout_s=0.5)
    assert time.monotonic() - began < 10


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_a_compiler_does_not_outlive_a_conversion_that_is_killed(
    folder: Path, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\nsleep 60 & echo $$ $! >{pids}; wait\n")
    compiler.chmod(0o755)
    program = (
        "from pathlib import Path\n"
        "from edgeclin.convert.edgetpu_compiler import compile_engine\n"
        f"compile_engine(Path({str(compiler)!r}), Path({str(ENGINE)!r}), None, "
        f"Path({str(folder)!r}))"
    )
    conversion = subprocess.Popen([sys.executable, "-c", program])
    wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"), "the compiler runs")
    started = [int(pid) for pid in pids.read_text().split()]
    assert all(map(alive, started))
    conversion.kill()
    conversion.wait()
    wait_until(lambda: not any(map(alive, started)), "the compiler ends")


def test_a_compiler_that_cannot_be_run_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_bytes(b"\x7fELF of another machine")
    compiler.chmod(0o755)
    with pytest.raises(ConversionFailed, match=r"compiler cannot be run \(Exec format error\)"):
        compile_engine(compiler, ENGINE, preflight(ENGINE.read_bytes(), 8), folder)


def test_a_compiler_that_is_named_but_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGETPU_COMPILER", "/nowhere/edgetpu_compiler")
    with pytest.raises(BadFile, match="mend EDGETPU_COMPILER"):
        find_compiler()


def test_the_compiler_is_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGETPU_COMPILER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler() is None
    (tmp_path / "edgetpu_compiler").symlink_to(FAKE)
    assert find_compiler() == tmp_path / "edgetpu_compiler"


def test_a_failed_compiler_is_told_beside_the_prediction(
    compiler: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_EDGETPU", "internal")
    report, engine = map_engine(load_profile("coral-usb"), ENGINE, folder, lambda _: None)
    assert engine is None
    assert report.compilation is None
    assert report.warnings[0].endswith("Aborting!: the engine stays `not compiled`")
    assert report.warnings[1].startswith("predicted, not compiled: ")


def test_a_real_compiled_model_is_known_by_its_operator(shared_data: Path) -> None:
    name = "deeplabv3_mnv2_dm05_pascal_quant"
    compiled = (shared_data / "coral" / f"{name}_edgetpu.tflite").read_bytes()
    assert custom_operators(compiled)[0] == "edgetpu-custom-op"
    assert custom_operators((shared_data / "coral" / f"{name}.tflite").read_bytes()) == []


@pytest.mark.convert
@pytest.mark.parametrize("fault", ["", "internal"])
def test_a_bundle_holds_the_compiled_engine_and_the_cpu_twin_answers_for_it(
    compiler: Path, compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    pytest.importorskip("ai_edge_quantizer", reason="the convert extra is not installed")
    monkeypatch.setenv("FAKE_EDGETPU", fault)
    target = tmp_path / "ecg.edgeclin"
    done = CliRunner().invoke(
        main,
        [
            "convert", str(DATA / "ecg_float.tflite"), "--profile", "coral-usb",
            "--description", str(ECG / "edge.toml"),
            "--calibration", str(ECG / "data" / "train.npz"),
            "--validation", str(ECG / "data" / "validation.npz"),
            "--calibration-method", "min-max", "--unsigned", "-o", str(target),
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    bundle = Bundle.open(target, allow_unsigned=True)
    report = json.loads(bundle.read("edgetpu.json"))
    result = Runtime(bundle).predict(np.load(ECG / "data" / "test.npz")["X"][7])
    primary = bundle.manifest.primary
    assert report["operators"][0]["predicted"] == "Edge TPU"
    if fault:
        assert (primary.state, report["compilation"]) == ("not compiled", None)
        assert "Internal compiler error" in report["problem"]
        assert "warning: the Edge TPU compiler failed" in done.output
        assert result.degraded == "the primary engine is not compiled"
        return
    assert (primary.backend, primary.state) == ("tflite-edgetpu", "ready")
    assert bundle.read(primary.file) == compiled.read_bytes()
    assert report["compilation"]["compiler"] == "16.0.000000001"
    assert "6 of 7 operators mapped" in done.output
    assert "disagree: FULLY_CONNECTED: 0 mapped, 1 predicted" in done.output
    assert result.engine.startswith("tflite int8: LiteRT")
    assert result.degraded.startswith(
        "the primary engine does not load: libedgetpu.so.1 is not installed: "
    )
    config = tmp_path / "device.toml"
    config.write_text(f'schema = 1\nsite = "s"\ndevice = "d"\nbundle = "{target}"\n'
                      f'[queue]\npath = "{tmp_path / "q.sqlite"}"\n')  # fmt: skip
    said = CliRunner().invoke(main, ["doctor", "--config", str(config)]).output
    assert "its tflite-edgetpu engine is ready, the CPU twin runs instead" in said
    assert os.fspath(FAKE) in said
