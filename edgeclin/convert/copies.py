"""Calibration samples that are copies of others: mirrored, turned or with a little noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALIKE = 0.998
"""Correlation of two reduced samples. Different cells, electrograms and beats of one patient stay
below it (three sets); copies with mirroring and noise of 1 % of the range are above 0.999."""
_NOISE = 0.01
"""Of a sample's own spread: what saving a picture again, or another type of number, changes."""
_SIDE = 16
_AT_ONCE = 512


def near_copies(samples: np.ndarray) -> int:
    """How many samples are nearly equal to an earlier one, as it is, mirrored or upside down.

    Args:
        samples: prepared, float32 [n, …].
    """
    reduced = np.stack([_reduced(sample) for sample in samples])
    directions = _directions(reduced)
    views = [directions]
    if reduced.ndim == 4:
        views += [
            _directions(turned)
            for turned in (reduced[:, ::-1], reduced[:, :, ::-1], reduced[:, ::-1, ::-1])
        ]
    copies = 0
    for start in range(0, len(directions), _AT_ONCE):
        rows = directions[start : start + _AT_ONCE]
        earlier = np.tri(len(rows), len(directions), start - 1, dtype=bool)
        alike = [(rows @ view.T > ALIKE) & earlier for view in views]
        copies += int(np.logical_or.reduce(alike).any(axis=1).sum())
    return copies


def copied(samples: np.ndarray, originals: np.ndarray) -> NDArray[np.bool_]:
    """Which samples are one of the originals but for noise of `_NOISE`, bool [n].

    Args:
        samples, originals: prepared, float32 [n, …].
    """
    ours, theirs = (
        _directions(np.stack([_reduced(one) for one in each])) for each in (samples, originals)
    )
    found = np.zeros(len(samples), dtype=bool)
    for start in range(0, len(ours), _AT_ONCE):
        alike = ours[start : start + _AT_ONCE] @ theirs.T
        for row, nearest in enumerate(alike.argmax(axis=1)):
            if alike[row, nearest] > ALIKE:
                found[start + row] = _nearly_equal(samples[start + row], originals[nearest])
    return found


def _nearly_equal(one: np.ndarray, other: np.ndarray) -> bool:
    return float(np.linalg.norm(one - other)) <= _NOISE * float(
        np.linalg.norm(other - other.mean())
    )


def _reduced(sample: np.ndarray) -> np.ndarray:
    """Means over blocks: [16, 16, channels] of a picture, at most [256, leads] of a signal."""
    if sample.ndim == 3 and sample.shape[0] <= 4:
        sample = np.moveaxis(sample, 0, -1)
    if sample.ndim == 3:
        rows = np.array_split(sample, min(_SIDE, len(sample)), axis=0)
        lines = np.stack([row.mean(axis=0) for row in rows])
        columns = np.array_split(lines, min(_SIDE, lines.shape[1]), axis=1)
        return np.stack([column.mean(axis=1) for column in columns], axis=1)
    blocks = np.array_split(sample, min(_SIDE * _SIDE, len(sample)), axis=0)
    return np.stack([block.mean(axis=0) for block in blocks])


def _directions(reduced: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and length 1, so that a product of two is their correlation."""
    flat = reduced.reshape(len(reduced), -1)
    centred = flat - flat.mean(axis=1, keepdims=True)
    directions: np.ndarray = centred / np.maximum(np.linalg.norm(centred, axis=1), 1e-12)[:, None]
    return directions
