"""The batches that are on their way: sent, and not yet receipted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from edgeclin.records import Tier


@dataclass(slots=True)
class Flight:
    """One batch on its way; `seqs` shrinks as receipts arrive."""

    tier: Tier
    seqs: set[int]
    sent_at: float


class SendWindow:
    """At most `size` batches on their way. Times are monotonic seconds."""

    def __init__(self, size: int, timeout_s: float) -> None:
        self._size = size
        self._timeout_s = timeout_s
        self._flights: list[Flight] = []

    @property
    def room(self) -> int:
        """How many more batches may be sent now."""
        return self._size - len(self._flights)

    def send(self, tier: Tier, seqs: Collection[int], now: float) -> None:
        """Note a batch that was handed to the transport."""
        self._flights.append(Flight(tier, set(seqs), now))

    def receipt(self, ranges: Collection[tuple[int, int]]) -> None:
        """Free what a receipt covers, whichever batch carried it."""
        for flight in self._flights:
            flight.seqs = {
                seq
                for seq in flight.seqs
                if not any(first <= seq <= last for first, last in ranges)
            }
        self._flights = [flight for flight in self._flights if flight.seqs]

    def overdue(self, now: float) -> list[Flight]:
        """Take out the batches that have waited too long; the caller sends them again."""
        late = [flight for flight in self._flights if now - flight.sent_at >= self._timeout_s]
        self._flights = [flight for flight in self._flights if flight not in late]
        return late

    def clear(self) -> None:
        """Forget everything: the connection that carried it is gone."""
        self._flights.clear()
