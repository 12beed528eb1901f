"""How sure an answer is: temperature scaling, and the threshold below which it is in doubt.

Both are fitted on the quantised engine, never carried over from the float model, whose scores
INT8 moves.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal, TypeAlias

import numpy as np

from edgeclin.errors import MissingExtra
from edgeclin.manifest import Confidence

Activation: TypeAlias = Literal["none", "softmax", "sigmoid"]
_LEAST_PROBABILITY = 1e-7
_TEMPERATURES = (0.05, 20.0)
ALWAYS_IN_DOUBT = 1.01
"""A threshold that no confidence reaches."""
_RISK = 0.05
"""Of a threshold that breaks its promise."""
_STARTS = 2
"""Sequences of tests; more of them share the risk and prove less on a few hundred samples."""


def to_logits(outputs: np.ndarray, activation: Activation) -> np.ndarray:
    """An engine's outputs [..., outputs] as logits [..., labels].

    A single output becomes two labels: 0 and its own logit, which of a sigmoid's output p is
    log(p / (1 - p)).
    """
    logits = np.asarray(outputs, dtype=np.float64)
    if activation != "none":
        bounded = np.clip(logits, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        logits = np.log(bounded)
        if activation == "sigmoid":
            logits -= np.log1p(-bounded)
    if logits.shape[-1] > 1:
        return logits
    return np.concatenate([np.zeros_like(logits), logits], axis=-1)


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax of logits [..., labels] divided by the temperature; float64, sums to one."""
    scaled = logits / temperature
    raised = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    normalised: np.ndarray = raised / raised.sum(axis=-1, keepdims=True)
    return normalised


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature of least negative log-likelihood (Guo et al. 2017, arXiv 1706.04599).

    Args:
        logits: float [n, labels] of held-out samples.
        truth: int [n], their labels by index.
    """
    minimise = scipy_part("optimize").minimize_scalar
    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        chosen = probabilities(logits, float(np.exp(log_temperature)))[rows, truth]
        return float(-np.log(np.maximum(chosen, _LEAST_PROBABILITY)).mean())

    found = minimise(loss, bounds=tuple(np.log(_TEMPERATURES)), method="bounded")
    return float(np.exp(found.x))


def error_bound(errors: int, samples: int, level: float = 0.95) -> float:
    """One-sided upper Clopper-Pearson bound on an error rate (1 when nothing was seen)."""
    if errors >= samples:
        return 1.0
    return float(scipy_part("stats").beta.ppf(level, errors + 1, samples - errors))


def fit_confidence(
    logits: np.ndarray, truth: np.ndarray, max_error: float, audit_share: float
) -> Confidence:
    """Fit temperature and threshold on held-out samples.

    Where no threshold keeps `max_error` for certain, every answer is in doubt.

    Args:
        logits: float [n, labels] of the engine that will be deployed.
        truth: int [n].
        max_error: share of wrong answers allowed among the confident ones.
        audit_share: carried into the result unchanged.
    """
    temperature = fit_temperature(logits, truth)
    scores = probabilities(logits, temperature)
    confidence = scores.max(axis=-1)
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum((scores.argmax(axis=-1) != truth)[order])
    ends = np.flatnonzero(np.diff(confidence[order], append=-1.0)) + 1
    sure = _proven(errors, ends, max_error)
    failed = int(errors[sure - 1]) if sure else 0
    return Confidence(
        temperature=temperature,
        threshold=float(confidence[order[sure - 1]]) if sure else ALWAYS_IN_DOUBT,
        max_error=max_error,
        fitted=True,
        samples=len(truth),
        coverage=sure / len(order),
        error=failed / sure if sure else 0.0,
        error_bound=error_bound(failed, sure, 1 - _RISK / _STARTS),
        audit_share=audit_share,
    )


def _proven(errors: np.ndarray, ends: np.ndarray, max_error: float) -> int:
    """How many of the most confident answers keep `max_error`; 0 where no number of them does.

    Taking the largest number whose own bound holds would be many tests for the price of one. A
    sequence of tests that stops at the first that fails costs nothing more, and several sequences
    share the risk (fixed sequences with multiple starts: Angelopoulos et al. 2021, "Learn then
    Test", arXiv 2110.01052).

    Args:
        errors: wrong answers among the first 1 … n, the most confident first.
        ends: numbers of answers that a threshold can tell from the rest (ties stay together).
    """
    level = 1 - _RISK / _STARTS
    wrong = errors[ends - 1]
    bounds = scipy_part("stats").beta.ppf(level, wrong + 1, np.maximum(ends - wrong, 1e-9))
    holds = (bounds <= max_error) & (wrong < ends)
    least = int(np.searchsorted(ends, _least_samples(max_error, level)))
    proven = 0
    for start in np.linspace(least, len(ends), _STARTS, endpoint=False).astype(int):
        failing = np.flatnonzero(~holds[start:])
        last = start + (int(failing[0]) if len(failing) else len(ends) - start) - 1
        if last >= start:
            proven = max(proven, int(ends[last]))
    return proven


def _least_samples(max_error: float, level: float) -> float:
    """With fewer answers not even one that is right throughout proves `max_error`."""
    if not 0 < max_error < 1:
        return 1.0 if max_error else float("inf")
    return float(np.log(1 - level) / np.log(1 - max_error))


def unfitted_confidence(max_error: float, audit_share: float) -> Confidence:
    """What a bundle without labelled held-out samples carries: every answer is in doubt."""
    return Confidence(
        temperature=1.0,
        threshold=ALWAYS_IN_DOUBT,
        max_error=max_error,
        fitted=False,
        audit_share=audit_share,
    )


def scipy_part(module: str) -> Any:
    """A module of SciPy, which a device that only answers does not need.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return import_module(f"scipy.{module}")
    except ImportError as exc:
        raise MissingExtra("scipy, which fits confidence,", "convert") from exc
