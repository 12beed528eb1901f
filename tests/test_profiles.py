"""profiles: facts that are checked, sourced, and enough to add a board without code."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from unprivileged import closed

from edgeclin.errors import BadFile, UnknownProfile
from edgeclin.profiles import EngineKind, Profile, load_profile, shipped

PROMISED = {
    "cpu-x86_64",
    "cpu-x86_64-onnx",
    "cpu-arm64",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "coral-usb",
    "coral-dev-board",
    "jetson-xavier-nx",
    "jetson-orin-nano",
    "jetson-agx-orin",
    "jetson-thor",
}
OWN = """
schema = 1
name = "own"
title = "A board nobody has heard of"
architecture = "aarch64"
engine = "tflite"
latency_budget_ms = 40
[power_w]
value = 5.5
source = "its datasheet"
[numeric]
precision = "int8"
activations = "int8"
weights = "int8"
[limits]
memory_mb = 2048
threads = 4
max_model_mb = 100
on_chip_mb = 8
"""


def own(folder: Path, old: str = "", new: str = "") -> str:
    assert old in OWN
    path = folder / "own.toml"
    path.write_text(OWN.replace(old, new) if old else OWN)
    return str(path)


def test_every_promised_device_has_a_profile() -> None:
    assert set(shipped()) >= PROMISED


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_profile_is_found_by_the_name_it_bears(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.title


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_profile_is_the_same_after_a_journey_in_a_manifest(name: str) -> None:
    profile = load_profile(name)
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Profile) == profile


@pytest.mark.parametrize("name", sorted(shipped()))
def test_figures_of_a_shipped_profile_fit_its_kind(name: str) -> None:
    profile = load_profile(name)
    if profile.engine is EngineKind.TFLITE_EDGETPU:
        assert profile.numeric.precision == "int8"
        assert profile.limits.on_chip_mb is not None
    if profile.engine in (EngineKind.TFLITE_EDGETPU, EngineKind.TENSORRT):
        assert profile.accelerator
        assert profile.toolchain
    for fact in (profile.power_w, profile.price_usd):
        assert fact is None or len(fact.source) > 10


def test_a_new_board_needs_a_file_and_no_code(tmp_path: Path) -> None:
    profile = load_profile(own(tmp_path))
    assert profile.name == "own"
    assert profile.limits.max_model_mb == 100
    assert profile.power_w is not None
    assert profile.power_w.value == 5.5


@pytest.mark.parametrize("name", ["cpu-z80", "", ".", "../device_profiles/cpu-arm64", "a\0b"])
def test_an_unknown_profile_says_which_there_are(name: str) -> None:
    with pytest.raises(UnknownProfile, match="raspberry-pi-5") as caught:
        load_profile(name)
    assert repr(name) in str(caught.value)
    assert set(caught.value.known) >= PROMISED


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("schema = 1", "schema = 2", "schema 2 is unknown; this version reads 1"),
        ('name = "own"', 'name = "own"\ncolour = "red"', "colour"),
        ("threads = 4", "threads = 4\ncores = 4", "cores"),
        ('title = "A board nobody has heard of"\n', "", "title"),
        ('engine = "tflite"', 'engine = "openvino"', "openvino"),
        ('"aarch64"', '"z80"', "z80"),
        ("memory_mb = 2048", 'memory_mb = "2 GB"', "memory_mb"),
        ('source = "its datasheet"', 'source = ""', "power_w has no source"),
        ('source = "its datasheet"', "", "source"),
    ],
)
def test_a_wrong_profile_is_refused_with_its_path_and_the_reason(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    path = own(tmp_path, old, new)
    with pytest.raises(BadFile, match=problem) as caught:
        load_profile(path)
    assert path in str(caught.value)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize(
    ("figure", "name"),
    [
        ("latency_budget_ms = 40", "latency_budget_ms"),
        ("max_model_mb = 100", "limits.max_model_mb"),
        ("on_chip_mb = 8", "limits.on_chip_mb"),
        ("value = 5.5", "power_w"),
        ("memory_mb = 2048", "limits.memory_mb"),
        ("threads = 4", "limits.threads"),
    ],
)
def test_a_figure_that_no_device_can_have_is_refused(
    tmp_path: Path, figure: str, name: str, value: str
) -> None:
    path = own(tmp_path, figure, f"{figure.split(' = ')[0]} = {value}")
    with pytest.raises(BadFile, match=name):
        load_profile(path)


def test_a_profile_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    path = own(tmp_path / "closed")
    load_profile(path)
    with (
        closed(tmp_path / "closed"),
        pytest.raises(BadFile, match=r"own\.toml: cannot be read \(Permission denied\); mend"),
    ):
        load_profile(path)
