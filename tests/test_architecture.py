"""The design that no single module can promise: layers, lazy imports, one list of plug-ins."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

LAYERS = (
    ("errors", "version", "lifeline"),
    (
        "files",
        "mismatch",
        "records",
        "health",
        "steps",
        "profiles",
        "model_files",
        "description",
        "keys",
        "manifest",
        "bundle",
        "config",
        "columns",
        "wire",
        "batches",
    ),
    (
        "preprocess",
        "backends",
        "confidence",
        "guards",
        "drift",
        "gates",
        "golden",
        "isolation",
        "states",
        "datasets",
        "priority",
        "uptime",
        "flash",
        "offline_queue",
        "pages",
        "transport",
        "watchdog",
        "tensorrt",
        "toolchains",
    ),
    (
        "executable",
        "failover",
        "rehearsal",
        "runtime",
        "build",
        "inbox",
        "streams",
        "sources",
        "shadow",
        "bedside",
        "endpoint",
        "swap",
        "benchmark",
        "verify",
        "answered",
        "risk",
        "doctor",
        "sync",
        "cloud",
        "convert",
    ),
    ("cli", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
APART = (
    {
        "runtime",
        "rehearsal",
        "shadow",
        "bedside",
        "endpoint",
        "swap",
        "inbox",
        "streams",
        "sources",
    },
    {"sync"},
)
HEAVY = {"tensorflow", "keras", "ai_edge_litert", "cv2", "pyarrow", "duckdb", "ibis", "matplotlib"}
HEAVY |= {"pydicom", "wfdb", "pandas"}
HEAVY |= {"tensorrt", "tensorrt_rtx_bindings", "cuda", "pycuda"}
HEAVY |= {"torch", "onnx"}
HEAVY |= {"starlette", "uvicorn", "prometheus_client"}
SOURCES = sorted((ROOT / "edgeclin").rglob("*.py"))


def unit(path: Path) -> str:
    """The module or subpackage directly below `edgeclin` that a file belongs to."""
    return path.relative_to(ROOT / "edgeclin").parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Every `edgeclin.…` module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.startswith("edgeclin."))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downward_only(path: Path) -> None:
    here = unit(path)
    if here == "__init__":
        return
    for name in imported(path):
        target = name.split(".")[1]
        if target == here:
            continue
        assert LEVEL[target] <= LEVEL[here], f"{path.name} imports {name}, which is above it"


def test_every_module_has_its_layer_and_the_design_document_names_it() -> None:
    document = (ROOT / "docs" / "architecture.md").read_text()
    for path in SOURCES:
        here = unit(path)
        if here in ("__init__", "__main__"):
            continue
        assert here in LEVEL
        assert f"`{here}`" in document


def test_the_runtime_and_the_agent_meet_only_in_the_queue() -> None:
    for path in SOURCES:
        for one, other in (APART, APART[::-1]):
            if unit(path) in one:
                assert not {name.split(".")[1] for name in imported(path)} & other


def test_nothing_imports_a_converter() -> None:
    for path in SOURCES:
        assert not any(name.startswith("edgeclin.converters") for name in imported(path))


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `code`."""
    program = f"{code}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import edgeclin",
        "import edgeclin.cli",
        "from edgeclin import Bundle, OfflineQueue, Profile, Result, Runtime, SyncAgent",
        "import edgeclin.transport.mqtt, edgeclin.doctor, edgeclin.convert.worker",
        "import edgeclin.datasets",
        "import edgeclin.bedside, edgeclin.sources",
    ],
)
def test_importing_edgeclin_loads_nothing_heavy(code: str) -> None:
    assert not loaded_by(code) & HEAVY


def test_help_needs_not_even_numpy() -> None:
    assert "numpy" not in loaded_by("import edgeclin.cli")
