"""What several test modules share: keys, a bundle with the fake engine, real heartbeats."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest

from edgeclin.backends import load_backend
from edgeclin.backends.fake import FakeBackend
from edgeclin.bundle import Bundle, write_bundle
from edgeclin.description import load_description
from edgeclin.golden import write_golden
from edgeclin.keys import KeyPair, load_public_key, load_signer, new_key_pair
from edgeclin.manifest import SCHEMA, Confidence, Difference, Engine, Golden, Manifest
from edgeclin.offline_queue import OfflineQueue
from edgeclin.preprocess import Preprocess
from edgeclin.profiles import load_profile
from edgeclin.records import Result, State, Tier

ROOT = Path(__file__).parent.parent
ECG = ROOT / "examples" / "ecg"
FAKE_NVIDIA = Path(__file__).parent / "fake_nvidia"
Gpu = Callable[..., None]
FILE_SIZE = resource.getrlimit(resource.RLIMIT_FSIZE)
BUNDLE = "b" * 64
"""The digest of the bundle that made the results of `make_result`."""


def forget() -> None:
    """Have Python import NVIDIA's packages anew."""
    for name in list(sys.modules):
        if name.split(".")[0] in ("tensorrt", "cuda", "pycuda", "fake_gpu", "fake_cuda_python"):
            del sys.modules[name]


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "engines"
    monkeypatch.setenv("EDGECLIN_ENGINES", str(folder))
    return folder


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, engines: Path) -> Iterator[Gpu]:
    """Put a fake TensorRT, and a fake package for CUDA, where Python finds them first."""
    before, path = os.environ.get("PYTHONPATH", ""), list(sys.path)

    def install(version: str, cuda: str = "bindings") -> None:
        forget()
        folders = [str(FAKE_NVIDIA / name) for name in ("tensorrt", cuda, "common")]
        monkeypatch.setenv("FAKE_TENSORRT", version)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*folders, before]))
        sys.path[:] = [*folders, *path]

    yield install
    sys.path[:] = path
    forget()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of larger real models and data sets, where a machine has one."""
    folder = os.environ.get("EDGECLIN_TEST_DATA")
    if not folder:
        pytest.skip("EDGECLIN_TEST_DATA names no folder with the larger data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def beats() -> np.ndarray:
    """The 4,500 test heartbeats, float16 [4500, 140]."""
    with np.load(ECG / "data" / "test.npz") as arrays:
        return arrays["X"]


@pytest.fixture(scope="session")
def key_pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return new_key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def trust(key_pair: KeyPair) -> list[Any]:
    return [load_public_key(key_pair.public)]


@pytest.fixture(scope="session")
def manifest_and_files(beats: np.ndarray) -> tuple[Manifest, dict[str, bytes]]:
    """A consistent manifest, and the files it wants, for the fake engine on heartbeats."""
    description = load_description(ECG / "edge.toml")
    model = msgspec.json.encode({"input_shape": [140, 1], "labels": 5, "gain": 8.0})
    backend, preprocess = FakeBackend(model), Preprocess(description.inputs[0])
    inputs = [np.asarray(beat) for beat in beats[:4]]
    outputs = np.stack([backend.run(preprocess(sample)) for sample in inputs])
    manifest = Manifest(
        schema=SCHEMA,
        name="fake-ecg",
        version="1.0.0",
        created="2026-01-01T00:00:00+00:00",
        task=description.task,
        intended_use=description.intended_use,
        described=True,
        profile=load_profile("cpu-x86_64"),
        engines=(Engine(backend="fake", file="engine.json", precision="float32"),),
        inputs=description.inputs,
        output=description.output,
        metric=description.metric,
        confidence=Confidence(
            temperature=1.0, threshold=0.9, max_error=0.05, fitted=True, samples=100
        ),
        golden=Golden(file="golden.npz", samples=len(inputs), tolerance=Difference(1e-3, 1e-4)),
        gates_missed=(),
        tools={"edgeclin": "test"},
        licence="Apache-2.0",
        source="tests",
        files={},
    )
    return manifest, {"engine.json": model, "golden.npz": write_golden(inputs, outputs)}


@pytest.fixture
def bundle_path(
    tmp_path: Path, key_pair: KeyPair, manifest_and_files: tuple[Manifest, dict[str, bytes]]
) -> Path:
    """A signed bundle file with the fake engine."""
    manifest, files = manifest_and_files
    signer = load_signer(key_pair.private)
    return write_bundle(tmp_path / "fake.edgeclin", manifest, files, signer)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[OfflineQueue]:
    """An empty queue."""
    with OfflineQueue(tmp_path / "queue.sqlite") as opened:
        yield opened


@pytest.fixture
def bundle(bundle_path: Path, trust: list[Any]) -> Bundle:
    return Bundle.open(bundle_path, trust)


@pytest.fixture(scope="session")
def heartbeats(
    tmp_path_factory: pytest.TempPathFactory,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
    beats: np.ndarray,
) -> Bundle:
    """An unsigned bundle of a real INT8 engine for heartbeats."""
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    folder, (manifest, _) = tmp_path_factory.mktemp("heartbeats"), manifest_and_files
    model = (ROOT / "tests" / "data" / "ecg_int8.tflite").read_bytes()
    backend, preprocess = load_backend("tflite", model), Preprocess(manifest.inputs[0])
    inputs = [np.asarray(beat) for beat in beats[:4]]
    outputs = np.stack([backend.run(preprocess(sample)).ravel() for sample in inputs])
    changed = msgspec.structs.replace(
        manifest, engines=(Engine(backend="tflite", file="engine.tflite", precision="int8"),)
    )
    files = {"engine.tflite": model, "golden.npz": write_golden(inputs, outputs)}
    path = write_bundle(folder / "heartbeats.edgeclin", changed, files, None)
    return Bundle.open(path, (), allow_unsigned=True)


@pytest.fixture
def make_result() -> Callable[..., Result]:
    """Results that differ in what a test cares about."""

    def make(position: int = 0, **changes: Any) -> Result:
        result = Result(
            bundle=BUNDLE,
            engine="fake",
            preprocessing="p" * 64,
            source="test.npz",
            position=position,
            made_at=1_000_000.0 + position,
            state=State.FINAL,
            reason="test",
            tier=Tier.ROUTINE,
            label="normal",
            confidence=0.99,
            probabilities=(0.99, 0.01),
        )
        return msgspec.structs.replace(result, **changes)

    return make


@pytest.fixture
def unsound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Python finds the backends `unsound` and `unsound-twin` of tests/unsound_engine.py, in
    other processes too: a fault is ordered by its name in the file `unsound` or `unsound-twin`."""
    folder = tmp_path / "unsound"
    facts = folder / "unsound_engine-1.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: unsound-engine\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(
        "[edgeclin.backends]\nunsound = unsound_engine:UnsoundBackend\n"
        "unsound-twin = unsound_engine:UnsoundTwin\n"
    )
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(folder), str(Path(__file__).parent), before])
    )
    monkeypatch.setenv("UNSOUND_FAULTS", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def engines_of(
    tmp_path: Path, manifest_and_files: tuple[Manifest, dict[str, bytes]]
) -> Callable[..., Bundle]:
    """An unsigned bundle of the fake engine for heartbeats, as other backends execute it."""

    def make(*backends: str, version: str = "1.0.0") -> Bundle:
        manifest, files = manifest_and_files
        roles: tuple[Literal["primary", "cpu-twin"], ...] = ("primary", "cpu-twin")
        engines = tuple(
            Engine(backend=name, file="engine.json", precision="float32", role=role)
            for name, role in zip(backends, roles, strict=False)
        )
        changed = msgspec.structs.replace(manifest, engines=engines, version=version)
        path = write_bundle(tmp_path / f"isolated-{version}.edgeclin", changed, files, None)
        return Bundle.open(path, allow_unsigned=True)

    return make


@pytest.fixture(params=["fsync fails", "no room for the file", "no room on the disk"])
def full_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An empty folder in which 48 KiB of bytes that do not compress cannot be written."""
    folder = tmp_path / "full"
    folder.mkdir()
    if request.param == "fsync fails":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", _no_space)
            yield folder
    elif request.param == "no room for the file":
        resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, FILE_SIZE[1]))
        yield folder
    else:
        mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("only root can mount a small disk")
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Lift a limit as soon as the test ends: its report may go into a larger file."""
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, FILE_SIZE)


def _no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of eight megabytes, twice what the log of a queue may take."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = Path(tempfile.mkdtemp(prefix="edgeclin-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()
