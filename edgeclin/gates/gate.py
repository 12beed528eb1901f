"""One measured comparison, the rule that judges it, and the interval around it."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Literal, TypeAlias

import numpy as np

from edgeclin.records import Record

Rule: TypeAlias = Literal[
    "at most",
    "at least",
    "lower bound at least",
    "upper bound at least",
    "upper bound at most",
    "lower bound above",
    "lower bound at most",
]


class Gate(Record, frozen=True):
    """One measured comparison; `value` or its bound must not pass `limit` as `rule` says.

    `low` and `high` are a 95 % interval (see `edgeclin.gates.bootstrap`) from `n` samples. With
    fewer than `least` a gate is missed, whatever it measured. `hint` says what a miss usually comes
    from.
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
            "upper bound at most": high <= limit,
            "lower bound above": low > limit,
            "lower bound at most": low <= limit,
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
            hint="" if held and finite else hint,
        )

    @property
    def enough(self) -> int | None:
        """With about how many samples the bound would hold, if the value stayed what it is: an
        interval narrows with the root of the samples. None where the value itself is beyond."""
        slack = self.value - self.limit
        if self.passed or self.rule not in ("lower bound at least", "lower bound above"):
            return None
        if slack <= 0:
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


def shown(figure: float) -> str:
    """A figure of a gate in print: three digits, of thousands all."""
    return f"{figure:.0f}" if 1000 <= abs(figure) < 1e6 else f"{figure:.3g}"


def missed(gates: Sequence[Gate]) -> tuple[str, ...]:
    """The sentences of the gates that were missed."""
    return tuple(gate.sentence for gate in gates if not gate.passed)
