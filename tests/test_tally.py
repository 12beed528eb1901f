"""What is kept of a layer's values tells of channels that cannot share a scale."""

from __future__ import annotations

import numpy as np
import pytest

from edgeclin.convert.tally import Extremes


def seen(*columns: np.ndarray) -> Extremes:
    extremes = Extremes((-1,))
    for row in np.stack(columns, axis=1).astype(np.float32):
        extremes.add(row[np.newaxis])
    return extremes


SCORES = np.linspace(0, 1, 50)


def test_boxes_beside_scores_mix_ranges() -> None:
    assert seen(SCORES, 640 * SCORES).mixture == pytest.approx(640)


def test_a_constant_far_from_the_rest_mixes_ranges_too() -> None:
    assert seen(SCORES, 1 - SCORES, np.full(50, -20_000.0)).mixture == pytest.approx(20_001)


def test_outputs_of_one_range_mix_nothing() -> None:
    assert seen(SCORES, 1 - SCORES).mixture == pytest.approx(1)
    assert seen(np.ones(50)).mixture == 1.0
