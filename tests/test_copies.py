"""Copies among calibration samples."""

from __future__ import annotations

import numpy as np
import pytest

from edgeclin.convert.copies import copied, near_copies


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


@pytest.mark.parametrize("kind", [pictures(40), np.random.default_rng(1).normal(size=(40, 300, 1))])
def test_a_sample_of_the_other_set_is_known_again_through_a_little_noise(kind: np.ndarray) -> None:
    noise = np.random.default_rng(5).normal(size=kind.shape)
    found = copied(
        np.concatenate([kind[:4] + 0.005 * noise[:4], kind[20:] + noise[20:]]), kind[:20]
    )
    assert found.tolist() == [True] * 4 + [False] * 20


def test_samples_of_one_shape_with_noise_of_their_own_are_not_each_other_s_copies() -> None:
    """Clean heartbeats of one patient."""
    beat = np.exp(-np.square(np.linspace(-4, 4, 200)))[:, np.newaxis]
    beats = beat + 0.01 * np.random.default_rng(6).normal(size=(60, 200, 1))
    assert not copied(beats[:30], beats[30:]).any()


def test_heartbeats_that_are_hardly_different_from_each_other_are_no_copies() -> None:
    """Noise of 0.3 % of the beat: each is within 1 % of every other."""
    beat = np.exp(-np.square(np.linspace(-4, 4, 200)))[:, np.newaxis]
    beats = beat + 0.001 * np.random.default_rng(6).normal(size=(80, 200, 1))
    assert not copied(beats[:40], beats[40:]).any()
    assert copied(beats[40:50] + 1e-5, beats[40:]).all(), "and copies of these are still known"


def test_the_same_sample_in_another_unit_is_not_called_a_copy() -> None:
    signals = np.random.default_rng(1).normal(size=(10, 140, 1))
    assert not copied(signals * 1.1, signals).any()
