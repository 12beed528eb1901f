from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from edgeclin.confidence import (
    ALWAYS_IN_DOUBT,
    Activation,
    error_bound,
    finds_nothing,
    fit,
    fit_confidence,
    fit_temperature,
    is_sure,
    probabilities,
    to_logits,
    unfitted_confidence,
)
from edgeclin.description import Doubt, Output
from edgeclin.errors import MissingExtra
from edgeclin.manifest import Confidence


def held_out(n: int, labels: int, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax at `temperature` is the true distribution of the labels drawn."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (n, labels))
    scores = special.softmax(logits / temperature, axis=-1)
    truth = (generator.random((n, 1)) > scores.cumsum(axis=-1)).sum(axis=-1)
    return logits, np.minimum(truth, labels - 1)


def negative_log_likelihood(logits: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    """An independent one: scipy's log-softmax."""
    log_scores = special.log_softmax(logits / temperature, axis=-1)
    return float(-log_scores[np.arange(len(truth)), truth].mean())


# -- empty answers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "activation", "nothing"),
    [
        ((0.2, 0.2, 0.2), "softmax", True),
        ((0.4, 0.4, 0.2), "softmax", True),
        ((0.4, 0.3, 0.3), "softmax", False),
        ((-3.0, -1.0, -2.0), "none", False),
        ((2.0, 2.0, -9.0), "none", True),
        ((0.3, 0.01, 0.02), "sigmoid", True),
        ((0.6, 0.01, 0.02), "sigmoid", False),
        ((1.0, 1.0, 0.0), "sigmoid", True),
        ((0.0, 0.0, 0.0), "sigmoid", True),
        ((0.1,), "sigmoid", False),
        ((0.5,), "sigmoid", True),
        ((0.0,), "none", True),
        ((-0.1,), "none", False),
    ],
)
def test_an_output_that_names_no_one_label_finds_nothing(
    outputs: tuple[float, ...], activation: Activation, nothing: bool
) -> None:
    logits = to_logits(np.array(outputs, np.float32), activation)
    assert bool(finds_nothing(logits, activation)) is nothing
    assert finds_nothing(np.stack([logits, logits]), activation).tolist() == [nothing] * 2


# -- logits and probabilities -------------------------------------------------------------------


def test_logits_pass_unchanged() -> None:
    outputs = np.array([[1.0, -2.0, 0.5]], dtype=np.float32)
    np.testing.assert_array_equal(to_logits(outputs, "none"), outputs)


def test_probabilities_survive_the_way_through_logits() -> None:
    scores = np.array([[0.7, 0.2, 0.1], [0.01, 0.01, 0.98]])
    np.testing.assert_allclose(probabilities(to_logits(scores, "softmax")), scores, atol=1e-12)


@pytest.mark.parametrize(
    ("output", "activation", "positive"),
    [(0.8, "sigmoid", 0.8), (0.5, "sigmoid", 0.5), (np.log(4), "none", 0.8)],
)
def test_one_output_becomes_two_labels(output: float, activation: str, positive: float) -> None:
    logits = to_logits(np.array([[output]]), activation)  # type: ignore[arg-type]
    np.testing.assert_allclose(probabilities(logits), [[1 - positive, positive]], atol=1e-12)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_certainty_of_zero_and_one_stays_finite(activation: str) -> None:
    outputs = np.array([[0.0, 1.0]] if activation == "softmax" else [[0.0], [1.0]])
    logits = to_logits(outputs, activation)  # type: ignore[arg-type]
    assert np.isfinite(logits).all()
    assert np.isfinite(probabilities(logits, 0.05)).all()


@given(
    st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=8),
    st.floats(0.05, 20.0),
)
def test_probabilities_are_the_softmax_at_the_temperature(
    row: list[float], temperature: float
) -> None:
    scores = probabilities(np.array(row), temperature)
    expected = special.softmax(np.array(row) / temperature)
    np.testing.assert_allclose(scores, expected, atol=1e-12)
    assert abs(scores.sum() - 1) < 1e-12
    assert scores[np.array(row).argmax()] == scores.max()


# -- temperature --------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    logits, truth = held_out(20_000, 4, temperature, seed=1)
    assert fit_temperature(logits, truth) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_is_the_best_of_a_fine_grid(seed: int) -> None:
    logits, truth = held_out(300, 3, 1.7, seed)
    grid = np.exp(np.linspace(np.log(0.1), np.log(10), 2000))
    losses = [negative_log_likelihood(logits, truth, temperature) for temperature in grid]
    best = grid[int(np.argmin(losses))]
    found = fit_temperature(logits, truth)
    assert found == pytest.approx(best, rel=0.01)
    assert negative_log_likelihood(logits, truth, found) <= min(losses) + 1e-6


def test_a_model_that_is_always_right_is_not_cooled_without_bound() -> None:
    logits = np.eye(3)[[0, 1, 2] * 10] * 5
    assert 0.05 <= fit_temperature(logits, np.array([0, 1, 2] * 10)) <= 20


# -- the bound ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("errors", "samples", "bound"),
    [
        # No errors: 1 - 0.05 ** (1 / n), the "rule of three".
        (0, 1, 0.95),
        (0, 10, 0.258866),
        (0, 59, 0.049508),
        (0, 100, 0.029513),
        # Solved from the binomial distribution.
        (1, 10, 0.394163),
        (2, 20, 0.282619),
        (5, 100, 0.102253),
    ],
)
def test_the_bound_is_the_known_one(errors: int, samples: int, bound: float) -> None:
    assert error_bound(errors, samples) == pytest.approx(bound, abs=5e-6)


@given(st.integers(0, 60), st.integers(1, 60), st.sampled_from([0.8, 0.95, 0.99]))
def test_at_the_bound_so_few_errors_are_just_as_unlikely_as_promised(
    errors: int, right: int, level: float
) -> None:
    """The definition: P(at most `errors` of `samples` | rate = bound) = 1 - level."""
    samples = errors + right
    bound = error_bound(errors, samples, level)
    assert stats.binom.cdf(errors, samples, bound) == pytest.approx(1 - level, abs=1e-9)
    assert bound > errors / samples


def test_the_bound_is_one_when_nothing_or_only_errors_were_seen() -> None:
    assert error_bound(0, 0) == 1.0
    assert error_bound(7, 7) == 1.0


# -- the threshold ------------------------------------------------------------------------------


def judge(
    logits: np.ndarray, truth: np.ndarray, fitted: Confidence
) -> tuple[np.ndarray, np.ndarray]:
    """Which samples reach the threshold, and which of all are wrong."""
    scores = probabilities(logits, fitted.temperature)
    return scores.max(axis=-1) >= fitted.threshold, scores.argmax(axis=-1) != truth


@st.composite
def judged_samples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Logits of two or three labels, many of them equal, and labels that mostly agree."""
    labels = draw(st.integers(2, 3))
    levels = draw(st.lists(st.floats(0.1, 6.0), min_size=1, max_size=4))
    n = draw(st.integers(1, 150))
    seed, agreement = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.5, 0.9, 0.99, 1.0]))
    generator = np.random.default_rng(seed)
    said = generator.integers(0, labels, n)
    logits = np.zeros((n, labels))
    logits[np.arange(n), said] = generator.choice(levels, n)
    other = (said + 1) % labels
    return logits, np.where(generator.random(n) < agreement, said, other)


@settings(max_examples=60, deadline=None)
@given(judged_samples(), st.sampled_from([0.02, 0.05, 0.2, 0.5]))
def test_those_who_reach_the_threshold_err_within_the_bound(
    samples: tuple[np.ndarray, np.ndarray], max_error: float
) -> None:
    logits, truth = samples
    fitted = fit_confidence(logits, truth, max_error, audit_share=0.02)
    sure, wrong = judge(logits, truth, fitted)
    errors = int(wrong[sure].sum())
    assert fitted.samples == len(truth)
    assert fitted.coverage == pytest.approx(sure.mean())
    if not sure.any():
        assert fitted.threshold == ALWAYS_IN_DOUBT
        assert (fitted.error, fitted.error_bound) == (0.0, 1.0)
        return
    assert fitted.error == pytest.approx(errors / sure.sum())
    assert fitted.error_bound == pytest.approx(error_bound(errors, int(sure.sum()), 0.975))
    assert fitted.error_bound <= max_error


@pytest.mark.parametrize("n", [150, 400])
def test_a_threshold_is_promised_against_the_truth_in_one_of_twenty_data_sets_at_most(
    n: int,
) -> None:
    """Confidence that says nothing: at every threshold a little more is wrong than allowed."""
    generator = np.random.default_rng(n)
    promised = 0
    for _ in range(400):
        logits = np.stack([generator.uniform(1, 5, n), np.zeros(n)], axis=1)
        truth = (generator.random(n) < 0.0501).astype(int)
        promised += fit_confidence(logits, truth, 0.05, 0.0).threshold < ALWAYS_IN_DOUBT
    assert promised / 400 <= 0.05


def flat_world(
    generator: np.random.Generator, errors: list[float], each: int
) -> tuple[np.ndarray, np.ndarray]:
    """Confidence that says nothing: of the answers with each label a share is wrong."""
    answer = np.repeat(np.arange(len(errors)), each)
    logits = np.zeros((len(answer), len(errors)))
    logits[np.arange(len(answer)), answer] = generator.uniform(1, 5, len(answer))
    wrong = generator.random(len(answer)) < np.array(errors)[answer]
    return logits, np.where(wrong, (answer + 1) % len(errors), answer)


@pytest.mark.parametrize(
    ("doubt", "errors", "each"),
    [
        (Doubt(max_error=0.05, thresholds="per-class"), [0.0501] * 4, 300),
        (
            Doubt(thresholds="dual", max_error_positive=0.1, max_error_negative=0.03),
            [0.0301, 0.1001],
            400,
        ),
    ],
    ids=["per-class", "dual"],
)
def test_thresholds_of_labels_all_keep_their_promise_in_nineteen_of_twenty_data_sets(
    doubt: Doubt, errors: list[float], each: int
) -> None:
    """Any threshold that is given here breaks its promise; one of several is enough to count."""
    generator = np.random.default_rng(each)
    output = Output(activation="none", labels=("a", "b", "c", "d")[: len(errors)])
    broken = 0
    runs = 1000
    for _ in range(runs):
        fitted = fit(*flat_world(generator, errors, each), output, doubt)
        broken += any(own.coverage > 0 for own in fitted.by_label)
    assert broken <= stats.binom.ppf(0.99, runs, 0.05)


def test_each_label_gets_the_threshold_that_its_own_answers_need() -> None:
    """An answer `a` is right throughout, of `b` only the confident half."""
    generator = np.random.default_rng(5)
    logits, truth = flat_world(generator, [0.0, 0.0], 600)
    unsure = (logits[:, 1] > 0) & (logits[:, 1] < 3)
    truth[unsure & (generator.random(len(truth)) < 0.4)] = 0
    output = Output(activation="none", labels=("a", "b"))
    fitted = fit(logits, truth, output, Doubt(max_error=0.05, thresholds="per-class"))
    one, other = fitted.by_label
    assert one.coverage == 1.0
    assert 0.3 < other.coverage < 0.7
    assert max(one.error_bound, other.error_bound) <= 0.05
    assert fitted.threshold == other.threshold
    scores = probabilities(logits, fitted.temperature)
    sure = is_sure(scores.max(axis=1), scores.argmax(axis=1), fitted)
    assert fitted.coverage == pytest.approx(sure.mean())
    assert fitted.error == pytest.approx((scores.argmax(axis=1) != truth)[sure].mean())
    assert (one.answers, other.answers) == (600, 600)


def test_dual_thresholds_hold_each_side_to_its_own_share_of_errors() -> None:
    logits, truth = flat_world(np.random.default_rng(6), [0.0, 0.03], 1000)
    output = Output(activation="none", labels=("well", "ill"), positive=("ill",))
    strict = Doubt(thresholds="dual", max_error_positive=0.02, max_error_negative=0.05)
    negative, positive = fit(logits, truth, output, strict).by_label
    assert (negative.max_error, positive.max_error) == (0.05, 0.02)
    assert negative.coverage == 1.0
    assert positive.threshold == ALWAYS_IN_DOUBT
    turned = Output(activation="none", labels=("well", "ill"), positive=("well",))
    positive, negative = fit(logits, truth, turned, strict).by_label
    assert (negative.max_error, positive.max_error) == (0.05, 0.02)
    assert positive.coverage == 1.0


@pytest.mark.parametrize(
    "doubt",
    [
        Doubt(max_error=0.03, audit_share=0.1),
        Doubt(max_error=0.03, thresholds="per-class"),
        Doubt(0.1, thresholds="dual", max_error_positive=0.1, max_error_negative=0.02),
        Doubt(0.1, thresholds="dual", max_error_positive=0.04, max_error_negative=0.1),
    ],
)
@pytest.mark.parametrize("positive", ["a", "b"])
def test_what_was_asked_for_can_be_asked_for_again(doubt: Doubt, positive: str) -> None:
    output = Output(activation="none", labels=("a", "b"), positive=(positive,))
    logits, truth = flat_world(np.random.default_rng(7), [0.0, 0.0], 50)
    assert fit(logits, truth, output, doubt).doubt(output) == doubt


def test_a_label_that_nobody_was_answered_with_is_in_doubt() -> None:
    output = Output(activation="none", labels=("a", "b", "c"))
    logits = np.array([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0]] * 200)
    fitted = fit(logits, logits.argmax(axis=1), output, Doubt(thresholds="per-class"))
    assert [own.coverage for own in fitted.by_label] == [1.0, 1.0, 0.0]
    assert [own.threshold == ALWAYS_IN_DOUBT for own in fitted.by_label] == [False, False, True]


def test_an_error_at_the_top_does_not_put_all_others_in_doubt() -> None:
    """One sequence of tests from the top would end there."""
    logits = np.stack([np.linspace(6, 1, 600), np.zeros(600)], axis=1)
    truth = np.zeros(600, int)
    truth[[3, 30]] = 1
    fitted = fit_confidence(logits, truth, max_error=0.05, audit_share=0.0)
    assert fitted.coverage == 1.0


def test_samples_of_equal_confidence_are_taken_or_left_together() -> None:
    # 80 right at the top, then 40 equal ones of which the first 20 are right and the rest wrong.
    logits = np.array([[5.0, 0.0]] * 80 + [[1.0, 0.0]] * 40)
    truth = np.array([0] * 100 + [1] * 20)
    fitted = fit_confidence(logits, truth, max_error=0.05, audit_share=0.0)
    assert fitted.coverage == pytest.approx(80 / 120)
    assert fitted.error == 0.0


@pytest.mark.parametrize(
    "doubt",
    [Doubt(0.05), Doubt(0.05, thresholds="per-class"), Doubt(0.05, thresholds="dual")],
    ids=["one", "per-class", "dual"],
)
def test_answers_that_noise_alone_tells_apart_get_one_state(doubt: Doubt) -> None:
    """INT8 outputs one step apart: equal confidence but for the last digits, by where they lie."""
    generator = np.random.default_rng(11)
    margin = np.repeat(np.linspace(2, 0.2, 12), 100)
    at = generator.integers(-60, 60, len(margin)).astype(np.float32) * np.float32(0.0838)
    logits = np.stack([at + margin.astype(np.float32), at], axis=1).astype(float)
    logits[::2] = logits[::2, ::-1]
    answer = logits.argmax(axis=1)
    wrong = generator.random(len(margin)) < np.repeat([0, 0, 0, 0.01, 0.01, 0.4], 200)
    output = Output(activation="none", labels=("a", "b"), positive=("a",))
    fitted = fit(logits, np.where(wrong, 1 - answer, answer), output, doubt)
    certainty = probabilities(logits, fitted.temperature).max(axis=1)
    assert len(set(certainty.tolist())) > 50
    assert 0.1 < fitted.coverage < 0.9
    for noise in (0.0, 4e-7, -4e-7):
        sure = is_sure(certainty + noise, answer, fitted)
        assert sure.mean() == pytest.approx(fitted.coverage)
        for side in (0, 1):
            for level in np.split(sure, 12):
                assert len(set(level[side::2].tolist())) == 1


def test_where_no_threshold_is_safe_every_answer_is_in_doubt() -> None:
    logits = np.array([[2.0, 0.0]] * 40)
    fitted = fit_confidence(logits, np.array([0, 1] * 20), max_error=0.05, audit_share=0.1)
    assert fitted.threshold == ALWAYS_IN_DOUBT
    assert fitted.coverage == 0.0
    assert fitted.fitted
    assert fitted.audit_share == 0.1


def test_a_few_right_answers_are_not_enough_to_be_sure() -> None:
    """71 of 71 right still allow an error rate above 5 % (at 97.5 %); 72 of 72 do not."""
    for n, sure in ((71, False), (72, True)):
        fitted = fit_confidence(np.array([[4.0, 0.0]] * n), np.zeros(n, int), 0.05, 0.0)
        assert (fitted.coverage == 1.0) is sure


def test_unfitted_confidence_is_never_sure() -> None:
    unfitted = unfitted_confidence(0.05, 0.02)
    assert unfitted.threshold > 1
    assert not unfitted.fitted
    assert (unfitted.temperature, unfitted.audit_share) == (1.0, 0.02)


def test_without_scipy_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgeclin\[convert\]'"):
        error_bound(1, 10)
