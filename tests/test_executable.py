"""Where the primary engine cannot load its CPU twin answers, and every result says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fake_edgetpu
import msgspec
import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from edgeclin.backends import tflite_edgetpu
from edgeclin.bundle import Bundle, write_bundle
from edgeclin.errors import EngineUnavailable
from edgeclin.executable import load_executable
from edgeclin.manifest import Engine, Manifest
from edgeclin.runtime import Runtime

Make = Callable[..., Bundle]


@pytest.fixture
def coral(tmp_path: Path, manifest_and_files: tuple[Manifest, dict[str, bytes]]) -> Make:
    """A bundle with an engine for the Edge TPU, and the fake engine as its twin."""
    manifest, files = manifest_and_files
    primary = Engine(backend="tflite-edgetpu", file="engine_edgetpu.tflite", precision="int8")
    twin = msgspec.structs.replace(manifest.engines[0], role="cpu-twin")

    def make(twin: Engine | None = twin, model: bytes = files["engine.json"]) -> Bundle:
        engines = (primary, twin) if twin else (primary,)
        content = {**files, "engine.json": model, primary.file: fake_edgetpu.engine()}
        changed = msgspec.structs.replace(manifest, engines=engines)
        path = write_bundle(tmp_path / "coral.edgeclin", changed, content, None)
        return Bundle.open(path, allow_unsigned=True)

    return make


def test_the_twin_answers_where_the_primary_engine_does_not_load(
    coral: Make, beats: np.ndarray
) -> None:
    result = Runtime(coral()).predict(beats[0])
    assert result.engine == "fake float32: fake 1"
    assert result.degraded.startswith(
        "the primary engine does not load: libedgetpu.so.1 is not installed"
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [("absent", "no device of type Apex"), ("mismatch", "are of different ages")],
)
def test_the_note_says_what_the_delegate_lacks(
    coral: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    library = fake_edgetpu.library(tmp_path)
    monkeypatch.setattr(
        tflite_edgetpu.TFLiteEdgeTPUBackend.__init__, "__kwdefaults__", {"library": str(library)}
    )
    assert load_executable(coral())[0].note == ""
    monkeypatch.setenv("FAKE_EDGETPU", fault)
    chosen, backend = load_executable(coral())
    assert (chosen.engine.role, backend.version) == ("cpu-twin", "fake 1")
    assert words in chosen.note


def test_without_a_twin_an_engine_that_does_not_load_is_an_error(coral: Make) -> None:
    with pytest.raises(EngineUnavailable, match=r"^libedgetpu\.so\.1 is not installed"):
        load_executable(coral(twin=None))


def test_a_twin_that_does_not_load_either_is_an_error(coral: Make) -> None:
    with pytest.raises(EngineUnavailable, match="not a model of the fake backend"):
        load_executable(coral(model=b"{}"))
