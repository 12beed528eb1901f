from __future__ import annotations

import tracemalloc

import msgspec
import numpy as np
import pytest
from scipy import stats

from edgeclin import gates
from edgeclin.gates import (
    Gate,
    accuracy_gate,
    agreement_gate,
    calibration_gate,
    confident_gate,
    error_gate,
    worst_group_gate,
)
from edgeclin.manifest import Confidence

EYE = np.eye(3)


def answers(*labels: int) -> np.ndarray:
    """Logits [n, 3] that choose these labels."""
    return EYE[list(labels)]


# -- another engine's threshold ----------------------------------------------------------------


def test_only_answers_that_reach_the_threshold_count_as_confident_errors() -> None:
    confidence = Confidence(temperature=0.5, threshold=0.9, max_error=0.3, fitted=True)
    logits = np.concatenate([answers(0, 0, 0, 1) * 3, answers(1, 1) * 0.1])
    truth = np.array([0, 0, 0, 0, 0, 0])
    gate = confident_gate("twin", logits, truth, confidence)
    assert (gate.value, gate.n, gate.passed) == (0.25, 4, True)
    strict = msgspec.structs.replace(confidence, max_error=0.2)
    assert not confident_gate("twin", logits, truth, strict).passed
    silent = msgspec.structs.replace(confidence, threshold=1.01)
    assert confident_gate("twin", logits, truth, silent).n == 0


# -- output error -------------------------------------------------------------------------------


def test_the_error_is_the_mean_absolute_one_over_the_range_of_the_source() -> None:
    source = np.array([[0.0, 10.0], [5.0, 5.0]])
    engine = np.array([[1.0, 10.0], [5.0, 8.0]])
    gate = error_gate("int8", source, engine, limit=0.1)
    assert gate.value == pytest.approx((1 + 0 + 0 + 3) / 4 / 10)
    assert gate.passed
    assert gate.n == 2


def test_the_error_gate_is_missed_just_above_its_limit() -> None:
    source = np.array([[0.0, 1.0]])
    assert error_gate("int8", source, source + 0.05, limit=0.0500001).passed
    assert not error_gate("int8", source, source + 0.05, limit=0.0499999).passed


def test_equal_outputs_pass_also_where_the_source_never_varies() -> None:
    constant = np.full((4, 2), 3.0)
    assert error_gate("float", constant, constant, gates.FLOAT_EXPORT_MAE).passed
    assert not error_gate("float", constant, constant + 1, gates.FLOAT_EXPORT_MAE).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["source", "engine"])
def test_outputs_that_are_not_finite_miss_and_can_still_be_written(bad: float, where: str) -> None:
    sides = {"source": np.ones((3, 2)), "engine": np.ones((3, 2))}
    sides[where][1, 1] = bad
    with np.errstate(invalid="ignore"):
        gate = error_gate("int8", sides["source"], sides["engine"], limit=1e9)
    assert not gate.passed
    assert "not finite" in gate.name
    assert msgspec.json.decode(msgspec.json.encode(gate), type=Gate) == gate


# -- decisions ----------------------------------------------------------------------------------


def test_agreement_is_the_share_of_equal_decisions() -> None:
    source, engine = answers(*[0, 1, 2, 0] * 10), answers(*[0, 1, 2, 1] * 10)
    gate = agreement_gate("int8", source, engine, limit=0.75)
    assert gate.value == 0.75
    assert gate.passed
    assert not agreement_gate("int8", source, engine, limit=0.76).passed


def test_accuracy_is_judged_by_the_bound_not_by_the_point_estimate() -> None:
    truth = np.zeros(40, int)
    source = answers(*truth)
    engine = answers(*([0] * 39 + [1]))
    gate = accuracy_gate("int8", source, engine, truth, margin=0.05)
    assert gate.value == pytest.approx(-1 / 40)
    assert gate.value > -0.05, "the point estimate alone would pass"
    assert gate.low < -0.05
    assert not gate.passed


def test_an_engine_that_answers_as_its_source_loses_nothing_however_bad_both_are() -> None:
    truth = np.array([0, 1, 2] * 10)
    wrong = answers(*((truth + 1) % 3))
    gate = accuracy_gate("int8", wrong, wrong, truth, margin=0.0)
    assert (gate.value, gate.low, gate.high) == (0.0, 0.0, 0.0)
    assert gate.passed


@pytest.mark.parametrize("n", [1, 5, 29, 30])
def test_no_decision_gate_passes_on_a_handful_of_samples(n: int) -> None:
    truth = np.zeros(n, int)
    same = answers(*truth)
    found = (
        agreement_gate("int8", same, same, limit=0.95),
        accuracy_gate("int8", same, same, truth, margin=0.02),
    )
    for gate in found:
        assert (gate.low, gate.high) == (gate.value, gate.value), "the interval has no width"
        assert gate.passed is (n >= 30)
        needed = f" on {n} sample{'s' * (n > 1)}, at least 30 are needed"
        assert gate.sentence.endswith(needed) is (n < 30)


def test_the_error_of_one_sample_is_judged_as_it_is() -> None:
    one = np.array([[0.0, 1.0]])
    gate = error_gate("int8", one, one, limit=0.05)
    assert gate.passed
    assert "needed" not in gate.sentence


def test_a_better_engine_passes() -> None:
    truth = np.array([0, 1, 2] * 10)
    gate = accuracy_gate("int8", answers(*[0] * 30), answers(*truth), truth, margin=0.0)
    assert gate.value == pytest.approx(2 / 3)
    assert gate.passed


def test_a_group_that_suffers_is_found_behind_a_good_average() -> None:
    truth = np.zeros(100, int)
    groups = np.array(["many"] * 90 + ["few"] * 10)
    engine = answers(*([0] * 90 + [1] * 5 + [0] * 5))
    gate = worst_group_gate("int8", answers(*truth), engine, truth, groups, margin=0.1)
    assert gate.name == "change of accuracy in the worst group (few)"
    assert (gate.value, gate.n) == (-0.5, 10)
    assert not gate.passed
    assert accuracy_gate("int8", answers(*truth), engine, truth, margin=0.1).passed


def test_no_group_that_suffers_passes() -> None:
    truth = np.zeros(20, int)
    groups = np.array(["a", "b"] * 10)
    gate = worst_group_gate("int8", answers(*truth), answers(*truth), truth, groups, margin=0.0)
    assert gate.passed


# -- intervals ----------------------------------------------------------------------------------


def test_the_interval_is_that_of_an_independent_bootstrap() -> None:
    change = np.array([1.0] * 10 + [0.0] * 170 + [-1.0] * 20)
    truth = np.zeros(200, int)
    source = answers(*np.where(change > 0, 1, 0))
    engine = answers(*np.where(change < 0, 1, 0))
    gate = accuracy_gate("int8", source, engine, truth, margin=0.2)
    reference = stats.bootstrap(
        (change,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(7)
    ).confidence_interval
    assert gate.low == pytest.approx(reference.low, abs=0.012)
    assert gate.high == pytest.approx(reference.high, abs=0.012)
    assert gate.low < gate.value < gate.high


def test_the_same_outputs_give_the_same_interval() -> None:
    generator = np.random.default_rng(3)
    source, engine = generator.normal(size=(50, 3)), generator.normal(size=(50, 3))
    assert agreement_gate("a", source, engine, 0.5) == agreement_gate("a", source, engine, 0.5)


def test_a_large_validation_set_needs_little_memory() -> None:
    values = np.zeros((50_000, 2))
    tracemalloc.start()
    agreement_gate("int8", values, values, 0.9)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


def test_a_gate_says_what_it_measured_in_one_sentence() -> None:
    gate = agreement_gate("int8", answers(*[0, 1] * 20), answers(*[0, 0] * 20), limit=0.95)
    assert gate.sentence == "int8: decision agreement is 0.5 (at least 0.95)"


# -- the calibration data themselves ----------------------------------------------------------


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


def test_data_of_one_kind_pass_whatever_their_scale() -> None:
    gate = calibration_gate(waves(300, 1) * 1000, waves(100, 2))
    assert gate.passed
    assert gate.low <= gate.value <= gate.high < 1.2


@pytest.mark.parametrize("sabotage", ["noise", "shuffled", "smoothed"])
def test_noise_shuffled_or_smoothed_data_in_place_of_calibration_miss(sabotage: str) -> None:
    random = np.random.default_rng(3)
    calibration = waves(300, 1)
    if sabotage == "noise":
        calibration = random.standard_normal(calibration.shape).astype(np.float32)
    elif sabotage == "shuffled":
        calibration = random.permuted(calibration, axis=1)
    else:
        calibration = np.cumsum(calibration, axis=1)
    gate = calibration_gate(calibration, waves(100, 2))
    assert not gate.passed
    assert "roughness against validation" in gate.sentence


def test_samples_that_never_vary_or_have_one_value_are_no_reason_to_miss() -> None:
    assert calibration_gate(np.ones((50, 10, 1)), np.ones((50, 10, 1))).passed
    assert calibration_gate(np.ones((50, 1)), np.zeros((50, 1))).passed
