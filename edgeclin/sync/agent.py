"""Delivers the queue's rows and questions, and deletes or settles what the cloud answered.

A row is deleted when the cloud's receipt says that it is stored, not when a broker acknowledges
it. What was sent over a connection that broke, or that nobody receipted in time, is sent again;
the cloud stores each id once.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from edgeclin import wire
from edgeclin.config import SyncConfig
from edgeclin.errors import BadMessage, NotConnected, QueueFull
from edgeclin.health import RunHealth, SyncHealth
from edgeclin.offline_queue import OfflineQueue, Row
from edgeclin.records import Review, Tier
from edgeclin.sync.stops import Stops
from edgeclin.sync.window import Flight, SendWindow
from edgeclin.transport import Message, Refusal, Transport
from edgeclin.version import VERSION

log = logging.getLogger(__name__)

TICK_S = 0.05
HEALTH_S = 5.0
_FULL_S = 0.5
_ASKS = 16
_PASSED_OVER = 3
_AROUND = 256
"""Bytes of a message beside its payload, at most: topics of 64 and properties."""
_UNFIT = frozenset({0x95, 0x99})
"""Reason codes of MQTT 5 (2.4) that blame the message: packet too large, payload format invalid.
Others say that nothing is taken now, such as a quota or what the broker's rules do not allow."""


@dataclass(slots=True)
class _Progress:
    """How far each tier was handed over in this session.

    Rows up to `mark` are the backlog that was there when the session began; later ones are live
    and go first, so that a backlog never holds up what happens now.
    """

    mark: int = 0
    backlog: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys(Tier, 0))
    live: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys(Tier, 0))
    asked: int = 0


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question on its way: about which result, since when, in which message."""

    result: str
    at: float
    token: int


class SyncAgent:
    """One device's agent; one thread calls `step` (or `run`).

    Args:
        queue: the device's queue.
        transport: not yet opened.
        topics: the device's topics.
        clock: seconds since 1970, for what status messages say.
        monotonic: seconds, for timeouts.
        jitter: maps the upper bound of a wait to the wait, both in seconds.
    """

    def __init__(
        self,
        queue: OfflineQueue,
        transport: Transport,
        topics: wire.Topics,
        settings: SyncConfig,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[float], float] = lambda bound: random.uniform(0, bound),
    ) -> None:
        self._queue = queue
        self._transport = transport
        self._topics = topics
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._inbox: deque[Message | Refusal] = deque()
        self._arrived = threading.Event()
        self._window = SendWindow(
            settings.window_batches, settings.receipt_timeout_s, settings.receipt_most_s
        )
        self._progress = _Progress()
        self._stops = Stops(settings.receipt_most_s, jitter)
        self._stopped: list[Flight] = []
        self._outstanding: dict[int, _Asked] = {}
        self._unaskable: set[int] = set()
        self._careful = 0
        self._session = 0
        self._next_health = self._next_expiry = 0.0
        self.delivered = 0
        self.opinions = 0
        self._began = self.last_step = monotonic()

    def open(self) -> None:
        """Begin to connect; nothing is sent before `step`."""
        will = self._status("lost", self._topics.state)
        self._transport.open(
            (self._topics.receipt, self._topics.opinion),
            self._receive,
            will=will,
            on_refusal=self._receive,
        )
        with suppress(QueueFull):
            if again := self._queue.take_back():
                log.warning("%d rows that were set aside are sent once more", again)

    def run(self, stop: threading.Event, until_empty: bool = False) -> None:
        """Step until `stop` is set, or until nothing waits any more: when something arrives, and
        every `TICK_S` to see what the queue has got."""
        while not stop.is_set():
            self.step()
            if until_empty and self.idle:
                return
            self._arrived.wait(TICK_S)
            self._arrived.clear()

    @property
    def idle(self) -> bool:
        """Whether nothing waits for a receipt or an opinion but what was set aside."""
        standing = self._queue.standing()
        return sum(usage.count for usage in standing.waiting.values()) == standing.set_aside

    def health(self) -> SyncHealth:
        """How the agent is now; from any thread."""
        return SyncHealth(
            made_at=self._clock(),
            up_s=self._monotonic() - self._began,
            connected=self._transport.connected,
            delivered=self.delivered,
            reviews=self.opinions,
            silent_s=self._window.silent_s(self._monotonic()),
            refused=self._stops.whys,
        )

    def step(self) -> None:
        """Take in what arrived, then send what may be sent; never waits for the network."""
        now = self.last_step = self._monotonic()
        try:
            self._read_inbox()
            if now >= self._next_expiry:
                for review in self._queue.expire():
                    _log_review(review)
        except QueueFull as exc:
            # What could not be written down comes again: receipts and opinions when their rows
            # and questions are sent again, expiry at its next turn.
            self._next_expiry = now + _FULL_S
            log.error("ALARM: %s", exc)
        if not self._transport.connected:
            return
        try:
            self._begin_session(now)
            if self._window.missed(now):
                log.warning("connected, but the cloud says nothing: connecting anew")
                self._transport.renew()
                return
            self._resend(now)
            self._send(now)
            self._ask(now)
            if now >= self._next_health:
                self._next_health = now + HEALTH_S
                self._transport.publish(self._status("online", self._topics.health))
        except NotConnected as exc:
            log.info("%s", exc)

    def close(self) -> None:
        """Say goodbye, so that the broker does not report the device as lost."""
        with suppress(NotConnected):
            self._transport.publish(self._status("offline", self._topics.state))
        self._transport.close()

    def _begin_session(self, now: float) -> None:
        if self._session == self._transport.sessions:
            return
        self._session = self._transport.sessions
        self._window.clear()
        self._stopped.clear()
        self._outstanding.clear()
        mark = self._queue.last_seq()
        self._progress = _Progress(mark=mark, live=dict.fromkeys(Tier, mark))
        self._next_health = now
        self._transport.publish(self._status("online", self._topics.birth))
        self._transport.publish(self._status("online", self._topics.state))
        waiting = {name: usage.count for name, usage in self._queue.usage().items()}
        log.info("connected; waiting: %s", waiting)

    def _resend(self, now: float) -> None:
        for flight in self._window.overdue(now):
            log.warning("no receipt in time for %d rows: sending them again", len(flight.seqs))
            if flight.passed_over < _PASSED_OVER:
                self._publish(flight.tier, self._rows_of(flight), now, flight)
            else:
                why = f"no receipt {flight.passed_over} times, while others got theirs"
                self._divide(flight, why, now)
        stopped, self._stopped = self._stopped, []
        for flight in stopped:
            if self._stops.stopped(self._topics.up(flight.tier), now):
                self._stopped.append(flight)
            else:
                self._publish(flight.tier, self._rows_of(flight), now, flight)

    def _rows_of(self, flight: Flight) -> list[Row]:
        """What of a batch still waits. By ranges: it may hold the oldest rows and the newest."""
        return [
            row
            for first, last in wire.ranges(list(flight.seqs))
            for row in self._queue.pending(
                flight.tier, after=first - 1, through=last, limit=last - first + 1
            )
        ]

    def _divide(self, flight: Flight, why: str, now: float) -> None:
        """Send a batch that was not taken in halves, to find the row that is to blame."""
        rows = self._rows_of(flight)
        if len(rows) == 1:
            self._set_aside(rows[0], why)
            return
        for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            self._publish(flight.tier, half, now, flight)

    def _set_aside(self, row: Row, why: str) -> None:
        log.error("ALARM: row %d cannot be delivered and is set aside: %s", row.seq, why)
        try:
            self._queue.set_aside(row.seq, why)
        except QueueFull as exc:
            log.error("ALARM: %s", exc)

    def _send(self, now: float) -> None:
        for tier in Tier:
            while self._room and not self._stops.stopped(self._topics.up(tier), now):
                rows = self._next_rows(tier)
                if not rows:
                    break
                self._publish(tier, rows, now)
                self._advance(tier, rows)

    @property
    def _room(self) -> bool:
        """Whether one more batch may be sent now; to find what ended connections, one by one."""
        if self._careful:
            return not self._window.busy and not self._outstanding
        return self._window.room > 0

    def _next_rows(self, tier: Tier) -> list[Row]:
        progress, most = self._progress, self._careful or self._settings.batch_results
        rows = self._queue.pending(tier, after=progress.live[tier], limit=most)
        if len(rows) < most and progress.backlog[tier] < progress.mark:
            rows += self._queue.pending(
                tier,
                after=progress.backlog[tier],
                through=progress.mark,
                limit=most - len(rows),
            )
        size, taken = 0, 0
        for row in rows:
            size += len(row.body)
            if taken and size > self._settings.batch_bytes:
                break
            taken += 1
        return rows[:taken]

    def _advance(self, tier: Tier, rows: list[Row]) -> None:
        progress = self._progress
        for row in rows:
            handed = progress.live if row.seq > progress.mark else progress.backlog
            handed[tier] = max(handed[tier], row.seq)

    def _publish(
        self, tier: Tier, rows: list[Row], now: float, before: Flight | None = None
    ) -> None:
        """Send rows in one message, or in several where the broker takes none so large.

        Args:
            before: the batch in which they went before.
        """
        sound = []
        for row in sorted(rows, key=lambda row: row.seq):
            if row.sound:
                sound.append(row)
            else:
                self._set_aside(row, "it is damaged: no record as they travel")
        if not sound:
            return
        items = tuple(
            wire.Item(seq=row.seq, id=row.id, kind=row.kind, body=msgspec.Raw(row.body))
            for row in sound
        )
        payload = wire.encode(wire.Batch(epoch=self._queue.epoch, items=items))
        message = Message(self._topics.up(tier), payload)
        if self._too_large(message):
            if len(sound) == 1:
                most = self._transport.most_bytes
                why = f"its message of {len(payload)} bytes is too large: the broker takes {most}"
                self._set_aside(sound[0], why)
                return
            for half in (sound[: len(sound) // 2], sound[len(sound) // 2 :]):
                self._publish(tier, half, now, before)
            return
        token = self._transport.publish(message)
        flight = Flight(tier, {row.seq for row in sound}, now, token, now)
        if before is not None:
            flight.passed_over, flight.first_sent_at = before.passed_over, before.first_sent_at
        self._window.send(flight)

    def _too_large(self, message: Message) -> bool:
        most = self._transport.most_bytes
        return most is not None and len(message.payload) + _AROUND > most

    def _ask(self, now: float) -> None:
        patience = self._settings.receipt_timeout_s
        late = [seq for seq, one in self._outstanding.items() if now - one.at >= patience]
        for seq in late:
            del self._outstanding[seq]
            self._progress.asked = min(self._progress.asked, seq - 1)
        room = _ASKS - len(self._outstanding) if not self._careful else int(self._room)
        if room <= 0 or self._stops.stopped(self._topics.ask, now):
            return
        for question in self._queue.questions(after=self._progress.asked, limit=room):
            self._progress.asked = question.seq
            if question.seq in self._outstanding or question.seq in self._unaskable:
                continue
            message = Message(
                self._topics.ask,
                question.ask,
                correlation=question.result.encode(),
                response_topic=self._topics.opinion,
                expiry_s=max(1, math.ceil(question.remaining_s)),
            )
            if self._too_large(message):
                self._give_up_asking(question.seq, f"{len(question.ask)} bytes are too large")
                continue
            token = self._transport.publish(message)
            self._outstanding[question.seq] = _Asked(question.result, now, token)

    def _give_up_asking(self, seq: int, why: str) -> None:
        """Leave an answer to a person, at its deadline: the broker does not take the question, nor
        will it in this process's time."""
        log.error("ALARM: no opinion can be asked about row %d: %s", seq, why)
        self._unaskable.add(seq)

    def _receive(self, message: Message | Refusal) -> None:
        self._inbox.append(message)
        self._arrived.set()

    def _read_inbox(self) -> None:
        while self._inbox:
            message = self._inbox.popleft()
            if isinstance(message, Refusal):
                self._take_refusal(message)
                continue
            self._window.heard(self._monotonic())
            try:
                if message.topic == self._topics.receipt:
                    self._take_receipt(wire.decode(message.payload, wire.Receipt))
                else:
                    self._take_opinion(wire.decode(message.payload, wire.Opinion))
            except BadMessage as exc:
                log.warning("ignored a message on %s: %s", message.topic, exc)

    def _take_receipt(self, receipt: wire.Receipt) -> None:
        self.delivered += self._queue.remove(receipt)
        if receipt.epoch == self._queue.epoch:
            self._window.receipt(receipt.ranges, self._monotonic())
            for tier in Tier:
                self._stops.taken(self._topics.up(tier))
            self._less_careful()

    def _less_careful(self) -> None:
        """Send more at a time again, for what was sent alone has arrived."""
        self._careful *= 2
        if self._careful >= self._settings.batch_results:
            self._careful = 0

    def _take_blame(self, why: str) -> None:
        """Send half as many rows in the next session, where a connection ended for what was sent;
        what was alone on its way is to blame."""
        flights, self._outstanding, asked = self._window.clear(), {}, list(self._outstanding)
        rows = [(flight.tier, seq) for flight in flights for seq in flight.seqs]
        if len(rows) == 1 and not asked:
            for row in self._rows_of(flights[0]):
                self._set_aside(row, why)
        elif len(asked) == 1 and not rows:
            self._give_up_asking(asked[0], why)
        self._careful = max(1, len(rows) // 2)

    def _take_refusal(self, refusal: Refusal) -> None:
        """Stop, send in parts, or set aside, as the broker's reason is."""
        now, why = self._monotonic(), f"the broker refuses it: {refusal.reason}"
        if refusal.token is None:
            self._take_blame(why)
            return
        flight = self._window.refused(refusal.token)
        asked = [seq for seq, one in self._outstanding.items() if one.token == refusal.token]
        topic = self._topics.ask if flight is None else self._topics.up(flight.tier)
        if flight is None and not asked:
            log.warning("the broker refuses a status message: %s", refusal.reason)
        elif refusal.code not in _UNFIT:
            if not self._stops.stopped(topic, now):
                log.error("ALARM: the broker refuses what is sent on %s: %s", topic, refusal.reason)
            self._stops.stop(topic, refusal.reason, now)
            if flight is not None:
                self._stopped.append(flight)
        elif flight is not None:
            self._divide(flight, why, now)
        for seq in asked:
            del self._outstanding[seq]
            if refusal.code in _UNFIT:
                self._give_up_asking(seq, why)
            self._progress.asked = min(self._progress.asked, seq - 1)

    def _take_opinion(self, opinion: wire.Opinion) -> None:
        self._outstanding = {
            seq: one for seq, one in self._outstanding.items() if one.result != opinion.result
        }
        self._stops.taken(self._topics.ask)
        self._less_careful()
        review = self._queue.settle(opinion)
        if review is not None:
            self.opinions += 1
            _log_review(review)

    def _status(self, state: wire.Presence, topic: str) -> Message:
        usage = self._queue.usage()
        run = self._queue.notices.told(RunHealth) if topic == self._topics.health else None
        status = wire.Status(
            state=state,
            made_at=self._clock(),
            version=VERSION,
            epoch=self._queue.epoch,
            pending={tier.value: usage[tier.value].count for tier in Tier},
            open_questions=usage["questions"].count,
            run=None if run is None else run.health,
            run_age_s=None if run is None else run.age_s,
        )
        return Message(topic, wire.encode(status), retain=True)


def _log_review(review: Review) -> None:
    log.debug("result %s is now %s", review.result, review.state.value)
