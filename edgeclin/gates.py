"""What an engine must not lose on the way from its source: measured, bounded, passed or missed."""

from __future__ import annotations

import numpy as np

from edgeclin.confidence import probabilities
from edgeclin.manifest import Confidence
from edgeclin.records import Record

FLOAT_EXPORT_MAE = 1e-5
INT8_MAE = 0.05
"""Both: mean absolute error relative to the range of the source's outputs."""
AGREEMENT = 0.95
"""Least share of equal decisions; the metric's own gate is the stricter one."""
LEAST_SAMPLES = 30
"""Decisions on fewer samples prove nothing: a bootstrap of a handful of equal values has no width,
so that a single lucky sample would be its own perfect interval."""
WORST_GROUP_MARGIN = 0.1
ROUGHNESS_RATIO = 1.5
"""Calibration and validation data of one kind were seen 1.00 to 1.05 apart (three sets: ECG beats,
intracardiac electrograms, blood cells), random noise in their place 2 to 14."""
_ROUGH_SAMPLES = 200
_RESAMPLES = 1000
_SEED = 20261


class Gate(Record, frozen=True):
    """One measured comparison; `value` must not pass `limit` in the direction of `rule`.

    `low` and `high` are a 95 % interval from `_RESAMPLES` paired bootstrap resamples of the `n`
    samples. For a metric it is the bound that is judged, not the point estimate. With fewer than
    `least` samples a gate is missed, whatever it measured.
    """

    stage: str
    name: str
    rule: str
    value: float
    low: float
    high: float
    limit: float
    n: int
    passed: bool
    least: int = 1

    @property
    def sentence(self) -> str:
        measured = f"{self.stage}: {self.name} is {self.value:.4g} ({self.rule} {self.limit:g})"
        if self.n >= self.least:
            return measured
        samples = "sample" if self.n == 1 else "samples"
        return f"{measured} on {self.n} {samples}, at least {self.least} are needed"


def error_gate(stage: str, source: np.ndarray, engine: np.ndarray, limit: float) -> Gate:
    """Mean absolute output error relative to the range of the source's outputs.

    Args:
        source, engine: float [n, outputs] for the same samples.
    """
    per_sample = _relative(source, engine)
    value = float(per_sample.mean())
    low, high = _interval(per_sample)
    finite = bool(np.isfinite(source).all() and np.isfinite(engine).all())
    return Gate(
        stage=stage,
        name="output error (relative MAE)" if finite else "output error (not finite)",
        rule="at most",
        value=value if finite else float(np.finfo(np.float32).max),
        low=low if finite else 0.0,
        high=high if finite else 0.0,
        limit=limit,
        n=len(source),
        passed=finite and value <= limit,
    )


def relative_error(source: np.ndarray, engine: np.ndarray) -> float:
    """The same figure alone; infinite where a value is not finite."""
    value = float(_relative(source, engine).mean())
    return value if np.isfinite(value) else float("inf")


def _relative(source: np.ndarray, engine: np.ndarray) -> np.ndarray:
    scale = float(np.ptp(source)) or 1.0
    return np.abs(source - engine).mean(axis=1) / scale


def calibration_gate(calibration: np.ndarray, validation: np.ndarray) -> Gate:
    """Calibration data are of the same kind as validation data, and no noise.

    How far neighbouring values differ, in standard deviations of the sample, hardly varies between
    recordings or pictures of one kind; noise, shuffled or otherwise sampled data differ.

    Args:
        calibration, validation: prepared samples, float32 [n, …].
    """
    ours, theirs = _roughness(calibration), _roughness(validation)
    generator = np.random.default_rng(_SEED)
    ratios = [
        _apart(generator.choice(ours, len(ours)), generator.choice(theirs, len(theirs)))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.percentile(ratios, [2.5, 97.5])
    value = _apart(ours, theirs)
    return Gate(
        stage="calibration",
        name="roughness against validation (ratio)",
        rule="at most",
        value=value,
        low=float(low),
        high=float(high),
        limit=ROUGHNESS_RATIO,
        n=len(ours),
        passed=value <= ROUGHNESS_RATIO,
    )


def _apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    one, other = float(np.median(ours)), float(np.median(theirs))
    return max(one, other) / max(min(one, other), 1e-6)


def _roughness(samples: np.ndarray) -> np.ndarray:
    """Mean difference of neighbours along the longest axis, in standard deviations, a sample."""
    step = max(1, len(samples) // _ROUGH_SAMPLES)
    found = []
    for sample in samples[::step]:
        axis = int(np.argmax(sample.shape))
        spread = float(sample.std())
        if spread and sample.shape[axis] > 1:
            found.append(float(np.abs(np.diff(sample, axis=axis)).mean()) / spread)
    return np.array(found or [1.0])


def agreement_gate(stage: str, source: np.ndarray, engine: np.ndarray, limit: float) -> Gate:
    """Share of samples on which both choose the same label; arrays are logits [n, labels]."""
    same = (source.argmax(axis=1) == engine.argmax(axis=1)).astype(np.float64)
    low, high = _interval(same)
    value = float(same.mean())
    return Gate(
        stage=stage,
        name="decision agreement",
        rule="at least",
        value=value,
        low=low,
        high=high,
        limit=limit,
        n=len(same),
        passed=len(same) >= LEAST_SAMPLES and value >= limit,
        least=LEAST_SAMPLES,
    )


def accuracy_gate(
    stage: str, source: np.ndarray, engine: np.ndarray, truth: np.ndarray, margin: float
) -> Gate:
    """Accuracy is not inferior: the lower bound of its change is above -margin.

    Args:
        source, engine: logits [n, labels] for the same samples.
        truth: int [n].
    """
    change = (engine.argmax(axis=1) == truth).astype(np.float64) - (source.argmax(axis=1) == truth)
    low, high = _interval(change)
    return Gate(
        stage=stage,
        name="change of accuracy",
        rule="lower bound at least",
        value=float(change.mean()),
        low=low,
        high=high,
        limit=-margin,
        n=len(truth),
        passed=len(truth) >= LEAST_SAMPLES and low >= -margin,
        least=LEAST_SAMPLES,
    )


def worst_group_gate(
    stage: str,
    source: np.ndarray,
    engine: np.ndarray,
    truth: np.ndarray,
    groups: np.ndarray,
    margin: float,
) -> Gate:
    """The same change within the group where it is worst, judged by its point estimate."""
    change = (engine.argmax(axis=1) == truth).astype(np.float64) - (source.argmax(axis=1) == truth)
    means = {group: float(change[groups == group].mean()) for group in np.unique(groups)}
    worst = min(means, key=lambda group: means[group])
    members = change[groups == worst]
    low, high = _interval(members)
    return Gate(
        stage=stage,
        name=f"change of accuracy in the worst group ({worst})",
        rule="at least",
        value=means[worst],
        low=low,
        high=high,
        limit=-margin,
        n=len(members),
        passed=means[worst] >= -margin,
    )


def confident_gate(
    stage: str, logits: np.ndarray, truth: np.ndarray, confidence: Confidence
) -> Gate:
    """Share of wrong answers among the confident ones, by a threshold fitted on another engine.

    Args:
        logits: [n, labels]; truth: int [n].
    """
    scores = probabilities(logits, confidence.temperature)
    sure = scores.max(axis=1) >= confidence.threshold
    wrong = (scores.argmax(axis=1) != truth)[sure].astype(np.float64)
    value = float(wrong.mean()) if len(wrong) else 0.0
    low, high = _interval(wrong) if len(wrong) else (0.0, 0.0)
    return Gate(
        stage=stage,
        name="error of the confident answers",
        rule="at most",
        value=value,
        low=low,
        high=high,
        limit=confidence.max_error,
        n=len(wrong),
        passed=value <= confidence.max_error,
    )


def _interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean (Efron & Tibshirani 1993)."""
    generator = np.random.default_rng(_SEED)
    size = len(values)
    means = [values[generator.integers(0, size, size)].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
