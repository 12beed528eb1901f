"""csv_signals: samples that were lost or doubled show in the times, and even times are even."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeclin.datasets import read_sample
from edgeclin.errors import BadFile


def written(folder: Path, text: str) -> Path:
    path = folder / "s.csv"
    path.write_text(text)
    return path


def cells(
    kept: np.ndarray, step: Fraction, start: Fraction, decimals: int, cut: bool, short: bool
) -> list[str]:
    """Times of samples in exact decimals, rounded or cut off, with or without zeros at the end."""
    found = []
    for number in kept.tolist():
        places = (start + number * step) * 10**decimals
        written = f"{Decimal(math.floor(places) if cut else round(places)).scaleb(-decimals):f}"
        found.append(written.rstrip("0").rstrip(".") if short and "." in written else written)
    return found


@settings(deadline=None, max_examples=200)
@given(
    hz=st.sampled_from([60, 100, 125, 128, 250, 257, 360, 500, 512, 700, 1000, 1024, 2000])
    | st.fractions(20, 2000, max_denominator=50),
    unit=st.sampled_from([("time_s", 1), ("time_ms", 1000)]),
    start=st.sampled_from([Fraction(0), Fraction(12_345, 1000), Fraction(1_700_000_000)]),
    decimals=st.integers(0, 6),
    cut=st.booleans(),
    short=st.booleans(),
    count=st.integers(20, 1500),
    lost=st.integers(0, 5) | st.sampled_from([0.01, 0.02, 0.03]),
    seed=st.integers(0, 1000),
)
def test_even_times_are_read_and_a_loss_longer_than_their_last_place_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
    hz: Fraction | int,
    unit: tuple[str, int],
    start: Fraction,
    decimals: int,
    cut: bool,
    short: bool,
    count: int,
    lost: float,
    seed: int,
) -> None:
    name, in_a_second = unit
    step, lost = Fraction(in_a_second) / hz, lost if lost >= 1 else int(lost * count)
    gone = np.random.default_rng(seed).choice(np.arange(1, count), int(lost), replace=False)
    kept = np.delete(np.arange(count + len(gone)), gone)
    times = cells(kept, step, start * in_a_second, decimals, cut, short)
    last_place = Fraction(10) ** -max(len(time.partition(".")[2]) for time in times)
    path = tmp_path_factory.getbasetemp() / "even.csv"
    path.write_text(f"{name},I\n" + "".join(f"{time},1\n" for time in times))
    if not len(gone):
        assert len(read_sample(path)) == count
    elif step >= 2 * last_place:
        with pytest.raises(BadFile, match="the time goes on by"):
            read_sample(path)


@pytest.mark.parametrize("name", ["time_s", "time_ms"])
@pytest.mark.parametrize("hz", [300, 510, 512, 600, 700, 800, 900, 2000])
def test_a_sample_lost_shows_also_where_a_step_is_hardly_longer_than_the_last_place(
    tmp_path: Path, name: str, hz: int
) -> None:
    """Steps are of one or two places by rounding alone."""
    step = Fraction(1000, hz)
    for gone in ([], [200], [20], [100, 450]) if hz < 1000 else ([], [200, 201, 202]):
        kept = np.delete(np.arange(500), gone)
        times = cells(kept, step, Fraction(0), 0, True, False)
        if name == "time_s":
            times = [f"{int(time) / 1000:.3f}" for time in times]
        path = written(tmp_path, f"{name},I\n" + "".join(f"{time},1\n" for time in times))
        if not gone:
            assert len(read_sample(path)) == 500
            continue
        with pytest.raises(BadFile, match="the time goes on by"):
            read_sample(path)


@pytest.mark.parametrize(
    ("name", "form", "step", "count", "gone"),
    [
        ("time_s", "%.3f", 0.01, 142, [40, 90]),
        ("time_s", "%.3f", 0.01, 101, [50]),
        ("time_s", "%.6f", 0.001, 142, [40, 90]),
        ("time_s", "%.6f", 0.001, 3000, range(60, 3000, 60)),
        ("time_ms", "%.4f", 1, 101, [50]),
        ("time_s", "%.17g", 0.01, 3001, [1500]),
        ("time_s", "%.18e", 0.01, 3001, [1500]),
        ("t", "%d", 1, 142, [40, 90]),
        ("t", "%d", 1, 101, [50]),
        ("t", "%d", 1, 3060, range(25, 3060, 50)),
        ("time_s", "%.3f", 0.01, 142, [140]),
        ("time_s", "%.6f", 0.0001, 22, [9]),
        ("time_s", "%.3f", 0.002, 6, [2]),
    ],
)
def test_many_losses_show_as_one_does_where_a_step_is_a_power_of_ten(
    tmp_path: Path, name: str, form: str, step: float, count: int, gone: list[int]
) -> None:
    for kept in (np.arange(count), np.delete(np.arange(count), gone)):
        text = f"{name},I\n" + "".join(f"{form % at},1\n" for at in kept * step)
        path = written(tmp_path, text)
        if len(kept) == count:
            assert len(read_sample(path)) == count
            continue
        with pytest.raises(BadFile, match=r"the time goes on by .*cut recordings where they have"):
            read_sample(path)


@pytest.mark.parametrize(("hz", "unit_s"), [(512, 0.001), (700, 0.001), (1024, 0.001), (60, 0.01)])
@pytest.mark.parametrize("form", ["%.6f", "%.18e", "%r"])
def test_a_clock_may_be_coarser_than_its_times_are_written(
    tmp_path: Path, hz: int, unit_s: float, form: str
) -> None:
    whole = np.floor(np.arange(3000) / hz / unit_s) * unit_s
    for times in (whole, np.delete(whole, [700, 1500, 1501])):
        path = written(
            tmp_path, "time_s,I\n" + "".join(f"{form % at},1\n" for at in times.tolist())
        )
        if times is whole:
            assert len(read_sample(path)) == 3000
            continue
        with pytest.raises(BadFile, match="the time goes on by"):
            read_sample(path)


def test_a_clock_coarser_than_its_times_are_written_is_seen_in_few_samples_too(
    tmp_path: Path,
) -> None:
    for step in (0.5, 1.43):
        times = np.floor(np.arange(20) * step)
        path = written(tmp_path, "time,I\n" + "".join(f"{at:.0f},1\n" for at in times))
        assert len(read_sample(path)) == 20


def test_times_that_were_rounded_twice_are_even(tmp_path: Path) -> None:
    for hz in (1200, 4000):
        times = np.floor(np.arange(2000) * 1000 / hz) / 1000
        path = written(tmp_path, "time_s,I\n" + "".join(f"{at:.2f},1\n" for at in times))
        assert len(read_sample(path)) == 2000


def test_even_times_since_1970_are_even_although_float64_holds_them_less_well(
    tmp_path: Path,
) -> None:
    for hz, decimals in ((512, 3), (125, 1), (2000, 2)):
        kept = np.arange(3000)
        times = cells(kept, Fraction(1, hz), Fraction(1_700_000_000), decimals, False, False)
        path = written(tmp_path, "time_s,I\n" + "".join(f"{time},1\n" for time in times))
        assert len(read_sample(path)) == 3000
