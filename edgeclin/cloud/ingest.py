"""Takes in what devices send: store each id once, then say so."""

from __future__ import annotations

import logging

from edgeclin import batches, wire
from edgeclin.cloud.store import Store
from edgeclin.errors import BadMessage, StoreUnusable
from edgeclin.transport import Message, Transport

log = logging.getLogger(__name__)


class Ingest:
    """One ingest worker; run as many as needed on the shared subscription.

    Attributes:
        stored, duplicates, refused, failed: rows and messages since the start; what failed for
            want of the store got no receipt, so its device sends it again.
    """

    def __init__(self, store: Store, transport: Transport) -> None:
        self._store = store
        self._transport = transport
        self.stored = 0
        self.duplicates = 0
        self.refused = 0
        self.failed = 0

    def open(self) -> None:
        """Begin to connect; the transport calls `handle` from then on."""
        self._transport.open(wire.INGEST_FILTERS, self.handle)

    def handle(self, message: Message) -> None:
        """Store one message and send its receipt; what is no message of ours is only counted."""
        try:
            self._store_and_receipt(message)
        except BadMessage as exc:
            self.refused += 1
            log.warning("refused a message on %s: %s", message.topic, exc)
        except StoreUnusable as exc:
            self.failed += 1
            log.error("ALARM: a message on %s was not stored: %s", message.topic, exc)

    def compact(self) -> None:
        """Move what is hot into Parquet, and let go of inputs that were kept for long enough; when
        that fails it is left for the next time."""
        try:
            self._store.compact()
            self._store.inputs.purge()
        except StoreUnusable as exc:
            log.error("ALARM: nothing was compacted: %s", exc)

    def _store_and_receipt(self, message: Message) -> None:
        topics, rest = wire.parse_topic(message.topic)
        if rest.startswith("st/"):
            if message.topic not in (topics.birth, topics.state, topics.health):
                raise BadMessage(f"there is no {rest}")
            self._store.add_status(topics, rest, wire.decode(message.payload, wire.Status))
            return
        if message.topic == topics.part:
            kept = self._store.inputs.add(topics, wire.decode(message.payload, wire.Part))
            if kept.refused:
                log.warning("an input of %s is refused: %s", message.topic, kept.refused)
            self._transport.publish(Message(topics.kept, wire.encode(kept)))
            return
        batch = batches.decode(message.payload)
        added = self._store.add(topics, batch)
        self.stored += added.stored
        self.duplicates += added.duplicates
        receipt = wire.Receipt(
            epoch=batch.epoch, ranges=wire.ranges([item.seq for item in batch.items])
        )
        self._transport.publish(Message(topics.receipt, wire.encode(receipt)))

    def close(self) -> None:
        """Disconnect."""
        self._transport.close()
