"""Figures of merit against independent ways to compute them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgeclin.description import Metric, Output, Task
from edgeclin.gates import Answers, metrics
from edgeclin.gates.bootstrap import Bootstrap, everyone

SCORES = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=40)


@given(SCORES)
def test_auc_is_the_mann_whitney_statistic(drawn: list[tuple[int, bool]]) -> None:
    scores, found = np.array([score for score, _ in drawn]), np.array([one for _, one in drawn])
    value = metrics.auc(scores, found)(everyone(len(scores)))
    if found.all() or not found.any():
        assert np.isnan(value)
        return
    wins = stats.mannwhitneyu(scores[found], scores[~found]).statistic
    assert value == pytest.approx(wins / (found.sum() * (~found).sum()))


@given(SCORES, st.sampled_from([0.5, 0.8, 0.9, 1.0]))
def test_sensitivity_is_the_best_of_all_thresholds_that_spare_enough_negatives(
    drawn: list[tuple[int, bool]], specificity: float
) -> None:
    scores, found = np.array([score for score, _ in drawn]), np.array([one for _, one in drawn])
    value = metrics.sensitivity(scores, found, specificity)(everyone(len(scores)))
    if found.all() or not found.any():
        assert np.isnan(value)
        return
    wanted = max(
        float((scores[found] > threshold).mean())
        for threshold in np.unique(scores)
        if (scores[~found] <= threshold).mean() >= specificity
    )
    assert value == pytest.approx(wanted)


@given(SCORES)
def test_a_weight_of_two_is_the_sample_twice(drawn: list[tuple[int, bool]]) -> None:
    scores, found = np.array([score for score, _ in drawn]), np.array([one for _, one in drawn])
    weights = 1.0 + np.arange(len(scores)) % 2
    twice = np.repeat(np.arange(len(scores)), weights.astype(int))
    for figure in (metrics.auc, lambda s, f: metrics.sensitivity(s, f, 0.8)):
        weighted = figure(scores, found)(weights)
        repeated = figure(scores[twice], found[twice])(everyone(len(twice)))
        assert weighted == pytest.approx(repeated, nan_ok=True)


def test_dice_pools_the_pixels_of_all_pictures() -> None:
    chosen = np.array([[1, 1, 0, 0], [0, 0, 0, 0]])
    truth = np.array([[1, 0, 0, 0], [1, 0, 0, 0]])
    value = metrics.dice(chosen, truth, np.array([1]))
    assert value(everyone(2)) == pytest.approx(2 * 1 / (2 + 2))
    assert value(np.array([2.0, 0.0])) == pytest.approx(2 / 3)
    assert np.isnan(metrics.dice(truth * 0, truth * 0, np.array([1]))(everyone(2)))


def test_dice_counts_a_wrong_finding_as_none() -> None:
    value = metrics.dice(np.array([[1, 2]]), np.array([[2, 2]]), np.array([1, 2]))
    assert value(everyone(1)) == pytest.approx(2 * 1 / 4)


def test_the_calibration_error_is_the_gap_between_confidence_and_right_answers() -> None:
    confidence = np.array([0.9] * 10 + [0.6] * 10)
    right = np.array([True] * 9 + [False] + [True] * 3 + [False] * 7)
    value = metrics.calibration_error(confidence, right)(everyone(20))
    assert value == pytest.approx(0.5 * abs(0.9 - 0.9) + 0.5 * abs(0.6 - 0.3))


def test_a_finding_is_any_of_the_positive_labels() -> None:
    output = Output(activation="none", labels=("normal", "PVC", "VT"), positive=("PVC", "VT"))
    logits = np.log([[0.4, 0.3, 0.3], [0.8, 0.1, 0.1]])
    answers = Answers.of(logits, Task.CLASSIFICATION, output)
    odds = answers.finding(metrics.positives(output))[:, 0]
    assert odds == pytest.approx(np.log([0.6 / 0.4, 0.2 / 0.8]))
    found = np.array([[1], [0]])
    value = metrics.statistic(Metric(name="auc"), output, answers, found)
    assert value(everyone(2)) == 1.0


def test_resamples_without_a_positive_do_not_count() -> None:
    found = np.array([True] + [False] * 9)
    low, high = Bootstrap(10).interval(metrics.auc(np.arange(10.0), found))
    assert 0 <= low <= high <= 1
    assert np.isnan(Bootstrap(3).interval(metrics.auc(np.arange(3.0), np.zeros(3, bool)))).all()
