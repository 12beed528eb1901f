"""A percentile is given with an interval that holds, or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from edgeclin.benchmark.percentiles import (
    LEVEL,
    WANTED,
    distribution,
    moved,
    needed,
    ranks,
)


@pytest.mark.parametrize("q", WANTED)
@pytest.mark.parametrize("n", [8, 51, 104, 528, 1000, 24_576])
def test_ranks_are_the_narrowest_that_hold_the_level(q: float, n: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="the signal extra is not installed")
    found = ranks(n, q)
    tail = (1 - LEVEL) / 2
    if found is None:
        assert min(stats.binom.cdf(0, n, q), stats.binom.sf(n - 1, n, q)) >= 0
        assert stats.binom.cdf(0, n, q) > tail or stats.binom.sf(n - 1, n, q) > tail
        return
    low, high = found
    assert stats.binom.cdf(low - 1, n, q) <= tail < stats.binom.cdf(low, n, q)
    assert stats.binom.sf(high - 1, n, q) <= tail < stats.binom.sf(high - 2, n, q)


@pytest.mark.parametrize(("q", "n"), [(0.5, 20), (0.9, 60), (0.99, 600)])
def test_intervals_hold_the_true_quantile_as_often_as_they_say(q: float, n: int) -> None:
    draw = np.random.default_rng(7)
    truth, held = -np.log(1 - q), 0
    for _ in range(2000):
        one = distribution(draw.exponential(size=n)).at(q)
        assert one.low_ms is not None
        assert one.high_ms is not None
        held += one.low_ms <= truth <= one.high_ms
    assert held / 2000 > 0.983  # 0.99 less three standard deviations


@pytest.mark.parametrize(("q", "least"), [(0.5, 8), (0.9, 51), (0.95, 104), (0.99, 528)])
def test_too_few_samples_give_no_number_but_how_many_it_takes(q: float, least: int) -> None:
    assert needed(q) == least
    one = distribution(np.arange(1.0, least)).at(q)
    assert (one.value_ms, one.low_ms, one.high_ms) == (None, None, None)
    assert one.said == f"too few samples ({least - 1}, needs {least})"
    one = distribution(np.arange(1.0, least + 1)).at(q)
    assert one.value_ms is not None
    assert one.high_ms == least  # the slowest of all


def test_a_percentile_is_the_nearest_rank() -> None:
    latency = distribution(np.random.default_rng(1).permutation(np.arange(1.0, 1001)))
    assert [latency.at(q).value_ms for q in WANTED] == [500.0, 900.0, 950.0, 990.0]
    assert (latency.min_ms, latency.mean_ms, latency.max_ms) == (1.0, 500.5, 1000.0)


def test_samples_that_were_never_answered_count_as_the_slowest() -> None:
    latency = distribution([1.0] * 500, unanswered=100)
    assert latency.n == 600
    assert latency.at(0.5).value_ms == 1.0
    assert latency.at(0.9).value_ms is None
    assert latency.at(0.9).said == "not answered"
    assert distribution([1.0] * 55, unanswered=5).at(0.9).said == "1.000 [1.000, not answered]"


def test_a_machine_that_became_slower_meanwhile_is_not_steady() -> None:
    assert moved(np.array([1.0] * 50 + [1.1] * 50))
    assert not moved(np.array([1.0, 1.1] * 50))
    assert not distribution([1.0] * 50 + [1.1] * 50).steady
