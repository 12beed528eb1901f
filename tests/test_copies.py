"""Copies among calibration samples."""

from __future__ import annotations

import numpy as np
import pytest

from edgeclin.convert.copies import near_copies


def pictures(count: int) -> np.ndarray:
    random = np.random.default_rng(count)
    return random.normal(size=(count, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2).astype("f4")


def test_different_samples_are_no_copies() -> None:
    assert near_copies(pictures(60)) == 0
    assert near_copies(np.random.default_rng(1).normal(size=(700, 140, 1))) == 0


@pytest.mark.parametrize("how", ["noise", "left", "up", "turned", "channels first"])
def test_a_copy_is_found_however_it_was_made(how: str) -> None:
    samples = pictures(20)
    copies = {
        "noise": samples + 0.01 * np.random.default_rng(2).normal(size=samples.shape),
        "left": samples[:, :, ::-1],
        "up": samples[:, ::-1],
        "turned": samples[:, ::-1, ::-1],
        "channels first": samples[:, :, ::-1],
    }[how]
    both = np.concatenate([samples, copies])
    if how == "channels first":
        both = np.moveaxis(both, -1, 1)
    assert near_copies(both) == 20


def test_copies_are_found_across_the_blocks_that_are_compared_at_once() -> None:
    signals = np.random.default_rng(1).normal(size=(600, 140, 1))
    assert near_copies(np.concatenate([signals, signals[:3]])) == 3
