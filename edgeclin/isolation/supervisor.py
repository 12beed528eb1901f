"""Keeps one engine running: in a process that is started again whenever it fails."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf

import numpy as np

from edgeclin.backends.base import Backend, TensorSpec
from edgeclin.errors import (
    EdgeclinError,
    EngineFailed,
    EngineOut,
    EngineUnavailable,
    SelfTestFailed,
)
from edgeclin.isolation.process import LOAD_S, EngineProcess
from edgeclin.manifest import Difference

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_IDLE_S = 30.0
"""An engine that nobody asked for so long is tested: the twin that hangs is else found out by the
sample that needs it."""
_FIRST_PAUSE_S = 1.0
_LIES = 1 << 16
"""One that lies is not tried soon, as if it had failed so often."""
_NO_NUMBER = "the engine's outputs are not finite"
_NOT_FINITE = 3
"""Answers in a row that are no numbers: one may be the sample's fault, so many are the engine's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine may take, and how often it is tried.

    Attributes:
        deadline_s: for one inference.
        memory_mb: of its process.
        restart_most_s: upper bound of the pause before a restart.
    """

    deadline_s: float
    memory_mb: int
    restart_most_s: float


class _InTurn:
    """An engine's process as a backend that others may ask between two samples.

    Args:
        asking: held for each sample alone.
        failed: told why no answer came, before another sample could wait for one in vain.
    """

    def __init__(
        self, process: EngineProcess, asking: threading.Lock, failed: Callable[[str], None]
    ) -> None:
        self.input, self.output, self.version = process.input, process.output, process.version
        self.place = process.place
        self._process, self._asking, self._failed = process, asking, failed

    def run(self, sample: np.ndarray | None) -> np.ndarray:
        """As `Backend.run`."""
        with self._asking:
            try:
                return self._process.run(sample)
            except EngineFailed as exc:
                self._failed(str(exc))
                raise

    def close(self) -> None:
        """It is not this one's to end."""


class Supervisor:
    """One engine; a thread of its own starts, proves and watches it, so that nobody waits for that.

    That thread lives until `close`, as the engine's process ends with it.

    Args:
        name: for the log.
        start: makes the process.
        prove: tests what was started; raises SelfTestFailed.
        draw: a number in [0, 1) that spreads the pauses.

    Attributes:
        tried: set when the first start has come to an end.
        ready: whether it would answer now.
        input, output, version: of the engine that was ready last.
        off: how far its answers were from the golden ones.
        problem: why the last start failed, or None.
        why: why it is out; empty when it is not.
        restarts: since the first start.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], EngineProcess],
        prove: Callable[[Backend], Difference],
        limits: Limits,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._name, self._start, self._prove = name, start, prove
        self._limits, self._draw = limits, draw
        self.tried = threading.Event()
        self.ready = False
        self.input = self.output = TensorSpec("", (), "float32")
        self.version = ""
        self.off = Difference(inf, inf)
        self.problem: EdgeclinError | None = None
        self.why = "it has not started yet"
        self.restarts = 0
        self._process: EngineProcess | None = None
        self._asking = threading.Lock()
        self._moved = threading.Event()
        self._closed = threading.Event()
        self._next_at = 0.0
        self._out_at = time.monotonic()
        self._not_finite = 0
        self._asked_at = 0.0
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def run(self, sample: np.ndarray) -> np.ndarray:
        """As `Backend.run`, within the deadline and finite.

        Raises:
            EngineOut: it is out already.
            EngineFailed: it goes out with this sample, or its answer is not finite.
        """
        with self._asking:
            if not self.ready or self._process is None:
                raise EngineOut(self.why, time.monotonic() - self._out_at)
            self._asked_at = time.monotonic()
            try:
                outputs = self._process.run(sample)
            except EngineFailed as exc:
                self._fail(str(exc))
                raise EngineFailed(self.why) from exc
            if np.isfinite(outputs).all():
                self._not_finite = 0
                return outputs
            self._not_finite += 1
            if self._not_finite == _NOT_FINITE:
                self._fail(_NO_NUMBER)
            raise EngineFailed(_NO_NUMBER)

    def test(self) -> Difference:
        """Prove the engine that is ready once more, in between the samples of whoever asks it.

        Raises:
            SelfTestFailed: it lies, and is out.
            EngineFailed: it is out, or goes out.
        """
        process = self._process
        if not self.ready or process is None:
            raise EngineFailed(self.why)
        self._asked_at = time.monotonic()
        try:
            return self._prove(_InTurn(process, self._asking, partial(self._fail_of, process)))
        except EdgeclinError as exc:
            with self._asking:
                if process is self._process and self.ready:
                    self.problem = exc
                    self._fail(str(exc))
            raise

    @property
    def next_s(self) -> float:
        """Seconds until the next attempt to start it; 0 while one is made."""
        return max(0.0, self._next_at - time.monotonic())

    def close(self) -> None:
        """End the engine's process."""
        self._closed.set()
        self._moved.set()
        process = self._process
        if process is not None:
            process.kill()
        self._thread.join()

    def _keep(self) -> None:
        failures = 0
        while True:
            self.problem = self._launch()
            self.tried.set()
            since = time.monotonic()
            self._watch()
            if time.monotonic() - since > self._limits.restart_most_s:
                failures = 0
            self._end()
            failures += 1
            self._pause(failures)
            if self._closed.is_set():
                return
            self.restarts += 1

    def _launch(self) -> EdgeclinError | None:
        try:
            self._process = process = self._start()
            if self._closed.is_set():  # and `close` may not have seen the process
                raise EngineUnavailable("the engine is not wanted any more")
            process.load(LOAD_S, self._limits.memory_mb)
            process.allow(self._limits.deadline_s)
            self.off = self._prove(process)
        except EdgeclinError as exc:
            problem = exc
        except Exception as exc:  # a thread that ended would leave the engine out for good
            log.exception("%s could not be started", self._name)
            problem = EngineUnavailable(f"the engine could not be started: {exc}")
        else:
            self.input, self.output, self.version = process.input, process.output, process.version
            self._not_finite = 0
            self._asked_at = time.monotonic()
            self._moved.clear()
            self.why, self.ready = "", True
            if self.restarts:
                again = "restart" if self.restarts == 1 else "restarts"
                log.warning("%s answers again after %d %s", self._name, self.restarts, again)
            return None
        self.why = str(problem)
        return problem

    def _watch(self) -> None:
        """Until it fails."""
        while self.ready and not self._closed.is_set():
            try:
                if self._process is not None:
                    self._process.check(self._limits.memory_mb)
            except EngineFailed as exc:
                self._fail(str(exc))
            if time.monotonic() - self._asked_at > _IDLE_S:
                self._test_idle()
            self._moved.wait(_LOOK_S)

    def _test_idle(self) -> None:
        try:
            self.test()
        except EdgeclinError:  # it is out now
            pass
        except Exception as exc:  # a thread that ended would leave the engine unwatched
            log.exception("%s could not be tested", self._name)
            self._fail(f"the engine could not be tested: {exc}")

    def _fail_of(self, process: EngineProcess, why: str) -> None:
        if process is self._process:
            self._fail(why)

    def _fail(self, why: str) -> None:
        if self.ready:
            self._out_at = time.monotonic()
            self.why, self.ready = why, False
            self._moved.set()

    def _end(self) -> None:
        """Wait until the process has ended: another could not have its device before."""
        self.ready, process = False, self._process
        if process is None:
            return
        process.kill()
        with self._asking:
            process.close()
        self._process = None
        while not process.ended(_LOOK_S) and not self._closed.is_set():
            held = f"; process {process.pid} does not end: a driver holds it"
            self.why = self.why.removesuffix(held) + held

    def _pause(self, failures: int) -> None:
        if isinstance(self.problem, SelfTestFailed):
            failures = _LIES
        pause = pause_s(failures, self._limits.restart_most_s, self._draw())
        if not self._closed.is_set():
            log.warning("%s is out: %s; next try in %.1f s", self._name, self.why, pause)
        self._next_at = time.monotonic() + pause
        self._closed.wait(pause)


def pause_s(failures: int, most_s: float, draw: float) -> float:
    """Seconds until the next start: twice as long after each failure, up to a bound.

    Args:
        draw: in [0, 1); the pause is from half of that to all of it, so that what shares a cause
            does not come back at one moment.
    """
    bound = min(most_s, _FIRST_PAUSE_S * 2.0 ** min(failures - 1, 32))
    return bound * (1 + draw) / 2
