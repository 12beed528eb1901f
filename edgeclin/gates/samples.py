"""Whether calibration data are of the same kind as validation data: no noise, the same units, the
same order of colours, the same labels, and such that the model itself can judge them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeclin.gates.bootstrap import RESAMPLES, SEED, Bootstrap, mean_of
from edgeclin.gates.gate import Gate
from edgeclin.gates.margins import CalibrationMargins

STAGE = "calibration"
_MOST = 500
"""Samples of each set that are looked at, spread over all of it."""
_QUANTILES = (10, 50, 90)
_CLEARLY = 1.2
"""How much nearer (squared distance) the reverse must be to count: grey pictures and noise have no
order of colours."""


def sample_gates(
    calibration: np.ndarray,
    validation: np.ndarray,
    margins: CalibrationMargins,
    weights: np.ndarray | None = None,
) -> Iterator[Gate]:
    """Judge values alone, with one sample in memory at a time.

    Args:
        calibration, validation: prepared samples, float32 [n, …].
        weights: how often each calibration sample counts, float [n]; see `label_weights`.
    """
    ours, theirs = _some(calibration), _some(validation)
    counts = np.ones(len(ours)) if weights is None else _some(weights)
    yield _ratio_gate(
        "roughness against validation (ratio)",
        _roughness(ours),
        _roughness(theirs),
        counts,
        margins.roughness,
        "neighbouring values differ otherwise: noise, or data sampled otherwise?",
    )
    yield _ratio_gate(
        "spread against validation (ratio)",
        _spread(ours),
        _spread(theirs),
        counts,
        margins.spread,
        "another unit or scale?",
    )
    axis = colour_axis(calibration.shape[1:])
    if axis is not None:
        yield _colour_gate(np.moveaxis(ours, axis, -1), np.moveaxis(theirs, axis, -1), margins)


def label_weights(calibration: Sequence[str], validation: Sequence[str]) -> np.ndarray:
    """How often each calibration sample has to count for the labels to have validation's shares,
    float [n]: findings look otherwise than normal samples, and may be rarer in one set."""
    ours, theirs = Counter(calibration), Counter(validation)
    found = np.array([theirs[label] / ours[label] for label in calibration])
    return found if found.any() else np.ones(len(calibration))


def label_gate(
    calibration: Sequence[str], validation: Sequence[str], margins: CalibrationMargins
) -> Gate:
    """Calibration has seen the labels that validation asks for."""
    missing = sorted(set(validation) - set(calibration))
    strange = np.isin(np.array(validation), missing).astype(np.float64)
    return Gate.judge(
        STAGE,
        "share of validation samples with a label that calibration lacks",
        "at most",
        float(strange.mean()),
        Bootstrap(len(strange)).interval(mean_of(strange)),
        margins.missing_labels,
        len(strange),
        hint=f"it has no sample of {', '.join(missing)}" if missing else "",
    )


def copies_gate(copied: NDArray[np.bool_], margins: CalibrationMargins) -> Gate:
    """Validation judges with samples that calibration has not seen.

    Args:
        copied: which validation samples are calibration's, but for a little noise.
    """
    share = copied.astype(np.float64)
    return Gate.judge(
        STAGE,
        "share of validation samples that calibration holds too, up to noise of 1 %",
        "at most",
        float(share.mean()),
        Bootstrap(len(share)).interval(mean_of(share)),
        margins.copies,
        len(share),
        hint="saved again or augmented? copy after the split by patient",
    )


def distinct_gate(validation: np.ndarray, least: int) -> Gate:
    """There are enough validation samples to decide anything, repeats counted once.

    Args:
        validation: prepared samples, float32 [n, …].
    """
    distinct = len({hashlib.sha256(one.tobytes()).digest() for one in validation})
    return Gate.judge(
        "validation",
        "distinct samples",
        "at least",
        float(distinct),
        (float(distinct), float(distinct)),
        float(least),
        distinct,
        least,
    )


def judged_gate(
    calibration: NDArray[np.bool_], validation: NDArray[np.bool_], margins: CalibrationMargins
) -> Gate:
    """The float model is right about calibration samples nearly as often as about validation's.

    Args:
        calibration, validation: where the float model's decision is the label's.
    """
    generator = np.random.default_rng(SEED)
    changes = [
        generator.choice(calibration, len(calibration)).mean()
        - generator.choice(validation, len(validation)).mean()
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(changes, [2.5, 97.5])
    return Gate.judge(
        STAGE,
        "the float model's accuracy on calibration minus on validation",
        "upper bound at least",
        float(calibration.mean() - validation.mean()),
        (float(low), float(high)),
        -margins.accuracy,
        len(calibration),
        hint="the model itself cannot judge these samples: other preprocessing, units or labels?",
    )


def _ratio_gate(
    name: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    counts: np.ndarray,
    limit: float,
    hint: str,
) -> Gate:
    """The larger median over the smaller, samples without the figure (NaN) left out."""
    known = ~np.isnan(ours) & (counts > 0)
    ours, shares, theirs = ours[known], counts[known], theirs[~np.isnan(theirs)]
    if not len(ours) or not len(theirs):
        return Gate.judge(STAGE, name, "at most", 1.0, (1.0, 1.0), limit, len(counts))
    shares = shares / shares.sum()
    generator = np.random.default_rng(SEED)
    ratios = [
        _apart(
            np.median(generator.choice(ours, len(ours), p=shares)),
            np.median(generator.choice(theirs, len(theirs))),
        )
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Gate.judge(
        STAGE,
        name,
        "at most",
        _apart(_median(ours, shares), np.median(theirs)),
        (float(low), float(high)),
        limit,
        len(ours),
        hint=hint,
    )


def _median(values: np.ndarray, shares: np.ndarray) -> float:
    """The middle value when each counts as its share says; of two in the middle their mean."""
    order = np.argsort(values)
    reached = np.cumsum(shares[order])
    lower, upper = np.searchsorted(reached, [0.5 - 1e-9, 0.5 + 1e-9])
    return float(values[order[[lower, min(upper, len(values) - 1)]]].mean())


def _apart(one: float, other: float) -> float:
    """The larger over the smaller."""
    return float(max(one, other) / max(min(one, other), 1e-6 * max(one, other), 1e-30))


def _some(samples: np.ndarray) -> np.ndarray:
    return samples[:: max(1, -(-len(samples) // _MOST))]


def _spread(samples: np.ndarray) -> np.ndarray:
    """Standard deviation of each sample."""
    return np.array([float(sample.std()) for sample in samples])


def _roughness(samples: np.ndarray) -> np.ndarray:
    """Mean difference of neighbours along the longest axis, in standard deviations, a sample.

    It hardly varies between recordings or pictures of one kind; noise, shuffled or otherwise
    sampled data differ. NaN where nothing varies.
    """
    found = np.full(len(samples), np.nan)
    for index, sample in enumerate(samples):
        axis = int(np.argmax(sample.shape))
        spread = float(sample.std())
        if spread and sample.shape[axis] > 1:
            found[index] = float(np.abs(np.diff(sample, axis=axis)).mean()) / spread
    return found


def colour_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of three colours in samples [n, height, width, 3] or [n, 3, height, width]."""
    if len(shape) != 3:
        return None
    if shape[2] == 3:
        return 3
    return 1 if shape[0] == 3 else None


def _colour_gate(ours: np.ndarray, theirs: np.ndarray, margins: CalibrationMargins) -> Gate:
    """Validation pictures find their like among calibration's as they are, and not among the same
    with the first and the last colour changed over.

    Means alone would not do: two microscopes differ more than red and blue. But every picture has
    its like among many of the right order.
    """
    near = _to_nearest(_colours(ours), _colours(theirs))
    reverse = _to_nearest(_colours(ours[..., ::-1]), _colours(theirs))
    as_they_are = (near <= _CLEARLY * reverse).astype(np.float64)
    return Gate.judge(
        STAGE,
        "share of validation pictures nearer to its colours than to their reverse",
        "at least",
        float(as_they_are.mean()),
        Bootstrap(len(as_they_are)).interval(mean_of(as_they_are)),
        margins.colours,
        len(as_they_are),
        hint="another white balance or stain, or red and blue changed over?",
    )


def _colours(pictures: np.ndarray) -> np.ndarray:
    """Quantiles of each colour of each picture [n, height, width, 3]."""
    return np.stack(
        [np.percentile(one.reshape(-1, 3), _QUANTILES, axis=0).ravel() for one in pictures]
    )


def _to_nearest(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Distance of each of `theirs` to the nearest of `ours`, in their standard deviations."""
    scale = theirs.std(axis=0) + 1e-6 * (np.abs(theirs).max() or 1.0)
    return np.array([np.square((ours - one) / scale).sum(axis=1).min() for one in theirs])
