"""What is held out for validation when nobody gives any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeclin.convert.calibration import split
from edgeclin.datasets import Dataset
from edgeclin.errors import BadFile


def dataset(
    count: int, labels: list[str] | None = None, groups: list[str] | None = None
) -> Dataset:
    samples = np.random.default_rng(count).standard_normal((count, 4))
    return Dataset(
        Path("data"),
        samples,
        labels=None if labels is None else tuple(labels),
        groups=None if groups is None else tuple(groups),
    )


def test_a_fifth_is_held_out_of_every_label() -> None:
    labels = ["common"] * 270 + ["rare"] * 30
    kept, held_out = split(dataset(300, labels))
    assert (len(kept), len(held_out)) == (240, 60)
    assert held_out.labels is not None
    assert 5 <= held_out.labels.count("rare") <= 7


def test_whole_groups_are_held_out_as_near_to_a_fifth_of_the_samples_as_they_allow() -> None:
    groups = [f"p{index // 30}" for index in range(150)] + ["small"] * 10
    kept, held_out = split(dataset(160, groups=groups))
    assert not set(kept.groups or ()) & set(held_out.groups or ())
    assert len(held_out) == 30, "the group of 10 would be too few"


def test_samples_that_are_equal_stay_together() -> None:
    once = np.random.default_rng(1).standard_normal((50, 4))
    kept, held_out = split(Dataset(Path("data"), np.concatenate([once, once])))
    assert not set(kept.hashes()) & set(held_out.hashes())
    assert len(held_out) == 20


def test_the_same_samples_are_held_out_each_time() -> None:
    one, other = (split(dataset(100))[1] for _ in range(2))
    assert one.hashes() == other.hashes()


def test_too_few_to_hold_any_out_is_said() -> None:
    with pytest.raises(BadFile, match="1 samples or groups are too few to hold any out"):
        split(dataset(5, groups=["p"] * 5))
