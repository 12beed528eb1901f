"""Who sends next, of all that has something to send."""

from __future__ import annotations

from math import inf

from edgeclin import wire
from edgeclin.records import Tier
from edgeclin.sync.ahead import Ahead
from edgeclin.sync.asking import Asking
from edgeclin.sync.budget import Budget
from edgeclin.sync.delivery import Delivery
from edgeclin.sync.stops import Stops
from edgeclin.sync.trials import Trials

_OTHERS = (Tier.ROUTINE, Tier.BULK)


class Turns:
    """What was asked for first, then urgent rows; then questions and the other rows in turns, each
    of which waits for the other's room on the link, or neither would ever have enough for a large
    one. Questions about confident answers while nothing else is there to be sent or on its way.

    Attributes:
        full: whether something waits for room on the link.
        held: what the budget does not let go, and why.
        left: bytes of the budget; None where there is none.
    """

    def __init__(
        self,
        topics: wire.Topics,
        delivery: Delivery,
        asking: Asking,
        ahead: Ahead,
        stops: Stops,
        trials: Trials,
        budget: Budget,
    ) -> None:
        self._topics, self._budget = topics, budget
        self._delivery, self._asking, self._ahead = delivery, asking, ahead
        self._stops, self._trials = stops, trials
        self._asks = False
        self.full = False
        self.held: dict[str, str] = {}
        self.left = budget.left

    def send(self, now: float) -> None:
        """Send what may be sent now, but nothing beside a trial that goes alone, or before it."""
        self.full = False
        self.held, self.left = {}, self._budget.left
        if self._trials.alone(now):
            return
        self._ahead.send(now, but=self._trials.rows)
        while self._rows((Tier.URGENT,), now):
            pass
        waits = 0
        while waits < 2 and not self.full:
            self._asks = not self._asks
            went = self._questions(now) if self._asks else self._rows(_OTHERS, now)
            if went is None:
                self.full, self._asks = True, not self._asks
            waits = 0 if went else waits + 1
        if not self.full and not self._delivery.window.busy:
            self._spare(now)

    def _rows(self, tiers: tuple[Tier, ...], now: float) -> int | None:
        """Send a batch of the first tier that has one; see `Delivery.send`."""
        for tier in tiers:
            if self._stops.stopped(self._topics.up(tier), now) or self._holds(tier):
                continue
            went = self._delivery.send(tier, now, but=self._trials.rows | self._ahead.sent)
            if went != 0:
                return went
        return 0

    def _questions(self, now: float) -> int | None:
        if self._holds(None):
            return 0
        went: int | None = 0
        if not self._stops.stopped(self._topics.ask, now):
            left = self._budget.left
            went = self._asking.ask(now, self._trials.questions, inf if left is None else left)
            if lost := self._asking.left_out:
                self.held["questions"] = (
                    f"{lost} would come too late, or cost more than is left of the day's bytes"
                )
        if went == 0 and not self._stops.stopped(self._topics.part, now):
            went = self._asking.send_part(now, self._trials.questions)
        return went

    def _spare(self, now: float) -> None:
        """Ask about confident answers, where bulk might go, too."""
        topics = self._topics.ask, self._topics.part
        if self._budget.holds(Tier.BULK) or any(self._stops.stopped(one, now) for one in topics):
            return
        went: int | None = 1
        while went:
            went = self._asking.ask_spare(now, self._trials.questions)
            if went == 0:
                went = self._asking.send_part(now, self._trials.questions, spare=True)
        self.full = went is None

    def _holds(self, tier: Tier | None) -> bool:
        why = self._budget.holds(tier)
        if why:
            self.held["questions" if tier is None else tier.value] = why
        return bool(why)
