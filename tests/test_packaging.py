"""What a user gets from `pip install`: small, complete, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

PINS = ROOT / "constraints" / f"python{sys.version_info.major}.{sys.version_info.minor}.txt"
MOST_BYTES, MOST_OF_A_FILE = 700_000, 20_000
"""Code alone: a model or data in the wheel would exceed one or the other."""


def call(*command: object, **options: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built from the files that git knows."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    names = call("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard").splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, source)
    return target


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def test_the_wheel_is_small_and_claims_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    assert wheel.stat().st_size < MOST_BYTES
    large = {name for name, size in sizes.items() if size >= MOST_OF_A_FILE}
    assert not {name for name in large if ".dist-info/" not in name}
    tops = {name.split("/")[0] for name in names}
    assert tops == {"edgeclin", f"{wheel.name.split('-py3')[0]}.dist-info"}
    assert not any(name.endswith((".keras", ".npz", ".service", ".sh")) for name in names)


def test_the_wheel_holds_every_module_profile_and_template(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder, inside in (
        ("edgeclin", "edgeclin"),
        ("converters", "edgeclin/converters"),
        ("device_profiles", "edgeclin/device_profiles"),
    ):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (
                ".py",
                ".toml",
                ".txt",
                ".html",
                ".typed",
            ) and "__pycache__" not in str(path):
                assert f"{inside}/{path.relative_to(ROOT / folder)}" in names


def test_the_source_archive_carries_what_the_wheel_does_not(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    for name in (
        "firmware_scripts/install.sh",
        "firmware_scripts/edgeclin-run.service",
        "examples/ecg/edge.keras",
        "tests/conftest.py",
        "docs/wire.md",
        "LICENSE",
    ):
        assert name in names


def test_a_base_install_works_and_imports_nothing_heavy(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    call(python, "-m", "pip", "install", "-q", "-c", PINS, wheel)
    call(python, "-m", "pip", "check")
    installed = {
        line.split("==")[0].lower().replace("_", "-")
        for line in call(python, "-m", "pip", "freeze").splitlines()
    }
    assert not installed & {"tensorflow-cpu", "keras", "ai-edge-litert", "pyarrow", "scipy"}
    edgeclin = tmp_path / "venv" / "bin" / "edgeclin"
    assert "cpu-x86_64" in call(edgeclin, "profiles", cwd=str(tmp_path))
    assert "pip install 'edgeclin[tflite]'" in call(edgeclin, "doctor", cwd=str(tmp_path))
    missing = subprocess.run(
        [edgeclin, "cloud", "ingest", "--store", str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert missing.returncode == 4
    assert "pip install 'edgeclin[cloud]'" in missing.stderr
    assert len(missing.stderr.splitlines()) == 1
    assert not (tmp_path / "store").exists()
