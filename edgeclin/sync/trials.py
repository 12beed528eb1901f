"""Rows that may be to blame for what went wrong, sent apart from all others until one is left."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from edgeclin.records import Tier
from edgeclin.sync.window import Flight

_ENDED = 2
_UNRECEIPTED = 3
_BETWEEN_S = 1.0
_MOST = 4096
"""Rows that got no receipt: while the cloud is away, more are no news."""


@dataclass(slots=True, eq=False)
class Suspects:
    """Rows of one tier, or the question about one.

    Attributes:
        tier: None for a question.
        ends: whether they may have ended a connection; else they got no receipt.
        strikes: how often it went wrong with them alone.
        flights: in which they are on their way now.
        sent_at: monotonic seconds.
    """

    tier: Tier | None
    seqs: list[int]
    ends: bool
    strikes: int = 0
    flights: list[Flight] = field(default_factory=list)
    sent_at: float = 0.0


class Trials:
    """At most one group of suspects is on its way; of what ended connections alone on the line.

    Attributes:
        current: on its way now.
    """

    def __init__(self) -> None:
        self._groups: deque[Suspects] = deque()
        self._due = 0.0
        self.current: Suspects | None = None

    @property
    def rows(self) -> set[int]:
        """Rows that go in trials alone."""
        return {seq for group in self._all if group.tier is not None for seq in group.seqs}

    @property
    def questions(self) -> set[int]:
        """Rows about which trials alone ask."""
        return {seq for group in self._all if group.tier is None for seq in group.seqs}

    @property
    def _all(self) -> list[Suspects]:
        return [*self._groups, *([self.current] if self.current else [])]

    def waiting(self, now: float) -> Suspects | None:
        """The group that is to be tried next, once it is time."""
        if self.current is not None or not self._groups:
            return None
        group = self._groups[0]
        return None if group.ends and now < self._due else group

    def alone(self, now: float) -> bool:
        """Whether nothing is to be sent beside a trial, or before it."""
        group = self.current or self.waiting(now)
        return group is not None and group.ends

    def begin(self, now: float) -> Suspects:
        """Take the group that waits."""
        self.current = self._groups.popleft()
        self.current.sent_at = now
        return self.current

    def suspect(self, flights: Iterable[Flight], questions: Iterable[int], ends: bool) -> bool:
        """Suspect all that was on its way when something went wrong; whether the suspects of before
        were too many and are as all others again."""
        rows, asked = self.rows, self.questions
        for flight in flights:
            if seqs := sorted(flight.seqs - rows):
                self._groups.append(Suspects(flight.tier, seqs, ends))
        self._groups.extend(Suspects(None, [seq], ends) for seq in questions if seq not in asked)
        if ends or sum(len(group.seqs) for group in self._groups) <= _MOST:
            return False
        self._groups = deque(group for group in self._groups if group.ends)
        return True

    def pass_(self, now: float) -> None:
        """Clear the current group: it arrived, or is gone."""
        self.current, self._due = None, now + _BETWEEN_S

    def put_off(self, now: float, apart: bool = False) -> None:
        """Try the current group again later: what happened says nothing about it.

        Args:
            apart: in halves, of which one may arrive.
        """
        group = self.current
        if group is None:
            return
        group.flights.clear()
        self.pass_(now)
        if apart and len(group.seqs) > 1:
            first, second = _halves(group)
            self._groups.appendleft(first)  # until one arrives, and all are known to be able to
            self._groups.append(second)
        else:
            self._groups.append(group)

    def fail(self, now: float) -> Suspects | None:
        """Blame the current group; returns it when there is but one row and no doubt left."""
        group = self.current
        assert group is not None
        group.flights.clear()
        self.pass_(now)
        if len(group.seqs) > 1:
            self._groups.extendleft(reversed(_halves(group)))
            return None
        group.strikes += 1
        if group.strikes >= (_ENDED if group.ends else _UNRECEIPTED):
            return group
        self._groups.append(group)
        return None


def _halves(group: Suspects) -> list[Suspects]:
    half = len(group.seqs) // 2
    return [
        Suspects(group.tier, seqs, group.ends) for seqs in (group.seqs[:half], group.seqs[half:])
    ]
