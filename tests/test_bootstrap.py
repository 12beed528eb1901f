"""Intervals are as wide as what is not known: of patients, of windows, of few samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from edgeclin.gates.bootstrap import Bootstrap, mean_of, paired_interval, wider


def width(interval: tuple[float, float]) -> float:
    return interval[1] - interval[0]


def test_what_windows_of_a_recording_share_is_no_more_certain_for_their_number() -> None:
    """20 recordings of 50 windows, each wholly right or wrong: 20 facts and not 1,000."""
    values = np.repeat(np.array([0.0] * 4 + [1.0] * 16), 50)
    recordings = tuple(f"r{index // 50}" for index in range(1000))
    alone = Bootstrap(1000).interval(mean_of(values))
    together = Bootstrap(1000, recordings).interval(mean_of(values))
    twenty = Bootstrap(20).interval(mean_of(values[::50]))
    assert width(together) > 5 * width(alone)
    assert together == pytest.approx(twenty, abs=0.06)


def test_where_windows_have_nothing_in_common_the_interval_hardly_changes() -> None:
    values = np.random.default_rng(4).normal(size=2000)
    groups = tuple(str(index % 100) for index in range(2000))
    alone = Bootstrap(2000).interval(mean_of(values))
    together = Bootstrap(2000, groups).interval(mean_of(values))
    assert width(alone) <= width(together) < 1.3 * width(alone)


def test_a_single_cluster_falls_back_to_its_samples() -> None:
    values = np.arange(50.0)
    one = Bootstrap(50, ("p",) * 50).interval(mean_of(values))
    assert one == Bootstrap(50).interval(mean_of(values))


def test_resamples_on_which_a_figure_is_not_defined_do_not_count() -> None:
    def rare(weights: np.ndarray) -> float:
        return 1.0 if weights[0] else float("nan")

    assert Bootstrap(30).interval(rare) == (1.0, 1.0)
    assert np.isnan(Bootstrap(3).interval(lambda _: float("nan"))).all()


@pytest.mark.parametrize(("n", "could_lose"), [(30, 0.087), (136, 0.0201), (137, 0.0199)])
def test_nothing_lost_on_few_samples_rules_little_out(n: int, could_lose: float) -> None:
    same = np.ones(n, bool)
    low, high = paired_interval(same, same)
    assert low == pytest.approx(-could_lose, abs=5e-4)
    assert high == -low


def test_the_interval_of_a_paired_change_covers_the_truth_as_often_as_it_says() -> None:
    """A true change of -2 % (3 % lost, 1 % won) on 400 samples."""
    generator = np.random.default_rng(11)
    covered = 0
    for _ in range(1000):
        kind = generator.choice(3, 400, p=[0.03, 0.01, 0.96])
        before, after = kind != 1, kind != 0
        low, high = paired_interval(before, after)
        covered += low <= -0.02 <= high
    assert stats.binomtest(covered, 1000, 0.95).pvalue > 1e-3


def test_the_wider_of_intervals_has_their_outermost_bounds() -> None:
    assert wider((0.1, 0.4), (0.2, 0.7), (0.15, 0.3)) == (0.1, 0.7)
