"""Delivers the queue's rows and questions, and deletes or settles what the cloud answered.

A row is deleted when the cloud's receipt says that it is stored, not when a broker acknowledges
it. What was sent over a connection that broke, or that nobody receipted in time, is sent again;
the cloud stores each id once.
"""

from __future__ import annotations

import logging
import math
import queue as stdlib_queue
import threading
import time
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
from edgeclin.sync.window import SendWindow
from edgeclin.transport import Message, Transport
from edgeclin.version import VERSION

log = logging.getLogger(__name__)

TICK_S = 0.05
HEALTH_S = 5.0
_FULL_S = 0.5
_ASKS = 16


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


class SyncAgent:
    """One device's agent; one thread calls `step` (or `run`).

    Args:
        queue: the device's queue.
        transport: not yet opened.
        topics: the device's topics.
        clock: seconds since 1970, for what status messages say.
        monotonic: seconds, for timeouts.
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
    ) -> None:
        self._queue = queue
        self._transport = transport
        self._topics = topics
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._inbox: stdlib_queue.SimpleQueue[Message] = stdlib_queue.SimpleQueue()
        self._window = SendWindow(
            settings.window_batches, settings.receipt_timeout_s, settings.receipt_most_s
        )
        self._progress = _Progress()
        self._outstanding: dict[int, tuple[str, float]] = {}
        self._session = 0
        self._next_health = self._next_expiry = 0.0
        self.delivered = 0
        self.opinions = 0
        self._began = self.last_step = monotonic()

    def open(self) -> None:
        """Begin to connect; nothing is sent before `step`."""
        will = self._status("lost", self._topics.state)
        self._transport.open(
            (self._topics.receipt, self._topics.opinion), self._inbox.put, will=will
        )

    def run(self, stop: threading.Event, until_empty: bool = False) -> None:
        """Step until `stop` is set, or until nothing waits any more."""
        while not stop.is_set():
            self.step()
            if until_empty and self.idle:
                return
            stop.wait(TICK_S)

    @property
    def idle(self) -> bool:
        """Whether nothing waits for a receipt or an opinion."""
        return not any(usage.count for usage in self._queue.usage().values())

    def health(self) -> SyncHealth:
        """How the agent is now; from any thread."""
        return SyncHealth(
            made_at=self._clock(),
            up_s=self._monotonic() - self._began,
            connected=self._transport.connected,
            delivered=self.delivered,
            reviews=self.opinions,
            silent_s=self._window.silent_s(self._monotonic()),
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
            # By ranges, for a batch may hold the oldest rows and the newest.
            again = [
                row
                for first, last in wire.ranges(list(flight.seqs))
                for row in self._queue.pending(
                    flight.tier, after=first - 1, through=last, limit=last - first + 1
                )
            ]
            log.warning("no receipt in time for %d rows: sending them again", len(again))
            self._publish(flight.tier, again, now)

    def _send(self, now: float) -> None:
        for tier in Tier:
            while self._window.room > 0:
                rows = self._next_rows(tier)
                if not rows:
                    break
                self._publish(tier, rows, now)
                self._advance(tier, rows)

    def _next_rows(self, tier: Tier) -> list[Row]:
        progress, most = self._progress, self._settings.batch_results
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

    def _publish(self, tier: Tier, rows: list[Row], now: float) -> None:
        if not rows:
            return
        items = tuple(
            wire.Item(seq=row.seq, id=row.id, kind=row.kind, body=msgspec.Raw(row.body))
            for row in sorted(rows, key=lambda row: row.seq)
        )
        batch = wire.Batch(epoch=self._queue.epoch, items=items)
        self._transport.publish(Message(self._topics.up(tier), wire.encode(batch)))
        self._window.send(tier, [row.seq for row in rows], now)

    def _ask(self, now: float) -> None:
        patience = self._settings.receipt_timeout_s
        late = [seq for seq, (_, asked) in self._outstanding.items() if now - asked >= patience]
        for seq in late:
            del self._outstanding[seq]
            self._progress.asked = min(self._progress.asked, seq - 1)
        room = _ASKS - len(self._outstanding)
        if room <= 0:
            return
        for question in self._queue.questions(after=self._progress.asked, limit=room):
            self._progress.asked = question.seq
            if question.seq in self._outstanding:
                continue
            self._transport.publish(
                Message(
                    self._topics.ask,
                    question.ask,
                    correlation=question.result.encode(),
                    response_topic=self._topics.opinion,
                    expiry_s=max(1, math.ceil(question.remaining_s)),
                )
            )
            self._outstanding[question.seq] = (question.result, now)

    def _read_inbox(self) -> None:
        while not self._inbox.empty():
            message = self._inbox.get_nowait()
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

    def _take_opinion(self, opinion: wire.Opinion) -> None:
        self._outstanding = {
            seq: (result, asked)
            for seq, (result, asked) in self._outstanding.items()
            if result != opinion.result
        }
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
