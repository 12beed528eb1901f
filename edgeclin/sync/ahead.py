"""Rows that somebody has sent ahead of all others."""

from __future__ import annotations

from collections.abc import Set

from edgeclin.errors import KeyAbsent
from edgeclin.offline_queue import OfflineQueue, Row
from edgeclin.records import Tier
from edgeclin.sync.delivery import Delivery


class Ahead:
    """Sends each alone in a message, until its receipt comes.

    Attributes:
        sent: rows that are on their way ahead of others, and need not go with them.
    """

    def __init__(self, queue: OfflineQueue, delivery: Delivery) -> None:
        self._queue, self._delivery = queue, delivery
        self._wanted: list[int] = []
        self.sent: set[int] = set()

    def begin(self) -> None:
        """Send anew what has no receipt yet: nobody knows that it is still on its way."""
        self.sent.clear()

    def want(self, seq: int) -> Tier | None:
        """Send a row first, also one that was set aside; returns its tier, None where it does not
        wait.

        Raises:
            QueueFull: the disk is full.
            KeyAbsent: it cannot be opened.
        """
        found = self._find(seq)
        if found is not None and found[1].absent_key:
            raise KeyAbsent(found[1].absent_key)
        self._queue.take_back(seq)
        found = self._find(seq)
        if found is None:
            return None
        self.sent.discard(seq)
        if seq not in self._wanted:
            self._wanted.append(seq)
        return found[0]

    def send(self, now: float, but: Set[int]) -> None:
        """Send what there is room for.

        Args:
            but: rows that are not to be sent.
        """
        for seq in list(self._wanted):
            if seq in but:
                continue
            found = self._find(seq)
            if found is None:
                self._wanted.remove(seq)
                self.sent.discard(seq)
            elif seq not in self.sent and self._delivery.window.room > 0:
                self._delivery.publish(found[0], [found[1]], now)
                self.sent.add(seq)

    def _find(self, seq: int) -> tuple[Tier, Row] | None:
        for tier in Tier:
            for row in self._delivery.rows(tier, [seq]):
                return tier, row
        return None
