"""How sure an answer is: temperature scaling, and the threshold below which it is in doubt.

Both are fitted on the quantised engine, never carried over from the float model, whose scores
INT8 moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeclin.description import Doubt, Output
from edgeclin.errors import MissingExtra
from edgeclin.manifest import Confidence, LabelThreshold

Activation: TypeAlias = Literal["none", "softmax", "sigmoid"]
_LEAST_PROBABILITY = 1e-7
_TEMPERATURES = (0.05, 20.0)
ALWAYS_IN_DOUBT = 1.01
"""A threshold that no confidence reaches."""
TIE = 1e-6
"""Confidences no further apart are one: equal INT8 outputs differ in the eighth digit by where they
lie, and from machine to machine."""
_RISK = 0.05
"""Of a threshold that breaks its promise, or of any of several."""
_STARTS = 2
"""Sequences of tests; more of them share the risk and prove less on a few hundred samples."""


def to_logits(outputs: np.ndarray, activation: Activation) -> np.ndarray:
    """An engine's outputs [..., outputs] as logits [..., labels].

    A single output becomes two labels: 0 and its own logit, which of a sigmoid's output p is
    log(p / (1 - p)).
    """
    if activation == "none":
        logits = np.asarray(outputs, np.float64)
    else:
        bounded = np.array(outputs, np.float64)
        np.maximum(bounded, _LEAST_PROBABILITY, out=bounded)
        np.minimum(bounded, 1 - _LEAST_PROBABILITY, out=bounded)
        logits = np.log(bounded)
        if activation == "sigmoid":
            logits -= np.log1p(-bounded)
    if logits.shape[-1] > 1:
        return logits
    return np.concatenate([np.zeros_like(logits), logits], axis=-1)


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax of logits [..., labels] divided by the temperature; float64, sums to one."""
    scores: np.ndarray = logits / temperature
    if scores.ndim == 1:  # a third of the time of a maximum along an axis
        scores -= scores.item(scores.argmax())
    else:
        scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= np.add.reduce(scores, axis=-1, keepdims=True)
    return scores


def finds_nothing(logits: np.ndarray, activation: Activation) -> NDArray[np.bool_]:
    """Which outputs name no one label: several share the highest score, or of sigmoids, a label
    each, none reaches a half. However the softmax of such an output looks, it is no answer.

    Args:
        logits: float [..., labels] as `to_logits` makes them.
        activation: of the outputs.
    """
    if logits.ndim == 1:  # a fifth of the time of counting along an axis
        best = logits.item(logits.argmax())
        several = np.count_nonzero(logits == best) > 1
        return np.asarray(several or (activation == "sigmoid" and best < 0))
    highest = logits.max(axis=-1, keepdims=True)
    shared = np.count_nonzero(logits == highest, axis=-1) > 1
    return np.asarray(shared | (highest[..., 0] < 0) if activation == "sigmoid" else shared)


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
    found = _proven(scores.max(axis=-1), scores.argmax(axis=-1) != truth, max_error, _RISK)
    return Confidence(
        temperature=temperature,
        threshold=found.threshold,
        max_error=max_error,
        fitted=True,
        samples=len(truth),
        coverage=found.sure / len(truth),
        error=found.error,
        error_bound=found.bound,
        audit_share=audit_share,
    )


def fit_by_label(logits: np.ndarray, truth: np.ndarray, output: Output, doubt: Doubt) -> Confidence:
    """Fit the temperature, and a threshold for each label that is answered.

    Among the confident answers with each label at most its own share is wrong, for all labels at
    once: of K labels each takes 1/K of the risk that a promise is broken (Bonferroni), so that with
    risk 0.05 and two starts every single test is at the level 1 - 0.05 / (2 K). An answer is always
    the label of the highest score, so that of two labels the upper threshold of the positive one's
    score is at least a half, and the lower at most.

    Args:
        logits: float [n, labels] of the engine that will be deployed.
        truth: int [n].
        doubt: which kind of thresholds, the errors allowed, and the share of audits.
    """
    temperature = fit_temperature(logits, truth)
    scores = probabilities(logits, temperature)
    answer, certainty = scores.argmax(axis=-1), scores.max(axis=-1)
    wrong = answer != truth
    allowed = doubt.max_errors(output)
    own: list[LabelThreshold] = []
    sure, failed = 0, 0
    for index, label in enumerate(output.labels):
        members = answer == index
        risk = _RISK / len(output.labels)
        found = _proven(certainty[members], wrong[members], allowed[index], risk)
        sure, failed = sure + found.sure, failed + found.wrong
        own.append(
            LabelThreshold(
                label=label,
                threshold=found.threshold,
                max_error=allowed[index],
                answers=int(members.sum()),
                coverage=found.sure / max(int(members.sum()), 1),
                error=found.error,
                error_bound=found.bound,
            )
        )
    return Confidence(
        temperature=temperature,
        threshold=max(entry.threshold for entry in own),
        max_error=max(allowed),
        fitted=True,
        samples=len(truth),
        coverage=sure / len(truth),
        error=failed / sure if sure else 0.0,
        error_bound=max((entry.error_bound for entry in own if entry.coverage), default=1.0),
        audit_share=doubt.audit_share,
        thresholds=doubt.thresholds,
        by_label=tuple(own),
    )


def fit(logits: np.ndarray, truth: np.ndarray, output: Output, doubt: Doubt) -> Confidence:
    """Fit the temperature and the kind of thresholds that `doubt` names."""
    if doubt.thresholds == "one":
        return fit_confidence(logits, truth, doubt.max_error, doubt.audit_share)
    return fit_by_label(logits, truth, output, doubt)


def is_sure(
    certainty: np.ndarray, answer: NDArray[np.int64], confidence: Confidence
) -> NDArray[np.bool_]:
    """Which answers, indices of labels [n] with their confidence [n], reach their threshold."""
    if not confidence.by_label:
        return np.asarray(certainty >= confidence.threshold)
    own = np.array([entry.threshold for entry in confidence.by_label])
    return np.asarray(certainty >= own[answer])


@dataclass(frozen=True, slots=True)
class _Proven:
    """The lowest threshold that keeps a share of errors, how many answers reach it, how many of
    these are wrong, and the bound on their share."""

    threshold: float = ALWAYS_IN_DOUBT
    sure: int = 0
    wrong: int = 0
    bound: float = 1.0

    @property
    def error(self) -> float:
        return self.wrong / self.sure if self.sure else 0.0


def _proven(
    certainty: np.ndarray, wrong: NDArray[np.bool_], max_error: float, risk: float
) -> _Proven:
    """Of some answers with their confidence; `risk` is that of a threshold that breaks its
    promise."""
    order = np.argsort(-certainty, kind="stable")
    errors = np.cumsum(wrong[order])
    ends = ends_of_ties(certainty[order])
    level = 1 - risk / _STARTS
    sure = _most(errors, ends, max_error, level) if len(order) else 0
    if not sure:
        return _Proven()
    failed = int(errors[sure - 1])
    return _Proven(
        threshold_at(certainty[order[sure - 1]]), sure, failed, error_bound(failed, sure, level)
    )


def ends_of_ties(certainty: np.ndarray) -> NDArray[np.int64]:
    """How many of these confidences, highest first, a threshold can tell from the rest."""
    return np.flatnonzero(np.diff(certainty, append=-1.0) < -TIE) + 1


def threshold_at(certainty: float) -> float:
    """The threshold that the lowest confidence of a tie reaches, whatever the noise, and the next
    below it does not."""
    return float(certainty) - TIE / 2


def _most(errors: np.ndarray, ends: np.ndarray, max_error: float, level: float) -> int:
    """How many of the most confident answers keep `max_error`; 0 where no number of them does.

    Taking the largest number whose own bound holds would be many tests for the price of one. A
    sequence of tests that stops at the first that fails costs nothing more, and several sequences
    share the risk (fixed sequences with multiple starts: Angelopoulos et al. 2021, "Learn then
    Test", arXiv 2110.01052).

    Args:
        errors: wrong answers among the first 1 … n, the most confident first.
        ends: numbers of answers that a threshold can tell from the rest (ties stay together).
        level: of each test.
    """
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
