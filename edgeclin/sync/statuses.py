"""What a device says of itself to the cloud: its birth, its state, its health."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edgeclin import wire
from edgeclin.health import RunHealth
from edgeclin.offline_queue import OfflineQueue
from edgeclin.records import Tier
from edgeclin.sync.link import Link
from edgeclin.transport import Message, Transport, fits
from edgeclin.version import VERSION

log = logging.getLogger(__name__)


class Statuses:
    """Makes and publishes them, retained.

    Args:
        clock: seconds since 1970.

    Attributes:
        short: whether they leave out how `run` is, which is most of their length.
    """

    def __init__(
        self,
        queue: OfflineQueue,
        transport: Transport,
        topics: wire.Topics,
        clock: Callable[[], float],
        link: Link,
    ) -> None:
        self._queue, self._transport, self._topics = queue, transport, topics
        self._clock, self._link = clock, link
        self.short = False

    def say(self, state: wire.Presence, topic: str) -> None:
        """Publish one, as short as the broker takes it."""
        for short in (self.short, True):
            message = self.status(state, topic, short)
            if fits(message, self._transport):
                self._link.carries(self._transport.publish(message), len(message.payload))
                return
        log.warning("the broker takes no status of %d bytes", len(message.payload))

    def status(self, state: wire.Presence, topic: str, short: bool = False) -> Message:
        """The message."""
        usage = self._queue.usage()
        told = topic == self._topics.health and not short
        run = self._queue.notices.told(RunHealth) if told else None
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
