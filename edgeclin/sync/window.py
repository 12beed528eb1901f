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
    """At most `size` batches on their way. Times are monotonic seconds.

    Args:
        timeout_s: how long a batch waits for its receipt.
        most_s: how long at most, for it doubles each time that nothing at all is heard.
    """

    def __init__(self, size: int, timeout_s: float, most_s: float) -> None:
        self._size = size
        self._timeout_s = timeout_s
        self._most_s = max(timeout_s, most_s)
        self._flights: list[Flight] = []
        self._misses = 0
        self._listening_since = self._silent_since = 0.0

    @property
    def room(self) -> int:
        """How many more batches may be sent now."""
        return self._size - len(self._flights)

    def send(self, tier: Tier, seqs: Collection[int], now: float) -> None:
        """Note a batch that was handed to the transport."""
        if not self._flights:
            self._listening_since = now
            if not self._misses:
                self._silent_since = now
        self._flights.append(Flight(tier, set(seqs), now))

    def receipt(self, ranges: Collection[tuple[int, int]], now: float) -> None:
        """Free what a receipt covers, whichever batch carried it."""
        self._silent_since = now
        for flight in self._flights:
            flight.seqs = {
                seq
                for seq in flight.seqs
                if not any(first <= seq <= last for first, last in ranges)
            }
        self._flights = [flight for flight in self._flights if flight.seqs]

    def heard(self, now: float) -> None:
        """Note that the cloud said something, a receipt or not: the connection carries."""
        self._misses = 0
        self._listening_since = now

    def overdue(self, now: float) -> list[Flight]:
        """Take out the batches that have waited too long; the caller sends them again."""
        late = [flight for flight in self._flights if now - flight.sent_at >= self._patience]
        self._flights = [flight for flight in self._flights if flight not in late]
        return late

    def missed(self, now: float) -> bool:
        """Whether all that is on its way has waited too long and nothing was heard meanwhile; it is
        said once, and the next time it takes twice as long."""
        if not self._flights or now - self._listening_since < self._patience:
            return False
        self._flights.clear()
        self._misses += 1
        return True

    def silent_s(self, now: float) -> float:
        """How long something has been on its way and no receipt came; 0 before that is too long."""
        waited = now - self._silent_since
        return waited if self._flights and waited >= self._timeout_s else 0.0

    def clear(self) -> None:
        """Forget what is on its way: the connection that carried it is gone."""
        self._flights.clear()

    @property
    def _patience(self) -> float:
        return float(min(self._timeout_s * 2.0 ** min(self._misses, 32), self._most_s))
