"""A second bundle that judges what the first one has answered, and is shown to nobody."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from msgspec.structs import replace

from edgeclin.errors import BadInput, in_words
from edgeclin.health import ShadowHealth
from edgeclin.inbox import Sample
from edgeclin.offline_queue import OfflineQueue, Stored
from edgeclin.priority import give_way
from edgeclin.records import Result, State, Tier
from edgeclin.runtime import Runtime

log = logging.getLogger(__name__)

LINE = 8
"""Samples that may wait for the shadow; when there are more the oldest goes, and is counted."""
_END_S = 5.0
_Turn: TypeAlias = tuple[Stored, Result, np.ndarray]


class Shadow:
    """Judges samples a second time, in a thread that gives way, and stores its answers as bulk.

    It holds nothing up: it loads while the first bundle answers, leaves out what comes faster than
    it judges, and what goes wrong with it is told in its health alone. Use it as a context, which
    at its end lets it judge what waits, for 5 s at most.

    Args:
        load: opens and loads the second bundle.
        queue: of the first one's answers; a shadow's move no source on and ask for no opinion.
    """

    def __init__(self, load: Callable[[], Runtime], queue: OfflineQueue) -> None:
        self._load = load
        self._queue = queue
        self._health = ShadowHealth()
        self._turns: deque[_Turn] = deque()
        self._arrived = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, daemon=True)

    def show(self, stored: Stored, result: Result, sample: Sample) -> None:
        """Take in what was answered; what the first bundle rejected cannot be compared."""
        if result.rejected or not isinstance(sample, np.ndarray):
            return
        with self._arrived:
            now = self._health
            if now.beside != result.bundle:
                begun = ShadowHealth(now.bundle, now.engine, result.bundle, problem=now.problem)
                self._health = begun
            if len(self._turns) >= LINE:
                self._turns.popleft()
                self._health = replace(self._health, missed=self._health.missed + 1)
            self._turns.append((stored, result, sample))
            self._arrived.notify()

    def health(self) -> ShadowHealth:
        """How far the two agree; from any thread."""
        return self._health

    def __enter__(self) -> Shadow:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._arrived:
            self._ended = True
            self._arrived.notify()
        self._thread.join(_END_S)

    def _work(self) -> None:
        give_way()
        try:
            runtime = self._load()
        except Exception as exc:
            self._tell(f"it does not judge: {in_words(exc)}")
            return
        self._note(bundle=runtime.bundle.digest, engine=runtime.engine)
        while (turn := self._next()) is not None:
            try:
                self._judge(runtime, *turn)
                self._tell("; ".join(runtime.alarms))
            except Exception as exc:
                self._tell(in_words(exc))
        runtime.close()

    def _next(self) -> _Turn | None:
        with self._arrived:
            while not (self._turns or self._ended):
                self._arrived.wait()
            return self._turns.popleft() if self._turns else None

    def _judge(self, runtime: Runtime, stored: Stored, result: Result, sample: np.ndarray) -> None:
        try:
            own = runtime.predict(sample, result.source, result.position)
        except Exception as exc:  # one that the first bundle could judge
            own = runtime.reject(BadInput(in_words(exc)), result.source, result.position)
        own = replace(own, tier=Tier.BULK, audit=False, shadow_of=stored.id)
        self._compare(result, own)
        self._queue.put(own)

    def _compare(self, result: Result, own: Result) -> None:
        agreed = own.label == result.label
        sure = result.state is own.state is State.FINAL
        with self._arrived:
            now = self._health
            if now.beside != result.bundle:  # another one has taken over since
                return
            if own.rejected:
                self._note(engine=own.engine, unanswered=now.unanswered + 1)
                return
            self._note(
                engine=own.engine,
                compared=now.compared + 1,
                agreed=now.agreed + agreed,
                sure=now.sure + sure,
                sure_agreed=now.sure_agreed + (sure and agreed),
            )

    def _note(self, **changes: str | int) -> None:
        with self._arrived:
            self._health = replace(self._health, **changes)

    def _tell(self, problem: str) -> None:
        if problem and not self._health.problem:
            log.warning("the shadow bundle: %s", problem)
        self._note(problem=problem)
