"""A question that is too large for one message, on its way in parts."""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import dataclass

from edgeclin import wire
from edgeclin.offline_queue import Question
from edgeclin.sync.link import Link
from edgeclin.transport import AROUND, Message, Transport

log = logging.getLogger(__name__)

PART_BYTES = 95 << 10
"""In base64 and its frame below 128 KiB, the least that large brokers take."""
LEAST_BYTES = 4 << 10
"""Of a part however slow the link is; a question that is no longer goes in one message."""
_PACKED = 0.74
"""Bytes of a part beside those of its message: base64 makes four of three."""
_AT_ONCE = 4
_MOST_DOUBLED = 6


def whole_bytes(link: Link, transport: Transport) -> int:
    """How large a question may be that goes in one message, so that what is urgent does not wait
    long behind it."""
    most = PART_BYTES if not link.goodput else min(PART_BYTES, max(LEAST_BYTES, link.allowance))
    taken = transport.most_bytes
    return int(most if taken is None else min(most, taken - AROUND))


def takes_parts(transport: Transport) -> bool:
    """Whether the broker's messages are large enough for them."""
    return _largest_part(transport) >= wire.LEAST_PART


@dataclass(frozen=True, slots=True)
class _Sent:
    """Which bytes, inclusive, and when."""

    first: int
    last: int
    at: float


class Upload:
    """Sends the parts that the cloud has not, then asks about the whole.

    What the cloud has it says in answer to each part, so that nothing needs to be remembered over
    a restart: the first part goes alone.

    Args:
        timeout_s: for a receipt, or an opinion.
        now: monotonic seconds, as of every method.

    Attributes:
        seq: of the row that is asked about.
        spare: whether it goes while the link is free alone.
        result: its id.
        asked_at: when the whole was asked about; None before.
    """

    def __init__(
        self,
        question: Question,
        transport: Transport,
        topics: wire.Topics,
        link: Link,
        timeout_s: float,
        now: float,
    ) -> None:
        self.seq, self.result, self.spare = question.seq, question.result, question.spare
        self.asked_at: float | None = None
        self._data = question.ask
        self._digest = hashlib.sha256(question.ask).hexdigest()
        self._transport, self._topics, self._link = transport, topics, link
        self._timeout_s = timeout_s
        self._ends = now + question.remaining_s
        self._stored: tuple[tuple[int, int], ...] = ()
        self._sent: dict[int, _Sent] = {}
        self._asked: int | None = None
        self._heard = False
        self._refusals = 0
        self._again_at = now

    @property
    def on_its_way(self) -> bool:
        """Whether anything was sent that has no answer yet."""
        return bool(self._sent) or self._asked is not None

    def over(self, now: float) -> bool:
        """Whether its time is over, or no opinion came in time."""
        late = self.asked_at is not None and now - self.asked_at >= self._timeout_s
        return late or now >= self._ends

    def send(self, now: float) -> int | None:
        """Send the next part, or the question itself when all are stored.

        Returns:
            1, or 0 when none may be sent now, None when the link has no room for it yet.
        """
        if self.asked_at is not None or now < self._again_at:
            return 0
        last = len(self._data) - 1
        if not wire.gaps(self._stored, 0, last):
            self._ask(now)
            return 1
        self._sent = {
            token: part for token, part in self._sent.items() if now - part.at < self._timeout_s
        }
        if len(self._sent) >= (_AT_ONCE if self._heard else 1):
            return 0
        away = [(part.first, part.last) for part in self._sent.values()]
        missing = wire.gaps([*self._stored, *away], 0, last)
        if not missing:
            return 0
        first, end = missing[0]
        end = min(max(end, first + wire.LEAST_PART - 1), first + self._most() - 1, last)
        if not self._link.has_room(int((end - first + 1) / _PACKED)):
            return None
        part = wire.Part(self._digest, last + 1, first, self._data[first : end + 1])
        token = self._publish(self._topics.part, wire.encode(part), now)
        self._sent[token] = _Sent(first, end, now)
        return 1

    def kept(self, kept: wire.Kept, now: float) -> None:
        """Take in what the cloud has of it; of another whole nothing."""
        if kept.whole != self._digest:
            return
        self._heard = True
        if kept.refused:
            wait = self._timeout_s * 2.0 ** min(self._refusals, _MOST_DOUBLED)
            log.warning(
                "the input of row %d is not taken (%s): again in %g s", self.seq, kept.refused, wait
            )
            self._refusals += 1
            self._again_at = now + wait
            self._stored, self.asked_at = (), None
            self.clear()
            return
        self._stored = wire.joined([*self._stored, *kept.ranges])
        self._sent = {
            token: part
            for token, part in self._sent.items()
            if wire.gaps(self._stored, part.first, part.last)
        }

    def clear(self) -> None:
        """Forget what is on its way; the cloud has what it has."""
        self._sent.clear()
        self.asked_at = self._asked = None

    def sent(self, token: int) -> bool:
        """Whether a message is one of its own."""
        return token in self._sent or token == self._asked

    def _ask(self, now: float) -> None:
        asked = wire.AskWhole(result=self.result, whole=self._digest)
        self._asked = self._publish(self._topics.whole, wire.encode(asked), now)
        self.asked_at = now

    def _publish(self, topic: str, payload: bytes, now: float) -> int:
        message = Message(
            topic,
            payload,
            correlation=self.result.encode(),
            response_topic=self._topics.opinion,
            expiry_s=max(1, math.ceil(self._ends - now)),
        )
        token = self._transport.publish(message)
        self._link.carries(token, len(payload))
        return token

    def _most(self) -> int:
        """Bytes of the next part: two of them fill the link."""
        carried = self._link.allowance / 2 * _PACKED
        return int(min(max(carried, LEAST_BYTES), _largest_part(self._transport)))


def _largest_part(transport: Transport) -> float:
    taken = transport.most_bytes
    return PART_BYTES if taken is None else min(PART_BYTES, (taken - AROUND) * _PACKED)
