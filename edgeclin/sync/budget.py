"""How many bytes may be sent, where a link costs money."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import datetime

import msgspec

from edgeclin.config import BudgetConfig, Hours
from edgeclin.errors import QueueFull
from edgeclin.offline_queue import OfflineQueue
from edgeclin.records import Record, Tier
from edgeclin.sync.link import Link

log = logging.getLogger(__name__)

DAY_S = 86_400.0
BULK_ABOVE = 0.5
"""Share of a day's bytes that bulk leaves to what is routine."""
_KEPT = "budget"
_KEEP_S = 60.0
_KEEP_SHARE = 0.01
"""Of a day's bytes; a fast link spends them all in less than `_KEEP_S`."""
_SET = 1_577_836_800.0
"""2020: a clock that says less was never set, as on a board without a battery."""


class _Kept(Record, frozen=True):
    """What a restart must not give back; `day_bytes` is what a command has set."""

    left: float
    at: float
    day_bytes: float | None = None


class Budget:
    """A token bucket of one day's bytes, that fills evenly over a day (RFC 2697 calls such a bucket
    committed). Urgent rows are never held, and count.

    Without `day_mb` nothing is held for its size; bulk waits for its hours and on a metered link
    all the same.

    Args:
        link: counts what is sent.
        clock: seconds since 1970: what was off for a while has earned bytes, as its clock says.
        monotonic: seconds.
        metered: whether the link costs by the byte; asked before each bulk batch.
    """

    def __init__(
        self,
        queue: OfflineQueue,
        settings: BudgetConfig,
        link: Link,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        metered: Callable[[], bool],
    ) -> None:
        self._queue, self._settings, self._link = queue, settings, link
        self._counted = self._kept_sent = link.sent
        self._clock, self._monotonic, self._metered = clock, monotonic, metered
        kept = _read(queue)
        own = None if settings.day_mb is None else settings.day_mb * 1e6
        self._ordered = None if kept is None else kept.day_bytes
        self.day_bytes = own if self._ordered is None else self._ordered
        most = self.day_bytes or 0.0
        off_s = 0.0
        if kept is not None and kept.at >= _SET:
            off_s = min(max(clock() - kept.at, 0.0), DAY_S)
        self._left = most if kept is None else min(kept.left + most * off_s / DAY_S, most)
        self._filled_at = self._kept_at = monotonic()

    @property
    def left(self) -> float | None:
        """Bytes that may be sent now, below zero after what was not to be held; None for any."""
        if self.day_bytes is None:
            return None
        now, sent = self._monotonic(), self._link.sent
        earned = self.day_bytes * (now - self._filled_at) / DAY_S
        self._left = min(self._left + earned, self.day_bytes) - (sent - self._counted)
        self._filled_at, self._counted = now, sent
        return self._left

    def holds(self, tier: Tier | None) -> str:
        """Why nothing of a tier is to be sent now; empty when it may be.

        Args:
            tier: None for questions.
        """
        left = self.left
        if tier is Tier.URGENT:
            return ""
        if left is not None and left <= 0:
            return "the day's bytes are spent"
        if tier is not Tier.BULK:
            return ""
        if left is not None and self.day_bytes and left <= BULK_ABOVE * self.day_bytes:
            return "what is left of the day's bytes is for routine results"
        if not within(self._settings.bulk_hours, self._clock()):
            return "it is not the hour for bulk"
        return "the link is metered" if self._metered() else ""

    def order(self, day_mb: float | None) -> None:
        """Set the bytes of a day until somebody sets others; None for those of `device.toml`.

        Raises:
            QueueFull: the disk is full; nothing has changed.
        """
        before = self._ordered, self.day_bytes, self.left
        self._counted = self._link.sent
        own = None if self._settings.day_mb is None else self._settings.day_mb * 1e6
        self._ordered = None if day_mb is None else day_mb * 1e6
        self.day_bytes = own if self._ordered is None else self._ordered
        spent = 0.0 if before[1] is None else before[1] - (before[2] or 0.0)
        self._left, self._filled_at = (self.day_bytes or 0.0) - spent, self._monotonic()
        try:
            self._keep()
        except QueueFull:
            self._ordered, self.day_bytes, self._left = before[0], before[1], before[2] or 0.0
            raise

    def keep_in_time(self) -> None:
        """Remember it over a restart, once a minute and after `_KEEP_SHARE` of a day's bytes."""
        spent = self._link.sent - self._kept_sent
        much = spent >= _KEEP_SHARE * (self.day_bytes or math.inf)
        if much or self._monotonic() - self._kept_at >= _KEEP_S:
            self.keep()

    def keep(self) -> None:
        """Remember it over a restart, if there is room on the disk."""
        if self.day_bytes is None:
            return
        try:
            self._keep()
        except QueueFull as exc:
            log.error("ALARM: a restart gives back what was spent of the day's bytes: %s", exc)

    def _keep(self) -> None:
        self._kept_at, self._kept_sent = self._monotonic(), self._link.sent
        kept = _Kept(self.left or 0.0, self._clock(), self._ordered)
        self._queue.remember(_KEPT, msgspec.json.encode(kept).decode())


def within(hours: Hours | None, now: float) -> bool:
    """Whether it is within some hours of the day by this machine's local time; not where its clock
    was never set, and always where no hours are named."""
    if hours is None:
        return True
    if now < _SET:
        return False
    moment = datetime.fromtimestamp(now)
    first, last = (_minutes(one) for one in hours.split("-"))
    at = moment.hour * 60 + moment.minute
    return first <= at < last if first <= last else at >= first or at < last


def _minutes(text: str) -> int:
    hour, minute = text.split(":")
    return int(hour) * 60 + int(minute)


def _read(queue: OfflineQueue) -> _Kept | None:
    text = queue.remembered(_KEPT)
    try:
        return None if text is None else msgspec.json.decode(text, type=_Kept)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        log.error("what was spent of the day's bytes is damaged: counted anew")
        return None
