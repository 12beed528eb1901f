"""One benchmark from its first run to its report; what is stopped tells what it has."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from edgeclin.benchmark import fresh, machine, scenarios
from edgeclin.benchmark.bare_engine import BARE
from edgeclin.benchmark.comparison import (
    Comparison,
    bare_call,
    compare,
    engine_input,
    in_turn,
)
from edgeclin.benchmark.cost import Cost, cost
from edgeclin.benchmark.energy import Energy, Meter, energy, open_meter
from edgeclin.benchmark.inputs import Inputs, load_inputs
from edgeclin.benchmark.operators import Profiled, profile_operators
from edgeclin.benchmark.opinions import Asking, RoundTrips, broker_of
from edgeclin.benchmark.report import Report, Scenario
from edgeclin.benchmark.storing import Storing
from edgeclin.benchmark.taking import Limit, Progress, Rate, Taken, collections
from edgeclin.bundle import Bundle
from edgeclin.config import BrokerConfig, is_loopback, require_private
from edgeclin.errors import EngineUnavailable
from edgeclin.executable import executable
from edgeclin.priority import short_collections
from edgeclin.runtime import Runtime

Name: TypeAlias = Literal["single-stream", "multi-stream", "offline"]
_IDLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        seconds, samples: of each scenario; samples go before where they are given.
        deadline_ms: by default the latency budget of the bundle's profile.
        against: `bare`, or the URL of a broker.
        trust, allow_unsigned: how fresh processes open the bundle.
    """

    scenarios: Sequence[Name]
    streams: int
    rate_hz: float
    seconds: float
    samples: int | None
    threads: int
    deadline_ms: float | None
    data: Path | None
    queue: Path | None
    against: Sequence[str]
    trust: Sequence[Path]
    allow_unsigned: bool
    usd_per_kwh: float
    years: float
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    plaintext: bool = False

    def brokers(self) -> list[tuple[str, BrokerConfig]]:
        """The broker to ask for opinions, if any.

        Raises:
            EdgeclinError: an `against` is neither `bare` nor the URL of a broker, or the link to
                that would not be TLS.
        """
        files = self.ca, self.certificate, self.key
        found = [
            (url, broker_of(url, *files, self.plaintext)) for url in self.against if url != "bare"
        ]
        for _, broker in found:
            require_private(broker)
        return found


@dataclass(slots=True)
class Benchmark:
    """One run of a plan.

    Args:
        stop: set from outside to end it early.
        say: told each part as it begins; gives what to tell the part's progress.

    Attributes:
        latencies: what was drawn from, in milliseconds: scenario and series to values.
    """

    bundle: Bundle
    plan: Plan
    stop: threading.Event
    say: Callable[[str], Progress]
    latencies: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    _meter: Meter | None = None
    _no_meter: str = ""
    _idle_watts: float = 0.0

    def run(self) -> Report:
        """Measure all that the plan asks for.

        Raises:
            EdgeclinError: the samples cannot be judged, or nobody answers at a broker.
        """
        plan = self.plan
        brokers = plan.brokers()
        here = machine.look()
        runtime = Runtime(self.bundle, threads=plan.threads)
        inputs = load_inputs(runtime, plan.data)
        trips = None
        for url, broker in brokers:  # first, for nobody may answer there
            trips = self._round_trips(url, broker, inputs)
        self.say("warming up")
        warm_up = scenarios.warm_up(runtime, inputs)
        before = machine.Moment.now()
        with short_collections(), Storing(plan.queue) as storing, self._metered():
            found = tuple(self._scenarios(runtime, inputs, storing))
            where = f"{machine.filesystem(storing.folder)} at {storing.folder.parent}"
        comparison = self._comparison(runtime, inputs) if "bare" in plan.against else None
        starts = self._starts(runtime, inputs)
        operators = self._operators(runtime, inputs)
        after = machine.Moment.now()
        manifest = self.bundle.manifest
        report = Report(
            bundle=f"{manifest.name} {manifest.version}",
            digest=self.bundle.digest,
            unsigned=self.bundle.signed_by is None,
            profile=manifest.profile.name,
            engine=runtime.engine,
            degraded=runtime.degraded,
            threads=plan.threads,
            made_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            inputs=inputs.origin,
            rejected=inputs.rejected,
            warm_up=warm_up,
            queue=where,
            machine=here,
            scenarios=found,
            starts=tuple(starts),
            comparison=comparison,
            round_trips=trips,
            operators=operators,
            cost=self._cost(found, here.architecture, runtime.degraded),
            warnings=(*machine.warnings(here, before, after), *_cautions(found, where)),
            stopped=self.stop.is_set(),
        )
        runtime.close()
        return report

    def _scenarios(self, runtime: Runtime, inputs: Inputs, storing: Storing) -> Iterator[Scenario]:
        plan = self.plan
        for name in plan.scenarios:
            if self.stop.is_set():
                return
            limit = self._limit(name)
            started, began = self._joules(), time.monotonic()
            rate: Rate | None = None
            taken = Taken()
            with collections() as counted:
                if name == "single-stream":
                    taken = scenarios.single_stream(runtime, inputs, storing, limit)
                elif name == "multi-stream":
                    taken = scenarios.multi_stream(
                        runtime, inputs, storing, limit, plan.streams, plan.rate_hz
                    )
                else:
                    rate = scenarios.offline(runtime, inputs, limit)
            spent = time.monotonic() - began
            self.latencies[name, "answered"] = taken.answer
            self.latencies[name, "answered and stored"] = taken.stored
            deadline = plan.deadline_ms or self.bundle.manifest.profile.latency_budget_ms
            late = sum(value > deadline for value in taken.stored) + taken.unanswered
            samples = len(taken.answer) + taken.unanswered if rate is None else rate.samples
            yield Scenario(
                name=name,
                setting=self._setting(name),
                samples=samples,
                seconds=spent,
                series=tuple(taken.series()),
                steps=taken.means(),
                rate=rate,
                deadline_ms=deadline,
                missed=late if rate is None else None,
                collections=counted(),
                energy=self._energy(started, spent, samples - taken.unanswered),
            )

    def _setting(self, name: Name) -> str:
        if name == "single-stream":
            return "one sample after another, each answered and stored"
        if name == "offline":
            return "all samples at once, answered and not stored"
        return (
            f"{self.plan.streams} streams of {self.plan.rate_hz:g} samples/s, whatever becomes of "
            "them; latency from the scheduled arrival"
        )

    def _limit(self, what: str) -> Limit:
        progress = self.say(what)

        def told(done: float) -> None:
            progress(done)
            if self._meter is not None:
                self._meter.joules()

        return Limit(self.plan.seconds, self.plan.samples, self.stop, told)

    @contextmanager
    def _metered(self) -> Iterator[None]:
        try:
            self._meter = open_meter()
        except EngineUnavailable as exc:
            self._no_meter = str(exc)
            yield
            return
        try:
            self.say("idle power")
            start = self._meter.joules()
            self.stop.wait(_IDLE_S)
            self._idle_watts = (self._meter.joules() - start) / _IDLE_S
            yield
        finally:
            self._meter.close()
            self._meter = None

    def _joules(self) -> float:
        return 0.0 if self._meter is None else self._meter.joules()

    def _energy(self, started: float, seconds: float, count: int) -> Energy | str:
        if self._meter is None:
            return self._no_meter
        used = self._joules() - started
        return energy(self._meter.name, used, seconds, self._idle_watts, count)

    def _comparison(self, runtime: Runtime, inputs: Inputs) -> Comparison | str:
        try:
            bare = bare_call(runtime, inputs[0], self.plan.threads)
        except EngineUnavailable as exc:
            return str(exc)
        limit = self._limit("against the bare engine")
        sides = in_turn(partial(runtime.predict, inputs[0]), bare, limit)
        self.latencies["in turn", "answered"] = list(np.ravel(sides.ours))
        self.latencies["in turn", "bare engine"] = list(np.ravel(sides.bare))
        return compare(sides)

    def _round_trips(self, url: str, broker: BrokerConfig, inputs: Inputs) -> RoundTrips | None:
        from edgeclin.transport.mqtt import MQTTTransport

        if self.stop.is_set():
            return None
        asking = Asking(MQTTTransport(broker, client_id=f"benchmark.{time.monotonic_ns()}"), url)
        try:
            limit = self._limit(f"second opinions from {url}")
            trips, latencies = asking.run(
                inputs, self.bundle.digest, limit, is_loopback(broker.host)
            )
        finally:
            asking.close()
        self.latencies["over MQTT", "second opinion"] = latencies
        return trips

    def _starts(self, runtime: Runtime, inputs: Inputs) -> list[fresh.Start]:
        if self.stop.is_set():
            return []
        plan, chosen = self.plan, executable(self.bundle)
        with tempfile.TemporaryDirectory(prefix="edgeclin-benchmark-") as name:
            folder = Path(name)
            raw, ready, model = folder / "raw.npy", folder / "ready.npy", folder / "engine"
            np.save(raw, inputs[0])
            commands = {
                "edgeclin": fresh.ours(
                    self.bundle.path, raw, plan.threads, plan.trust, plan.allow_unsigned
                )
            }
            if chosen.engine.backend in BARE:
                np.save(ready, engine_input(runtime, inputs[0]))
                model.write_bytes(chosen.model)
                commands["bare engine"] = fresh.bare(
                    chosen.engine.backend, model, ready, plan.threads
                )
            return fresh.starts(commands, self._limit("fresh processes"))

    def _operators(self, runtime: Runtime, inputs: Inputs) -> Profiled | str:
        if self.stop.is_set():
            return "stopped before it"
        self.say("operators")
        chosen = executable(self.bundle)
        try:
            return profile_operators(
                chosen.engine.backend,
                chosen.model,
                engine_input(runtime, inputs[0]),
                self.plan.threads,
            )
        except EngineUnavailable as exc:
            return str(exc)

    def _cost(self, found: Sequence[Scenario], architecture: str, degraded: str) -> Cost | str:
        if degraded:
            return f"not computed: another engine than the device's answered ({degraded})"
        rates = [scenario.rate.value for scenario in found if scenario.rate is not None]
        return cost(
            self.bundle.manifest.profile,
            architecture,
            rates[0] if rates else 0.0,
            self.plan.usd_per_kwh,
            self.plan.years,
        )


def _cautions(found: Sequence[Scenario], queue: str) -> Iterator[str]:
    if queue.startswith(("tmpfs", "ramfs")):
        yield f"answers were stored on {queue}: no disk is in these figures (name one with --queue)"
    for scenario in found:
        for series in scenario.series:
            latency = series.latency
            if not latency.steady:
                yield (
                    f"{scenario.name}, {series.name}: the medians of both halves are over 5 % "
                    "apart, so that the intervals are too narrow"
                )
            if latency.unanswered:
                yield (
                    f"{scenario.name}: {latency.unanswered:,} of {latency.n:,} samples were "
                    "dropped: they came faster than they were judged"
                )
                break
