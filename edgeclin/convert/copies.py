"""Calibration samples that are copies of others: mirrored, turned or with a little noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALIKE = 0.998
"""Correlation of two reduced samples. Different cells, electrograms and beats of one patient stay
below it (three sets); copies with mirroring and noise of 1 % of the range are above 0.999."""
_NOISE = 0.01
"""Of a sample's own spread: what saving a picture again, or another type of number, changes."""
_NEARER = 0.25
"""Of the usual distance of an original to its nearest other one."""
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

    Where originals are nearly as alike among themselves, such as clean heartbeats of one patient,
    none is: a copy is much nearer than they are to each other.

    Args:
        samples, originals: prepared, float32 [n, …].
    """
    ours, theirs = (
        _directions(np.stack([_reduced(one) for one in each])) for each in (samples, originals)
    )
    nearest = [
        (ours[start : start + _AT_ONCE] @ theirs.T).argmax(axis=1)
        for start in range(0, len(ours), _AT_ONCE)
    ]
    apart = _apart(samples, originals, np.concatenate(nearest))
    some = np.linspace(0, len(originals) - 1, min(_AT_ONCE, len(originals))).astype(int)
    alike = theirs[some] @ theirs.T
    alike[np.arange(len(some)), some] = -1.0
    usual = float(np.median(_apart(originals[some], originals, alike.argmax(axis=1))))
    found: NDArray[np.bool_] = apart <= min(_NOISE, _NEARER * usual)
    return found


def _apart(samples: np.ndarray, others: np.ndarray, partners: NDArray[np.int64]) -> np.ndarray:
    """How far each sample is from its partner among the others, in that one's own spread."""
    found = []
    for sample, partner in zip(samples, partners, strict=True):
        other = others[partner]
        spread = float(np.linalg.norm(other - other.mean())) or 1.0
        found.append(float(np.linalg.norm(sample - other)) / spread)
    return np.array(found)


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
