"""One measured comparison, the rule that judges it, and the interval around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Literal, TypeAlias

import numpy as np

from edgeclin.records import Record

Statistic: TypeAlias = Callable[[np.ndarray], float]
"""A figure of n samples, of which each counts as often as its weight says, float [n]."""
Rule: TypeAlias = Literal[
    "at most", "at least", "lower bound at least", "upper bound at least", "lower bound above"
]
_RESAMPLES = 1000
_SEED = 20261


class Gate(Record, frozen=True):
    """One measured comparison; `value` or its bound must not pass `limit` as `rule` says.

    `low` and `high` are a 95 % percentile bootstrap interval (Efron & Tibshirani 1993) from
    `_RESAMPLES` paired resamples of the `n` samples. With fewer than `least` samples a gate is
    missed, whatever it measured. `hint` says what a miss usually comes from.
    """

    stage: str
    name: str
    rule: Rule
    value: float
    low: float
    high: float
    limit: float
    n: int
    passed: bool
    least: int = 1
    hint: str = ""

    @classmethod
    def judge(
        cls,
        stage: str,
        name: str,
        rule: Rule,
        value: float,
        interval: tuple[float, float],
        limit: float,
        n: int,
        least: int = 1,
        hint: str = "",
    ) -> Gate:
        """A gate that is passed when its rule holds; a figure that is not finite misses it."""
        low, high = interval
        finite = bool(np.isfinite([value, low, high]).all())
        held = {
            "at most": value <= limit,
            "at least": value >= limit,
            "lower bound at least": low >= limit,
            "upper bound at least": high >= limit,
            "lower bound above": low > limit,
        }[rule]
        passed = bool(finite and held and n >= least)
        return cls(
            stage=stage,
            name=name if finite else f"{name} (not finite)",
            rule=rule,
            value=value if finite else float(np.finfo(np.float32).max),
            low=low if finite else 0.0,
            high=high if finite else 0.0,
            limit=limit,
            n=n,
            passed=passed,
            least=least,
            hint="" if passed else hint,
        )

    @property
    def enough(self) -> int | None:
        """With about how many samples the bound would hold, if the value stayed what it is: an
        interval narrows with the root of the samples. None where the value itself is beyond."""
        slack = self.value - self.limit
        if self.passed or not self.rule.startswith("lower bound") or slack <= 0:
            return None
        return ceil(self.n * ((self.value - self.low) / slack) ** 2) + 1

    @property
    def sentence(self) -> str:
        bounds = {"lower": self.low, "upper": self.high}
        side = self.rule.split()[0]
        bound = f", its {side} 95 % bound {bounds[side]:.4g}" if side in bounds else ""
        measured = (
            f"{self.stage}: {self.name} is {self.value:.4g}{bound} ({self.rule} {self.limit:g})"
        )
        if self.n < self.least:
            samples = "sample" if self.n == 1 else "samples"
            measured += f" on {self.n} {samples}, at least {self.least} are needed"
        return f"{measured}: {self.hint}" if self.hint else measured


def missed(gates: Sequence[Gate]) -> tuple[str, ...]:
    """The sentences of the gates that were missed."""
    return tuple(gate.sentence for gate in gates if not gate.passed)


def interval(statistic: Statistic, n: int) -> tuple[float, float]:
    """95 % bootstrap interval of a statistic of n samples.

    Resamples on which it is not defined (of a few positives none was drawn) do not count.
    """
    generator = np.random.default_rng(_SEED)
    found = [
        statistic(np.bincount(generator.integers(0, n, n), minlength=n).astype(np.float64))
        for _ in range(_RESAMPLES)
    ]
    defined = np.array(found)[~np.isnan(found)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def mean_of(values: np.ndarray) -> Statistic:
    """The weighted mean of one value a sample, float [n]."""
    return lambda weights: float(weights @ values / weights.sum())


def everyone(n: int) -> np.ndarray:
    """The weights with which every sample counts once."""
    return np.ones(n)
