"""Toolchains: an environment is whole and proven, or it is not there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import ROOT

from edgeclin.cli import main
from edgeclin.errors import ConversionFailed, EdgeclinError, EngineUnavailable
from edgeclin.toolchains import add, facts, installed, known, load_toolchain, remove, require
from edgeclin.toolchains.facts import needed_by
from edgeclin.toolchains.interpreters import find_python

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def quiet(_: str) -> None:
    pass


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this test's toolchains."""
    folder = tmp_path / "toolchains"
    monkeypatch.setenv("EDGECLIN_TOOLCHAINS", str(folder))
    return folder


def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """Make `tiny` the only toolchain there is: of no packages, on this Python."""
    told = {
        "name": "tiny", "purpose": "nothing", "python": HERE, "proof": ["json"],
        "converters": ["b_from_a"], "size_mb": 1, **changes,
    }  # fmt: skip
    folder = tmp_path / "facts"
    folder.mkdir(exist_ok=True)
    lines = (f"{key} = {json.dumps(value)}" for key, value in told.items() if key != "pins")
    (folder / "tiny.toml").write_text("\n".join(lines))
    (folder / "tiny.txt").write_text(str(changes.get("pins", "")))
    monkeypatch.setattr(facts, "_folder", lambda: folder)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Path) -> facts.Toolchain:
    described(tmp_path, monkeypatch)
    return load_toolchain("tiny")


def test_a_toolchain_is_made_listed_found_and_removed(
    tiny: facts.Toolchain, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["toolchain", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert installed(tiny) is None
    with pytest.raises(EngineUnavailable, match="edgeclin toolchain add tiny"):
        require(tiny)
    assert "no: edgeclin toolchain add tiny" in run("list")
    assert json.loads(run("add", "tiny", "--json"))["name"] == "tiny"
    made = require(tiny)
    assert add(tiny, None, quiet) == made
    asked = [made.interpreter, "-c", "import sys; print(sys.prefix)"]
    assert subprocess.check_output(asked, text=True).strip() == made.folder
    assert json.loads(run("list", "--json"))[0]["installed"]["folder"] == made.folder

    shutil.copytree(place, tmp_path / "elsewhere", symlinks=True)  # its scripts name the old place
    monkeypatch.setenv("EDGECLIN_TOOLCHAINS", str(tmp_path / "elsewhere"))
    assert installed(tiny) is None
    monkeypatch.setenv("EDGECLIN_TOOLCHAINS", str(place))
    assert installed(tiny) == made

    assert run("remove", "tiny") == "tiny: 1 environment removed\n"
    assert installed(tiny) is None
    assert remove("tiny") == 0


def test_other_versions_and_what_a_sigkill_left_are_replaced(
    tiny: facts.Toolchain, place: Path
) -> None:
    left, old = place / f"tiny-{tiny.digest}", place / "tiny-0123456789ab"
    for folder in (left, old):
        (folder / "bin").mkdir(parents=True)
        shutil.copy(sys.executable, folder / "bin" / "python")
    facts_of_old = {"name": "tiny", "folder": str(old), "python": "", "seconds": 0, "size_mb": 0}
    (old / "toolchain.json").write_text(json.dumps(facts_of_old))
    assert installed(tiny) is None
    assert Path(add(tiny, None, quiet).folder) == left
    assert [entry.name for entry in place.iterdir() if entry.is_dir()] == [left.name]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"proof": ["no_such_module_xyz"]}, "it does not import: .*no_such_module_xyz"),
        ({"pins": "no-such-package==1.0\n"}, "pip could not install tiny: .*no-such-package==1.0"),
    ],
)
def test_what_is_not_proven_is_not_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Path,
    changes: dict[str, object],
    said: str,
) -> None:
    described(tmp_path, monkeypatch, **changes)
    with pytest.raises(ConversionFailed, match=said):
        add(load_toolchain("tiny"), None, quiet)
    assert [entry.name for entry in place.iterdir()] == [".lock"]


def test_ctrl_c_leaves_nothing(tiny: facts.Toolchain, place: Path) -> None:
    def interrupt(step: str) -> None:
        if step.startswith("proving"):
            assert (place / f"tiny-{tiny.digest}").is_dir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(tiny, None, interrupt)
    assert [entry.name for entry in place.iterdir()] == [".lock"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk: Path
) -> None:
    described(tmp_path, monkeypatch)
    monkeypatch.setenv("EDGECLIN_TOOLCHAINS", str(small_disk))
    with pytest.raises(ConversionFailed, match="cannot make an environment in"):
        add(load_toolchain("tiny"), None, quiet)
    assert [entry.name for entry in small_disk.iterdir()] == [".lock"]
    described(tmp_path, monkeypatch, size_mb=100)
    with pytest.raises(EngineUnavailable, match=r"needs 100 MB and .* has \d MB free"):
        add(load_toolchain("tiny"), None, quiet)


def test_a_python_that_does_not_fit_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_python(HERE, Path(sys.executable)) == Path(sys.executable)
    with pytest.raises(EngineUnavailable, match=rf"is Python {HERE}; Python 3\.99 is needed"):
        find_python("3.99", Path(sys.executable))
    with pytest.raises(EngineUnavailable, match="is no Python that can make environments"):
        find_python(HERE, Path("/bin/true"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(EngineUnavailable, match=r"no Python 3\.99 with venv .* --python"):
        find_python("3.99")


def test_a_python_is_found_on_the_path_and_in_pyenv_past_a_shim_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim, real = tmp_path / "shims", tmp_path / "versions" / "3.99.1" / "bin"
    for folder, script in ((shim, "exit 127"), (real, "echo 3.99")):
        folder.mkdir(parents=True)
        (folder / "python3.99").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "python3.99").chmod(0o755)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", f"{shim}{os.pathsep}{os.environ['PATH']}")
    assert find_python("3.99") == real / "python3.99"
    monkeypatch.setenv("PATH", f"{real}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "none"))
    assert find_python("3.99") == real / "python3.99"


def test_the_shipped_toolchains_pin_every_version_and_serve_installed_converters() -> None:
    from edgeclin.convert.worker import converter_names

    for name in known():
        toolchain = load_toolchain(name)
        pins = toolchain.requirements.read_text().splitlines()
        assert any(line.startswith(f"{name}==") for line in pins)
        for line in pins:
            package, _, version = line.partition("==")
            assert package
            assert version
            assert "/" not in line
        assert set(toolchain.converters) <= set(converter_names())
        assert needed_by(toolchain.converters) == [toolchain]
    assert needed_by(("tflite_from_keras",)) == []
    with pytest.raises(EdgeclinError, match="no toolchain named 'x'; choose one of onnx2tf"):
        load_toolchain("x")


def test_the_runner_needs_nothing_of_edgeclin() -> None:
    text = (ROOT / "edgeclin" / "toolchains" / "run_onnx2tf.py").read_text()
    assert "import edgeclin" not in text
    assert "from edgeclin" not in text


def test_doctor_says_what_is_missing_and_where_it_is(tiny: facts.Toolchain, place: Path) -> None:
    from edgeclin.doctor import examine

    def found() -> str:
        (finding,) = (one for one in examine(None) if one.what == "tiny (nothing)")
        return f"{finding.status}: {finding.detail}{finding.remedy}"

    assert found() == "missing: not installededgeclin toolchain add tiny"
    folder = place / f"tiny-{tiny.digest}"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    told = {"name": "tiny", "folder": str(folder), "python": HERE, "seconds": 1.0, "size_mb": 1}
    (folder / "toolchain.json").write_text(json.dumps(told))
    assert found() == f"ok: {folder}"


def test_the_runner_does_not_begin_when_its_converter_has_ended(tmp_path: Path) -> None:
    runner = ROOT / "edgeclin" / "toolchains" / "run_onnx2tf.py"
    asked = [sys.executable, "-I", str(runner), "m.onnx", str(tmp_path), "input", "1"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")  # it would fail to import onnx2tf here
