"""The queue's rows on their way to the cloud: which go next, in which message, and again."""

from __future__ import annotations

import logging
from collections.abc import Set

import msgspec

from edgeclin import batches, wire
from edgeclin.config import SyncConfig
from edgeclin.errors import QueueFull
from edgeclin.offline_queue import OfflineQueue, Row
from edgeclin.records import Tier
from edgeclin.sync.link import Link
from edgeclin.sync.progress import Progress
from edgeclin.sync.window import Flight, SendWindow
from edgeclin.transport import Message, Transport, fits

log = logging.getLogger(__name__)


class Delivery:
    """Sends rows as batches, and knows which are on their way.

    Attributes:
        window: what is on its way.
    """

    def __init__(
        self,
        queue: OfflineQueue,
        transport: Transport,
        topics: wire.Topics,
        settings: SyncConfig,
        link: Link,
    ) -> None:
        self._queue, self._transport, self._topics = queue, transport, topics
        self._settings, self._link = settings, link
        self._packed = dict.fromkeys(Tier, 1.0)
        self.window = SendWindow(
            settings.window_batches, settings.receipt_timeout_s, settings.receipt_most_s
        )
        self._progress = Progress()

    def begin(self) -> None:
        """Begin with the oldest rows again, but send those first that are put from now on."""
        self._progress = Progress.of(self._queue.last_seq())

    def send(self, tier: Tier, now: float, but: Set[int]) -> int | None:
        """Send the next batch of a tier, urgent ones whatever the link carries. Rows whose key is
        absent are passed over, some at each call: there may be a whole backlog of them.

        Args:
            but: rows that are not to be sent.

        Returns:
            how many rows were handled; 0 when none may go, None when the link has no room yet.
        """
        kept = tier is not Tier.URGENT and self._settings.window_batches > 1
        if self.window.room <= kept:
            return 0
        rows = self._next_rows(tier)
        legible = [row for row in rows if not row.absent_key]
        going = [row for row in legible if row.seq not in but]
        if tier is not Tier.URGENT and not self._link.has_room(self._packed_size(tier, going)):
            return None
        self.publish(tier, going, now)
        self._progress.advance(tier, rows)
        return len(legible)

    def send_again(self, flight: Flight, now: float) -> list[Flight]:
        """Send what of a batch still waits."""
        return self.publish(flight.tier, self._rows_of(flight), now, flight)

    def divide(self, flight: Flight, why: str, now: float) -> None:
        """Send a batch that was not taken in halves, to find the row that is to blame."""
        rows = self._rows_of(flight)
        if len(rows) == 1:
            self.set_aside(rows[0], why)
            return
        for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            self.publish(flight.tier, half, now, flight)

    def set_aside(self, row: Row, why: str) -> None:
        """Keep a row that cannot be delivered from being sent."""
        log.error("ALARM: row %d cannot be delivered and is set aside: %s", row.seq, why)
        try:
            self._queue.set_aside(row.seq, why)
        except QueueFull as exc:
            log.error("ALARM: %s", exc)

    def rows(self, tier: Tier, seqs: list[int]) -> list[Row]:
        """Those that still wait. By ranges: they may be the oldest rows and the newest."""
        return [
            row
            for first, last in wire.ranges(seqs)
            for row in self._queue.pending(
                tier, after=first - 1, through=last, limit=last - first + 1
            )
        ]

    def publish(
        self, tier: Tier, rows: list[Row], now: float, before: Flight | None = None
    ) -> list[Flight]:
        """Send rows in one message, or in several where the broker takes none so large.

        Args:
            before: the batch in which they went before.
        """
        sound = []
        for row in sorted(rows, key=lambda row: row.seq):
            if row.sound:
                sound.append(row)
            else:
                self.set_aside(row, "it is damaged: no record as they travel")
        if not sound:
            return []
        items = tuple(
            batches.Item(seq=row.seq, id=row.id, kind=row.kind, body=msgspec.Raw(row.body))
            for row in sound
        )
        payload = batches.encode(batches.Batch(epoch=self._queue.epoch, items=items))
        message = Message(self._topics.up(tier), payload, wire.BATCH_SCHEMA)
        if not fits(message, self._transport):
            if len(sound) == 1:
                most = self._transport.most_bytes
                why = f"its message of {len(payload)} bytes is too large: the broker takes {most}"
                self.set_aside(sound[0], why)
                return []
            halves = sound[: len(sound) // 2], sound[len(sound) // 2 :]
            return [flight for half in halves for flight in self.publish(tier, half, now, before)]
        token = self._transport.publish(message)
        self._link.carries(token, len(payload))
        self._packed[tier] = len(payload) / sum(len(row.body) for row in sound)
        flight = Flight(tier, {row.seq for row in sound}, now, token, now)
        if before is not None:
            flight.passed_over, flight.first_sent_at = before.passed_over, before.first_sent_at
        self.window.send(flight)
        return [flight]

    def _rows_of(self, flight: Flight) -> list[Row]:
        return self.rows(flight.tier, list(flight.seqs))

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
        most_bytes = min(self._settings.batch_bytes, self._link.allowance / 2 / self._packed[tier])
        size, taken = 0, 0
        for row in rows:
            size += len(row.body)
            if taken and size > most_bytes:
                break
            taken += 1
        return rows[:taken]

    def _packed_size(self, tier: Tier, rows: list[Row]) -> int:
        """What rows will be on the wire, if they can be packed as well as those before them."""
        return int(self._packed[tier] * sum(len(row.body) for row in rows))
