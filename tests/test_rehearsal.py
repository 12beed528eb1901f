"""A bundle is tried where its faults harm nobody, before the one that answers loads it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from edgeclin import rehearsal
from edgeclin.bundle import Bundle
from edgeclin.errors import EdgeclinError, EngineFailed, EngineUnavailable, SelfTestFailed
from edgeclin.manifest import Manifest
from edgeclin.rehearsal import rehearse

Engines = Callable[..., Bundle]


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def children() -> set[str]:
    return {
        child
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    }


@pytest.mark.parametrize("backends", [("unsound",), ("unsound", "unsound-twin")])
def test_a_sound_engine_passes_and_nothing_of_its_try_is_left(
    unsound: Path, engines_of: Engines, backends: tuple[str, ...]
) -> None:
    gc.collect()  # of what came before
    before = children(), open_files()
    rehearse(engines_of(*backends))
    assert (children(), open_files()) == before


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("segfault", EngineFailed, "ended by SIGSEGV while it loaded"),
        ("abort", EngineFailed, "ended by SIGABRT while it loaded"),
        ("hang while loading", EngineFailed, "did not load within 1 s"),
        ("hang", EngineFailed, "did not load within 1 s"),
        ("grow while loading", EngineFailed, "MB \\(allowed: 256 MB\\)"),
        ("lie", SelfTestFailed, "self-test's answers are off"),
        ("nan", SelfTestFailed, "self-test's answers are off"),
    ],
)
@pytest.mark.parametrize("twin", [True, False])
def test_a_fault_is_told_whatever_the_twin_does_and_nothing_of_it_is_left(
    unsound: Path,
    engines_of: Engines,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    error: type[EdgeclinError],
    said: str,
    twin: bool,
) -> None:
    monkeypatch.setattr(rehearsal, "_PATIENCE", 1)
    monkeypatch.setattr(rehearsal, "LOAD_S", 60.0 if fault.startswith("grow") else 1.0)
    before = children()
    bundle = engines_of("unsound", *["unsound-twin"] * twin)
    limits = replace(bundle.manifest.profile.limits, memory_mb=256)
    profile = replace(bundle.manifest.profile, limits=limits)
    bundle.manifest = replace(bundle.manifest, profile=profile)
    (unsound / "unsound").write_text(fault)
    with pytest.raises(error, match=said):
        rehearse(bundle)
    assert children() == before


def test_a_twin_stands_in_for_an_engine_that_this_machine_cannot_run(
    unsound: Path, engines_of: Engines
) -> None:
    (unsound / "unsound").write_text("absent")
    rehearse(engines_of("unsound", "unsound-twin"))
    with pytest.raises(EngineUnavailable, match="no accelerator is plugged in"):
        rehearse(engines_of("unsound"))


@pytest.mark.parametrize("fault", ["segfault", "lie"])
def test_a_twin_that_is_to_stand_in_is_tried_too(
    unsound: Path, engines_of: Engines, fault: str
) -> None:
    (unsound / "unsound").write_text("absent")
    (unsound / "unsound-twin").write_text(fault)
    with pytest.raises((EngineFailed, SelfTestFailed)):
        rehearse(engines_of("unsound", "unsound-twin"))
