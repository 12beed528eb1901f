"""The limits of a guard: as far as real samples went, no further."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgeclin.description import Input
from edgeclin.errors import BadInput
from edgeclin.guards.guard import measuring
from edgeclin.guards.scores import ScoreDistance
from edgeclin.guards.signals import LeadsOff
from edgeclin.manifest import MEASURES, GuardLimits, Limit, ScoreLimit

_MOST_LABELS = 32
"""Whitening is labels by labels, in the manifest."""
_LEAST_ANSWERS = 2
_USUAL = 0.99
_FOLDS = 5
_RANK = 1e-9
"""Of the largest variance: less is rounding."""
_LEAST_VARIANCE = 1e-12


def fit_inputs(
    calibration: Iterable[np.ndarray], validation: Iterable[np.ndarray], spec: Input
) -> tuple[GuardLimits | None, np.ndarray]:
    """Limits from both sets, decoded but otherwise raw, and the measures of the validation samples,
    float64 [n, measures], NaN where there is nothing to judge in one (a flat line).

    A limit is the lowest or highest value that any sample had, so that of m measures and n samples
    a further sample of the same kind lies beyond any with a probability of at most 2 m / (n + 1).
    As many leads may be flat as are in every hundredth sample. None where a set has nothing to
    judge.
    """
    found = [_measured(samples, spec) for samples in (calibration, validation)]
    flat = int(np.quantile(np.concatenate([leads for _, leads in found]), _USUAL))
    fitted, held_out = (
        rows[(leads <= flat) & np.isfinite(rows).all(axis=1)] for rows, leads in found
    )
    if not len(fitted) or not len(held_out):
        return None, found[1][0]
    beyond = (held_out < fitted.min(axis=0)) | (held_out > fitted.max(axis=0))
    both = np.concatenate([fitted, held_out])
    ends = both.min(axis=0), both.max(axis=0), beyond.mean(axis=0)
    limits = tuple(
        Limit(name, float(low), float(high), float(share))
        for name, low, high, share in zip(MEASURES[spec.kind], *ends, strict=True)
    )
    share = float(beyond.any(axis=1).mean())
    return GuardLimits(len(both), flat, limits, share), found[1][0]


def _measured(
    samples: Iterable[np.ndarray], spec: Input
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Measures of all samples, and how many leads of each are flat."""
    nothing = (float("nan"),) * len(MEASURES[spec.kind])
    strict = measuring(spec, flat_leads=0)
    rows, flat = [], []
    for sample in samples:
        leads = 0
        try:
            row = strict(sample)
        except LeadsOff as exc:
            leads = exc.count
            row = measuring(spec, leads)(sample)
        except BadInput:
            row = nothing
        rows.append(row)
        flat.append(leads)
    return np.array(rows, np.float64), np.array(flat, np.int64)


def fit_scores(logits: np.ndarray) -> ScoreLimit | None:
    """The limit of the logits' distance, float64 [n, labels] of validation samples; None where they
    are too few, or the labels too many, to say what is usual."""
    n, labels = logits.shape
    if labels > _MOST_LABELS or n < _FOLDS * labels or not _usual(logits).any():
        return None
    means, whitening = _shape(logits)
    if not len(whitening):
        return None
    distances = _distances(logits, logits)
    fold = np.arange(n) % _FOLDS
    beyond = 0
    for index in range(_FOLDS):
        known = logits[fold != index]
        limit = np.max(_distances(known, known), initial=0.0, where=_usual(known))
        beyond += int((_distances(known, logits[fold == index]) > limit).sum())
    return ScoreLimit(
        means=tuple(tuple(means[at].tolist()) if at in means else () for at in range(labels)),
        whitening=tuple(tuple(row) for row in whitening.tolist()),
        high=float(np.max(distances, initial=0.0, where=_usual(logits))),
        samples=n,
        share=beyond / n,
    )


def _distances(known: np.ndarray, logits: np.ndarray) -> NDArray[np.float64]:
    distance = ScoreDistance(*_shape(known))
    return np.array([distance(row, int(row.argmax())) for row in logits])


def _usual(logits: np.ndarray) -> NDArray[np.bool_]:
    """Which have an answer that others have too."""
    answer = logits.argmax(axis=1)
    return np.asarray(np.bincount(answer)[answer] >= _LEAST_ANSWERS)


def _shape(logits: np.ndarray) -> tuple[dict[int, NDArray[np.float64]], NDArray[np.float64]]:
    """A mean for each answer that others had too, and the whitening of what is left of all."""
    usual = _usual(logits)
    chosen = logits[usual]
    answer = chosen.argmax(axis=1)
    means = {int(label): chosen[answer == label].mean(axis=0) for label in np.unique(answer)}
    left = np.array([row - means[int(at)] for row, at in zip(chosen, answer, strict=True)])
    variance, axes = np.linalg.eigh(left.T @ left / len(left))
    kept = variance > max(float(variance.max()) * _RANK, _LEAST_VARIANCE)
    return means, (axes[:, kept] / np.sqrt(variance[kept])).T
