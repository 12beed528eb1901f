"""Samples that wait to be judged: a bounded line for each stream, taken in turn.

Threads deliver, one judges. A stream that can wait uses `put`; a live one cannot and uses `push`:
when its line is full the oldest sample goes, since the newest says most about the patient, and what
went is told in one arrival. One that somebody waits for uses `offer`, which says no instead.

Where no answer can be made or stored just now, a stream that can wait is held (`Inbox.hold`), and a
live one loses what came (`Inbox.lose`): others go on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgeclin.errors import BadInput
from edgeclin.offline_queue import Stored
from edgeclin.records import Result

if TYPE_CHECKING:
    from edgeclin.sources import Source

log = logging.getLogger(__name__)

Sample: TypeAlias = "np.ndarray | BadInput"
"""A raw sample, or why there is none."""
Answered: TypeAlias = Callable[["Stored | None", Result], bool]
"""Told an answer once it is stored, or with None that it cannot be, in the thread that judges;
returns whether somebody still waits for it."""

LINE = 8
"""Samples of one stream that may wait."""
_QUIET_S = 1.0
"""What is lost while nothing can be stored is told no sooner than this after the last attempt."""


@dataclass(frozen=True, slots=True)
class Lost:
    """So many samples of a live stream, from number `first` to `last`, since `at`; among them one
    that was none, such as a camera's outage, for the reason `why`."""

    first: int
    last: int
    count: int
    at: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One sample of one stream.

    Attributes:
        position: its number in the stream.
        line: where it waited.
        at: monotonic seconds when it arrived.
        live: whether its stream cannot wait.
        lost: the samples that it tells of, instead of a sample.
        last: whether the stream ends with it, and is never to be judged again.
        once: whether no other bundle that cuts the stream as this one does is to judge it again.
    """

    stream: str
    position: int
    sample: Sample
    line: Line
    at: float
    answered: Answered | None = None
    live: bool = False
    lost: Lost | None = None
    last: bool = False
    once: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """Which sample of which stream it is, on a line that carries streams one after another.

    Attributes:
        last, once: see `Arrival`.
    """

    stream: str
    position: int
    last: bool = False
    once: bool = False


class Inbox:
    """The lines of all streams.

    Args:
        start: where a stream of that name goes on.
        clock: monotonic seconds.

    Attributes:
        start: as given; at or after `offline_queue.ENDED` the stream was judged to its end.
        failures: why sources ended before their time.
        ended: sources that ended, of which nobody knew that they would, while others went on.
        out: why nothing comes from a source now that goes on by itself, by its name.
        kept: arrivals that are held.
    """

    def __init__(
        self,
        start: Callable[[str], int] = lambda name: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.start = start
        self._clock = clock
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._lines: dict[str, Line] = {}
        self._turns: deque[Line] = deque()
        self._feeders = 0
        self.kept = 0
        self._held: set[Line] = set()
        self._losing: set[Line] = set()
        self.failures: list[BaseException] = []
        self.ended: list[str] = []
        self.out: dict[str, str] = {}
        self.stopped = threading.Event()

    def feed(self, *sources: Source) -> None:
        """Let each source deliver from a thread of its own."""
        with self._lock:
            self._feeders += len(sources)  # before the first one may end
        for source in sources:
            threading.Thread(target=self._deliver, args=(source,), daemon=True).start()

    def line(self, stream: str, room: int = LINE) -> Line:
        """The line of a stream, a new one for `room` samples when it has none yet."""
        with self._lock:
            known = self._lines.get(stream)
        if known is not None:
            return known
        start = self.start(stream)  # a database says so, for which the loop must not wait
        with self._lock:
            return self._lines.setdefault(stream, Line(self, stream, start, room))

    def end(self, name: str, *, recorded: bool) -> None:
        """Tell that a source has no more while others go on; called by itself.

        Args:
            recorded: whether it was to end; else somebody must look.
        """
        if self._feeders < 2 or self.stopped.is_set():
            return
        if recorded:
            log.warning("%s has ended; the other sources go on", name)
        else:
            log.error("ALARM: %s has ended; the other sources go on", name)
            self.ended.append(name)

    def take(self, within_s: float | None = None) -> Arrival | None:
        """Wait for the next sample: streams take turns, and each gives its oldest.

        Returns:
            None when all sources have ended and nothing waits, is held or is lost untold, or after
            `stop`.

        Raises:
            TimeoutError: none came within `within_s` seconds.
            BaseException: what ended a source first, once all have ended and nothing waits.
        """
        with self._lock:
            for line in self._losing:
                line._wait_for_turn()
            while not self._turns and not self.stopped.is_set():
                if not self._feeders and not self.retries:
                    if self.failures:
                        raise self.failures[0]
                    return None
                if not self._arrived.wait(within_s):
                    raise TimeoutError
            if self.stopped.is_set():
                return None
            line = self._turns.popleft()
            line._in_turn = False
            arrival = line._take()
            line._wait_for_turn()
            self._room.notify_all()
            return arrival

    def hold(self, arrival: Arrival) -> None:
        """Keep an arrival that is to be tried again, and give nothing more of its line until it is
        released; unless somebody waited for it, for what others wait for may be urgent."""
        with self._lock:
            self.kept += 1
            if arrival.answered is not None:
                return
            self._held.add(arrival.line)
            if arrival.line._in_turn:
                self._turns.remove(arrival.line)
                arrival.line._in_turn = False

    def release(self, arrival: Arrival) -> None:
        """Let the line of an arrival that was held go on."""
        with self._lock:
            self.kept -= 1
            self._held.discard(arrival.line)
            arrival.line._wait_for_turn()

    def lose(self, arrival: Arrival) -> None:
        """Count an arrival of a live stream, of which no answer could be stored, as dropped."""
        with self._lock:
            line = arrival.line
            line.dropped += arrival.lost is None
            line._lose(arrival)
            line._quiet_until = self._clock() + _QUIET_S

    def stop(self) -> None:
        """End `take` and every `put` now; what waits is left."""
        self.stopped.set()
        with self._lock:
            self._arrived.notify_all()
            self._room.notify_all()

    @property
    def retries(self) -> bool:
        """Whether something is held, or lost and not told yet, so that it wants to be tried again:
        `take` within a time."""
        return bool(self.kept or self._losing)

    @property
    def waiting(self) -> int:
        """Samples in all lines, and those that are held."""
        with self._lock:
            return sum(line.waiting for line in self._lines.values()) + self.kept

    @property
    def dropped(self) -> dict[str, int]:
        """Samples that found no room since the start, by stream."""
        with self._lock:
            return {name: line.dropped for name, line in self._lines.items() if line.dropped}

    def _deliver(self, source: Source) -> None:
        failures: list[BaseException] = []
        try:
            source.deliver(self)
        except BaseException as exc:
            failures.append(exc)
        with self._lock:
            self._feeders -= 1
            if failures and self._feeders:
                log.error("ALARM: a source has failed, the others go on: %s", failures[0])
            self.failures += failures
            self._arrived.notify_all()


class Line:
    """Where the samples of one stream wait; made by `Inbox.line`.

    Attributes:
        start: the position of the first sample that it takes.
        dropped: samples that found no room.
    """

    def __init__(self, inbox: Inbox, stream: str, start: int, room: int) -> None:
        self.stream, self.start, self.dropped = stream, start, 0
        self._inbox = inbox
        self._room = room
        self._position = start
        self._samples: deque[Arrival] = deque()
        self._lost: Lost | None = None
        self._quiet_until = 0.0
        self._in_turn = False

    @property
    def waiting(self) -> int:
        return len(self._samples) + self._telling

    @property
    def _telling(self) -> bool:
        return self._lost is not None and self._inbox._clock() >= self._quiet_until

    def put(self, sample: Sample, part: Part | None = None) -> bool:
        """Add a sample, once there is room.

        Args:
            part: of which stream, where it is not of the line's own; only lines that are never
                pushed to may carry others.

        Returns:
            whether the source may go on: False after `Inbox.stop`.
        """
        inbox = self._inbox
        with inbox._lock:
            while len(self._samples) >= self._room and not inbox.stopped.is_set():
                inbox._room.wait()
            self._add(sample, None, part)
        return not inbox.stopped.is_set()

    def push(self, sample: Sample) -> bool:
        """Add a sample at once; the oldest that waits makes room for it.

        Returns:
            as `put`.
        """
        with self._inbox._lock:
            if len(self._samples) >= self._room:
                self._lose(self._samples.popleft())
                self.dropped += 1
            self._add(sample, None, live=True)
        return not self._inbox.stopped.is_set()

    def offer(self, sample: Sample, answered: Answered) -> bool:
        """Add a sample that somebody waits for.

        Returns:
            False when there is no room, or after `Inbox.stop`; then it was not added.
        """
        with self._inbox._lock:
            if len(self._samples) >= self._room or self._inbox.stopped.is_set():
                return False
            self._add(sample, answered)
            return True

    def _add(
        self,
        sample: Sample,
        answered: Answered | None,
        part: Part | None = None,
        live: bool = False,
    ) -> None:
        now = self._inbox._clock()
        if part is None:
            arrival = Arrival(self.stream, self._position, sample, self, now, answered, live)
            self._position += 1
        else:
            arrival = Arrival(
                part.stream, part.position, sample, self, now, last=part.last, once=part.once
            )
        self._samples.append(arrival)
        self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        inbox = self._inbox
        if self.waiting and not self._in_turn and self not in inbox._held:
            self._in_turn = True
            inbox._turns.append(self)
            inbox._arrived.notify()

    def _lose(self, arrival: Arrival) -> None:
        why = str(arrival.sample) if isinstance(arrival.sample, BadInput) else ""
        new = arrival.lost or Lost(arrival.position, arrival.position, 1, arrival.at, why)
        old = self._lost
        self._lost = new
        if old is not None:
            self._lost = Lost(
                min(old.first, new.first),
                max(old.last, new.last),
                old.count + new.count,
                min(old.at, new.at),
                new.why or old.why,
            )
        self._inbox._losing.add(self)

    def _take(self) -> Arrival:
        """The oldest sample, or before it one arrival that tells of all that were dropped."""
        if self._lost is None or (self._samples and not self._telling):
            return self._samples.popleft()
        lost, self._lost = self._lost, None
        self._inbox._losing.discard(self)
        problem = BadInput(
            f"dropped: {lost.count} samples from number {lost.first} could not be judged and "
            "stored in time, and a live stream cannot wait"
            + (f"; among them: {lost.why}" if lost.why else "")
        )
        return Arrival(self.stream, lost.last, problem, self, lost.at, live=True, lost=lost)
