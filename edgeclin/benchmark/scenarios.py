"""The three ways in which samples come: one after another, many streams at a rate, all at once."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from itertools import count

from edgeclin.bedside import Bedside
from edgeclin.benchmark.inputs import Inputs
from edgeclin.benchmark.storing import DEADLINE_S, Storing
from edgeclin.benchmark.taking import Limit, Rate, Taken, rate
from edgeclin.inbox import Inbox, Sample
from edgeclin.offline_queue import Stored
from edgeclin.records import Result
from edgeclin.runtime import Runtime

WARM_UP_S, WARM_UP_RUNS = 0.5, 10
BLOCKS = 50
"""Parts of an offline run, of which each gives a rate."""
_SLICE_S = 0.2
_SEED = 1


def warm_up(runtime: Runtime, inputs: Inputs) -> int:
    """Answer until caches, clocks and kernels are as at work; nothing of it is counted.

    Returns:
        how many samples that were: at least 10, for at least half a second.
    """
    began = time.monotonic()
    for number in count():
        if number >= WARM_UP_RUNS and time.monotonic() - began >= WARM_UP_S:
            return number
        runtime.predict(inputs[number])
    raise AssertionError


def single_stream(runtime: Runtime, inputs: Inputs, storing: Storing, limit: Limit) -> Taken:
    """One sample after another; the next one comes when the answer is stored."""
    taken, clock = Taken(), time.perf_counter_ns
    began = clock()
    for position in count():
        if limit.reached(position):
            break
        sample = inputs[position]
        start = clock()
        result = runtime.predict(sample, "benchmark", position)
        storing.put(result, sample)
        taken.add(result, 0.0, (clock() - start) / 1e6, storing.queue.last_ms)
    taken.seconds = (clock() - began) / 1e9
    return taken


def multi_stream(
    runtime: Runtime, inputs: Inputs, storing: Storing, limit: Limit, streams: int, rate_hz: float
) -> Taken:
    """Streams that deliver at a rate whatever becomes of it, through the loop of `edgeclin run`.

    Latency counts from the scheduled arrival, so that a sample which had to wait since others were
    slow says so. What a live stream drops since its line is full is unanswered.
    """
    taken = Taken()
    arrivals = Arrivals(inputs, limit, streams, rate_hz)
    bedside = Bedside(runtime, storing.queue, DEADLINE_S)

    def take_down(_: Stored, result: Result, __: Sample) -> None:
        total = 1e3 * (time.monotonic() - arrivals.due(result.source, result.position))
        if result.latency_ms is None:  # tells of what was dropped
            return
        late = 1e3 * arrivals.late(result.source, result.position)
        taken.add(result, late + result.latency_ms.queue, total, storing.queue.last_ms)

    began = time.monotonic()
    bedside.run([arrivals], take_down)
    taken.seconds = time.monotonic() - began
    taken.unanswered = arrivals.sent - len(taken.answer)
    return taken


class Arrivals:
    """A source: an open-loop schedule, which does not wait for answers.

    Streams begin at moments drawn within one interval (with a fixed seed), as monitors do.

    Attributes:
        sent: samples that were delivered.
    """

    def __init__(self, inputs: Inputs, limit: Limit, streams: int, rate_hz: float) -> None:
        self._inputs = inputs
        self._limit = limit
        self._interval = 1 / rate_hz
        draw = random.Random(_SEED)
        phases = [draw.uniform(0, self._interval) for _ in range(streams)]
        self._phases = {f"benchmark/{at}": phase for at, phase in enumerate(sorted(phases))}
        self._began = 0.0
        self._late: dict[tuple[str, int], float] = {}
        self.sent = 0

    def due(self, stream: str, position: int) -> float:
        """When a sample was to arrive, in monotonic seconds."""
        return self._began + self._phases[stream] + position * self._interval

    def late(self, stream: str, position: int) -> float:
        """Seconds by which it was late in coming; asked once."""
        return self._late.pop((stream, position))

    def deliver(self, inbox: Inbox) -> None:
        lines = {stream: inbox.line(stream) for stream in self._phases}
        self._began = time.monotonic()
        for position, stream in self._order():
            due = self.due(stream, position)
            if not self._wait(due):
                return
            self._late[stream, position] = max(0.0, time.monotonic() - due)
            lines[stream].push(self._inputs[self.sent])
            self.sent += 1

    def _order(self) -> Iterator[tuple[int, str]]:
        for position in count():
            for stream in self._phases:
                yield position, stream

    def _wait(self, due: float) -> bool:
        """Sleep until then; False when the run ends before."""
        while not self._limit.reached(self.sent):
            rest = due - time.monotonic()
            if rest <= 0:
                return True
            time.sleep(min(rest, _SLICE_S))
        return False


def offline(runtime: Runtime, inputs: Inputs, limit: Limit) -> Rate:
    """All samples are there at once, and only how many are answered in a time counts.

    Nothing is stored meanwhile. The run is cut into about 50 parts.
    """
    clock = time.perf_counter_ns
    least_ns = 1e9 * limit.seconds / BLOCKS if limit.samples is None else 0.0
    least = 1 if limit.samples is None else max(1, limit.samples // BLOCKS)
    rates: list[float] = []
    done = first = 0
    began = start = clock()
    while not limit.reached(done):
        runtime.predict(inputs[done], "benchmark", done)
        done += 1
        end = clock()
        if done - first >= least and end - start >= least_ns:
            rates.append((done - first) * 1e9 / (end - start))
            first, start = done, end
    seconds = (clock() - began) / 1e9
    return rate(rates, done, seconds)
