"""What the link to the broker carries, and so how much may be on its way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

FIRST_BYTES = 14_600
"""On their way before anything is known: the initial window of TCP (RFC 6928)."""
QUEUE_S = 0.1
"""What waits on the way behind what is being carried, in seconds of goodput; the target of LEDBAT
is as long (RFC 6817)."""
_FIRST_GAIN = 2.0
_GROWTH = 1.25
_FLAT_ROUNDS = 3
"""Each round trip may carry twice as much as the one before, until for three it was not a quarter
more: BBR's start-up (5.3.1)."""
REMEMBERED_S = 10.0
"""How long an estimate holds, as in BBR (draft-ietf-ccwg-bbr, 2.5)."""
_FULL = 0.8
"""Of the allowance: with less on its way, the link may carry more than is seen of it."""


@dataclass(frozen=True, slots=True)
class _Carried:
    """A message on its way, and what had been acknowledged when it was sent."""

    number: int
    size: int
    sent_at: float
    before_at: float
    delivered: int
    delivered_at: float
    alone: bool
    full: bool


class Link:
    """Measures goodput and round trip from what the broker acknowledges, as BBR does, for whatever
    is handed over beyond them waits in buffers where nothing urgent overtakes it.

    Sizes are bytes of payload, times monotonic seconds.

    Attributes:
        goodput: bytes a second, the most of late; 0 before that is known.
        round_trip_s: the least of late; 0 before that is known.
        sent: bytes since the start.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._heard: deque[tuple[int, float]] = deque()
        self.sent = self._number = 0
        self.clear()

    def clear(self) -> None:
        """Forget it all: what comes now may go another way."""
        self._carried: dict[int, _Carried] = {}
        self._heard.clear()
        self._on_its_way = self._delivered = 0
        self._delivered_at = self._before_at = -inf
        self._rates: deque[tuple[float, float]] = deque()
        self._measured_at = -inf
        self._round_ends = self._flat_rounds = 0
        self._round_rate = 0.0
        self._full_at = -inf
        self.goodput = self.round_trip_s = 0.0

    @property
    def allowance(self) -> float:
        """How much may be on its way, if anything else is."""
        if not self.goodput:
            return FIRST_BYTES
        most_s = self.round_trip_s + QUEUE_S
        if self._flat_rounds < _FLAT_ROUNDS:
            most_s = max(most_s, _FIRST_GAIN * self.round_trip_s)
        return self.goodput * most_s

    @property
    def unacknowledged_since(self) -> float | None:
        """When the last acknowledgement came, or what has none was sent; None where all have."""
        return self._delivered_at if self._carried else None

    @property
    def most_goodput(self) -> float:
        """Bytes a second beyond which the link carries nothing, as was seen of late while it was
        full; infinite where it was not."""
        full = self._flat_rounds >= _FLAT_ROUNDS
        fresh = self._monotonic() - self._full_at <= REMEMBERED_S
        return self.goodput if full and fresh else inf

    def has_room(self, size: int) -> bool:
        """Whether one more message may be sent now. Once the round trip was not measured for too
        long, one alone: behind others it waits, which says nothing of the way."""
        if not self._on_its_way:
            return True
        measuring = self.goodput and self._monotonic() - self._measured_at > REMEMBERED_S
        return not measuring and self._on_its_way + size <= self.allowance

    def carries(self, token: int, size: int) -> None:
        """Note a message that was just sent."""
        now = self._monotonic()
        if not self._carried:
            self._delivered_at = self._before_at = now
        full = self._on_its_way + size >= _FULL * self.allowance
        self._number += 1
        self._carried[token] = _Carried(
            self._number,
            size,
            now,
            self._before_at,
            self._delivered,
            self._delivered_at,
            not self._carried,
            full,
        )
        self._on_its_way += size
        self.sent += size

    def acknowledged(self, token: int) -> None:
        """Note that the broker has a message, or refuses it; from any thread."""
        self._heard.append((token, self._monotonic()))

    def measure(self) -> None:
        """Take in what was acknowledged."""
        while self._heard:
            token, at = self._heard.popleft()
            carried = self._carried.pop(token, None)
            if carried is not None:
                self._on_its_way -= carried.size
                self._forget_before(carried.number)
                self._delivered += carried.size
                self._measure(carried, at)
                self._delivered_at, self._before_at = at, carried.sent_at

    def _forget_before(self, number: int) -> None:
        """Brokers acknowledge in order (MQTT-4.6.0-2): what is passed over never will be."""
        for token, carried in list(self._carried.items()):
            if carried.number > number:
                break
            del self._carried[token]
            self._on_its_way -= carried.size

    def _measure(self, carried: _Carried, at: float) -> None:
        # The longer of both: acknowledgements that were held up come together.
        took = max(at - carried.delivered_at, carried.sent_at - carried.before_at)
        if took > 0:
            rate = (self._delivered - carried.delivered) / took
            if carried.full:
                self._full_at = at
                while self._rates and at - self._rates[0][0] > REMEMBERED_S:
                    self._rates.popleft()
            if carried.full or rate > self.goodput:
                while self._rates and self._rates[-1][1] <= rate:
                    self._rates.pop()
                self._rates.append((at, rate))
            self.goodput = self._rates[0][1]
            self._count_round(carried)
        round_trip = at - carried.sent_at
        old = at - self._measured_at > REMEMBERED_S
        if round_trip <= self.round_trip_s or (old and carried.alone):
            self.round_trip_s, self._measured_at = round_trip, at

    def _count_round(self, carried: _Carried) -> None:
        if carried.delivered < self._round_ends or not carried.full:
            return
        self._round_ends = self._delivered
        self._flat_rounds += 1
        if self.goodput >= _GROWTH * self._round_rate:
            self._round_rate, self._flat_rounds = self.goodput, 0
