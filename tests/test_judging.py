"""A judge knows what float32 can tell apart, and chooses golden samples of every decision."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from conftest import ECG

from edgeclin.convert.bundling import kinds
from edgeclin.convert.judging import Judge
from edgeclin.description import load_description
from edgeclin.gates import Margins


def judge(source: np.ndarray) -> Judge:
    return Judge(load_description(ECG / "edge.toml"), Margins(), source, None, None)


def test_roundings_of_large_outputs_are_no_fault_of_a_converter() -> None:
    """Outputs around 1,000 that differ by 0.2: float32 tells them apart to 6e-5."""
    exact = 1000 + np.random.default_rng(1).uniform(-0.1, 0.1, (200, 5))
    source = exact.astype(np.float32)
    rounded = np.nextafter(source, np.float32(2000))
    assert judge(source).float_form("float TFLite", rounded).passed
    assert not judge(source).float_form("float TFLite", source + np.float32(0.01)).passed


def test_the_limit_of_float_forms_is_that_of_gates_toml_where_outputs_are_small() -> None:
    source = np.random.default_rng(1).uniform(-1, 1, (200, 5)).astype(np.float32)
    assert judge(source).float_form("float TFLite", source + np.float32(1e-6)).passed
    gate = judge(source).float_form("float TFLite", source + np.float32(1e-4))
    assert (gate.limit, gate.passed) == (1e-5, False)


def test_golden_samples_are_chosen_by_decision_of_one_output_too() -> None:
    description = load_description(ECG / "edge.toml")
    output = msgspec.structs.replace(
        description.output, activation="sigmoid", labels=("no", "yes"), positive=(), urgent=()
    )
    one = np.array([[0.1]] * 50 + [[0.9]] * 3)
    asked = Judge(msgspec.structs.replace(description, output=output), Margins(), one, None, None)
    assert kinds(asked.answers(one).decisions).tolist() == [0] * 50 + [1] * 3


def test_golden_pictures_are_chosen_by_how_much_of_them_is_a_finding() -> None:
    shares = np.linspace(0, 1, 40)
    decisions = (np.linspace(0, 1, 500)[np.newaxis] < shares[:, np.newaxis]).astype(np.int64)
    found = kinds(decisions)
    assert sorted(set(found.tolist())) == [0, 1, 2, 3]
    assert np.bincount(found) == pytest.approx([10, 10, 10, 10], abs=1)
