"""Gates of calibration data: each kind of sabotage is caught, and by the gate that names it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edgeclin.gates import Gate
from edgeclin.gates.margins import CalibrationMargins
from edgeclin.gates.samples import (
    copies_gate,
    distinct_gate,
    judged_gate,
    label_gate,
    label_weights,
    sample_gates,
)

LIMITS = CalibrationMargins()


def waves(count: int, seed: int) -> np.ndarray:
    """Slow waves with a little noise, each of its own amplitude, [count, 200, 1]."""
    random = np.random.default_rng(seed)
    time = np.linspace(0, 6, 200)
    found = [
        random.uniform(0.5, 5)
        * (np.sin(time + random.uniform(0, 6)) + 0.02 * random.normal(size=200))
        for _ in range(count)
    ]
    return np.array(found, np.float32)[..., np.newaxis]


def cells(count: int, seed: int) -> np.ndarray:
    """Reddish discs from two microscopes, one of them bluer, [count, 16, 16, 3]."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16] - 7.5
    disc = ((x**2 + y**2) < 40)[..., np.newaxis]
    found = []
    for _ in range(count):
        tint = np.array([200, 140, 120] if random.uniform() < 0.3 else [120, 90, 170])
        found.append(disc * (tint + random.normal(0, 6, 3)) + random.normal(0, 2, (16, 16, 3)))
    return np.array(found, np.float32)


def judged(calibration: np.ndarray, validation: np.ndarray) -> dict[str, Gate]:
    return {gate.name: gate for gate in sample_gates(calibration, validation, LIMITS)}


def missed(calibration: np.ndarray, validation: np.ndarray) -> list[str]:
    gates = judged(calibration, validation)
    return [name.split(" against ")[0] for name, gate in gates.items() if not gate.passed]


def test_data_of_one_kind_pass() -> None:
    assert missed(waves(300, 1), waves(100, 2)) == []
    assert missed(cells(300, 1), cells(100, 2)) == []
    roughness = judged(waves(300, 1), waves(100, 2))["roughness against validation (ratio)"]
    assert roughness.low <= roughness.value <= roughness.high < 1.2


@pytest.mark.parametrize("sabotage", ["noise", "shuffled"])
def test_noise_or_shuffled_data_in_place_of_calibration_miss(sabotage: str) -> None:
    random = np.random.default_rng(3)
    calibration = waves(300, 1)
    if sabotage == "noise":
        calibration = random.normal(0, calibration.std(), calibration.shape).astype(np.float32)
    else:
        calibration = random.permuted(calibration, axis=1)
    assert missed(calibration, waves(100, 2)) == ["roughness"]


@pytest.mark.parametrize("scale", [1e-3, 1 / 255, 10.0])
def test_another_scale_misses(scale: float) -> None:
    assert missed(waves(300, 1) * np.float32(scale), waves(100, 2)) == ["spread"]


def test_swapped_colours_miss_and_only_that_gate() -> None:
    (name,) = missed(cells(300, 1)[..., ::-1], cells(100, 2))
    gate = judged(cells(300, 1)[..., ::-1], cells(100, 2))[name]
    assert "or red and blue changed over?" in gate.sentence


def test_swapped_colours_miss_in_the_layout_of_channels_first_too() -> None:
    calibration = np.moveaxis(cells(300, 1)[..., ::-1], -1, 1)
    assert len(missed(calibration, np.moveaxis(cells(100, 2), -1, 1))) == 1


def test_a_mixture_of_microscopes_other_than_that_of_validation_is_no_swap() -> None:
    """The mean colour alone would say so."""
    many = cells(400, 1)
    bluer = many[many[..., 2].mean(axis=(1, 2)) > many[..., 0].mean(axis=(1, 2))]
    redder = [one for one in many if one[..., 0].mean() > one[..., 2].mean()]
    calibration = np.concatenate([bluer, redder[:20]])
    assert missed(calibration, np.array(redder[20:])) == []


def test_grey_pictures_have_no_order_of_colours() -> None:
    grey = np.repeat(cells(300, 1)[..., :1], 3, axis=-1)
    assert missed(grey[:200], grey[200:]) == []


def test_samples_that_never_vary_or_have_one_value_are_no_reason_to_miss() -> None:
    assert missed(np.ones((50, 10, 1)), np.ones((50, 10, 1))) == []
    assert missed(np.ones((50, 1)), np.zeros((50, 1))) == []


def test_calibration_with_one_label_only_misses_and_names_the_others() -> None:
    gate = label_gate(["normal"] * 50, ["normal"] * 20 + ["PVC"] * 10 + ["VT"] * 10, LIMITS)
    assert gate.value == 0.5
    assert not gate.passed
    assert "it has no sample of PVC, VT" in gate.sentence


def test_a_label_rarer_than_one_in_twenty_may_be_missing() -> None:
    assert label_gate(["normal"] * 50, ["normal"] * 96 + ["VT"] * 4, LIMITS).passed


def test_samples_that_the_model_itself_cannot_judge_miss() -> None:
    right = np.arange(200) % 20 != 0
    assert judged_gate(right, right, LIMITS).passed
    assert judged_gate(np.ones(200, bool), right, LIMITS).passed, "better is no reason"
    gate = judged_gate(np.arange(200) % 4 != 0, right, LIMITS)
    assert gate.value == pytest.approx(-0.2)
    assert not gate.passed


def test_a_few_samples_that_are_judged_badly_prove_nothing() -> None:
    assert judged_gate(np.array([True, False, True]), np.ones(200, bool), LIMITS).passed


def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    np.save(tmp_path / "pictures.npy", np.zeros((300, 96, 96, 3), np.float32))
    pictures = np.load(tmp_path / "pictures.npy", mmap_mode="r")
    tracemalloc.start()
    judged(pictures, pictures)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20, "the pictures take 33 MB"


def test_repeats_of_a_few_samples_are_as_few() -> None:
    few = np.repeat(waves(15, 1), 20, axis=0)
    gate = distinct_gate(few, 30)
    assert (gate.value, gate.n, gate.passed) == (15.0, 15, False)
    assert gate.sentence.endswith("on 15 samples, at least 30 are needed")
    assert distinct_gate(waves(30, 1), 30).passed


def test_validation_samples_that_calibration_holds_are_refused() -> None:
    share = np.array([True] * 2 + [False] * 98)
    assert not copies_gate(share, LIMITS).passed
    assert copies_gate(share[1:], LIMITS).value == pytest.approx(1 / 99)


def test_findings_that_are_commoner_in_validation_are_no_other_kind_of_data() -> None:
    """Of smooth and rough samples a fifth are rough here, and most of them there."""
    smooth, random = waves(300, 1), np.random.default_rng(2)
    rough = (smooth + random.normal(0, 1, smooth.shape)).astype(np.float32)
    ours = np.concatenate([smooth[:160], rough[:40]])
    theirs = np.concatenate([smooth[200:210], rough[200:290]])
    labels, wanted = ["s"] * 160 + ["r"] * 40, ["s"] * 10 + ["r"] * 90
    blind = {gate.name: gate for gate in sample_gates(ours, theirs, LIMITS)}
    assert not blind["roughness against validation (ratio)"].passed
    weights = label_weights(labels, wanted)
    fair = {gate.name: gate for gate in sample_gates(ours, theirs, LIMITS, weights)}
    assert fair["roughness against validation (ratio)"].passed
    noise = random.normal(size=ours.shape).astype(np.float32)
    spoilt = {gate.name: gate for gate in sample_gates(noise, theirs, LIMITS, weights)}
    assert not spoilt["roughness against validation (ratio)"].passed
