"""The batches that are on their way: sent, and not yet receipted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import inf

from edgeclin.records import Tier

_MANY = 10_000


@dataclass(slots=True)
class Flight:
    """One batch on its way.

    Attributes:
        seqs: of its rows without a receipt.
        token: of its message.
        first_sent_at: when its rows went for the first time in this session.
        passed_over: how often it got no receipt in time while others did.
    """

    tier: Tier
    seqs: set[int]
    sent_at: float
    token: int
    first_sent_at: float
    passed_over: int = 0


class SendWindow:
    """At most `size` batches on their way. Times are monotonic seconds.

    Args:
        timeout_s: how long a batch waits for its receipt; or twice as long as the one had to that
            got its last.
        most_s: how long at most, for it doubles each time that nothing at all is heard.
    """

    def __init__(self, size: int, timeout_s: float, most_s: float) -> None:
        self._size = size
        self._timeout_s = timeout_s
        self._most_s = max(timeout_s, most_s)
        self._flights: list[Flight] = []
        self._misses = 0
        self._listening_since = self._silent_since = 0.0
        self.receipted_at = -inf
        self._took_s = 0.0
        self._settled = True

    @property
    def busy(self) -> bool:
        """Whether anything is on its way."""
        return bool(self._flights)

    @property
    def room(self) -> int:
        """How many more batches may be sent now."""
        return self._size - len(self._flights)

    def send(self, flight: Flight) -> None:
        """Note a batch that was handed to the transport."""
        now = flight.sent_at
        if not self._flights:
            self._listening_since = now
        if self._settled:
            self._silent_since, self._settled = now, False
        self._flights.append(flight)

    def covered(self, ranges: Collection[tuple[int, int]]) -> set[int]:
        """Which of the rows on their way are in some ranges."""
        on_their_way = set[int]().union(*(flight.seqs for flight in self._flights))
        return {seq for seq in on_their_way if any(a <= seq <= b for a, b in ranges)}

    def receipt(self, ranges: Collection[tuple[int, int]], now: float) -> set[Tier]:
        """Free what a receipt covers, whichever batch carried it; returns the tiers of that."""
        self._silent_since = self.receipted_at = now
        tiers = set()
        for flight in self._flights:
            before = len(flight.seqs)
            for first, last in ranges:
                if last - first < _MANY:
                    flight.seqs.difference_update(range(first, last + 1))
                else:
                    flight.seqs = {seq for seq in flight.seqs if not first <= seq <= last}
            if len(flight.seqs) < before:
                tiers.add(flight.tier)
            if not flight.seqs:
                self._took_s = now - flight.first_sent_at
        self._flights = [flight for flight in self._flights if flight.seqs]
        self._settled = not self._flights
        return tiers

    def heard(self, now: float) -> None:
        """Note that the cloud said something, a receipt or not: the connection carries."""
        self._misses = 0
        self._listening_since = now

    def overdue(self, now: float) -> list[Flight]:
        """Take out the batches that have waited too long; the caller sends them again."""
        late = [flight for flight in self._flights if now - flight.sent_at >= self._patience]
        self._flights = [flight for flight in self._flights if flight not in late]
        for flight in late:
            flight.passed_over += self.receipted_at > flight.sent_at
        return late

    def refused(self, token: int) -> Flight | None:
        """Take out the batch of a message that the broker did not take."""
        for flight in self._flights:
            if flight.token == token:
                self._flights.remove(flight)
                self._settled = self._settled or not self._flights
                return flight
        return None

    def missed(self, now: float, unacknowledged_since: float | None) -> int:
        """How often in a row all that was on its way waited too long while nothing was heard, where
        that has just happened once more, else 0; the next time it takes twice as long.

        Args:
            unacknowledged_since: when the broker last took something, where anything waits for it.
        """
        since = self._listening_since
        if not self._flights:
            if unacknowledged_since is None:
                return 0
            since = max(since, unacknowledged_since)
        if now - since < self._patience:
            return 0
        self._misses += 1
        self._listening_since = now
        return self._misses

    def silent_s(self, now: float) -> float:
        """How long something has been on its way and no receipt came; 0 before that is too long."""
        waited = now - self._silent_since
        return waited if self._flights and waited >= self._timeout_s else 0.0

    def clear(self) -> list[Flight]:
        """Forget what is on its way, and return it: the connection that carried it is gone."""
        gone, self._flights = self._flights, []
        return gone

    @property
    def _patience(self) -> float:
        timeout = max(self._timeout_s, 2 * self._took_s)
        return float(min(timeout * 2.0 ** min(self._misses, 32), self._most_s))
