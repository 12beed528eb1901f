"""How the device is now, in one record for programs and for the page."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

from edgeclin.bedside import Bedside
from edgeclin.config import DeviceConfig
from edgeclin.endpoint.history import History
from edgeclin.errors import EdgeclinError
from edgeclin.failover import NO_ENGINE
from edgeclin.health import RunHealth, SyncHealth
from edgeclin.offline_queue import OfflineQueue, Told, Usage
from edgeclin.offline_queue.schema import is_read_only
from edgeclin.records import Record

log = logging.getLogger(__name__)

_FORGET_S = 60.0
"""After so long a disk, full or locked, is tried once more."""
_SILENT_S = 10.0


class Link(Record, frozen=True):
    """What `edgeclin sync` last said.

    Attributes:
        state: `unknown` where it never ran since the boot, `silent` where it runs no longer,
            `unanswered` where it has a session and no receipt comes.
        age_s: how long ago it said so; `unanswered`, since when none comes.
    """

    state: Literal["connected", "disconnected", "silent", "unanswered", "unknown"]
    age_s: float | None = None


class QueueHealth(Record, frozen=True):
    """What waits for the cloud, by tier, `questions` among it, the bytes that may, and how long the
    oldest of each tier has waited."""

    waiting: dict[str, Usage]
    bytes: int
    max_bytes: int
    oldest_s: dict[str, float] = {}


class Health(Record, frozen=True):
    """One device now.

    Attributes:
        status: `alarm` when somebody must look now, `degraded` when another engine answers than
            the bundle's own.
        serving: whether samples are answered and their answers stored.
        model: name and version of the bundle's.
        signed: whether the bundle has a trusted signature.
        last_s: seconds since the last answer; None before the first.
        stream: of the last answer.
        dropped: samples of live streams that found no room, by stream.
        queue: None where it cannot be read.
        alarms: what somebody must look at, a sentence each.
    """

    status: Literal["ok", "degraded", "alarm"]
    serving: bool
    site: str
    device: str
    model: str
    signed: bool
    last_s: float | None
    stream: str | None
    dropped: dict[str, int]
    run: RunHealth
    queue: QueueHealth | None
    link: Link
    alarms: tuple[str, ...]


class Watch:
    """Looks at loop and queue.

    Args:
        alive: whether the loop moves, as the watchdog is told.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        bedside: Bedside,
        queue: OfflineQueue,
        config: DeviceConfig,
        history: History,
        alive: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bedside = bedside
        self._queue = queue
        self._config = config
        self._history = history
        self._alive = alive
        self._clock = clock
        self._seen: QueueHealth | None = None
        self._link = Link("unknown")
        self._problem = ""
        self._read_only = False
        self._alarms: list[str] = []
        self._refused: tuple[str, ...] = ()
        self._looked = clock()
        self._full = (0.0, 0)

    def look(self) -> None:
        """Read the queue: what waits, what `sync` said, and what became of results.

        It may wait for a slow disk, so that it has a thread of its own.
        """
        full_at = self._bedside.full_at
        self._read_only = is_read_only(self._queue.path)
        try:
            standing, now = self._queue.standing(), time.time()
            oldest = self._history.oldest_seq
            if oldest is not None:
                self._history.review(self._queue.reviews(oldest))
        except Exception as exc:  # looking must go on, whatever was found once
            if not isinstance(exc, EdgeclinError) and not self._problem:
                log.exception("ALARM: the queue cannot be looked at")
            self._seen, self._problem = None, f"the queue cannot be read: {exc}"
        else:
            used = sum(usage.bytes for usage in standing.waiting.values())
            self._seen = QueueHealth(
                standing.waiting,
                used,
                self._config.queue.max_mb << 20,
                standing.oldest_s(now),
            )
            late = standing.urgent_alarm(self._config.queue.urgent_alarm_s, now)
            alarms = (
                late,
                standing.refusal_alarm(),
                standing.absent_alarm(),
                *standing.damage,
            )
            self._alarms = [one for one in alarms if one]
            self._problem = ""
            self._look_for_room(full_at, used)
        sync = self._queue.notices.told(SyncHealth)
        self._link = _link(sync)
        self._refused = sync.health.refused if sync is not None and sync.fresh else ()
        self._looked = self._clock()

    def _look_for_room(self, full_at: float, used: int) -> None:
        """Let go of what was full when less waits than after the last answer found no room, or for
        nobody may ask again while it says so."""
        if full_at != self._full[0]:
            self._full = full_at, used
        elif used < self._full[1] or time.monotonic() - full_at > _FORGET_S:
            self._bedside.find_room()

    def health(self) -> Health:
        """How the device is; never waits for a disk."""
        run = self._bedside.health()
        alarms = list(run.alarms)
        if not self._alive():
            alarms.append(
                f"one sample has been in hand for {run.busy_s:.0f} s: the engine or the disk hangs"
            )
        if self._read_only:
            alarms.append("the disk is read-only: nothing can be stored")
        if self._problem:
            alarms.append(self._problem)
        if self._clock() - self._looked > _SILENT_S:
            alarms.append(f"the queue has not answered for {self._clock() - self._looked:.0f} s")
        alarms += self._alarms
        alarms += [f"the broker refuses what is sent on {refused}" for refused in self._refused]
        newest = self._history.newest(limit=1)
        bundle = self._bedside.runtime.bundle
        return Health(
            status="alarm" if alarms else "degraded" if run.degraded else "ok",
            serving=self._alive()
            and not (self._bedside.full or self._read_only)
            and run.engine != NO_ENGINE,
            site=self._config.site,
            device=self._config.device,
            model=f"{bundle.manifest.name} {bundle.manifest.version}",
            signed=bundle.signed_by is not None,
            last_s=newest[0].age_s if newest else None,
            stream=newest[0].result.source if newest else None,
            dropped=self._bedside.inbox.dropped,
            run=run,
            queue=self._seen,
            link=self._link,
            alarms=tuple(alarms),
        )


def _link(told: Told[SyncHealth] | None) -> Link:
    if told is None or told.age_s is None:
        return Link("unknown")
    if told.ended:
        return Link("disconnected", told.age_s)
    if not told.fresh:
        return Link("silent", told.age_s)
    if not told.health.connected:
        return Link("disconnected", told.age_s)
    if told.health.silent_s:
        return Link("unanswered", told.health.silent_s + told.age_s)
    return Link("connected", told.age_s)
