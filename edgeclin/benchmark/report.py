"""The figures of a benchmark, as records."""

from __future__ import annotations

from edgeclin.benchmark.comparison import Comparison
from edgeclin.benchmark.cost import Cost
from edgeclin.benchmark.energy import Energy
from edgeclin.benchmark.fresh import Start
from edgeclin.benchmark.machine import Machine
from edgeclin.benchmark.operators import Profiled
from edgeclin.benchmark.opinions import RoundTrips
from edgeclin.benchmark.percentiles import LEVEL, Distribution
from edgeclin.benchmark.taking import Collections, Rate, Series, Step
from edgeclin.records import Record


class Scenario(Record, frozen=True):
    """What one scenario gave.

    Attributes:
        setting: what was asked for, in words.
        series: latencies, where it has any.
        steps: where the time of a sample goes.
        rate: samples a second, of the scenario offline.
        deadline_ms, missed: within which an answer must be stored, and how many were not, those
            among them that were never taken.
        energy: or why there is none.
    """

    name: str
    setting: str
    samples: int
    seconds: float
    series: tuple[Series, ...]
    steps: tuple[Step, ...]
    rate: Rate | None
    deadline_ms: float
    missed: int | None
    collections: Collections
    energy: Energy | str


class Report(Record, frozen=True):
    """One benchmark of one bundle on one machine.

    Attributes:
        level: two-sided, of every interval.
        warm_up: runs before the scenarios that are not counted.
        queue: where answers were stored.
        comparison, round_trips: what `--against` asked for.
        stopped: whether it was ended before its time.
    """

    bundle: str
    digest: str
    unsigned: bool
    profile: str
    engine: str
    degraded: str
    threads: int
    made_at: str
    inputs: str
    rejected: int
    warm_up: int
    queue: str
    machine: Machine
    scenarios: tuple[Scenario, ...]
    starts: tuple[Start, ...]
    comparison: Comparison | str | None
    round_trips: RoundTrips | None
    operators: Profiled | str
    cost: Cost | str
    warnings: tuple[str, ...]
    stopped: bool
    level: float = LEVEL

    def latencies(self) -> list[tuple[str, str, Distribution]]:
        """Every latency for one table: where, what, and its distribution."""
        rows = [
            (scenario.name, series.name, series.latency)
            for scenario in self.scenarios
            for series in scenario.series
        ]
        if isinstance(self.comparison, Comparison):
            rows.append(("in turn", "answered", self.comparison.edgeclin))
            rows.append(("in turn", "bare engine", self.comparison.bare))
        if self.round_trips is not None:
            rows.append(("over MQTT", "second opinion", self.round_trips.latency))
        return rows

    def sentences(self) -> list[str]:
        """Every other figure, in words."""
        said: list[str] = []
        for scenario in self.scenarios:
            said += _of_scenario(scenario)
        if isinstance(self.comparison, Comparison):
            said.append(_of_comparison(self.comparison))
        elif self.comparison is not None:
            said.append(f"bare engine: not measured: {self.comparison}")
        if self.round_trips is not None:
            said.append(_of_round_trips(self.round_trips))
        said += [_of_start(start) for start in self.starts]
        said.append(_of_cost(self.cost))
        if isinstance(self.operators, str):
            said.append(f"operators: not available: {self.operators}")
        return said


def _of_scenario(scenario: Scenario) -> list[str]:
    said = []
    if scenario.rate is not None:
        rate = scenario.rate
        interval = (
            f" [{rate.low:,.1f}, {rate.high:,.1f}]"
            if rate.low is not None and rate.high is not None
            else " (too few parts for an interval)"
        )
        said.append(
            f"{scenario.name}: {rate.value:,.1f} samples/s{interval}, of {rate.samples:,} in "
            f"{rate.seconds:.1f} s"
        )
    if scenario.missed is not None:
        said.append(
            f"{scenario.name}: {scenario.missed:,} of {scenario.samples:,} missed the deadline of "
            f"{scenario.deadline_ms:g} ms"
        )
    energy = scenario.energy
    if isinstance(energy, str):
        said.append(f"{scenario.name}: energy not measured: {energy}")
    elif energy.each_mj is not None and energy.above_idle_mj is not None:
        said.append(
            f"{scenario.name}: {energy.each_mj:.3g} mJ an inference, {energy.above_idle_mj:.3g} of "
            f"it above {energy.idle_watts:.3g} W when idle, by {energy.meter}"
        )
    return said


def _of_comparison(comparison: Comparison) -> str:
    ratio, above = comparison.ratio, comparison.above_us
    if ratio is None or above is None:
        return f"bare engine: too few blocks ({comparison.blocks}) for a ratio"
    return (
        f"edgeclin takes {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] of the bare "
        f"engine's time, {above.value:.1f} us more [{above.low:.1f}, {above.high:.1f}]"
    )


def _of_round_trips(trips: RoundTrips) -> str:
    where = ", over loopback: no network is in it" if trips.loopback else ""
    return (
        f"second opinions from {trips.url}{where}: {trips.up_bytes:,.0f} bytes up and "
        f"{trips.down_bytes:,.0f} down a question (of a sample of {trips.sample_bytes:,}), "
        f"{trips.up_kbit_s:,.1f} and {trips.down_kbit_s:,.1f} kbit/s as asked here"
    )


def _of_start(start: Start) -> str:
    first = start.first.at(0.5)
    return (
        f"first answer, {start.name}, fresh process: median {first.said} ms of {start.first.n}; "
        f"resident memory {start.rss_mb.median:.1f} MB [{start.rss_mb.low:.1f}, "
        f"{start.rss_mb.high:.1f}]"
    )


def _of_cost(cost: Cost | str) -> str:
    if isinstance(cost, str):
        return f"cost of 10,000 inferences: {cost}"
    parts = [
        f"{value:.2g} USD of {what}"
        for what, value in (("electricity", cost.power_usd), ("the device", cost.device_usd))
        if value is not None
    ]
    return f"cost of 10,000 inferences, computed: {' and '.join(parts)} ({cost.basis})"
