"""An engine beside its source, on labelled samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeclin.description import Metric, Output
from edgeclin.gates import metrics
from edgeclin.gates.answers import Answers
from edgeclin.gates.bootstrap import Bootstrap, Statistic, change_of, everyone
from edgeclin.gates.gate import Gate, Rule
from edgeclin.gates.margins import Margins


@dataclass(frozen=True, slots=True)
class Trial:
    """What both answered, and what would have been right.

    Attributes:
        stage: what the engine is called in its gates.
        truth: label indices, int [n, decisions].
        groups: one patient or subject a sample, or None.
    """

    stage: str
    metric: Metric
    output: Output
    source: Answers
    engine: Answers
    truth: NDArray[np.int64]
    groups: tuple[str, ...] | None
    margins: Margins
    bootstrap: Bootstrap

    def change(self, metric: Metric) -> Statistic:
        """What the engine gains of a metric."""
        before, after = (
            metrics.statistic(metric, self.output, answers, self.truth)
            for answers in (self.source, self.engine)
        )
        return change_of(before, after)

    def judge(self, name: str, rule: Rule, figure: Statistic, limit: float) -> Gate:
        """A gate about all samples."""
        return Gate.judge(
            self.stage,
            name,
            rule,
            figure(everyone(len(self.truth))),
            self.bootstrap.interval(figure),
            limit,
            len(self.truth),
            least=self.margins.decisions.least_samples,
        )
