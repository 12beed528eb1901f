"""Ranges: exact extremes whatever comes in which order, and methods that do what they are for."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeclin.convert.ranges import (
    BINS,
    Histogram,
    Method,
    Statistics,
    read_ranges,
    write_ranges,
)
from edgeclin.errors import ConversionFailed

floats = st.floats(-1e6, 1e6, width=32)
samples = st.lists(
    arrays.arrays(np.float32, st.integers(1, 50), elements=floats), min_size=1, max_size=8
)
every_method = pytest.mark.parametrize("method", list(Method))


def seen(values: list[np.ndarray]) -> Histogram:
    histogram = Histogram()
    for number, sample in enumerate(values):
        histogram.add(sample, number)
    return histogram


def quantised(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """To 8 bits and back."""
    step = (high - low) / 255
    return np.clip(np.rint((values - low) / step), 0, 255) * step + low


@settings(deadline=None)
@given(values=samples)
def test_extremes_are_exact_and_every_value_is_counted(values: list[np.ndarray]) -> None:
    histogram, together = seen(values), np.concatenate(values)
    assert (histogram.low, histogram.high) == (together.min(), together.max())
    assert histogram.counts.sum() == len(together)
    left, right = histogram.edges
    assert left <= together.min() <= together.max() <= right
    expected = (min(together.min(), 0.0), max(together.max(), 0.0))
    assert histogram.range(Method.MIN_MAX) == expected


@settings(deadline=None)
@given(values=samples, method=st.sampled_from(Method))
def test_a_range_holds_zero_and_is_never_wider_than_what_was_seen(
    values: list[np.ndarray], method: Method
) -> None:
    histogram = seen(values)
    (low, high), (least, most) = histogram.range(method), histogram.range(Method.MIN_MAX)
    assert least <= low <= 0 <= high <= most
    assert (low < high) == (least < most)


def test_percentile_leaves_out_one_value_in_ten_thousand() -> None:
    values = np.random.default_rng(1).standard_normal((40, 16_000)).astype(np.float32)
    low, high = seen(list(values)).range(Method.PERCENTILE)
    expected = np.percentile(values, [0.005, 99.995])
    np.testing.assert_allclose([low, high], expected, atol=0.05)


@pytest.mark.parametrize("method", [Method.PERCENTILE, Method.MSE, Method.ENTROPY])
def test_an_outlier_costs_min_max_more_than_the_other_methods(method: Method) -> None:
    """What more calibration samples can do to min-max: one freak value takes all the steps."""
    values = np.random.default_rng(2).standard_normal(16_000).astype(np.float32)
    histogram = seen([values, np.array([400.0], np.float32)])
    error = {
        each: np.abs(quantised(values, *histogram.range(each)) - values).mean()
        for each in (Method.MIN_MAX, method)
    }
    assert error[method] < error[Method.MIN_MAX]


def test_mse_keeps_the_whole_range_of_values_that_fill_it() -> None:
    values = np.random.default_rng(3).uniform(-1, 1, (10, 16_000)).astype(np.float32)
    low, high = seen(list(values)).range(Method.MSE)
    assert low == pytest.approx(-1, abs=0.02)
    assert high == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_chooses_for_the_steps_that_the_engine_has(symmetric: bool) -> None:
    """Symmetric integers give a ReLU half as many, which are spent on a narrower range."""
    generator = np.random.default_rng(5)
    values = np.maximum(generator.laplace(size=(50, 16_000)), 0).astype(np.float32)
    histogram = seen(list(values))

    def error(high: float) -> float:
        steps = 127 if symmetric else 255
        kept = np.minimum(np.rint(values * (steps / high)), steps) * (high / steps)
        return float(((kept - values) ** 2).mean())

    least = min(error(histogram.high * part) for part in np.linspace(0.3, 1, 71))
    assert error(histogram.range(Method.MSE, symmetric)[1]) < 1.02 * least
    assert error(histogram.range(Method.MSE, not symmetric)[1]) > 1.05 * least


@pytest.mark.parametrize("channels", [3, 64, 96])
def test_every_channel_is_counted_whatever_the_size(channels: int) -> None:
    """Channels stand last in TFLite, and a stride can meet the same ones in every sample."""
    histogram = Histogram()
    for number in range(20):
        values = np.zeros((1, 128, 128, channels), np.float32)
        values[..., channels // 2 + 1] = 1
        histogram.add(values, number)
    share = histogram.counts[BINS // 2 :].sum() / histogram.counts.sum()
    assert share == pytest.approx(1 / channels, rel=0.05)


@every_method
def test_a_tensor_that_never_varies_has_a_range(method: Method) -> None:
    assert seen([np.full(10, 3.0, np.float32)]).range(method)[1] == pytest.approx(3.0)
    assert seen([np.zeros(10, np.float32)]).range(method) == (0.0, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_sample_and_tensor(value: float) -> None:
    statistics = Statistics()
    statistics.add([("conv", np.ones(3, np.float32))])
    with pytest.raises(ConversionFailed, match=r"sample 1: tensor conv .* not finite"):
        statistics.add([("conv", np.array([1, value], np.float32))])


def test_memory_does_not_grow_with_the_samples() -> None:
    generator = np.random.default_rng(4)
    statistics = Statistics()

    def take(count: int) -> int:
        tracemalloc.start()
        for _ in range(count):
            statistics.add([("a", generator.standard_normal(10_000).astype(np.float32))])
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return held

    take(10)
    assert take(300) < 4 * BINS * 8


def test_halves_that_saw_other_ranges_are_unstable() -> None:
    def instability(odd: float) -> float:
        statistics = Statistics()
        for number in range(20):
            top = odd if number % 2 else 1.0
            statistics.add([("a", np.array([0.0, top], np.float32))])
        return statistics.instability()

    assert instability(1.0) == 0
    assert instability(4.0) == pytest.approx(0.75)


def test_a_single_sample_is_not_taken_as_stable() -> None:
    statistics = Statistics()
    statistics.add([("a", np.arange(10, dtype=np.float32))])
    assert statistics.instability() == 1


@settings(deadline=None)
@given(values=samples)
def test_statistics_and_ranges_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, values: list[np.ndarray]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    statistics = Statistics()
    for sample in values:
        statistics.add([("a", sample), ("b/ü:0", sample * 2)])
    statistics.save(folder / "statistics.npz")
    loaded = Statistics.load(folder / "statistics.npz")
    assert loaded.samples == len(values)
    assert loaded.instability() == statistics.instability()
    for method in Method:
        ranges = statistics.ranges(method)
        assert loaded.ranges(method) == ranges
        write_ranges(Path(folder / "ranges.npz"), ranges)
        assert read_ranges(folder / "ranges.npz") == ranges
