"""Delivers the queue's rows and questions, and deletes or settles what the cloud answered.

A row is deleted when the cloud's receipt says that it is stored, not when a broker acknowledges
it. What was sent over a connection that broke, or that nobody receipted in time, is sent again;
the cloud stores each id once.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from edgeclin import wire
from edgeclin.config import SyncConfig
from edgeclin.errors import BadMessage, NotConnected, QueueFull
from edgeclin.flash import written
from edgeclin.health import SyncHealth
from edgeclin.offline_queue import OfflineQueue
from edgeclin.records import Review, Tier
from edgeclin.sync.ahead import Ahead
from edgeclin.sync.asking import Asking
from edgeclin.sync.budget import Budget
from edgeclin.sync.commands import Commands
from edgeclin.sync.delivery import Delivery
from edgeclin.sync.link import Link
from edgeclin.sync.redelivery import Redelivery, refused_why
from edgeclin.sync.statuses import Statuses
from edgeclin.sync.stops import Stops
from edgeclin.sync.trials import Trials
from edgeclin.sync.turns import Turns
from edgeclin.transport import Message, Refusal, Transport

log = logging.getLogger(__name__)

TICK_S = 0.05
HEALTH_S = 5.0
DEAR_HEALTH_S = 60.0
"""Where there is a budget: every 5 s would take some 10 MB a day of it."""
_REST_S = 0.5
"""While nothing happens, what depends on time alone is looked at so often."""
_FULL_S = 0.5
RETRY_S = 3600.0
"""What was set aside is tried again."""


class SyncAgent:
    """One device's agent; one thread calls `step` (or `run`).

    Args:
        queue: the device's queue.
        transport: not yet opened.
        topics: the device's topics.
        metered: whether the link costs by the byte now.
        command_keys: public keys of those whose commands it takes; without one it takes none.
        clock: seconds since 1970, for what status messages and the audit log say.
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
        metered: Callable[[], bool] = lambda: False,
        command_keys: Sequence[Any] = (),
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
        self._link = Link(monotonic)
        self._delivery = Delivery(queue, transport, topics, settings, self._link)
        self._window = self._delivery.window
        self._stops = Stops(settings.receipt_most_s, jitter)
        self._asking = Asking(queue, transport, topics, settings.receipt_timeout_s, self._link)
        self._statuses = Statuses(queue, transport, topics, clock, self._link)
        self._budget = Budget(queue, settings.budget, self._link, clock, monotonic, metered)
        self._trials = Trials()
        self._redelivery = Redelivery(
            topics,
            self._delivery,
            self._asking,
            self._stops,
            self._trials,
            settings.receipt_most_s,
        )
        self._ahead = Ahead(queue, self._delivery)
        self._turns = Turns(
            topics,
            self._delivery,
            self._asking,
            self._ahead,
            self._stops,
            self._trials,
            self._budget,
        )
        self._commands: Commands | None = None
        if command_keys:
            self._commands = Commands(
                queue, transport, topics, command_keys, self, clock, monotonic
            )
        self._next_retry = monotonic() + RETRY_S
        self._session = 0
        self._next_health = self._next_expiry = 0.0
        self.delivered = 0
        self.opinions = 0
        self._began = self.last_step = monotonic()

    def open(self) -> None:
        """Begin to connect; nothing is sent before `step`."""
        will = self._statuses.status("lost", self._topics.state)
        filters = [self._topics.receipt, self._topics.opinion, self._topics.kept]
        if self._commands is not None:
            self._commands.open()
            filters.append(self._topics.request)
        self._transport.open(
            filters,
            self._receive,
            will=will,
            on_refusal=self._receive,
            on_acknowledged=self._acknowledged,
        )
        with suppress(QueueFull):
            self._take_back()

    def run(self, stop: threading.Event, until_empty: bool = False) -> None:
        """Step until `stop` is set, or until nothing waits any more: when something arrives, and
        every `TICK_S` if something is on its way or the queue has changed."""
        while not stop.is_set():
            known = self._queue.version()
            self.step()
            if until_empty and self.idle:
                return
            rested = self.last_step + _REST_S
            while not self._arrived.wait(TICK_S):
                if (
                    stop.is_set()
                    or self._busy
                    or self._session != self._transport.sessions
                    or self._monotonic() >= rested
                    or self._queue.version() != known
                ):
                    break
            self._arrived.clear()

    @property
    def _busy(self) -> bool:
        """Whether something is on its way, or held back."""
        return bool(
            self._window.busy
            or self._asking.outstanding
            or self._trials.rows
            or self._trials.questions
            or self._stops.whys
            or self._turns.full
            or (self._commands is not None and self._commands.waiting)
        )

    @property
    def idle(self) -> bool:
        """Whether nothing waits for a receipt or an opinion but what was set aside or cannot be
        opened; spare questions wait for nobody."""
        standing = self._queue.standing()
        kept = standing.set_aside + standing.absent
        waiting = sum(usage.count for usage in standing.waiting.values())
        return waiting - standing.waiting["spare"].count == kept

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
            sent=self._link.sent,
            left=self._turns.left,
            held=dict(self._turns.held),
            goodput=round(self._link.goodput, 1),
            round_trip_s=round(self._link.round_trip_s, 4),
            written=written(),
        )

    def drain(self) -> int:
        """Try at once what the broker refused and what was set aside; returns how many rows that
        were.

        Raises:
            QueueFull: the disk is full.
        """
        self._stops.clear()
        return self._take_back()

    def send_first(self, seq: int) -> Tier | None:
        """Send a row ahead of all others; returns its tier, None where it does not wait.

        Raises:
            QueueFull: the disk is full.
        """
        return self._ahead.want(seq)

    def set_budget(self, day_mb: float | None) -> None:
        """Send at most so many megabytes a day from now on, but for urgent rows; None for what
        `device.toml` says.

        Raises:
            QueueFull: the disk is full; nothing has changed.
        """
        self._budget.order(day_mb)
        self._turns.left = self._budget.left

    def step(self) -> None:
        """Take in what arrived, then send what may be sent; never waits for the network."""
        now = self.last_step = self._monotonic()
        try:
            self._read_inbox()
            self._link.measure()
            if self._commands is not None:
                self._commands.step()
            if now >= self._next_expiry:
                for review in self._queue.expire():
                    _log_review(review)
            if now >= self._next_retry:
                self._next_retry = now + RETRY_S
                self._take_back()
        except QueueFull as exc:
            # What could not be written down comes again: receipts and opinions when their rows
            # and questions are sent again, expiry at its next turn.
            self._next_expiry = now + _FULL_S
            log.error("ALARM: %s", exc)
        except NotConnected as exc:  # in answer to a refusal; the next session sends all again
            log.info("%s", exc)
        if not self._transport.connected:
            return
        try:
            self._begin_session(now)
            if misses := self._window.missed(now, self._link.unacknowledged_since):
                self._begin_anew(misses, now)
                return
            if self._redelivery.send_overdue(now):
                self._begin_with_the_oldest()
            self._redelivery.try_suspects(now)
            self._turns.send(now)
            if now >= self._next_health and not self._trials.alone(now):
                dear = self._budget.day_bytes is not None
                self._next_health = now + (DEAR_HEALTH_S if dear else HEALTH_S)
                self._statuses.say("online", self._topics.health)
            self._budget.keep_in_time()
        except NotConnected as exc:
            log.info("%s", exc)

    def close(self) -> None:
        """Say goodbye, so that the broker does not report the device as lost."""
        self._budget.keep()
        with suppress(NotConnected):
            self._statuses.say("offline", self._topics.state)
        self._transport.close()

    def _begin_session(self, now: float) -> None:
        if self._session == self._transport.sessions:
            return
        self._session = self._transport.sessions
        self._window.clear()
        self._link.clear()
        self._redelivery.begin(now)
        self._asking.clear()
        self._begin_with_the_oldest()
        self._next_health = now
        self._statuses.say("online", self._topics.birth)
        self._statuses.say("online", self._topics.state)
        waiting = {name: usage.count for name, usage in self._queue.usage().items()}
        log.info("connected; waiting: %s", waiting)

    def _begin_with_the_oldest(self) -> None:
        """Send again all that waits, in its order."""
        self._delivery.begin()
        self._ahead.begin()

    def _begin_anew(self, misses: int, now: float) -> None:
        """Make the connection anew over which nothing is heard."""
        log.warning("connected, but the cloud says nothing: connecting anew")
        self._redelivery.give_up_connection(misses, now)
        self._transport.renew()

    def _acknowledged(self, token: int) -> None:
        self._link.acknowledged(token)
        if self._turns.full:
            self._arrived.set()

    def _receive(self, message: Message | Refusal) -> None:
        self._inbox.append(message)
        self._arrived.set()

    def _read_inbox(self) -> None:
        while self._inbox:
            message = self._inbox.popleft()
            if isinstance(message, Refusal):
                self._take_refusal(message, self._monotonic())
                continue
            self._window.heard(self._monotonic())
            try:
                if message.topic == self._topics.receipt:
                    self._take_receipt(wire.decode(message.payload, wire.Receipt))
                elif message.topic == self._topics.kept:
                    kept = wire.decode(message.payload, wire.Kept)
                    self._asking.kept(kept, self._monotonic())
                    self._stops.taken(self._topics.part)
                elif message.topic == self._topics.request:
                    if self._commands is not None:
                        self._commands.take(message)
                else:
                    self._take_opinion(wire.decode(message.payload, wire.Opinion))
            except BadMessage as exc:
                log.warning("ignored a message on %s: %s", message.topic, exc)

    def _take_receipt(self, receipt: wire.Receipt) -> None:
        """Delete what is on its way and was stored; no other row is believed to be."""
        if receipt.epoch == self._queue.epoch:
            ranges = wire.ranges(self._window.covered(receipt.ranges))
            self.delivered += self._queue.remove(wire.Receipt(receipt.epoch, ranges))
            for tier in self._window.receipt(ranges, self._monotonic()):
                self._stops.taken(self._topics.up(tier))

    def _take_refusal(self, refusal: Refusal, now: float) -> None:
        if refusal.token is not None:
            self._redelivery.refused(refusal, refusal.token, now)
        elif not self._redelivery.connection_ended(refused_why(refusal), now):
            self._statuses.short = True

    def _take_opinion(self, opinion: wire.Opinion) -> None:
        self._asking.answered(opinion.result)
        self._stops.taken(self._topics.ask)
        review = self._queue.settle(opinion)
        if review is not None:
            self.opinions += 1
            _log_review(review)

    def _take_back(self) -> int:
        """Try once more what was set aside: a broker's rules change, and a cloud is mended."""
        if again := self._queue.take_back():
            log.warning("%d rows that were set aside are sent once more", again)
            self._begin_with_the_oldest()
        return again


def _log_review(review: Review) -> None:
    log.debug("result %s is now %s", review.result, review.state.value)
