"""The loop of `edgeclin run`: sample in, result out, stored before the next one is taken."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from edgeclin.errors import BadInput, EngineFailed, EngineOut, QueueFull
from edgeclin.flash import written
from edgeclin.health import RunHealth
from edgeclin.inbox import Arrival, Inbox, Sample
from edgeclin.offline_queue import OfflineQueue, Stored
from edgeclin.records import Result, Tier
from edgeclin.runtime import Runtime
from edgeclin.shadow import Shadow
from edgeclin.sources import Source

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_KEPT = 64
"""Answers that nobody waits for any more and that find no room; more are lost, and told."""
_ENGINE_S = 60.0
"""How long a stream that can wait does so for an engine that is started again."""
_TELL_AGAIN_S = 10.0
_NEWEST, _SOME_REJECTED, _MANY_REJECTED = 100, 10, 0.2
"""An alarm from so many and this share on of the newest samples: drift counts only what can be
answered."""
OnResult: TypeAlias = Callable[[Stored, Result, Sample], None]
"""Told each answer once it is stored, with the sample that it is about."""


class Bedside:
    """Judges what sources deliver and puts every answer into the queue.

    A stream is held with an answer that finds no room there, and with a sample for which no engine
    is ready; others go on meanwhile, for urgent answers have room of their own. A live stream
    cannot wait: an answer of it that finds no room is lost and counted, and without an engine its
    samples are rejected.

    Args:
        deadline_s: powered-on seconds that a provisional answer waits for an opinion.
        answer_s: by default the latency budget of the profile of the bundle that answers.
        shadow: judges everything a second time, for comparison.
        problems: each tells what else somebody must look at, in a sentence, or nothing.
        clock: seconds since 1970, for what health says.

    Attributes:
        inbox: what waits to be judged.
        busy_since: monotonic seconds at which the sample in hand was taken, or None.
        late: answers that were stored after `answer_s`.
        refused: why the bundle that stands ready does not take over; empty when none does.
        full: why no answer can be stored now; empty when they can. It stays until an answer that
            is not urgent is stored, or `find_room` says that there is room.
        full_at: monotonic seconds of the last answer that found no room.
    """

    def __init__(
        self,
        runtime: Runtime,
        queue: OfflineQueue,
        deadline_s: float,
        answer_s: float | None = None,
        shadow: Shadow | None = None,
        problems: Sequence[Callable[[], str]] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._runtime = runtime
        self._hand = threading.Lock()
        self._queue = queue
        self._deadline_s = deadline_s
        self._answer_s = answer_s
        self.inbox = Inbox(self._start)
        self.busy_since: float | None = None
        self.late = 0
        self._shadow = shadow
        self._problems = problems
        self._clock = clock
        self._began = time.monotonic()
        self._states: Counter[str] = Counter()
        self._rejected = self._urgent = 0
        self._newest: deque[bool] = deque(maxlen=_NEWEST)
        self.refused = self.full = ""
        self.full_at = self._full_told = 0.0
        self._told: dict[str, tuple[float, int]] = {}
        self._held: list[tuple[Arrival, Result | None]] = []
        self._next_try = 0.0

    def run(
        self,
        sources: Iterable[Source],
        on_result: OnResult,
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        """Judge until all sources have ended or the inbox is stopped.

        Args:
            rest: called before each sample is taken; where all sources can wait it may wait for
                somebody who is slower.

        Raises:
            EdgeclinError: a source ended so.
        """
        self.inbox.feed(*sources)
        while True:
            self._try_held(on_result)
            rest()
            try:
                arrival = self.inbox.take(_RETRY_S if self.inbox.retries else None)
            except TimeoutError:
                continue
            if arrival is None:
                return
            self._answer(arrival, None, on_result)

    @property
    def runtime(self) -> Runtime:
        """What answers now."""
        return self._runtime

    def find_room(self) -> None:
        """Take it that answers can be stored again, though none was: who asks whether they can
        before asking for one would else never do."""
        if not self._no_room:
            self.full = ""

    @property
    def _no_room(self) -> bool:
        """Whether an answer waits for room; others wait for an engine."""
        return any(result is not None for _, result in self._held)

    @property
    def answer_s(self) -> float:
        """Seconds from a sample's arrival within which its answer must be stored."""
        if self._answer_s is not None:
            return self._answer_s
        return self._runtime.bundle.manifest.profile.latency_budget_ms / 1000

    def replace(self, runtime: Runtime) -> Runtime:
        """Let another runtime answer from the next sample on, once the one in hand is answered.

        Returns:
            the one that answered so far, and does no more.
        """
        with self._hand:
            old, self._runtime = self._runtime, runtime
            self._newest.clear()
        return old

    def _start(self, stream: str) -> int:
        """Where a stream goes on."""
        runtime = self._runtime
        return self._queue.next_position(stream, runtime.bundle.digest, runtime.preprocess.cut)

    def health(self) -> RunHealth:
        """How the loop is now; from any thread."""
        runtime, since, now = self._runtime, self.busy_since, time.monotonic()
        drift = runtime.drift.report()
        alarms = [*runtime.alarms]
        alarms += [problem for problem in (self.full, self.refused) if problem]
        alarms += [f"a source has failed: {failure}" for failure in self.inbox.failures]
        out = dict(self.inbox.out)
        alarms += [f"{name}: {why}: nothing comes from it now" for name, why in out.items()]
        alarms += [f"{name} has ended: nothing comes from it any more" for name in self.inbox.ended]
        alarms += [problem for tell in self._problems if (problem := tell())]
        newest = list(self._newest)
        if sum(newest) >= max(_SOME_REJECTED, _MANY_REJECTED * len(newest)):
            alarms.append(f"{sum(newest)} of the newest {len(newest)} samples were rejected")
        if drift is not None and drift.alarm:
            alarms.append("what is answered has drifted far from what was validated")
        return RunHealth(
            made_at=self._clock(),
            up_s=now - self._began,
            bundle=runtime.bundle.digest,
            engine=runtime.engine,
            degraded=runtime.degraded,
            states=dict(self._states),
            rejected=self._rejected,
            urgent=self._urgent,
            late=self.late,
            dropped=sum(self.inbox.dropped.values()),
            waiting=self.inbox.waiting,
            restarts=runtime.restarts,
            busy_s=0.0 if since is None else now - since,
            drift=drift,
            alarms=tuple(alarms),
            shadow=self._shadow.health() if self._shadow is not None else None,
            written=written(),
        )

    def _count(self, result: Result) -> None:
        self._states[result.state.value] += 1
        self._rejected += result.rejected
        self._newest.append(result.rejected)
        self._urgent += result.tier is Tier.URGENT

    def _try_held(self, on_result: OnResult) -> None:
        """Try once more what is held, now and then."""
        if not self._held or time.monotonic() < self._next_try:
            return
        held, self._held = self._held, []
        for arrival, result in held:
            self.inbox.release(arrival)
            self._answer(arrival, result, on_result)
        self._next_try = time.monotonic() + _RETRY_S

    def _answer(self, arrival: Arrival, result: Result | None, on_result: OnResult) -> bool:
        """Judge one sample, unless there is a result, and store that.

        Returns:
            whether it is stored, and so done with; else its stream may be held.
        """
        self.busy_since = time.monotonic()
        if result is None:
            with self._hand:
                result = self._judge(arrival)
        stored = None if result is None else self._put(result, arrival)
        self.late += stored is not None and time.monotonic() - arrival.at > self.answer_s
        if result is None or stored is None:
            self.busy_since = None
            self._put_off(arrival, result)
            return False
        self._count(result)
        if arrival.answered is not None:
            arrival.answered(stored, result)
        if self._shadow is not None:
            self._shadow.show(stored, result, arrival.sample)
        on_result(stored, result, arrival.sample)
        self.busy_since = None
        return True

    def _put_off(self, arrival: Arrival, result: Result | None) -> None:
        """Let go of a sample whose answer cannot be stored or made now, or hold its stream."""
        if result is not None and arrival.live:
            self.inbox.lose(arrival)
            return
        if result is not None and arrival.answered is not None:
            if arrival.answered(None, result):
                return
            if self.inbox.kept >= _KEPT:
                self.inbox.lose(arrival)
                return
        self.inbox.hold(arrival)
        self._held.append((arrival, result))

    def _judge(self, arrival: Arrival) -> Result | None:
        """The result; None where the sample waits for an engine."""
        waited_ms = round((time.monotonic() - arrival.at) * 1000, 3)
        try:
            if isinstance(arrival.sample, BadInput):
                raise arrival.sample
            result = self._runtime.predict(
                arrival.sample, arrival.stream, arrival.position, waited_ms
            )
        except (BadInput, EngineFailed) as problem:
            waits = not arrival.live and arrival.answered is None
            if waits and isinstance(problem, EngineOut) and problem.out_s < _ENGINE_S:
                return None
            self._tell(arrival, problem)
            return self._runtime.reject(problem, arrival.stream, arrival.position)
        return result

    def _tell(self, arrival: Arrival, problem: BadInput | EngineFailed) -> None:
        """Log a rejection, one a line every `_TELL_AGAIN_S`: a lead that is off stays off."""
        now, line = time.monotonic(), arrival.line.stream
        due, untold = self._told.get(line, (now, 0))
        if now < due:
            self._told[line] = due, untold + 1
            return
        self._told[line] = now + _TELL_AGAIN_S, 0
        more = f" (and {untold} before it, which were not logged)" if untold else ""
        log.warning(
            "%s: sample %d is rejected: %s%s", arrival.stream, arrival.position, problem, more
        )

    def _put(self, result: Result, arrival: Arrival) -> Stored | None:
        """Store a result; None when there is no room for it."""
        sample = arrival.sample if isinstance(arrival.sample, np.ndarray) else None
        cut = self._runtime.preprocess.cut if arrival.once else ""
        try:
            stored = self._queue.put(result, sample, self._deadline_s, last=arrival.last, cut=cut)
        except QueueFull as exc:
            now = time.monotonic()
            if now >= self._full_told:
                self._full_told = now + _TELL_AGAIN_S
                log.error("ALARM: %s", exc)
            self.full, self.full_at = str(exc), now
            return None
        if result.tier is not Tier.URGENT:  # which have room of their own
            self.find_room()
        return stored
