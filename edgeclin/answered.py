"""What was answered and what was true: shares with their intervals, curves, parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeclin.confidence import (
    ends_of_ties,
    error_bound,
    is_sure,
    scipy_part,
    threshold_at,
)
from edgeclin.gates.bootstrap import Bootstrap, mean_of, wider
from edgeclin.manifest import Confidence
from edgeclin.records import Record

_POINTS = 40
NOTHING = -1
"""The decision about a sample that cannot be judged, or in which nothing is found."""


class Share(Record, frozen=True):
    """A share of n samples, with its two-sided 95 % Clopper-Pearson interval; where they are of
    several patients or subjects, at least as wide as that of drawing these again (bootstrap)."""

    value: float
    low: float
    high: float
    n: int


class Point(Record, frozen=True):
    """One threshold: the share of answers that reach it, the share of these that is wrong, and the
    one-sided 95 % Clopper-Pearson bound on it, for this threshold alone."""

    threshold: float
    coverage: float
    error: float
    error_bound: float


class Part(Record, frozen=True):
    """All samples, or those of one patient or subject.

    Attributes:
        coverage: confident answers.
        error: wrong ones among these.
        sensitivity: of samples with a finding, those answered with one, confident or not; None
            without findings.
        missed: of samples with a finding, those confidently answered without one.
    """

    name: str
    coverage: Share
    error: Share
    sensitivity: Share | None
    missed: Share | None


class Answered(Record, frozen=True):
    """The answers with one label, where each label has its own threshold.

    Attributes:
        coverage: confident ones.
        error: wrong ones among these.
        curve: what every other threshold would do.
    """

    label: str
    coverage: Share
    error: Share
    curve: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """What was answered and what was true, a sample.

    Attributes:
        decision: index of the label; `NOTHING` where there is none.
        doubtful: rejected, unlike those of calibration, or with nothing found: never confident.
        positive: indices of the labels that are findings.
    """

    certainty: np.ndarray
    decision: NDArray[np.int64]
    truth: NDArray[np.int64]
    group: NDArray[np.str_]
    doubtful: NDArray[np.bool_]
    confidence: Confidence
    positive: Sequence[int]

    @property
    def sure(self) -> NDArray[np.bool_]:
        return is_sure(self.certainty, self.decision, self.confidence) & ~self.doubtful

    def curve(self, members: NDArray[np.bool_] | None = None) -> Iterator[Point]:
        """Of all answers or of some, from the most confident ones to all that are not doubtful, at
        most `_POINTS` thresholds."""
        among = np.ones(len(self.truth), bool) if members is None else members
        chosen = np.flatnonzero(among & ~self.doubtful)
        order = chosen[np.argsort(-self.certainty[chosen], kind="stable")]
        certainty, wrong = self.certainty[order], (self.decision != self.truth)[order]
        ends = ends_of_ties(certainty)
        if not len(ends):
            return
        for end in ends[np.unique(np.linspace(0, len(ends) - 1, _POINTS).astype(int))].tolist():
            errors = int(wrong[:end].sum())
            yield Point(
                threshold=threshold_at(certainty[end - 1]),
                coverage=end / int(among.sum()),
                error=errors / end,
                error_bound=error_bound(errors, end),
            )

    def part(self, name: str, members: NDArray[np.bool_]) -> Part:
        """The figures of some samples."""
        sure = self.sure
        wrong = self.decision != self.truth
        finding = np.isin(self.truth, self.positive) & members
        found = np.isin(self.decision, self.positive)
        return Part(
            name=name,
            coverage=share_of(sure, members, self.group),
            error=share_of(wrong, members & sure, self.group),
            sensitivity=share_of(found, finding, self.group) if finding.any() else None,
            missed=share_of(sure & ~found, finding, self.group) if finding.any() else None,
        )

    def by_label(self) -> Iterator[Answered]:
        """The answers with each label that has a threshold of its own."""
        wrong = self.decision != self.truth
        for index, own in enumerate(self.confidence.by_label):
            members = self.decision == index
            yield Answered(
                label=own.label,
                coverage=share_of(self.sure, members, self.group),
                error=share_of(wrong, members & self.sure, self.group),
                curve=tuple(self.curve(members)),
            )


def share_of(
    what: NDArray[np.bool_], among: NDArray[np.bool_], whose: NDArray[np.str_] | None = None
) -> Share:
    """The share of `what` among some, both bool [n].

    Args:
        whose: the patient or subject of each, str [n]: the answers about one have in common what
            those about others do not, so that their number says too much.
    """
    n, hits = int(among.sum()), int((what & among).sum())
    if not n:
        return Share(value=0.0, low=0.0, high=1.0, n=0)
    ppf = scipy_part("stats").beta.ppf
    low = float(ppf(0.025, hits, n - hits + 1)) if hits else 0.0
    high = float(ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
    if whose is not None and len(set(whose[among])) > 1:
        drawn = Bootstrap(n, tuple(whose[among].tolist())).interval(mean_of(what[among]))
        low, high = wider((low, high), drawn)
    return Share(value=hits / n, low=low, high=high, n=n)
